"""Ranges, biases and training of int8, before any file is written."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import telling
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgenas.compress.bias import channel_means, correct_biases
from edgenas.compress.fake_quant import FakeQuantized
from edgenas.compress.qat import qat
from edgenas.compress.quantize import (
    divergence,
    kept,
    load_quantized,
    outputs,
    quantize,
    save_quantized,
)
from edgenas.config import QuantRecipe
from edgenas.errors import CorruptFile, UsageError
from edgenas.export import exporter_for
from edgenas.graph import Graph, calibrate, trace
from edgenas.graph.calibration import Histogram, entropy, mse, percentile, squared_error
from edgenas.quantization import Quantized
from edgenas.spaces.mobile import Mobile
from edgenas.task import Task
from edgenas.train import TrainRecipe, accuracy, seeded, train

pytestmark = pytest.mark.trains

CUTS = {"percentile": percentile, "mse": mse, "entropy": entropy}


def histogram(values: np.ndarray) -> Histogram:
    counts, _ = np.histogram(values, 2048)
    return Histogram(counts.astype(float), float(values.min()), float(values.max()))


@pytest.fixture(scope="module")
def trained(space: Mobile, task: Task) -> nn.Module:
    with seeded(0):
        net = space.build(space.sample(random.Random(0)))
    train(net, task, TrainRecipe(epochs=4, batch=32), 0)
    return telling(net, *task.tensors("train"))


@pytest.fixture(scope="module")
def graph(trained: nn.Module, task: Task) -> Graph:
    return trace(trained, task.input)


def part(task: Task, name: str) -> Tensor:
    return task.tensors(name)[0]


@pytest.mark.parametrize("name", CUTS)
@given(seed=st.integers(0, 2**16), tail=st.floats(1, 40), clamp=st.booleans())
def test_a_cut_range_lies_within_what_was_seen(name, seed, tail, clamp):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(5000)
    x[:5] *= tail
    x = np.maximum(x, 0) if clamp else x
    low, high = CUTS[name](histogram(x))
    assert x.min() <= low <= max(0.0, x.min()) + 1e-9
    assert 0 < high <= x.max() + 1e-9
    whole = (float(x.min()), float(x.max()))
    if name == "mse":
        assert squared_error(histogram(x), (low, high)) <= squared_error(histogram(x), whole)


# To a squared error a value far off is worth its distance.
@pytest.mark.parametrize(("name", "top"), [("percentile", 10.0), ("entropy", 60.0), ("mse", 99.0)])
def test_one_value_far_off_does_not_decide_the_range(name, top):
    x = np.abs(np.random.default_rng(0).standard_normal(100_000))
    x[0] = 100.0
    assert CUTS[name](histogram(x))[1] < top


@pytest.mark.parametrize("method", CUTS)
def test_a_tensor_of_one_value_keeps_it(method):
    graph = trace(nn.Conv2d(1, 1, 1), (1, 4, 4))
    ranges = calibrate(graph, [torch.ones(2, 1, 4, 4)], method).ranges
    assert ranges["input"] == (1.0, 1.0)


def test_entropy_keeps_a_range_of_nothing_but_clamps():
    counts = np.zeros(2048)
    counts[[0, -1]] = 5, 7
    assert entropy(Histogram(counts, -0.5, 2.5)) == (-0.5, 2.5)


def test_entropy_is_not_misled_by_what_a_clamp_piles_up():
    x = np.clip(np.random.default_rng(0).standard_normal(100_000), 0, None)
    assert entropy(histogram(x))[1] > 2.0


@pytest.mark.parametrize("method", CUTS)
def test_other_calibrations_cut_the_range_of_the_extremes(method, graph, task):
    batches = [part(task, "calibration")]
    whole, cut = (calibrate(graph, batches, m).ranges for m in ("min-max", method))
    assert cut.keys() == whole.keys() and cut != whole
    for name, (low, high) in cut.items():
        assert whole[name][0] - 1e-6 <= low <= high <= whole[name][1] + 1e-6


def test_an_unknown_calibration_is_refused(graph, task):
    with pytest.raises(UsageError, match="Known: min-max, percentile, mse, entropy"):
        calibrate(graph, [part(task, "calibration")], "max")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 1), nn.Conv2d(6, 6, 1, groups=6), nn.Conv2d(6, 12, 1, groups=3),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    ],
)  # fmt: skip
def test_a_corrected_bias_takes_the_mean_error_out_of_every_channel(layer):
    torch.manual_seed(0)
    x = torch.randn(64, 6, 5, 5) + 3
    plain = calibrate(trace(layer, (6, 5, 5)), [x])
    nodes = []
    for node in plain.nodes:  # one large weight, so that rounding of the others costs something
        if hasattr(node, "weight"):
            weight = node.weight.copy()
            weight.reshape(len(weight), -1)[:, 0] *= 20 if weight[0].size > 1 else 1
            node = replace(node, weight=weight)
        nodes.append(node)
    plain = calibrate(replace(plain, nodes=tuple(nodes), ranges=None), [x])
    corrected = correct_biases(plain, channel_means(plain, [x]))
    name = plain.output.name

    def off(graph: Graph) -> float:
        q, bias = Quantized(graph).weights(graph.output), graph.output.bias
        scales = q.scales.reshape(-1, *(1,) * (q.weight.ndim - 1))
        rounded = replace(graph.output, weight=(q.weight * scales).astype(np.float32), bias=bias)
        got = replace(graph, nodes=(*graph.nodes[:-1], rounded), ranges=None)(x)
        error = got - plain(x)
        return float(error.flatten(2).mean((0, 2)).abs().max() if error.ndim > 2
                     else error.mean(0).abs().max())  # fmt: skip

    assert name == corrected.output.name and corrected.ranges == plain.ranges
    assert off(corrected) <= 1e-4 + 0.01 * off(plain)


def test_the_simplest_of_the_nearest_ways_is_kept_and_all_are_told(graph, task):
    best, tried = quantize(graph, part(task, "calibration"), part(task, "search"), QuantRecipe())
    assert len({(t.calibration, t.correct_bias) for t in tried}) == len(tried) == 8
    wanted = outputs(graph, part(task, "search"))
    chosen = kept(tried)
    assert chosen is next(t for t in tried if not t.farther)
    assert divergence(wanted, best, part(task, "search")) == pytest.approx(chosen.divergence)
    nearest = min(tried, key=lambda t: t.divergence)
    assert not nearest.farther
    assert all(t.divergence > nearest.divergence for t in tried if t.farther)
    assert nearest.divergence > 0


def test_a_recipe_that_says_what_it_wants_gets_that(graph, task):
    recipe = QuantRecipe("min-max", False)
    made, tried = quantize(graph, part(task, "calibration"), part(task, "search"), recipe)
    assert [(t.calibration, t.correct_bias) for t in tried] == [("min-max", False)]
    assert made.ranges == calibrate(graph, [part(task, "calibration")]).ranges


def test_other_calibration_images_give_another_file(graph, task, tmp_path):
    def written(x: Tensor, name: str) -> bytes:
        made, _ = quantize(graph, x, part(task, "search"), QuantRecipe("min-max", False))
        path = tmp_path / name
        exporter_for("onnx").network(made, path, {})
        return path.read_bytes()

    x = part(task, "calibration")
    assert written(x, "a") == written(x, "b") != written(x[:5], "c")


def test_trained_integers_reach_the_file_and_win_back_accuracy(trained, graph, task, tmp_path):
    # Ranges so short that calibration alone cannot do, on whatever processor.
    ranges = calibrate(graph, [part(task, "calibration")]).ranges
    shorter = (
        replace(graph, ranges={k: (a / by, b / by) for k, (a, b) in ranges.items()})
        for by in (4, 6, 8, 12, 16, 24, 32)
    )
    poor = next(g for g in shorter if accuracy(FakeQuantized(g), task, "test") < 0.85)
    before = accuracy(FakeQuantized(poor), task, "test")
    epochs: list[int] = []
    recipe = TrainRecipe(epochs=3, batch=32, lr=0.01, smoothing=0.0, warmup=0.0)
    made = qat(poor, task, recipe, 0, trained, lambda e, net: epochs.append(e.number))
    after = accuracy(FakeQuantized(made), task, "test")
    assert epochs == [1, 2, 3]
    assert after > before + 0.05
    assert made.ranges == poor.ranges
    path = tmp_path / "kept.safetensors"
    save_quantized(made, path)
    back = load_quantized(graph, path)
    files = []
    for name, g in (("a", made), ("b", back)):
        exporter_for("onnx").network(g, tmp_path / name, {})
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_what_is_kept_and_is_damaged_or_of_another_network_is_refused(graph, task, tmp_path):
    path = tmp_path / "kept.safetensors"
    save_quantized(calibrate(graph, [part(task, "calibration")]), path)
    other = trace(nn.Sequential(nn.Conv2d(1, 2, 1)), (1, 12, 12))
    with pytest.raises(CorruptFile, match=r"kept\.safetensors does not hold this network"):
        load_quantized(other, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptFile, match=r"kept\.safetensors"):
        load_quantized(graph, path)
    with pytest.raises(CorruptFile, match="missing"):
        load_quantized(graph, Path(tmp_path / "missing.safetensors"))
