"""The accelerator of edgenas/fpga, simulated from its RTL; milliseconds by a routed clock rate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from edgenas.errors import UsageError
from edgenas.files import cache_folder
from edgenas.fpga.cycles import Dram
from edgenas.fpga.part import Part
from edgenas.fpga.shape import Shape
from edgenas.latency import Provenance

__all__ = ["Rtl"]


@dataclass(frozen=True)
class Rtl:
    """Runs ``.fpga`` files. ``fmax_mhz``: a clock that ``part`` met in the ``report`` (its sha256).

    ``dram``: what its memory gives, in cycles of that clock. ``shape``: of the accelerator.
    """

    part: Part
    fmax_mhz: float
    report: str
    dram: Dram
    shape: Shape = field(default_factory=Shape)

    name: ClassVar[str] = "rtl"
    format: ClassVar[str] = "fpga"
    precisions: ClassVar[tuple[str, ...]] = ("int8-static",)
    further: ClassVar[tuple[str, ...]] = ()
    provenance: ClassVar[Provenance] = "simulated"
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.fmax_mhz <= 1000:
            raise UsageError(f"runtime rtl: fmax_mhz cannot be {self.fmax_mhz:g}")

    @property
    def options(self) -> Mapping[str, Any]:
        """All of it, and where simulators are kept."""
        return {**asdict(self), "threads": 1, "cache": str(cache_folder())}

    @property
    def payload(self) -> Path:
        """edgenas/fpga/run.py."""
        return Path(__file__).parents[1] / "fpga" / "run.py"

    def encode(self, job: Mapping[str, Any]) -> bytes:
        """JSON."""
        return json.dumps(job).encode()

    def command(self, python: str, payload: str, job: str) -> Sequence[str]:
        """``python run.py JOB.json``."""
        return [python, payload, job]
