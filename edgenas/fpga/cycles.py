"""How long a program takes, worked out from its commands as the hardware would.

Each constant here is one of the RTL; tests hold the whole against simulation, cycle for cycle.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from edgenas.errors import UsageError
from edgenas.fpga.commands import FIRST_AFTER, HALT, MOVE, RUN, STORE, Fields, command_words
from edgenas.fpga.program import Commands
from edgenas.fpga.shape import Shape

_FLYING = 14  # words that a controller is asked for before the first is there, with room to spare


@dataclass(frozen=True)
class Dram:
    """``latency``: cycles from a command to its word. ``reads``, ``writes``: words, of cycles."""

    latency: int
    reads: tuple[int, int]
    writes: tuple[int, int]

    def __post_init__(self) -> None:
        rates = (self.reads, self.writes)
        words, of = self.reads
        if self.latency < 3 or not all(0 < 2 * n <= of <= 1000 for n, of in rates):
            raise UsageError(
                "dram: latency is 3 cycles or more, reads and writes are words of cycles, at most "
                f"one of two: not {self.latency}, {list(self.reads)}, {list(self.writes)}"
            )
        if self.latency * words > _FLYING * of:
            raise UsageError(
                f"dram: latency is {self.latency!r:.80} cycles, and {words} words in {of} cycles "
                f"cannot be had then: {_FLYING} can be on their way"
            )


def run_cycles(run: Fields, shape: Shape) -> int:
    """From the start of a job to its end."""
    levels = (shape.taps - 1).bit_length()
    pixels = run["rows"] * run["issues"]
    iterations = run["inputs"] * run["kx"] * run["ky"]
    # An iteration lasts until the weights of the next are there.
    within, between = max(pixels, shape.taps, 7), max(pixels, 15 + levels)
    reads = run["tiles"] * (iterations - 1) * within + (run["tiles"] - 1) * between + pixels
    return shape.taps + 4 + reads + 26 + shape.groups + levels


def total_cycles(commands: Commands, dram: Dram) -> int:
    """From the start of a program to its halt. Raises ValueError where it never halts."""
    mover, runner = _Mover(commands, dram), _Runner(commands)
    while not mover.halted:
        if not (mover.step(runner.done) or runner.step(mover.done)):
            raise ValueError("each engine waits for the other")
    return mover.now


class _Mover:
    """``done[i]``: when the count of moves that are done became i + 1."""

    def __init__(self, commands: Commands, dram: Dram) -> None:
        self.dram = dram
        self.moves: Iterator[Fields] = iter(commands.moves)
        self.per = command_words(MOVE, commands.shape.word_bits)
        self.done: list[int] = []
        self.now, self.halted = 0, False
        self.next: Fields | None = None
        self._move({"kind": 0, "words": commands.shape.move_slots * self.per, "repeats": 1}, 0)

    def step(self, runs: list[int]) -> bool:
        """Whether the next move could be made."""
        self.next = move = self.next or next(self.moves)
        after = move["after_runs"]
        if after > len(runs):
            return False
        begin = max(self.now, runs[after - 1] if after else 0) + 1
        self.next = None
        if move["kind"] == HALT:
            self.halted, self.now = True, begin + 1
        else:
            self._move(move, begin)
        return True

    def _move(self, move: Fields, begin: int) -> None:
        store = move["kind"] == STORE
        words, of = self.dram.writes if store else self.dram.reads
        first = begin + (5 if store else 1 + self.dram.latency)
        # The controller has all but a word of cycles saved up when a move begins.
        more = of * move["words"] * move["repeats"] - (of + words - 1)
        last = first + max(0, -(-more // words))
        self.done.append(last + 2)
        self.now = last + 3 + self.per


class _Runner:
    """``done[i]``: when the count of runs that are done became i + 1."""

    def __init__(self, commands: Commands) -> None:
        self.shape, self.runs = commands.shape, commands.runs
        self.per = command_words(RUN, commands.shape.word_bits)
        self.done: list[int] = []
        self.now, self.awaited = 0, FIRST_AFTER

    def step(self, moves: list[int]) -> bool:
        """Whether the next job could be run."""
        if len(self.done) == len(self.runs):
            return False
        run = self.runs[len(self.done)]
        if max(self.awaited, run["after_moves"]) > len(moves):
            return False
        fetched = max(self.now, moves[self.awaited - 1]) + self.per + 2
        start = max(fetched, moves[run["after_moves"] - 1]) + 4
        self.now = start + run_cycles(run, self.shape) + 1
        self.done.append(self.now)
        self.awaited = run["next_after"]
        return True
