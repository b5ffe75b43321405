import copy
import itertools
import random
from dataclasses import replace
from typing import get_args

import pytest
import torch
from answers import telling

from edgenas import ops
from edgenas.budgets import Latency
from edgenas.compress.importance import importance
from edgenas.compress.plan import plan
from edgenas.compress.prune import cut, cuttable
from edgenas.config import Importance
from edgenas.errors import ImpossibleBudget
from edgenas.latency import LatencyTable, Timing
from edgenas.predict import Predictor
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec
from edgenas.task import Task
from edgenas.train import TrainRecipe, seeded, train

pytestmark = pytest.mark.trains

SPACE = Mobile(
    resolution=12, channels=1, classes=3, stem=8, stem_stride=1, first=8,
    widths=(8, 16), depths=(2, 2), strides=(2, 2), head=16, kernels=(3, 5), expansions=(3, 6),
)  # fmt: skip
DENSE = replace(SPACE, blocks=("fused-mbconv",), first=0)
GATED = replace(SPACE, ses=(2,), activations=("relu6", "hard-swish"), features=24)


@pytest.fixture(scope="module", params=[SPACE, GATED, DENSE], ids=["plain", "gated", "dense"])
def layers(request: pytest.FixtureRequest) -> tuple[OpSpec, ...]:
    space: Mobile = request.param
    return space.ops(space.sample(random.Random(3)))


def gates(net: torch.nn.Module) -> list[ops.SqueezeExcitation]:
    return [m for m in net.modules() if isinstance(m, ops.SqueezeExcitation)]


def narrower(op: OpSpec) -> list[OpSpec]:
    """``op`` itself, then what it becomes where channels are left out."""
    (form,), cuts = SPACE.forms([op]), SPACE.cuts([op])
    return [form.at(*widths) for widths in itertools.product(*(cuts[g] for g in form.groups))]


@pytest.fixture(scope="module")
def predictor(table: LatencyTable, layers: tuple[OpSpec, ...]) -> Predictor:
    """Milliseconds in proportion to multiply-accumulates."""
    every = {o for layer in layers for o in narrower(layer)}
    ms = {o: 0.01 + ops.macs(o) * 1e-6 for o in every}
    rows = {o: Timing(t, t, t, 20, "estimated") for o, t in ms.items()}
    return Predictor(LatencyTable(table.header, rows))


@pytest.fixture(scope="module")
def net(task: Task, layers: tuple[OpSpec, ...]) -> torch.nn.Module:
    with seeded(0):
        built = SPACE.assemble(layers)
        for gate in gates(built):
            torch.nn.init.normal_(gate.excite.weight, std=0.3)
    train(built, task, TrainRecipe(epochs=2, batch=32), 0)
    return telling(built, *task.tensors("train"))


def test_only_blocks_with_hidden_channels_can_be_cut() -> None:
    full = OpSpec.parse("mbconv 16-24 @14 e6 k5 s2")
    assert narrower(OpSpec.parse("conv 1-16 @28 k3 s2")) == [OpSpec.parse("conv 1-16 @28 k3 s2")]
    assert len(narrower(OpSpec.parse("mbconv 16-16 @14 e1 k3 s1"))) == 1
    hidden = [ops.hidden(o) for o in narrower(full)]
    assert hidden == [96, 80, 72, 64, 48]
    assert all(h % 8 == 0 for h in hidden)
    assert hidden == sorted(hidden, reverse=True)
    assert {(o.cin, o.cout, o.size, o.arg("k", 0)) for o in narrower(full)} == {(16, 24, 14, 5)}


def test_a_fused_block_is_cut_as_an_mbconv_is_and_a_plain_convolution_not_at_all() -> None:
    found = narrower(OpSpec.parse("fused-mbconv 16-24 @14 e6 hs1 k3 s2"))
    assert [str(o) for o in found[-2:]] == [
        "fused-mbconv 16-24 @14 e4 hs1 k3 s2", "fused-mbconv 16-24 @14 e3 hs1 k3 s2",
    ]  # fmt: skip
    assert [ops.hidden(o) for o in found] == [96, 80, 72, 64, 48]
    assert all(OpSpec.parse(str(o)) == o for o in found)
    assert len(narrower(OpSpec.parse("conv 16-16 @14 k3 res1 s1"))) == 1


def test_a_gate_narrows_with_its_block_under_the_same_key() -> None:
    full = OpSpec.parse("mbconv 16-24 @14 e6 hs1 k5 s2 se4")
    found = narrower(full)
    assert [str(o) for o in found[-2:]] == [
        "mbconv 16-24 @14 e4 hs1 k5 s2 se4", "mbconv 16-24 @14 e3 hs1 k5 s2 se4",
    ]  # fmt: skip
    assert [ops.squeezed(o) for o in found] == [24, 24, 24, 16, 16]
    assert all(OpSpec.parse(str(o)) == o for o in found)


def scored(
    net: torch.nn.Module, layers: tuple[OpSpec, ...], task: Task, by: Importance = "taylor"
) -> dict[str, torch.Tensor]:
    return importance(net, cuttable(SPACE, net, layers), by, task, batches=2, size=32, seed=0)


