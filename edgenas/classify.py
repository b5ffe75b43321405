"""Names what is in images, with a model that edgenas delivered. Needs no edgenas.

    python classify.py photo.jpg sample.npy ...

Beside it lie the model and model.json, which says how images are prepared and what classes are
called. Python 3.9, numpy, and onnxruntime for .onnx or ai-edge-litert (or tflite-runtime) for
.tflite; pillow, 8 or newer, for images that are not .npy (height, width, channels; uint8). Prints a
JSON line an image: the three likeliest classes, softmax.
"""

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import json
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent

# What Pillow is asked for: none of these starts a program. HEIF comes with pillow-heif.
FORMATS = (
    "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF", "TGA",
)  # fmt: skip
MOST_PIXELS = 120_000_000  # four bytes each, twice while it is turned: under a gigabyte
DEEP = ("I", "F")  # and I;16: more than eight bits a pixel
# EXIF's orientation -> the number by which every Pillow knows how to undo it
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
BILINEAR = 2  # older Pillows know it by its number alone


@functools.lru_cache(maxsize=None)
def formats() -> Sequence[str]:
    """Those of ``FORMATS`` that the Pillow here reads, plug-ins included."""
    from PIL import Image

    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_avif")
    with contextlib.suppress(Exception):  # where it can be had: else it prints beside our line
        ctypes.CDLL(importlib.import_module("PIL._imaging").__file__).TIFFSetErrorHandler(None)
    return tuple(f for f in FORMATS if f in Image.OPEN)


