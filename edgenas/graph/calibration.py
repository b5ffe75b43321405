"""Ranges of a graph's tensors, seen on real images."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from edgenas.errors import DataError, UsageError
from edgenas.graph.centring import centred
from edgenas.graph.nodes import Graph, Held

Calibration = Literal["min-max", "percentile", "mse", "entropy"]
Range = tuple[float, float]
PRECISIONS = (*get_args(Held), "int8-static")

BINS = 2048
LEVELS = 256
FAR = 3.0  # times as wide as what tells classes apart: outputs that leave it a third of the levels
FEW = 16.0
KEPT = 0.9999  # of all values, by ``percentile``
CUTS = np.linspace(0.2, 1.0, 41)  # shares of the whole range that mse and entropy try


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many values of a tensor lie in each of equal bins from ``low`` to ``high``."""

    counts: np.ndarray
    low: float
    high: float

    @property
    def centres(self) -> np.ndarray:
        """Of the bins."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return (edges[1:] + edges[:-1]) / 2


def lowered(graph: Graph, precision: str, batches: Sequence[Tensor]) -> Graph:
    """``graph`` in ``precision``; ``batches`` give ranges where it has them. Raises UsageError."""
    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}. Known: {', '.join(PRECISIONS)}")
    if precision == "int8-static":
        return calibrate(graph, batches)
    return replace(graph, held=cast(Held, precision))


def calibrate(graph: Graph, batches: Sequence[Tensor], method: Calibration = "min-max") -> Graph:
    """As of ``calibrations``, by one method."""
    return calibrations(graph, batches, [method])[method]


@torch.no_grad()
def calibrations(
    graph: Graph, batches: Sequence[Tensor], methods: Collection[Calibration]
) -> dict[Calibration, Graph]:
    """``graph`` with the range of every tensor over all ``batches``, each (n, c, h, w), by method.

    ``min-max``: least and greatest value. The others cut what is rare, from a histogram:
    ``percentile`` to the middle 99.99 %; ``mse`` where the squared error of 256 levels is least;
    ``entropy`` where they keep most of the distribution (Kullback-Leibler, as in TensorRT:
    Migacz 2017, 8-bit inference with TensorRT). Outputs that lie far from zero together are
    ``centred``, since a range reaches to zero. Raises DataError (no image, another shape, NaN or
    infinity), UsageError.
    """
    if unknown := set(methods) - set(get_args(Calibration)):
        known = ", ".join(get_args(Calibration))
        raise UsageError(f"no calibration {', '.join(sorted(unknown))}. Known: {known}")
    ranges = _extremes(graph, batches)
    if _width(ranges[graph.output.name]) > FAR * _spread(graph, batches):
        graph = centred(graph)
        ranges = _extremes(graph, batches)
    cuts = {m: _CUT[m] for m in methods if m != "min-max"}
    seen = _histograms(graph, batches, ranges) if cuts else {}
    found: dict[Calibration, Graph] = {m: replace(graph, ranges=ranges) for m in methods}
    for method, cut in cuts.items():  # a tensor that has one value keeps it
        cut_ranges = {name: cut(h) for name, h in seen.items() if h.counts.any()}
        found[method] = replace(graph, ranges={**ranges, **cut_ranges})
    return found


def coarse(graph: Graph) -> dict[str, float]:
    """Tensors of ``graph``, which has ranges, that lie far from zero: how many of 256 levels.

    Those that are left for what differs from image to image, as a range has to reach to zero.
    """
    return {
        name: round(LEVELS * (high - low) / _width((low, high)), 1)
        for name, (low, high) in (graph.ranges or {}).items()
        if low < high and (high - low) * LEVELS < FEW * _width((low, high))
    }


def _width(r: Range) -> float:
    """With zero in it."""
    return max(r[1], 0.0) - min(r[0], 0.0)


def _spread(graph: Graph, batches: Sequence[Tensor]) -> float:
    """Of the outputs of ``graph``, less their mean in each image; infinite where they have none."""
    if graph.output.shape[1:] or graph.output.shape[0] < 2:
        return math.inf
    y = torch.cat([graph(x) for x in batches]).double()
    low, high = torch.aminmax(y - y.mean(1, keepdim=True))
    return float(high - low) or math.inf


def _extremes(graph: Graph, batches: Sequence[Tensor]) -> dict[str, Range]:
    ranges: dict[str, Range] = {}
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
    return ranges


def _histograms(
    graph: Graph, batches: Sequence[Tensor], ranges: Mapping[str, Range]
) -> dict[str, Histogram]:
    counts = {name: np.zeros(BINS) for name in ranges}
    for x in batches:
        for name, value in graph.values(x):
            low, high = ranges[name]
            if low < high:
                counts[name] += torch.histc(value.float(), BINS, low, high).numpy()
    return {name: Histogram(counts[name], *ranges[name]) for name in ranges}


def percentile(h: Histogram) -> Range:
    """The middle ``KEPT`` of all values."""
    share = np.cumsum(h.counts) / h.counts.sum()
    edges = np.linspace(h.low, h.high, len(h.counts) + 1)
    first, last = (int(np.searchsorted(share, s)) for s in ((1 - KEPT) / 2, (1 + KEPT) / 2))
    return float(edges[first]), float(edges[min(last + 1, len(h.counts))])


def mse(h: Histogram) -> Range:
    """Where rounding to 256 levels and clipping cost the least squared error together."""
    tried = [(a * h.low, b * h.high) for a in (CUTS if h.low < 0 else (1.0,)) for b in CUTS]
    low, high = min(tried, key=lambda r: squared_error(h, r))
    return float(low), float(high)


def squared_error(h: Histogram, r: Range) -> float:
    """Summed over the values of ``h``, of 256 levels over ``r`` and zero."""
    low, high = min(r[0], 0.0), max(r[1], 0.0)
    step = (high - low) / (LEVELS - 1) or 1.0
    zero = round(-low / step)
    x = h.centres
    back = (np.clip(np.rint(x / step) + zero, 0, LEVELS - 1) - zero) * step
    return float((h.counts * (x - back) ** 2).sum())


def entropy(h: Histogram) -> Range:
    """Where the distribution over 256 levels is nearest to that of all values.

    What a clamp piles up at zero and at the ends is left out: 256 levels represent it exactly.
    """
    counts = h.counts.copy()
    zero = int(np.clip(np.searchsorted(h.centres, 0.0), 1, len(counts) - 2))
    counts[[0, zero, -1]] = counts[[1, zero + 1, -2]]
    h = replace(h, counts=counts)
    tried = [(a * h.low, a * h.high) for a in CUTS]
    costs = [_information_lost(h, r) for r in tried]
    if math.isinf(min(costs)):  # nothing but clamps: all is represented exactly
        return h.low, h.high
    low, high = tried[costs.index(min(costs))]
    return float(low), float(high)


def _information_lost(h: Histogram, r: Range) -> float:
    """Kullback-Leibler: what is lost where ``h`` is clipped to ``r`` and shared out by levels."""
    inside = (h.centres >= r[0]) & (h.centres <= r[1])
    if not h.counts[inside].any():
        return math.inf
    first, last = np.flatnonzero(inside)[[0, -1]]
    within = h.counts[first : last + 1]
    clipped = within.copy()
    clipped[0] += h.counts[:first].sum()
    clipped[-1] += h.counts[last + 1 :].sum()
    level = np.arange(len(within)) * LEVELS // len(within)
    seen = within > 0
    shares = np.bincount(level, within, LEVELS) / np.maximum(np.bincount(level, seen, LEVELS), 1)
    kept = np.where(seen, shares[level], 0.0)
    p, q = clipped / clipped.sum(), kept / kept.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())


_CUT: Mapping[str, Callable[[Histogram], Range]] = {
    "percentile": percentile, "mse": mse, "entropy": entropy,
}  # fmt: skip
