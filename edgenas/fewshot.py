"""A latency table from a few whole networks, where operators cannot be timed one by one.

A network costs what its operators cost. Each operator's cost is a scale of what a prior says of it
(multiply-accumulates, bytes, another device's table), plus what its group has in common, plus what
is its own: Bayesian linear regression with Gaussian priors on the three (Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, section 2.1). How much each may vary, and the noise,
are not chosen: predictions are averaged over a grid of them, weighted by the evidence
(section 5.2), the scale of the data integrated out.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.errors import UsageError
from edgenas.spec import OpSpec

LEAST = 4  # networks
CONSTANT = 10.0  # prior variance of the intercept, in variances of the timings
SCALES = (0.0, 0.3, 3.0)  # prior variances: of the scale of what the prior says,
GROUPS = (0.03, 0.1, 0.3, 1.0)  # of a group's common deviation,
OWN = (0.001, 0.01, 0.03, 0.1)  # of an operator's own,
NOISE = (0.003, 0.03, 0.1, 0.3, 1.0)  # and of a timing
POWERS = (0.0, 1.0)  # deviations are as large for each operator, or as large as its prior
Z95 = 1.96

Group = Callable[[OpSpec], Hashable]


def likeness(op: OpSpec) -> Hashable:
    """Operators with the same kind and arguments are alike whatever their shape."""
    return op.kind, op.args


@dataclass(frozen=True)
class Estimate:
    """What an operator costs in a network, and the half-width of its 95 % interval."""

    ms: float
    half_ms: float


@dataclass(frozen=True)
class FewShot:
    """A network is estimated at ``intercept_ms`` + the sum of its ``rows``."""

    intercept_ms: float
    rows: Mapping[OpSpec, Estimate]

    def ms(self, ops: Sequence[OpSpec]) -> float:
        """Estimated latency of a network of ``ops``."""
        return self.intercept_ms + math.fsum(self.rows[op].ms for op in ops)


def fit_rows(
    networks: Sequence[tuple[Sequence[OpSpec], float]],
    priors: Sequence[Mapping[OpSpec, float]],
    group: Group = likeness,
) -> FewShot:
    """Rows for every operator of ``priors`` from ``networks``: their operators, and ms measured.

    ``priors``: what each operator costs in the eyes of something else, in any unit; one or more.
    Raises UsageError where networks are too few or all alike, or where a prior lacks an operator.
    """
    if len(networks) < LEAST:
        raise UsageError(f"{len(networks)} networks do not make a table: measure {LEAST} or more")
    ops = sorted({op for prior in priors for op in prior}, key=str)
    for prior in priors:
        lacking = sorted({*ops, *(o for used, _ in networks for o in used)} - prior.keys(), key=str)
        if lacking:
            raise UsageError(f"the prior says nothing of {len(lacking)} operators: '{lacking[0]}'")
    ms = np.array([y for _, y in networks])
    if not np.all(np.isfinite(ms)) or np.ptp(ms) == 0:
        raise UsageError(
            f"{len(networks)} networks all take {ms[0]:g} ms: they tell operators apart by nothing"
        )
    counts = np.array([[list(used).count(op) for op in ops] for used, _ in networks], float)
    weights, variance = _averaged(counts, _columns(ops, priors), _members(ops, group), ms)
    rows = {
        op: Estimate(float(w), Z95 * math.sqrt(v))
        for op, w, v in zip(ops, weights[1:], variance[1:], strict=True)
    }
    return FewShot(float(weights[0]), rows)


def _columns(ops: Sequence[OpSpec], priors: Sequence[Mapping[OpSpec, float]]) -> np.ndarray:
    """(operators, priors), each prior 1 in the mean."""
    columns = np.array([[prior[op] for prior in priors] for op in ops], float)
    if not np.all(np.isfinite(columns)) or columns.min() < 0 or np.any(columns.sum(0) == 0):
        raise UsageError("a prior must be finite, not negative, and not 0 everywhere")
    return np.asarray(columns / columns.mean(0))


def _members(ops: Sequence[OpSpec], group: Group) -> np.ndarray:
    """(operators, groups), 1 where an operator belongs."""
    names = [group(op) for op in ops]
    return np.array([[name == other for other in dict.fromkeys(names)] for name in names], float)


def _averaged(
    counts: np.ndarray, prior: np.ndarray, members: np.ndarray, ms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of (intercept, a weight each operator) over the grid, by evidence."""
    spread = float(ms.std())
    target = (ms - ms.mean()) / spread
    n, m = counts.shape
    features = np.hstack([np.ones((n, 1)), counts]) / max(counts.sum(1).mean() ** 0.5, 1.0)
    evidence, means, variances = [], [], []
    for power in POWERS:
        size = prior.mean(1) ** power
        alike = members * size[:, None]
        for scale, common, own in itertools.product(SCALES, GROUPS, OWN):
            weight = scale * prior @ prior.T + common * alike @ alike.T + own * np.diag(size**2)
            cov = np.zeros((m + 1, m + 1))
            cov[0, 0] = CONSTANT
            cov[1:, 1:] = weight
            cross = features @ cov
            kernel = cross @ features.T
            for noise in NOISE:
                root = np.linalg.cholesky(kernel + noise * np.eye(n))
                white = np.linalg.solve(root, target)
                gain = np.linalg.solve(root, cross)
                chi2 = float(white @ white)
                evidence.append(-np.log(np.diag(root)).sum() - 0.5 * n * math.log(chi2))
                means.append(gain.T @ white)
                variances.append((np.diag(cov) - (gain**2).sum(0)) * chi2 / n)
    share = np.exp(np.array(evidence) - max(evidence))
    share /= share.sum()
    mean = share @ np.array(means)
    variance = share @ (np.array(variances) + (np.array(means) - mean) ** 2)
    unit = spread / max(counts.sum(1).mean() ** 0.5, 1.0)
    weights = mean * unit
    weights[0] += ms.mean()
    return weights, variance * unit**2
