"""Convolutions as the accelerator takes them: their weights as words, their jobs, their result."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgenas.fpga.commands import DENSE, DEPTHWISE, Fields
from edgenas.fpga.reference import LEAST, MOST, Requantizer, convolved, requantized
from edgenas.fpga.shape import Shape


def over(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class Rows:
    """``rows`` of a map of ``size`` x ``size`` pixels in a buffer from ``base`` on, as a ring.

    Each row is ``tiles`` x ``size`` words.
    """

    base: int
    rows: range
    tiles: int
    size: int

    def fields(self, first: int, stride: int) -> Fields:
        """To read from row ``first`` on, which may lie outside of the map."""
        count, pitch = len(self.rows), self.tiles * self.size
        return {
            "pitch": pitch, "plane": self.size, "row_step": stride * pitch, "ring": count * pitch,
            "ring_end": self.base + count * pitch,
            "row_start": self.base + (first - self.rows.start) % count * pitch,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution on integers, of squares.

    ``weight`` (cout, cin, k, k) int8, or (c, 1, k, k) depthwise. ``bias`` (cout,): with what the
    zero point of the input takes away. ``scales``: of each channel. ``table`` (256,) int8: what
    becomes of a byte in the end, if not itself, by the byte as a number without a sign.
    """

    size: int
    channels: int
    weight: np.ndarray
    bias: np.ndarray
    scales: tuple[Requantizer, ...]
    stride: int
    padding: int
    depthwise: bool
    zero_in: int
    zero_out: int
    low: int = LEAST
    high: int = MOST
    table: np.ndarray | None = None

    @property
    def k(self) -> int:
        """Of the kernel."""
        return int(self.weight.shape[2])

    @property
    def cout(self) -> int:
        """Channels of the output."""
        return len(self.weight)

    @property
    def out_size(self) -> int:
        """Of the output."""
        return (self.size + 2 * self.padding - self.k) // self.stride + 1

    @property
    def geometry(self) -> tuple[object, ...]:
        """All that decides how long it takes."""
        return (
            self.size, self.channels, self.weight.shape, self.stride, self.padding, self.depthwise,
            self.table is None,
        )  # fmt: skip

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """int8 (channels, size, size) -> int8."""
        sums = convolved(
            x, self.weight, self.bias, self.stride, self.padding, self.zero_in, self.depthwise
        )
        y = requantized(sums, self.scales, self.zero_out, self.low, self.high)
        return y if self.table is None else self.table[y.view(np.uint8)]

    def words(
        self, shape: Shape, outputs: range | None = None, inputs: range | None = None
    ) -> np.ndarray:
        """Weights and parameters of channels, (n, lanes) uint8 in the order of their reading."""
        outputs = range(self.cout) if outputs is None else outputs
        weight = self.weight[outputs.start : outputs.stop]
        if inputs is not None:
            weight = weight[:, inputs.start : inputs.stop]
        tiles = over(len(weight), shape.lanes)
        wide = np.zeros((tiles * shape.lanes, *weight.shape[1:]), np.int8)
        wide[: len(weight)] = weight
        arranged = _depthwise if self.depthwise else _dense
        iterations = arranged(wide, shape.taps).reshape(-1, shape.taps, tiles, shape.lanes)
        rows = iterations.transpose(2, 0, 1, 3).reshape(tiles, -1, shape.lanes).view(np.uint8)
        first, rest = rows[:, : shape.taps], rows[:, shape.taps :]
        parameters = self._parameters(outputs, tiles, shape)
        return np.concatenate([first, parameters, rest], axis=1).reshape(-1, shape.lanes)

    def _parameters(self, outputs: range, tiles: int, shape: Shape) -> np.ndarray:
        words = np.zeros(tiles * shape.lanes, np.uint64)
        words[: len(outputs)] = self._words[outputs.start : outputs.stop]
        return words.view(np.uint8).reshape(tiles, shape.parameter_words, shape.lanes)

    @cached_property
    def _words(self) -> np.ndarray:
        """Parameters of each channel."""
        pairs = zip(self.scales, self.bias.tolist(), strict=True)
        return np.array([scale.word(bias) for scale, bias in pairs], np.uint64)

    def job(self, shape: Shape, rows: range, held: Rows, channels: int, tiles: int) -> Fields:
        """``rows`` of ``tiles`` of the output, out of so many ``channels`` in ``held``.

        Buffers, weights and where results go are left to whoever runs it.
        """
        stride, n = self.stride, self.out_size
        first = rows.start * stride - self.padding
        seen = min(self.k, shape.taps)  # pixels of a row until a window is full
        own: Fields = {
            "mode": DEPTHWISE, "inputs": 1, "kx": over(self.k, shape.taps),
            "issues": (n - 1) * stride + seen, "x_step": 1, "warmup": seen, "every": stride,
        } if self.depthwise else {
            "mode": DENSE, "inputs": over(channels, shape.taps), "kx": self.k, "issues": n,
            "x_step": stride, "warmup": 1, "every": 1,
        }  # fmt: skip
        return {
            **own, **held.fields(first, stride), "first": 1, "last": 1, "tiles": tiles,
            "ky": self.k, "rows": len(rows), "y_step": stride,
            "x_start": -self.padding, "y_start": first, "height": self.size, "width": self.size,
            "out_plane": n, "out_pitch": tiles * n, "padding": self.zero_in,
            "zero": self.zero_out, "low": self.low, "high": self.high,
            "table": int(self.table is not None),
        }  # fmt: skip


