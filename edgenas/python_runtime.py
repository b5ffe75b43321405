"""Runtimes that ``edgenas/runner.py`` drives on the board, through their Python packages."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgenas.errors import UsageError
from edgenas.latency import Provenance


def require_affinity(runtime: str, affinity: str) -> None:
    """Raise UsageError unless it names cores as devices do."""
    if not re.fullmatch(r"|big|little|\d+(-\d+)?(,\d+(-\d+)?)*", affinity):
        raise UsageError(
            f"runtime {runtime}: affinity cannot be {affinity!r}; say big, little, or the numbers "
            "of cores, e.g. 4-7"
        )


@dataclass(frozen=True)
class PythonRuntime:
    """``threads``: how many one inference may use. A subclass says ``name`` and ``format``.

    ``affinity``: the cores it is kept to there: ``big``, ``little``, or numbers as ``4-7`` or
    ``0,2``; all, where nothing is said.
    """

    threads: int = 1
    affinity: str = ""

    name: ClassVar[str]
    format: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8-static")
    provenance: ClassVar[Provenance] = "measured"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"runtime {self.name}: threads must be 1 or more, not {self.threads}")
        require_affinity(self.name, self.affinity)

    @property
    def options(self) -> Mapping[str, Any]:
        """``threads``, and ``affinity`` where it is given."""
        placed = {"affinity": self.affinity} if self.affinity else {}
        return {"threads": self.threads, **placed}

    @property
    def payload(self) -> Path:
        """edgenas/runner.py."""
        return Path(__file__).parent / "runner.py"

    def encode(self, job: Mapping[str, Any]) -> bytes:
        """JSON."""
        return json.dumps(job).encode()

    def command(self, python: str, payload: str, job: str) -> Sequence[str]:
        """``python runner.py JOB.json``."""
        return [python, payload, job]
