"""A chip for which the accelerator is placed and routed."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from edgenas.errors import UsageError

# What nextpnr calls them.
CHIPS = {
    f"LFE5U{kind}-{size}F": (f"--{prefix}{size}k", f"{prefix}{size}k")
    for kind, prefix in (("", ""), ("M", "um-"), ("M5G", "um5g-"))
    for size in (25, 45, 85)
}  # fmt: skip
_BLOCKS = {"25": (56, 28), "45": (108, 72), "85": (208, 156)}  # memories, multipliers
PORTS = ("clk_in", "rx", "tx", "busy")


@dataclass(frozen=True)
class Part:
    """A Lattice ECP5 and what of its board matters: sites of its pins, and its oscillator."""

    chip: str
    package: str
    speed_grade: int
    board_mhz: Annotated[float, Field(ge=1, le=1000)] = 25
    pins: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chip not in CHIPS:
            raise UsageError(f"there is no place and route for {self.chip}; for {', '.join(CHIPS)}")
        if self.speed_grade not in (6, 7, 8):
            raise UsageError(f"speed_grade of an ECP5 is 6, 7 or 8, not {self.speed_grade!r:.80}")
        if unknown := self.pins.keys() - {*PORTS}:
            raise UsageError(f"pins of the board are {', '.join(PORTS)}, not {sorted(unknown)}")

    @property
    def blocks(self) -> dict[str, int]:
        """Memories and multipliers that it has."""
        memories, multipliers = _BLOCKS[self.chip[-3:-1]]
        return {"DP16KD": memories, "MULT18X18D": multipliers}

    def __str__(self) -> str:
        return f"{self.chip} {self.package} speed grade {self.speed_grade}"

    @property
    def constraints(self) -> str:
        """As an .lpf file."""
        lines = [
            f'LOCATE COMP "{port}" SITE "{site}";\nIOBUF PORT "{port}" IO_TYPE=LVCMOS33;\n'
            for port, site in self.pins.items()
        ]
        return "".join([*lines, f'FREQUENCY PORT "clk_in" {self.board_mhz:g} MHZ;\n'])
