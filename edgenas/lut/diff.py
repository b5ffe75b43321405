"""Two tables of the same operators: what moved beyond what their intervals allow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgenas.errors import UsageError
from edgenas.latency import LatencyTable, Timing
from edgenas.spec import OpSpec

COMPARED = ("device", "runtime", "precision", "space", "batch", "provenance", "grade")


@dataclass(frozen=True)
class Moved:
    """A row whose intervals do not meet; ``ratio``: floor of the second over that of the first."""

    op: OpSpec
    before_ms: float
    after_ms: float
    ratio: float


@dataclass(frozen=True)
class Difference:
    """``agree``: share of the rows timed in both whose intervals meet.

    ``ratio``: what the second is slower by, in the median row; ``spread``: how far the rows are
    from that, in the median row. ``header``: what the headers say differently.
    """

    rows: int
    agree: float
    ratio: float
    spread: float
    moved: tuple[Moved, ...]
    only_first: tuple[OpSpec, ...]
    only_second: tuple[OpSpec, ...]
    header: Mapping[str, tuple[Any, Any]]


def diff(first: LatencyTable, second: LatencyTable) -> Difference:
    """How ``second`` differs from ``first``. Raises UsageError where no row is in both."""
    pairs = {
        op: (a, b)
        for op, a in first.rows.items()
        if isinstance(a, Timing) and isinstance(b := second.rows.get(op), Timing)
    }
    if not pairs:
        raise UsageError("the tables have no timed operator in common")
    ratios = {op: _ratio(a, b) for op, (a, b) in pairs.items()}
    common = median(ratios.values())
    moved = [
        Moved(op, a.floor_ms, b.floor_ms, ratios[op])
        for op, (a, b) in pairs.items()
        if not _meet(a, b)
    ]
    return Difference(
        rows=len(pairs),
        agree=1 - len(moved) / len(pairs),
        ratio=common,
        spread=median(abs(r / common - 1) for r in ratios.values()),
        moved=tuple(sorted(moved, key=lambda m: -abs(math.log(m.ratio)))),
        only_first=tuple(sorted(set(first.rows) - set(second.rows), key=str)),
        only_second=tuple(sorted(set(second.rows) - set(first.rows), key=str)),
        header=_headers(first, second),
    )


def _ratio(a: Timing, b: Timing) -> float:
    least_ms = 1e-7  # the file's last digit
    return max(b.floor_ms, least_ms) / max(a.floor_ms, least_ms)


def _meet(a: Timing, b: Timing) -> bool:
    """A row without an interval is taken as it stands."""
    low_a, high_a = a.interval_ms or (a.floor_ms, a.floor_ms)
    low_b, high_b = b.interval_ms or (b.floor_ms, b.floor_ms)
    return low_a <= high_b and low_b <= high_a


def _headers(first: LatencyTable, second: LatencyTable) -> dict[str, tuple[Any, Any]]:
    a, b = first.header, second.header
    said = {key: (getattr(a, key), getattr(b, key)) for key in COMPARED}
    keys = {**a.fingerprint, **b.fingerprint}
    said |= {key: (a.fingerprint.get(key), b.fingerprint.get(key)) for key in keys}
    return {key: (x, y) for key, (x, y) in said.items() if x != y}
