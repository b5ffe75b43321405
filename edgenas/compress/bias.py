"""Biases that make up for what rounding of the weights shifts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgenas.graph import INPUT, Conv, Graph, Linear
from edgenas.quantization import Quantized

Means = Mapping[str, np.ndarray]


def correct_biases(graph: Graph, means: Means) -> Graph:
    """``graph``, calibrated, with the mean error of each output channel taken out of its bias.

    Nagel et al. 2019 (arXiv:1906.04721), sec. 4.2: E[(W - round(W)) x] = (W - round(W)) E[x], with
    E[x] of each channel of each tensor from ``channel_means``; the borders count as the rest.
    """
    quantized = Quantized(graph)
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            q = quantized.weights(node)
            scales = q.scales.astype(np.float64).reshape(-1, *(1,) * (node.weight.ndim - 1))
            lost = (node.weight - q.weight * scales).reshape(*node.weight.shape[:2], -1).sum(2)
            x = means[node.inputs[0]]
            groups = node.groups if isinstance(node, Conv) else 1
            each = np.split(lost, groups) if groups > 1 else [lost]
            shift = np.concatenate(
                [part @ xs for part, xs in zip(each, np.split(x, groups), strict=True)]
            )
            node = replace(node, bias=(node.bias + shift).astype(np.float32))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


@torch.no_grad()
def channel_means(graph: Graph, batches: Sequence[Tensor]) -> Means:
    """Of every tensor of ``graph`` in float, over ``batches`` (n, c, h, w): (channels,)."""
    sums = {n: np.zeros(graph.shape(n)[0]) for n in (INPUT, *(n.name for n in graph.nodes))}
    images = 0
    for x in batches:
        images += len(x)
        for name, value in graph.values(x):
            per_image = value.double().flatten(2).mean(2) if value.ndim > 2 else value.double()
            sums[name] += per_image.sum(0).numpy()
    return {name: total / images for name, total in sums.items()}
