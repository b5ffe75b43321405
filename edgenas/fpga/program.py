"""Moves and runs in the order in which the two engines do them, as words of DRAM."""

from dataclasses import dataclass, field

import numpy as np

from edgenas.fpga.commands import (
    FIRST_AFTER,
    HALT,
    LOAD,
    MOVE,
    MOVES,
    RUN,
    RUNS,
    STORE,
    Fields,
    command_words,
    encode,
)  # fmt: skip
from edgenas.fpga.shape import Shape


@dataclass(frozen=True)
class Commands:
    """All fields of every move and run; numbers to wait for are not cut to their bits yet."""

    shape: Shape
    moves: tuple[Fields, ...]
    runs: tuple[Fields, ...]

    def words(self) -> np.ndarray:
        """(n, lanes) uint8, from DRAM address 0 on: moves, then runs, each to the end of a ring."""
        parts = []
        for layout, commands, slots in (
            (MOVE, self.moves, self.shape.move_slots), (RUN, self.runs, self.shape.run_slots),
        ):  # fmt: skip
            size = command_words(layout, self.shape.word_bits) * self.shape.lanes
            content = b"".join(encode(layout, c).to_bytes(size, "little") for c in commands)
            parts.append(content.ljust(_slots(len(commands), slots) * size, b"\0"))
        return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, self.shape.lanes)


def _slots(commands: int, ring: int) -> int:
    """Of a list in DRAM: a ring at least, and whole halves of one."""
    half = ring // 2
    return max(ring, -(-commands // half) * half)


@dataclass
class Program:
    """What is added is done in this order by each engine; what brings more commands is put between.

    ``load``, ``store`` and ``run`` return a number to wait for: of moves or runs that are done.
    A ring holds two halves of commands: the next one is loaded while the other is executed.
    """

    shape: Shape
    _moves: list[Fields] = field(default_factory=list)
    _runs: list[Fields] = field(default_factory=list)
    _brought: dict[int, int] = field(default_factory=dict)  # half of runs -> moves that bring it

    def __post_init__(self) -> None:
        self._move(kind=LOAD, buffer=RUNS, half=0)

    def load(
        self, buffer: int, dram: int, start: int, words: int, after: int = 0, **more: int
    ) -> int:
        """``repeats`` x ``words`` from ``dram`` on to ``start`` on, after so many runs."""
        return self._move(
            kind=LOAD, buffer=buffer, dram=dram, start=start, words=words, after_runs=after, **more
        )

    def store(self, dram: int, start: int, words: int, after: int, **more: int) -> int:
        """As ``load``, from O to ``dram``."""
        return self._move(kind=STORE, dram=dram, start=start, words=words, after_runs=after, **more)

    def run(self, after: int, **fields: int) -> int:
        """A job, when ``after`` moves are done."""
        half, rest = divmod(len(self._runs), self.shape.run_slots // 2)
        # Late enough for the runs before it to be done, early enough not to be waited for.
        if half and rest == self.shape.run_slots // 4:
            done = half * (self.shape.run_slots // 2)
            self._brought[half + 1] = self._move(
                kind=LOAD, buffer=RUNS, half=half + 1, after_runs=done
            )
        self._runs.append({**fields, "after_moves": after})
        return len(self._runs)

    @property
    def runs(self) -> int:
        """So far."""
        return len(self._runs)

    def _move(self, **fields: int) -> int:
        half, rest = divmod(len(self._moves), self.shape.move_slots // 2)
        if half and not rest:
            self._moves.append({"kind": LOAD, "buffer": MOVES, "half": half + 1})
        self._moves.append(fields)
        return len(self._moves) + 1  # the boot is one

    def commands(self) -> Commands:
        """All, with a halt behind them."""
        shape = self.shape
        asked = [*self._moves, {"kind": HALT, "after_runs": len(self._runs)}]
        per_move, per_run = (command_words(layout, shape.word_bits) for layout in (MOVE, RUN))
        halves = {
            MOVES: (0, shape.move_slots // 2 * per_move),
            RUNS: (_slots(len(asked), shape.move_slots) * per_move, shape.run_slots // 2 * per_run),
        }
        moves: list[Fields] = []
        after = 0
        for move in asked:
            fields = {"repeats": 1, **move}
            if (half := fields.pop("half", None)) is not None:
                base, words = halves[fields["buffer"]]
                fields |= {"dram": base + half * words, "start": half % 2 * words,
                           "words": words if half else 2 * words}  # fmt: skip
            after = max(after, fields.get("after_runs", 0))
            moves.append({**fields, "after_runs": after})
        runs: list[Fields] = []
        after = following = FIRST_AFTER
        for number, run in enumerate(self._runs, 1):
            half, rest = divmod(number, shape.run_slots // 2)
            if not rest:
                following = self._brought.get(half, following)
            after = max(after, run["after_moves"])
            runs.append({**run, "after_moves": after, "next_after": following,
                         "final": number == len(self._runs)})  # fmt: skip
        return Commands(shape, tuple(moves), tuple(runs))
