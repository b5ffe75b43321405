"""Which operators stay in float: what is chosen of what was measured."""

import itertools
import random
from dataclasses import replace

import pytest
import torch
from answers import telling
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgenas.compress.fake_quant import FakeQuantized
from edgenas.compress.mixed import (
    Pair,
    enough,
    faster,
    integer_time,
    layers,
    mixed,
    most_accurate,
    sensitivities,
    times,
)
from edgenas.device import load_device
from edgenas.graph import INPUT, Graph, calibrate, trace
from edgenas.spaces.mobile import Mobile
from edgenas.task import Task
from edgenas.train import TrainRecipe, seeded, train

pytestmark = pytest.mark.trains

MS = st.floats(0.001, 10)
LAYERS = st.lists(st.tuples(st.floats(0, 5), MS, MS, MS, MS), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def int8(space: Mobile, task: Task) -> Graph:
    with seeded(0):
        net = space.build(space.sample(random.Random(0)))
    train(net, task, TrainRecipe(epochs=2, batch=32), 0)
    telling(net, *task.tensors("train"))
    return calibrate(trace(net, task.input), [task.tensors("calibration")[0]])


def told(rows: list[tuple[float, ...]]) -> tuple[dict[str, float], list[dict[str, Pair]]]:
    names = [f"layer{i}" for i in range(len(rows))]
    lost = {name: row[0] for name, row in zip(names, rows, strict=True)}
    costs = [
        {name: Pair(*row[at : at + 2]) for name, row in zip(names, rows, strict=True)}
        for at in (1, 3)
    ]
    return lost, costs


@given(LAYERS, st.floats(-5, 20), st.floats(-5, 20))
def test_what_is_chosen_loses_least_of_all_that_is_in_time(rows, first_ms, second_ms):
    lost, costs = told(rows)
    slack_ms = first_ms, second_ms

    def more(floats: tuple[str, ...], device: int) -> float:
        return sum(costs[device][name].more_ms for name in floats)

    every = itertools.chain.from_iterable(
        itertools.combinations(lost, k) for k in range(len(lost) + 1)
    )
    fit = [f for f in every if all(more(f, d) <= slack_ms[d] for d in (0, 1))]
    chosen = most_accurate(lost, costs, slack_ms)
    if chosen is None:
        assert all(max(more(f, d) - slack_ms[d] for d in (0, 1)) > -1e-3 for f in fit)
        return
    assert all(more(tuple(chosen), d) <= slack_ms[d] + 1e-3 for d in (0, 1))
    best = max((sum(lost[name] for name in f) for f in fit), default=0.0)
    assert sum(lost[name] for name in chosen) >= best - 1e-2 * max([*lost.values(), 1e-3])


def test_faster_is_what_wins_on_every_device_by_more_than_noise():
    _, costs = told([(0, 1.0, 0.5, 1.0, 0.9), (0, 1.0, 0.5, 1.0, 1.1), (0, 1.0, 0.98, 1.0, 0.5)])
    assert faster(costs) == {"layer0"}
    assert integer_time(costs[0], {"layer0"}) == pytest.approx(2 / 2.5)
    assert integer_time(costs[0], ()) == 1


def test_no_more_stays_in_float_than_is_enough():
    lost, costs = told([(0.0, 1, 2, 1, 2), (3.0, 1, 2, 1, 2), (1.0, 1, 2, 1, 2), (0.1, 1, 2, 1, 2)])

    def chosen(slack_ms: float, *wanted: str) -> set[str]:
        return set(enough(lost, costs, [slack_ms] * 2, lambda some: some >= set(wanted)) or ())

    assert chosen(100) == set()
    assert chosen(100, "layer1") == {"layer1"}
    assert chosen(100, "layer2") == {"layer1", "layer2"}
    assert chosen(1.5, "layer2") == {"layer1"}  # all that is in time, though it is not enough
    assert enough(lost, costs, [-1.0, -1.0], lambda _: True) is None


def test_layers_in_float_have_weights_and_biases_of_the_network_in_float(int8: Graph):
    name = layers(int8)[1]
    biased = tuple(replace(n, bias=n.bias + 1) if n.name in layers(int8) else n for n in int8.nodes)
    made = mixed(replace(int8, nodes=biased), replace(int8, ranges=None), {name})
    assert made.floats == {name}
    assert made[name] is int8[name]
    assert (made[layers(int8)[0]].bias == int8[layers(int8)[0]].bias + 1).all()


def test_a_layer_whose_weights_do_not_fit_8_bits_suffers_most(int8: Graph, task: Task):
    worst = layers(int8)[2]
    node = int8[worst]
    # One weight that is large makes the steps of its channel large.
    spoilt = node.weight.copy()
    spoilt[:, 0, 0, 0] = 30 * abs(spoilt).max()
    nodes = tuple(replace(n, weight=spoilt) if n is node else n for n in int8.nodes)
    graph = calibrate(Graph(int8.input, nodes), [task.tensors("calibration")[0]])
    real = replace(graph, ranges=None)
    found = sensitivities(graph, real, task.tensors("search", 64)[0], lambda *_: None)
    assert set(found) == set(layers(int8))
    assert all(lost >= 0 for lost in found.values())
    assert found[worst] == max(found.values())


def test_what_is_in_float_is_not_rounded(int8: Graph, task: Task):
    x = task.tensors("search", 32)[0]
    every = frozenset((INPUT, *(n.name for n in int8.nodes)))
    with torch.no_grad():
        want = int8(x)
        assert torch.allclose(FakeQuantized(replace(int8, floats=every))(x), want, atol=1e-5)
        assert not torch.allclose(FakeQuantized(int8)(x), want, atol=1e-3)


@pytest.mark.parametrize("name", ["cpu-onnxruntime", "cpu-litert"])
def test_every_layer_is_timed_in_both_precisions(name: str):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    x: Tensor = torch.randn(4, 3, 8, 8)
    graph = calibrate(trace(net.eval(), (3, 8, 8)), [x])
    found = times(load_device(name), graph, lambda *_: None)
    assert list(found) == list(layers(graph))
    assert all(pair.int8_ms > 0 and pair.float_ms > 0 for pair in found.values())
    assert found["2"] == found["4"]  # alike, timed once
