import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas import ops
from edgenas.errors import CapabilityError, DataError, UsageError
from edgenas.graph import Conv, Graph, calibrate, trace
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec

torch.set_num_threads(1)

OPS = [
    "conv 1-16 @28 k3 s2",
    "conv 3-8 @9 hs1 k1 s1",
    "mbconv 8-8 @7 e3 k5 s1",
    "mbconv 8-12 @7 e1 k3 s2",
    "mbconv 8-8 @6 h20 hs1 k7 s1",
    "mbconv 8-8 @7 e3 hs1 k5 s1 se4",
    "mbconv 8-12 @7 e1 k3 s2 se4",
    "classifier 24-10 @4",
    "classifier 24-10 @4 h12",
    "classifier 24-10 @4 h12 hs1",
]
SPACES = {
    "relu6": Mobile.presets["tiny"],
    "hard-swish": {**Mobile.presets["tiny"], "activations": ("hard-swish",)},
    "v3": {**Mobile.presets["tiny-v3"], "features": 48},
}


def disturb(module: nn.Module, seed: int = 0) -> nn.Module:
    """As after training: no mean 0 and no variance 1, gates that tell channels apart."""
    g = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, ops.SqueezeExcitation):
            m.excite.weight.data.normal_(generator=g)
        if isinstance(m, nn.BatchNorm2d):
            for t, low, high in (
                (m.weight, 0.5, 1.5), (m.bias, -0.5, 0.5),
                (m.running_mean, -0.5, 0.5), (m.running_var, 0.5, 2.0),
            ):  # fmt: skip
                if t is not None:
                    t.data.uniform_(low, high, generator=g)
    return module.eval()


