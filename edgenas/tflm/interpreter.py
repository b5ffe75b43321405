"""TFLM, TensorFlow Lite for Microcontrollers, on this machine: its arena and its answers."""

import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.errors import CapabilityError, DeviceError
from edgenas.scratch import scratch_folder
from edgenas.tflm.work import Model

_PACKAGE = "tflite-micro"
# The end of an arena decides by up to 8 bytes how it is aligned: at 16 it takes the least.
_ALIGNED = 16
_BESIDE = 16 << 20  # for what is not a tensor
_MOST = 1 << 30
_ARENA = re.compile(r"Arena allocation total (\d+) bytes")
_LACKS = re.compile(r"Failed to get registration from op code (\w+)")


def version() -> str:
    """Of the package. Raises DeviceError where it is not installed."""
    _runtime()
    return metadata.version(_PACKAGE)


def arena_bytes(model: Model) -> int:
    """What TFLM's allocator takes for ``model``: activations, and what it keeps of operators.

    It is loaded in a process of its own, which a damaged file may end. Raises CapabilityError that
    names an operator that TFLM lacks, and DeviceError with what it said last.
    """
    with scratch_folder() as folder:
        said = folder / "said"
        child = multiprocessing.get_context("fork").Process(target=_load, args=(model, said))
        child.start()
        child.join()
        text = said.read_text(encoding="utf-8", errors="replace")
    if found := _ARENA.search(text):
        return int(found[1])
    if lacking := _LACKS.search(text):
        raise CapabilityError(f"TFLM ({_PACKAGE} {version()}) has no operator {lacking[1]}")
    code = child.exitcode or 0
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else "cannot load it"
    last = next((f": {line.strip()}" for line in reversed(text.split("\n")) if line.strip()), "")
    raise DeviceError(f"TFLM {ended}{last[:200]}")


def answers(model: Model, inputs: np.ndarray) -> Iterator[np.ndarray]:
    """The first output, float32 (batch of the file, classes), of ``inputs``: NCHW, or rows.

    Quantised and dequantised as the file asks. Raises DeviceError.
    """
    interpreter = _opened(model)
    entry, exit_ = interpreter.get_input_details(0), interpreter.get_output_details(0)
    batch, *shape = (int(n) for n in entry["shape"])
    last = inputs.ndim == 4 and tuple(shape) == (*inputs.shape[2:], inputs.shape[1])
    for start in range(0, len(inputs), batch):
        x = np.asarray(inputs[start : start + batch], np.float32)
        x = np.concatenate([x, np.zeros((batch - len(x), *x.shape[1:]), np.float32)])
        x = x.transpose(0, 2, 3, 1) if last else x
        try:
            interpreter.set_input(np.ascontiguousarray(_quantized(x, entry)), 0)
            interpreter.invoke()
        except (RuntimeError, ValueError) as e:
            raise DeviceError(f"TFLM cannot run it: {e}") from e
        yield _real(interpreter.get_output(0), exit_)


def _quantized(x: np.ndarray, details: Any) -> np.ndarray:
    kind = np.dtype(details["dtype"])
    if kind.kind == "f":
        return x.astype(kind)
    limits = np.iinfo(kind)
    scale, zero = _scale(details)
    return np.asarray(np.clip(np.rint(x / scale) + zero, limits.min, limits.max), kind)


def _real(y: np.ndarray, details: Any) -> np.ndarray:
    if y.dtype.kind == "f":
        return y.astype(np.float32)
    scale, zero = _scale(details)
    return np.asarray((y.astype(np.float32) - zero) * scale, np.float32)


def _scale(details: Any) -> tuple[np.float32, int]:
    of = details["quantization_parameters"]
    return of["scales"][0], int(of["zero_points"][0])


def _load(model: Model, said: Path) -> None:
    """In the child: what TFLM says goes to a file."""
    to = os.open(said, os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(to, stream)
    try:
        _opened(model).print_allocations()
    except RuntimeError:
        sys.exit(1)  # which tells less than what was said


def _opened(model: Model) -> Any:
    size = 2 * model.tensor_bytes + _BESIDE
    if size > _MOST:
        raise DeviceError(
            f"its tensors take {model.tensor_bytes >> 20} MB, more than any microcontroller has"
        )
    return _runtime().Interpreter.from_bytes(
        model.content, arena_size=-(-size // _ALIGNED) * _ALIGNED
    )


def _runtime() -> Any:
    try:
        from tflite_micro import runtime
    except ModuleNotFoundError as e:
        raise DeviceError(
            f"the Python package {e.name} is not installed: "
            f"{sys.executable} -m pip install 'edgenas[tflm]'"
        ) from e
    except ImportError as e:  # wheels of before this Python
        raise DeviceError(
            f"the Python package {_PACKAGE} cannot be loaded ({e}): "
            f"{sys.executable} -m pip install --force-reinstall 'edgenas[tflm]'"
        ) from e
    return runtime
