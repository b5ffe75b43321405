"""Layers as tasks: how much of a map, and of its channels, is on the chip at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from edgenas.fpga.commands import OUT, Fields, X, Y
from edgenas.fpga.layers import Layer, Rows, unchanged
from edgenas.fpga.schedule import Block, Task, limits
from edgenas.fpga.shape import Shape
from edgenas.fpga.sums import Sum


@dataclass(frozen=True)
class Tensor:
    """A map in DRAM: ``size`` rows of ``tiles`` x ``size`` words."""

    name: str
    dram: int
    tiles: int
    size: int

    @property
    def words(self) -> int:
        """All."""
        return self.tiles * self.size**2

    def part(self, rows: range, tiles: range | None = None) -> Block:
        """Where they lie, of some of its ``tiles`` if not of all."""
        row = self.tiles * self.size
        at = self.dram + rows.start * row
        if tiles is None or len(tiles) == self.tiles:
            return Block(at, len(rows) * row)
        return Block(at + tiles.start * self.size, len(tiles) * self.size, len(rows), row)


@dataclass
class Weights:
    """Words of weights, and where in DRAM they lie."""

    shape: Shape
    base: int
    parts: list[np.ndarray] = field(default_factory=list)
    words: int = 0

    def place(self, *parts: np.ndarray) -> Block:
        """Behind those before."""
        at, n = self.base + self.words, sum(map(len, parts))
        self.parts += parts
        self.words += n
        return Block(at, n)


def needed(layer: Layer, rows: range) -> range:
    """Rows of its input for rows of its output."""
    first = rows.start * layer.stride - layer.padding
    last = (rows.stop - 1) * layer.stride - layer.padding + layer.k
    return range(max(0, first), min(layer.size, last))


def strips(total: int, each: int) -> list[range]:
    """``each`` at a time, the rest at the end."""
    return [range(i, min(total, i + each)) for i in range(0, total, each)]


def convolution(
    layer: Layer, source: Tensor, target: Tensor, weights: Weights, rows: int, tiles: int
) -> Iterator[Task]:
    """``rows`` of the output and ``tiles`` of its channels at a time.

    Where the weights of all inputs have no room, sums stay while the next inputs come. Raises
    ValueError where that has no room either.
    """
    shape = weights.shape
    each = _inputs(layer, shape, tiles, source.tiles)
    table: Block | None = None
    if layer.table is not None:
        words = np.repeat(layer.table.view(np.uint8)[:, None], shape.lanes, 1)
        table = weights.place(words)
    for outputs in strips(target.tiles, tiles):
        channels = range(outputs.start * shape.lanes, min(layer.cout, outputs.stop * shape.lanes))
        reads = [outputs] if layer.depthwise else strips(source.tiles, each)
        blocks = [
            weights.place(layer.words(shape, channels, _channels(layer, shape, read)))
            for read in reads
        ]
        for strip in strips(layer.out_size, rows):
            pixels = len(strip) * layer.out_size
            limits(shape, {}, pixels * (len(outputs) if len(reads) > 1 else 1))
            for read, block in zip(reads, blocks, strict=True):
                first, last = read is reads[0], read is reads[-1]
                part = _Part(layer, shape, strip, needed(layer, strip), read, outputs, first, last)
                yield Task(
                    part.runs, (source.name,), target.name,
                    block if strip.start == 0 or len(reads) > 1 else None,
                    (source.part(part.held, read),),
                    (target.part(strip, outputs),) if last else (), table,
                )  # fmt: skip
                table = None


def _inputs(layer: Layer, shape: Shape, tiles: int, source: int) -> int:
    """Tiles of the input at a time, of ``source``: all, or such that two parts have room."""
    words = layer.k**2 * shape.lanes * tiles  # of the weights of an input tile
    if layer.depthwise or source * words + tiles * shape.parameter_words <= shape.weight_words:
        return source
    room = shape.weight_words // 2 - tiles * shape.parameter_words
    return max(1, min(source, room // words))


def _channels(layer: Layer, shape: Shape, read: range) -> range | None:
    """Inputs of the tiles ``read``."""
    if layer.depthwise:
        return None
    return range(read.start * shape.lanes, min(layer.channels, read.stop * shape.lanes))


@dataclass(frozen=True, eq=False)
class _Part:
    """``rows`` and tiles ``outputs`` of a layer, from rows ``held`` and tiles ``read`` in X."""

    layer: Layer
    shape: Shape
    rows: range
    held: range
    read: range
    outputs: range
    first: bool
    last: bool

    def runs(self, weights: int, x: int, out: int) -> list[Fields]:
        layer, tiles = self.layer, len(self.outputs)
        rows = Rows(x, self.held, len(self.read), layer.size)
        read = _channels(layer, self.shape, self.read)
        job = layer.job(
            self.shape, self.rows, rows, layer.channels if read is None else len(read), tiles
        )
        whole = self.first and self.last
        return [{
            **job, "source": X, "target": OUT, "out_start": out, "weights": weights,
            "first": int(self.first), "last": int(self.last),
            "sums_step": 0 if whole else len(self.rows) * layer.out_size,
        }]  # fmt: skip


def addition(
    both: Sum, channels: int, sources: tuple[Tensor, Tensor], target: Tensor, weights: Weights,
    rows: int,
) -> Iterator[Task]:  # fmt: skip
    """``rows`` at a time; the second goes to Y before, since two words are read at once.

    Raises ValueError where that has no room.
    """
    shape, size = weights.shape, target.size
    copy = unchanged(channels, size, both.zero_b)
    parts = copy.words(shape), both.words(shape, target.tiles)
    block: Block | None = weights.place(*parts)
    for strip in strips(size, rows):
        limits(shape, {"y": target.tiles * len(strip) * size}, 0)
        part = _Addition(both, copy, shape, strip, target.tiles, len(parts[0]))
        yield Task(
            part.runs, tuple(s.name for s in sources), target.name, block,
            tuple(s.part(strip) for s in sources),
            (target.part(strip),),
        )  # fmt: skip
        block = None


@dataclass(frozen=True, eq=False)
class _Addition:
    """``rows`` of both, one behind the other in X."""

    both: Sum
    copy: Layer
    shape: Shape
    rows: range
    tiles: int
    copy_words: int

    def runs(self, weights: int, x: int, out: int) -> list[Fields]:
        size, tiles = self.copy.size, self.tiles
        second = x + tiles * len(self.rows) * size
        copied = self.copy.job(
            self.shape, self.rows, Rows(second, self.rows, tiles, size), self.copy.channels, tiles
        )
        held = Rows(x, self.rows, tiles, size)
        return [
            {**copied, "source": X, "target": Y, "out_start": 0, "weights": weights},
            self.both.job(self.rows, held, 0, out, tiles, weights + self.copy_words),
        ]