def network(form: str = "relu6", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    space = Mobile(28, 1, 10, **SPACES[form])
    return disturb(space.build(space.sample(random.Random(seed))), seed)


def images(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


class Then(nn.Module):
    """A convolution and a function of its output, or of input and output."""

    def __init__(self, after, *layers: nn.Module) -> None:
        super().__init__()
        self.conv, self.layers = nn.Conv2d(4, 4, 3, 1, 1), nn.ModuleList(layers)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self, x, self.conv(x))


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize("text", OPS)
def test_every_operator_of_a_table_computes_what_its_module_computes(text):
    op = OpSpec.parse(text)
    module, shape = disturb(ops.build(op)), (op.cin, op.size, op.size)
    graph, x = trace(module, shape), images(3, *shape)
    assert graph.precision == "fp32"
    want = module(x)
    assert (3, *graph.output.shape) == tuple(want.shape)
    torch.testing.assert_close(graph(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", SPACES)
def test_a_network_and_each_of_its_prefixes_compute_what_the_layers_compute(form):
    net = network(form)
    graph, x = trace(net, (1, 28, 28)), images(2, 1, 28, 28)
    torch.testing.assert_close(graph(x), net(x), rtol=1e-4, atol=1e-5)
    y = x
    for i, layer in enumerate(net.layers):
        y = layer(y)
        last = [n.name for n in graph.nodes if n.name.startswith(f"layers.{i}.")][-1]
        part = graph.prefix(last)
        assert part.output.name == last
        torch.testing.assert_close(part(x), y, rtol=1e-4, atol=1e-5)


def test_a_prefix_holds_only_what_it_needs():
    graph = trace(Then(lambda m, x, y: m.layers[0](x) + y, nn.Conv2d(4, 4, 1)), (4, 5, 5))
    assert [n.name for n in graph.nodes] == ["conv", "layers.0", "add"]
    assert [n.name for n in graph.prefix("layers.0").nodes] == ["layers.0"]
    with pytest.raises(UsageError, match=r"no operator 'nowhere'; it has conv, layers\.0, add"):
        graph.prefix("nowhere")


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6, affine=False)),
        nn.Sequential(nn.Conv2d(4, 6, 2, 2), nn.Identity(), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 3)),
        Then(lambda m, x, y: F.relu(y)),
        Then(lambda m, x, y: F.hardswish(torch.add(x, y))),
        Then(lambda m, x, y: (x + y).add(y)),
        Then(lambda m, x, y: y + y),
        Then(lambda m, x, y: F.relu(x + y)),
        Then(lambda m, x, y: F.relu6(y.add(x), inplace=True)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d((2, 2))),
        Then(lambda m, x, y: y.mean((2, 3))),
        Then(lambda m, x, y: torch.mean(y, dim=[-2, -1], keepdim=True).flatten(1)),
        Then(lambda m, x, y: torch.flatten(F.adaptive_avg_pool2d(y, 1), 1)),
        Then(lambda m, x, y: m.conv(y)),
        Then(lambda m, x, y: y * F.hardsigmoid(m.conv(y.mean((2, 3), keepdim=True)))),
        Then(lambda m, x, y: torch.mul(m.layers[0](F.adaptive_avg_pool2d(y, 1)), y),
             nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardsigmoid())),
        Then(lambda m, x, y: y.mul(y.mean((2, 3), keepdim=True))),
        Then(lambda m, x, y: (x + y).mean((2, 3), keepdim=True)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1), nn.ReLU6()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.ReLU(),
                      nn.Linear(3, 2), nn.Hardsigmoid()),
    ],
)  # fmt: skip
def test_other_ways_to_write_the_same_operators(module):
    x = images(2, 4, 6, 6)
    want = disturb(module)(x)
    torch.testing.assert_close(trace(module, (4, 6, 6))(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid()), r"Sigmoid\(\) \(at 1\)"),
        (nn.MaxPool2d(3, 2, ceil_mode=True), "MaxPool2d"),
        (nn.MaxPool2d((2, 3)), "MaxPool2d"),
        (nn.MaxPool2d(7), r"MaxPool2d.* of \(4, 6, 6\)"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.MaxPool2d(1)), "MaxPool2d"),
        (nn.Conv2d(4, 4, 3, dilation=2), "dilation"),
        (nn.Conv2d(4, 4, (1, 3)), r"kernel_size=\(1, 3\)"),
        (nn.Conv2d(4, 4, 3, padding_mode="reflect"), "reflect"),
        (nn.Conv2d(4, 4, 2, padding="same"), "same"),
        (nn.Conv2d(4, 4, 9), r"of \(4, 6, 6\)"),
        (nn.BatchNorm2d(4), "does not follow a convolution"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), "batch normalisation"),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
            "without running statistics",
        ),
        (Then(lambda m, x, y: F.relu(y * x.mean((2, 3), keepdim=True))), "relu that does not foll"),
        (Then(lambda m, x, y: F.relu(z := x + y) + z), "relu that does not follow"),
        (
            Then(lambda m, x, y: F.relu(y) + y),
            "relu that does not follow a convolution or fully connected layer of its own",
        ),
        (Then(lambda m, x, y: F.hardsigmoid(x + y)), "hard-sigmoid that does not follow"),
        (Then(lambda m, x, y: y * x), r"a product of \(4, 6, 6\) and \(4, 6, 6\)"),
        (Then(lambda m, x, y: y * 2), "not a tensor"),
        (Then(lambda m, x, y: y.mean((2, 3), keepdim=True) * y.mean((2, 3))), "a product of"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Flatten()), "flattening"),
        (Then(lambda m, x, y: F.hardswish(y, inplace=True) + y), "overwrites"),
        (Then(lambda m, x, y: y + 1), "not a tensor"),
        (Then(lambda m, x, y: y + y.mean((2, 3), keepdim=True)), "this form of add"),
        (Then(lambda m, x, y: torch.cat([x, y], 1)), "cat"),
        (Then(lambda m, x, y: y if y.sum() > 0 else x), "cannot be exported: symbolically traced"),
        (nn.Sequential(nn.Flatten(), nn.Linear(144, 2)), "flattening"),
        (Then(lambda m, x, y: (x, y)), "not one tensor"),
        (nn.AdaptiveAvgPool2d(2), "AdaptiveAvgPool2d"),
        (nn.Identity(), "returns its input"),
        (TwoInputs(), "second input"),
    ],
)
def test_what_is_outside_the_vocabulary_is_named_in_one_line(module, said):
    with pytest.raises(CapabilityError, match=said) as e:
        trace(module, (4, 6, 6))
    assert "\n" not in str(e.value)


