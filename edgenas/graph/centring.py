"""Outputs less what all classes share: it decides nothing, and an int8 range reaches to zero."""

from collections import Counter
from dataclasses import replace

import numpy as np

from edgenas.graph.nodes import INPUT, Add, Conv, Graph, Linear, Mean


def centred(graph: Graph) -> Graph:
    """``graph`` with outputs less their mean in each image: softmax and top-1 are the same.

    The mean of all classes' weights is taken out of each class's. ``graph`` itself where its
    outputs are not such a sum (an activation, something else that reads them).
    """
    layers = _makers(graph, graph.output.name)
    if graph.centred or not layers or len(graph.output.shape) != 1 or graph.output.shape[0] < 2:
        return graph
    nodes = tuple(
        _less_their_mean(n) if isinstance(n, Conv | Linear) and n.name in layers else n
        for n in graph.nodes
    )
    return replace(graph, nodes=nodes, centred=True)


def _makers(graph: Graph, name: str) -> frozenset[str] | None:
    """The layers of which the tensor ``name`` is a sum; None where it is more than that."""
    readers = Counter(source for n in graph.nodes for source in n.inputs)
    node = graph[name]
    if readers[name] > (name != graph.output.name):
        return None
    match node:
        case Conv(groups=1, act="none") | Linear(act="none"):
            return frozenset({name})
        case Mean() | Add(act="none"):
            parts = [_makers(graph, source) for source in node.inputs if source != INPUT]
            if len(parts) < len(node.inputs) or any(p is None for p in parts):
                return None
            return frozenset().union(*(p for p in parts if p))
    return None


def _less_their_mean(node: Conv | Linear) -> Conv | Linear:
    weight, bias = (a - a.astype(np.float64).mean(0) for a in (node.weight, node.bias))
    return replace(node, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
