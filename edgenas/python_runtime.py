"""What runtimes have in common: cores, and ``edgenas/runner.py``, which drives Python packages."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgenas.errors import UsageError
from edgenas.latency import Provenance
from edgenas.validate import Threads

CORE = "[0-9]{1,4}"  # a runner writes out all that a range names


@dataclass(frozen=True)
class Cores:
    """``threads``: how many one inference may use.

    ``affinity``: the cores it is kept to there: ``big``, ``little``, or numbers as ``4-7`` or
    ``0,2``; all, where nothing is said.
    """

    threads: Threads = 1
    affinity: str = ""

    name: ClassVar[str]
    provenance: ClassVar[Provenance] = "measured"

    def __post_init__(self) -> None:
        some = f"{CORE}(-{CORE})?"
        if not re.fullmatch(f"|big|little|{some}(,{some})*", self.affinity):
            raise UsageError(
                f"runtime {self.name}: affinity cannot be {self.affinity!r:.80}; say big, little, "
                "or the numbers of cores, e.g. 4-7, each up to 9999"
            )
        for part in self.affinity.split(","):
            first, dash, last = part.partition("-")
            if dash and int(first) > int(last):
                raise UsageError(
                    f"runtime {self.name}: affinity {part} names no core; did you mean "
                    f"{last}-{first}?"
                )

    @property
    def options(self) -> Mapping[str, Any]:
        """``threads``, and ``affinity`` where it is given."""
        placed = {"affinity": self.affinity} if self.affinity else {}
        return {"threads": self.threads, **placed}


@dataclass(frozen=True)
class PythonRuntime(Cores):
    """A subclass says ``name`` and ``format``."""

    format: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8-static")
    further: ClassVar[tuple[str, ...]] = ("fp16", "int8-weights", "int8-dynamic")

    @property
    def weighs(self) -> bool:
        """What is in the memory of an accelerator is not seen."""
        return True

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
