"""64-bit ARM, emulated on this machine: what it computes is true, how long it takes is not."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgenas import emulator
from edgenas.here import Here
from edgenas.scratch import scratch_folder

__all__ = ["Qemu"]


@dataclass(frozen=True)
class Qemu(Here):
    """Runs programs for ARM under QEMU, and counts the instructions that they execute."""

    emulated: ClassVar[bool] = True

    @property
    def python(self) -> str:
        """Debian's, for ARM. Raises CapabilityError where the emulator is not built."""
        emulator.require()
        return emulator.python()

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        """As of every transport on this machine."""
        with scratch_folder() as scratch:
            yield from super().lines([*emulator.command(scratch / "counts"), *argv])
