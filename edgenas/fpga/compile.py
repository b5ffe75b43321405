"""A network as a program: of each step the schedule that takes fewest cycles."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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


def compiled(
    found: Sequence[Step], name: str, channels: int, size: int, shape: Shape, dram: Dram
) -> Compiled:
    """The program of ``found``, whose input is ``name``.

    Raises CapabilityError for a step that has no room.
    """
    sizes = {name: (channels, size)}
    for step in found:
        sizes |= {s.name: (s.channels, s.size) for s in (*step.apart, step)}
    alone = {n: Tensor(n, 0, over(c, shape.lanes), size) for n, (c, size) in sizes.items()}
    taken = [pair for step in found for pair in fastest(step, alone, shape, dram)]
    found, chosen = [step for step, _ in taken], [how for _, how in taken]
    tensors, held, at = dict[str, Tensor](), dict[str, int](), 0
    for tensor in (name, *(step.name for step in found)):
        tensors[tensor], held[tensor] = replace(alone[tensor], dram=at), sizes[tensor][0]
        at += tensors[tensor].words

    def written(base: int) -> tuple[Program, Weights, Mapping[str, Tensor]]:
        placed = {n: replace(t, dram=t.dram + base) for n, t in tensors.items()}
        weights, program = Weights(shape, base + at), Program(shape)
        schedule(program, [
            task for step, how in zip(found, chosen, strict=True)
            for task in tasks_of(step, placed, weights, *how)
        ])  # fmt: skip
        return program, weights, placed

    # How long a program is does not depend on where its tensors lie.
    base = len(written(0)[0].commands().words())
    program, weights, placed = written(base)
    commands = program.commands()
    image = np.zeros((weights.base + weights.words, shape.lanes), np.uint8)
    image[:base] = commands.words()
    image[weights.base :] = np.concatenate(weights.parts)
    return Compiled(image, placed, held, total_cycles(commands, dram), commands, weights.base)


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


def fastest(
    step: Step, tensors: Mapping[str, Tensor], shape: Shape, dram: Dram
) -> list[tuple[Step, tuple[int, int]]]:
    """``step`` as it is or apart, with rows and tiles of each. Raises CapabilityError."""
    ways = []
    error: CapabilityError | None = None
    for parts in filter(None, ((step,), step.apart)):
        try:
            found = [best(part, tensors, shape, dram) for part in parts]
        except CapabilityError as e:
            error = e
            continue
        hows = [(part, (rows, tiles)) for part, (_, rows, tiles) in zip(parts, found, strict=True)]
        ways.append((sum(cycles for cycles, *_ in found), hows))
    if not ways:
        assert error is not None
        raise error
    return min(ways, key=lambda way: way[0])[1]


def best(
    step: Step, tensors: Mapping[str, Tensor], shape: Shape, dram: Dram
) -> tuple[int, int, int]:
    """Fewest cycles of ``step`` alone, and with which rows and tiles. Raises CapabilityError."""
    match step.work:
        case Layer():
            tiles = _parts(over(step.channels, shape.lanes))
        case Bottleneck():
            tiles = _parts(over(step.work.depthwise.channels, shape.lanes))
        case _:
            tiles = [1]
    found = []
    for how in itertools.product(_parts(step.size), tiles):
        program = Program(shape)
        try:
            schedule(program, list(tasks_of(step, tensors, Weights(shape, 0), *how)))
        except ValueError:  # no room
            continue
        found.append((total_cycles(program.commands(), dram), *how))
    if not found:
        raise CapabilityError(f"{step.name} has no room in the buffers of the accelerator")
    return min(found)


def _parts(n: int) -> list[int]:
    """What is n in 1, 2, 3 ... parts of nearly the same size."""
    return sorted({over(n, parts) for parts in range(1, n + 1)}, reverse=True)
