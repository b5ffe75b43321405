"""What goes over the wire between a board and its host, which keeps the board's DRAM.

8 bits, no parity, a stop bit; numbers lowest byte first; a word is a byte a lane.

    host   START                     begins the program at address 0
    board  READ  address (3)         the host answers with that word, in the order of asking
    board  WRITE address (3) word
    board  ENDED counters (4 each)   cycles, running, issued, stalled; the board is idle again
"""

from dataclasses import dataclass
from math import gcd

from edgenas.errors import UsageError

START, READ, WRITE, ENDED = b"GRWH"

# Of Lattice's EHXPLLL: what it compares, what it oscillates at (MHz), how far it divides.
_COMPARED, _OSCILLATES, _MOST = 3.125, (400.0, 800.0), 80


@dataclass(frozen=True)
class Clock:
    """``mhz`` out of the ``board_mhz`` of an oscillator; ``baud``: bits a second of the wire."""

    mhz: float
    board_mhz: float = 25
    baud: int = 1_000_000

    def __post_init__(self) -> None:
        if not 4 <= self.divisor < 1 << 16:
            raise UsageError(f"{self.baud} baud cannot be made of a clock of {self.mhz:g} MHz")

    @property
    def divisor(self) -> int:
        """Cycles a bit."""
        return round(self.mhz * 1e6 / self.baud)

    @property
    def divided(self) -> int:
        """By what the oscillator's clock is divided before it is compared."""
        return self._ratio[1]

    @property
    def multiplied(self) -> int:
        """By what that is multiplied."""
        return self._ratio[0]

    @property
    def oscillates(self) -> int:
        """By what the generator's own oscillation is divided."""
        least, most = _OSCILLATES
        return round((least + most) / 2 / self.mhz)

    @property
    def _ratio(self) -> tuple[int, int]:
        up, down = round(self.mhz * 1000), round(self.board_mhz * 1000)
        up, down = up // gcd(up, down), down // gcd(up, down)
        if self.board_mhz / down < _COMPARED or up > _MOST:
            raise UsageError(f"{self.mhz:g} MHz cannot be made of {self.board_mhz:g}")
        return up, down
