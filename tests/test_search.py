"""Ledger and ask_tell: killed anywhere, a search goes on as it would have."""

import dataclasses
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import (
    CapabilityError,
    CorruptFile,
    ImpossibleBudget,
    LedgerMismatch,
    UnknownName,
    UsageError,
)
from edgenas.methods.random import Random
from edgenas.pipeline.search import method
from edgenas.project import nearest
from edgenas.samplers import Fitting, Listed
from edgenas.search import METHODS, Ledger, Objective, Proposal, Trial, ask_tell
from edgenas.spec import Architecture
from edgenas.validate import construct

pytestmark = pytest.mark.trains


def worth(proposal: Proposal, id: int) -> Trial:
    """Instant and repeatable."""
    return Trial(id, proposal, {"accuracy": int(proposal.arch.id, 16) % 97 / 97}, 0.0)


class Killed(Exception):
    pass


def killed_at(number: int):
    def evaluate(proposal: Proposal, id: int) -> Trial:
        if id == number:
            raise Killed
        return worth(proposal, id)

    return evaluate


def fitting(problem, seed=0) -> Fitting:
    return Fitting(problem.space, problem.objectives[0], random.Random(seed), 2)


@pytest.mark.parametrize("cut", [0, 1, 4, 7])
def test_a_killed_run_ends_as_one_that_was_not(problem, tmp_path, cut):
    whole = ask_tell(fitting(problem), worth, Ledger(tmp_path / "a"), phase="p", trials=8)
    ledger = Ledger(tmp_path / "b")
    with pytest.raises(Killed):
        ask_tell(fitting(problem), killed_at(cut), ledger, phase="p", trials=8)
    calls: list[int] = []

    def counted(proposal: Proposal, id: int) -> Trial:
        calls.append(id)
        return worth(proposal, id)

    assert ask_tell(fitting(problem), counted, ledger, phase="p", trials=8) == whole
    assert calls == list(range(cut, 8))
    assert ledger.path.read_text() == (tmp_path / "a").read_text()


def test_replay_that_proposes_something_else_is_refused(problem, tmp_path):
    ledger = Ledger(tmp_path / "l")
    ask_tell(fitting(problem, 0), worth, ledger, phase="p", trials=3)
    with pytest.raises(LedgerMismatch, match=r"p 0 was \w{10} for 2 epochs.*settings or code"):
        ask_tell(fitting(problem, 1), worth, ledger, phase="p", trials=3)
    with pytest.raises(LedgerMismatch, match="would be none"):
        ask_tell(Listed([]), worth, ledger, phase="p", trials=3)


def test_phases_are_apart_and_progress_is_told(problem, tmp_path):
    ledger, seen = Ledger(tmp_path / "l"), []
    archs = [problem.space.sample(random.Random(i)) for i in range(3)]
    ask_tell(Listed(archs), worth, ledger, phase="a", trials=9, progress=lambda *a: seen.append(a))
    ask_tell(Listed(archs[:1]), worth, ledger, phase="b", trials=1)
    assert [t.arch for t in ledger.trials("a")] == archs
    assert len(ledger.trials("b")) == 1
    assert seen == [("a", 1, 9), ("a", 2, 9), ("a", 3, 9)]


keys = st.text("abc", min_size=1, max_size=3).filter(lambda k: k not in ("phase", "event"))
values = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(
    st.lists(st.dictionaries(keys, values | st.lists(values), max_size=3), max_size=5), st.data()
)
def test_ledger_gives_back_what_was_whole(tmp_path_factory, events, data):
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "l.jsonl")
    for event in events:
        ledger.append("p", "e", **event)
    want = [{"phase": "p", "event": "e", **e} for e in events]
    assert list(ledger.events()) == want
    if events:
        whole = ledger.path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        ledger.path.write_bytes(whole[:cut])
        left = whole[:cut].count(b"\n")
        assert list(ledger.events()) == want[:left]
        ledger.append("p", "after")
        assert list(ledger.events()) == [*want[:left], {"phase": "p", "event": "after"}]


def test_a_damaged_line_is_named(tmp_path):
    ledger = Ledger(tmp_path / "l")
    ledger.path.write_text('{"phase": "p", "event": "e"}\n{"pha\n{"phase": "p", "event": "e"}\n')
    with pytest.raises(CorruptFile, match=r"l, line 2: "):
        list(ledger.events())


@pytest.mark.parametrize("event", ["tell", "epoch"])
@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"trial": 3},
        {"trial": {"id": 0, "proposal": None}},
        {
            "trial": {
                "id": 0,
                "proposal": {"arch": {"space": "s", "picks": {}}, "epochs": 1},
                "metrics": {"accuracy": "much"},
            }
        },
    ],
)
def test_an_event_that_lacks_its_fields_is_said_as_of_the_file(tmp_path, event, rest):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("search", event, **rest)
    read = ledger.trials if event == "tell" else ledger.epochs
    with pytest.raises(CorruptFile, match=rf"ledger.jsonl: an event '{event}' is not whole"):
        read("search")


