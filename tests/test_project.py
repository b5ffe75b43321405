"""The knapsack against brute force; what is said where nothing fits."""

import ctypes
import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.budgets import Latency, Row
from edgenas.errors import ImpossibleBudget
from edgenas.project import knapsack, least, nearest, project
from edgenas.spec import Architecture

number = st.floats(0, 100, allow_subnormal=False).map(lambda v: round(v, 4))


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    budgets = draw(st.integers(1, 3))
    unit = draw(st.sampled_from([1e-6, 1.0, 1e4]))  # nothing may depend on it

    def table(values):
        return [[draw(values) for _ in range(n)] for n in sizes]

    values = table(st.floats(-50, 50).map(lambda v: round(v, 3)))
    costs = [[[c * unit for c in g] for g in table(number)] for _ in range(budgets)]
    limits = [draw(st.floats(-10, 300).map(lambda v: round(v, 4))) * unit for _ in range(budgets)]
    return values, costs, limits


def rows(costs, limits):
    return [Row(c, limit) for c, limit in zip(costs, limits, strict=True)]


def total(table, picks):
    return sum(group[k] for group, k in zip(table, picks, strict=True))


@given(problems())
@settings(max_examples=150)
def test_knapsack_is_the_best_of_all_that_fit(problem):
    values, costs, limits = problem
    fitting = [
        picks
        for picks in itertools.product(*(range(len(g)) for g in values))
        if all(total(c, picks) <= limit for c, limit in zip(costs, limits, strict=True))
    ]
    picks = knapsack(values, rows(costs, limits))
    if picks is None:
        assert not fitting
    else:
        assert tuple(picks) in fitting
        assert total(values, picks) == pytest.approx(
            max(total(values, p) for p in fitting), abs=1e-5
        )


@given(problems())
@settings(max_examples=60)
def test_a_budget_that_is_met_exactly_fits(problem):
    values, costs, _ = problem
    picks = [len(g) - 1 for g in values]
    exact = [total(c, picks) for c in costs]
    assert knapsack(values, rows(costs, exact)) is not None
    wanted = [[float(k == p) for k in range(len(g))] for g, p in zip(values, picks, strict=True)]
    best = knapsack(wanted, rows(costs, exact))
    assert best is not None and total(wanted, best) == len(values)


def test_a_hair_over_does_not_fit():
    assert knapsack([[0.0, 1.0]], [Row([[0.0, 1.0 + 1e-9]], 1.0)]) == [0]
    assert knapsack([[0.0, 1.0]], [Row([[0.5, 1.0 + 1e-9]], 0.5 - 1e-9)]) is None


def scores_of(space, seed):
    g = torch.Generator().manual_seed(seed)
    return {c.name: torch.randn(len(c.options), generator=g) for c in space.choices}


def every(space):
    """All architectures."""
    return [
        Architecture.of(space.id, dict(zip([c.name for c in space.choices], picks, strict=True)))
        for picks in itertools.product(*(range(len(c.options)) for c in space.choices))
    ]


def load(space, budgets, arch):
    """Of the tightest budget."""
    return max(b.load(space.ops(arch)) for b in budgets)


@pytest.mark.parametrize("seed", range(5))
def test_projection_is_the_best_architecture_that_fits(problem, space, seed):
    scores, objective = scores_of(space, seed), problem.objectives[0]

    def worth(arch):
        return sum(float(scores[c.name][arch.index(c.name)]) for c in space.choices)

    best = max((a for a in every(space) if objective.fits(space.ops(a))), key=worth)
    assert project(space, scores, objective.budgets) == best
    assert any(not objective.fits(space.ops(a)) for a in every(space))


@pytest.mark.parametrize("seed", range(3))
def test_projection_fills_the_budget_if_asked(problem, space, seed):
    (budget,) = problem.objectives[0].budgets
    fast = {
        c: -torch.tensor([sum(map(budget.cost, o)) for o in space.option_ops(c)])
        for c in scores_of(space, 0)
    }
    scores = {c: s * 1e-3 + fast[c] for c, s in scores_of(space, seed).items()}
    slow = limited(budget, 1e3, "slow")
    unasked, asked = (
        budget.load(space.ops(project(space, scores, [slow, budget], fill))) for fill in (0, 0.9)
    )
    assert unasked < 0.8 and 0.9 <= asked <= 1
    assert project(space, scores, [slow], 0.9) == project(
        space, scores, [slow]
    )  # none takes so much


