"""What networks are worth, learnt from those that were trained.

Each option that is picked multiplies the error of a network by a factor of its own: the logarithm
of the error is linear in one-hot picks, in how often each kind of option is picked, and in the
logarithm of the multiply-accumulates. Bayesian linear regression (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, section 2.1) averaged over a grid of prior variances and
noise, weighted by the evidence (section 5.2), as few-shot tables do it. Trainings of other lengths
differ by a constant each. The best under budgets are found exactly.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgenas import ops
from edgenas.best_first import ordered
from edgenas.budgets import Budget
from edgenas.errors import UsageError
from edgenas.search import Trial
from edgenas.space import Context, Relaxable
from edgenas.spec import Architecture, OpSpec

LEAST = 3  # trials
PICKS = (0.1, 0.3, 1.0, 3.0)  # prior variances, in that of what is told: of all picks together,
SHARED = (0.0, 0.3, 3.0)  # of what options have in common wherever they are, and of size,
NOISE = (0.01, 0.03, 0.1, 0.3, 1.0)  # and of a training
CONSTANT = 10.0  # of the intercept and of each other length of training
FLOOR = 1e-3  # errors below are not told from it
PERCENT = 100.0
Z95 = 1.96

Size = Callable[[OpSpec], float]


class SizedSpace(Relaxable, Protocol):
    """A space of listed choices whose operators are known."""

    def ops(self, arch: Architecture) -> tuple[OpSpec, ...]: ...


@dataclass(frozen=True)
class Worth:
    """Points of accuracy that an option adds where it replaces what was picked; 95 % interval."""

    points: float
    low: float
    high: float


class Features:
    """Numbers of a network: one-hot picks, counts of equally named options, and its size.

    Size is log(1 + total / ``typical``), so that networks without one stay comparable.
    """

    def __init__(self, space: SizedSpace, size: Size, typical: float) -> None:
        self.space, self.size, self.typical = space, size, typical
        self.picks = [(c.name, k) for c in space.choices for k in range(len(c.options))]
        labels = [label for c in space.choices for label in c.options]
        self.kinds = list(dict.fromkeys(labels))
        self._kind = np.array([[name == k for k in self.kinds] for name in labels], float)

    @property
    def blocks(self) -> tuple[slice, slice, slice]:
        """Columns of picks, counts and size."""
        n, m = len(self.picks), len(self.kinds)
        return slice(0, n), slice(n, n + m), slice(n + m, n + m + 1)

    def __call__(self, archs: Sequence[Architecture]) -> np.ndarray:
        """(architectures, features)."""
        picked = [dict(a.picks) for a in archs]
        one_hot = np.array([[p[c] == k for c, k in self.picks] for p in picked], float)
        totals = [sum(map(self.size, self.space.ops(a))) for a in archs]
        scale = np.log1p(np.array(totals, float) / self.typical)
        return np.hstack([one_hot, one_hot @ self._kind, scale[:, None]])

    def of_options(self, weights: np.ndarray) -> Mapping[str, list[float]]:
        """What each option adds by itself, ``weights`` being those of all features."""
        picks, counts, _ = self.blocks
        each = weights[picks] + self._kind @ weights[counts]
        found: dict[str, list[float]] = {}
        for (choice, _), value in zip(self.picks, each.tolist(), strict=True):
            found.setdefault(choice, []).append(value)
        return found


def typical_size(space: SizedSpace, archs: Sequence[Architecture], size: Size) -> float:
    """The mean of ``archs``; 1 where none has any."""
    return float(np.mean([sum(map(size, space.ops(a))) for a in archs])) or 1.0


@dataclass(frozen=True, eq=False)
class Surrogate:
    """-log(error) of a network is ``intercept`` + ``features`` @ ``weights``, after the longest
    training that was told of. ``covariance`` of the weights, (features, features)."""

    features: Features
    intercept: float
    weights: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(cls, space: SizedSpace, trials: Sequence[Trial], size: Size = ops.macs) -> "Surrogate":
        """From trials with an accuracy, a fraction. Raises UsageError where they are too few."""
        if len(trials) < LEAST:
            raise UsageError(f"{len(trials)} trials teach nothing: give {LEAST} or more")
        archs = [t.arch for t in trials]
        features = Features(space, size, typical_size(space, archs, size))
        raw = features(archs)
        error = np.array([1 - t.metrics["accuracy"] for t in trials])
        target = -np.log(np.maximum(error, FLOOR))
        scale, middle = _scales(raw, features.blocks), raw.mean(0)
        lengths = np.array([t.proposal.epochs for t in trials])
        others = [lengths == n for n in sorted(set(lengths))[:-1]]
        extra = np.column_stack([np.ones(len(trials)), *others])
        mean, cov = _averaged((raw - middle) / scale, features.blocks, extra, target)
        weights = mean[: len(scale)] / scale
        return cls(
            features,
            float(mean[len(scale)] - middle @ weights),
            weights,
            cov[: len(scale), : len(scale)] / np.outer(scale, scale),
        )

    def accuracy(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Expected of each, a fraction; (architectures,)."""
        return np.asarray(1 - np.exp(-self._value(archs)))

    def ranked(
        self, budgets: Sequence[Budget], rng: random.Random
    ) -> Iterator[tuple[float, Architecture]]:
        """Those that keep ``budgets`` but for rounding with their expected accuracy, best first.

        Exact: size enters by a line that is never below it, and a network waits until no other
        can be better.
        """
        waiting: list[tuple[float, int, Architecture]] = []
        number = itertools.count()
        for bound, arch in ordered(self.features.space, budgets, self._above, rng):
            while waiting and -waiting[0][0] >= self.intercept + bound:
                yield self._first(waiting)
            value = float(self._value([arch])[0])
            heapq.heappush(waiting, (-value, next(number), arch))
        while waiting:
            yield self._first(waiting)

    def gains(self, arch: Architecture) -> Mapping[str, list[float]]:
        """By how much -log(error) of ``arch`` rises with each option of every choice."""
        return {c: (step @ self.weights).tolist() for c, step in self._steps(arch).items()}

    def worth(self, arch: Architecture) -> Mapping[str, tuple[Worth, ...]]:
        """What each option of every choice would add to ``arch``, all else as it is.

        A choice whose options are all alike in the eyes of the trials gets a wide interval, not 0.
        """
        error = float(np.exp(-self._value([arch])[0]))
        found = {}
        for choice, step in self._steps(arch).items():
            variance = np.einsum("ij,jk,ik->i", step, self.covariance, step)
            half = Z95 * np.sqrt(np.maximum(variance, 0))
            found[choice] = tuple(
                Worth(*(_points(error, gain + h) for h in (0.0, -width, width)))
                for gain, width in zip((step @ self.weights).tolist(), half.tolist(), strict=True)
            )
        return found

    def _steps(self, arch: Architecture) -> Mapping[str, np.ndarray]:
        """What each option changes in the features of ``arch``, (options, features)."""
        here = self.features([arch])[0]
        return {
            c.name: self.features([arch.but(**{c.name: k}) for k in range(len(c.options))]) - here
            for c in self.features.space.choices
        }

    def _value(self, archs: Sequence[Architecture]) -> np.ndarray:
        return np.asarray(self.intercept + self.features(archs) @ self.weights)

    def _first(self, waiting: list[tuple[float, int, Architecture]]) -> tuple[float, Architecture]:
        value, _, arch = heapq.heappop(waiting)
        return -math.expm1(value), arch

    def _above(self, context: Context) -> tuple[float, Mapping[str, Sequence[float]]]:
        """A sum over options that is nowhere below what networks of ``context`` are worth."""
        free = {c: o for c, o in context.options.items() if c not in context.picks}
        sizes = {c: [sum(map(self.features.size, o)) for o in every] for c, every in free.items()}
        fixed = sum(map(self.features.size, context.fixed))
        least = fixed + sum(map(min, sizes.values()))
        most = fixed + sum(map(max, sizes.values()))
        slope, start = self._line(least, most)
        each = self.features.of_options(self.weights)
        constant = start + slope * fixed + sum(each[c][k] for c, k in context.picks.items())
        return constant, {
            c: [v + slope * s for v, s in zip(each[c], sizes[c], strict=True)] for c in free
        }

    def _line(self, least: float, most: float) -> tuple[float, float]:
        """Slope and start over the total size: a tangent where size helps, else a chord."""
        weight, typical = float(self.weights[self.features.blocks[2]][0]), self.features.typical
        if weight >= 0 or most == least:
            at = min(max(typical, least), most)
            slope = weight / (typical + at)
            return slope, weight * math.log1p(at / typical) - slope * at
        ends = [weight * math.log1p(total / typical) for total in (least, most)]
        slope = (ends[1] - ends[0]) / (most - least)
        return slope, ends[0] - slope * least