def test_ledger_refuses_what_is_no_number(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Ledger(tmp_path / "l").append("p", "e", loss=float("nan"))
    assert not (tmp_path / "l").exists()


def test_an_epoch_that_ran_again_counts_once(tmp_path):
    ledger = Ledger(tmp_path / "l")
    for epoch, loss in [(1, 3.0), (2, 2.0), (1, 1.0)]:
        ledger.append("search", "epoch", epoch=epoch, loss=loss)
    assert [e["loss"] for e in ledger.epochs("search")] == [1.0, 2.0]


picks = st.dictionaries(
    keys, st.integers() | st.lists(st.integers(), max_size=3).map(tuple), max_size=4
)


@given(picks, st.integers(0, 99))
def test_trial_round_trip(picks, id):
    trial = Trial(id, Proposal(Architecture.of("s", picks), id), {"accuracy": 0.5}, 1.5)
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial


def test_objective_takes_the_tightest_budget(problem, space):
    (budget,) = problem.objectives[0].budgets
    half = dataclasses.replace(budget, device="half", limit_ms=budget.limit_ms / 2)
    ops = space.ops(space.sample(random.Random(0)))
    both = Objective((budget, half))
    assert both.load(ops) == half.load(ops) == pytest.approx(2 * budget.load(ops))
    exact = dataclasses.replace(budget, limit_ms=budget.predictor.p50_ms(ops) * 1.05 * (1 + 1e-12))
    assert Objective((exact,)).fits(ops)  # the margin of the table is 5 %
    assert not Objective((dataclasses.replace(exact, limit_ms=exact.limit_ms * 0.999),)).fits(ops)


def test_random_fits_without_training(problem, space, tmp_path):
    found = Random().run(problem, Ledger(tmp_path / "l"))
    assert problem.objectives[0].fits(space.ops(found.archs[0]))
    assert found.supernet is None
    again = Random().run(problem, Ledger(tmp_path / "l"))
    assert again.archs[0] == found.archs[0]
    assert len(Ledger(tmp_path / "l").trials("search")) == 1


def test_random_takes_the_best_of_what_it_trained(problem, tmp_path):
    ledger = Ledger(tmp_path / "l")
    found = Random(trials=3, epochs=1).run(problem, ledger)
    trials = ledger.trials("search")
    assert len({t.arch for t in trials}) == 3
    assert found.archs[0] == max(trials, key=lambda t: t.metrics["accuracy"]).arch
    assert all(t.metrics["load"] <= 1 and t.seconds > 0 for t in trials)


def test_random_under_a_budget_that_draws_never_meet(problem, space, tmp_path):
    from edgenas.project import least

    (budget,) = problem.objectives[0].budgets
    tight = dataclasses.replace(budget, limit_ms=least(space, budget) * 1.000001)
    alone = dataclasses.replace(problem, objectives=(Objective((tight,)),))
    found = Random().run(alone, Ledger(tmp_path / "l"))
    assert alone.objectives[0].fits(space.ops(found.archs[0]))
    sampler = fitting(alone)
    assert sampler.ask() is not None and sampler.ask() is None  # there is one such network
    none = dataclasses.replace(
        problem, objectives=(Objective((dataclasses.replace(budget, limit_ms=0.001),)),)
    )
    with pytest.raises(ImpossibleBudget, match="the least that this space can do"):
        Random().run(none, Ledger(tmp_path / "m"))


def test_methods_are_found_by_name():
    assert {"proxyless", "random"} <= set(METHODS)
    assert METHODS["random"] is Random
    with pytest.raises(UnknownName, match="Did you mean 'proxyless'"):
        METHODS["proxyles"]


def test_what_was_measured_is_not_judged_by_the_table(problem, space, tmp_path):
    """As a front does, whose networks were measured within their budgets."""
    (budget,) = problem.objectives[0].budgets
    (tmp_path / "architecture.json").write_text(json.dumps(nearest(space, [budget]).to_json()))
    tight = dataclasses.replace(
        problem,
        objectives=(Objective((dataclasses.replace(budget, limit_ms=budget.limit_ms / 100),)),),
    )
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(UsageError, match="architecture"):
        construct(METHODS["measured"], {}, "search measured")
    with pytest.raises(ImpossibleBudget, match=r"would take \S+% of the budget"):
        METHODS["fixed"](tmp_path / "architecture.json").run(tight, ledger)
    found = METHODS["measured"](tmp_path / "architecture.json").run(tight, ledger)
    assert found.archs == (nearest(space, [budget]),)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0), ("epochs", True), ("warmup", -1), ("batch", 0), ("lr", -1),
        ("lr", float("nan")), ("momentum", 2), ("weight_decay", -1), ("smoothing", 3),
        ("arch_every", 0), ("arch_lr", -1), ("fill", 2), ("samples", -3),
        ("pressure", {"kind": "foo"}), ("pressure", {"kind": "multiplicative", "weight": 0.1}),
        ("pressure", {"kind": "adaptive", "rate": -1}), ("precision", "fp16"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_before_anything_runs(field, value):
    with pytest.raises(UsageError) as e:
        method({"method": "proxyless", field: value})
    assert "\n" not in str(e.value) and field in str(e.value)


def test_a_space_without_supernet_suits_random_only(problem, tmp_path):
    from edgenas.space import Space

    class Bare(Space):
        """Hides what makes ``space`` relaxable."""

        def __init__(self, inner):
            self.inner, self.classes = inner, inner.classes

        id = property(lambda self: self.inner.id)
        input = property(lambda self: self.inner.input)

    for name in Space.__abstractmethods__ - {"id", "input"}:
        setattr(Bare, name, lambda self, *a, _n=name, **k: getattr(self.inner, _n)(*a, **k))
    Bare.__abstractmethods__ = frozenset()
    bare = dataclasses.replace(problem, space=Bare(problem.space))
    assert Random().run(bare, Ledger(tmp_path / "l")).archs
    with pytest.raises(CapabilityError, match="method 'proxyless' needs a space"):
        METHODS["proxyless"]().run(bare, Ledger(tmp_path / "m"))
