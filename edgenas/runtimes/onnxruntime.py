"""ONNX Runtime, CPU."""

from dataclasses import dataclass
from typing import ClassVar

from edgenas.python_runtime import PythonRuntime

__all__ = ["OnnxRuntime"]


@dataclass(frozen=True)
class OnnxRuntime(PythonRuntime):
    """Runs ``.onnx`` files."""

    name: ClassVar[str] = "onnxruntime"
    format: ClassVar[str] = "onnx"
