"""The graph: operators, their weights and shapes, and a float reference of what they compute.

Shapes are those of one image: maps (c, h, w), vectors (c,). Weights are float32 in PyTorch's
layout; whether a file is NCHW or NHWC is its exporter's business.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgenas.errors import UsageError

INPUT, VECTOR = "input", "vector"
Activation = Literal["none", "relu", "relu6", "unit"]  # unit: clipped to [0, 1]
Ranges = Mapping[str, tuple[float, float]]  # of "input" and of each node: least, greatest value
# What weights are held as where activations are float32; ``int8-dynamic`` computes on integers too,
# with activations rounded by each image's own range.
Held = Literal["fp32", "fp16", "int8-weights", "int8-dynamic"]


@dataclass(frozen=True, eq=False)
class Node:
    """One operator. ``inputs`` name nodes or ``input``; its output has its name and ``shape``."""

    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Conv(Node):
    """Convolution, bias, activation. ``weight`` (cout, cin / groups, k, k), ``bias`` (cout,)."""

    weight: np.ndarray
    bias: np.ndarray
    stride: int
    padding: int
    groups: int
    act: Activation = "none"


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """Fully connected, bias, activation. ``weight`` (out, in), ``bias`` (out,)."""

    weight: np.ndarray
    bias: np.ndarray
    act: Activation = "none"


@dataclass(frozen=True, eq=False)
class Add(Node):
    """Sum of two equal shapes, activation."""

    act: Activation = "none"


@dataclass(frozen=True, eq=False)
class MaxPool(Node):
    """Greatest of k x k; what is padded never is."""

    k: int
    stride: int
    padding: int


@dataclass(frozen=True, eq=False)
class Mul(Node):
    """A map (c, h, w) times a gate (c, 1, 1), in this order."""


@dataclass(frozen=True, eq=False)
class Mean(Node):
    """Global average pool, (c, h, w) -> (c,), or (c, 1, 1) for what reads a map."""


@dataclass(frozen=True, eq=False)
class HardSwish(Node):
    """x * relu6(x + 3) / 6."""


Run = Callable[..., Tensor]  # (node, what it reads ...) -> what it computes


@dataclass(frozen=True, eq=False)
class Graph:
    """``nodes`` in order of execution, the last is the output; ``input`` is (c, h, w).

    With ``ranges`` all is 8 bit, but for ``floats``: nodes that are computed in float32, and the
    input if it is one of them. Without, ``held`` says what weights are. ``centred``: outputs are
    less what the classes of an image share.
    """

    input: tuple[int, int, int]
    nodes: tuple[Node, ...]
    ranges: Ranges | None = None
    floats: frozenset[str] = frozenset()
    held: Held = "fp32"
    centred: bool = False

    def __post_init__(self) -> None:
        names = [INPUT, *(n.name for n in self.nodes)]
        if not self.nodes or len(set(names)) < len(names):
            raise ValueError(f"a graph needs nodes, each with its own name: {names}")
        if unknown := self.floats - set(names):
            raise ValueError(f"in float, but not in the graph: {', '.join(sorted(unknown))}")
        if (self.ranges is None and self.floats) or (self.ranges and self.held != "fp32"):
            raise ValueError("floats are for a graph with ranges, held for one without")
        if self.ranges is not None and (missing := set(names) - self.ranges.keys()):
            raise ValueError(f"no range for {', '.join(sorted(missing))}")

    @property
    def precision(self) -> str:
        """``int8-static`` or ``mixed`` where ranges are attached; otherwise what weights are."""
        if self.ranges is None:
            return self.held
        return "mixed" if self.floats - {INPUT} else "int8-static"

    @property
    def facts(self) -> dict[str, str]:
        """What a file says of itself: ``precision``; ``floats``: how many operators, at most.

        ``outputs``, where they are not those of the network to the last constant.
        """
        layers = [self[name] for name in self.floats - {INPUT}]
        clipped = sum(getattr(n, "act", "") == "unit" for n in layers)  # may be one of its own
        floats = {"floats": str(len(layers) + clipped)} if layers else {}
        less = {"outputs": "less their mean"} if self.centred else {}
        return {"precision": self.precision, **floats, **less}

    @property
    def output(self) -> Node:
        """The last node."""
        return self.nodes[-1]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the tensor ``name``."""
        return self.input if name == INPUT else self._by_name[name].shape

    def __call__(self, x: Tensor) -> Tensor:
        """Float reference: (n, c, h, w) -> (n, *output.shape), whatever the precision."""
        for _, value in self.values(x):
            y = value
        return y

    def values(self, x: Tensor, how: Run | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every tensor in order of execution, ``input`` first, each kept only while needed.

        ``how``: another way to compute a node than in float.
        """
        compute = how or run
        last = {name: i for i, n in enumerate(self.nodes) for name in n.inputs}
        live = {INPUT: x}
        yield INPUT, x
        for i, node in enumerate(self.nodes):
            y = live[node.name] = compute(node, *(live[name] for name in node.inputs))
            for name in set(node.inputs):
                if last[name] == i:
                    del live[name]
            yield node.name, y

    def prefix(self, name: str) -> "Graph":
        """What it takes to compute the node ``name``, and no more. Raises UsageError."""
        needed = {self[name].name}
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        nodes = tuple(n for n in self.nodes if n.name in needed)
        return replace(self, nodes=nodes, floats=self.floats & needed)

    @property
    def inner(self) -> "Graph":
        """As within a network: where there are ranges, its ends are not float by themselves."""
        return replace(self, floats=self.floats - {INPUT})

    def alone(self, name: str) -> "Graph":
        """The node ``name`` by itself: what it reads is the input. Raises UsageError.

        A vector is read as a map of one pixel, which its mean makes a vector again.
        """
        node = self[name]
        shape = self.shape(node.inputs[0])
        read, before = INPUT, list[Node]()
        if len(shape) == 1:
            before, read = [Mean(VECTOR, (INPUT,), shape)], VECTOR
        only = replace(node, inputs=(read,) * len(node.inputs))
        ranges = self.ranges and {
            **dict.fromkeys((INPUT, read), self.ranges[node.inputs[0]]), name: self.ranges[name],
        }  # fmt: skip
        channels, *sides = shape
        height, width = sides or (1, 1)
        return replace(
            self, input=(channels, height, width), nodes=(*before, only), ranges=ranges,
            floats=self.floats & {name},
        )  # fmt: skip

    def __getitem__(self, name: str) -> Node:
        """Raises UsageError."""
        if name not in self._by_name:
            names = ", ".join(n.name for n in self.nodes)
            raise UsageError(f"the network has no operator {name!r}; it has {names}")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Node]:
        return {n.name: n for n in self.nodes}


def run(
    node: Node, x: Tensor, *more: Tensor, weights: tuple[Tensor, Tensor] | tuple[()] = ()
) -> Tensor:
    """What ``node`` computes in float; ``weights``: weight and bias that stand for its own."""
    if isinstance(node, Conv | Linear):
        w, b = weights or (torch.from_numpy(a).to(x) for a in (node.weight, node.bias))
    match node:
        case Conv():
            y = F.conv2d(x, w, b, node.stride, node.padding, groups=node.groups)
            return _ACTIVATIONS[node.act](y)
        case Linear():
            return _ACTIVATIONS[node.act](F.linear(x, w, b))
        case Add():
            return _ACTIVATIONS[node.act](x + more[0])
        case MaxPool():
            return F.max_pool2d(x, node.k, node.stride, node.padding)
        case Mul():
            return x * more[0]
        case Mean():
            return x.mean((2, 3), keepdim=len(node.shape) == 3)
        case HardSwish():
            return F.hardswish(x)
    raise TypeError(f"not an operator of a graph: {type(node).__name__}")


_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y, "relu": F.relu, "relu6": F.relu6, "unit": lambda y: y.clamp(0, 1),
}  # fmt: skip
