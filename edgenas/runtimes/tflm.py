"""Microcontrollers: files run by TFLM's interpreter on this machine, times estimated."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgenas.errors import UsageError
from edgenas.latency import Provenance
from edgenas.registry import nearest
from edgenas.tflm.boards import boards
from edgenas.validate import Amount

__all__ = ["Tflm"]


@dataclass(frozen=True)
class Tflm:
    """Runs int8 ``.tflite`` files. ``board``: one that MLPerf Tiny published, see docs/mcu.md.

    ``clock_mhz``: that its core is to run at; 0 is what was published.
    """

    board: str
    clock_mhz: Amount = 0.0

    name: ClassVar[str] = "tflm"
    format: ClassVar[str] = "tflite"
    precisions: ClassVar[tuple[str, ...]] = ("int8-static",)
    further: ClassVar[tuple[str, ...]] = ()
    provenance: ClassVar[Provenance] = "estimated"
    weighs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        known = list(boards())
        if self.board not in known:
            raise UsageError(
                f"runtime tflm: no board {self.board!r:.80}.{nearest(self.board, known)}"
            )
        if self.clock_mhz and not 1 <= self.clock_mhz <= 2000:
            raise UsageError(f"runtime tflm: clock_mhz cannot be {self.clock_mhz:g}")

    @property
    def options(self) -> Mapping[str, Any]:
        """All of it."""
        return {
            "board": self.board,
            "clock_mhz": self.clock_mhz or boards()[self.board].clock_mhz,
            "threads": 1,
        }

    @property
    def payload(self) -> Path:
        """edgenas/tflm/run.py."""
        return Path(__file__).parents[1] / "tflm" / "run.py"

    def encode(self, job: Mapping[str, Any]) -> bytes:
        """JSON."""
        return json.dumps(job).encode()

    def command(self, python: str, payload: str, job: str) -> Sequence[str]:
        """``python run.py JOB.json``."""
        return [python, payload, job]
