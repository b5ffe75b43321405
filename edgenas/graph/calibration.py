"""Ranges of a graph's tensors, seen on real images."""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from edgenas.errors import DataError
from edgenas.graph.nodes import Graph


@torch.no_grad()
def calibrate(graph: Graph, batches: Iterable[Tensor]) -> Graph:
    """``graph`` with the least and greatest value of every tensor over all ``batches``.

    Batches are (n, c, h, w). Raises DataError (no image, another shape, NaN or infinity).
    """
    ranges: dict[str, tuple[float, float]] = {}
    for x in batches:
        if tuple(x.shape[1:]) != graph.input or not len(x):
            raise DataError(
                f"calibration: a batch is {tuple(x.shape)}, the network takes (n, "
                f"{', '.join(map(str, graph.input))}), n > 0"
            )
        for name, value in graph.values(x):
            low, high = (float(v) for v in torch.aminmax(value))
            if not (math.isfinite(low) and math.isfinite(high)):
                raise DataError(
                    f"calibration: {name!r} has values from {low} to {high}; check the images "
                    "and whether training diverged"
                )
            old = ranges.get(name, (low, high))
            ranges[name] = (min(old[0], low), max(old[1], high))
    if not ranges:
        raise DataError("calibration needs at least one image")
    return replace(graph, ranges=ranges)
