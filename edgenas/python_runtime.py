"""Runtimes that ``edgenas/runner.py`` drives on the board, through their Python packages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgenas.errors import UsageError
from edgenas.latency import Provenance


@dataclass(frozen=True)
class PythonRuntime:
    """``threads``: how many one inference may use. A subclass says ``name`` and ``format``."""

    threads: int = 1

    name: ClassVar[str]
    format: ClassVar[str]
    provenance: ClassVar[Provenance] = "measured"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"runtime {self.name}: threads must be 1 or more, not {self.threads}")

    @property
    def options(self) -> Mapping[str, Any]:
        """``{"threads": n}``."""
        return {"threads": self.threads}

    @property
    def payload(self) -> Path:
        """edgenas/runner.py."""
        return Path(__file__).parent / "runner.py"

    def command(self, python: str, payload: str, job: str) -> Sequence[str]:
        """``python runner.py JOB.json``."""
        return [python, payload, job]
