"""NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv:2001.00326): 15,625 cells, all of them trained.

A cell has four nodes and an operation on each of its six edges. Five copies of it at 16 channels,
a residual block that halves the image, five at 32, another such block, five at 64.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from edgenas.chain import Network
from edgenas.errors import InvalidArchitecture
from edgenas.gates import Gated, Gates, Mix, run
from edgenas.ops import initialised
from edgenas.space import ChoiceSpace
from edgenas.spec import Architecture, Choice, OpSpec
from edgenas.validate import ChannelCount, Classes, Pixels, construct

__all__ = ["NasBench201"]

STAGES, CELLS = (16, 32, 64), 5
OPTIONS = ("none", "skip", "conv1", "conv3", "pool")
KINDS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # as published
_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
NODES = tuple(tuple(f"node{j}_from{i}" for i in range(j)) for j in (1, 2, 3))
EDGES = tuple(edge for edges in NODES for edge in edges)
_NAME = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


def _relu_conv_bn(cin: int, cout: int, k: int, s: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(cin, cout, k, s, k // 2, bias=False), nn.BatchNorm2d(cout)
    )


class _Nothing(nn.Module):
    """An edge that is not there."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _operation(kind: str, channels: int) -> nn.Module:
    match kind:
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return _relu_conv_bn(channels, channels, 1)
        case "nor_conv_3x3":
            return _relu_conv_bn(channels, channels, 3)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return _Nothing()


Edges = Mapping[str, nn.Module]


def _cell(x: Tensor, edges: Edges, gates: Gates) -> Tensor:
    """The last node; each is the sum of its edges, of which some may be missing."""
    nodes = [x]
    for names in NODES:
        terms = [
            run(edges[name], node, gates)
            for node, name in zip(nodes, names, strict=True)
            if name in edges
        ]
        nodes.append(reduce(add, terms) if terms else torch.zeros_like(x))
    return nodes[-1]


class _Cell(nn.Module):
    """Operations by edge."""

    def __init__(self, edges: Edges) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(dict(edges))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        return _cell(x, dict(self.edges.items()), {})


class _MixedCell(Gated):
    """A choice by edge."""

    def __init__(self, edges: Edges) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(dict(edges))

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        return _cell(x, dict(self.edges.items()), gates)


class _Halving(nn.Module):
    """Residual block of stride 2."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_relu_conv_bn(cin, cout, 3, 2), _relu_conv_bn(cout, cout, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(cin, cout, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(n, cin, h, w) -> (n, cout, h / 2, w / 2)."""
        y: Tensor = self.shortcut(x) + self.body(x)
        return y


class _Supernet(nn.Module):
    """As ``Network``, its cells mixed; called as ``supernet(x, gates)``."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, c, h, w) -> logits (n, classes)."""
        for layer in self.layers:
            x = run(layer, x, gates)
        return x


