import collections
import random
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from answers import require_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgenas import ops
from edgenas.artifact import Artifact, sha256
from edgenas.compress.fake_quant import FakeQuantized
from edgenas.errors import CapabilityError, CorruptFile, UnknownName
from edgenas.export import EXPORTERS, exporter_for
from edgenas.graph import INPUT, Conv, Graph, HardSwish, Linear, calibrate, coarse, trace
from edgenas.quantization import Quantized
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec

pytestmark = pytest.mark.trains

FORMATS = ["onnx", "tflite"]
NETWORKS = {
    "relu6": Mobile.presets["tiny"],
    "hard-swish": {**Mobile.presets["tiny"], "activations": ("hard-swish",)},
    "v3": {**Mobile.presets["tiny-v3"], "ses": (4,), "features": 48},  # a gate in every block
    "dense": {**Mobile.presets["tiny"], "first": 0, "blocks": ("fused-mbconv", "conv")},
}
OPS = [
    "conv 1-16 @28 k3 s2",
    "conv 24-48 @7 hs1 k1 s1",
    "mbconv 8-8 @7 e3 k5 s1",
    "mbconv 8-12 @14 e6 k7 s2",
    "mbconv 8-12 @7 e1 hs1 k3 s2",
    "mbconv 8-8 @14 e3 k5 s1 se4",
    "mbconv 16-24 @7 e6 hs1 k3 s2 se4",
    "mbconv 8-8 @7 e1 k3 s1 se2",
    "conv 8-8 @14 k3 res1 s1",
    "conv 8-8 @7 hs1 k5 res1 s1",
    "fused-mbconv 8-8 @14 e3 k3 s1",
    "fused-mbconv 8-12 @7 h20 hs1 k5 s2",
    "classifier 24-10 @4",
    "classifier 24-10 @4 h32 hs1",
]


