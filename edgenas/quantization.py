"""Integers from ranges: one rule for every format, so the same integers reach every file.

Activations: 8 bit, asymmetric, per tensor; held here as uint8, int8 is 128 less. Weights: int8,
symmetric, per output channel. Biases: int32 (arXiv:1712.05877, section 2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgenas.errors import CapabilityError
from edgenas.graph import INPUT, Activation, Add, Conv, Graph, Linear, MaxPool, Mean

TOP: Mapping[Activation, float] = {"relu6": 6.0, "unit": 1.0}
_BIAS_LIMIT = 2**30  # leaves as much of int32 to the products
_TOP, _LEAST_SCALE = 127, 1e-12  # a channel that is zero fits any scale
_FINEST = 128  # steps of a mean to one of what it is of: ONNX Runtime refuses 256
_LEAST_MULTIPLIER = 2**-24  # finer weights cannot move the output by one step


@dataclass(frozen=True, slots=True)
class Scale:
    """real = scale * (q - zero_point), q in 0..255."""

    scale: np.float32
    zero_point: int

    @classmethod
    def of(cls, low: float, high: float) -> "Scale":
        """Covers [low, high] and represents zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        width = high - low or 1.0  # a tensor that is always zero fits any scale
        scale = np.float32(max(width / 255, 1e-12))
        return cls(scale, int(np.clip(round(-low / float(scale)), 0, 255)))

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Nearest uint8, ties to even."""
        q: np.ndarray = np.clip(np.rint(x / self.scale) + self.zero_point, 0, 255)
        return q.astype(np.uint8)


# Hard-swish is x/6, + 1/2 clamped to [0, 1] by saturation, * x: three operators that have integer
# kernels everywhere, which hard-swish itself has not.
SIXTH, HALF, UNIT = (Scale(np.float32(v / 255), 0) for v in (1 / 6, 1 / 2, 1.0))


def sixth(x: Scale) -> Scale:
    """Of x / 6: the integers of x."""
    return Scale(np.float32(x.scale / 6), x.zero_point)


@dataclass(frozen=True, eq=False, slots=True)
class Weights:
    """int8 ``weight`` in PyTorch's layout, int32 ``bias``, and their scales (cout,)."""

    weight: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    bias_scales: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, bias: np.ndarray, x: Scale, y: Scale) -> "Weights":
        """Of an operator that reads ``x`` and writes ``y``.

        A channel of (nearly) zero weights gets a scale at which its bias still fits int32.
        """
        largest = np.abs(weight).reshape(len(weight), -1).max(1).astype(np.float64) / 127
        of_bias, least = least_scales(x, y)
        needed = np.abs(bias).astype(np.float64) * of_bias
        scales = np.maximum(np.maximum(largest, needed), least).astype(np.float32)
        per_channel = scales.reshape(-1, *(1,) * (weight.ndim - 1))
        bias_scales = scales * x.scale
        return cls(
            np.clip(np.rint(weight / per_channel), -127, 127).astype(np.int8),
            scales,
            np.rint(bias / bias_scales.astype(np.float64)).astype(np.int32),
            bias_scales,
        )


def half(node: Conv | Linear) -> np.ndarray:
    """The weight of ``node`` in float16. Raises CapabilityError where that cannot hold it."""
    largest, most = float(np.abs(node.weight).max()), float(np.finfo(np.float16).max)
    if largest > most:
        raise CapabilityError(
            f"{node.name} has a weight of {largest:.3g}, batch norm folded, and fp16 ends at "
            f"{most:.0f}"
        )
    return node.weight.astype(np.float16)


def by_channel(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 of ``weight`` (cout, ...), -127 to 127, and a scale for each output channel."""
    largest = np.abs(weight).reshape(len(weight), -1).max(1) / _TOP
    scales = np.maximum(largest, _LEAST_SCALE).astype(np.float32)
    q = np.rint(weight / scales.reshape(-1, *(1,) * (weight.ndim - 1)))
    return q.clip(-_TOP, _TOP).astype(np.int8), scales


def by_tensor(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As ``by_channel``, with one scale (1,) for all."""
    q, scales = by_channel(weight.reshape(1, -1))
    return q.reshape(weight.shape), scales


def _short(x: Scale, mean: Scale) -> float:
    """By how much the steps of a ``mean`` of ``x`` are too fine for ONNX Runtime's kernel."""
    return float(x.scale) / (_FINEST * float(mean.scale))


def least_scales(x: Scale, y: Scale) -> tuple[float, float]:
    """Of the weights of a channel, however small, of an operator from ``x`` to ``y``.

    Of each unit of its bias, so that this fits int32; and whatever the bias.
    """
    return 1 / (float(x.scale) * _BIAS_LIMIT), _LEAST_MULTIPLIER * float(y.scale) / float(x.scale)


@dataclass(frozen=True, eq=False)
class Quantized:
    """The integers of a graph with ranges: a scale for every tensor, weights on demand."""

    graph: Graph
    scales: Mapping[str, Scale] = field(init=False)

    def __post_init__(self) -> None:
        ranges = self.graph.ranges
        if ranges is None:
            raise ValueError("the graph has no ranges; calibrate it first")
        scales = {INPUT: Scale.of(*ranges[INPUT])}
        for n in self.graph.nodes:
            if isinstance(n, MaxPool):  # picks among the integers that it reads
                scales[n.name] = scales[n.inputs[0]]
                continue
            low, high = ranges[n.name]
            # Saturation at zero and at the top replaces the activation.
            if isinstance(n, Conv | Linear | Add) and n.act != "none":
                low, high = 0.0, min(high, TOP.get(n.act, high))
            scales[n.name] = Scale.of(low, high)
            if isinstance(n, Mean) and (short := _short(scales[n.inputs[0]], scales[n.name])) > 1:
                scales[n.name] = Scale.of(low * short, high * short)
        object.__setattr__(self, "scales", scales)

    def weights(self, node: Conv | Linear) -> Weights:
        """Of ``node``."""
        x, y = self.scales[node.inputs[0]], self.scales[node.name]
        return Weights.of(node.weight, node.bias, x, y)
