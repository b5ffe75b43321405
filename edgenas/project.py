"""The best discrete choice under hard budgets: an exact multiple-choice knapsack."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from edgenas.budgets import Budget, Parts, Row
from edgenas.errors import ImpossibleBudget
from edgenas.space import Relaxable
from edgenas.spec import Architecture

_INFEASIBLE = 2  # scipy's status
_ROW = 1e3  # solver tolerances are absolute: against rows of this length they are negligible


def knapsack(values: Sequence[Sequence[float]], rows: Sequence[Row]) -> list[int] | None:
    """The option of each group that together have the largest value and keep every row.

    ``values[group][option]``. None if nothing fits. Exact: HiGHS without gap, then limits are
    checked in plain arithmetic.
    """
    sizes = [len(v) for v in values]
    ends = np.cumsum(sizes)
    rules = [LinearConstraint(_one_each(sizes), 1, 1)]
    for row in rows:
        flat = _flat(row.parts)
        scale = _ROW / max(abs(row.limit), np.abs(flat).max(), 1e-300)
        rules.append(LinearConstraint(flat[None] * scale, -np.inf, row.limit * scale))
    objective = -_flat(values)
    objective *= _ROW / max(np.abs(objective).max(), 1e-300)
    while True:
        x = _solve(objective, rules)
        if x is None:
            return None
        chosen = [int(part.argmax()) for part in np.split(x, ends[:-1])]
        if all(
            sum(group[k] for group, k in zip(row.parts, chosen, strict=True)) <= row.limit
            for row in rows
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
    rules = [_Rules(space, b) for b in budgets]
    rows = [row for r in rules for row in r.rows()]
    picks = knapsack(values, rows)
    if picks is None:
        raise ImpossibleBudget(_impossible(space, budgets))
    if fill > 0:
        filling = [row for r in rules if (row := r.filling(fill)) is not None]
        picks = _filling(values, rows, filling) or picks
    one_hot = {
        n: scores[n].new_zeros(len(scores[n])).index_fill(0, scores[n].new_tensor([k]).long(), 1)
        for n, k in zip(names, picks, strict=True)
    }
    return space.decode(one_hot)


class _Rules:
    """What a budget asks of the choices of a space."""

    def __init__(self, space: Relaxable, budget: Budget) -> None:
        self.budget = budget
        self.fixed = budget.load(space.fixed_ops())
        self.parts = [[budget.part(o) for o in space.option_ops(c.name)] for c in space.choices]

    def rows(self) -> Iterator[Row]:
        return self.budget.rows(self.parts, self.fixed)

    def filling(self, share: float) -> Row | None:
        return self.budget.filling(self.parts, self.fixed, share)

    def least(self) -> float:
        """The smallest limit that can be kept."""
        loads = torch.tensor([self.fixed, *map(min, self.parts)], dtype=torch.float64)
        return self.budget.limit * float(self.budget.together(loads))


def _filling(
    values: Sequence[Sequence[float]], rows: Sequence[Row], filling: Sequence[Row]
) -> list[int] | None:
    """The best picks among those that fill one budget, each budget tried in turn."""
    found = [p for row in filling if (p := knapsack(values, [*rows, row])) is not None]

    def worth(picks: Sequence[int]) -> float:
        return sum(group[k] for group, k in zip(values, picks, strict=True))

    return max(found, key=worth, default=None)


def least(space: Relaxable, budget: Budget) -> float:
    """The smallest limit of ``budget`` that ``space`` can meet, margin included."""
    return _Rules(space, budget).least()


def _impossible(space: Relaxable, budgets: Sequence[Budget]) -> str:
    for b in budgets:
        if (lowest := least(space, b)) > b.limit:
            margin = f" ({b.margin:.0%} margin included)" if b.margin else ""
            return (
                f"no network fits {b.text(f'{b.limit:.4g}')}: the least that this space can do is "
                f"{b.text(_up(lowest))}{margin}; ask for at least that or take a smaller space"
            )
    factor = _closest([_Rules(space, b) for b in budgets])
    need = ", ".join(b.text(_up(b.limit * factor)) for b in budgets)
    return f"each budget can be met alone, but not all at once; {need} would be possible"


def _closest(rules: Sequence[_Rules]) -> float:
    """The smallest factor on all budgets that lets an architecture fit."""
    sizes = [len(g) for g in rules[0].parts]
    n = sum(sizes)
    one = np.hstack([_one_each(sizes), np.zeros((len(sizes), 1))])
    rows = [row for r in rules for row in r.rows()]
    loads = np.array([[*_flat(row.parts), -1.0] for row in rows])
    answer: Any = milp(
        np.r_[np.zeros(n), 1.0],
        integrality=np.array([1] * n + [0]),
        bounds=Bounds(0, np.r_[np.ones(n), np.inf]),
        constraints=[
            LinearConstraint(one, 1, 1),
            LinearConstraint(loads, -np.inf, np.array([row.limit for row in rows]) - 1),
        ],
    )
    return float(answer.x[-1])


def _flat(parts: Parts) -> np.ndarray:
    return np.concatenate([np.asarray(group, float) for group in parts])


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