def unchanged(channels: int, size: int, zero: int) -> Layer:
    """What leaves a map with the zero point ``zero`` as it is."""
    ones, scales = np.ones((channels, 1, 1, 1), np.int8), (Requantizer.of(1.0),) * channels
    bias = np.full(channels, -zero, np.int64)
    return Layer(size, channels, ones, bias, scales, 1, 0, True, zero, zero)


def _dense(weight: np.ndarray, taps: int) -> np.ndarray:
    """(outputs, inputs, k, k) as (iterations, taps, outputs): rows, columns, groups of inputs."""
    n, channels, k, _ = weight.shape
    wide = np.zeros((n, over(channels, taps) * taps, k, k), np.int8)
    wide[:, :channels] = weight
    return wide.transpose(2, 3, 1, 0).reshape(-1, taps, n)


def _depthwise(weight: np.ndarray, taps: int) -> np.ndarray:
    """(channels, 1, k, k) as (iterations, taps, channels), the newest pixel of a window first."""
    n, _, k, _ = weight.shape
    groups, seen = over(k, taps), min(k, taps)
    wide = np.zeros((n, k, groups * taps), np.int8)
    wide[:, :, :k] = weight[:, 0]
    windows = wide.reshape(n, k, groups, taps)
    turned = np.zeros_like(windows)
    turned[..., :seen] = windows[..., :seen][..., ::-1]
    return turned.transpose(1, 2, 3, 0).reshape(-1, taps, n)


def packed(x: np.ndarray, lanes: int) -> np.ndarray:
    """(c, h, w) int8 as words (h * tiles * w, lanes) uint8, channels filled up with zeros."""
    c, h, w = x.shape
    tiles = over(c, lanes)
    wide = np.zeros((tiles * lanes, h, w), np.int8)
    wide[:c] = x
    return wide.reshape(tiles, lanes, h, w).transpose(2, 0, 3, 1).reshape(-1, lanes).view(np.uint8)


def unpacked(words: np.ndarray, channels: int, size: int, lanes: int) -> np.ndarray:
    """Inverse of ``packed``, of a square."""
    tiles = over(channels, lanes)
    x = words.view(np.int8).reshape(size, tiles, size, lanes).transpose(1, 3, 0, 2)
    return x.reshape(tiles * lanes, size, size)[:channels]