def _points(error: float, gain: float) -> float:
    """Of accuracy, where -log(error) rises by ``gain``; no error is above 1."""
    return PERCENT * (error - min(error * math.exp(min(-gain, PERCENT)), 1.0))


def informative(
    space: SizedSpace,
    archs: Sequence[Architecture],
    n: int,
    size: Size = ops.macs,
    known: Sequence[Architecture] = (),
) -> list[Architecture]:
    """The ``n`` of ``archs`` that, trained beside ``known``, tell a surrogate most.

    Each is the one that is least certain given those before: greedy D-optimal design (Seeger 2004,
    Greedy forward selection in the informative vector machine), under the middle of the priors.
    """
    pool = [*known, *archs]
    features = Features(space, size, typical_size(space, pool, size))
    raw = features(pool)
    x = (raw - raw.mean(0)) / _scales(raw, features.blocks)
    prior = _prior(features.blocks, PICKS[2], SHARED[1])
    kernel = (x * prior) @ x.T + CONSTANT
    left, gains = np.diag(kernel).copy(), np.zeros((0, len(pool)))
    chosen: list[int] = []
    while len(chosen) < min(len(known) + n, len(pool)):
        if len(chosen) < len(known):
            j = len(chosen)
        else:
            left[chosen] = -np.inf
            j = int(left.argmax())
        row = (kernel[j] - gains[:, j] @ gains) / math.sqrt(
            kernel[j, j] - gains[:, j] @ gains[:, j] + NOISE[2]
        )
        gains, left = np.vstack([gains, row]), left - row**2
        chosen.append(j)
    return [pool[j] for j in chosen[len(known) :]]