def test_channels_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match="1 takes 5 channels and is given 4"):
        trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1)), (3, 6, 6))


def test_a_graph_keeps_its_weights_and_leaves_the_module_as_it_is():
    module = nn.Sequential(nn.Conv2d(2, 2, 1)).train()
    graph, x = trace(module, (2, 3, 3)), images(1, 2, 3, 3)
    before = graph(x)
    module[0].weight.data.zero_()
    assert module.training
    torch.testing.assert_close(graph(x), before, rtol=0, atol=0)


@settings(max_examples=40)
@given(
    size=st.integers(1, 15), k=st.integers(1, 7), s=st.integers(1, 3), p=st.integers(0, 3),
    depthwise=st.booleans(),
)  # fmt: skip
def test_shapes_are_those_of_pytorch(size, k, s, p, depthwise):
    conv = nn.Conv2d(3, 3, k, s, p, groups=3 if depthwise else 1)
    if size + 2 * p < k:
        with pytest.raises(CapabilityError):
            trace(conv, (3, size, size + 1))
        return
    graph, x = trace(conv, (3, size, size + 1)), images(1, 3, size, size + 1)
    assert (1, *graph.output.shape) == tuple(conv(x).shape)


def test_ranges_span_all_batches():
    graph = trace(network(), (1, 28, 28))
    x = images(12, 1, 28, 28)
    ranges = calibrate(graph, x.split(5)).ranges
    assert ranges is not None
    assert set(ranges) == {"input", *(n.name for n in graph.nodes)}
    for name, value in graph.values(x):
        assert ranges[name] == pytest.approx((value.min().item(), value.max().item()), abs=1e-5)
    clamped = [n.name for n in graph.nodes if isinstance(n, Conv) and n.act == "relu6"]
    assert clamped and all(ranges[n][0] >= 0 and ranges[n][1] <= 6 for n in clamped)


def test_a_calibrated_graph_still_computes_in_float():
    graph, x = trace(network(), (1, 28, 28)), images(2, 1, 28, 28)
    quantized = calibrate(graph, [x])
    assert (graph.precision, quantized.precision) == ("fp32", "int8-static")
    assert quantized.prefix("layers.1.body.0").precision == "int8-static"
    torch.testing.assert_close(quantized(x), graph(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "at least one image"),
        ([torch.zeros(0, 1, 28, 28)], "n > 0"),
        ([torch.zeros(2, 3, 28, 28)], r"a batch is \(2, 3, 28, 28\)"),
        ([torch.full((1, 1, 28, 28), math.nan)], "'input' has values from nan"),
        ([torch.zeros(1, 1, 28, 28), torch.full((1, 1, 28, 28), math.inf)], "to inf"),
    ],
)
def test_bad_calibration_images_are_refused(batches, said):
    with pytest.raises(DataError, match=said):
        calibrate(trace(network(), (1, 28, 28)), batches)


def test_a_graph_of_incomplete_ranges_or_equal_names_cannot_be_made():
    graph = trace(network(), (1, 28, 28))
    with pytest.raises(ValueError, match="no range for"):
        Graph(graph.input, graph.nodes, {"input": (0.0, 1.0)})
    with pytest.raises(ValueError, match="its own name"):
        Graph(graph.input, (*graph.nodes, graph.nodes[0]))
