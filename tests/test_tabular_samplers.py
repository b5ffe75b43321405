"""Aging evolution and the largest that fit; the best-first order against brute force."""

import dataclasses
import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas import ops
from edgenas.best_first import best_first
from edgenas.budgets import Peak, Row, Total
from edgenas.errors import ImpossibleBudget
from edgenas.samplers import Aging, Largest
from edgenas.search import Objective, Problem, Proposal, Sampler, Trial
from edgenas.space import Space
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture


def told(sampler: Sampler, proposal: Proposal | None, accuracy: float) -> Architecture:
    assert proposal is not None
    sampler.tell(Trial(0, proposal, {"accuracy": accuracy}, 0.0))
    return proposal.arch


def everything(space: Mobile) -> list[Architecture]:
    names = [c.name for c in space.choices]
    every = itertools.product(*(range(len(c.options)) for c in space.choices))
    return [Architecture.of(space.id, dict(zip(names, picks, strict=True))) for picks in every]


# --- the order


def total(parts: Sequence[Sequence[float]], picks: Sequence[int]) -> float:
    return sum(group[k] for group, k in zip(parts, picks, strict=True))


@st.composite
def knapsacks(draw: st.DrawFn) -> tuple[list[list[float]], list[Row]]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    whole = st.integers(0, 50).map(float)  # sums are exact, so that equal ones are equal

    def parts() -> list[list[float]]:
        return [[draw(whole) for _ in range(n)] for n in sizes]

    values = [[v - 25 for v in group] for group in parts()]
    return values, [Row(parts(), draw(st.integers(0, 150))) for _ in range(draw(st.integers(1, 3)))]


@given(knapsacks())
@settings(max_examples=150)
def test_all_that_fit_come_once_and_the_best_first(
    problem: tuple[list[list[float]], list[Row]],
) -> None:
    values, rows = problem
    fitting = [
        picks
        for picks in itertools.product(*(range(len(g)) for g in values))
        if all(total(row.parts, picks) <= row.limit for row in rows)
    ]
    found = list(best_first(values, rows, random.Random(0)))
    assert sorted(map(tuple, found)) == sorted(fitting)
    sums = [total(values, picks) for picks in found]
    assert sums == sorted(sums, reverse=True)


def test_equal_sums_come_in_random_order() -> None:
    values, rows = [[0.0, 0.0], [0.0, 0.0]], [Row([[0.0, 0.0]] * 2, 1.0)]
    firsts = {tuple(next(best_first(values, rows, random.Random(seed)))) for seed in range(60)}
    assert len(firsts) == 4


def test_the_first_of_very_many_take_no_time() -> None:
    """21 choices of 7: brute force would look at 5e17."""
    rng = random.Random(0)
    costs = [[rng.uniform(1, 2) for _ in range(7)] for _ in range(21)]
    values = [[c + rng.uniform(0, 0.3) for c in group] for group in costs]
    row = Row(costs, 32.0)
    found = list(itertools.islice(best_first(values, [row], rng), 10))
    sums = [total(values, picks) for picks in found]
    assert sums == sorted(sums, reverse=True)
    assert all(total(costs, picks) <= 32 for picks in found)
    assert len({tuple(p) for p in found}) == 10


# --- the largest


