"""TensorRT: ONNX files, as it wants them, as engines that are built on the device."""

from dataclasses import dataclass
from typing import ClassVar

from edgenas.python_runtime import PythonRuntime

__all__ = ["TensorRt"]


@dataclass(frozen=True)
class TensorRt(PythonRuntime):
    """Runs ``.tensorrt`` files an image at a time; TensorRT 10 or newer, and torch for its memory.

    A call is timed as the runtime ``torch`` does on CUDA. What was learned of kernels while
    building stays in a timing cache on the device; engines are built anew and never loaded.
    """

    name: ClassVar[str] = "tensorrt"
    format: ClassVar[str] = "tensorrt"
    further: ClassVar[tuple[str, ...]] = ()
    weighs: ClassVar[bool] = False