def limited(budget: Latency, ms: float, device: str = "paper") -> Latency:
    return Latency(device, ms, budget.predictor)


def test_impossible_says_what_is_possible_and_that_works(problem, space):
    (budget,) = problem.objectives[0].budgets
    with pytest.raises(ImpossibleBudget) as e:
        project(space, scores_of(space, 0), [limited(budget, 0.01)])
    message = str(e.value)
    assert "\n" not in message
    m = re.fullmatch(
        r"no network fits 0.01 ms on paper: the least that this space can do is (\S+) ms on paper "
        r"\(5% margin included\); ask for at least that or take a smaller space",
        message,
    )
    assert m is not None
    asked = limited(budget, float(m[1]))
    arch = project(space, scores_of(space, 0), [asked])
    assert asked.load(space.ops(arch)) <= 1
    assert least(space, budget) == pytest.approx(float(m[1]), rel=2e-3)
    with pytest.raises(ImpossibleBudget):
        project(space, scores_of(space, 0), [limited(budget, least(space, budget) * 0.999)])


def test_budgets_that_only_clash_say_so(problem, space, table):
    """On the second device skip is slow and blocks are fast; alone each can be met."""
    import dataclasses

    from edgenas.predict import Predictor

    (budget,) = problem.objectives[0].budgets
    most = max(t.floor_ms for t in table.rows.values())
    rows = {
        op: dataclasses.replace(t, floor_ms=most * 1.01 - t.floor_ms if op.kind == "mbconv" else 0)
        for op, t in table.rows.items()
    }
    other = Predictor(dataclasses.replace(table, rows=rows))
    wide = [limited(budget, 99), Latency("other", 99, other)]
    tight = [dataclasses.replace(b, limit_ms=least(space, b) * 1.0001) for b in wide]
    for b in tight:
        project(space, scores_of(space, 0), [b])
    with pytest.raises(ImpossibleBudget, match=r"not all at once; \S+ ms on paper, \S+ ms on oth"):
        project(space, scores_of(space, 0), tight)
    assert load(space, tight, nearest(space, tight)) == pytest.approx(
        min(load(space, tight, arch) for arch in every(space))
    )


def test_the_nearest_to_one_budget_is_the_fastest(problem, space):
    budgets = [limited(problem.objectives[0].budgets[0], 0.01)]
    assert load(space, budgets, nearest(space, budgets)) == pytest.approx(
        min(load(space, budgets, arch) for arch in every(space))
    )


def test_small_values_decide_as_large_ones_do() -> None:
    """The solver's tolerances are absolute: values of 1e-9 were once all the same to it."""
    values = [[1e-9, 3e-9, 2e-9], [5e-10, 0.0, 1e-10]]
    costs = [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    assert knapsack(values, rows(costs, [1.0])) == [1, 0]


def test_the_solver_says_nothing_on_stdout(capfd):
    """It mends a solution that rounding breaks, and with presolve printed that it does."""
    blocks = [
        [0.1669, 0.2687, 0.2748, 0.4372],
        *[[0.4055, 0.3932, 0.7739, 0.6327, 0.0]] * 2,
        [0.1636, 0.1904, 0.2571, 0.2515],
        *[[0.1478, 0.2361, 0.2103, 0.3483, 0.0]] * 2,
        [0.0922, 0.1466, 0.109, 0.1762],
        *[[0.1588, 0.2801, 0.1883, 0.3559, 0.0]] * 2,
    ]
    values = [
        [1.54, 1.48, -1.29, -1.22], [1.13, 0.16, 0.83, -1.86, -0.75],
        [1.61, -0.03, 0.04, -1.78, 1.19], [0.48, 0.95, 0.37, -1.05],
        [0.27, -0.05, 0.86, 0.55, -1.46], [-1.2, -1.54, 0.77, -1.13, 1.01],
        [2.19, 0.57, 0.47, 0.64], [-1.0, -0.15, 1.09, -0.49, -0.76],
        [-0.6, 1.57, -0.79, -0.03, 0.69],
    ]  # fmt: skip
    picks = knapsack(values, [Row(blocks, 0.6906)])
    ctypes.CDLL(None).fflush(None)
    assert picks is not None and total(blocks, picks) <= 0.6906
    assert capfd.readouterr().out == ""
