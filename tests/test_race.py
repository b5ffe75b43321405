"""Races of rungs, who gets a seat, and model-based search: replayed from a ledger, bit for bit."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas import evaluate, ops
from edgenas.budgets import Total
from edgenas.errors import CapabilityError, ImpossibleBudget, LedgerMismatch, UsageError
from edgenas.model_based import ModelBased
from edgenas.pipeline.search import method
from edgenas.race import NEAR, cost_epochs, race, seated, trainings
from edgenas.samplers import Fitting, Largest
from edgenas.search import Ledger, Objective, Problem, Proposal, Trial, ask_tell
from edgenas.space import Space
from edgenas.spaces.mobile import Mobile
from edgenas.spaces.nasbench_macro import NasBenchMacro
from edgenas.spec import Architecture

MACRO = NasBenchMacro()
SIZES = (ops.macs, ops.parameters)


def under(mflops: float) -> Objective:
    return Objective((Total("flops", "MFLOPs", mflops, lambda op: ops.macs(op) / 1e6),))


def drawn(n: int) -> list[Architecture]:
    rng = random.Random(0)
    return [MACRO.sample(rng) for _ in range(n)]


class Counting:
    """Accuracy is what ``worth`` says; what was trained is kept."""

    def __init__(self, worth: Callable[[Proposal], float], dies_at: int | None = None) -> None:
        self.worth, self.dies_at = worth, dies_at
        self.trained: list[Proposal] = []

    def __call__(self, proposal: Proposal, id: int) -> Trial:
        if id == self.dies_at:
            raise KeyboardInterrupt
        self.trained.append(proposal)
        return Trial(id, proposal, {"accuracy": self.worth(proposal)}, 0.5)


# --- rungs


def test_the_worse_half_leaves_after_each_rung_and_the_winner_is_the_best_of_the_last(
    tmp_path: Path,
) -> None:
    archs = drawn(7)
    order = dict(zip(archs, [3, 6, 1, 5, 0, 4, 2], strict=True))
    evaluate = Counting(lambda p: (order[p.arch] + p.epochs) / 100)
    standing = race(archs, [2, 4, 8], evaluate, Ledger(tmp_path / "ledger.jsonl"))
    rungs = [(e, [order[p.arch] for p in group]) for e, group in
             itertools.groupby(evaluate.trained, lambda p: p.epochs)]  # fmt: skip
    assert rungs == [(2, [3, 6, 1, 5, 0, 4, 2]), (4, [6, 5, 4, 3]), (8, [6, 5])]
    assert [order[t.arch] for t in standing] == [6, 5, 4, 3, 2, 1, 0]
    assert [t.proposal.epochs for t in standing] == [8, 8, 4, 4, 2, 2, 2]
    assert trainings(7, [2, 4, 8]) == [(7, 2), (4, 4), (2, 8)]
    assert cost_epochs(7, [2, 4, 8]) == 7 * 2 + 4 * 2 + 2 * 4


def test_the_last_rung_decides_whatever_the_first_one_said(tmp_path: Path) -> None:
    archs = drawn(4)
    late = archs[1]

    def worth(p: Proposal) -> float:
        return 0.9 if p.arch == late and p.epochs == 8 else 0.5 - archs.index(p.arch) / 100

    assert race(archs, [2, 8], Counting(worth), Ledger(tmp_path / "l.jsonl"))[0].arch == late


def test_nothing_is_trained_on_where_nothing_is_left_to_decide(tmp_path: Path) -> None:
    (arch,) = drawn(1)
    evaluate = Counting(lambda p: 0.5)
    assert len(race([arch, arch], [2, 4], evaluate, Ledger(tmp_path / "l.jsonl"))) == 1
    assert [p.epochs for p in evaluate.trained] == [2]
    assert trainings(2, [2, 4, 8]) == [(2, 2), (1, 4)] and cost_epochs(1, [5, 9]) == 5


@pytest.mark.parametrize("archs, rungs", [(0, [1]), (2, []), (2, [4, 2]), (2, [2, 2])])
def test_a_race_that_makes_no_sense_is_refused(
    tmp_path: Path, archs: int, rungs: list[int]
) -> None:
    with pytest.raises(UsageError, match="it needs networks and epochs that grow"):
        race(drawn(archs), rungs, Counting(lambda p: 0.5), Ledger(tmp_path / "l.jsonl"))


@pytest.mark.parametrize("dies_at", range(11))
def test_a_race_that_was_killed_goes_on_bit_for_bit(tmp_path: Path, dies_at: int) -> None:
    archs = drawn(6)

    def worth(p: Proposal) -> float:
        return random.Random(f"{p.arch.id} {p.epochs}").random()

    def run(folder: str, evaluate: Counting) -> list[Trial]:
        return race(archs, [1, 2, 3], evaluate, Ledger(tmp_path / folder / "ledger.jsonl"))

    whole, before, after = Counting(worth), Counting(worth, dies_at), Counting(worth)
    standing = run("whole", whole)
    with pytest.raises(KeyboardInterrupt):
        run("killed", before)
    assert run("killed", after) == standing
    assert before.trained + after.trained == whole.trained and len(whole.trained) == 11
    files = [tmp_path / f / "ledger.jsonl" for f in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    replayed = Counting(worth)
    assert run("whole", replayed) == standing and not replayed.trained
    with pytest.raises(LedgerMismatch):
        race(archs[::-1], [1, 2, 3], replayed, Ledger(files[0]))


# --- seats


def test_found_the_largest_scored_neighbours_and_random_ones_get_seats() -> None:
    objective, found = under(60), [MACRO.published("00000000")]
    seats = seated(
        MACRO, objective, found, 12, SIZES, random.Random(0),
        scores={"layer1": lambda archs: [a.index("layer1") for a in archs]},
    )  # fmt: skip
    assert len({s.arch for s in seats}) == 12
    why = [s.why for s in seats]
    assert why[:3] == ["found", "largest", "largest"] and why.count("best by layer1") == 5
    assert why.count("neighbour of the largest") == why.count("random") == 2
    load = {s.arch: objective.load(MACRO.ops(s.arch)) for s in seats}
    assert all(load[s.arch] <= 1 for s in seats)
    assert all(load[s.arch] >= NEAR * 0.98 for s in seats if s.why not in ("found", "largest"))
    assert all(s.arch.index("layer1") == 2 for s in seats if s.why == "best by layer1")
    for size in SIZES:  # of those that are nearly as large any may race
        top = Largest(MACRO, objective, size, random.Random(0)).ask()
        assert top is not None
        largest = [sum(map(size, MACRO.ops(s.arch))) for s in seats if s.why == "largest"]
        short = 0.001 * sum(map(size, MACRO.ops(MACRO.all_last)))
        assert max(largest) >= sum(map(size, MACRO.ops(top.arch))) - short


def test_seats_are_as_many_as_asked_for_and_the_same_for_the_same_seed() -> None:
    found = drawn(3)
    for seats in (1, 2, 5):
        first, again = (
            seated(MACRO, under(80), found, seats, SIZES, random.Random(7)) for _ in range(2)
        )
        assert first == again and len(first) == seats
        assert [s.arch for s in first][:3] == found[:seats]
    with pytest.raises(ImpossibleBudget):
        seated(MACRO, under(1), [], 4, SIZES, random.Random(0))


def test_draws_near_a_slack_budget_are_near_the_fullest_network() -> None:
    objective, rng = under(1000), random.Random(0)
    most = objective.load(MACRO.ops(MACRO.all_last))
    fitting = Fitting(MACRO, objective, rng, least=NEAR)
    archs = [p.arch for p in itertools.islice(iter(fitting.ask, None), 10)]
    assert len(set(archs)) == 10
    assert all(NEAR * most <= objective.load(MACRO.ops(a)) <= most for a in archs)


def test_seats_are_found_soon_where_size_is_nearly_the_budget() -> None:
    space = Mobile.configured({"preset": "small", "resolution": 32, "channels": 3, "classes": 10})
    most = sum(map(ops.macs, space.ops(space.all_last)))
    budget = Total("cost", "", 1.3 * most, lambda op: ops.macs(op) + ops.parameters(op) / 100)
    objective = Objective((budget,))  # every bound is 1: exactness would look at all networks
    seats = seated(space, objective, [], 6, (ops.macs,), random.Random(0))
    loads = [objective.load(space.ops(s.arch)) for s in seats]
    assert 0.998 < loads[0] <= 1 and all(NEAR * 0.98 <= load <= 1 for load in loads)


# --- model-based search


def known(p: Proposal) -> float:
    """An additive truth with a little that is not."""
    rng = random.Random(p.arch.id)
    picks = [p.arch.index(c.name) for c in MACRO.choices]
    return 0.5 + sum((8 - i) * k for i, k in enumerate(picks)) / 200 + rng.gauss(0, 0.003)


def test_model_based_search_finds_more_than_draws_near_the_budget_at_equal_cost(
    tmp_path: Path,
) -> None:
    objective = under(60)

    def best(make: Callable[[int], ModelBased | Fitting], name: str) -> float:
        total = 0.0
        for seed in range(4):
            ledger = Ledger(tmp_path / f"{name}{seed}.jsonl")
            trials = ask_tell(make(seed), Counting(known), ledger, phase="search", trials=16)
            assert len({t.arch for t in trials}) == 16
            assert all(objective.fits(MACRO.ops(t.arch)) for t in trials)
            total += max(t.metrics["accuracy"] for t in trials)
        return total / 4

    modelled = best(lambda s: ModelBased(MACRO, objective, random.Random(s), 16), "modelled")
    near = best(lambda s: Fitting(MACRO, objective, random.Random(s), least=NEAR), "near")
    assert modelled > near + 0.005


@pytest.mark.parametrize("dies_at", [0, 5, 9, 15])
def test_model_based_search_goes_on_bit_for_bit(tmp_path: Path, dies_at: int) -> None:
    def run(folder: str, evaluate: Counting) -> list[Trial]:
        sampler = ModelBased(MACRO, under(45), random.Random(3), 16, epochs=2)
        ledger = Ledger(tmp_path / f"{folder}.jsonl")
        return ask_tell(sampler, evaluate, ledger, phase="search", trials=99)

    whole = run("whole", Counting(known))
    assert len(whole) == 16 and {t.proposal.epochs for t in whole} == {2}
    with pytest.raises(KeyboardInterrupt):
        run("killed", Counting(known, dies_at))
    assert run("killed", Counting(known)) == whole
    ledgers = [(tmp_path / f"{f}.jsonl").read_bytes() for f in ("whole", "killed")]
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize("trials", [1, 3, 4, 7])
def test_few_trials_are_as_many_as_asked_for(tmp_path: Path, trials: int) -> None:
    sampler = ModelBased(MACRO, under(45), random.Random(0), trials)
    ledger = Ledger(tmp_path / "l.jsonl")
    assert len(ask_tell(sampler, Counting(known), ledger, phase="s", trials=99)) == trials


def test_a_space_without_listed_choices_and_a_budget_none_can_keep_are_refused() -> None:
    class Bare(Space):
        pass

    Bare.__abstractmethods__ = frozenset()
    with pytest.raises(CapabilityError, match="'model-based' needs a space that is Relaxable"):
        ModelBased(Bare(), under(45), random.Random(0), 8)  # type: ignore[abstract]
    with pytest.raises(ImpossibleBudget):
        ModelBased(MACRO, under(1), random.Random(0), 8).ask()


# --- the method


@pytest.mark.trains
def test_the_method_trains_what_it_says_and_goes_on_bit_for_bit(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = method({"method": "surrogate", "trials": 6, "epochs": 1, "finalists": 2,
                   "final_epochs": 2})  # fmt: skip
    assert made.training_epochs(2) == 2 * (6 * 1 + 2 * 2)
    found = made.run(problem, Ledger(tmp_path / "whole.jsonl"))
    (arch,), trials = found.archs, Ledger(tmp_path / "whole.jsonl").trials("search")
    assert len(trials) == 6 and problem.objectives[0].fits(problem.space.ops(arch))
    raced = Ledger(tmp_path / "whole.jsonl").trials("search, race")
    assert len(raced) == 2 and trials[0].arch in [t.arch for t in raced]
    assert arch == max(raced, key=lambda t: t.metrics["accuracy"]).arch
    assert found.scores is not None
    assert all(float(each[arch.index(c)]) == 0 for c, each in found.scores[0].items())

    train, left = evaluate.Scratch.__call__, [4]

    def dying(self: evaluate.Scratch, proposal: Proposal, id: int) -> Trial:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return train(self, proposal, id)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(evaluate.Scratch, "__call__", dying)
        made.run(problem, Ledger(tmp_path / "killed.jsonl"))
    again = made.run(problem, Ledger(tmp_path / "killed.jsonl"))
    assert again.archs == found.archs
    ledgers = [(tmp_path / f"{f}.jsonl").read_bytes() for f in ("whole", "killed")]
    assert ledgers[0] == ledgers[1]


def test_a_surrogate_of_too_few_trials_is_refused_before_it_starts() -> None:
    with pytest.raises(UsageError, match=r"trials.*3"):
        method({"method": "surrogate", "trials": 2})
