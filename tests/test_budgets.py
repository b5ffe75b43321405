"""Budgets: loads of whole networks, rules for picks, and what a config asks for."""

import dataclasses
import itertools
import random

import pytest
import torch

from edgenas import ops, specimen
from edgenas.budgets import Budget, Peak, Total
from edgenas.config import parse_config
from edgenas.errors import ImpossibleBudget, MissingLatency, UsageError
from edgenas.export import exporter_for
from edgenas.pipeline.objectives import FileSize, objectives
from edgenas.predict import Predictor
from edgenas.project import least, project
from edgenas.relax import Loads
from edgenas.search import Objective
from edgenas.space import load_space

TARGET = {
    "device": "paper", "format": "onnx", "precision": "int8-static", "limits_ms": [3.0, 5.0]
}  # fmt: skip


def asked(table, space, **keys):
    target = {"device": "paper", "latency": ["<= 3 ms", "<= 5 ms"], **keys.pop("target", {})}
    config = parse_config(
        {"task": {"dataset": "npz", "path": "x.npz"}, "targets": [target], **keys}, "here"
    )
    return objectives(config, space, [TARGET], {"paper": Predictor(table)})


def everything(space):
    names = [c.name for c in space.choices]
    for picks in itertools.product(*(range(len(c.options)) for c in space.choices)):
        yield dict(zip(names, picks, strict=True))


def budgets_of(space) -> list[Budget]:
    archs = [space.sample(random.Random(i)) for i in range(9)]
    middle = sorted(sum(map(ops.parameters, space.ops(a))) for a in archs)[4]
    alive = sorted(max(map(ops.activation_elements, space.ops(a))) for a in archs)[4]
    return [
        Total("parameters", "parameters", middle, ops.parameters),
        Peak("activations", "activations", alive, ops.activation_elements),
    ]


def test_loads_are_sums_and_peaks(space):
    total, peak = budgets_of(space)
    network = space.ops(space.sample(random.Random(5)))
    assert total.load(network) == pytest.approx(sum(map(ops.parameters, network)) / total.limit)
    assert peak.load(network) == max(map(ops.activation_elements, network)) / peak.limit
    assert total.amount(0.5) == total.limit / 2
    assert total.text("7") == "7 parameters"


@pytest.mark.parametrize("kind", [0, 1])
def test_expected_load_of_one_architecture_is_its_load(kind, space):
    budget = budgets_of(space)[kind]
    loads, rng = Loads.of(space, Objective((budget,))), random.Random(0)
    for _ in range(20):
        arch = space.sample(rng)
        probs = {c.name: torch.eye(len(c.options))[arch.index(c.name)] for c in space.choices}
        assert float(loads.expected(probs)[0]) == pytest.approx(budget.load(space.ops(arch)))


def test_projection_under_every_kind_of_budget_is_the_best_that_fits(space, problem):
    """Against all architectures of the space."""
    both = (*budgets_of(space), *problem.objectives[0].budgets)
    objective = Objective(both)
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        scores = {c.name: torch.randn(len(c.options), generator=g) for c in space.choices}
        found = project(space, scores, both)
        assert objective.fits(space.ops(found))

        def worth(picks, scores=scores):
            return sum(float(scores[n][k]) for n, k in picks.items())

        best = max(
            worth(picks)
            for picks in everything(space)
            if objective.fits(space.ops(found.but(**picks)))
        )
        assert worth(dict(found.picks)) == pytest.approx(best)


@pytest.mark.parametrize("kind", [0, 1])
def test_the_least_limit_can_be_met_and_nothing_below(kind, space):
    budget = budgets_of(space)[kind]
    scores = {c.name: torch.zeros(len(c.options)) for c in space.choices}
    lowest = least(space, budget)
    met = dataclasses.replace(budget, most=lowest * (1 + 1e-9))
    assert met.load(space.ops(project(space, scores, [met]))) <= 1
    with pytest.raises(
        ImpossibleBudget, match=f"the least that this space can do is .* {budget.name}"
    ):
        project(space, scores, [dataclasses.replace(budget, most=lowest * 0.999)])


