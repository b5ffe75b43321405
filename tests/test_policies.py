"""Policies: what they draw, and that they follow gradients and price."""

import dataclasses
import random
from collections import Counter

import pytest
import torch
from torch import nn

from edgenas.gates import Mixed
from edgenas.policies import AllPaths, Mixture, Reinforce, TwoPaths
from edgenas.pressure import Additive
from edgenas.relax import Loads, Step


def fresh(space, lr=0.05, seed=0) -> TwoPaths:
    return TwoPaths(space, lr, random.Random(seed))


def test_starts_undecided_and_repeatable(space):
    a, b, other = fresh(space), fresh(space), fresh(space, seed=1)
    for c, scores in a.scores().items():
        assert scores.exp().sum() == pytest.approx(1)
        assert scores.exp().max() - scores.exp().min() < 0.01
        assert torch.equal(scores, b.scores()[c]) and not torch.equal(scores, other.scores()[c])
        assert not scores.requires_grad


def test_draws_follow_the_probabilities(space):
    policy, rng = fresh(space), random.Random(0)
    with torch.no_grad():
        policy.alpha["s1b2"].copy_(torch.tensor([2.0, 0, 0, 0, 1]))
    picked = Counter(policy.draw(rng).index("s1b2") for _ in range(4000))
    for k, p in enumerate(policy.scores()["s1b2"].exp().tolist()):
        assert picked[k] / 4000 == pytest.approx(p, abs=0.03)
    space.check(policy.draw(rng))


def test_two_paths_are_distinct_one_on_and_share_all_probability(space):
    policy, rng = fresh(space), random.Random(0)
    for _ in range(30):
        gates, probs = policy.gates(rng)
        for c in space.choices:
            gate = gates[c.name]
            assert len(set(gate.live)) == 2
            assert sorted(gate.value.tolist()) == [0.0, 1.0]  # exactly
            assert float(probs[c.name].detach().sum()) == pytest.approx(1)
            rest = [k for k in range(len(c.options)) if k not in gate.live]
            assert not probs[c.name][rest].any()


class Told(nn.Module):
    """A supernet whose loss is known: each option adds its worth to the logit of class 0."""

    def __init__(self, worth):
        super().__init__()
        self.worth = worth

    def forward(self, x, gates):
        gain = torch.stack(
            [(g.value * self.worth[c][list(g.live)]).sum() for c, g in gates.items()]
        )
        return torch.stack([gain.sum(), torch.zeros(())])[None].expand(len(x), 2)


def learn(problem, policy, worth, price, steps=300):
    x, y = torch.zeros(4, 1, 12, 12), torch.zeros(4, dtype=torch.long)
    loads, rng = Loads.of(problem.space, problem.objectives[0]), random.Random(3)
    net, task = Told(worth), problem.task
    step = Step(
        lambda gates: task.loss(net(x, gates), y),
        lambda gates: float(torch.softmax(net(x, gates), 1)[0, 0]),
        loads, 0, Additive(price), rng,
    )  # fmt: skip
    for _ in range(steps):
        loss = policy.arch_step(step)
    return loss


def test_finds_the_options_that_lower_the_loss(problem, space):
    g = torch.Generator().manual_seed(0)
    worth = {c.name: torch.rand(len(c.options), generator=g) for c in space.choices}
    policy = fresh(space)
    loss = learn(problem, policy, worth, price=0.0)
    assert loss < 0.3
    for c, scores in policy.scores().items():
        assert int(scores.argmax()) == int(worth[c].argmax())


@pytest.mark.parametrize("price", [0.5, -0.5])
def test_price_moves_the_answer_both_ways(problem, space, price):
    policy = fresh(space)
    learn(problem, policy, {c.name: torch.zeros(len(c.options)) for c in space.choices}, price)
    loads = Loads.of(space, problem.objectives[0])
    for c, scores in policy.scores().items():
        cost = loads.options[c][0] * price
        assert int(scores.argmax()) == int(cost.argmin())


