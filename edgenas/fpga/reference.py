"""What the accelerator computes, in numpy: the arithmetic that the hardware equals bit for bit.

Activations are int8 with a zero point, weights int8, sums 32 bits. A sum becomes a byte by a shift,
a product of 18 x 18 bits and another shift.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OPERAND, MULTIPLIER = 18, 17  # bits of what a sum is shifted to, and of what it is multiplied by
LEAST, MOST = -128, 127
_SMALL = 1 << 10  # a byte, its zero point and a bit to round by stay below


@dataclass(frozen=True)
class Requantizer:
    """``multiplier`` / 2 ** (``before`` + ``after``) is a channel's scale, to 2 ** -17 of it."""

    multiplier: int
    before: int
    after: int

    @classmethod
    def of(cls, scale: float) -> "Requantizer":
        """For bytes that are ``scale`` of a sum. Raises ValueError for what cannot be held."""
        if not 2.0**-38 < scale < 2.0**6:
            raise ValueError(f"a scale of {scale:g} is out of the range of the hardware")
        # Beyond 256 / scale a byte is at its end: of sums below, the upper bits are kept.
        before = max(0, math.ceil(math.log2(256 / scale)) - (OPERAND - 1))
        after = MULTIPLIER - 1 - math.floor(math.log2(scale * 2.0**before))
        multiplier = round(scale * 2.0 ** (before + after))
        if multiplier == 1 << MULTIPLIER:
            multiplier, after = multiplier >> 1, after - 1
        return cls(multiplier, before, after)

    def word(self, bias: int) -> np.uint64:
        """As a lane reads it: the bias of its channel, the multiplier, both shifts."""
        scale = self.multiplier | self.before << MULTIPLIER | self.after - 1 << MULTIPLIER + 5
        if not -(2**31) <= bias < 2**31:
            raise ValueError(f"a bias of {bias} does not fit 32 bits")
        return np.uint64((bias & 0xFFFFFFFF) | scale << 32)


def requantized(
    sums: np.ndarray, channels: Sequence[Requantizer], zero: int, low: int = LEAST, high: int = MOST
) -> np.ndarray:
    """int8 of ``sums`` (channels, ...) int64, clipped to [low, high]."""
    shape = (-1,) + (1,) * (sums.ndim - 1)
    before, multiplier, after = (
        np.array([getattr(c, name) for c in channels], np.int64).reshape(shape)
        for name in ("before", "multiplier", "after")
    )
    top = 1 << OPERAND - 1
    operand = np.clip(sums >> before, -top, top - 1)
    value = np.clip((operand * multiplier) >> after - 1, -_SMALL, _SMALL - 1)
    y: np.ndarray = np.clip(((value + 1) >> 1) + zero, low, high)
    return y.astype(np.int8)


def convolved(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int, zero: int,
    depthwise: bool,
) -> np.ndarray:  # fmt: skip
    """Sums (cout, h, w) int64 of ``x`` (cin, h, w) int8, padded with ``zero``."""
    k = weight.shape[2]
    sides = (padding, padding)
    # float64 holds these integers exactly, and multiplies matrices many times as fast.
    wide = np.pad(x.astype(np.float64), ((0, 0), sides, sides), constant_values=zero)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (k, k), (1, 2))[:, ::stride, ::stride]
    w = weight.astype(np.float64)
    if depthwise:
        sums = np.einsum("chwij,cij->chw", windows, w[:, 0])
    else:
        sums = np.tensordot(w, windows, axes=([1, 2, 3], [0, 3, 4]))
    whole: np.ndarray = sums.astype(np.int64)
    return whole + bias.astype(np.int64)[:, None, None]
