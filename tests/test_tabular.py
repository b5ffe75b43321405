"""Published tables: what is read, what is looked up, what a policy sees, and that searches work."""

import functools
import gzip
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgenas import ops
from edgenas.budgets import Total
from edgenas.errors import CapabilityError, CorruptFile, InvalidArchitecture, UsageError
from edgenas.gates import Gate, Gates
from edgenas.policies import AllPaths, TwoPaths
from edgenas.pressure import Adaptive
from edgenas.project import project
from edgenas.relax import Loads
from edgenas.samplers import Aging, Fitting
from edgenas.search import Objective, Proposal, Sampler
from edgenas.spaces.nasbench201 import NasBench201
from edgenas.spaces.nasbench_macro import NasBenchMacro
from edgenas.tabular import Multilinear, Published, Tabular, learn, nasbench201, nasbench_macro

DATA = Path(os.environ.get("EDGENAS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_tables = pytest.mark.skipif(not DATA.exists(), reason=f"no published tables at {DATA}")
MACRO = NasBenchMacro()
NAMES = ["".join(digits) for digits in itertools.product("012", repeat=8)]


def under(mflops: float) -> Objective:
    return Objective((Total("flops", "MFLOPs", mflops, lambda op: ops.macs(op) / 1e6),))


@functools.cache
def chains() -> Published:
    return nasbench_macro(DATA / "nasbench_macro.csv.gz")


def invented(seed: int = 0) -> Published:
    """Accuracies of nothing, for all chains."""
    accuracy = np.random.default_rng(seed).uniform(0.3, 0.9, len(NAMES))
    return Published(MACRO, accuracy, accuracy, {})


# --- what is read


@needs_tables
def test_chains_are_all_there_and_the_best_under_each_budget_is_known() -> None:
    table = chains()
    assert len(table.report) == 3**8
    assert table.report[table.rank(MACRO.published("22212220"))] == table.report.max()
    for mflops, best in {30: 89.38, 45: 91.86, 60: 92.57, 80: 93.08, 1000: 93.13}.items():
        fits = table.columns["flops"] <= mflops * 1e6
        assert round(100 * table.oracle(fits), 2) == best
    assert table.search[0] == pytest.approx(0.4532) and table.report[0] == pytest.approx(0.453633)


@needs_tables
def test_cells_are_all_there_and_some_are_connected_to_nothing() -> None:
    table, space = nasbench201(DATA / "nasbench201.csv.gz"), NasBench201()
    assert len(table.report) == 5**6
    assert round(100 * table.report.max(), 2) == 94.37
    assert sum(name.startswith("lat_ms_") for name in table.columns) == 7
    first = space.published(
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"
        "+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    )
    assert table.columns["index"][table.rank(first)] == 0
    assert table.search[table.rank(first)] == pytest.approx(0.63364)
    idle = [not space.connected(table.at(rank)) for rank in range(len(table.report))]
    assert sum(idle) == 341
    assert table.report[idle].max() < 0.11  # a guess among ten classes


def written(path: Path, change: Callable[[list[str]], list[str]] = lambda lines: lines) -> Path:
    lines = ["arch,test_acc_s0,test_acc_s1,test_acc_s2,params,flops"]
    lines += [f"{name},{i / 100},50,40.5,7,{i}" for i, name in enumerate(NAMES, 1)]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(change(lines)) + "\n")
    return path


def test_lines_may_come_in_any_order(tmp_path: Path) -> None:
    a = nasbench_macro(written(tmp_path / "a.csv.gz"))
    b = nasbench_macro(written(tmp_path / "b.csv.gz", lambda lines: [lines[0], *lines[:0:-1]]))
    assert np.array_equal(a.search, b.search) and np.array_equal(a.report, b.report)
    assert a.search[5] == 0.0006 and a.report[5] == pytest.approx((0.0006 + 0.5 + 0.405) / 3)
    assert list(a.columns["flops"]) == list(b.columns["flops"]) == list(range(1, len(NAMES) + 1))


def line(number: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[: number - 1], text, *lines[number:]]


@pytest.mark.parametrize(
    "change, says",
    [
        (line(1, "arch,acc,a,b,c,d"), r"has no column 'test_acc_s0', but: 'arch', 'acc'"),
        (line(5, "00000010,50,50,50,7"), r"line 5: 5 values for 6 columns"),
        (line(5, "00000013,50,50,50,7,8"), r"line 5: '00000013' is not eight digits"),
        (line(5, "00000000,50,50,50,7,8"), r"line 5: '00000000' is in line 2 already"),
        (line(5, "00000010,50,none,50,7,8"), r"line 5: test_acc_s1 is 'none', not a number"),
        (line(5, "00000010,nan,50,50,7,8"), r"line 5: test_acc_s0 is 'nan', not a number"),
        (line(5, "00000010,-1,50,50,7,8"), r"test_acc_s0 are not all in 0 to 100 percent"),
        (lambda lines: lines[:-1], r"has 6560 of the 6561 architectures of nasbench-macro"),
        (lambda lines: [], r"has no column 'arch'"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_a_line(
    tmp_path: Path, change: Callable[[list[str]], list[str]], says: str
) -> None:
    path = written(tmp_path / "t.csv.gz", change)
    with pytest.raises(CorruptFile, match=says) as e:
        nasbench_macro(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_a_file_that_is_no_table_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*absent\.csv\.gz"):
        nasbench_macro(tmp_path / "absent.csv.gz")
    plain = tmp_path / "plain.csv.gz"
    plain.write_text("arch,flops\n")
    whole = written(tmp_path / "t.csv.gz").read_bytes()
    cut, empty = tmp_path / "cut.csv.gz", tmp_path / "empty.csv.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    empty.write_bytes(gzip.compress(b""))
    for path, says in ((plain, "gzipped CSV"), (cut, "gzipped CSV"), (empty, "is empty")):
        with pytest.raises(CorruptFile, match=says) as e:
            nasbench_macro(path)
        assert str(path) in str(e.value) and "\n" not in str(e.value)


@given(st.integers(0, len(NAMES) - 1))
def test_an_architecture_is_where_its_rank_says(rank: int) -> None:
    table = invented()
    assert table.at(rank) == MACRO.published(NAMES[rank])
    assert table.rank(table.at(rank)) == rank


# --- what is looked up


def test_distinct_architectures_are_counted_once() -> None:
    table = invented()
    known = Tabular(table, under(60))
    arch = MACRO.published("01201201")
    for id in range(3):
        trial = known(Proposal(arch), id)
    assert (len(known.asked), trial.id) == (1, 2)
    assert trial.metrics == {
        "accuracy": table.search[table.rank(arch)],
        "load": pytest.approx(sum(map(ops.macs, MACRO.ops(arch))) / 60e6),
    }
    known(Proposal(arch.but(layer3=0)), 3)
    assert known.asked == {a: table.search[table.rank(a)] for a in (arch, arch.but(layer3=0))}
    with pytest.raises(InvalidArchitecture, match="is of space"):
        known(Proposal(NasBench201().sample(random.Random(0))), 4)
    assert len(known.asked) == 2


@pytest.mark.parametrize("policy, each", [(TwoPaths, 1), (AllPaths, 2)])
def test_a_step_looks_up_every_live_option_of_every_choice(
    policy: type[TwoPaths | AllPaths], each: int
) -> None:
    known = Tabular(invented(), under(60))
    gates, _ = policy(MACRO, 0.1, random.Random(0)).gates(random.Random(0))
    net = Multilinear(known)
    loss = net.ce(gates)
    assert len(known.asked) == 1 + 8 * each and loss.requires_grad
    assert float(loss.detach()) == pytest.approx(-np.log(net.accuracy(gates)), rel=1e-6)
    known = Tabular(invented(), under(60))
    Multilinear(known).accuracy(gates)
    Multilinear(known).ce(MACRO.gates(MACRO.published("01201201")))  # wants no gradient
    assert len(known.asked) <= 2


def multilinear(losses: np.ndarray, weights: list[np.ndarray]) -> float:
    """The sum over all architectures of their loss times the weights of their options."""
    for w in weights:
        losses = np.tensordot(w, losses, axes=(0, 0))
    return float(losses)


@pytest.mark.parametrize("live", [2, 3])
def test_gradient_of_the_gates_is_that_of_the_multilinear_function(live: int) -> None:
    table, rng = invented(), random.Random(live)
    losses = -np.log(table.search).reshape([3] * 8)
    gates: dict[str, Gate] = {}
    for c in MACRO.choices:
        options = tuple(rng.sample(range(3), live))
        value = torch.eye(live, dtype=torch.float64)[rng.randrange(live)]
        gates[c.name] = Gate(options, value.requires_grad_())
    loss = Multilinear(Tabular(table, under(60))).ce(gates)
    loss.backward()

    def at(shifted: str, option: int, by: float) -> float:
        weights = []
        for name, gate in gates.items():
            w = np.zeros(3)
            w[list(gate.live)] = gate.value.detach().numpy()
            w[option] += by if name == shifted else 0
            weights.append(w)
        return multilinear(losses, weights)

    assert float(loss.detach()) == pytest.approx(at("", 0, 0), rel=1e-6)
    for name, gate in gates.items():
        assert gate.value.grad is not None
        for option, slope in zip(gate.live, gate.value.grad.tolist(), strict=True):
            want = (at(name, option, 1e-3) - at(name, option, -1e-3)) / 2e-3
            assert slope == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
def test_a_mixture_is_in_no_table(weights: list[float]) -> None:
    gates: Gates = MACRO.gates(MACRO.published("01201201"))
    mixed = {**gates, "layer4": Gate((0, 2), torch.tensor(weights))}
    known = Tabular(invented(), under(60))
    for ask in (Multilinear(known).ce, Multilinear(known).accuracy):
        with pytest.raises(CapabilityError, match="whole architectures only, but layer4"):
            ask(mixed)
    assert len(known.asked) == 0


# --- searches


def regret(sampler: Sampler, mflops: float) -> float:
    """In points, of the best of 100 that ``sampler`` proposes."""
    table = chains()
    known, trials = Tabular(table, under(mflops)), []
    for id in range(100):
        proposal = sampler.ask()
        assert proposal is not None
        trials.append(known(proposal, id))
        sampler.tell(trials[-1])
    assert len(known.asked) == 100
    best = table.rank(max(trials, key=lambda t: t.metrics["accuracy"]).arch)
    fits = table.columns["flops"] <= mflops * 1e6
    assert fits[best]
    return float(100 * (table.oracle(fits) - table.report[best]))


@needs_tables
def test_evolution_beats_random_at_equal_evaluations() -> None:
    gains = [
        regret(Fitting(MACRO, under(mflops), random.Random(seed)), mflops)
        - regret(Aging(MACRO, under(mflops), random.Random(seed)), mflops)
        for mflops in (60, 80)
        for seed in range(15)
    ]
    assert np.mean(gains) > 0.05
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / len(gains) ** 0.5


@needs_tables
@pytest.mark.parametrize("mflops, as_good", [(30, 0.04), (60, 0.03)])
def test_two_paths_end_near_the_best_that_fits(mflops: float, as_good: float) -> None:
    table, objective = chains(), under(mflops)
    fits = table.columns["flops"] <= mflops * 1e6
    found = []
    for seed in range(4):
        known, policy = Tabular(table, objective), TwoPaths(MACRO, 0.8, random.Random(seed))
        steps = learn(
            policy, Multilinear(known), Loads.of(MACRO, objective), Adaptive(stiffness=0.3),
            random.Random(seed),
        )  # fmt: skip
        losses = list(itertools.islice(steps, 60))
        assert np.mean(losses[-15:]) < np.mean(losses[:15])
        assert len(known.asked) < 200
        answer = table.rank(project(MACRO, policy.scores(), objective.budgets))
        assert fits[answer]
        found.append(table.oracle(fits) - table.report[answer])
    assert np.mean(found) < 0.004
    assert np.mean(table.report[fits] > table.oracle(fits) - 0.004) < as_good  # no matter of luck