def norms(net: torch.nn.Module, name: str) -> list[torch.nn.BatchNorm2d]:
    """Of the block of a set of channels: of its expansion, and of its depthwise if it has one."""
    block = net.get_submodule(name.rpartition(".")[0])
    return [m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)][:-1]


NARROW = replace(SPACE, widths=(8,), depths=(2,), strides=(2,), expansions=(2,))


@pytest.mark.parametrize("by", get_args(Importance))
def test_a_network_too_narrow_for_any_cut_is_refused_by_the_plan_alone(
    task: Task, table: LatencyTable, by: Importance
) -> None:
    layers = NARROW.ops(NARROW.sample(random.Random(0)))
    net = NARROW.assemble(layers)
    assert not cuttable(NARROW, net, layers)
    scores = importance(net, {}, by, task, 2, 16, 0)
    assert scores == {}
    rows = {o: Timing(1.0, 1.0, 1.0, 20, "estimated") for o in layers}
    predictor = Predictor(LatencyTable(table.header, rows))
    with pytest.raises(ImpossibleBudget, match="every block is at its narrowest"):
        plan(NARROW, layers, scores, [Latency("paper", 0.5, predictor)])


@pytest.mark.parametrize("by", ["taylor", "magnitude", "bn-scale"])
def test_a_channel_that_nothing_hangs_on_is_worth_least(
    net: torch.nn.Module, task: Task, layers: tuple[OpSpec, ...], by: Importance
) -> None:
    net = copy.deepcopy(net)
    name, widths = next(iter(SPACE.cuts(layers).items()))
    modules = dict(net.named_modules())
    with torch.no_grad():
        for norm in norms(net, name):
            norm.weight[2] = 0
            norm.bias[2] = 0
        for layer in cuttable(SPACE, net, layers)[name].makers:
            modules[layer].weight[2] = 0
            if modules[layer].bias is not None:
                modules[layer].bias[2] = 0
        for layer in cuttable(SPACE, net, layers)[name].readers:
            if modules[layer].groups == 1:
                modules[layer].weight[:, 2] = 0
    scores = scored(net, layers, task, by)
    assert scores[name][2] == 0
    assert (scores[name] > 0).sum() > widths[0] / 2
    assert {n: len(s) for n, s in scores.items()} == {
        n: of[0] for n, of in SPACE.cuts(layers).items()
    }


def test_the_plan_keeps_the_budget_and_the_most_important_channels(
    net: torch.nn.Module, task: Task, layers: tuple[OpSpec, ...], predictor: Predictor
) -> None:
    scores = scored(net, layers, task)
    full = predictor.p50_ms(layers)
    made = plan(SPACE, layers, scores, [Latency("paper", 0.93 * full, predictor)])
    assert predictor.p50_ms(made.ops) <= 0.93 * full
    assert made.keep
    for name, stay in made.keep.items():
        lost = [float(s) for k, s in enumerate(scores[name]) if k not in stay]
        assert max(lost) <= min(float(scores[name][k]) for k in stay)
    loose = plan(SPACE, layers, scores, [Latency("paper", 2 * full, predictor)])
    assert loose.ops == layers
    assert not loose.keep


def test_what_cannot_be_reached_is_refused(
    net: torch.nn.Module, task: Task, layers: tuple[OpSpec, ...], predictor: Predictor
) -> None:
    budget = Latency("paper", 0.1 * predictor.p50_ms(layers), predictor)
    with pytest.raises(ImpossibleBudget, match="every block is at its narrowest"):
        plan(SPACE, layers, scored(net, layers, task), [budget])


def silence(gate: ops.SqueezeExcitation, count: int) -> None:
    """The outgoing weights of ``count`` squeezed channels, spread over all, are zero."""
    gate.excite.weight[:, 1 : 1 + 2 * count : 2] = 0


def test_cutting_dead_channels_changes_nothing(
    net: torch.nn.Module, task: Task, layers: tuple[OpSpec, ...], predictor: Predictor
) -> None:
    """Channels that are to go are silenced first: the smaller network must compute the same."""
    budget = Latency("paper", 0.9 * predictor.p50_ms(layers), predictor)
    made = plan(SPACE, layers, scored(net, layers, task), [budget])
    with torch.no_grad():
        for name, stay in made.keep.items():
            i = int(name.split(".")[1])
            *_, norm = norms(net, name)
            gone = sorted(set(range(ops.hidden(layers[i]))) - set(stay))
            norm.weight[gone] = 0
            norm.bias[gone] = 0
            for gate in gates(net.layers[i]):
                silence(gate, gate.squeeze.out_channels - ops.squeezed(made.ops[i]))
    smaller = cut(net, SPACE, made).eval()
    x, _ = task.tensors("test")
    with torch.inference_mode():
        assert torch.allclose(smaller(x), net.eval()(x), atol=1e-5)
    count = [sum(p.numel() for p in n.parameters()) for n in (net, smaller)]
    assert count[1] < count[0]
    assert [str(o) for o in made.ops] != [str(o) for o in layers]
    full, cut_ = ([g.squeeze.out_channels for g in gates(n)] for n in (net, smaller))
    assert sum(cut_) < sum(full) or not full
