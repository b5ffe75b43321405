"""What is counted of an operator is what its built module and its graph have."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgenas import ops
from edgenas.blocks import Block
from edgenas.graph import INPUT, Add, Conv, Graph, Linear, trace
from edgenas.spec import OpSpec

KINDS = [
    "conv 3-16 @9 k3 s2",
    "conv 24-48 @7 hs1 k1 s1",
    "mbconv 8-8 @7 e3 k5 s1",
    "mbconv 8-12 @7 e6 hs1 k3 s2",
    "mbconv 16-16 @6 h40 hs1 k7 s1 se4",
    "mbconv 16-64 @6 e1 k3 s1",
    "mbconv 8-8 @9 e1 k3 s1 se4",
    "mbconv 8-8 @1 e6 hs1 k3 s1 se2",
    "conv 8-8 @9 k3 res1 s1",
    "conv 8-8 @9 hs1 k5 res1 s1",
    "fused-mbconv 8-8 @7 e4 k3 s1",
    "fused-mbconv 8-12 @7 e6 hs1 k5 s2",
    "fused-mbconv 16-16 @6 h24 hs1 k3 s1",
    "classifier 24-10 @4",
    "classifier 24-10 @1 h300 hs1",
]

dense = st.builds(
    lambda kind, cin, cout, size, k, s, e, act: Block(kind, k, e, 0, act).op(cin, cout, size, s),
    st.sampled_from(["conv", "fused-mbconv"]), st.integers(1, 24), st.integers(1, 24),
    st.integers(1, 9), st.sampled_from([1, 3, 5]), st.integers(1, 2), st.integers(2, 6),
    st.sampled_from(["relu6", "hard-swish"]),
)  # fmt: skip
mbconvs = st.builds(
    ops.mbconv, st.integers(1, 24), st.integers(1, 24), st.integers(1, 9),
    k=st.sampled_from([1, 3, 5]), s=st.integers(1, 2), hidden=st.integers(1, 60),
    se=st.sampled_from([0, 0, 1, 4, 16]), hs=st.booleans(),
)  # fmt: skip


def counted_macs(op: OpSpec) -> int:
    """By hooks on whatever multiplies."""
    total, module = 0, ops.build(op).eval()

    def add(m: nn.Module, x: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        nonlocal total
        total += y.numel() * m.weight[0].numel()

    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            m.register_forward_hook(add)
    module(torch.zeros(1, op.cin, op.size, op.size))
    return total


def graph(op: OpSpec) -> Graph:
    return trace(ops.build(op).eval(), (op.cin, op.size, op.size))


def peak(g: Graph) -> int:
    """Numbers alive in the worst node, each tensor kept from its node to its last reader."""
    size = {INPUT: torch.Size(g.input).numel()}
    size |= {n.name: torch.Size(n.shape).numel() for n in g.nodes}
    born = {INPUT: 0} | {n.name: i for i, n in enumerate(g.nodes)}
    dies = born | {name: i for i, n in enumerate(g.nodes) for name in n.inputs}
    return max(
        sum(size[name] for name in size if born[name] <= i <= dies[name])
        for i in range(len(g.nodes))
    )


@pytest.mark.parametrize("text", KINDS)
def test_macs_and_weights_and_the_peak_are_those_of_what_is_built(text: str) -> None:
    op = OpSpec.parse(text)
    g = graph(op)
    weights = sum(n.weight.size + n.bias.size for n in g.nodes if isinstance(n, Conv | Linear))
    assert ops.macs(op) == counted_macs(op)
    assert ops.parameters(op) == weights
    assert ops.activation_elements(op) == peak(g)


@settings(max_examples=60)
@given(mbconvs | dense)
def test_every_block_is_counted_as_it_is_built(op: OpSpec) -> None:
    assert OpSpec.parse(str(op)) == op
    g = graph(op)
    assert ops.parameters(op) == sum(
        n.weight.size + n.bias.size for n in g.nodes if isinstance(n, Conv)
    )
    assert any(isinstance(n, Add) for n in g.nodes) == ops.has_residual(op)
    assert ops.activation_elements(op) == peak(g)
    assert ops.macs(op) == counted_macs(op)


def test_an_mbconv_has_one_name() -> None:
    def name(hidden: int, se: int, hs: bool) -> str:
        return str(ops.mbconv(16, 24, 14, k=3, s=1, hidden=hidden, se=se, hs=hs))

    assert name(96, 0, False) == "mbconv 16-24 @14 e6 k3 s1"
    assert name(96, 4, True) == "mbconv 16-24 @14 e6 hs1 k3 s1 se4"
    assert name(40, 4, False) == "mbconv 16-24 @14 h40 k3 s1 se4"


def test_a_kind_of_an_imported_table_counts_nothing() -> None:
    foreign = OpSpec.parse("attention 8-8 @7 k3")
    counts = (ops.macs, ops.parameters, ops.activation_elements)
    assert [count(foreign) for count in counts] == [0, 0, 0]


# Channels in, hidden, out; kernel, stride, size, gate, hard-swish (arXiv:1905.02244, table 1).
LARGE = [
    (16, 16, 16, 3, 1, 112, 0, 0), (16, 64, 24, 3, 2, 112, 0, 0), (24, 72, 24, 3, 1, 56, 0, 0),
    (24, 72, 40, 5, 2, 56, 4, 0), (40, 120, 40, 5, 1, 28, 4, 0), (40, 120, 40, 5, 1, 28, 4, 0),
    (40, 240, 80, 3, 2, 28, 0, 1), (80, 200, 80, 3, 1, 14, 0, 1), (80, 184, 80, 3, 1, 14, 0, 1),
    (80, 184, 80, 3, 1, 14, 0, 1), (80, 480, 112, 3, 1, 14, 4, 1), (112, 672, 112, 3, 1, 14, 4, 1),
    (112, 672, 160, 5, 2, 14, 4, 1), (160, 960, 160, 5, 1, 7, 4, 1), (160, 960, 160, 5, 1, 7, 4, 1),
]  # fmt: skip


def test_mobilenet_v3_large_is_as_large_as_its_authors_say() -> None:
    """219 million multiply-adds, 5.4 million parameters (table 3)."""
    blocks = [
        ops.mbconv(cin, cout, size, k=k, s=s, hidden=hidden, se=se, hs=bool(hs))
        for cin, hidden, cout, k, s, size, se, hs in LARGE
    ]
    ends = [
        "conv 3-16 @224 hs1 k3 s2",
        "conv 160-960 @7 hs1 k1 s1",
        "classifier 960-1000 @7 h1280 hs1",
    ]
    network = [OpSpec.parse(ends[0]), *blocks, *map(OpSpec.parse, ends[1:])]
    assert sum(map(ops.macs, network)) == pytest.approx(219e6, rel=0.02)
    assert sum(map(ops.parameters, network)) == pytest.approx(5.4e6, rel=0.02)
    squeezed = [ops.squeezed(op) for op in blocks]
    assert squeezed == [0, 0, 0, 24, 32, 32, 0, 0, 0, 0, 120, 168, 168, 240, 240]


# --- the gate


def gate(op: str) -> tuple[nn.Module, ops.SqueezeExcitation]:
    torch.manual_seed(0)
    module = ops.build(OpSpec.parse(op))
    return module, next(m for m in module.modules() if isinstance(m, ops.SqueezeExcitation))


def test_a_gate_stands_behind_the_depthwise_convolution_and_its_activation() -> None:
    module, se = gate("mbconv 8-8 @7 e3 hs1 k5 s1 se4")
    kinds = [type(m).__name__ for m in module.body]
    assert kinds == [
        "Conv2d", "BatchNorm2d", "Hardswish", "Conv2d", "BatchNorm2d", "Hardswish",
        "SqueezeExcitation", "Conv2d", "BatchNorm2d",
    ]  # fmt: skip
    x = torch.randn(3, 24, 7, 7)
    nn.init.normal_(se.excite.weight, std=2)
    hidden = (x.mean((2, 3)) @ se.squeeze.weight[:, :, 0, 0].T + se.squeeze.bias).relu()
    open_ = hidden @ se.excite.weight[:, :, 0, 0].T + se.excite.bias
    want = x * (nn.functional.relu6(open_ + 3) / 6)[:, :, None, None]
    torch.testing.assert_close(se(x), want)


def test_a_network_with_gates_can_be_saved(tmp_path: Path) -> None:
    """Safetensors refuses two names of one tensor."""
    module, _ = gate("mbconv 8-8 @7 e3 k5 s1 se4")
    save_file(module.state_dict(), tmp_path / "m.safetensors")


def test_an_untrained_gate_is_open_and_learns() -> None:
    """Open alike for every channel, so that the block computes what it would without."""
    module, se = gate("mbconv 8-8 @7 e3 k5 s1 se4")
    x = torch.randn(4, 8, 7, 7)
    with torch.no_grad():
        share = se(torch.ones(1, 24, 7, 7))
        assert 0.8 < share.min() == share.max() < 1
        without = [m for m in module.body if m is not se]
        torch.testing.assert_close(
            module.train()(x), x + nn.Sequential(*without)(x), rtol=0.02, atol=0.02
        )
    module(x).square().sum().backward()
    assert se.excite.weight.grad.abs().max() > 0
    assert se.excite.bias.grad.abs().max() > 0
