"""From a table to a whole network: rows summed, corrected by measured networks, with its error.

A block timed alone differs from the block in a network by session overhead and layout at its
borders; an affine fit on a few measured networks takes most of that out (docs/latency.md).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import spearmanr

from edgenas.errors import UsageError
from edgenas.latency import Fit, HeldOut, LatencyTable, Timing
from edgenas.spec import OpSpec

COVERAGE = 0.9


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


def fitted(
    table: LatencyTable, networks: Sequence[tuple[Sequence[OpSpec], Timing]], calibration: int = 8
) -> LatencyTable:
    """``table`` with ``fit`` from the first ``calibration`` networks, error from all others.

    The margin is the split-conformal quantile of the held-out relative residuals. Raises
    UsageError where the networks are too few or too alike to check a table by.
    """
    if len(networks) < calibration + 2:
        raise UsageError(
            f"{len(networks)} networks cannot check a table: {calibration} calibrate it and at "
            "least 2 are held out"
        )
    sums = np.array([math.fsum(table.cost_ms(op) for op in ops) for ops, _ in networks])
    floors = np.array([t.floor_ms for _, t in networks])
    p50s = np.array([t.p50_ms for _, t in networks])
    known, held = slice(None, calibration), slice(calibration, None)
    design = np.stack([np.ones_like(sums), sums], 1)[known] / floors[known, None]
    (intercept, slope), _, terms, _ = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)
    if terms < 2 or slope <= 0 or intercept < 0:  # alike, or mostly noise: only a scale can be told
        intercept, slope = 0.0, float(np.median(floors[known] / sums[known]))
    ratio = float(np.median(p50s[known] / floors[known]))
    predicted = ratio * (intercept + slope * sums[held])
    if np.ptp(p50s[held]) == 0 or np.ptp(predicted) == 0:
        raise UsageError("the held-out networks are all alike: they cannot check a table")
    residual = p50s[held] / predicted - 1
    n = len(residual)
    rank = min(math.ceil((n + 1) * COVERAGE), n)
    margin = max(float(np.sort(residual)[rank - 1]), 0.0)
    error = np.abs(1 - predicted / p50s[held])
    header = replace(
        table.header,
        fit=Fit(float(intercept), float(slope), ratio, margin, calibration),
        held_out=HeldOut(
            networks=n,
            mape=float(error.mean()),
            within_5=float((error <= 0.05).mean()),
            within_10=float((error <= 0.10).mean()),
            spearman=float(spearmanr(predicted, p50s[held]).statistic),
            bias=float((predicted / p50s[held] - 1).mean()),
        ),
    )
    return replace(table, header=header)
