import math
import operator
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize, prune

from edgenas import ops
from edgenas.errors import CapabilityError, DataError, UsageError
from edgenas.graph import Conv, Graph, baked, calibrate, trace, trace_unchecked
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec

pytestmark = pytest.mark.trains

OPS = [
    "conv 1-16 @28 k3 s2",
    "conv 3-8 @9 hs1 k1 s1",
    "conv 8-8 @6 k3 res1 s1",
    "fused-mbconv 8-8 @6 e4 k3 s1",
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


def small(make=lambda m: m) -> nn.Sequential:
    """Two convolutions and a fully connected layer, each as ``make`` makes it."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(make(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU()),
        make(nn.Conv2d(8, 8, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), make(nn.Linear(8, 4)),
    )  # fmt: skip


class Clamped(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.clamp(-0.1, 0.1)


def masked(m: nn.Module) -> nn.Module:
    prune.l1_unstructured(m, "weight", 0.5)
    prune.random_unstructured(m, "bias", 0.3)
    prune.ln_structured(m, "weight", 0.2, 2, 0)
    return m


def clamped(m: nn.Module) -> nn.Module:
    parametrize.register_parametrization(m, "weight", Clamped())
    return m


REPARAMETRISED = {
    "weight_norm": utils.weight_norm,
    "weight_norm of all": lambda m: utils.weight_norm(m, dim=None),
    "spectral_norm": utils.spectral_norm,
    "new weight_norm": parametrizations.weight_norm,
    "new spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "masks": masked,
    "masks of a norm": lambda m: prune.l1_unstructured(utils.weight_norm(m), "weight_v", 0.5),
    "own": clamped,
    "two": lambda m: clamped(parametrizations.weight_norm(m)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("make", REPARAMETRISED.values(), ids=REPARAMETRISED)
def test_weights_that_are_computed_are_those_of_the_tensors_loaded_last(make):
    module, other, x = small(make), small(make), images(2, 3, 9, 9)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + torch.rand_like(p))
    module.load_state_dict(other.state_dict())
    before = {k: v.clone() for k, v in module.state_dict().items()}
    graph = trace(module, (3, 9, 9))
    assert module.training
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    module.eval()(x)  # masks of what is normed too are a call late in PyTorch
    for net in (module, baked(module)):
        torch.testing.assert_close(graph(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    assert not [k for k in baked(module).state_dict() if not k.endswith(tuple(PLAIN))]


PLAIN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("make", [utils.weight_norm, parametrizations.weight_norm, masked])
def test_what_is_frozen_stays_so_and_what_is_tied_is_its_own(make):
    module = small(make)
    module[1].requires_grad_(False)
    module[4] = nn.Sequential(tied := nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4))
    module[4][2].weight = tied.weight
    plain = baked(module)
    learns = {n: p.requires_grad for n, p in plain.named_parameters()}
    assert learns["0.0.weight"] and not learns["1.weight"] and not learns["1.bias"]
    assert plain[4][2].weight is not plain[4][0].weight
    assert torch.equal(plain[4][2].weight, plain[4][0].weight)


def hooked(where: str, hook, before: bool = False) -> nn.Module:
    m = (net := small()).get_submodule(where)
    (m.register_forward_pre_hook if before else m.register_forward_hook)(hook)
    return net


def replaced(where: str) -> nn.Module:
    m = (net := small()).get_submodule(where)
    whole = m.forward
    m.forward = lambda x: 2 * whole(x)
    return net


class Around(nn.Module):
    """``small`` and a function of what it gives."""

    def __init__(self, after=lambda m, y: y) -> None:
        super().__init__()
        self.net, self.drop, self.after = small(), nn.Dropout(0.3), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self, self.net(x))


class DropsAlways(Around):
    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.drop.training = True
        return self


class NormsByBatch(Around):
    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.net[0][1].training = True
        return self


class Skips(Around):
    def forward(self, x: Tensor) -> Tensor:
        y = self.net[0](x)
        if random.random() < 0.5:
            y = self.net[1](y)
        return self.net[4](self.net[2](y).flatten(1))


class Counts(Around):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.net(x)
        return y if self.calls % 2 else y + y


def noisy(m, args, y):
    return y + 0.01 * torch.randn_like(y)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (hooked("0.0", lambda m, a, y: 1.5 * y), r"'0\.0' is 1\d.* off: it has a forward hook"),
        (hooked("0.0", lambda m, a, y: (y.add_(1), None)[1]), r"'0\.0' is .* a forward hook"),
        (hooked("0.2", lambda m, a, y: y.clamp(max=2)), r"'0\.2' is .* a forward hook"),
        (hooked("1", lambda m, a: (a[0] + 1,), before=True), "'1' is .* a forward hook"),
        (hooked("0", lambda m, a, y: y + 1), "'0': it has a forward hook"),
        (hooked("", lambda m, a, y: y * y), "the network itself: it has a forward hook"),
        (hooked("0.0", noisy), r"otherwise at each call, .* '0\.0' is random"),
        (replaced("1"), "'1' is .* off: its forward was replaced"),
        (replaced(""), "the network itself: its forward was replaced"),
        (Around(lambda m, y: F.dropout(y)), "dropout stays on in eval mode"),
        (Around(lambda m, y: F.dropout(y, 0.2, True)), "training=self.training"),
        (DropsAlways(lambda m, y: m.drop(y)), "otherwise at each call, .* 'drop' is random"),
        (NormsByBatch(), r"'net\.0\.1' is .* off: it stays in training mode"),
        (Skips(), "the network itself is random"),
        (Counts(), "the network itself is random, or keeps something"),
        (Around(lambda m, y: y + m.missing), "missing"),
        (nn.Conv2d(1, 4, 3), "fails for images|takes 1 channels"),
    ],
)
def test_what_a_graph_would_not_compute_is_told_before_anything_is_measured(module, said):
    random.seed(0)
    with pytest.raises(UsageError, match=said) as e:
        trace(module, (3, 9, 9))
    assert "\n" not in str(e.value)


def test_what_looks_on_or_is_off_in_eval_mode_changes_nothing():
    seen = []
    for module in (
        hooked("0.0", lambda m, a, y: seen.append(y.mean().item())),
        Around(lambda m, y: F.dropout(y, 0.5, m.training)),
        Around(lambda m, y: F.dropout(y, training=m.training, inplace=True)),
        Around(lambda m, y: 2 * y if m.training else y),
        Around(lambda m, y: m.drop(y)),
    ):
        x = images(2, 3, 9, 9)
        graph = trace(module, (3, 9, 9))
        torch.testing.assert_close(graph(x), module.eval()(x), rtol=1e-4, atol=1e-5)


def test_a_trace_leaves_random_numbers_as_they_were():
    module = Around(lambda m, y: F.dropout(y, 0.5, m.training))
    before = torch.get_rng_state()
    trace(module, (3, 9, 9))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("alias", [nn.Dropout(0.5), nn.Identity(), None, nn.Dropout(0.5, True)])
@pytest.mark.parametrize(
    "over",
    [
        nn.Hardswish(inplace=True), nn.ReLU(inplace=True), nn.ReLU6(True), nn.Hardsigmoid(True),
        lambda y: F.hardswish(y, True), lambda y: F.relu(y, True), lambda y: F.relu6(y, True),
        F.relu_, lambda y: y.add_(y), lambda y: y.relu_(), lambda y: torch.add(y, y, out=y),
        lambda y: y[:, :2].zero_(), lambda y: y.chunk(2)[0].mul_(2), lambda y: y.detach().mul_(2),
        lambda y: operator.iadd(y, y), lambda y: operator.imul(y, y.mean((2, 3), keepdim=True)),
    ],
)  # fmt: skip
def test_what_is_overwritten_under_another_name_is_refused(alias, over):
    """``y + conv(act(alias(y)))``, where ``act`` writes over ``y``."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
            self.alias = alias

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            z = x.contiguous() if self.alias is None else self.alias(x)
            z = over(z)
            return x + self.b(z)

    torch.manual_seed(0)
    for layout in (torch.contiguous_format, torch.channels_last):
        with pytest.raises(CapabilityError):
            trace(Net().to(memory_format=layout), (4, 6, 6))


STEPS = (
    "conv", "drop", "fdrop", "contiguous", "hswish", "hswish_", "fhswish_", "frelu", "frelu_",
    "relu_", "add", "iadd", "radd", "gate", "igate",
)  # fmt: skip


class Aliases(nn.Module):
    """Steps, each on values that are chosen among all so far, the later ones more often."""

    def __init__(self, steps) -> None:
        super().__init__()
        self.steps = steps
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, 1, 1) for _ in steps)
        self.drop, self.hs, self.hs_ = nn.Dropout(0.5), nn.Hardswish(), nn.Hardswish(True)
        self.relu_ = nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.convs[0](x)]
        for conv, (step, back, other) in zip(self.convs, self.steps, strict=True):
            y, z = values[max(-1 - back, -len(values))], values[max(-1 - other, -len(values))]
            match step:
                case "conv":
                    y = conv(y)
                case "drop":
                    y = self.drop(y)
                case "fdrop":
                    y = F.dropout(y, 0.5, self.training, True)
                case "contiguous":
                    y = y.contiguous()
                case "hswish":
                    y = self.hs(y)
                case "hswish_":
                    y = self.hs_(y)
                case "fhswish_":
                    y = F.hardswish(y, True)
                case "frelu":
                    y = F.relu(conv(y))
                case "frelu_":
                    y = F.relu(conv(y), True)
                case "relu_":
                    y = self.relu_(conv(y))
                case "add":
                    y = y + z
                case "iadd":
                    y += z
                case "radd":
                    y = F.relu(torch.add(y, z), inplace=True)
                case "gate":
                    y = y * z.mean((2, 3), keepdim=True)
                case "igate":
                    y *= z.mean((2, 3), keepdim=True)
            values.append(y)
        return y


@settings(max_examples=120)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(STEPS), st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, 3)),
        min_size=2, max_size=7,
    ),
    last=st.booleans(),
)  # fmt: skip
def test_networks_that_write_over_what_they_read_are_computed_as_pytorch_does_or_refused(
    steps, last
):
    torch.manual_seed(0)
    net, x = Aliases(steps).eval(), images(2, 4, 4, 4)
    if last:
        net.to(memory_format=torch.channels_last)
    try:
        graph = trace_unchecked(net, (4, 4, 4))  # what can be told without trying
    except CapabilityError:
        return
    want = net(x).detach()
    torch.testing.assert_close(
        graph(x), want, rtol=1e-3, atol=1e-4 * want.abs().max().item() + 1e-4
    )
