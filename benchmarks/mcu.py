"""Microcontrollers: how far off are their times, and is what TFLM computes right?

    python benchmarks/mcu.py FOLDER [--images 10000]

FOLDER holds the int8 files of MLPerf Tiny. For each board that its results are known of: the error
of the fitted times on the four networks, and on each where it was fitted to the other three. For
each file: bytes, arena, images of noise on which TFLM answers as LiteRT's reference kernels do; and
of ResNet-8 the accuracy on so many test images of CIFAR-10, beside that of LiteRT with XNNPACK.
Eight minutes. Writes benchmarks/results/mcu.json.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from results_file import write_results

from edgenas import runner
from edgenas.console import Bars
from edgenas.task import DATASETS
from edgenas.tflm import cycles, interpreter, work
from edgenas.tflm.boards import boards

IMAGES = 20  # of noise
RESNET = "pretrainedResnet_quant.tflite"  # takes pixels as they are


def times() -> Iterator[dict[str, Any]]:
    """A row a board."""
    for name, board in boards().items():
        prices, off = cycles.fitted(board), cycles.left_out(board)
        fits = {
            task: prices.cycles(asked) / cycles.published(board, task) - 1
            for task, asked in cycles.networks().items()
        }
        yield {
            "board": name, "core": board.core, "clock_mhz": board.clock_mhz, "stack": board.stack,
            "round": board.round, "cycles": str(prices), "fit": fits, "left_out": off,
            "mean_fit": fmean(map(abs, fits.values())),
            "mean_left_out": fmean(map(abs, off.values())),
        }  # fmt: skip


def files(folder: Path, images: int) -> Iterator[dict[str, Any]]:
    """A row a file."""
    for path in sorted(folder.glob("*.tflite")):
        model = work.read(path)
        row = {
            "file": path.name, "bytes": len(model.content), "macs": model.work.macs,
            "arena_bytes": interpreter.arena_bytes(model), **agreement(path, model),
        }  # fmt: skip
        if path.name == RESNET and images:
            row |= accuracy(path, model, images)
        yield row


def agreement(path: Path, model: work.Model) -> dict[str, Any]:
    """With LiteRT's reference kernels, in steps of the output."""
    kernels = OpResolverType.BUILTIN_REF
    other = Interpreter(str(path), experimental_op_resolver_type=kernels)
    other.allocate_tensors()
    (begin,), (end,) = other.get_input_details(), other.get_output_details()
    shape, (scale, zero) = begin["shape"][1:], begin["quantization"]
    q = np.random.default_rng(0).integers(-128, 128, (IMAGES, *shape)).astype(np.int8)
    x = (q.astype(np.float32) - zero) * np.float32(scale)
    ours = interpreter.answers(model, x.transpose(0, 3, 1, 2) if x.ndim == 4 else x)
    steps = []
    for image, y in zip(q, ours, strict=True):
        other.set_tensor(begin["index"], image[None])
        other.invoke()
        scale, zero = end["quantization"]
        want = (other.get_tensor(end["index"]).astype(np.float32) - zero) * scale
        steps.append(round(float(np.abs(y - want).max()) / scale))
    return {"noise_images": IMAGES, "equal": steps.count(0), "most_steps_off": max(steps)}


def accuracy(path: Path, model: work.Model, images: int) -> dict[str, Any]:
    """Of a file that takes pixels as they are; beside it, what LiteRT with XNNPACK answers."""
    test = DATASETS["cifar10"]().load().test
    x, y = test.x[:images].numpy(), test.y[:images].numpy()
    tops = []
    with Bars() as progress:
        for answer in interpreter.answers(model, x):
            tops.append(int(answer.argmax()))
            progress("ResNet-8", len(tops), len(x))
    plain = runner.LiteRt({"threads": 1}).predict(str(path), x, 1)
    others = [int(answer.argmax()) for answer in plain]
    return {
        "images": len(x), "accuracy": float((np.array(tops) == y).mean()),
        "accuracy_xnnpack": float((np.array(others) == y).mean()),
        "other_top_1_by_xnnpack": int((np.array(others) != np.array(tops)).sum()),
    }  # fmt: skip


def main() -> None:
    """Print the rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    asked = parser.parse_args()
    of_boards, of_files = list(times()), []
    for row in of_boards:
        told = "  ".join(f"{task} {error:+.0%}" for task, error in row["left_out"].items())
        print(
            f"{row['board']:<14} {row['core']:<10} {row['stack']:<18} fit {row['mean_fit']:.0%}  "
            f"left out {row['mean_left_out']:.0%}: {told}"
        )
    for row in files(asked.folder, asked.images):
        of_files.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_results("mcu", tflm=interpreter.version(), boards=of_boards, rows=of_files)


if __name__ == "__main__":
    main()
