"""Widths and resolutions of one supernet: their gates, what they cost, a search over both."""

import dataclasses
import itertools
import json
import math
import random

import pytest
import torch
from torch import nn

from edgenas import ops
from edgenas.budgets import Latency, Peak, Total
from edgenas.errors import ImpossibleBudget
from edgenas.gates import Gate, Mixed
from edgenas.latency import LatencyTable, Timing
from edgenas.methods.proxyless import Proxyless
from edgenas.methods.random import Random
from edgenas.policies import AllPaths, TwoPaths
from edgenas.predict import Predictor
from edgenas.project import least, project
from edgenas.relax import Loads
from edgenas.search import Ledger, Objective, Problem
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture

pytestmark = pytest.mark.trains

SIZES, MULTIPLIERS = (6, 9, 12), (1.0, 2.0, 3.0)


@pytest.fixture
def elastic(space) -> Mobile:
    """s1b1 has its shortcut at the narrowest width only."""
    return dataclasses.replace(space, multipliers=MULTIPLIERS, resolutions=SIZES)


@pytest.fixture
def every(elastic) -> list[Architecture]:
    names = [c.name for c in elastic.choices]
    return [
        Architecture.of(elastic.id, dict(zip(names, picks, strict=True)))
        for picks in itertools.product(*(range(len(c.options)) for c in elastic.choices))
    ]


@pytest.fixture
def latency(elastic, table) -> Latency:
    """Milliseconds from multiply-accumulates, in the middle of what the space can do."""
    ms = {op: 0.01 + ops.macs(op) * 1e-6 for op in elastic.vocabulary()}
    rows = {op: Timing(t, t * 1.05, t * 1.2, 20, "estimated") for op, t in ms.items()}
    header = dataclasses.replace(table.header, space=elastic.id)
    return Latency("paper", 0.6, Predictor(LatencyTable(header, rows)))


def memory(kilobytes: float) -> Peak:
    return Peak(
        "activation_kB",
        "kB of activations",
        kilobytes,
        lambda op: ops.activation_elements(op) / 1e3,
    )


def scores_of(space, seed):
    g = torch.Generator().manual_seed(seed)
    return {c.name: torch.randn(len(c.options), generator=g) for c in space.choices}


# --- gates


def lively(net: nn.Module) -> nn.Module:
    """Batch norms and gates that tell whether they are applied, in float64."""
    for m in net.modules():
        if isinstance(m, ops.SqueezeExcitation):
            nn.init.normal_(m.excite.weight)
        if isinstance(m, nn.BatchNorm2d):
            for t in (m.weight.data, m.bias.data, m.running_mean, m.running_var):
                t.uniform_(0.5, 1.5)
    return net.double()


