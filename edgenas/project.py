"""The best discrete choice under hard budgets: an exact multiple-choice knapsack."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from edgenas.errors import ImpossibleBudget
from edgenas.search import Budget
from edgenas.space import Relaxable
from edgenas.spec import Architecture

_INFEASIBLE = 2  # scipy's status
_ROW = 1e3  # solver tolerances are absolute: against rows of this length they are negligible


def knapsack(
    values: Sequence[Sequence[float]],
    costs: Sequence[Sequence[Sequence[float]]],
    limits: Sequence[float],
) -> list[int] | None:
    """The option of each group that together have the largest value and keep every limit.

    ``values[group][option]``; ``costs[budget][group][option]`` sum to at most ``limits[budget]``.
    None if nothing fits. Exact: HiGHS without gap, then limits are checked in plain arithmetic.
    """
    sizes = [len(v) for v in values]
    ends = np.cumsum(sizes)
    rules = [LinearConstraint(_one_each(sizes), 1, 1)]
    flat = [np.concatenate([np.asarray(g, float) for g in budget]) for budget in costs]
    for row, limit in zip(flat, limits, strict=True):
        scale = _ROW / max(abs(limit), np.abs(row).max(), 1e-300)
        rules.append(LinearConstraint(row[None] * scale, -np.inf, limit * scale))
    flat_values = np.concatenate([np.asarray(v, float) for v in values])
    objective = -flat_values * (_ROW / max(np.abs(flat_values).max(), 1e-300))
    while True:
        x = _solve(objective, rules)
        if x is None:
            return None
        chosen = [int(part.argmax()) for part in np.split(x, ends[:-1])]
        if all(
            sum(group[k] for group, k in zip(budget, chosen, strict=True)) <= limit
            for budget, limit in zip(costs, limits, strict=True)
        ):
            return chosen
        taken = np.zeros((1, ends[-1]))  # over by less than the solver's tolerance: never again
        taken[0, np.array(chosen) + ends - sizes] = 1
        rules.append(LinearConstraint(taken, -np.inf, len(values) - 1))


def project(
    space: Relaxable,
    scores: Mapping[str, Tensor],
    budgets: Sequence[Budget],
    fill: float = 0.0,
) -> Architecture:
    """The architecture of the largest sum of ``scores`` (shape (options,) per choice) that fits.

    It takes at least the share ``fill`` of one budget, where the space has such a one.
    Raises ImpossibleBudget that says what would be possible.
    """
    names = [c.name for c in space.choices]
    values = [scores[n].tolist() for n in names]
    costs, limits = _loads(space, budgets)
    picks = knapsack(values, costs, limits)
    if picks is None:
        raise ImpossibleBudget(_impossible(space, budgets))
    if fill > 0:
        picks = _filling(values, costs, limits, fill) or picks
    one_hot = {
        n: scores[n].new_zeros(len(scores[n])).index_fill(0, scores[n].new_tensor([k]).long(), 1)
        for n, k in zip(names, picks, strict=True)
    }
    return space.decode(one_hot)


def _filling(
    values: Sequence[Sequence[float]],
    costs: Sequence[Sequence[Sequence[float]]],
    limits: Sequence[float],
    fill: float,
) -> list[int] | None:
    """The best picks among those that fill one budget, each budget tried in turn."""
    found = []
    for row, limit in zip(costs, limits, strict=True):
        below = [[-c for c in group] for group in row]
        picks = knapsack(values, [*costs, below], [*limits, 1 - fill - limit])
        if picks is not None:
            found.append(picks)

    def worth(picks: Sequence[int]) -> float:
        return sum(group[k] for group, k in zip(values, picks, strict=True))

    return max(found, key=worth, default=None)


def fastest_ms(space: Relaxable, budget: Budget) -> float:
    """The smallest limit that ``space`` can meet on the device of ``budget``, margin included."""
    costs, (limit,) = _loads(space, [budget])
    return budget.limit_ms * (1 - limit + sum(min(group) for group in costs[0]))


def _loads(
    space: Relaxable, budgets: Sequence[Budget]
) -> tuple[list[list[list[float]]], list[float]]:
    """Load of every option of every choice for each budget, and what the fixed part leaves."""
    costs = [
        [[sum(map(b.cost, ops)) for ops in space.option_ops(c.name)] for c in space.choices]
        for b in budgets
    ]
    return costs, [1 - b.fixed - sum(map(b.cost, space.fixed_ops())) for b in budgets]


def _impossible(space: Relaxable, budgets: Sequence[Budget]) -> str:
    least = {b.device: fastest_ms(space, b) for b in budgets}
    for b in budgets:
        if least[b.device] > b.limit_ms:
            return (
                f"no network fits {b.limit_ms:.4g} ms on {b.device}: the fastest network of this "
                f"space takes {_up(least[b.device])} ms there ({b.predictor.margin:.0%} margin "
                "included); ask for at least that or take a smaller space"
            )
    factor = _closest(*_loads(space, budgets))
    need = ", ".join(f"{_up(b.limit_ms * factor)} ms on {b.device}" for b in budgets)
    return f"each budget can be met alone, but not all at once; {need} would be possible"


def _closest(costs: Sequence[Sequence[Sequence[float]]], limits: Sequence[float]) -> float:
    """The smallest factor on all budgets that lets an architecture fit."""
    sizes = [len(g) for g in costs[0]]
    n = sum(sizes)
    one = np.hstack([_one_each(sizes), np.zeros((len(sizes), 1))])
    rows = np.array([[*np.concatenate([np.asarray(g) for g in b]), -1.0] for b in costs])
    rules = [
        LinearConstraint(one, 1, 1),
        LinearConstraint(rows, -np.inf, np.array(limits) - 1),
    ]
    answer: Any = milp(
        np.r_[np.zeros(n), 1.0],
        integrality=np.array([1] * n + [0]),
        bounds=Bounds(0, np.r_[np.ones(n), np.inf]),
        constraints=rules,
    )
    return float(answer.x[-1])


def _one_each(sizes: Sequence[int]) -> np.ndarray:
    """Rows that sum the options of a group: (groups, options of all groups)."""
    return np.repeat(np.eye(len(sizes)), sizes, axis=1)


def _solve(objective: np.ndarray, rules: Sequence[LinearConstraint]) -> np.ndarray | None:
    answer: Any = milp(
        objective,
        integrality=np.ones(len(objective), int),
        bounds=Bounds(0, 1),
        constraints=rules,
        options={"mip_rel_gap": 0.0},
    )
    if answer.status not in (0, _INFEASIBLE):
        raise RuntimeError(f"HiGHS: {answer.message}")
    return answer.x if answer.status == 0 else None


def _up(ms: float) -> str:
    """Four digits, rounded up: asking for what is printed works."""
    digits = 3 - int(np.floor(np.log10(ms)))
    return f"{np.ceil(ms * 10.0**digits * (1 - 1e-12)) / 10.0**digits:.4g}"
