"""Inverted bottlenecks whose hidden maps never leave the chip (arXiv:1801.04381, section 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgenas.fpga.commands import OUT, Fields, X, Y, Z
from edgenas.fpga.layers import Layer, Rows, over
from edgenas.fpga.schedule import Task, limits
from edgenas.fpga.shape import Shape
from edgenas.fpga.sums import Sum
from edgenas.fpga.tasks import Tensor, Weights, needed, strips


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """expand (1 x 1, or none), depthwise, project (1 x 1); with a ``sum``, the input is added."""

    expand: Layer | None
    depthwise: Layer
    project: Layer
    sum: Sum | None

    @property
    def geometry(self) -> tuple[object, ...]:
        """All that decides how long it takes."""
        layers = (self.expand, self.depthwise, self.project)
        return (*(layer and layer.geometry for layer in layers), self.sum is None)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """int8 (c, h, w) -> int8."""
        y = self.project(self.depthwise(self.expand(x) if self.expand else x))
        return self.sum(x, y) if self.sum else y


def fused(
    block: Bottleneck, source: Tensor, target: Tensor, weights: Weights, rows: int, tiles: int
) -> Iterator[Task]:
    """``rows`` of the output at a time, of them ``tiles`` of the hidden channels: expanded into Y,
    from there into Z, and added to sums that stay. Raises ValueError where that has no room."""
    shape, dw = weights.shape, block.depthwise
    parts = strips(over(dw.channels, shape.lanes), tiles)
    if block.sum and not block.expand and len(parts) > 1:
        raise ValueError("what is added has to be in X whole")
    placed = [
        _words(block, shape, part, target.tiles if part is parts[-1] else 0) for part in parts
    ]
    blocks = [weights.place(*words) for words in placed]
    for strip in strips(dw.out_size, rows):
        for part, words, where in zip(parts, placed, blocks, strict=True):
            first, last = part is parts[0], part is parts[-1]
            hidden = _Hidden(
                block, shape, strip, needed(dw, strip), part, source.tiles, target.tiles, first,
                last, tuple(map(len, words)),
            )  # fmt: skip
            hidden.check()
            read = range(source.tiles) if block.expand else part
            inputs = (source.part(hidden.held, read),)
            yield Task(
                hidden.runs, (source.name,), target.name,
                where if strip.start == 0 or len(parts) > 1 else None,
                inputs if first or not block.expand else (),
                (target.part(strip),) if last else (),
            )  # fmt: skip


def _words(block: Bottleneck, shape: Shape, part: range, added: int) -> list[np.ndarray]:
    """Weights of the hidden tiles ``part``; ``added``: tiles of the sum, which comes last."""
    own = range(part.start * shape.lanes, min(block.depthwise.channels, part.stop * shape.lanes))
    words = [block.expand.words(shape, own)] if block.expand else []
    words += [block.depthwise.words(shape, own), block.project.words(shape, inputs=own)]
    if block.sum and added:
        words.append(block.sum.words(shape, added))
    return words


@dataclass(frozen=True, eq=False)
class _Hidden:
    """Hidden tiles ``part`` of output ``rows``, for which the rows ``held`` are there."""

    block: Bottleneck
    shape: Shape
    rows: range
    held: range
    part: range
    in_tiles: int
    out_tiles: int
    first: bool
    last: bool
    words: tuple[int, ...]

    @property
    def _tiles(self) -> int:
        return len(self.part)

    @property
    def _pixels(self) -> int:
        """Of the output."""
        return len(self.rows) * self.block.depthwise.out_size

    @property
    def _expanded(self) -> int:
        """Pixels that are expanded."""
        return len(self.held) * self.block.depthwise.size

    @property
    def _kept(self) -> int:
        """Sums that other jobs must leave alone."""
        return 0 if self.first and self.last else self.out_tiles * self._pixels

    @property
    def _result(self) -> int:
        """Where in Y the projection goes, if something is added to it."""
        return self._tiles * self._expanded if self.block.expand else 0

    def check(self) -> None:
        """Raise ValueError where there is no room."""
        y = self._result + (self.out_tiles * self._pixels if self.block.sum else 0)
        most = max(self._pixels, self._expanded if self.block.expand else 0)
        limits(
            self.shape, {"y": y, "z": self._tiles * self._pixels},
            max(self.out_tiles * self._pixels, self._kept + most),
        )  # fmt: skip

    def runs(self, weights: int, x: int, out: int) -> list[Fields]:
        block, shape, dw, n = self.block, self.shape, self.block.depthwise, self._tiles
        at = iter(weights + sum(self.words[:i]) for i in range(len(self.words)))
        read = Rows(x, self.held, self.in_tiles if block.expand else n, dw.size)
        jobs: list[Fields] = []
        inner = read
        if block.expand:
            expand = block.expand.job(shape, self.held, read, block.expand.channels, n)
            jobs.append(
                {**expand, "source": X, "target": Y, "sums": self._kept, "weights": next(at)}
            )
            inner = Rows(0, self.held, n, dw.size)
        middle = dw.job(shape, self.rows, inner, dw.channels, n)
        jobs.append({
            **middle, "source": Y if block.expand else X, "target": Z, "sums": self._kept,
            "weights": next(at),
        })  # fmt: skip
        channels = min(dw.channels - self.part.start * shape.lanes, n * shape.lanes)
        hidden = Rows(0, self.rows, n, dw.out_size)
        project = block.project.job(shape, self.rows, hidden, channels, self.out_tiles)
        jobs.append({
            **project, "source": Z, "target": Y if block.sum else OUT,
            "out_start": self._result if block.sum else out, "first": int(self.first),
            "last": int(self.last), "sums": 0, "sums_step": self._pixels, "weights": next(at),
        })  # fmt: skip
        if block.sum and self.last:
            jobs.append(block.sum.job(self.rows, read, self._result, out, self.out_tiles, next(at)))
        return jobs
