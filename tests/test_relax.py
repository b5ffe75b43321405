"""The supernet loop: what it trains, the price of load, what it records."""

import dataclasses
import json
import random

import pytest
import torch
from torch import nn

from edgenas.budgets import Latency
from edgenas.errors import CapabilityError, TrainingDiverged, UsageError
from edgenas.gates import Mixed
from edgenas.latency import Timing
from edgenas.methods.proxyless import Proxyless
from edgenas.policies import TwoPaths
from edgenas.predict import Predictor
from edgenas.pressure import Adaptive
from edgenas.relax import STEEPEST, Loads, Schedule, affordable, relaxable
from edgenas.search import Ledger, Objective
from edgenas.supernet import train_supernet

pytestmark = pytest.mark.trains

QUICK = Schedule(epochs=3, warmup=1, batch=32, arch_every=2)


def in_microseconds(problem):
    """The same problem, every time a thousand times larger."""
    (budget,) = problem.objectives[0].budgets
    table = budget.predictor.table
    rows = {
        op: Timing(t.floor_ms * 1e3, t.p50_ms * 1e3, t.p90_ms * 1e3, t.n, t.provenance)
        for op, t in table.rows.items()
    }
    fit = dataclasses.replace(table.header.fit, intercept_ms=table.header.fit.intercept_ms * 1e3)
    table = dataclasses.replace(table, rows=rows, header=dataclasses.replace(table.header, fit=fit))
    other = Latency(budget.device, budget.limit_ms * 1e3, Predictor(table))
    return dataclasses.replace(problem, objectives=(Objective((other,)),))


def test_expected_load_of_one_architecture_is_its_load(problem, space):
    (first,) = problem.objectives[0].budgets
    objective = Objective((first, dataclasses.replace(first, device="b", limit_ms=9.0)))
    loads, rng = Loads.of(space, objective), random.Random(0)
    for _ in range(10):
        arch = space.sample(rng)
        probs = {c.name: torch.eye(len(c.options))[arch.index(c.name)] for c in space.choices}
        want = [b.load(space.ops(arch)) for b in objective.budgets]
        assert loads.expected(probs).tolist() == pytest.approx(want, rel=1e-5)


def spend(problem, space, share, devices=1):
    """Loads under a budget that is ``share`` of what an undecided supernet takes."""
    (budget,) = problem.objectives[0].budgets
    even = {c.name: torch.full((len(c.options),), 1 / len(c.options)) for c in space.choices}
    taken = float(Loads.of(space, problem.objectives[0]).expected(even))
    asked = [
        dataclasses.replace(budget, device=str(i), limit_ms=budget.limit_ms * taken * share * 2**i)
        for i in range(devices)
    ]
    return Loads.of(space, Objective(tuple(asked)))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_a_search_starts_at_its_budget_and_as_undecided_as_that_allows(
    problem, space, share, devices
):
    """One price for all choices: the condition for the most entropy under a mean."""
    loads = spend(problem, space, share, devices)
    logits = affordable(loads)
    probs = {c: a.softmax(0) for c, a in logits.items()}
    assert float(loads.expected(probs).max()) == pytest.approx(1, abs=1e-4)
    prices = [
        float((a[0] - a[k]) / (own[0] - own[k]))
        for c, a in logits.items()
        for own in [loads.options[c].sum((0, 1))]
        for k in range(1, len(a))
    ]
    assert prices == pytest.approx([prices[0]] * len(prices), rel=1e-3, abs=1e-3)
    assert prices[0] < 0


def test_where_nothing_fits_it_starts_at_the_fastest(problem, space):
    loads = spend(problem, space, 0.01)
    for c, a in affordable(loads).items():
        assert int(a.argmax()) == int(loads.options[c][0, 0].argmin())
        assert a.isfinite().all() and float(a.max() - a.min()) <= STEEPEST * 1.001


