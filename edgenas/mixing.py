"""Images of a batch put together in pairs, and their labels with them: one function a way."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

V = TypeVar("V", Tensor, float)


@dataclass(frozen=True)
class Blend:
    """``x``: (n, c, h, w); ``labels``: pairs of labels (n,) and their share of every image."""

    x: Tensor
    labels: tuple[tuple[Tensor, float], ...]

    def mean(self, of: Callable[[Tensor], V]) -> V:
        """What ``of`` says of each labels, by their shares; exact where there is one."""
        (y, share), *others = self.labels
        total = of(y) * share
        for y, share in others:
            total = total + of(y) * share
        return total


Mixing = Callable[[Tensor, Tensor, random.Random], Blend]


def plain(x: Tensor, y: Tensor, rng: random.Random) -> Blend:
    """Every image as it is."""
    return Blend(x, ((y, 1.0),))


def mixup(alpha: float) -> Mixing:
    """Each image a weighted sum with its neighbour in the batch, which is in random order.

    arXiv:1710.09412, sec. 2; one share a batch, drawn from Beta(alpha, alpha).
    """

    def mix(x: Tensor, y: Tensor, rng: random.Random) -> Blend:
        share = rng.betavariate(alpha, alpha)
        return Blend(x.roll(1, 0).lerp(x, share), ((y, share), (y.roll(1, 0), 1 - share)))

    return mix


def cutmix(alpha: float) -> Mixing:
    """Each image with one rectangle of its neighbour; labels by area.

    arXiv:1905.04899, sec. 3.1; one rectangle a batch, its area from Beta(alpha, alpha), its centre
    anywhere, cut off at the border.
    """

    def mix(x: Tensor, y: Tensor, rng: random.Random) -> Blend:
        side = (1 - rng.betavariate(alpha, alpha)) ** 0.5
        rows, columns = (_span(size, side, rng) for size in x.shape[2:])
        pasted = x.clone()
        pasted[:, :, rows, columns] = x.roll(1, 0)[:, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - area / (x.shape[2] * x.shape[3])
        return Blend(pasted, ((y, share), (y.roll(1, 0), 1 - share)))

    return mix


def any_of(*ways: Mixing) -> Mixing:
    """One of ``ways`` for each batch, evenly; ``plain`` where there is none."""

    def mix(x: Tensor, y: Tensor, rng: random.Random) -> Blend:
        return rng.choice(ways or (plain,))(x, y, rng)

    return mix


def _span(size: int, share: float, rng: random.Random) -> slice:
    """``share`` of ``size`` pixels around a random centre, as much of it as is inside."""
    length, centre = round(size * share), rng.randrange(size)
    first = centre - length // 2
    return slice(max(first, 0), min(first + length, size))
