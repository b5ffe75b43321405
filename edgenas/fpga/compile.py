"""A network as a program: of each step the schedule that takes fewest cycles."""

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from edgenas.errors import CapabilityError
from edgenas.fpga.cycles import Dram, total_cycles
from edgenas.fpga.fused import Bottleneck, fused
from edgenas.fpga.layers import Layer, over, packed, unpacked
from edgenas.fpga.lower import Step
from edgenas.fpga.program import Commands, Program
from edgenas.fpga.schedule import Task, schedule
from edgenas.fpga.shape import Shape
from edgenas.fpga.tasks import Tensor, Weights, addition, convolution


@dataclass(frozen=True, eq=False)
class Compiled:
    """``image``: words of DRAM (n, lanes) uint8, the program first. ``cycles``: by the model.

    ``commands`` are that program; ``weights`` begin at that word.
    """

    image: np.ndarray
    tensors: Mapping[str, Tensor]
    channels: Mapping[str, int]
    cycles: int
    commands: Commands
    weights: int

    def given(self, name: str, x: np.ndarray) -> np.ndarray:
        """A copy of the image in which the tensor ``name`` is ``x`` (c, h, w) int8."""
        tensor, image = self.tensors[name], self.image.copy()
        image[tensor.dram : tensor.dram + tensor.words] = packed(x, image.shape[1])
        return image

    def taken(self, name: str, image: np.ndarray) -> np.ndarray:
        """The tensor ``name`` (c, h, w) out of ``image``."""
        tensor = self.tensors[name]
        words = image[tensor.dram : tensor.dram + tensor.words].copy()
        return unpacked(words, self.channels[name], tensor.size, image.shape[1])


class Choice(NamedTuple):
    """``rows`` of a step's output and ``tiles`` of channels at a time, and what it takes so."""

    cycles: int
    rows: int
    tiles: int


@dataclass(frozen=True)
class Compiler:
    """For one accelerator and its memory; what it found for one step it knows for its like."""

    shape: Shape
    dram: Dram
    _known: dict[Hashable, Choice | None] = field(default_factory=dict)

    def program(self, found: Sequence[Step], name: str, channels: int, size: int) -> Compiled:
        """Of the steps ``found``, whose input is ``name``.

        Raises CapabilityError for a step that has no room, and for what no command can say.
        """
        shape, sizes = self.shape, {name: (channels, size)}
        for step in found:
            sizes |= {s.name: (s.channels, s.size) for s in (*step.apart, step)}
        alone = {n: Tensor(n, 0, over(c, shape.lanes), size) for n, (c, size) in sizes.items()}
        chosen = [pair for step in found for pair in self._fastest(step, alone)]
        tensors, held, at = dict[str, Tensor](), dict[str, int](), 0
        for tensor in (name, *(step.name for step, _ in chosen)):
            tensors[tensor], held[tensor] = replace(alone[tensor], dram=at), sizes[tensor][0]
            at += tensors[tensor].words

        def written(base: int) -> tuple[Program, Weights, Mapping[str, Tensor]]:
            placed = {n: replace(t, dram=t.dram + base) for n, t in tensors.items()}
            weights, program = Weights(shape, base + at), Program(shape)
            schedule(program, [
                task for step, how in chosen
                for task in tasks_of(step, placed, weights, how.rows, how.tiles)
            ])  # fmt: skip
            return program, weights, placed

        # How long a program is does not depend on where its tensors lie.
        try:
            base = len(written(0)[0].commands().words())
            program, weights, placed = written(base)
            commands = program.commands()
            words = commands.words()
        except ValueError as e:
            raise CapabilityError(f"the network is too large for the accelerator: {e}") from e
        image = np.zeros((weights.base + weights.words, shape.lanes), np.uint8)
        image[:base] = words
        image[weights.base :] = np.concatenate(weights.parts)
        cycles = total_cycles(commands, self.dram)
        return Compiled(image, placed, held, cycles, commands, weights.base)

    def _fastest(self, step: Step, tensors: Mapping[str, Tensor]) -> list[tuple[Step, Choice]]:
        """``step`` as it is or apart. Raises CapabilityError where neither has room."""
        ways, error = [], None
        for parts in filter(None, ((step,), step.apart)):
            try:
                ways.append([(part, self._best(part, tensors)) for part in parts])
            except CapabilityError as e:
                error = error or e
        if error and not ways:
            raise error
        return min(ways, key=lambda way: sum(choice.cycles for _, choice in way))

    def _best(self, step: Step, tensors: Mapping[str, Tensor]) -> Choice:
        """With which ``step`` alone takes fewest cycles. Raises CapabilityError."""
        like = (step.work.geometry, step.channels, step.size, *(
            (tensors[name].tiles, tensors[name].size) for name in step.inputs
        ))  # fmt: skip
        if like not in self._known:
            self._known[like] = self._tried(step, tensors)
        choice = self._known[like]
        if choice is None:
            raise CapabilityError(f"{step.name} has no room in the buffers of the accelerator")
        return choice

    def _tried(self, step: Step, tensors: Mapping[str, Tensor]) -> Choice | None:
        match step.work:
            case Layer():
                tiles = _parts(over(step.channels, self.shape.lanes))
            case Bottleneck():
                tiles = _parts(over(step.work.depthwise.channels, self.shape.lanes))
            case _:
                tiles = [1]
        found = []
        for rows, columns in itertools.product(_parts(step.size), tiles):
            program, weights = Program(self.shape), Weights(self.shape, 0)
            try:
                schedule(program, list(tasks_of(step, tensors, weights, rows, columns)))
            except ValueError:  # no room
                continue
            cycles = total_cycles(program.commands(), self.dram)
            found.append(Choice(cycles, rows, columns))
        return min(found, default=None)


def tasks_of(
    step: Step, tensors: Mapping[str, Tensor], weights: Weights, rows: int, tiles: int
) -> Iterator[Task]:
    """Of ``step``, with ``rows`` of its output and ``tiles`` of channels at a time."""
    target, (source, *more) = tensors[step.name], [tensors[name] for name in step.inputs]
    match step.work:
        case Layer():
            return convolution(step.work, source, target, weights, rows, tiles)
        case Bottleneck():
            return fused(step.work, source, target, weights, rows, tiles)
        case both:
            return addition(both, step.channels, (source, more[0]), target, weights, rows)


def _parts(n: int) -> list[int]:
    """What is n in 1, 2, 3 ... parts of nearly the same size."""
    return sorted({over(n, parts) for parts in range(1, n + 1)}, reverse=True)
