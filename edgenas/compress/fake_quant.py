"""A graph with ranges as integer kernels compute it, in torch and with gradients.

Rounding passes gradients straight through, and what is clipped passes none (Jacob et al. 2018,
arXiv:1712.05877, section 3; batch norms are folded already, so the network trains without them).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas.graph import (
    INPUT,
    Add,
    Conv,
    Graph,
    HardSwish,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Node,
    run,
)
from edgenas.quantization import UNIT, Quantized, Scale, least_scales


class FakeQuantized(nn.Module):
    """(n, c, h, w) float32 -> (n, classes), what an int8-static or mixed file of ``graph`` gives.

    Weights and biases are parameters; ranges stay as they were calibrated.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        self._scales: Mapping[str, Scale] = Quantized(graph).scales
        layers = [n for n in graph.nodes if isinstance(n, Conv | Linear)]
        self._at = {n.name: i for i, n in enumerate(layers)}
        self.weights = nn.ParameterList(torch.from_numpy(n.weight.copy()) for n in layers)
        self.biases = nn.ParameterList(torch.from_numpy(n.bias.copy()) for n in layers)

    @property
    def graph(self) -> Graph:
        """With the weights as they are now: what an exporter writes."""
        return replace(self._graph, nodes=tuple(map(self._now, self._graph.nodes)))

    def forward(self, x: Tensor) -> Tensor:
        if INPUT not in self._graph.floats:
            x = _rounded(x, self._scales[INPUT])
        for _, y in self._graph.values(x, self._run):
            x = y
        return x

    def _run(self, node: Node, *values: Tensor) -> Tensor:
        if node.name in self._graph.floats:
            weights = self._held(node) if isinstance(node, Conv | Linear) else ()
            return run(node, *values, weights=weights)
        x, *more = (
            _rounded(value, self._scales[name]) if name in self._graph.floats else value
            for name, value in zip(node.inputs, values, strict=True)
        )
        match node:
            case Conv():
                w, b = self._parameters_of(node)
                y = F.conv2d(x, w, b, node.stride, node.padding, groups=node.groups)
            case Linear():
                y = F.linear(x, *self._parameters_of(node))
            case Add():
                y = x + more[0]
            case Mul():
                y = x * more[0]
            case Mean():
                y = x.mean((2, 3), keepdim=len(node.shape) == 3)
            case MaxPool():
                return F.max_pool2d(x, node.k, node.stride, node.padding)
            case HardSwish():
                y = x * _rounded(x / 6 + 0.5, UNIT)
            case _:
                raise TypeError(f"not an operator of a graph: {type(node).__name__}")
        return _rounded(y, self._scales[node.name])

    def _parameters_of(self, node: Conv | Linear) -> tuple[Tensor, Tensor]:
        weight, bias = self._held(node)
        x, y = self._scales[node.inputs[0]], self._scales[node.name]
        largest = weight.detach().abs().flatten(1).amax(1).double() / 127
        of_bias, least = least_scales(x, y)
        needed = bias.detach().abs().double() * of_bias
        scales = torch.maximum(largest, needed).clamp(min=least).float()
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127), bias

    def _held(self, node: Conv | Linear) -> tuple[Tensor, Tensor]:
        return self.weights[self._at[node.name]], self.biases[self._at[node.name]]

    def _now(self, node: Node) -> Node:
        if not isinstance(node, Conv | Linear):
            return node
        weight, bias = (p.detach().float().cpu().numpy().copy() for p in self._held(node))
        return replace(node, weight=weight, bias=bias)


def _rounded(x: Tensor, scale: Scale) -> Tensor:
    """``x`` as its nearest integers of ``scale`` represent it."""
    return torch.fake_quantize_per_tensor_affine(x, float(scale.scale), scale.zero_point, 0, 255)