def _prior(blocks: tuple[slice, slice, slice], picks: float, shared: float) -> np.ndarray:
    """Variance of each weight."""
    prior = np.empty(blocks[2].stop)
    for block, variance in zip(blocks, (picks, shared, shared), strict=True):
        prior[block] = variance
    return prior


def _scales(raw: np.ndarray, blocks: tuple[slice, slice, slice]) -> np.ndarray:
    """Of each feature: those of a block vary by 1 together, counts and size by 1/2 each."""
    scales = np.ones(raw.shape[1])
    for block, share in zip(blocks, (1.0, 0.5, 0.5), strict=True):
        total = raw[:, block].var(0).sum()
        scales[block] = math.sqrt(total / share) if total > 0 else 1.0
    return scales


def _averaged(
    x: np.ndarray, blocks: tuple[slice, slice, slice], extra: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the weights of ``x`` and ``extra`` over the grid, by evidence."""
    middle, spread, n = target.mean(), float(target.std()) or 1.0, len(target)
    z, columns = (target - middle) / spread, np.hstack([x, extra])
    evidence, means, covariances = [], [], []
    gram, seen, zz = columns.T @ columns, columns.T @ z, float(z @ z)
    for picks, shared in itertools.product(PICKS, SHARED):
        root = np.sqrt(np.append(_prior(blocks, picks, shared), np.full(extra.shape[1], CONSTANT)))
        values, turned = np.linalg.eigh(gram * np.outer(root, root))
        back, along = root[:, None] * turned, turned.T @ (root * seen)
        for noise in NOISE:
            total = np.maximum(values, 0) + noise
            chi2 = max((zz - float(along**2 @ (1 / total))) / noise, 1e-12)
            log_det = np.log(total).sum() + (n - len(total)) * math.log(noise)
            evidence.append(-0.5 * log_det - 0.5 * n * math.log(chi2))
            means.append(back @ (along / total))
            covariances.append((back * (noise / total)) @ back.T * chi2 / n)
    share = np.exp(np.array(evidence) - max(evidence))
    share /= share.sum()
    mean = share @ np.array(means)
    off = np.array(means) - mean
    cov = np.tensordot(share, np.array(covariances), 1) + (off.T * share) @ off
    mean *= spread
    mean[x.shape[1]] += middle
    return mean, cov * spread**2
