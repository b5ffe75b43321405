"""The same file in a foreign runtime: ONNX in OpenVINO, TFLite in tflite-runtime.

    python benchmarks/compress.py         # first: it writes the files
    python benchmarks/foreign.py [--files runs/compress] [--images 1000]

Each foreign runtime has an environment of its own under --work, made by pip. For every file:
share of test images with the same top-1 as in ONNX Runtime or LiteRT, and the largest difference of
an output, as a share of the largest. Writes benchmarks/results/foreign.json.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
from compress import CASES
from results_file import write_results

from edgenas.artifact import Artifact
from edgenas.device import load_device
from edgenas.session import predict
from edgenas.task import load_task

OPENVINO = """
import sys, numpy as np, openvino as ov
# else it computes in bf16 where the CPU has that
model = ov.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
x = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([model(x[i : i + 1])[0] for i in range(len(x))]))
"""
TFLITE = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter
it = Interpreter(sys.argv[1], num_threads=1)
it.allocate_tensors()
begin, end = it.get_input_details()[0], it.get_output_details()[0]
out = []
for x in np.load(sys.argv[2]).transpose(0, 2, 3, 1)[:, None]:
    if begin["dtype"] == np.int8:
        scale, zero = begin["quantization"]
        x = np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8)
    it.set_tensor(begin["index"], np.ascontiguousarray(x))
    it.invoke()
    y = it.get_tensor(end["index"]).astype(np.float32)
    if end["dtype"] == np.int8:
        scale, zero = end["quantization"]
        y = (y - zero) * scale
    out.append(y)
np.save(sys.argv[3], np.concatenate(out))
"""
FOREIGN = {
    "onnx": ("cpu-onnxruntime", "openvino", ("openvino==2026.4.1",), OPENVINO),
    "tflite": (
        "cpu-litert", "tflite-runtime", ("tflite-runtime==2.14.0", "numpy<2"), TFLITE,
    ),
}  # fmt: skip


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """A Python that has ``packages``."""
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "whole").touch()
    return python


def compared(file: Path, name: str, fmt: str, images: int, work: Path) -> dict[str, Any]:
    """A row."""
    device, runtime, packages, script = FOREIGN[fmt]
    case = CASES[name]
    task = load_task({"dataset": case.dataset}, 0).at(case.resolution)
    x = np.ascontiguousarray(task.tensors("test", images)[0].numpy())
    how = file.name.split(".")[1]  # made: of the names of compress.py, int8-dynamic is a precision
    here = predict(load_device(device), Artifact.of(file, fmt, how, task.input), x)
    given, made = work / "inputs.npy", work / "outputs.npy"
    np.save(given, x)
    python = environment(work / runtime, packages)
    subprocess.run([python, "-c", script, file, given, made], check=True)
    there = np.load(made, allow_pickle=False)
    return {
        "network": name, "file": file.name, "format": fmt, "runtime": runtime, "images": len(x),
        "packages": packages,
        "same_top1": float((here.argmax(1) == there.argmax(1)).mean()),
        "difference": float(np.abs(here - there).max() / np.abs(here).max()),
    }  # fmt: skip


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=Path, default=Path("runs/compress"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("runs/foreign"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for fmt in FOREIGN:
        for file in sorted(args.files.glob(f"*.{fmt}")):
            rows.append(compared(file, file.name.split(".")[0], fmt, args.images, args.work))
            r = rows[-1]
            print(
                f"{r['file']:<28} {r['runtime']:<15} same top-1 {r['same_top1']:.2%}, "
                f"difference {r['difference']:.2g}",
                flush=True,
            )
    if not rows:
        sys.exit(f"{args.files} holds no files: run benchmarks/compress.py first")
    print(write_results("foreign", rows=rows))


if __name__ == "__main__":
    main()
