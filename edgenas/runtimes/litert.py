"""LiteRT (TensorFlow Lite), CPU with XNNPACK."""

from dataclasses import dataclass
from typing import ClassVar

from edgenas.python_runtime import PythonRuntime

__all__ = ["LiteRt"]


@dataclass(frozen=True)
class LiteRt(PythonRuntime):
    """Runs ``.tflite`` files."""

    name: ClassVar[str] = "litert"
    format: ClassVar[str] = "tflite"
