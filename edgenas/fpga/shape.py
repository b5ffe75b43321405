"""What of the accelerator can be chosen before it is built."""

from dataclasses import dataclass

from edgenas.errors import UsageError

BYTE = 8

_MOST_LANES = 32  # as many groups, beyond which a job would end before its last word
# Least and most of each, by the bits of the commands.
_SIZES = {
    **dict.fromkeys(("x_words", "y_words", "z_words", "o_words", "weight_words"), (16, 1 << 14)),
    "sums": (16, 1 << 12), "run_slots": (8, 1024), "move_slots": (8, 1024),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """``lanes`` output channels x ``taps`` products a cycle; buffers in words of ``lanes`` bytes.

    Lanes are split in ``groups``, each a cycle behind the one before it, so that no net has to
    cross the chip within a cycle. ``sums``: accumulators of each lane.
    """

    lanes: int = 16
    taps: int = 8
    groups: int = 4
    x_words: int = 4096
    y_words: int = 4096
    z_words: int = 1024
    o_words: int = 2048
    weight_words: int = 4096
    sums: int = 1024
    run_slots: int = 64
    move_slots: int = 128

    def __post_init__(self) -> None:
        powers = {"lanes": self.lanes, "taps": self.taps, "groups": self.groups}
        if any(n < 1 or n & (n - 1) for n in powers.values()):
            raise UsageError(
                f"lanes, taps and groups of an accelerator are powers of two: {powers}"
            )
        if not max(4, self.groups, self.taps) <= self.lanes or not 4 <= self.taps <= 8:
            raise UsageError(
                f"an accelerator has 4 or 8 taps, and as many lanes at least: {powers}"
            )
        if self.lanes > _MOST_LANES:
            raise UsageError(f"an accelerator has at most {_MOST_LANES} lanes, not {self.lanes}")
        for name, (least, most) in _SIZES.items():
            if not least <= (n := getattr(self, name)) <= most:
                raise UsageError(f"{name} of an accelerator can be {least} to {most}, not {n}")
        slots = {"run_slots": self.run_slots, "move_slots": self.move_slots}
        if any(n & (n - 1) for n in slots.values()):
            raise UsageError(f"run_slots and move_slots are powers of two: {slots}")

    @property
    def word_bits(self) -> int:
        """Of a memory word: a byte a lane."""
        return self.lanes * BYTE

    @property
    def lanes_of_group(self) -> int:
        """Lanes that work in step."""
        return self.lanes // self.groups

    @property
    def parts(self) -> int:
        """Words of ``lanes`` channels are multiplied in so many parts of ``taps``."""
        return self.lanes // self.taps

    @property
    def parameter_words(self) -> int:
        """Of the 8 bytes of each lane: bias, multiplier, two shifts."""
        return 8