MAKERS = [
    lambda space: TwoPaths(space, 0.05, random.Random(0)),
    lambda space: AllPaths(space, 0.05, random.Random(0)),
    lambda space: Mixture(space, 0.05, random.Random(0)),
    lambda space: Reinforce(space, 0.05, random.Random(0), 4),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("price", [3.0, -3.0])
def test_no_load_moves_what_an_option_is_said_to_be_worth(problem, space, make, price):
    policy = make(space)
    policy.start({c.name: torch.arange(len(c.options)) * -1.0 for c in space.choices})
    before = policy.worth()
    learn(problem, policy, {c.name: torch.zeros(len(c.options)) for c in space.choices}, price, 50)
    for c, own in policy.worth().items():
        torch.testing.assert_close(own, before[c], rtol=0, atol=1e-4)
        assert float(own.mean()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_a_dear_option_that_is_good_is_said_to_be_so_under_a_price_that_rules_it_out(
    problem, space, make
):
    policy, loads = make(space), Loads.of(space, problem.objectives[0])
    good = {c: own[0, 0] / own.max() for c, own in loads.options.items()}  # the dearer the better
    learn(problem, policy, good, price=3.0)
    for c, scores in policy.scores().items():
        cheap = int(loads.options[c][0, 0].argmin())
        assert int(scores.argmax()) == cheap
        assert int(policy.worth()[c].argmax()) != cheap


def test_the_tightest_budget_alone_is_charged(problem, space):
    (budget,) = problem.objectives[0].budgets
    easy = dataclasses.replace(budget, device="easy", limit_ms=budget.limit_ms * 100)
    both = dataclasses.replace(problem.objectives[0], budgets=(easy, budget))
    policy, net = fresh(space), space.supernet(Mixed)
    x, y = next(problem.task.batches("search", 16, 0, augmented=False))
    gates, probs = policy.gates(random.Random(0))
    net.eval()

    def charged(objective, index):
        loads = Loads.of(space, objective)
        step = Step(
            lambda gates: problem.task.loss(net(x, gates), y),
            lambda gates: 0.0, loads, index, Additive(2.0), random.Random(0),
        )  # fmt: skip
        total, _, ce = step.loss(gates, probs)
        return float((total - ce).detach())

    assert charged(both, 1) == pytest.approx(charged(problem.objectives[0], 0), abs=1e-5)
    assert charged(both, 0) != pytest.approx(charged(both, 1), abs=0.1)


@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_a_choice_moves_as_far_as_it_matters_whatever_the_unit_of_the_loss(problem, space, unit):
    """Adam would move all alike."""
    names = [c.name for c in space.choices]
    worth = {c: torch.zeros(len(s)) for c, s in fresh(space).scores().items()}
    for name, most in zip(names[:2], (1.0, 0.1), strict=True):
        worth[name][0] = -most * unit
    policy = AllPaths(space, 0.05, random.Random(0))
    before = {c: a.detach().clone() for c, a in policy.alpha.items()}
    loads = Loads.of(space, problem.objectives[0])

    def ce(gates):
        return torch.stack([g.value @ worth[c] for c, g in gates.items()]).sum()

    policy.arch_step(Step(ce, lambda gates: 0.0, loads, 0, Additive(0.0), random.Random(0)))
    moved = {c: a.detach() - before[c] for c, a in policy.alpha.items()}
    even = [1 / len(worth[c]) for c in names[:2]]
    large, small = (float(moved[c][0]) / p / (1 - p) for c, p in zip(names, even, strict=False))
    assert large / small == pytest.approx(10, rel=0.05)
    every = torch.cat(list(moved.values()))
    assert float(every.square().mean().sqrt()) == pytest.approx(0.05, rel=1e-3)


def test_it_leans_where_it_is_told_to_start(space):
    policy, lean = fresh(space), {}
    for c in space.choices:
        lean[c.name] = torch.arange(float(len(c.options)))
    policy.start(lean)
    for c, scores in policy.scores().items():
        torch.testing.assert_close(scores, lean[c].log_softmax(0), rtol=0, atol=0.02)
