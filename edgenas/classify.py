"""Names what is in images, with a model that edgenas delivered. Needs no edgenas.

    python classify.py photo.jpg sample.npy ...

Beside it lie the model and model.json, which says how images are prepared and what classes are
called. Python 3.9, numpy, and onnxruntime for .onnx or ai-edge-litert (or tflite-runtime) for
.tflite; pillow for images that are not .npy (height, width, channels; uint8). Prints a JSON line an
image: the three likeliest classes, softmax.
"""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


def pixels(path: str, channels: int, height: int, width: int) -> Any:
    """(h, w, c) uint8, as the network takes them. Raises ValueError."""
    if path.lower().endswith(".npy"):
        image = np.load(path, allow_pickle=False)
        if image.shape == (height, width, channels) and image.dtype == np.uint8:
            return image
        raise ValueError(
            "it is %s %s, not uint8 %s" % (image.dtype, image.shape, (height, width, channels))
        )
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise ValueError("first: %s -m pip install pillow" % sys.executable) from None
    image = ImageOps.exif_transpose(Image.open(path)).convert("L" if channels == 1 else "RGB")
    # as the data set of folders does; older Pillows know it by its number alone
    image = ImageOps.fit(image, (width, height), 2)
    return np.asarray(image).reshape(height, width, channels)


def onnx(path: str) -> Callable[[Any], Any]:
    """A function from (1, c, h, w) float32 to logits."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it reports, and writes into ~/.cache
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0][0]


def tflite(path: str) -> Callable[[Any], Any]:
    """A function from (1, c, h, w) float32 to logits."""
    name = "ai_edge_litert" if importlib.util.find_spec("ai_edge_litert") else "tflite_runtime"
    interpreter = importlib.import_module(name + ".interpreter").Interpreter(model_path=path)
    interpreter.allocate_tensors()
    begin, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(x: Any) -> Any:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        if begin["dtype"] != np.float32:
            scale, zero = begin["quantization"]
            x = np.clip(np.rint(x / scale) + zero, -128, 127).astype(begin["dtype"])
        interpreter.set_tensor(begin["index"], x)
        interpreter.invoke()
        y = interpreter.get_tensor(end["index"])[0].astype(np.float32)
        if end["dtype"] != np.float32:
            scale, zero = end["quantization"]
            y = (y - zero) * scale
        return y

    return run


def main(paths: Sequence[str]) -> None:
    """Print a line an image."""
    try:
        told = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
        model = str(HERE / told["model"])
        run = onnx(model) if model.endswith(".onnx") else tflite(model)
        mean, std = (np.array(told[key], np.float32) for key in ("mean", "std"))
    except ModuleNotFoundError as e:
        package = {"tflite_runtime": "ai-edge-litert"}.get(e.name or "", e.name)
        sys.exit("first: %s -m pip install %s" % (sys.executable, package))
    except Exception as e:  # whatever a runtime finds wrong with a damaged file
        sys.exit("the model beside %s cannot be used: %s" % (Path(__file__).name, _line(e)))
    for path in paths:
        try:
            x = (pixels(path, *told["input"]).astype(np.float32) / 255 - mean) / std
        except (OSError, ValueError, EOFError) as e:
            sys.exit("%s cannot be read as an image: %s" % (path, _line(e)))
        try:
            logits = run(x.transpose(2, 0, 1)[None].astype(np.float32))
            if logits.shape != (len(told["classes"]),):
                raise ValueError("it answers %s for its classes" % (logits.shape,))
        except Exception as e:  # as above
            sys.exit("the model beside %s cannot be used: %s" % (Path(__file__).name, _line(e)))
        share = np.exp(logits - logits.max())
        share /= share.sum()
        best = [
            {"class": told["classes"][k], "share": round(float(share[k]), 4)}
            for k in np.argsort(-share)[:3]
        ]
        print(json.dumps({"image": path, "best": best}), flush=True)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    main(sys.argv[1:])
