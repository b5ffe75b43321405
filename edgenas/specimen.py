"""Models with random weights, written only to be timed: one operator, or a whole network."""

from pathlib import Path

import torch
from torch import nn

from edgenas import ops
from edgenas.artifact import Artifact
from edgenas.export import Exporter
from edgenas.graph import Graph, lowered, trace_unchecked
from edgenas.space import Space
from edgenas.spec import Architecture, OpSpec

EMPTY = OpSpec.of("conv", 1, 1, 1, k=1, s=1)  # next to nothing: the cost of a call


def operator(exporter: Exporter, op: OpSpec, precision: str, path: Path) -> Artifact:
    """``op`` alone, as it runs inside a network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        graph = _lowered(ops.build(op), (op.cin, op.size, op.size), precision)
    return exporter.operator(graph, path)


def network(
    exporter: Exporter, space: Space, arch: Architecture, precision: str, path: Path
) -> Artifact:
    """The whole network ``arch``, as it will be deployed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        graph = _lowered(space.build(arch), space.input_of(arch), precision)
    return exporter.network(graph, path, {})


def _lowered(module: nn.Module, shape: tuple[int, int, int], precision: str) -> Graph:
    return lowered(trace_unchecked(module, shape), precision, [torch.randn(1, *shape)])
