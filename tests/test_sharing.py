"""What weight sharing answers: a budget is a ceiling, and nothing turns on chance."""

import dataclasses
import itertools
import random

import numpy as np
import pytest
import torch

from edgenas.project import least, most, project
from edgenas.search import Objective
from edgenas.sharing import STEP, candidates, chosen, slack


def worth_of(space, seed):
    g = torch.Generator().manual_seed(seed)
    return {c.name: torch.randn(len(c.options), generator=g) for c in space.choices}


def right(count, of=400, first=0):
    """So many images right, from number ``first`` on."""
    found = np.zeros(of, bool)
    found[first : first + count] = True
    return found


@pytest.mark.parametrize("seed", range(3))
def test_each_candidate_takes_less_and_is_the_best_that_does(problem, space, seed):
    (objective,), worth = problem.objectives, worth_of(space, seed)
    found = candidates(space, worth, objective)
    loads = [objective.load(space.ops(a)) for a in found]
    assert found[0] == project(space, worth, objective.budgets) and loads[0] <= 1
    assert all(b <= STEP * a + 1e-9 for a, b in itertools.pairwise(loads))
    (budget,) = objective.budgets
    assert loads[-1] < least(space, budget) / budget.limit / STEP + 1e-9
    rng = random.Random(seed)
    for _ in range(50):
        arch = space.sample(rng)
        load, own = objective.load(space.ops(arch)), total(worth, arch, space)
        for ceiling, one in zip([1.0, *(STEP * v for v in loads)], found, strict=False):
            assert load > ceiling or own <= total(worth, one, space) + 1e-6


def total(worth, arch, space):
    return sum(float(worth[c.name][arch.index(c.name)]) for c in space.choices)


def test_a_budget_is_slack_where_every_network_keeps_it(problem, space):
    (budget,) = problem.objectives[0].budgets
    slowest = project(space, {c: load for c, load in costs(space, budget).items()}, [])
    limit = most(space, budget)
    assert limit == pytest.approx(budget.limit * budget.load(space.ops(slowest)))
    just, under = (dataclasses.replace(budget, limit_ms=limit * f) for f in (1.0001, 0.999))
    assert slack(space, [just]) and not slack(space, [under]) and not slack(space, [just, under])


def costs(space, budget):
    return {
        c.name: torch.tensor([budget.part(o) for o in space.option_ops(c.name)])
        for c in space.choices
    }


def test_of_what_is_alike_the_dearest_is_taken_under_a_budget_and_the_cheapest_under_none():
    rights = {"dear": right(300), "middle": right(302), "cheap": right(299), "poor": right(200)}
    assert chosen(rights, slack=False) == "dear"
    assert chosen(rights, slack=True) == "cheap"


@pytest.mark.parametrize("loose", [True, False])
def test_what_is_worse_by_more_than_chance_is_not_taken(loose):
    assert chosen({"dear": right(250), "cheap": right(330)}, loose) == "cheap"
    assert chosen({"dear": right(330), "cheap": right(250)}, loose) == "dear"
    few = {"dear": right(5, 8), "cheap": right(4, 8)}
    assert chosen(few, loose) == ("cheap" if loose else "dear")


def test_more_time_never_gives_a_network_that_is_slower_and_worse(problem, space):
    """Of one worth and one truth; the budgets alone differ."""
    worth, (budget,) = worth_of(space, 4), problem.objectives[0].budgets
    answers = []
    for factor in (0.8, 1.0, 1.3, 2.0, 10.0):
        asked = Objective((dataclasses.replace(budget, limit_ms=budget.limit_ms * factor),))
        found = candidates(space, worth, asked)
        truth = {a: right(200 + int(20 * min(total(worth, a, space), 6)), 400) for a in found}
        taken = chosen(truth, slack(space, asked.budgets))
        answers.append((budget.load(space.ops(taken)), int(truth[taken].sum())))
    for (load, good), (later, better) in itertools.pairwise(answers):
        assert later <= load or better >= good
