"""Arm Ethos-U NPUs as their compiler Vela estimates them; answers by LiteRT on this machine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgenas.errors import UsageError
from edgenas.latency import Provenance

__all__ = ["Vela"]

# of each family: its numbers of multipliers, and the system that Vela takes where none is named
_FAMILIES = {
    "ethos-u55": ((32, 64, 128, 256), "Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ((256, 512), "Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "ethos-u85": ((128, 256, 512, 1024, 2048), "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}


@dataclass(frozen=True)
class Vela:
    """Estimates int8 ``.tflite`` files. ``accelerator``: e.g. ``ethos-u55-128``.

    ``system_config`` and ``memory_mode``: of Vela's own Arm/vela.ini, clock and memories; where
    nothing is said, those that Vela takes itself.
    """

    accelerator: str
    system_config: str = ""
    memory_mode: str = ""

    name: ClassVar[str] = "vela"
    format: ClassVar[str] = "tflite"
    precisions: ClassVar[tuple[str, ...]] = ("int8-static",)
    further: ClassVar[tuple[str, ...]] = ()
    provenance: ClassVar[Provenance] = "estimated"
    weighs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        known = [f"{family}-{n}" for family, (macs, *_) in _FAMILIES.items() for n in macs]
        if self.accelerator not in known:
            raise UsageError(
                f"runtime vela: accelerator cannot be {self.accelerator!r}. "
                f"Known: {', '.join(known)}"
            )
        begin = self.family.replace("ethos-u", "Ethos_U") + "_"
        if self.system_config and not self.system_config.startswith(begin):
            raise UsageError(
                f"runtime vela: system_config {self.system_config!r} is not of "
                f"{self.accelerator}: its names begin with {begin}"
            )

    @property
    def family(self) -> str:
        """E.g. ``ethos-u55``."""
        return self.accelerator.rpartition("-")[0]

    @property
    def options(self) -> Mapping[str, Any]:
        """All of it."""
        _, system_config, memory_mode = _FAMILIES[self.family]
        return {
            "accelerator": self.accelerator,
            "system_config": self.system_config or system_config,
            "memory_mode": self.memory_mode or memory_mode,
            "threads": 1,
        }

    @property
    def payload(self) -> Path:
        """edgenas/vela/run.py."""
        return Path(__file__).parents[1] / "vela" / "run.py"

    def encode(self, job: Mapping[str, Any]) -> bytes:
        """JSON."""
        return json.dumps(job).encode()

    def command(self, python: str, payload: str, job: str) -> Sequence[str]:
        """``python run.py JOB.json``."""
        return [python, payload, job]
