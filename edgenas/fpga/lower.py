"""A graph on integers as steps of the accelerator; blocks that stay on the chip are one step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.errors import CapabilityError
from edgenas.fpga.fused import Bottleneck
from edgenas.fpga.layers import Layer
from edgenas.fpga.reference import Requantizer
from edgenas.fpga.shape import Shape
from edgenas.fpga.sums import Sum
from edgenas.graph import INPUT, Add, Conv, Graph, Linear, Mean, Node
from edgenas.quantization import Quantized, Scale

_LARGEST_MEAN = 15


@dataclass(frozen=True, eq=False)
class Step:
    """``work`` makes the tensor ``name``, (channels, size, size) int8, out of ``inputs``."""

    name: str
    inputs: tuple[str, ...]
    work: Layer | Bottleneck | Sum
    channels: int
    size: int


def steps(graph: Graph, shape: Shape) -> list[Step]:
    """In order. Raises CapabilityError for what the accelerator does not compute."""
    if graph.precision != "int8-static":
        raise CapabilityError(f"the accelerator computes int8-static, not {graph.precision}")
    lowering = _Lowering(graph, Quantized(graph), shape)
    found: list[Step] = []
    nodes = list(graph.nodes)
    while nodes:
        step, count = lowering.block(nodes) or (lowering.single(nodes[0]), 1)
        found.append(step)
        nodes = nodes[count:]
    return found


def values(found: Sequence[Step], x: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of the network on ``x`` (c, h, w) int8, as the accelerator computes it."""
    known = {INPUT: x}
    for step in found:
        known[step.name] = step.work(*(known[name] for name in step.inputs))
    return known


@dataclass(frozen=True)
class _Lowering:
    graph: Graph
    numbers: Quantized
    shape: Shape

    @property
    def _readers(self) -> Mapping[str, int]:
        return Counter(name for node in self.graph.nodes for name in node.inputs)

    def single(self, node: Node) -> Step:
        """``node`` as a step of its own."""
        match node:
            case Conv() | Linear():
                return _step(node, self._layer(node))
            case Mean():
                return _step(node, self._mean(node))
            case Add():
                return _step(node, self._sum(node))
        raise CapabilityError(f"the accelerator has no {type(node).__name__} ({node.name})")

    def block(self, nodes: Sequence[Node]) -> tuple[Step, int] | None:
        """The bottleneck that begins with ``nodes``, and how many of them it is."""
        chain = [nodes[0]]
        readers = self._readers
        for node in nodes[1:3]:
            if node.inputs == (chain[-1].name,) and readers[chain[-1].name] == 1:
                chain.append(node)
        kinds = [_kind(node) for node in chain]
        count = 3 if kinds == ["1x1", "depthwise", "1x1"] else 2
        if count == 2 and kinds[:2] != ["depthwise", "1x1"]:
            return None
        layers = [self._layer(n) for n in chain[:count] if isinstance(n, Conv)]
        begin, last, added = chain[0].inputs[0], chain[count - 1], None
        after = nodes[count] if len(nodes) > count else None
        if (
            isinstance(after, Add)
            and set(after.inputs) == {begin, last.name}
            and readers[last.name] == 1
        ):
            added, last, count = self._added(after, begin, last.name), after, count + 1
        expand = layers[0] if len(layers) == 3 else None
        work = Bottleneck(expand, layers[-2], layers[-1], added)
        return Step(last.name, (begin,), work, last.shape[0], _size(last.shape)), count

    def _layer(self, node: Conv | Linear) -> Layer:
        shape = self.graph.shape(node.inputs[0])
        x, y = self.numbers.scales[node.inputs[0]], self.numbers.scales[node.name]
        held = self.numbers.weights(node)
        weight = held.weight if held.weight.ndim == 4 else held.weight[:, :, None, None]
        conv = node if isinstance(node, Conv) else None
        depthwise = conv is not None and conv.groups > 1
        if conv is not None and depthwise and not conv.groups == shape[0] == len(weight):
            raise CapabilityError(f"{node.name}: the accelerator has no groups of several channels")
        taken = _zero(x) * weight.reshape(len(weight), -1).astype(np.int64).sum(1)
        scales = held.scales.astype(np.float64) * float(x.scale) / float(y.scale)
        return Layer(
            _size(shape), shape[0], weight, held.bias.astype(np.int64) - taken,
            tuple(_requantizer(node, s) for s in scales), conv.stride if conv else 1,
            conv.padding if conv else 0, depthwise, _zero(x), _zero(y),
        )  # fmt: skip

    def _mean(self, node: Mean) -> Layer:
        channels, *_ = shape = self.graph.shape(node.inputs[0])
        size = _size(shape)
        if size > _LARGEST_MEAN:
            raise CapabilityError(
                f"{node.name}: a mean over {size} x {size}, and {_LARGEST_MEAN} x {_LARGEST_MEAN} "
                "is the largest of the accelerator"
            )
        x, y = self.numbers.scales[node.inputs[0]], self.numbers.scales[node.name]
        scale = _requantizer(node, float(x.scale) / float(y.scale) / size**2)
        return Layer(
            size, channels, np.ones((channels, 1, size, size), np.int8),
            np.full(channels, -_zero(x) * size**2, np.int64), (scale,) * channels, 1, 0, True,
            _zero(x), _zero(y),
        )  # fmt: skip

    def _sum(self, node: Add) -> Sum:
        return self._added(node, *node.inputs)

    def _added(self, node: Add, first: str, second: str) -> Sum:
        a, b, y = (self.numbers.scales[name] for name in (first, second, node.name))
        return Sum(
            float(a.scale), float(b.scale), float(y.scale), _zero(a), _zero(b), _zero(y),
            self.shape.taps,
        )  # fmt: skip


def _step(node: Node, work: Layer | Sum) -> Step:
    return Step(node.name, node.inputs, work, node.shape[0], _size(node.shape))


def _kind(node: Node) -> str:
    if not isinstance(node, Conv):
        return type(node).__name__
    if node.groups > 1:
        return "depthwise"
    return "1x1" if node.weight.shape[2] == node.stride == 1 else "dense"


def _zero(scale: Scale) -> int:
    return scale.zero_point - 128


def _size(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) == 3 else 1


def _requantizer(node: Node, scale: float) -> Requantizer:
    try:
        return Requantizer.of(scale)
    except ValueError as e:
        raise CapabilityError(f"{node.name}: {e}") from e
