"""Bugs that deployments really have, each planted in a file: the gate sees every one."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from answers import telling
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgenas.artifact import Artifact
from edgenas.augment import Augment
from edgenas.config import Config, parse_config
from edgenas.device import load_device
from edgenas.errors import CorruptFile
from edgenas.export import exporter_for
from edgenas.graph import Add, Conv, Graph, Linear, calibrate, trace
from edgenas.images import Images
from edgenas.layer_errors import first_off, layer_errors
from edgenas.measure import Measurement
from edgenas.task import Task
from edgenas.train import TrainRecipe, accuracy, train
from edgenas.verify import Candidate, choose, gates, numbers

pytestmark = pytest.mark.trains

DEVICES = {"onnx": "cpu-onnxruntime", "tflite": "cpu-litert"}
TIMING = Measurement(1.0, 1.1, 1.2, 0.9, (1.0, 1.0), 5, 100, "stable", "measured", (1.0, 1.0))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU6())
        self.two = nn.Sequential(
            nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.BatchNorm2d(12), nn.ReLU6(),
            nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12),
        )  # fmt: skip
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.end(x + self.two(x))


def stripes(n: int, seed: int) -> Images:
    """Three colours times two directions, (n, 3, 12, 12)."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 6
    grid = np.mgrid[:12, :12]
    waves = np.stack([np.sin(1.2 * grid[0]), np.sin(1.2 * grid[1])])[y % 2][:, None]
    colour = np.eye(3)[y // 2][:, :, None, None]
    x = 110 + 25 * waves + 22 * colour + rng.normal(0, 22, (n, 3, 12, 12))
    return Images(torch.tensor(x.clip(0, 255).astype(np.uint8)), torch.tensor(y))


@pytest.fixture(scope="module")
def task() -> Task:
    sizes = {"train": 768, "search": 96, "calibration": 48, "test": 240}
    parts = {part: stripes(n, seed) for seed, (part, n) in enumerate(sizes.items())}
    mean, std = (0.47, 0.45, 0.46), (0.12, 0.11, 0.13)
    names = tuple(f"{c} {d}" for c in ("red", "green", "blue") for d in ("across", "down"))
    return Task("stripes", names, (3, 12, 12), mean, std, parts, Augment(False, 0))


@pytest.fixture(scope="module")
def net(task: Task) -> nn.Module:
    torch.manual_seed(0)
    module = Small()
    train(module, task, TrainRecipe(epochs=10, batch=48, lr=0.05), 0)
    telling(module, *task.tensors("train"))
    assert accuracy(module, task, "test") > 0.9
    return module


@pytest.fixture(scope="module")
def graph(net: nn.Module, task: Task) -> Graph:
    return trace(net, task.input)


@pytest.fixture(scope="module")
def int8(graph: Graph, task: Task) -> Graph:
    return calibrate(graph, [task.tensors("calibration")[0]])


def config() -> Config:
    targets = [{"device": "board", "latency": "<= 2 ms"}]
    return parse_config({"task": {"dataset": "npz"}, "targets": targets}, "test")


def missed(artifact: Artifact, net: nn.Module, task: Task) -> list[str]:
    """The gates that a file does not meet."""
    with torch.inference_mode():
        reference = net(task.tensors("test")[0]).numpy()
    device = load_device(DEVICES[artifact.format])
    found = numbers(device, artifact, task, reference)
    candidate = Candidate("found", artifact, device.name, 1.0, found, TIMING)
    choice = choose([candidate], config(), 2.0)
    assert choice.delivered is candidate
    told = [g["name"] for g in gates(choice, [candidate], config(), 2.0) if not g["met"]]
    assert bool(told) == (choice.why[artifact.path.name] != "delivered")
    return told


def written(graph: Graph, task: Task, folder: Path, fmt: str = "onnx", **metadata: str) -> Artifact:
    path = folder / f"found.{graph.precision}.{fmt}"
    return exporter_for(fmt).network(graph, path, {**task.metadata, **metadata})


def changed(graph: Graph, name: str, **fields: object) -> Graph:
    return replace(
        graph, nodes=tuple(replace(n, **fields) if n.name == name else n for n in graph.nodes)
    )


@pytest.mark.parametrize("fmt", DEVICES)
def test_without_a_bug_every_gate_is_met(fmt, net, graph, int8, task, tmp_path):
    for g in (graph, int8):
        assert missed(written(g, task, tmp_path, fmt), net, task) == []
        x, device = task.tensors("test", 32)[0], load_device(DEVICES[fmt])
        errors = layer_errors(device, g, graph, x, tmp_path)
        assert [e.name for e in errors] == [n.name for n in graph.nodes]
        assert first_off(errors, g.precision) is None


@pytest.mark.parametrize("fmt", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_swapped_colours(fmt, precision, net, graph, int8, task, tmp_path):
    g = {"fp32": graph, "int8-static": int8}[precision]
    first = g.nodes[0]
    g = changed(g, first.name, weight=np.ascontiguousarray(first.weight[:, ::-1]))
    assert f"parity:{fmt}" in missed(written(g, task, tmp_path, fmt), net, task)


IMAGENET: Mapping[str, str] = {"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"}


@pytest.mark.parametrize(
    "told", [{"mean": "[0, 0, 0]", "std": "[1, 1, 1]"}, IMAGENET,
             {"mean": "[0, 0, 0]", "std": "[0.003922, 0.003922, 0.003922]"}],
)  # fmt: skip
@pytest.mark.parametrize("fmt", DEVICES)
def test_a_file_that_tells_the_wrong_normalisation(fmt, told, net, int8, task, tmp_path):
    assert f"parity:{fmt}:outputs" in missed(written(int8, task, tmp_path, fmt, **told), net, task)


def test_a_file_that_takes_its_pixels_in_another_order(net, graph, task, tmp_path):
    artifact = written(graph, task, tmp_path)
    model = onnx.load(artifact.path)
    shape = numpy_helper.from_array(np.array([-1, 12, 12, 3]), "as_if_channels_were_last")
    model.graph.initializer.append(shape)
    model.graph.node[0].input[0] = "turned"
    model.graph.node.insert(
        0, helper.make_node("Transpose", ["misread"], ["turned"], perm=[0, 3, 1, 2])
    )
    model.graph.node.insert(0, helper.make_node("Reshape", ["input", shape.name], ["misread"]))
    onnx.save(model, artifact.path)
    assert "parity:onnx" in missed(artifact, net, task)


def test_batch_norm_left_in_training_mode(net, task, tmp_path):
    """As an export of it computes image by image."""

    class Training(nn.Module):
        def __init__(self, bn: nn.BatchNorm2d) -> None:
            super().__init__()
            self.bn = bn

        def forward(self, x: Tensor) -> Tensor:
            y = (x - x.mean((2, 3), keepdim=True)) * torch.rsqrt(
                x.var((2, 3), keepdim=True, unbiased=False) + self.bn.eps
            )
            return y * self.bn.weight[:, None, None] + self.bn.bias[:, None, None]

    wrong = Small()
    wrong.load_state_dict(net.state_dict())
    for part in (wrong.one, wrong.two):
        for i, m in enumerate(part):
            if isinstance(m, nn.BatchNorm2d):
                part[i] = Training(m)
    path = tmp_path / "found.fp32.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
        wrong.eval(), (torch.zeros(1, 3, 12, 12),), str(path), dynamo=False, opset_version=17,
        input_names=["input"], output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )  # fmt: skip
    model = onnx.load(path)
    helper.set_model_props(model, {f"edgenas.{k}": v for k, v in task.metadata.items()})
    onnx.save(model, path)
    assert "parity:onnx" in missed(Artifact.of(path, "onnx", "fp32", task.input), net, task)


@pytest.mark.parametrize("fmt", DEVICES)
def test_permuted_classes_in_the_network_or_in_what_the_file_tells(fmt, net, int8, task, tmp_path):
    end = int8.nodes[-1]
    order = [1, 0, 2, 3, 4, 5]
    g = changed(int8, end.name, weight=end.weight[order], bias=end.bias[order])
    assert f"parity:{fmt}" in missed(written(g, task, tmp_path, fmt), net, task)
    names = json.dumps([task.classes[i] for i in order])
    assert f"parity:{fmt}" in missed(written(int8, task, tmp_path, fmt, classes=names), net, task)
    # Both at once are no bug: a file may have an order of its own.
    assert missed(written(g, task, tmp_path, fmt, classes=names), net, task) == []


@pytest.mark.parametrize("factor", [2.0, 0.5])
@pytest.mark.parametrize("fmt", DEVICES)
def test_the_scale_of_one_layer_wrong_by_two(fmt, factor, net, graph, int8, task, tmp_path):
    for node in int8.nodes:
        if isinstance(node, Conv | Linear) and node is not int8.output:
            g = changed(int8, node.name, weight=node.weight * np.float32(factor))
            assert missed(written(g, task, tmp_path, fmt), net, task), node.name
            x, device = task.tensors("test", 32)[0], load_device(DEVICES[fmt])
            first = first_off(layer_errors(device, g, graph, x, tmp_path), g.precision)
            assert first is not None and first.name == node.name


@pytest.mark.parametrize("fmt", DEVICES)
def test_an_operator_dropped(fmt, net, graph, task, tmp_path):
    (add,) = (n for n in graph.nodes if isinstance(n, Add))
    for kept in add.inputs:
        nodes = tuple(
            replace(n, inputs=tuple(kept if i == add.name else i for i in n.inputs))
            for n in graph.nodes
            if n is not add
        )
        g = replace(graph, nodes=nodes).prefix(graph.output.name)
        assert f"parity:{fmt}:outputs" in missed(written(g, task, tmp_path, fmt), net, task)
    first = graph.nodes[0]
    g = changed(graph, first.name, act="none")
    assert f"parity:{fmt}:outputs" in missed(written(g, task, tmp_path, fmt), net, task)


@pytest.mark.parametrize("fmt", DEVICES)
def test_calibration_on_noise(fmt, net, graph, task, tmp_path):
    noise = torch.rand(48, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    g = calibrate(graph, [noise])
    assert missed(written(g, task, tmp_path, fmt), net, task)


def test_a_file_that_tells_nothing_or_of_other_images_is_refused(net, int8, task, tmp_path):
    bare = exporter_for("onnx").network(int8, tmp_path / "bare.onnx", {})
    with pytest.raises(CorruptFile, match=r"bare\.onnx: its metadata do not say how images"):
        missed(bare, net, task)
    other = written(int8, task, tmp_path, classes='["cat", "dog"]')
    with pytest.raises(CorruptFile, match=r"of other images.*cat, dog"):
        missed(other, net, task)
