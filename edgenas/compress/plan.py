"""Which widths: the least importance lost for the milliseconds that the table says are won.

What an operator costs depends on the width that it reads and the one that it makes: a knapsack
whose items come in pairs. Exact by HiGHS, with a variable a pair, which those of the widths force
to 0 or 1.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import LinearConstraint
from torch import Tensor

from edgenas.budgets import Latency
from edgenas.compress.importance import Scores, kept
from edgenas.errors import ImpossibleBudget
from edgenas.integer_program import SCALE, minimum
from edgenas.space import Form, Prunable
from edgenas.spec import OpSpec


@dataclass(frozen=True)
class Plan:
    """What is left: operators, and of each set that is cut the channels that stay."""

    ops: tuple[OpSpec, ...]
    keep: Mapping[str, tuple[int, ...]]


def plan(
    space: Prunable, layers: Sequence[OpSpec], scores: Scores, budgets: Sequence[Latency]
) -> Plan:
    """The widths that lose the least importance and fit every budget, exactly, without margin.

    Raises ImpossibleBudget where even the narrowest do not fit.
    """
    if all(b.predictor.p50_ms(layers) <= b.limit_ms for b in budgets):
        return Plan(tuple(layers), {})
    cuts = space.cuts(layers)
    problem = _Pairs(cuts, space.forms(layers), scores)
    widths = problem.solved(budgets) if cuts else None
    if widths is None:
        raise ImpossibleBudget(
            "pruning cannot reach "
            + ", ".join(f"{b.limit_ms:.4g} ms on {b.device}" for b in budgets)
            + ": every block is at its narrowest"
        )
    keep = {
        name: tuple(kept(scores[name], width))
        for name, width in widths.items() if width < len(scores[name])
    }  # fmt: skip
    return Plan(problem.ops(widths), keep)


class _Pairs:
    """A variable for each width of each set, then one for each joint width of an operator."""

    def __init__(
        self, widths: Mapping[str, tuple[int, ...]], forms: Sequence[Form], scores: Scores
    ) -> None:
        self.widths, self.forms = widths, forms
        self.column = {
            (name, width): i
            for i, (name, width) in enumerate((n, w) for n, of in widths.items() for w in of)
        }
        self.own = len(self.column)  # of widths alone: whole numbers
        lost = [_lost(scores[name], width) for name, width in self.column]
        self.joint: list[tuple[int, tuple[int, ...]]] = [
            (i, at)
            for i, form in enumerate(forms) if len(form.groups) > 1
            for at in itertools.product(*(widths[g] for g in form.groups))
        ]  # fmt: skip
        self.size = self.own + len(self.joint)
        self.objective = np.array([*lost, *[0.0] * len(self.joint)])

    def ops(self, widths: Mapping[str, int]) -> tuple[OpSpec, ...]:
        """At these widths."""
        return tuple(form.at(*(widths[g] for g in form.groups)) for form in self.forms)

    def solved(self, budgets: Sequence[Latency]) -> dict[str, int] | None:
        """The best widths; None where nothing fits."""
        rules = [*self._one_each(), *self._consistent(), *map(self._within, budgets)]
        objective = self.objective * (SCALE / max(np.abs(self.objective).max(), 1e-300))
        whole = np.array([1] * self.own + [0] * len(self.joint))
        while True:
            x = minimum(objective, rules, whole)
            if x is None:
                return None
            widths = {
                name: max((float(x[self.column[name, w]]), w) for w in of)[1]
                for name, of in self.widths.items()
            }
            ops = self.ops(widths)
            if all(b.predictor.p50_ms(ops) <= b.limit_ms for b in budgets):
                return widths
            taken = self._row({self.column[item]: 1.0 for item in widths.items()})
            rules.append(LinearConstraint(taken, -np.inf, len(widths) - 1))  # over by a tolerance

    def _one_each(self) -> list[LinearConstraint]:
        rows = [
            self._row({self.column[name, w]: 1.0 for w in of}) for name, of in self.widths.items()
        ]
        return [LinearConstraint(row, 1, 1) for row in rows]

    def _consistent(self) -> list[LinearConstraint]:
        """All pairs of an operator with one width of one set: as much as that width."""
        rows: dict[tuple[int, str, int], dict[int, float]] = {}
        for k, (i, at) in enumerate(self.joint):
            for name, width in zip(self.forms[i].groups, at, strict=True):
                row = rows.setdefault((i, name, width), {self.column[name, width]: -1.0})
                row[self.own + k] = 1.0
        return [LinearConstraint(self._row(row), 0, 0) for row in rows.values()]

    def _within(self, budget: Latency) -> LinearConstraint:
        costs, fixed = np.zeros(self.size), budget.predictor.fixed_ms
        for form in self.forms:
            if not form.groups:
                fixed += budget.predictor.cost_ms(form.at())
            elif len(form.groups) == 1:
                (name,) = form.groups
                for width in self.widths[name]:
                    costs[self.column[name, width]] += budget.predictor.cost_ms(form.at(width))
        for k, (i, at) in enumerate(self.joint):
            costs[self.own + k] = budget.predictor.cost_ms(self.forms[i].at(*at))
        limit = budget.limit_ms - fixed
        scale = SCALE / max(abs(limit), np.abs(costs).max(), 1e-300)
        return LinearConstraint(costs[None] * scale, -np.inf, limit * scale)

    def _row(self, entries: Mapping[int, float]) -> np.ndarray:
        row = np.zeros((1, self.size))
        row[0, list(entries)] = list(entries.values())
        return row


def _lost(scores: Tensor, width: int) -> float:
    return float(scores.sum() - scores.topk(width).values.sum())
