"""ONNX Runtime: the CPU, or another execution provider."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from edgenas.python_runtime import PythonRuntime

__all__ = ["OnnxRuntime"]


@dataclass(frozen=True)
class OnnxRuntime(PythonRuntime):
    """Runs ``.onnx`` files.

    ``provider``: as ONNX Runtime names it, e.g. ``CUDAExecutionProvider``; the CPU where nothing is
    said. A model of which any node falls back to the CPU is a failed row.
    """

    provider: str = ""

    name: ClassVar[str] = "onnxruntime"
    format: ClassVar[str] = "onnx"

    @property
    def weighs(self) -> bool:
        """Where the CPU computes."""
        return not self.provider

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of every runtime, and ``provider`` where it is given."""
        return {**super().options, **({"provider": self.provider} if self.provider else {})}