@dataclass(frozen=True)
class NasBench201(ChoiceSpace):
    """None, skip, convolution 1x1 or 3x3, or average pooling on each of six edges.

    An operator of it is an edge in all fifteen cells at once, named by the first of them; what all
    networks share (stem, halving blocks, classifier) is the intercept of a table. Networks can be
    searched and trained, not exported: no exporter knows average pooling. ``resolution`` px,
    ``channels`` in, ``classes`` out; what is published is of CIFAR-10, which is what these are
    unless told otherwise.
    """

    resolution: Annotated[Pixels, Field(multiple_of=4)] = 32
    channels: ChannelCount = 3
    classes: Classes = 10

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> "NasBench201":
        """Raises UsageError that names the key."""
        return construct(cls, settings, "space nasbench201")

    def describe(self) -> dict[str, Any]:
        """Every field, and ``kind``."""
        sizes = {"resolution": self.resolution, "channels": self.channels, "classes": self.classes}
        return {"kind": "nasbench201", **sizes}

    @property
    def id(self) -> str:
        """``nasbench201-32x3-10``."""
        return f"nasbench201-{self.resolution}x{self.channels}-{self.classes}"

    @property
    def input(self) -> tuple[int, int, int]:
        """(channels, resolution, resolution)."""
        return (self.channels, self.resolution, self.resolution)

    def published(self, name: str) -> Architecture:
        """The cell that published tables call ``name``: ``|none~0|+|none~0|none~1|+...``.

        Raises InvalidArchitecture.
        """
        kinds = re.findall(r"(\w+)~", name)
        if len(kinds) != len(EDGES) or _NAME.format(*kinds) != name or not set(kinds) <= set(KINDS):
            raise InvalidArchitecture(f"{name!r} is not a cell of NAS-Bench-201")
        picks = {edge: KINDS.index(kind) for edge, kind in zip(EDGES, kinds, strict=True)}
        return Architecture.of(self.id, picks)

    def connected(self, arch: Architecture) -> bool:
        """Whether the output of the cell depends on its input."""
        reached = [True]
        for edges in NODES:
            reached.append(
                any(r and arch.index(e) > 0 for r, e in zip(reached, edges, strict=True))
            )
        return reached[-1]

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """``node<to>_from<from>``."""
        return tuple(Choice(edge, OPTIONS) for edge in EDGES)

    @cached_property
    def _options(self) -> Mapping[str, tuple[tuple[OpSpec, ...], ...]]:
        c, size = STAGES[0], self.resolution
        return {
            edge: ((), *((OpSpec.of(kind, c, c, size, edge=i),) for kind in KINDS[1:]))
            for i, edge in enumerate(EDGES)
        }

    def option_ops(self, choice: str) -> tuple[tuple[OpSpec, ...], ...]:
        """The operation of each option on the edge ``choice``; nothing for none."""
        return self._options[choice]

    def fixed_ops(self) -> tuple[OpSpec, ...]:
        """None: what all networks share is no operator here."""
        return ()

    def ops(self, arch: Architecture) -> tuple[OpSpec, ...]:
        """The operations on the edges."""
        self.check(arch)
        picked = (options[arch.index(edge)] for edge, options in self._options.items())
        return tuple(op for ops in picked for op in ops)

    def vocabulary(self) -> frozenset[OpSpec]:
        """Every operation on every edge."""
        return frozenset(op for options in self._options.values() for ops in options for op in ops)

    def work(self, op: OpSpec) -> int:
        """Multiply-accumulates of an edge in all cells; of pooling, its additions."""
        pixels = [(self.resolution >> i) ** 2 for i in range(len(STAGES))]
        if op.kind == "avg_pool_3x3":
            return CELLS * sum(9 * c * p for c, p in zip(STAGES, pixels, strict=True))
        k = _KERNELS.get(op.kind, 0)
        return CELLS * sum(k**2 * c**2 * p for c, p in zip(STAGES, pixels, strict=True))

    def parameters(self, op: OpSpec) -> int:
        """Weights of an edge in all cells, with those of batch norms."""
        k = _KERNELS.get(op.kind, 0)
        return CELLS * sum(k**2 * c**2 + 2 * c for c in STAGES) if k else 0

    def build(self, arch: Architecture) -> nn.Module:
        """The network of fifteen cells ``arch``, fresh weights."""
        return self.assemble(self.ops(arch))

    def assemble(self, ops_: Sequence[OpSpec]) -> nn.Module:
        """As ``build``, from the operations on the edges."""
        kinds = {EDGES[op.arg("edge", 0)]: op.kind for op in ops_}
        layers = self._layers(lambda c: _Cell({e: _operation(k, c) for e, k in kinds.items()}))
        return Network(layers)

    def supernet(self, mix: Mix) -> nn.Module:
        """All operations on all edges of all cells; ``mix`` puts those of one edge together."""

        def cell(c: int) -> nn.Module:
            return _MixedCell({e: mix(e, [_operation(k, c) for k in KINDS]) for e in EDGES})

        return _Supernet(self._layers(cell))

    def subnet(self, supernet: nn.Module, arch: Architecture) -> nn.Module:
        """``build(arch)`` with a copy of the supernet's weights."""
        if not isinstance(supernet, _Supernet):
            raise TypeError(f"not a supernet of {self.id}: {type(supernet).__name__}")
        picks = {edge: arch.index(edge) for edge in EDGES if arch.index(edge)}  # 0 is none
        layers = copy.deepcopy(supernet.layers)
        return Network(
            [
                _Cell({e: layer.edges[e].options[k] for e, k in picks.items()})  # type: ignore[index, misc]
                if isinstance(layer, _MixedCell)
                else layer
                for layer in layers
            ]
        )

    def _layers(self, cell: Callable[[int], nn.Module]) -> list[nn.Module]:
        """Everything around the cells, and ``cell`` of so many channels."""
        first, last = STAGES[0], STAGES[-1]
        stem = nn.Conv2d(self.channels, first, 3, 1, 1, bias=False)
        layers: list[nn.Module] = [nn.Sequential(stem, nn.BatchNorm2d(first))]
        for before, c in zip((first, *STAGES), STAGES, strict=False):
            layers += [_Halving(before, c)] if before != c else []
            layers += [cell(c) for _ in range(CELLS)]
        layers += [
            nn.Sequential(nn.BatchNorm2d(last), nn.ReLU()),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(last, self.classes)),
        ]
        return [initialised(layer) for layer in layers]
