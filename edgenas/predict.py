"""From a table to a whole network: rows summed, corrected by measured networks, with its error.

A block timed alone differs from the block in a network by session overhead and layout at its
borders; an affine fit on a few measured networks takes most of that out (docs/latency.md).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import spearmanr

from edgenas.errors import UnstableMeasurement, UsageError
from edgenas.latency import Checked, Fit, HeldOut, LatencyTable, Timing
from edgenas.spec import OpSpec

COVERAGE = 0.9
TRUSTED = 0.9  # of the held-out networks within 10 %: fewer, and no hard budget is promised


@dataclass(frozen=True)
class Predictor:
    """p50 of a network on the table's device, linear in its operators.

    ``correction`` scales it where a measured network showed the table to be off.
    """

    table: LatencyTable
    correction: float = 1.0

    @property
    def _fit(self) -> Fit:
        if self.table.header.fit is None:
            raise UsageError(
                f"the table of {self.table.header.device} was not checked against whole networks. "
                f"Finish it: edgenas profile {self.table.header.device}"
            )
        return self.table.header.fit

    @property
    def fixed_ms(self) -> float:
        """What a network costs beside its operators."""
        return self.correction * self._fit.p50_per_floor * self._fit.intercept_ms

    def cost_ms(self, op: OpSpec) -> float:
        """What ``op`` adds to the p50 of a network."""
        scale = self.correction * self._fit.p50_per_floor * self._fit.slope
        return scale * self.table.cost_ms(op)

    def p50_ms(self, ops: Iterable[OpSpec]) -> float:
        """Predicted p50 of a network of ``ops``."""
        return self.fixed_ms + math.fsum(self.cost_ms(op) for op in ops)

    @property
    def margin(self) -> float:
        """Fraction to raise a prediction by so that 9 in 10 networks keep it."""
        return self._fit.margin

    def corrected(self, measured_ms: float, ops: Iterable[OpSpec]) -> "Predictor":
        """As this one, but exact for the network ``ops`` that measured ``measured_ms``."""
        return replace(self, correction=self.correction * measured_ms / self.p50_ms(ops))


def require_trusted(table: LatencyTable) -> None:
    """Raise UnstableMeasurement where a hard budget cannot be kept by predictions of ``table``."""
    h = table.header
    if h.held_out is not None and h.held_out.within_10 < TRUSTED:
        raise UnstableMeasurement(
            f"the table of {h.device} at {h.precision} predicts only {h.held_out.within_10:.0%} of "
            f"{h.held_out.networks} held-out networks within 10 %; a hard budget needs "
            f"{TRUSTED:.0%}. Quieten the device, then: edgenas profile {h.device} --precise --fresh"
        )


def fitted(
    table: LatencyTable,
    networks: Sequence[tuple[str, Sequence[OpSpec], Timing]],
    calibration: int = 8,
    work: Callable[[OpSpec], float] | None = None,
) -> LatencyTable:
    """``table`` with ``fit`` from the first ``calibration`` networks, error from all others.

    ``networks``: architecture id, operators, timing. The margin is the split-conformal quantile of
    the held-out relative residuals. ``work``: multiply-accumulates of an operator, for the baseline
    that knows nothing else. Raises UsageError where the networks are too few or too alike to check
    a table by.
    """
    if len(networks) < calibration + 2:
        raise UsageError(
            f"{len(networks)} networks cannot check a table: {calibration} calibrate it and at "
            "least 2 are held out"
        )
    checked = tuple(
        Checked(
            arch,
            rows_ms=math.fsum(table[op].floor_ms for op in ops),
            cost_ms=math.fsum(table.cost_ms(op) for op in ops),
            floor_ms=timing.floor_ms,
            p50_ms=timing.p50_ms,
        )
        for arch, ops, timing in networks
    )
    costs, floors = _column(checked, "cost_ms"), _column(checked, "floor_ms")
    p50s = _column(checked, "p50_ms")
    known, held = slice(None, calibration), slice(calibration, None)
    intercept, slope = _affine(costs[known], floors[known])
    ratio = float(np.median(p50s[known] / floors[known]))
    predicted = ratio * (intercept + slope * costs)
    if np.ptp(p50s[held]) == 0 or np.ptp(predicted[held]) == 0:
        raise UsageError("the held-out networks are all alike: they cannot check a table")
    baselines = {"plain sum": _column(checked, "rows_ms")}
    if work is not None:
        macs = np.array([math.fsum(map(work, ops)) for _, ops, _ in networks])
        offset, scale = _affine(macs[known], floors[known])
        baselines["FLOPs"] = ratio * (offset + scale * macs)
    header = replace(
        table.header,
        fit=Fit(intercept, slope, ratio, _margin(predicted[held], p50s[held]), calibration),
        held_out=_error(predicted[held], p50s[held]),
        networks=checked,
        baselines={name: _error(p[held], p50s[held]) for name, p in baselines.items()},
    )
    return replace(table, header=header)


def _column(checked: Sequence[Checked], name: str) -> np.ndarray:
    return np.array([getattr(c, name) for c in checked])


def _affine(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Intercept and slope that minimise the relative error of ``y``."""
    design = np.stack([np.ones_like(x), x], 1) / y[:, None]
    (intercept, slope), _, terms, _ = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)
    if terms < 2 or slope <= 0 or intercept < 0:  # alike, or mostly noise: only a scale can be told
        return 0.0, float(np.median(y / x))
    return float(intercept), float(slope)


def _margin(predicted: np.ndarray, measured: np.ndarray) -> float:
    residual = np.sort(measured / predicted - 1)
    rank = min(math.ceil((len(residual) + 1) * COVERAGE), len(residual))
    return max(float(residual[rank - 1]), 0.0)


def _error(predicted: np.ndarray, measured: np.ndarray) -> HeldOut:
    relative = predicted / measured - 1
    size = np.abs(relative)
    alike = np.ptp(predicted) == 0  # which ranks nothing
    return HeldOut(
        networks=len(measured),
        mape=float(size.mean()),
        within_5=float((size <= 0.05).mean()),
        within_10=float((size <= 0.10).mean()),
        spearman=0.0 if alike else float(spearmanr(predicted, measured).statistic),
        bias=float(relative.mean()),
    )
