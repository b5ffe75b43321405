"""Random changes to training images: whole batches of bytes at once, repeatable by generator."""

import hashlib
import inspect
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from edgenas import called
from edgenas.blame import located
from edgenas.errors import DataError
from edgenas.validate import Degrees, Fraction, Share, Whole

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)


class Augmentation(Protocol):
    """What is done to training images."""

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(n, c, h, w) uint8 -> the same shape; ``x`` is left as it is.

        ``generator`` is of the CPU wherever ``x`` is: the same changes everywhere.
        """
        ...

    @property
    def written(self) -> Any:
        """As a config has it, JSON types."""
        ...

    @property
    def key(self) -> Any:
        """All that decides what it does, JSON types."""
        ...


@dataclass(frozen=True)
class Augment:
    """``flip`` left-right half of the time; ``shift`` up to so many pixels each way, black outside.

    ``crop``: a part of at least this share of the area, scaled to the whole (arXiv:1409.4842, sec.
    6), its sides up to 4 : 3; 1 takes all. ``rotate``: up to so many degrees each way; what lies
    outside mirrors the inside. ``colour``: brightness, contrast and saturation each by a factor
    within 1 - colour and 1 + colour. ``cutout``: side of one square set to mid-grey
    (arXiv:1708.04552, sec. 3); 0 for none.
    """

    flip: bool = True
    shift: Whole = 2
    crop: Share = 1.0
    rotate: Degrees = 0.0
    colour: Fraction = 0.0
    cutout: Whole = 0

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """As of ``Augmentation``."""
        x = _shifted(x, self.shift, generator) if self.shift else x.clone()
        if self.flip:
            chosen = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
            x[chosen] = x[chosen].flip(3)
        if self.crop < 1 or self.rotate:
            x = _windows(x, self.crop, self.rotate, generator)
        if self.colour:
            x = _coloured(x, self.colour, generator)
        if self.cutout:
            _cut(x, self.cutout, generator)
        return x

    @property
    def written(self) -> Any:
        """Its fields."""
        return asdict(self)

    @property
    def key(self) -> Any:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True)
class Own:
    """The user's function ``call``, ``module:function``: takes and gives what ``Augment`` does."""

    call: str

    @cached_property
    def _function(self) -> Callable[..., Any]:
        return called.function(self.call, "task: augment")

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """As of ``Augmentation``. Raises DataError."""
        try:
            made: object = self._function(x.clone(), generator)
        except (Exception, SystemExit) as e:  # the user's code may raise anything
            raise DataError(f"task: augment: {self.call} raised {located(e)}") from e
        if not isinstance(made, Tensor) or (made.shape, made.dtype) != (x.shape, x.dtype):
            raise DataError(
                f"task: augment: {self.call} gave {_told(made)}; expected what it was given, a "
                f"torch.Tensor of {x.dtype} and shape {tuple(x.shape)}"
            )
        return made

    @property
    def written(self) -> Any:
        """Its name."""
        return self.call

    @property
    def key(self) -> Any:
        """Its name, and the content of its file."""
        try:
            file = inspect.getsourcefile(self._function)
        except TypeError:  # built in
            file = None
        source = Path(file).read_bytes() if file else b""
        return [self.call, hashlib.sha256(source).hexdigest()]


def _told(made: object) -> str:
    if isinstance(made, Tensor):
        return f"one of {made.dtype} and shape {tuple(made.shape)}"
    return f"a {type(made).__name__}"


def stream(*key: object) -> Generator:
    """Random numbers that depend on ``key`` alone, e.g. a seed and the number of a batch."""
    return Generator().manual_seed(random.Random("/".join(map(str, key))).getrandbits(63))


def _shifted(x: Tensor, most: int, generator: Generator) -> Tensor:
    n, _, h, w = x.shape
    windows = F.pad(x, (most,) * 4).unfold(2, h, 1).unfold(3, w, 1)
    dy, dx = torch.randint(2 * most + 1, (2, n), generator=generator).to(x.device)
    return windows[torch.arange(n, device=x.device), :, dy, dx]


def _windows(x: Tensor, least: float, most: float, generator: Generator) -> Tensor:
    """A window of each image, turned by at most ``most`` degrees, as a whole image."""
    n = len(x)
    area, aspect, right, down, turn = torch.rand(5, n, generator=generator).unbind()
    area, aspect = least + (1 - least) * area, (4 / 3) ** (2 * aspect - 1)
    width, height = ((area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1))
    angle = (2 * turn - 1) * most * torch.pi / 180
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([width * cos, -height * sin, (2 * right - 1) * (1 - width)], 1),
        torch.stack([width * sin, height * cos, (2 * down - 1) * (1 - height)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1).to(x.device), list(x.shape), align_corners=False)
    seen = F.grid_sample(
        x.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return seen.round_().byte()


def _coloured(x: Tensor, most: float, generator: Generator) -> Tensor:
    """Brightness, contrast, saturation, in this order; grey images have no saturation."""
    n, channels = x.shape[:2]
    factors = 1 + most * (2 * torch.rand(3, n, 1, 1, 1, generator=generator) - 1)
    bright, contrast, saturation = factors.to(x.device).unbind()
    y = x.float() * bright
    mean = y.mean((1, 2, 3), keepdim=True)
    y = mean + (y - mean) * contrast
    if channels == len(LUMA):
        grey = (y * torch.tensor(LUMA, device=x.device).view(1, -1, 1, 1)).sum(1, keepdim=True)
        y = grey + (y - grey) * saturation
    return y.round_().clamp_(0, 255).byte()


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