@pytest.mark.parametrize("share", [1.0, 1.3, 100.0])
def test_a_slack_budget_leans_towards_nothing(problem, space, share):
    """It once began at the slowest network, and stayed there."""
    for a in affordable(spend(problem, space, share)).values():
        torch.testing.assert_close(a, torch.zeros_like(a), rtol=0, atol=1e-3)


def test_no_unit_of_time_is_left(problem, space):
    """mul#log of the reference code depends on it, and fails below 1 ms (A.4)."""
    a, b = (Loads.of(space, p.objectives[0]) for p in (problem, in_microseconds(problem)))
    torch.testing.assert_close(a.fixed, b.fixed)
    for c in a.options:
        torch.testing.assert_close(a.options[c], b.options[c])


def test_price_is_never_a_reward_bounded_and_settles_at_load_one():
    assert Adaptive(0.1, 1.0, 1.0).value == 0
    over, under = Adaptive(0.1, 1.0, 0.5), Adaptive(0.1, 1.0, 0.5)
    for _ in range(100):
        over.adapt(1.5)
        under.adapt(0.5)
    assert (over.value, under.value) == (0.5, 0.0)
    price, load = Adaptive(0.05, 1.0, 1.0), 1.6
    for _ in range(400):  # load falls by what it is charged, and rises by a steady gain
        price.adapt(load)
        load += 0.02 - 0.1 * price.value
    assert load == pytest.approx(1, abs=0.01)
    assert price.value == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("share", [0.75, 1.25])
def test_expected_load_ends_within_the_budget_from_both_sides(share, problem, space, tmp_path):
    """``share``: the budget, of what the undecided supernet takes."""
    (budget,) = problem.objectives[0].budgets
    loads = Loads.of(space, problem.objectives[0])
    even = {c.name: torch.full((len(c.options),), 1 / len(c.options)) for c in space.choices}
    limit = budget.limit_ms * float(loads.expected(even)) * share
    problem = dataclasses.replace(
        problem, objectives=(Objective((dataclasses.replace(budget, limit_ms=limit),)),)
    )
    ledger = Ledger(tmp_path / "ledger.jsonl")
    schedule = dataclasses.replace(QUICK, epochs=11, arch_every=1)
    train_supernet(problem, space, [TwoPaths(space, 0.05, random.Random(0))], schedule, ledger)
    first, *_, last = ledger.epochs("search")
    assert first["levels"][0]["load"] == pytest.approx(1 / share, rel=0.01)
    assert last["levels"][0]["load"] < 1.06
    assert last["levels"][0]["weight"] >= 0


def test_warmup_trains_weights_only_and_every_epoch_is_recorded(problem, space, tmp_path):
    policy = TwoPaths(space, 0.05, random.Random(0))
    before = {c: s.clone() for c, s in policy.scores().items()}
    ledger, seen = Ledger(tmp_path / "ledger.jsonl"), []
    schedule = dataclasses.replace(QUICK, epochs=2, warmup=2)
    net = train_supernet(
        problem, space, [policy], schedule, ledger, lambda *args: seen.append(args)
    )
    assert all(torch.equal(s, before[c]) for c, s in policy.scores().items())
    assert seen[0] == ("search", 1, 12)
    assert seen[-1] == ("search", 12, 12)
    assert not net.training
    assert [e["epoch"] for e in ledger.epochs("search")] == [1, 2]
    (last,) = ledger.epochs("search")[-1]["levels"]
    assert last["val_loss"] is None and last["weight"] == 0
    assert last["expected"]["ms:paper"] == pytest.approx(
        last["load"] * problem.objectives[0].budgets[0].limit_ms / 1.05
    )
    assert last["entropy"] == pytest.approx(1, abs=1e-3)
    assert set(last["probabilities"]) == {c.name for c in space.choices}


