"""Tasks, one after another, as moves and runs: what is next is loaded while one runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgenas.fpga.commands import TABLE, WEIGHTS, Fields, X
from edgenas.fpga.program import Program
from edgenas.fpga.shape import Shape


@dataclass(frozen=True)
class Block:
    """``repeats`` times ``words`` in DRAM, ``step`` apart; one behind another in a buffer."""

    dram: int
    words: int
    repeats: int = 1
    step: int = 0

    @property
    def total(self) -> int:
        """Words."""
        return self.words * self.repeats


@dataclass(frozen=True)
class Task:
    """Jobs that share what is loaded for them.

    ``runs`` gets where weights, inputs and outputs lie in their buffers. Without ``weights`` or
    ``inputs`` those of the task before are there still, and so is a ``table``. ``reads``,
    ``writes``: names of tensors.
    """

    runs: Callable[[int, int, int], Sequence[Fields]]
    reads: tuple[str, ...]
    writes: str
    weights: Block | None
    inputs: tuple[Block, ...]
    outputs: tuple[Block, ...]
    table: Block | None = None


def schedule(program: Program, tasks: Sequence[Task]) -> None:
    """Adds ``tasks`` to ``program``. Raises ValueError where one does not fit its buffers."""
    weights = _Loads(program, WEIGHTS, program.shape.weight_words)
    inputs = _Loads(program, X, program.shape.x_words)
    outputs = _Buffer(program.shape.o_words)
    for task, following in zip(tasks, [*tasks[1:], None], strict=True):
        weights.bring((task.weights,) if task.weights else ())
        inputs.bring(task.inputs)
        size = sum(b.total for b in task.outputs)
        out, stored = outputs.take(size)
        after = max(weights.use(), inputs.use(), stored)
        if task.table:  # there is one, which jobs before may use
            block = task.table
            after = max(after, program.load(TABLE, block.dram, 0, block.words, program.runs))
        last = 0
        for fields in task.runs(weights.at, inputs.at, out):
            last = program.run(after, **fields)
        weights.hold(last)
        inputs.hold(last)
        # The next loads go before this store, unless they read what it stores.
        if following is not None:
            weights.bring((following.weights,) if following.weights else (), ahead=True)
            if not task.outputs or task.writes not in following.reads:
                inputs.bring(following.inputs, ahead=True)
        start = out
        for b in task.outputs:
            stored = program.store(
                b.dram, start, b.words, last, repeats=b.repeats, dram_step=b.step, step=b.words
            )
            start += b.total
        outputs.hold(out, size, stored)


@dataclass
class _Buffer:
    """Words one behind another, from the begin again at the end; and until when each is needed."""

    size: int
    _next: int = 0
    _held: list[tuple[int, int, int]] = field(default_factory=list)

    def take(self, words: int) -> tuple[int, int]:
        """Where ``words`` go, and the number to wait for."""
        if words > self.size:
            raise ValueError(f"{words} words do not fit a buffer of {self.size}")
        start = self._next if self._next + words <= self.size else 0
        self._next = start + words
        until = [u for begin, end, u in self._held if begin < start + words and start < end]
        return start, max(until, default=0)

    def hold(self, start: int, words: int, until: int) -> None:
        """Until number ``until`` is done."""
        end = start + words
        self._held = [h for h in self._held if not (start <= h[0] and h[1] <= end)]
        self._held.append((start, end, until))


class _Loads:
    """What is loaded into a buffer: that in use, and that brought ahead."""

    def __init__(self, program: Program, buffer: int, size: int) -> None:
        self.at = 0  # of what is in use
        self._program, self._buffer, self._kept = program, buffer, _Buffer(size)
        self._words, self._moves = 0, 0
        self._ahead: tuple[int, int, int] | None = None  # start, words, moves to wait for

    def bring(self, blocks: Sequence[Block], ahead: bool = False) -> None:
        """Load ``blocks``, unless that was done ahead; nothing where there are none."""
        if not blocks or (self._ahead is not None and not ahead):
            return
        words = sum(b.total for b in blocks)
        start, free = self._kept.take(words)
        at = start
        for b in blocks:
            moves = self._program.load(
                self._buffer, b.dram, at, b.words, free, repeats=b.repeats, dram_step=b.step,
                step=b.words,
            )  # fmt: skip
            at += b.total
        self._ahead = start, words, moves

    def use(self) -> int:
        """Take what was brought; the moves to wait for."""
        if self._ahead is not None:
            self.at, self._words, self._moves = self._ahead
            self._ahead = None
        return self._moves

    def hold(self, runs: int) -> None:
        """It is in use until ``runs`` are done."""
        self._kept.hold(self.at, self._words, runs)


def limits(shape: Shape, words: dict[str, int], sums: int) -> None:
    """Raise ValueError where ``words`` of a buffer by its name, or ``sums``, are too many."""
    for buffer, n in words.items():
        if n > (most := getattr(shape, f"{buffer}_words")):
            raise ValueError(f"{n} words do not fit buffer {buffer} of {most}")
    if sums > shape.sums:
        raise ValueError(f"{sums} sums do not fit {shape.sums}")
