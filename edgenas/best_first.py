"""The discrete choices that keep every budget, the best first, one after the other."""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linprog

from edgenas.budgets import Budget, Row
from edgenas.space import Context, Relaxable
from edgenas.spec import Architecture

Worth = Callable[[Context], tuple[float, Mapping[str, Sequence[float]]]]

_SLACK = 1e-9  # of a limit: sums in another order


def best_first(
    values: Sequence[Sequence[float]], rows: Sequence[Row], rng: random.Random, within: float = 0.0
) -> Iterator[list[int]]:
    """Picks, an option of each group, by falling sum of ``values``; equal sums in random order.

    ``values[group][option]``; ``rows``: what picks have to keep. Exact: best-first branch and bound
    over the groups in turn, bounded by the Lagrangian dual at the multipliers of the linear
    relaxation (Fisher 1981, The Lagrangian relaxation method), so that few picks are looked at
    beside those that are wanted. Where ``values`` are nearly what a row sums, all bounds are nearly
    equal and exactness takes ages: ``within`` lets picks come that are short of the best by that.
    """
    prices = _prices(values, rows)
    if prices is None:
        return
    costs = [
        np.array([[row.parts[g][k] for row in rows] for k in range(len(group))])
        for g, group in enumerate(values)
    ]
    adds = [np.asarray(v, float) for v in values]
    net = [v - c @ prices for v, c in zip(adds, costs, strict=True)]
    limits = np.array([row.limit for row in rows])
    gain = _rest([n.max() for n in net])  # at most, of the groups from here on
    least = _rest([c.min(0) for c in costs])
    room = limits + _SLACK * np.maximum(np.abs(limits), 1)
    order = itertools.count()
    open_: list[tuple[float, int, float, int, list[int], float, np.ndarray]] = [
        (-np.inf, 0, 0.0, next(order), [], 0.0, np.zeros(len(rows)))
    ]
    while open_:
        *_, picks, value, used = heapq.heappop(open_)
        group = len(picks)
        if group == len(values):
            yield picks
            continue
        after = used + costs[group]
        last = group + 1 == len(values)
        beyond = within if last else gain[group + 1] + (limits - after) @ prices
        bounds = value + adds[group] + beyond
        for k in np.flatnonzero((after + least[group + 1] <= room).all(1)).tolist():
            sum_ = value + values[group][k]
            deep = -group if within else 0  # to picks that are whole, soon
            rank = (-float(bounds[k]), deep, rng.random(), next(order))
            heapq.heappush(open_, (*rank, [*picks, k], sum_, after[k]))


def ordered(
    space: Relaxable,
    budgets: Sequence[Budget],
    worth: Worth,
    rng: random.Random,
    within: float = 0.0,
) -> Iterator[tuple[float, Architecture]]:
    """Those that keep ``budgets`` but for rounding, each with what it is worth, the best first.

    ``worth`` of a context: of what it fixes, and what each option of every free choice adds;
    ``within`` as of ``best_first``.
    """
    each = (_of(space, context, budgets, worth, rng, within) for context in space.contexts)
    yield from heapq.merge(*each, key=lambda ranked: ranked[0], reverse=True)


def _of(
    space: Relaxable,
    context: Context,
    budgets: Sequence[Budget],
    worth: Worth,
    rng: random.Random,
    within: float,
) -> Iterator[tuple[float, Architecture]]:
    """Those of ``context``."""
    free = {c: ops for c, ops in context.options.items() if c not in context.picks}
    fixed, adds = worth(context)
    values = [adds[c] for c in free]
    rows = [
        row
        for b in budgets
        for row in b.rows(
            [[b.part(ops) for ops in every] for every in free.values()], b.load(context.fixed)
        )
    ]
    for picks in best_first(values, rows, rng, within):
        chosen = {**context.picks, **dict(zip(free, picks, strict=True))}
        scores = {c.name: torch.eye(len(c.options))[chosen[c.name]] for c in space.choices}
        total = fixed + sum(group[k] for group, k in zip(values, picks, strict=True))
        yield total, space.decode(scores)


def _prices(values: Sequence[Sequence[float]], rows: Sequence[Row]) -> np.ndarray | None:
    """What a unit of each row is worth where picks may be mixtures; None if nothing fits."""
    sizes = [len(group) for group in values]
    answer = linprog(
        -np.concatenate([np.asarray(group, float) for group in values]),
        A_ub=np.array([np.concatenate([np.asarray(g, float) for g in r.parts]) for r in rows]),
        b_ub=np.array([r.limit for r in rows]),
        A_eq=np.repeat(np.eye(len(sizes)), sizes, axis=1),
        b_eq=np.ones(len(sizes)),
        bounds=(0, 1),
    )
    return None if answer.x is None else np.maximum(-answer.ineqlin.marginals, 0)


def _rest(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Sums from each part to the last, and nothing after it."""
    stacked = np.array([*parts, np.zeros_like(parts[0])])
    return np.cumsum(stacked[::-1], axis=0)[::-1]
