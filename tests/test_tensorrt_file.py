"""The ONNX that TensorRT is given: run here by ONNX Runtime, which takes it too."""

import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from answers import telling
from onnx import numpy_helper
from torch import nn

from edgenas.errors import CorruptFile
from edgenas.export import exporter_for
from edgenas.graph import Graph, calibrate, trace
from edgenas.spaces.mobile import Mobile
from edgenas.task import Task
from edgenas.train import TrainRecipe, seeded, train

pytestmark = pytest.mark.trains


class Plain(nn.Module):
    """Max pool, ReLU behind an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.pool = nn.MaxPool2d(2)
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.a(x))
        y: torch.Tensor = self.end(torch.relu(x + self.b(x)))
        return y


@pytest.fixture(scope="module", params=["relu6", "v3", "resnet"])
def graph(request: pytest.FixtureRequest, task: Task) -> Graph:
    """Calibrated."""
    with seeded(0):
        if request.param == "resnet":
            net: nn.Module = Plain()
        else:
            preset = {"relu6": "tiny", "v3": "tiny-v3"}[request.param]
            space = Mobile(12, 1, 3, **Mobile.presets[preset])
            net = space.build(space.sample(random.Random(1)))
        train(net, task, TrainRecipe(epochs=2, batch=32), 0)
    telling(net, *task.tensors("train"))
    return calibrate(trace(net, task.input), [task.tensors("calibration")[0]])


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path.read_bytes())
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return np.asarray(y)


def test_both_precisions_compute_the_network(graph: Graph, task: Task, tmp_path: Path) -> None:
    exporter = exporter_for("tensorrt")
    x, _ = task.tensors("test")
    want = graph(x).numpy()
    plain = Graph(graph.input, graph.nodes)
    for whole, limit in ((plain, 1e-4), (graph, 0.2)):
        file = exporter.network(whole, tmp_path / f"{whole.precision}.tensorrt", {"classes": "3"})
        got = run(file.path, x.numpy())
        off = got - want
        assert np.sqrt((off**2).mean()) <= limit * want.std()
        assert (got.argmax(1) == want.argmax(1)).mean() > 0.95
        facts = exporter.inspect(file.path)
        assert facts.metadata == {"classes": "3", "precision": whole.precision}
        assert (facts.input_dtype, facts.output_dtype) == ("float32", "float32")
        assert facts.quantized == (0 if whole is plain else facts.operators)


def test_int8_has_no_zero_points_and_no_integer_biases(graph: Graph, tmp_path: Path) -> None:
    file = exporter_for("tensorrt").network(graph, tmp_path / "int8.tensorrt", {})
    model = onnx.load(file.path)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()
            assert (constants[node.input[1]] > 0).all()
        if node.op_type in ("Conv", "Gemm"):
            assert constants[node.input[2]].dtype == np.float32
    q = [c for name, c in constants.items() if name.endswith("weight/q")]
    assert q and all(c.dtype == np.int8 and c.min() >= -127 for c in q)
    kinds = {n.op_type for n in model.graph.node}
    assert kinds & {"Relu", "Clip"}  # activations are said, not left to saturation


def test_an_operator_alone_has_a_batch_of_one(graph: Graph, tmp_path: Path) -> None:
    first = graph.prefix(graph.nodes[0].name)
    file = exporter_for("tensorrt").operator(first, tmp_path / "one.tensorrt")
    shape = onnx.load(file.path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in shape] == [1, *graph.input]


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x08"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tensorrt"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="cannot be loaded as ONNX"):
        exporter_for("tensorrt").inspect(path)