def test_a_search_repeats_itself(problem, tmp_path):
    method = Proxyless(epochs=2, warmup=1, batch=64, samples=2)
    found, records = [], []
    for run in "ab":
        ledger = Ledger(tmp_path / run)
        torch.manual_seed(hash(run) % 1000)  # the outer random state must not matter
        found.append(method.run(problem, ledger))
        records.append(
            [{**e, "seconds": 0, "images_per_second": 0} for e in ledger.epochs("search")]
        )
    assert found[0].archs == found[1].archs
    assert records[0] == records[1]
    states = [f.supernet.state_dict() for f in found]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_proxyless_fits_is_scored_and_learns(problem, space, tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    found = Proxyless(epochs=8, warmup=3, batch=32, samples=3).run(problem, ledger)
    assert problem.objectives[0].fits(space.ops(found.archs[0]))
    best, *others = ledger.trials("evaluate")
    assert best.arch == found.archs[0]
    assert best.metrics["accuracy"] > 0.8
    assert all(t.metrics["load"] <= 1 for t in [best, *others])
    json.dumps([e["levels"][0]["probabilities"] for e in ledger.epochs("search")], allow_nan=False)


def test_a_killed_search_ends_as_one_that_was_not(problem, tmp_path):
    method = Proxyless(epochs=2, warmup=1, batch=64, samples=2)
    whole = Ledger(tmp_path / "whole.jsonl")
    want = method.run(problem, whole).archs
    lines = whole.path.read_bytes().splitlines(keepends=True)
    for cut in (1, len(lines) - 1):
        part = Ledger(tmp_path / f"{cut}.jsonl")
        part.path.write_bytes(b"".join(lines[:cut]) + lines[cut][:9])
        assert method.run(problem, part).archs == want
        assert [t.arch for t in part.trials("evaluate")] == [
            t.arch for t in whole.trials("evaluate")
        ]
        assert [e["epoch"] for e in part.epochs("search")] == [1, 2]


def test_divergence_says_what_to_change(problem, space, tmp_path):
    schedule = dataclasses.replace(QUICK, lr=1e30)
    policy = TwoPaths(space, 0.05, random.Random(0))
    with pytest.raises(TrainingDiverged, match=r"search: the loss became (nan|inf).*lower lr"):
        train_supernet(problem, space, [policy], schedule, Ledger(tmp_path / "l"))


def test_a_space_without_supernet_is_refused_in_one_line():
    with pytest.raises(CapabilityError, match=r"proxyless.*Relaxable.*random"):
        relaxable(object(), "proxyless")  # type: ignore[arg-type]  # that is what is tested


def test_supernet_in_channels_last(problem, space, tmp_path):
    policy = TwoPaths(space, 0.05, random.Random(0))
    net = train_supernet(
        problem, space, [policy], dataclasses.replace(QUICK, epochs=1), Ledger(tmp_path / "l")
    )
    convolution = next(m for m in net.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 1)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(net.mixed[0].mixed, Mixed)


@pytest.mark.parametrize(
    ("images", "length"),
    [(54_000, (5, 2, 128)), (1617, (20, 8, 32)), (10, (1000, 400, 10)), (None, (5, 2, 128))],
)
def test_a_small_set_is_gone_through_more_often(images, length):
    made = Schedule().length(images)
    assert (made.epochs, made.warmup, made.batch) == length


def test_what_is_said_of_the_length_is_obeyed():
    made = Schedule(epochs=3, warmup=0, batch=64).length(100)
    assert (made.epochs, made.warmup, made.batch) == (3, 0, 64)
    assert Schedule(epochs=3).length(54_000).warmup == 1
    assert Schedule(epochs=1).length(54_000).warmup == 0
    assert Schedule(warmup=6).length(54_000).epochs == 15
    with pytest.raises(UsageError, match="warmup is 3: of 3 epochs none would be left"):
        Proxyless(epochs=3, warmup=3)
    assert Schedule(batch=200).length(100).batch == 100
    sized = Proxyless(epochs=3).sized(1617)
    assert (sized.epochs, sized.warmup, sized.batch) == (3, 1, 32)
    assert Proxyless().sized(1617).training_epochs(1) > 20 > Proxyless().training_epochs(1)