def test_a_peak_is_no_reason_to_take_more(space):
    _, peak = budgets_of(space)
    wide = dataclasses.replace(peak, most=peak.most * 1e3)
    scores = {c.name: -torch.arange(len(c.options)) * 1.0 for c in space.choices}
    assert project(space, scores, [wide], fill=0.9) == project(space, scores, [wide])


def test_a_config_asks_for_all_kinds(table, space):
    found = asked(
        table,
        space,
        budgets={"parameters": "<= 0.1 M", "macs": "<= 2 M", "size": "<= 90 kB",
                 "activations": "<= 30 kB"},
    )  # fmt: skip
    assert [o.budgets[0].limit for o in found] == [3.0, 5.0]
    network = space.ops(space.sample(random.Random(0)))
    want = {
        "parameters": sum(map(ops.parameters, network)) / 1e6,
        "macs": sum(map(ops.macs, network)) / 1e6,
        "activation_kB": max(map(ops.activation_elements, network)) / 1e3,
    }
    limits = {"parameters": 0.1, "macs": 2, "activation_kB": 30}
    for objective in found:
        by_name = {b.name: b for b in objective.budgets}
        assert by_name.keys() == {"ms:paper", "kB:onnx", *want}
        for name, amount in want.items():
            assert by_name[name].limit == pytest.approx(limits[name])
            assert by_name[name].amount(by_name[name].load(network)) == pytest.approx(amount)


def test_energy_is_of_tables_that_count_it(table, space):
    target = {"energy": "<= 2 mJ"}
    (budget,) = asked(table, space, target=target)[0].budgets[1:]
    with pytest.raises(MissingLatency, match=r"holds no energy of .*Leave the key energy out"):
        budget.load(space.fixed_ops())
    rows = {op: dataclasses.replace(t, energy_mj=0.25) for op, t in table.rows.items()}
    (budget,) = asked(dataclasses.replace(table, rows=rows), space, target=target)[0].budgets[1:]
    assert budget.load(space.fixed_ops()) == pytest.approx(0.25 * len(space.fixed_ops()) / 2)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"budgets": {"parameters": 1000}}, "budgets: parameters: 1000 has no unit"),
        ({"budgets": {"parameters": ">= 1 M"}}, "an upper limit is meant"),
        ({"budgets": {"macs": "<= 5 ms"}}, "unknown unit 'ms'"),
        ({"budgets": {"size": "-1 kB"}}, "an upper limit is meant"),
        ({"budgets": {"flops": "1 M"}}, "unknown key 'flops'"),
        ({"target": {"energy": "<= 2 W"}}, "unknown unit 'W'"),
        ({"target": {"latency": []}}, "an empty list"),
        ({"target": {"latency": ["<= 3 ms", "4"]}}, "'4' has no unit"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused_in_one_line(table, space, keys, said):
    with pytest.raises(UsageError, match=said) as e:
        asked(table, space, **keys)
    assert "\n" not in str(e.value)


def test_fronts_of_unequal_length_are_refused():
    targets = [
        {"device": "a", "latency": ["<= 1 ms", "<= 2 ms"]},
        {"device": "b", "latency": ["<= 1 ms", "<= 2 ms", "<= 3 ms"]},
    ]
    with pytest.raises(UsageError, match="a has 2 latencies, another target 3"):
        parse_config({"task": {"dataset": "npz", "path": "x"}, "targets": targets}, "here")
    targets[0]["latency"] = "<= 1 ms"
    config = parse_config({"task": {"dataset": "npz", "path": "x"}, "targets": targets}, "here")
    assert config.levels == 3
    assert [t.budgets[0].limit_ms for t in config.level(2)] == [1.0, 3.0]


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_the_size_of_a_file_is_predicted_from_those_of_its_operators(format, precision, tmp_path):
    space = load_space({"kind": "mobile", "preset": "tiny"})
    size = FileSize(space, format, precision)
    for seed in (11, 12, 13):
        arch = space.sample(random.Random(seed))
        path = tmp_path / f"{seed}.{format}"
        real = specimen.network(exporter_for(format), space, arch, precision, path).size_bytes
        predicted = size.base_kb + sum(map(size.kb, space.ops(arch)))
        assert predicted == pytest.approx(real / 1e3, rel=0.02)
