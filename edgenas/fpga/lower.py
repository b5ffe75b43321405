"""A network on integers as steps of the accelerator; a block that stays on the chip is one step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgenas.errors import CapabilityError
from edgenas.fpga.fused import Bottleneck
from edgenas.fpga.layers import Layer, unchanged
from edgenas.fpga.network import INPUT, Network, Op
from edgenas.fpga.reference import LEAST, MOST, Requantizer
from edgenas.fpga.shape import Shape
from edgenas.fpga.sums import Sum

_LARGEST_MEAN, _LARGEST_STRIDE = 15, 7


@dataclass(frozen=True, eq=False)
class Step:
    """``work`` makes the tensor ``name``, (channels, size, size) int8, out of ``inputs``.

    ``apart``: the same as several steps, whose maps all go through DRAM.
    """

    name: str
    inputs: tuple[str, ...]
    work: Layer | Bottleneck | Sum
    channels: int
    size: int
    apart: tuple["Step", ...] = ()


def steps(network: Network, shape: Shape) -> list[Step]:
    """In order. Raises CapabilityError for what the accelerator does not compute."""
    if network.input[1] != network.input[2]:
        raise CapabilityError(f"the accelerator takes square images, not {network.input[1:]}")
    lowering = _Lowering(network, shape)
    found: list[Step] = []
    ops = list(network.ops)
    while ops:
        step, count = lowering.block(ops) or lowering.activated(ops) or (lowering.single(ops[0]), 1)
        found.append(step)
        ops = ops[count:]
    return found


def values(found: Sequence[Step], x: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of the network on ``x`` (c, h, w) int8, as the accelerator computes it."""
    known = {INPUT: x}
    for step in found:
        known[step.name] = step.work(*(known[name] for name in step.inputs))
    return known


@dataclass(frozen=True)
class _Lowering:
    network: Network
    shape: Shape

    @cached_property
    def _readers(self) -> Mapping[str, int]:
        return Counter(name for op in self.network.ops for name in op.inputs)

    def single(self, op: Op) -> Step:
        """``op`` as a step of its own."""
        work: Layer | Sum
        match op.kind:
            case "conv" | "linear":
                work = self._layer(op)
            case "mean":
                work = self._mean(op)
            case "add":
                work = self._sum(op, *op.inputs)
            case "hard-swish":
                zero = self.network.scales[op.inputs[0]].zero
                same = unchanged(op.shape[0], _size(op.shape), zero)
                work = replace(same, table=self._hard_swish(op))
        return Step(op.name, op.inputs, work, op.shape[0], _size(op.shape))

    def activated(self, ops: Sequence[Op]) -> tuple[Step, int] | None:
        """A layer with the hard-swish behind it, which nothing else reads."""
        op, *rest = ops[:2]
        if op.kind not in ("conv", "linear") or not rest or rest[0].kind != "hard-swish":
            return None
        (after,) = rest
        if after.inputs != (op.name,) or self._readers[op.name] > 1:
            return None
        work = replace(self._layer(op), table=self._hard_swish(after))
        return Step(after.name, op.inputs, work, op.shape[0], _size(op.shape)), 2

    def block(self, ops: Sequence[Op]) -> tuple[Step, int] | None:
        """The bottleneck that begins with ``ops``, and how many of them it is."""
        chain = [ops[0]]
        for op in ops[1:3]:
            if op.inputs != (chain[-1].name,) or self._readers[chain[-1].name] > 1:
                break
            chain.append(op)
        kinds = [self._kind(op) for op in chain]
        count = 3 if kinds == ["1x1", "depthwise", "1x1"] else 2
        if count == 2 and kinds[:2] != ["depthwise", "1x1"]:
            return None
        layers = [self._layer(op) for op in chain[:count]]
        begin, last, added = chain[0].inputs[0], chain[count - 1], None
        after = ops[count] if len(ops) > count else None
        if (
            after is not None
            and after.kind == "add"
            and set(after.inputs) == {begin, last.name}
            and self._readers[last.name] == 1
        ):
            added, last, count = self._sum(after, begin, last.name), after, count + 1
        expand = layers[0] if len(layers) == 3 else None
        work = Bottleneck(expand, layers[-2], layers[-1], added)
        apart = tuple(self.single(op) for op in ops[:count])
        return Step(last.name, (begin,), work, last.shape[0], _size(last.shape), apart), count

    def _kind(self, op: Op) -> str:
        if op.kind != "conv":
            return op.kind
        if op.groups > 1:
            return "depthwise"
        return "1x1" if self.network.weights[op.name].weight.shape[2] == op.stride == 1 else "dense"

    def _layer(self, op: Op) -> Layer:
        shape, held = self.network.shape(op.inputs[0]), self.network.weights[op.name]
        x, y = self.network.scales[op.inputs[0]], self.network.scales[op.name]
        if op.groups > 1 and not op.groups == shape[0] == len(held.weight):
            raise CapabilityError(f"{op.name}: the accelerator has no groups of several channels")
        if op.padding >= held.weight.shape[2] or op.stride > _LARGEST_STRIDE:
            raise CapabilityError(
                f"{op.name}: the accelerator has strides up to {_LARGEST_STRIDE} and less padding "
                f"than its kernel, not {op.stride} and {op.padding} of {held.weight.shape[2]}"
            )
        taken = x.zero * held.weight.reshape(len(held.weight), -1).astype(np.int64).sum(1)
        scales = held.scales.astype(np.float64) * x.scale / y.scale
        return Layer(
            _size(shape), shape[0], held.weight, held.bias.astype(np.int64) - taken,
            tuple(_requantizer(op, s) for s in scales), op.stride, op.padding, op.groups > 1,
            x.zero, y.zero,
        )  # fmt: skip

    def _hard_swish(self, op: Op) -> np.ndarray:
        """(256,) int8, by a byte without its sign."""
        x, y = self.network.scales[op.inputs[0]], self.network.scales[op.name]
        real = (np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64) - x.zero) * x.scale
        wanted = real * np.clip(real + 3, 0, 6) / 6
        table: np.ndarray = np.clip(np.rint(wanted / y.scale) + y.zero, LEAST, MOST)
        return table.astype(np.int8)

    def _mean(self, op: Op) -> Layer:
        channels, *_ = shape = self.network.shape(op.inputs[0])
        size = _size(shape)
        if size > _LARGEST_MEAN:
            raise CapabilityError(
                f"{op.name}: a mean over {size} x {size}, and {_LARGEST_MEAN} x {_LARGEST_MEAN} "
                "is the largest of the accelerator"
            )
        x, y = self.network.scales[op.inputs[0]], self.network.scales[op.name]
        scale = _requantizer(op, x.scale / y.scale / size**2)
        return Layer(
            size, channels, np.ones((channels, 1, size, size), np.int8),
            np.full(channels, -x.zero * size**2, np.int64), (scale,) * channels, 1, 0, True,
            x.zero, y.zero,
        )  # fmt: skip

    def _sum(self, op: Op, first: str, second: str) -> Sum:
        a, b, y = (self.network.scales[name] for name in (first, second, op.name))
        return Sum(a.scale, b.scale, y.scale, a.zero, b.zero, y.zero, self.shape.taps)


def _size(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) == 3 else 1


def _requantizer(op: Op, scale: float) -> Requantizer:
    try:
        return Requantizer.of(float(scale))
    except ValueError as e:
        raise CapabilityError(f"{op.name}: {e}") from e
