"""Whether a table can be trusted: coverage, held-out error, noise, plausibility."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import theilslopes

from edgenas.latency import LatencyTable, Missing, Timing
from edgenas.predict import TRUSTED
from edgenas.spec import OpSpec

WIDE = 0.10  # half an interval over the floor
NOISY = 0.30  # p50 over the floor, less 1
FAMILY = 8  # operators of one kind show what is common
SCATTER = 0.05  # of logarithms, that any family may have
OUTLIER = 5.0  # robust standard deviations from the common price of work


@dataclass(frozen=True)
class Finding:
    """``missing``: the table is not whole. ``untrusted``: no budget can be kept by it.

    ``suspicious``: look at it; a kernel may really be so. ``about``: what many rows may have alike.
    """

    kind: Literal["missing", "untrusted", "suspicious"]
    text: str
    about: str = ""


def check(
    table: LatencyTable,
    vocabulary: Iterable[OpSpec] = (),
    work: Callable[[OpSpec], float] | None = None,
) -> list[Finding]:
    """What is wrong with ``table``, the gravest first.

    ``vocabulary``: what it must cover. ``work``: multiply-accumulates of an operator, to find rows
    that cost unlike others of their kind.
    """
    found = [Finding("missing", f"no row for '{op}'", "absent") for op in table.missing(vocabulary)]
    found += [
        Finding("missing", f"'{op}' is {row.status}: {row.reason}", row.status)
        for op, row in table.rows.items()
        if isinstance(row, Missing)
    ]
    timed = {op: row for op, row in table.rows.items() if isinstance(row, Timing)}
    found += [*_untrusted(table), *_noisy(timed), *_steps(timed)]
    return found if work is None else [*found, *_outliers(timed, work)]


def _untrusted(table: LatencyTable) -> Iterator[Finding]:
    h = table.header
    if h.grade == "unstable":
        yield Finding("untrusted", "graded unstable: the machine was slow throughout")
    if h.fit is None or h.held_out is None:
        yield Finding("untrusted", "never checked against whole networks")
    elif h.held_out.within_10 < TRUSTED:
        yield Finding(
            "untrusted",
            f"only {h.held_out.within_10:.0%} of {h.held_out.networks} held-out networks are "
            f"predicted within 10 %; a hard budget needs {TRUSTED:.0%}",
        )


def _noisy(timed: dict[OpSpec, Timing]) -> Iterator[Finding]:
    for op, row in timed.items():
        low, high = row.interval_ms or (row.floor_ms, row.floor_ms)
        if row.floor_ms and (high - low) / 2 > WIDE * row.floor_ms:
            text = f"'{op}': wide interval, {low:.4g} to {high:.4g} ms"
            yield Finding("suspicious", text, "interval")
        elif row.provenance == "measured" and row.p50_ms > (1 + NOISY) * row.floor_ms:
            text = f"'{op}': p50 {row.p50_ms:.4g} ms is far over {row.floor_ms:.4g}"
            yield Finding("suspicious", text, "p50")


def _steps(timed: dict[OpSpec, Timing]) -> Iterator[Finding]:
    """Operators that do more of one thing in less time, beyond their intervals."""
    by_rest: dict[tuple[object, ...], list[tuple[int, OpSpec]]] = {}
    for op in timed:
        parts = {"cin": op.cin, "cout": op.cout, "size": op.size, **dict(op.args)}
        for name in ("k", "e", "h", "size", "cout"):
            if name in parts:
                rest = tuple(sorted((n, v) for n, v in parts.items() if n != name))
                by_rest.setdefault((op.kind, name, rest), []).append((parts[name], op))
    for (_, changed, _), family in by_rest.items():
        ordered = [op for _, op in sorted(family)]
        for less, more in itertools.pairwise(ordered):
            high = (timed[more].interval_ms or (0.0, timed[more].floor_ms))[1]
            low = (timed[less].interval_ms or (timed[less].floor_ms, 0.0))[0]
            if high < low:
                yield Finding(
                    "suspicious",
                    f"'{more}' has more {changed} than '{less}' and is faster: "
                    f"{timed[more].floor_ms:.4g} against {timed[less].floor_ms:.4g} ms",
                    "order",
                )


def _outliers(timed: dict[OpSpec, Timing], work: Callable[[OpSpec], float]) -> Iterator[Finding]:
    """Far from the price that work has among operators of one kind."""
    for kind in sorted({op.kind for op in timed}):
        family = [o for o in timed if o.kind == kind and timed[o].floor_ms > 0 and work(o) > 0]
        if len(family) < FAMILY:
            continue
        done = np.log([work(op) for op in family])
        cost = np.log([timed[op].floor_ms for op in family])
        slope = float(theilslopes(cost, done).slope) if np.ptp(done) else 0.0
        residual = cost - slope * done
        residual -= np.median(residual)
        sd = max(1.4826 * float(np.median(np.abs(residual))), SCATTER)
        for op, far in zip(family, residual, strict=True):
            if abs(far) > OUTLIER * sd:
                yield Finding(
                    "suspicious",
                    f"'{op}': {timed[op].floor_ms:.4g} ms is {math.exp(far):.2g} times what "
                    f"{kind} of that much work take",
                    "price",
                )