def format_of(path: str) -> str:
    """The format that a file's name promises, of ``formats()``; empty where it promises none."""
    from PIL import Image

    known = formats()
    promised = Image.registered_extensions().get(os.path.splitext(path)[1].lower(), "")
    return promised if promised in known else ""


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """The first image in a file, by its content, not decoded yet.

    Raises ValueError, or OSError; UnidentifiedImageError of these where it holds no image.
    """
    from PIL import Image

    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is no regular file")  # a pipe would be waited for
    # TGA has no mark of its own: whatever begins with a few zeros could be one.
    asked = [f for f in formats() if f != "TGA" or format_of(path) == "TGA"]
    try:
        with _damage_told():
            image = Image.open(path, formats=asked)
    except Image.DecompressionBombError:
        raise ValueError(_too_large("more than %d million" % (MOST_PIXELS // 10**6))) from None
    with image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(_too_large("%dx%d" % (width, height)))
        deep = image.mode in DEEP or image.mode.startswith("I;")
        if deep or ";16" in str(image.tile):  # of colours, 8 of 16 bits are decoded
            raise ValueError("it has more than 8 bits a pixel; save it with 8")
        with _damage_told():
            # Of a part, Pillow's decoder of JPEG 2000 makes an image without a word. Its data
            # cannot hold the two bytes that end it (ISO/IEC 15444-1, A.1).
            if image.format == "JPEG2000" and b"\xff\xd9" not in Path(path).read_bytes():
                raise ValueError("image file is truncated: its end is missing")
            if image.format == "PNG":  # whose checksums its decoder passes by
                with Image.open(path, formats=asked) as again:
                    again.verify()
        yield image


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """What a decoder finds wrong, as ValueError that says what to do."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError:
        raise UnidentifiedImageError(
            "cannot identify image file: it is damaged, or none of %s; save it anew, or leave it "
            "out" % ", ".join(formats())
        ) from None
    except (Image.DecompressionBombError, MemoryError):
        raise
    except Exception as e:  # decoders share no class of errors
        if getattr(e, "errno", None):  # it is the disk's
            raise
        raise ValueError(
            "it is damaged, or of a kind that is not read (%s); save it anew, or leave it out"
            % line(e)
        ) from e


def _too_large(size: str) -> str:
    return "it has %s pixels, and at most %d million are read; make it smaller" % (
        size, MOST_PIXELS // 10**6,
    )  # fmt: skip


def upright(image: Any) -> Any:
    """Turned as its camera says. Of EXIF the orientation alone is read, and nothing written."""
    turn = None
    if image.format != "TIFF":  # which every Pillow turns by itself, and older ones say nothing of
        with contextlib.suppress(Exception):  # EXIF holds whatever somebody wrote into it
            turn = TURNS.get(image.getexif().get(0x0112))
    with _damage_told():
        image.load()
    return image if turn is None else image.transpose(turn)


def opaque(image: Any, mode: str, background: str) -> Any:
    """As ``mode``, L or RGB; what is transparent shows ``background``."""
    from PIL import Image, ImageColor

    if transparent(image):
        colour = ImageColor.getrgb(background)[:3]
        below = Image.new("RGBA", image.size, (*colour, 255))
        below.alpha_composite(image.convert("RGBA"))
        image = below.convert("RGB")
    if image.mode == "LAB":
        image = image.convert("RGB")  # from it alone Pillow knows no way to grey
    return image if image.mode == mode else image.convert(mode)


def transparent(image: Any) -> bool:
    """Whether pixels of it may be."""
    palette = getattr(image.palette, "mode", "") if image.mode == "P" else ""
    return (image.mode + palette).lower().endswith("a") or "transparency" in image.info


def framed(image: Any, width: int, height: int, fit: str, background: str) -> Any:
    """At another size. ``fit``: ``crop`` scales by the shorter side and cuts to the middle; ``pad``
    scales by the longer and fills with ``background``; ``stretch`` scales each by itself."""
    from PIL import Image, ImageColor, ImageOps

    if fit == "stretch":
        return image.resize((width, height), BILINEAR)
    if fit == "crop":
        return ImageOps.fit(image, (width, height), BILINEAR)
    scale = min(width / image.width, height / image.height)
    inner = tuple(max(1, round(side * scale)) for side in image.size)
    colour = Image.new("RGB", (1, 1), ImageColor.getrgb(background)[:3]).convert(image.mode)
    whole = Image.new(image.mode, (width, height), colour.getpixel((0, 0)))
    whole.paste(image.resize(inner, BILINEAR), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return whole


def pixels(
    path: str,
    channels: int,
    height: int,
    width: int,
    fit: str = "crop",
    background: str = "white",
) -> Any:
    """(h, w, c) uint8, as the data set of folders makes them. Raises ValueError."""
    try:
        if path.lower().endswith(".npy"):
            return _array(path, (height, width, channels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a file that can be read
            with opened(path) as image:
                picture = opaque(upright(image), "L" if channels == 1 else "RGB", background)
            picture = framed(picture, width, height, fit, background)
            return np.asarray(picture).reshape(height, width, channels)
    except ModuleNotFoundError:
        raise ValueError("first: %s -m pip install pillow" % sys.executable) from None
    except Exception as e:  # whatever a decoder finds wrong with a damaged file
        raise ValueError(line(e)) from e


def _array(path: str, shape: Sequence[int]) -> Any:
    image = np.load(path, mmap_mode="r", allow_pickle=False)  # of that size, or refused
    if image.shape == shape and image.dtype == np.uint8:
        return np.array(image)
    raise ValueError("it is %s %s, not uint8 %s" % (image.dtype, image.shape, shape))


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
        how = {key: told[key] for key in ("fit", "background") if key in told}
    except ModuleNotFoundError as e:
        package = {"tflite_runtime": "ai-edge-litert"}.get(e.name or "", e.name)
        sys.exit("first: %s -m pip install %s" % (sys.executable, package))
    except Exception as e:  # whatever a runtime finds wrong with a damaged file
        sys.exit("the model beside %s cannot be used: %s" % (Path(__file__).name, line(e)))
    for path in paths:
        try:
            image = pixels(path, *told["input"], **how)
            x = (image.astype(np.float32) / 255 - mean) / std
        except ValueError as e:
            sys.exit("%s cannot be read as an image: %s" % (path, e))
        try:
            logits = run(x.transpose(2, 0, 1)[None].astype(np.float32))
            if logits.shape != (len(told["classes"]),):
                raise ValueError("it answers %s for its classes" % (logits.shape,))
        except Exception as e:  # as above
            sys.exit("the model beside %s cannot be used: %s" % (Path(__file__).name, line(e)))
        share = np.exp(logits - logits.max())
        share /= share.sum()
        best = [
            {"class": told["classes"][k], "share": round(float(share[k]), 4)}
            for k in np.argsort(-share)[:3]
        ]
        print(json.dumps({"image": path, "best": best}), flush=True)


def line(error: Exception) -> str:
    """What it says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    main(sys.argv[1:])