@pytest.mark.parametrize("kinds", [("mbconv",), ("conv", "fused-mbconv")])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_all_gates_are_those_of_finite_differences(elastic, training, kinds):
    """Of width, resolution and a block inside them, all options live and one of them on."""
    torch.manual_seed(0)
    form = dataclasses.replace(elastic, ses=(0, 2), activations=("hard-swish",), blocks=kinds)
    net = lively(form.supernet(Mixed)).train(training)
    x = torch.randn(6, 1, 12, 12, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    arch = form.sample(random.Random(1)).but(width=1, resolution=0, s1b1=2)
    learnt, one = ("width", "resolution", "s1b1", "s2b2"), form.gates(arch)
    count = {c.name: len(c.options) for c in form.choices}

    def loss(values):
        gates = {**one, **{c: Gate(tuple(range(count[c])), values[c]) for c in learnt}}
        return nn.functional.cross_entropy(net(x, gates), y)

    hot = {c: torch.eye(count[c], dtype=torch.float64)[arch.index(c)] for c in learnt}
    values = {c: v.clone().requires_grad_() for c, v in hot.items()}
    got = dict(zip(learnt, torch.autograd.grad(loss(values), list(values.values())), strict=True))
    h = 1e-6
    for c in learnt:
        assert got[c].abs().max() > 1e-4
        for k in range(count[c]):
            step = h * torch.eye(count[c], dtype=torch.float64)[k]
            with torch.no_grad():
                want = (loss({**hot, c: hot[c] + step}) - loss({**hot, c: hot[c] - step})) / (2 * h)
            assert float(got[c][k]) == pytest.approx(float(want), rel=1e-4, abs=1e-8)


def saved_bytes(space: Mobile, kind: type[TwoPaths | AllPaths]) -> int:
    """What a forward pass keeps for the way back, the greatest width and resolution on."""
    torch.manual_seed(0)
    net = space.supernet(Mixed).train()
    own = {t.data_ptr() for t in net.state_dict().values()}
    policy = kind(space, 0.1, random.Random(0))
    gates, _ = policy.gates(random.Random(0))
    for c, most in (("width", max(space.multipliers)), ("resolution", 12)):
        options = {"width": space.multipliers, "resolution": space.resolutions}[c]
        live, value = gates[c].live, gates[c].value
        on = options.index(most)
        live = live if on in live else (on, live[0])
        hard = torch.tensor([float(k == on) for k in live])
        gates = {**gates, c: Gate(live, hard + (value - value.detach()))}
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.data_ptr() not in own:
            kept[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = net(torch.randn(64, 1, 12, 12), gates)
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("kind", [TwoPaths, AllPaths])
def test_memory_is_flat_in_the_number_of_widths_and_resolutions(space, kind):
    few, many = (
        saved_bytes(dataclasses.replace(space, multipliers=m, resolutions=r), kind)
        for m, r in (((1.0, 4.0), (6, 12)), ((1.0, 2.0, 3.0, 4.0), (4, 5, 6, 7, 8, 9, 10, 11, 12)))
    )
    assert few > 1e6
    assert many <= few * 1.01  # masks and gates


def test_a_narrow_pass_trains_the_leading_weights_alone(elastic):
    torch.manual_seed(0)
    net = elastic.supernet(Mixed).train()
    arch = Architecture.of(elastic.id, {c.name: 0 for c in elastic.choices})
    net(torch.randn(4, 1, 12, 12), elastic.gates(arch)).square().sum().backward()
    narrow = elastic.ops(arch)
    for layer, op in zip(net.mixed, narrow[2:6], strict=True):
        project = layer.mixed.options[0].body[-2]
        learnt = project.weight.grad.abs().sum((2, 3)) > 0
        assert learnt[: op.cout, : ops.hidden(op)].all()
        assert not learnt[op.cout :].any() and not learnt[:, ops.hidden(op) :].any()


# --- what they cost


def test_expected_load_of_one_architecture_is_its_load(elastic, latency, every):
    objective = Objective((latency, memory(40)))
    loads = Loads.of(elastic, objective)
    for arch in random.Random(0).sample(every, 30):
        probs = {c.name: torch.eye(len(c.options))[arch.index(c.name)] for c in elastic.choices}
        want = [b.load(elastic.ops(arch)) for b in objective.budgets]
        assert loads.expected(probs).tolist() == pytest.approx(want, rel=1e-5)


def test_expected_load_is_the_mean_over_all_architectures(elastic, latency, every):
    loads = Loads.of(elastic, Objective((latency,)))
    probs = {c: s.softmax(0).requires_grad_() for c, s in scores_of(elastic, 0).items()}
    known = {c: p.tolist() for c, p in probs.items()}
    mean, within = 0.0, [0.0] * len(MULTIPLIERS)
    for arch in every:
        chance = math.prod(known[c][arch.index(c)] for c in known)
        load = latency.load(elastic.ops(arch))
        mean += chance * load
        within[arch.index("width")] += chance * load / known["width"][arch.index("width")]
    (expected,) = loads.expected(probs)
    assert expected.item() == pytest.approx(mean, rel=1e-5)
    (slope,) = torch.autograd.grad(expected, probs["width"])
    assert slope.tolist() == pytest.approx(within, rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_projection_is_the_best_of_all_contexts(elastic, latency, every, seed):
    budgets = (latency, memory(7.5))
    objective, scores = Objective(budgets), scores_of(elastic, seed)

    def worth(arch):
        return sum(float(s[arch.index(c)]) for c, s in scores.items())

    fitting = [a for a in every if objective.fits(elastic.ops(a))]
    assert 0 < len(fitting) < len(every)
    assert project(elastic, scores, budgets) == max(fitting, key=worth)
    full = [a for a in fitting if latency.load(elastic.ops(a)) >= 0.9]
    assert project(elastic, scores, budgets, 0.9) == max(full, key=worth)


def test_impossible_says_what_some_context_can_do(elastic, latency, every):
    smallest = min(latency.load(elastic.ops(a)) for a in every) * latency.limit
    assert least(elastic, latency) == pytest.approx(smallest)
    tight = dataclasses.replace(latency, limit_ms=smallest * 0.99)
    with pytest.raises(ImpossibleBudget, match="the least that this space can do is"):
        project(elastic, scores_of(elastic, 0), [tight])
    exact = dataclasses.replace(latency, limit_ms=smallest * (1 + 1e-9))
    arch = project(elastic, scores_of(elastic, 0), [exact])
    assert (arch.index("width"), arch.index("resolution")) == (0, 0)


def test_budgets_that_clash_in_every_context_say_what_would_do(elastic, latency, every):
    """Few multiply-accumulates ask for few weights; a cost that falls with them asks for many."""
    most = max(ops.macs(op) for op in elastic.vocabulary())
    few = Total("a", "a", 1.0, lambda op: ops.macs(op) / 1e5)
    many = Total("b", "b", 1.0, lambda op: (most - ops.macs(op)) / 1e5)
    tight = [dataclasses.replace(b, most=least(elastic, b) * 1.001) for b in (few, many)]
    with pytest.raises(ImpossibleBudget, match=r"not all at once; (\S+) a, (\S+) b would be") as e:
        project(elastic, scores_of(elastic, 0), tight)
    said = [float(word) for word in str(e.value).split() if word[0].isdigit()]
    loads = [max(b.load(elastic.ops(a)) for b in tight) for a in every]
    assert said[0] / tight[0].most == pytest.approx(min(loads), rel=2e-3)


# --- searches


def problem_of(problem: Problem, space: Mobile, latency: Latency) -> Problem:
    return dataclasses.replace(problem, space=space, objectives=(Objective((latency,)),))


def test_a_search_over_widths_and_resolutions_fits_and_learns(problem, elastic, latency, tmp_path):
    form = dataclasses.replace(elastic, multipliers=(1.0, 2.0))
    table = latency.predictor.table
    header = dataclasses.replace(table.header, space=form.id)
    predictor = Predictor(dataclasses.replace(table, header=header))
    latency = dataclasses.replace(latency, limit_ms=0.5, predictor=predictor)
    asked = problem_of(problem, form, latency)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    method = Proxyless(epochs=8, warmup=3, batch=32, arch_every=1, samples=3)
    (found,) = method.run(asked, ledger).archs
    assert asked.objectives[0].fits(form.ops(found))
    best, *others = ledger.trials("evaluate")
    assert best.arch == found and best.metrics["accuracy"] > 0.7
    assert all(t.metrics["load"] <= 1 for t in others)
    first, last = ledger.epochs("search")[0], ledger.epochs("search")[-1]
    for c in ("width", "resolution"):
        before, after = (e["levels"][0]["probabilities"][c] for e in (first, last))
        assert before != after and sum(after) == pytest.approx(1, abs=1e-4)
    json.dumps(last, allow_nan=False)


def test_random_finds_what_only_the_smallest_context_can_do(problem, elastic, latency, tmp_path):
    tight = dataclasses.replace(latency, limit_ms=least(elastic, latency) * (1 + 1e-9))
    (found,) = Random().run(problem_of(problem, elastic, tight), Ledger(tmp_path / "l")).archs
    assert (found.index("width"), found.index("resolution")) == (0, 0)
