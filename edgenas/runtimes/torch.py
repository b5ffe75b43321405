"""PyTorch: an NVIDIA GPU by graph replay, or the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edgenas.python_runtime import PythonRuntime
from edgenas.validate import Batch

__all__ = ["Torch"]


@dataclass(frozen=True)
class Torch(PythonRuntime):
    """Runs ``.torch`` files in fp32. ``batch``: images in one timed call.

    On ``cuda`` a call is the replay of a captured graph between two events, synchronised, with the
    L2 cache flushed before it.
    """

    accelerator: Literal["cuda", "cpu"] = "cuda"
    batch: Batch = 1

    name: ClassVar[str] = "torch"
    format: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    further: ClassVar[tuple[str, ...]] = ()
    weighs: ClassVar[bool] = False

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of every runtime, ``accelerator`` and ``timed_batch``."""
        return {**super().options, "accelerator": self.accelerator, "timed_batch": self.batch}
