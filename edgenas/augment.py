"""Random changes to training images: whole batches of bytes at once, repeatable by generator."""

import random
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from edgenas.validate import Whole


@dataclass(frozen=True)
class Augment:
    """``flip`` left-right half of the time; ``shift`` up to so many pixels each way, black outside.

    ``cutout``: side of one square set to mid-grey (arXiv:1708.04552, sec. 3); 0 for none.
    """

    flip: bool = True
    shift: Whole = 2
    cutout: Whole = 0

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(n, c, h, w) uint8 -> the same shape; ``x`` is left as it is.

        ``generator`` is of the CPU wherever ``x`` is: the same changes everywhere.
        """
        x = _shifted(x, self.shift, generator) if self.shift else x.clone()
        if self.flip:
            chosen = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
            x[chosen] = x[chosen].flip(3)
        if self.cutout:
            _cut(x, self.cutout, generator)
        return x


def stream(*key: object) -> Generator:
    """Random numbers that depend on ``key`` alone, e.g. a seed and the number of a batch."""
    return Generator().manual_seed(random.Random("/".join(map(str, key))).getrandbits(63))


def _shifted(x: Tensor, most: int, generator: Generator) -> Tensor:
    n, _, h, w = x.shape
    windows = F.pad(x, (most,) * 4).unfold(2, h, 1).unfold(3, w, 1)
    dy, dx = torch.randint(2 * most + 1, (2, n), generator=generator).to(x.device)
    return windows[torch.arange(n, device=x.device), :, dy, dx]


def _cut(x: Tensor, side: int, generator: Generator) -> None:
    n, _, h, w = x.shape
    inside = []
    for size in (h, w):
        first = torch.randint(size, (n, 1), generator=generator) - side // 2
        at = torch.arange(size)
        inside.append((at >= first) & (at < first + side))
    rows, columns = inside
    square = rows[:, :, None] & columns[:, None, :]
    x.masked_fill_(square[:, None].to(x.device), 128)