def gratings(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Waves in ten directions, with noise: (n, 1, 28, 28), labels."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(10, (n,), generator=g)
    angle = (0.314 * y + 0.05 * torch.randn(n, generator=g))[:, None, None]
    phase = 6.3 * torch.rand(n, 1, 1, generator=g)
    v, h = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    x = torch.sin(0.9 * (h * angle.cos() + v * angle.sin()) + phase)
    return (x + 0.3 * torch.randn(n, 28, 28, generator=g)).unsqueeze(1), y


def disturb(module: nn.Module, x: Tensor) -> nn.Module:
    """As after training on ``x``: no two channels alike, gates neither open nor shut."""
    for m in module.modules():
        if isinstance(m, ops.SqueezeExcitation):
            nn.init.normal_(m.excite.weight)
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
            m.momentum = None
    with torch.no_grad():
        module.train()(x)
    return module.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    """Trained for a moment: at random weights a network amplifies what rounding it meets."""
    torch.manual_seed(0)
    space = Mobile(28, 1, 10, **NETWORKS[request.param])
    module = space.build(space.sample(random.Random(0))).to(memory_format=torch.channels_last)
    for m in module.modules():
        if isinstance(m, ops.SqueezeExcitation):
            nn.init.normal_(m.excite.weight, std=0.3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for step in range(24):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 24)
        x, y = gratings(64, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats()
            m.momentum = None
    with torch.no_grad():
        module(gratings(256, 99)[0])
        require_apart(module.eval()(gratings(256, 98)[0]))
    return module


@pytest.fixture(scope="module")
def graphs(net: nn.Module) -> dict[str, Graph]:
    graph = trace(net, (1, 28, 28))
    return {"fp32": graph, "int8-static": calibrate(graph, gratings(256, 100)[0].split(64))}


def operator_graph(text: str) -> tuple[Graph, Tensor]:
    op = OpSpec.parse(text)
    shape = (op.cin, op.size, op.size)
    torch.manual_seed(0)
    x = torch.randn(4, *shape)
    graph = trace(disturb(ops.build(op), x), shape)
    return calibrate(graph, [x]), x


def without_ranges(graph: Graph) -> Graph:
    return Graph(graph.input, graph.nodes)


def ort(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # Else products of 8 bits saturate in pairs on x86 without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def litert(path: Path, batch: int = 1) -> Interpreter:
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    end = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(end["index"], [batch, *end["shape"][1:]])
    interpreter.allocate_tensors()
    return interpreter


def run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    return ort(path).run(None, {"input": x})[0]


def run_tflite(path: Path, x: np.ndarray) -> np.ndarray:
    """NCHW float in, (n, c) or NCHW float out, whatever the file holds."""
    interpreter = litert(path, len(x))
    begin, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    if begin["dtype"] == np.int8:
        scale, zero_point = begin["quantization"]
        x = np.clip(np.rint(x / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)
    interpreter.set_tensor(begin["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(end["index"])
    if end["dtype"] == np.int8:
        scale, zero_point = end["quantization"]
        y = (y.astype(np.float32) - zero_point) * np.float32(scale)
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


RUN = {"onnx": run_onnx, "tflite": run_tflite}


def write(fmt: str, graph: Graph, folder: Path, **metadata: str) -> Artifact:
    return exporter_for(fmt).network(graph, folder / f"net.{fmt}", metadata)


def test_every_format_is_on_the_shelf():
    assert set(EXPORTERS) == {*FORMATS, "fpga", "ncnn", "tensorrt", "torch"}
    assert all(exporter_for(f).format == f for f in EXPORTERS)
    with pytest.raises(UnknownName, match="Did you mean 'onnx'"):
        exporter_for("onx")


@pytest.mark.parametrize("fmt", FORMATS)
def test_fp32_files_compute_what_the_network_computes(fmt, net, graphs, tmp_path):
    x = gratings(64)[0]
    with torch.no_grad():
        want = net(x).numpy()
    artifact = write(fmt, graphs["fp32"], tmp_path)
    np.testing.assert_allclose(RUN[fmt](artifact.path, x.numpy()), want, rtol=1e-4, atol=1e-4)


def test_int8_files_of_both_formats_agree_to_the_last_bit_or_so(net, graphs, tmp_path):
    x = gratings(256)[0]
    graph = graphs["int8-static"]
    a, b = (RUN[f](write(f, graph, tmp_path).path, x.numpy()) for f in FORMATS)
    step = float(Quantized(graph).scales[graph.output.name].scale)
    steps = np.abs(a - b) / step
    assert (steps < 1.5).mean() >= 0.99
    assert (steps < 0.5).mean() >= 0.9
    with torch.no_grad():
        want = net(x).numpy()
    assert np.corrcoef(a.ravel(), want.ravel())[0, 1] > 0.999
    assert (a.argmax(1) == want.argmax(1)).mean() > 0.95


def in_float(graph: Graph, *names: str) -> Graph:
    return replace(graph, floats=frozenset(names))


def layers(graph: Graph) -> list[str]:
    return [n.name for n in graph.nodes if isinstance(n, Conv | Linear)]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_mixed_file_computes_its_floats_in_float(first, fmt, graphs, tmp_path):
    int8, x = graphs["int8-static"], gratings(64)[0]
    mixed = in_float(int8, *layers(int8)[first::3])
    artifact = write(fmt, mixed, tmp_path)
    found = exporter_for(fmt).inspect(artifact.path)
    assert artifact.precision == found.metadata["precision"] == "mixed"
    assert found.precision == "mixed"
    asked = len(mixed.floats)
    assert asked <= len(found.float_operators) <= int(found.metadata["floats"])
    y = RUN[fmt](artifact.path, x.numpy())
    want = FakeQuantized(mixed)(x).detach().numpy()
    step = float(Quantized(mixed).scales[mixed.output.name].scale)
    assert np.abs(y - want).mean() <= step
    assert (y.argmax(1) == want.argmax(1)).mean() >= 0.9


@pytest.mark.parametrize("fmt", FORMATS)
def test_with_all_layers_and_the_ends_in_float_nothing_is_lost(fmt, net, graphs, tmp_path):
    int8, x = graphs["int8-static"], gratings(64)[0]
    path = write(fmt, in_float(int8, INPUT, *(n.name for n in int8.nodes)), tmp_path).path
    with torch.no_grad():
        want = net(x).numpy()
    np.testing.assert_allclose(RUN[fmt](path, x.numpy()), want, rtol=1e-4, atol=1e-4)
    found = exporter_for(fmt).inspect(path)
    assert (found.quantized, found.input_dtype, found.output_dtype) == (0, "float32", "float32")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(("held", "smaller", "off"), [
    ("fp16", 1.5, 2e-3), ("int8-weights", 1.8, 0.1), ("int8-dynamic", 1.8, 0.15),
])  # fmt: skip
def test_weights_held_in_less_make_smaller_files_that_compute_nearly_the_same(
    held, smaller, off, fmt, net, graphs, tmp_path
):
    x = gratings(64)[0]
    whole = write(fmt, graphs["fp32"], tmp_path).size_bytes
    artifact = write(fmt, replace(graphs["fp32"], held=held), tmp_path)
    assert artifact.precision == held
    assert whole / artifact.size_bytes > smaller
    with torch.no_grad():
        want = net(x).numpy()
    y = RUN[fmt](artifact.path, x.numpy())
    assert 0 < np.sqrt(np.square(y - want).mean() / np.square(want).mean()) < off


def test_a_fully_connected_layer_has_one_scale_where_older_runtimes_take_no_more(graphs, tmp_path):
    """tflite-runtime 2.14 computed with a scale of 0, and gave biases for answers."""
    path = write("tflite", replace(graphs["fp32"], held="int8-dynamic"), tmp_path).path
    tflite = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    held = {t.name.decode(): t.quantization for t in tflite.subgraphs[0].tensors}
    for node in graphs["fp32"].nodes:
        if isinstance(node, Conv | Linear):
            one = isinstance(node, Linear)
            scales = held[f"{node.name}/weight/q"].scale
            assert len(scales) == (1 if one else len(node.weight))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_weight_that_float16_does_not_hold_is_refused_by_name(fmt, graphs, tmp_path):
    graph = graphs["fp32"]
    name = layers(graph)[1]
    nodes = tuple(replace(n, weight=1e6 * n.weight) if n.name == name else n for n in graph.nodes)
    with pytest.raises(CapabilityError, match=f"{name} has a weight of .*, and fp16 ends at 65504"):
        write(fmt, replace(graph, nodes=nodes, held="fp16"), tmp_path)


def test_an_integer_max_pool_that_follows_no_convolution_is_not_float(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)).eval()
    int8 = calibrate(trace(net, (2, 12, 12)), [torch.randn(8, 2, 12, 12)])
    artifact = write("onnx", in_float(int8, "0"), tmp_path)
    assert exporter_for("onnx").inspect(artifact.path).float_operators == ("Conv",)


@pytest.mark.parametrize("held", ["fp16", "int8-weights", "int8-dynamic"])
@pytest.mark.parametrize("fmt", ["ncnn", "tensorrt", "torch"])
def test_formats_refuse_what_they_do_not_hold(fmt, held, graphs, tmp_path):
    with pytest.raises(CapabilityError, match=held):
        write(fmt, replace(graphs["fp32"], held=held), tmp_path)


def test_the_same_integers_reach_both_files(graphs, tmp_path):
    graph = graphs["int8-static"]
    model = onnx.load(write("onnx", graph, tmp_path).path)
    ours = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    content = write("tflite", graph, tmp_path).path.read_bytes()
    tflite = schema.ModelT.InitFromPackedBuf(content)
    tensors = {t.name.decode(): t for t in tflite.subgraphs[0].tensors}
    seen = 0
    for node in graph.nodes:
        if not isinstance(node, Conv | Linear):
            continue
        for part, dtype in (("weight", np.int8), ("bias", np.int32)):
            t = tensors[f"{node.name}/{part}"]
            theirs = np.frombuffer(tflite.buffers[t.buffer].data, dtype).reshape(t.shape)
            if theirs.ndim == 4:
                axes = (3, 0, 1, 2) if t.quantization.quantizedDimension == 3 else (0, 3, 1, 2)
                theirs = theirs.transpose(axes)
            np.testing.assert_array_equal(ours[f"{node.name}/{part}/q"], theirs)
            np.testing.assert_array_equal(ours[f"{node.name}/{part}/scale"], t.quantization.scale)
            seen += 1
    assert seen == 2 * len(layers(graph))


def test_onnx_runtime_runs_every_operator_of_an_int8_file_on_integers(graphs, tmp_path):
    artifact = write("onnx", graphs["int8-static"], tmp_path)
    found = exporter_for("onnx").inspect(artifact.path)
    assert (found.precision, found.float_operators) == ("int8-static", ())
    assert (found.input_dtype, found.output_dtype) == ("float32", "float32")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    kinds = collections.Counter(
        n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node
    )
    convolutions = sum(isinstance(n, Conv) for n in graphs["fp32"].nodes)
    assert kinds["QLinearConv"] == convolutions
    assert not set(kinds) & {"Conv", "FusedConv", "Gemm", "MatMul", "Clip", "HardSigmoid", "Mul"}


def test_every_convolution_of_a_float_file_is_counted_as_float(graphs, tmp_path):
    convolutions = sum(isinstance(n, Conv) for n in graphs["fp32"].nodes)
    for fmt in FORMATS:
        found = exporter_for(fmt).inspect(write(fmt, graphs["fp32"], tmp_path).path)
        assert (found.precision, found.quantized) == ("fp32", 0)
        assert len(found.float_operators) == found.operators
        assert sum("conv" in kind.lower() for kind in found.float_operators) == convolutions


@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_litert_runs_a_file_as_one_xnnpack_partition(precision, graphs, tmp_path):
    artifact = write("tflite", graphs[precision], tmp_path)
    kinds = [op["op_name"] for op in litert(artifact.path)._get_ops_details()]
    assert kinds.count("DELEGATE") == 1
    found = exporter_for("tflite").inspect(artifact.path)
    assert (found.precision, found.transposes) == (precision, 0)
    assert found.operators == len(kinds) - 1 - kinds.count("PAD")


@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_onnx_files_are_valid_and_take_any_batch(precision, graphs, tmp_path):
    artifact = write("onnx", graphs[precision], tmp_path)
    onnx.checker.check_model(str(artifact.path), full_check=True)
    x = gratings(5)[0].numpy()
    one_by_one = np.concatenate([run_onnx(artifact.path, x[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(run_onnx(artifact.path, x), one_by_one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_the_artifact_and_the_metadata_describe_the_file(fmt, precision, graphs, tmp_path):
    facts = {"classes": '["T-shirt", "Ärmel"]', "mean": "[0.5]", "empty": ""}
    artifact = write(fmt, graphs[precision], tmp_path, **facts)
    assert (artifact.format, artifact.precision, artifact.input) == (fmt, precision, (1, 28, 28))
    assert artifact.sha256 == sha256(artifact.path)
    assert exporter_for(fmt).inspect(artifact.path).metadata == {**facts, "precision": precision}


@pytest.mark.parametrize("fmt", FORMATS)
def test_equal_graphs_give_equal_bytes(fmt, graphs, tmp_path):
    first, second = (write(fmt, graphs["int8-static"], tmp_path / d, a="b") for d in "xy")
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("text", OPS)
def test_operators_compute_the_same_alone_and_have_no_float_at_their_ends(fmt, text, tmp_path):
    graph, x = operator_graph(text)
    exporter, want = exporter_for(fmt), graph(x[:1]).numpy()
    fp32 = exporter.operator(without_ranges(graph), tmp_path / f"a.{fmt}")
    np.testing.assert_allclose(RUN[fmt](fp32.path, x[:1].numpy()), want, rtol=1e-4, atol=1e-4)

    int8 = exporter.operator(graph, tmp_path / f"b.{fmt}")
    found = exporter.inspect(int8.path)
    assert found.precision == "int8-static"
    # ONNX Runtime has no global pool that it turns to channels last, in a network neither.
    assert found.transposes == (1 if (fmt, len(want.shape)) == ("onnx", 2) else 0)
    integer = "uint8" if fmt == "onnx" else "int8"
    assert (found.input_dtype, found.output_dtype) == (integer, integer)
    got = run_operator(int8, graph, x[:1].numpy())
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.995


def run_operator(artifact: Artifact, graph: Graph, x: np.ndarray) -> np.ndarray:
    """Of an int8 operator: floats quantized before it and after."""
    if artifact.format == "tflite":
        return run_tflite(artifact.path, x)
    scales = Quantized(graph).scales
    q = np.ascontiguousarray(scales["input"].quantize(x).transpose(0, 2, 3, 1))
    y, end = run_onnx(artifact.path, q).astype(np.float32), scales[graph.output.name]
    y = (y - end.zero_point) * end.scale
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


@pytest.mark.parametrize("text", OPS)
def test_one_int8_operator_is_equal_in_both_formats(text, tmp_path):
    graph, x = operator_graph(text)
    a, b = (
        run_operator(exporter_for(f).operator(graph, tmp_path / f"op.{f}"), graph, x[:1].numpy())
        for f in FORMATS
    )
    steps = np.abs(a - b) / Quantized(graph).scales[graph.output.name].scale
    assert steps.max() < 1.5
    assert (steps > 0.5).mean() < 0.01


@settings(max_examples=30)
@given(
    size=st.integers(3, 15), k=st.sampled_from([1, 2, 3, 5, 7]), s=st.integers(1, 3),
    p=st.integers(0, 3), depthwise=st.booleans(), wide=st.integers(0, 2),
)  # fmt: skip
def test_every_kernel_stride_and_padding_is_that_of_pytorch(
    size, k, s, p, depthwise, wide, tmp_path_factory
):
    if size + 2 * p < k or p >= k:
        return
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, k, s, p, groups=4 if depthwise else 1)
    x = torch.randn(2, 4, size, size + wide)
    graph = calibrate(trace(conv, (4, size, size + wide)), [x])
    folder = tmp_path_factory.mktemp("conv")
    want = graph(x).numpy()
    fp32 = [RUN[f](write(f, without_ranges(graph), folder).path, x.numpy()) for f in FORMATS]
    int8 = [RUN[f](write(f, graph, folder).path, x.numpy()) for f in FORMATS]
    for got in fp32:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    step = float(Quantized(graph).scales[graph.output.name].scale)
    assert np.abs(int8[0] - int8[1]).max() < 1.5 * step
    assert np.abs(int8[0] - want).max() < 0.1 * np.abs(want).max()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_a_prefix_is_a_file_of_its_own(fmt, precision, graphs, tmp_path):
    names = [n.name for n in graphs[precision].nodes if n.name.startswith("layers.4.")]
    part = graphs[precision].prefix(names[-1])
    x = gratings(2)[0]
    got, want = RUN[fmt](write(fmt, part, tmp_path).path, x.numpy()), part(x).numpy()
    assert got.shape == want.shape
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > (0.9999 if precision == "fp32" else 0.95)


def test_a_dead_channel_does_not_overflow(tmp_path):
    module = disturb(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), gratings(8)[0])
    module[1].weight.data[1] = 0
    module[1].bias.data[1] = 2.5
    x = gratings(8)[0]
    graph = calibrate(trace(module, (1, 28, 28)), [x])
    for fmt in FORMATS:
        got = RUN[fmt](write(fmt, graph, tmp_path).path, x.numpy())
        np.testing.assert_allclose(got[:, 1], 2.5, atol=0.05)


@pytest.mark.parametrize("fmt", FORMATS)
def test_tensors_that_never_move_from_zero_can_be_quantized(fmt, tmp_path):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU6(), nn.Conv2d(4, 2, 1))
    module[0].weight.data.zero_()
    module[0].bias.data.fill_(-1.0)
    graph = calibrate(trace(module, (1, 8, 8)), [torch.zeros(1, 1, 8, 8)])
    got = RUN[fmt](write(fmt, graph, tmp_path).path, np.zeros((1, 1, 8, 8), np.float32))
    want = module[2].bias.detach().numpy()[None, :, None, None]
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=0.01)


def test_tflite_refuses_groups_that_it_does_not_have_and_onnx_does_not(tmp_path):
    graph = trace(nn.Conv2d(8, 8, 3, 1, 1, groups=2), (8, 5, 5))
    with pytest.raises(CapabilityError, match=r"2 groups of 8 channels \(at 0\)"):
        write("tflite", graph, tmp_path)
    assert list(tmp_path.iterdir()) == []
    x = torch.randn(1, 8, 5, 5)
    got = run_onnx(write("onnx", graph, tmp_path).path, x.numpy())
    np.testing.assert_allclose(got, graph(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_float_onnx_file_that_claims_int8_is_found_out(graphs, tmp_path):
    artifact = write("onnx", graphs["int8-static"], tmp_path)
    model = onnx.load(artifact.path)
    # Only the weights stay integers, as in an exported fake-quantised network.
    source: dict[str, str] = {}
    kept = []
    constants = {t.name for t in model.graph.initializer}
    for node in model.graph.node:
        x = node.input[0]
        if node.op_type == "QuantizeLinear" or (
            node.op_type == "DequantizeLinear" and x not in constants
        ):
            source[node.output[0]] = source.get(x, x)
            continue
        node.input[:] = [source.get(i, i) for i in node.input]
        kept.append(node)
    kept[-1].output[0] = "output"
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, artifact.path)
    found = exporter_for("onnx").inspect(artifact.path)
    assert found.metadata["precision"] == "int8-static"
    assert found.precision == "fp32"
    assert found.quantized == 0 < found.operators
    assert "Conv" in {k.removeprefix("Fused") for k in found.float_operators}


def test_an_onnx_file_with_one_float_operator_is_mixed(graphs, tmp_path):
    artifact = write("onnx", graphs["int8-static"], tmp_path)
    model = onnx.load(artifact.path)
    model.graph.node[-1].output[0] = "logits"
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["output"]))
    onnx.save(model, artifact.path)
    found = exporter_for("onnx").inspect(artifact.path)
    assert (found.precision, found.float_operators) == ("mixed", ("Softmax",))


def test_a_float_tflite_file_that_claims_int8_is_found_out(graphs, tmp_path):
    artifact = write("tflite", graphs["fp32"], tmp_path)
    model = schema.ModelT.InitFromPackedBuf(artifact.path.read_bytes())
    claim = np.frombuffer(b'{"precision": "int8-static"}', np.uint8)
    model.buffers[model.metadata[0].buffer].data = claim
    pack(model, artifact.path)
    found = exporter_for("tflite").inspect(artifact.path)
    assert found.metadata["precision"] == "int8-static"
    assert (found.precision, found.quantized, found.input_dtype) == ("fp32", 0, "float32")


def test_a_tflite_file_with_one_float_operator_is_mixed(graphs, tmp_path):
    artifact = write("tflite", graphs["int8-static"], tmp_path)
    model = schema.ModelT.InitFromPackedBuf(artifact.path.read_bytes())
    graph = model.subgraphs[0]
    graph.tensors[graph.outputs[0]].type = schema.TensorType.FLOAT32
    pack(model, artifact.path)
    found = exporter_for("tflite").inspect(artifact.path)
    assert (found.precision, found.float_operators) == ("mixed", ("FULLY_CONNECTED",))


def pack(model: schema.ModelT, path: Path) -> None:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


@pytest.mark.parametrize("fmt", FORMATS)
def test_damaged_files_are_refused_in_one_line(fmt, tmp_path):
    graph, _ = operator_graph("mbconv 8-8 @7 e3 k5 s1")
    whole = write(fmt, graph, tmp_path).path.read_bytes()
    damaged = {
        "empty": b"", "text": b"hello, world: not a network", "short": whole[: len(whole) // 2],
    }  # fmt: skip
    for name, content in damaged.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CorruptFile, match=name) as e:
            exporter_for(fmt).inspect(path)
        assert "\n" not in str(e.value)
    with pytest.raises(CorruptFile, match="nowhere"):
        exporter_for(fmt).inspect(tmp_path / "nowhere")


@settings(max_examples=60)
@given(cut=st.integers(0, 4000), junk=st.binary(max_size=16))
def test_no_damage_to_a_tflite_file_ends_in_another_error(cut, junk, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "base.tflite"
    if not path.exists():
        exporter_for("tflite").operator(operator_graph("classifier 24-10 @4")[0], path)
    whole = path.read_bytes()
    cut %= len(whole)
    torn = folder / "torn.tflite"
    torn.write_bytes(whole[:cut] + junk + whole[cut + len(junk) :])
    try:
        exporter_for("tflite").inspect(torn)
    except CorruptFile as e:
        assert "torn.tflite" in str(e)


def test_hard_swish_is_exact_in_fp32_and_within_steps_in_int8(tmp_path):
    x = torch.linspace(-6, 6, 64).reshape(1, 1, 8, 8)
    graph = calibrate(trace(nn.Hardswish(), (1, 8, 8)), [x])
    assert [type(n) for n in graph.nodes] == [HardSwish]
    want = nn.functional.hardswish(x).numpy()
    for fmt in FORMATS:
        fp32 = RUN[fmt](write(fmt, without_ranges(graph), tmp_path).path, x.numpy())
        np.testing.assert_allclose(fp32, want, atol=1e-6)
        int8 = RUN[fmt](write(fmt, graph, tmp_path).path, x.numpy())
        assert np.abs(int8 - want).max() < 0.08  # three steps of 12 / 255 and of 1 / 255 x 6


class Residual(nn.Module):
    """The stem and a block of a ResNet: a max pool, and ReLU behind the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        self.one = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.BatchNorm2d(12))
        self.short = nn.Sequential(nn.Conv2d(8, 12, 1, 2), nn.BatchNorm2d(12))
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.end(torch.relu(self.two(self.one(x)) + self.short(x)))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_residual_network_is_whole_in_both_precisions(fmt, tmp_path):
    torch.manual_seed(0)
    x = gratings(64)[0]
    module = disturb(Residual(), x)
    graph = trace(module, (1, 28, 28))
    artifact = write(fmt, graph, tmp_path)
    with torch.no_grad():
        want = module(x).numpy()
    np.testing.assert_allclose(RUN[fmt](artifact.path, x.numpy()), want, rtol=1e-4, atol=1e-4)
    int8 = calibrate(graph, [x])
    artifact = write(fmt, int8, tmp_path)
    found = exporter_for(fmt).inspect(artifact.path)
    assert found.precision == "int8-static"
    assert fmt == "onnx" or found.transposes == 0  # ONNX Runtime turns what it is given once
    with torch.no_grad():
        simulated = FakeQuantized(int8)(x).numpy()
    step = float(Quantized(int8).scales[int8.output.name].scale)
    assert np.abs(RUN[fmt](artifact.path, x.numpy()) - simulated).max() < 2.5 * step
    assert np.abs(simulated - want).max() < 8 * step
    if fmt == "tflite":
        kinds = [op["op_name"] for op in litert(artifact.path)._get_ops_details()]
        assert kinds.count("DELEGATE") == 1


def test_a_max_pool_that_tflite_cannot_pad_is_refused(tmp_path):
    graph = trace(nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(3, 2, 1)), (1, 8, 8))
    with pytest.raises(CapabilityError, match="max pool 1 must follow a ReLU"):
        write("tflite", graph, tmp_path)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("text", OPS)
def test_integers_of_an_operator_in_torch_are_those_of_the_files(text, fmt, tmp_path):
    graph, x = operator_graph(text)
    with torch.no_grad():
        simulated = FakeQuantized(graph).eval()(x).numpy()
    y = RUN[fmt](write(fmt, graph, tmp_path).path, x.numpy())
    steps = np.abs(y - simulated) / Quantized(graph).scales[graph.output.name].scale
    assert (steps > 1.5).mean() < 0.002
    assert (steps > 0.5).mean() < 0.2


def test_integers_in_torch_are_off_by_no_more_than_integers_are(net, graphs, tmp_path):
    """Values halfway between two integers go either way, and every layer behind adds to that."""
    graph, x = graphs["int8-static"], gratings(256)[0]
    with torch.no_grad():
        want, simulated = net(x).numpy(), FakeQuantized(graph).eval()(x).numpy()
    lost = np.sqrt(((simulated - want) ** 2).mean())
    for fmt in FORMATS:
        y = RUN[fmt](write(fmt, graph, tmp_path).path, x.numpy())
        assert np.sqrt(((y - simulated) ** 2).mean()) < 1.5 * lost


def test_the_legacy_exporter_of_pytorch_agrees(net, graphs, tmp_path):
    x = gratings(4)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), str(tmp_path / "oracle.onnx"), dynamo=False, opset_version=17)
    oracle = ort(tmp_path / "oracle.onnx")
    want = oracle.run(None, {oracle.get_inputs()[0].name: x.numpy()})[0]
    got = run_onnx(write("onnx", graphs["fp32"], tmp_path).path, x.numpy())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    def convolutions(path: Path) -> int:
        return sum(n.op_type == "Conv" for n in onnx.load(path).graph.node)

    assert convolutions(tmp_path / "net.onnx") == convolutions(tmp_path / "oracle.onnx")


def test_litert_torch_agrees(net, graphs, tmp_path):
    with warnings.catch_warnings():  # of its own making
        warnings.simplefilter("ignore")
        litert_torch = pytest.importorskip("litert_torch")
        wrapped = litert_torch.to_channel_last_io(net, args=[0]).eval()
        shape = (torch.zeros(1, 28, 28, 1),)
        litert_torch.convert(wrapped, shape).export(str(tmp_path / "oracle.tflite"))
    x = gratings(2)[0]
    got = run_tflite(write("tflite", graphs["fp32"], tmp_path).path, x.numpy())
    want = run_tflite(tmp_path / "oracle.tflite", x.numpy())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    """Two convolutions of one pixel each, and a function of both."""

    def __init__(self, after, second: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(1, 1, 1, bias=False) for _ in range(2))
        nn.init.constant_(self.a.weight, 1.0)
        nn.init.constant_(self.b.weight, second)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.a(x), self.b(x))


def wide(act: nn.Module) -> nn.Module:
    """A sum of a thousand products."""
    net = nn.Sequential(nn.Conv2d(128, 2, 3, padding=1), act)
    nn.init.uniform_(net[0].weight, 0.5, 1.0)
    return net


INT8 = {
    "hard-swish": lambda: Twice(lambda a, b: nn.functional.hardswish(a)),
    "relu": lambda: Twice(lambda a, b: nn.functional.relu(a)),
    "relu6": lambda: Twice(lambda a, b: nn.functional.relu6(a)),
    "hard-sigmoid": lambda: Twice(lambda a, b: nn.functional.hardsigmoid(a)),
    "sum": lambda: Twice(lambda a, b: a + b),
    "relu of a sum": lambda: Twice(lambda a, b: nn.functional.relu(a + b)),
    "relu6 of a sum": lambda: Twice(lambda a, b: nn.functional.relu6(a + b)),
    "relu6 of a difference": lambda: Twice(lambda a, b: nn.functional.relu6(a + b), -0.5),
    "gate": lambda: Twice(
        lambda a, b: a * b.mean((2, 3), keepdim=True)
    ),
    "mean": lambda: Twice(lambda a, b: a.mean((2, 3))),
    "wide relu6": lambda: wide(nn.ReLU6()),
    "wide hard-sigmoid": lambda: wide(nn.Hardsigmoid()),
}  # fmt: skip
RESOLVERS = ("BUILTIN", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN_REF")


@pytest.mark.parametrize(
    "reach", [(-1, 1), (-6, 50), (-767, 767), (-800, 800), (-3, 5e3), (-1e6, 1)]
)
@pytest.mark.parametrize("name", INT8)
def test_integers_are_right_at_every_range(tmp_path, name, reach):
    """In every kernel of LiteRT, which has limits of its own, and in ONNX Runtime."""
    torch.manual_seed(0)
    channels = 128 if "wide" in name else 1
    x = torch.linspace(*reach, 1024).reshape(1, 1, 32, 32).repeat(1, channels, 1, 1)
    graph = calibrate(trace(INT8[name](), (channels, 32, 32)), [x])
    graph = replace(graph, floats=frozenset({INPUT}))
    want = FakeQuantized(graph).eval()(x).detach().numpy()
    step = float(Quantized(graph).scales[graph.output.name].scale)
    got = {}
    path = exporter_for("tflite").network(graph, tmp_path / "m.tflite", {}).path
    for kind in RESOLVERS:
        resolver = getattr(OpResolverType, kind)
        runner = Interpreter(str(path), experimental_op_resolver_type=resolver, num_threads=1)
        runner.allocate_tensors()
        runner.set_tensor(runner.get_input_details()[0]["index"], x.permute(0, 2, 3, 1).numpy())
        runner.invoke()
        y = runner.get_tensor(runner.get_output_details()[0]["index"])
        got[kind] = y.transpose(0, 3, 1, 2) if y.ndim == 4 else y
    path = exporter_for("onnx").network(graph, tmp_path / "m.onnx", {}).path
    got["onnx"] = onnxruntime.InferenceSession(str(path)).run(None, {"input": x.numpy()})[0]
    # The 1/2 of a hard-sigmoid is in a bias, whose steps are those of its products: lost at 1e6.
    few = 255 if "sigmoid" in name and max(map(abs, reach)) > 1e3 else 2.1
    for kind, y in got.items():
        off = np.abs(y - want) / step
        assert off.max() <= few, kind
        assert np.quantile(off, 0.99) <= 2.1, kind


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 16, 3), nn.AdaptiveAvgPool2d(1)
        self.a, self.b = nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(nn.functional.relu(self.conv(x))).flatten(1)
        return self.a(x) + self.b(x)


def last(net: nn.Module) -> nn.Conv2d | nn.Linear:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]


HEADS = {
    "linear": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    ),
    "conv and mean": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "two": TwoHeads,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["of all images", "of each image"])
@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0, 1e4, -10.0, -1e4])
@pytest.mark.parametrize("head", HEADS)
def test_int8_tells_logits_apart_whatever_they_share(tmp_path, head, offset, kind):
    """``of each image``: what they share is a multiple of what the last layer reads."""
    torch.manual_seed(3)
    net = HEADS[head]().eval()
    x = gratings(200)[0]
    with torch.no_grad():
        nn.init.normal_(last(net).weight)
        plain = net(x)
        plain -= plain.mean(1, keepdim=True)
        last(net).bias.add_(-net(x).mean(0))  # no class for all images
        plain = net(x)
        wanted = plain.softmax(1)
        best = plain.topk(2).values
        apart = (best[:, 0] - best[:, 1]) > 0.05 * (plain.max() - plain.min())
        assert apart.sum() > 50 and len(plain[apart].argmax(1).unique()) > 1
        (last(net).bias if kind == "of all images" else last(net).weight).add_(offset)
    graph = trace(net, (1, 28, 28))
    int8 = replace(calibrate(graph, [x]), floats=frozenset({INPUT}))
    assert int8.centred == (abs(offset) >= 100) or 0 < abs(offset) < 100
    assert int8.facts.get("outputs") == ("less their mean" if int8.centred else None)
    for fmt, run in (("onnx", run_onnx), ("tflite", run_tflite)):
        artifact = exporter_for(fmt).network(int8, tmp_path / f"m.{fmt}", {})
        got = torch.from_numpy(run(artifact.path, x.numpy()))
        assert (got[apart].argmax(1) == plain[apart].argmax(1)).all(), fmt
        assert float((got.softmax(1) - wanted).abs().max()) < 0.06, fmt


def test_tensors_that_lie_far_from_zero_are_named():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    x = gratings(20)[0]
    assert coarse(calibrate(trace(net, (1, 28, 28)), [x])) == {}
    nn.init.constant_(net[0].bias, 300.0)
    left = coarse(calibrate(trace(net, (1, 28, 28)), [x]))
    assert {"0", "1"} <= left.keys() and max(left.values()) < 16