def test_the_largest_that_fit_come_first(problem: Problem, space: Mobile) -> None:
    (objective,) = problem.objectives

    def weights(arch: Architecture) -> int:
        return sum(map(ops.parameters, space.ops(arch)))

    def size(arch: Architecture) -> int:
        return sum(map(ops.macs, space.ops(arch)))

    middle = sorted(map(weights, everything(space)))[len(everything(space)) // 2]
    total = Total("parameters", "parameters", middle, ops.parameters)
    peak = Peak("activations", "numbers", 6000, ops.activation_elements)
    three = Objective((*objective.budgets, total, peak))

    want = sorted((size(a) for a in everything(space) if three.fits(space.ops(a))), reverse=True)
    assert len(want) > 10
    for fewer in itertools.combinations(three.budgets, 2):  # each of the three matters
        other = Objective(fewer)
        assert len(want) < sum(other.fits(space.ops(a)) for a in everything(space))
    sampler = Largest(space, three, ops.macs, random.Random(0), epochs=3)
    found = [told(sampler, sampler.ask(), 0.5) for _ in want]
    assert [size(a) for a in found] == want and len(set(found)) == len(want)
    assert all(three.fits(space.ops(a)) for a in found)
    assert sampler.ask() is None


def test_the_largest_says_what_would_be_possible(space: Mobile) -> None:
    none = Objective((Total("macs", "MACs", 10.0, ops.macs),))
    with pytest.raises(ImpossibleBudget, match="no network fits 10 MACs"):
        Largest(space, none, ops.macs, random.Random(0)).ask()


def test_the_largest_of_a_space_without_choices_are_drawn(problem: Problem, space: Mobile) -> None:
    class Bare(Space):
        """Hides what makes ``space`` relaxable."""

        classes, id, input = space.classes, space.id, space.input

    for name in Space.__abstractmethods__ - {"id", "input"}:
        setattr(Bare, name, getattr(space, name))
    Bare.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    (objective,) = problem.objectives
    sampler = Largest(Bare(), objective, ops.parameters, random.Random(0))  # type: ignore[abstract]
    found = [told(sampler, sampler.ask(), 0.5) for _ in range(20)]
    sizes = [sum(map(ops.parameters, space.ops(a))) for a in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(objective.fits(space.ops(a)) for a in found)


# --- evolution


def test_everything_that_evolution_proposes_fits_and_is_new(problem: Problem) -> None:
    space, (objective,) = problem.space, problem.objectives
    fitting = [a for a in everything(space) if objective.fits(space.ops(a))]  # type: ignore[arg-type]
    sampler = Aging(space, objective, random.Random(0), population=6, tournament=2, epochs=3)
    asked: list[Architecture] = []
    while (proposal := sampler.ask()) is not None:
        assert proposal.epochs == 3
        asked.append(told(sampler, proposal, random.Random(len(asked)).random()))
    assert len(set(asked)) == len(asked) > 0.9 * len(fitting)
    assert set(asked) <= set(fitting)


def apart(a: Architecture, b: Architecture) -> int:
    return sum(x != y for x, y in zip(a.picks, b.picks, strict=True))


def test_mutants_are_of_the_best_until_it_is_the_oldest(space: Mobile) -> None:
    wide = Objective((Total("macs", "MACs", 1e12, ops.macs),))
    deep = dataclasses.replace(space, depths=(4, 4))
    sampler = Aging(deep, wide, random.Random(0), population=8, tournament=8)
    first = told(sampler, sampler.ask(), 0.9)
    others = [told(sampler, sampler.ask(), 0.1) for _ in range(6)]
    last = told(sampler, sampler.ask(), 0.8)
    assert apart(first, last) > 2 and len({first, last, *others}) == 8
    mutant = told(sampler, sampler.ask(), 0.0)  # which takes the place of the first
    assert apart(mutant, first) == 1
    heirs = [told(sampler, sampler.ask(), 0.0) for _ in range(7)]
    assert all(apart(heir, last) == 1 for heir in heirs)


def test_evolution_climbs(space: Mobile) -> None:
    """Accuracy is how many picks are as in one architecture."""
    wide = Objective((Total("macs", "MACs", 1e12, ops.macs),))
    deep = dataclasses.replace(space, depths=(4, 4))
    goal = deep.sample(random.Random(5))
    sampler = Aging(deep, wide, random.Random(0), population=10, tournament=5)
    found = []
    for _ in range(150):
        proposal = sampler.ask()
        assert proposal is not None
        found.append(8 - apart(proposal.arch, goal))
        told(sampler, proposal, found[-1] / 8)
    assert max(found[:10]) <= 4 and max(found) >= 7


def test_an_impossible_budget_is_said(space: Mobile) -> None:
    none = Objective((Total("macs", "MACs", 10.0, ops.macs),))
    with pytest.raises(ImpossibleBudget, match="no network fits 10 MACs"):
        Aging(space, none, random.Random(0)).ask()
