"""The best discrete choice under hard budgets: an exact multiple-choice knapsack."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import LinearConstraint
from torch import Tensor

from edgenas.budgets import Budget, Parts, Row
from edgenas.errors import ImpossibleBudget
from edgenas.integer_program import SCALE, minimum
from edgenas.space import Context, Relaxable, Space
from edgenas.spec import Architecture

Picks = Mapping[str, int]
Values = Mapping[str, Sequence[float]]


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
        scale = SCALE / max(abs(row.limit), np.abs(flat).max(), 1e-300)
        rules.append(LinearConstraint(flat[None] * scale, -np.inf, row.limit * scale))
    objective = -_flat(values)
    objective *= SCALE / max(np.abs(objective).max(), 1e-300)
    while True:
        x = minimum(objective, rules, np.ones(len(objective)))
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
    ceiling: float = 1.0,
) -> Architecture:
    """The architecture of the largest sum of ``scores`` (shape (options,) per choice) that fits.

    It takes at most the share ``ceiling`` of every budget; at least the share ``fill`` of one,
    where the space has such a one. Raises ImpossibleBudget that says what would be possible.
    """
    values = {c.name: scores[c.name].tolist() for c in space.choices}
    within = [_Within(at, budgets, ceiling) for at in space.contexts]
    found = [picks for w in within if (picks := w.best(values)) is not None]
    if not found:
        raise ImpossibleBudget(_impossible(space, budgets))
    if fill > 0:
        found = [picks for w in within for picks in w.filling(values, fill)] or found

    def worth(picks: Picks) -> float:
        return math.fsum(values[c][k] for c, k in picks.items())

    return Architecture.of(space.id, max(found, key=worth))


class _Within:
    """What can be chosen in one context, under all budgets."""

    def __init__(self, context: Context, budgets: Sequence[Budget], ceiling: float) -> None:
        self.picks = context.picks
        self.rules = [_Rules(context, b) for b in budgets]
        less = 1 - ceiling
        self.rows = [replace(row, limit=row.limit - less) for r in self.rules for row in r.rows()]
        self.free = [c for c in context.options if c not in context.picks]

    def best(self, values: Values, *more: Row) -> Picks | None:
        """Of the largest value, under ``more`` rules; None if nothing fits."""
        picks = knapsack([values[c] for c in self.free], [*self.rows, *more])
        return None if picks is None else {**self.picks, **dict(zip(self.free, picks, strict=True))}

    def filling(self, values: Values, share: float) -> Iterator[Picks]:
        """The best that take ``share`` of one budget, each budget tried in turn."""
        for r in self.rules:
            row = r.filling(share)
            if row is not None and (picks := self.best(values, row)) is not None:
                yield picks


class _Rules:
    """What a budget asks of the choices that are free in a context."""

    def __init__(self, context: Context, budget: Budget) -> None:
        self.budget = budget
        self.fixed = budget.load(context.fixed)
        self.parts = [
            [budget.part(o) for o in options]
            for c, options in context.options.items() if c not in context.picks
        ]  # fmt: skip

    def rows(self) -> Iterator[Row]:
        return self.budget.rows(self.parts, self.fixed)

    def filling(self, share: float) -> Row | None:
        return self.budget.filling(self.parts, self.fixed, share)

    def limit(self, of: Callable[[Sequence[float]], float]) -> float:
        """The limit that is just kept by ``of`` the options of every choice."""
        loads = torch.tensor([self.fixed, *map(of, self.parts)], dtype=torch.float64)
        return self.budget.limit * float(self.budget.together(loads))


def nearest(space: Relaxable, budgets: Sequence[Budget]) -> Architecture:
    """The architecture whose largest load of ``budgets`` is the smallest, though it be over 1."""
    each = [(*_closest([_Rules(at, b) for b in budgets]), at) for at in space.contexts]
    _, chosen, context = min(each, key=lambda found: found[0])
    free = [c for c in context.options if c not in context.picks]
    return Architecture.of(space.id, {**context.picks, **dict(zip(free, chosen, strict=True))})


def least(space: Relaxable, budget: Budget) -> float:
    """The smallest limit of ``budget`` that ``space`` can meet, margin included."""
    return min(_Rules(at, budget).limit(min) for at in space.contexts)


def slack(space: Space | Relaxable, budgets: Sequence[Budget]) -> bool:
    """Whether every network of ``space`` keeps all ``budgets``, so that they decide nothing.

    Of a space whose choices are not known it is not known, and they are not.
    """
    return isinstance(space, Relaxable) and all(most(space, b) <= b.limit for b in budgets)


def most(space: Relaxable, budget: Budget) -> float:
    """The limit of ``budget`` that every network of ``space`` keeps, margin included."""
    return max(_Rules(at, budget).limit(max) for at in space.contexts)


def _impossible(space: Relaxable, budgets: Sequence[Budget]) -> str:
    for b in budgets:
        if (lowest := least(space, b)) > b.limit:
            margin = f" ({b.margin:.0%} margin included)" if b.margin else ""
            return (
                f"no network fits {b.text(f'{b.limit:.4g}')}: the least that this space can do is "
                f"{b.text(_up(lowest))}{margin}; ask for at least that or take a smaller space"
            )
    factor = min(_closest([_Rules(at, b) for b in budgets])[0] for at in space.contexts)
    need = ", ".join(b.text(_up(b.limit * factor)) for b in budgets)
    return f"each budget can be met alone, but not all at once; {need} would be possible"


def _closest(rules: Sequence[_Rules]) -> tuple[float, list[int]]:
    """The smallest factor on all budgets that lets one fit, and its option of each group."""
    sizes = [len(g) for g in rules[0].parts]
    n = sum(sizes)
    one = np.hstack([_one_each(sizes), np.zeros((len(sizes), 1))])
    rows = [row for r in rules for row in r.rows()]
    loads = np.array([[*_flat(row.parts), -1.0] for row in rows])
    x = minimum(
        np.r_[np.zeros(n), 1.0],
        [
            LinearConstraint(one, 1, 1),
            LinearConstraint(loads, -np.inf, np.array([row.limit for row in rows]) - 1),
        ],
        whole=np.array([1] * n + [0]),
        most=np.r_[np.ones(n), np.inf],
    )
    assert x is not None  # any factor is allowed
    groups = np.split(x[:-1], np.cumsum(sizes)[:-1])
    return float(x[-1]), [int(group.argmax()) for group in groups]


def _flat(parts: Parts) -> np.ndarray:
    return np.concatenate([np.asarray(group, float) for group in parts])


def _one_each(sizes: Sequence[int]) -> np.ndarray:
    """Rows that sum the options of a group: (groups, options of all groups)."""
    return np.repeat(np.eye(len(sizes)), sizes, axis=1)


def _up(ms: float) -> str:
    """Four digits, rounded up: asking for what is printed works."""
    digits = 3 - int(np.floor(np.log10(ms)))
    return f"{np.ceil(ms * 10.0**digits * (1 - 1e-12)) / 10.0**digits:.4g}"
