"""The accelerator: its RTL against its reference, bit by bit, and against its cycle model."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from edgenas.errors import CapabilityError, CorruptFile
from edgenas.export import exporter_for
from edgenas.fpga.commands import MOVE, RUN, encode
from edgenas.fpga.compile import Compiler
from edgenas.fpga.cycles import Dram, total_cycles
from edgenas.fpga.fused import Bottleneck, fused
from edgenas.fpga.layers import Layer, over, packed, unpacked
from edgenas.fpga.lower import steps, values
from edgenas.fpga.network import INPUT, Network
from edgenas.fpga.program import Program
from edgenas.fpga.reference import Requantizer, requantized
from edgenas.fpga.schedule import Task, schedule
from edgenas.fpga.shape import Shape
from edgenas.fpga.simulator import build, simulate
from edgenas.fpga.sums import Sum
from edgenas.fpga.tasks import Tensor, Weights, addition, convolution
from edgenas.graph import calibrate, trace
from edgenas.space import load_space

pytestmark = pytest.mark.trains

# Small ones are built in seconds; with words of one part as well as of two.
SHAPES = {
    "4x4": Shape(lanes=4, taps=4, groups=2, x_words=1024, y_words=1024, z_words=1024, o_words=1024,
                 weight_words=2048, sums=256, run_slots=8, move_slots=16),
    "8x4": Shape(lanes=8, taps=4, groups=4, x_words=1024, y_words=1024, z_words=512, o_words=512,
                 weight_words=1024, sums=256, run_slots=16, move_slots=8),
}  # fmt: skip
DRAM = Dram(latency=20, reads=(3, 8), writes=(2, 7))
LIMIT = 3_000_000
Make = Callable[[Tensor, Tensor, Weights], Iterable[Task]]


@pytest.fixture(scope="module", params=SHAPES)
def machine(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[Shape, Path]:
    shape = SHAPES[request.param]
    return shape, build(shape, tmp_path_factory.mktemp("rtl"))


def afresh(count: int) -> range:
    """Seeds that no run had before; a failure names its own."""
    return range(first := random.SystemRandom().randrange(2**32), first + count)


def layer(rng, size, cin, cout, k, stride, depthwise) -> Layer:
    cout = cin if depthwise else cout
    weight = rng.integers(-127, 128, (cout, 1 if depthwise else cin, k, k)).astype(np.int8)
    zero_in, zero_out = (int(v) for v in rng.integers(-128, 128, 2))
    bias = rng.integers(-20000, 20000, cout)
    bias -= zero_in * weight.reshape(cout, -1).astype(np.int64).sum(1)
    usual = 100 / (127 * 74 * weight[0].size ** 0.5)
    scales = tuple(Requantizer.of(usual * 2.0 ** rng.uniform(-3, 3)) for _ in range(cout))
    low, high = (-128, 127) if rng.random() < 0.7 else sorted(rng.integers(-128, 128, 2).tolist())
    return Layer(size, cin, weight, bias, scales, stride, k // 2, depthwise, zero_in, zero_out,
                 low, high)  # fmt: skip


def images(rng, channels: int, size: int) -> np.ndarray:
    """Of all values, or of the least alone."""
    if rng.random() < 0.1:
        return np.full((channels, size, size), -128, np.int8)
    return rng.integers(-128, 128, (channels, size, size)).astype(np.int8)


def run(machine, make: Make, inputs: list[np.ndarray], cout: int, size: int):
    """What comes out of the hardware; its cycles, and those of the model."""
    shape, simulator = machine
    lanes, base = shape.lanes, 1 << 14
    tensors, at = [], base
    for i, x in enumerate(inputs):
        tensors.append(Tensor(f"x{i}", at, over(len(x), lanes), x.shape[1]))
        at += tensors[-1].words
    target = Tensor("y", at, over(cout, lanes), size)
    weights = Weights(shape, at + target.words)
    program = Program(shape)
    schedule(program, list(make(*tensors, target, weights)))
    commands = program.commands()
    words = commands.words()
    assert len(words) <= base
    image = np.zeros((weights.base + weights.words, lanes), np.uint8)
    image[: len(words)] = words
    for tensor, x in zip(tensors, inputs, strict=True):
        image[tensor.dram : tensor.dram + tensor.words] = packed(x, lanes)
    image[weights.base :] = np.concatenate(weights.parts)
    after, counted = simulate(simulator, image, DRAM, LIMIT)
    words = after[target.dram : target.dram + target.words].copy()
    return unpacked(words, cout, size, lanes), counted.cycles, total_cycles(commands, DRAM)


def test_random_layers_are_bit_exact_and_take_the_cycles_of_the_model(machine):
    shape, _ = machine
    tried = 0
    for seed in afresh(110):
        rng = np.random.default_rng(seed)
        size = int(rng.choice([1, 2, 3, 4, 5, 7, 8, 10, 12, 14]))
        depthwise, k = bool(rng.random() < 0.4), int(rng.choice([1, 3, 5, 7]))
        cin, cout = (int(v) for v in rng.integers(1, 4 * shape.lanes, 2))
        own = layer(rng, size, cin, cout, k, int(rng.choice([1, 1, 2])), depthwise)
        if rng.random() < 0.3:
            own = replace(own, table=rng.permutation(256).astype(np.uint8).view(np.int8))
        n, x = own.out_size, images(rng, cin, size)
        rows, tiles = rng.integers(1, n + 1), rng.integers(1, over(own.cout, shape.lanes) + 1)
        try:
            y, cycles, told = run(
                machine, lambda *t, o=own, r=int(rows), c=int(tiles): convolution(o, *t, r, c),
                [x], own.cout, n,
            )  # fmt: skip
        except ValueError as e:
            assert "fit" in str(e)
            continue
        np.testing.assert_array_equal(y, own(x), err_msg=f"seed {seed}")
        assert cycles == told, f"seed {seed}"
        tried += 1
    assert tried > 90


def test_random_bottlenecks_are_bit_exact_and_take_the_cycles_of_the_model(machine):
    shape, _ = machine
    tried = 0
    for seed in afresh(110):
        rng = np.random.default_rng(seed)
        size, k = int(rng.choice([2, 4, 5, 7, 8, 10, 14])), int(rng.choice([3, 5, 7]))
        stride, wider = int(rng.choice([1, 1, 2])), int(rng.choice([1, 3, 6]))
        cin, cout = (int(v) for v in rng.integers(2, 2 * shape.lanes, 2))
        cout = cin if rng.random() < 0.5 and stride == 1 else cout
        hidden = cin * wider
        expand = layer(rng, size, cin, hidden, 1, 1, False) if wider > 1 else None
        middle = layer(rng, size, hidden, hidden, k, stride, True)
        project = layer(rng, middle.out_size, hidden, cout, 1, 1, False)
        added = summing(rng, shape) if cin == cout and stride == 1 else None
        block = Bottleneck(expand, middle, project, added)
        n, x = middle.out_size, images(rng, cin, size)
        rows, tiles = rng.integers(1, n + 1), rng.integers(1, over(hidden, shape.lanes) + 1)
        try:
            y, cycles, told = run(
                machine, lambda *t, b=block, r=int(rows), c=int(tiles): fused(b, *t, r, c),
                [x], cout, n,
            )  # fmt: skip
        except ValueError as e:
            assert "fit" in str(e) or "whole" in str(e)
            continue
        np.testing.assert_array_equal(y, block(x), err_msg=f"seed {seed}")
        assert cycles == told, f"seed {seed}"
        tried += 1
    assert tried > 80


def summing(rng, shape: Shape) -> Sum:
    zeros = (int(v) for v in rng.integers(-128, 128, 3))
    a, b, y = (float(2.0**v) for v in rng.uniform(-1, 1, 3))
    return Sum(a, b, 2 * y, *zeros, shape.taps)


def test_an_addition_of_two_tensors_is_bit_exact(machine):
    shape, _ = machine
    rng = np.random.default_rng(2)
    both, n, channels = summing(rng, shape), 7, shape.lanes + 3
    a, b = images(rng, channels, n), images(rng, channels, n)
    y, cycles, told = run(
        machine, lambda s, t, o, w: addition(both, channels, (s, t), o, w, 3), [a, b], channels, n
    )
    np.testing.assert_array_equal(y, both(a, b))
    assert cycles == told


def integers(module, shape, tmp_path, seen=None) -> Network:
    """By way of a file."""
    graph = trace(module.eval(), shape)
    int8 = calibrate(graph, [torch.randn(4, *shape) if seen is None else seen])
    return Network.load(exporter_for("fpga").network(int8, tmp_path / "net.fpga", {}).path)[0]


@pytest.mark.parametrize(("activation", "blocks"), [
    ("relu6", ["mbconv"]), ("hard-swish", ["mbconv"]), ("relu6", ["fused-mbconv", "conv"]),
])  # fmt: skip
def test_a_searched_kind_of_network_runs_whole_and_answers_as_its_reference(
    machine, activation, blocks, tmp_path
):
    shape, simulator = machine
    space = load_space({
        "kind": "mobile", "preset": "tiny", "resolution": 12, "channels": 1, "classes": 3,
        "stem": 8, "stem_stride": 1, "first": 8, "widths": [8, 12], "depths": [1, 2],
        "strides": [2, 2], "head": 16, "kernels": [3, 5], "expansions": [3],
        "activations": [activation], "edge_activation": activation, "blocks": blocks,
    })  # fmt: skip
    torch.manual_seed(0)
    module, seen = space.build(space.sample(random.Random(0))).eval(), torch.randn(16, 1, 12, 12)
    network = integers(module, (1, 12, 12), tmp_path, seen)
    found = steps(network, shape)
    assert any(isinstance(s.work, Bottleneck) for s in found) == (activation == "relu6")
    assert any(op.kind == "hard-swish" for op in network.ops) == (activation == "hard-swish")
    program = Compiler(shape, DRAM).program(found, INPUT, 1, 12)
    begin, end = (network.scales[name] for name in (INPUT, found[-1].name))
    for x in seen[:3]:
        q = np.clip(np.rint(x.numpy() / begin.scale) + begin.zero, -128, 127).astype(np.int8)
        after, counted = simulate(simulator, program.given(INPUT, q), DRAM, LIMIT)
        assert counted.cycles == program.cycles
        for name, value in values(found, q).items():
            np.testing.assert_array_equal(program.taken(name, after), value, err_msg=name)
        with torch.no_grad():
            real = module(x[None]).numpy()[0]
        y = (value.reshape(-1).astype(int) - end.zero) * end.scale
        less_mean = real - real.mean()  # as the graph's outputs are: centred
        assert np.sqrt(np.square(y - y.mean() - less_mean).mean()) < 0.1 * np.abs(less_mean).max()


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-37, 2.0**5), st.integers(-(2**31), 2**31 - 1), st.integers(-128, 127))
def test_requantization_is_the_rounded_product_to_a_step(scale, total, zero):
    own = Requantizer.of(scale)
    assert abs(own.multiplier / 2.0 ** (own.before + own.after) / scale - 1) <= 2.0**-17
    (y,) = requantized(np.array([[total]], np.int64), [own], zero).reshape(-1)
    exact = min(127, max(-128, total * scale + zero))
    assert abs(int(y) - exact) <= 0.5 + 2.0**-7


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0**-39, 64.0, float("nan"), float("inf")])
def test_a_scale_that_the_hardware_cannot_hold_is_refused(scale):
    with pytest.raises(ValueError, match="out of the range of the hardware"):
        Requantizer.of(scale)


@given(st.data())
def test_commands_hold_what_is_put_into_them_and_refuse_what_does_not_fit(data):
    for fields in (RUN, MOVE):
        values = {
            name: data.draw(
                st.integers(-(1 << -w - 1), (1 << -w - 1) - 1) if w < 0
                else st.integers(0, (1 << w) - 1)
            )
            for name, w in fields.items()
        }  # fmt: skip
        word = encode(fields, values)
        for name, width in fields.items():
            n = abs(width)
            part = word & ((1 << n) - 1)
            assert (part - (1 << n) if width < 0 and part >> n - 1 else part) == values[name]
            word >>= n
    with pytest.raises(ValueError, match="rows = 1024 does not fit 10 bits"):
        encode(RUN, {"rows": 1024})
    with pytest.raises(ValueError, match="no such fields: \\['row'\\]"):
        encode(RUN, {"row": 1})


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([4, 8, 16]))
def test_packed_words_are_unpacked_as_they_were(channels, size, lanes):
    x = np.random.default_rng(channels).integers(-128, 128, (channels, size, size)).astype(np.int8)
    np.testing.assert_array_equal(unpacked(packed(x, lanes), channels, size, lanes), x)


def test_what_the_accelerator_does_not_compute_is_refused_by_name(tmp_path):
    space = load_space({"kind": "mobile", "preset": "tiny-v3", "ses": [4]})
    arch = space.sample(random.Random(0))
    shape = space.input_of(arch)
    graph = trace(space.build(arch).eval(), shape)
    write = exporter_for("fpga").network
    with pytest.raises(CapabilityError, match="int8-static only, not fp32"):
        write(graph, tmp_path / "net.fpga", {})
    int8 = calibrate(graph, [torch.randn(4, *shape)])
    with pytest.raises(CapabilityError, match="the accelerator has no Mul "):
        write(int8, tmp_path / "net.fpga", {})
    assert not list(tmp_path.iterdir())


def test_a_step_that_has_no_room_is_refused_by_name(tmp_path):
    small = Shape(x_words=16, y_words=16, z_words=16, o_words=16, sums=16)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1))
    found = steps(integers(net, (3, 32, 32), tmp_path), small)
    with pytest.raises(CapabilityError, match="0 has no room in the buffers"):
        Compiler(small, DRAM).program(found, INPUT, 3, 32)


class Between(torch.nn.Module):
    """Another layer stands between the two of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.dw = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.other, self.pw = torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.dw(x), self.other(x)
        return self.pw(a) + b


def test_what_stands_between_two_layers_of_a_block_is_no_part_of_it(machine, tmp_path):
    shape, simulator = machine
    network = integers(Between(), (4, 6, 6), tmp_path)
    found = steps(network, shape)
    program = Compiler(shape, DRAM).program(found, INPUT, 4, 6)
    x = images(np.random.default_rng(0), 4, 6)
    after, counted = simulate(simulator, program.given(INPUT, x), DRAM, LIMIT)
    assert counted.cycles == program.cycles
    last = found[-1].name
    np.testing.assert_array_equal(program.taken(last, after), values(found, x)[last])


@pytest.mark.parametrize(("net", "size", "said"), [
    (torch.nn.Conv2d(3, 4, 3), (8, 6), r"square images, not \(8, 6\)"),
    (torch.nn.Conv2d(3, 4, 1, padding=1), (8, 8), "less padding than its kernel, not 1 and 1 of 1"),
    (torch.nn.Conv2d(3, 4, 9, stride=8), (16, 16), "strides up to 7"),
])  # fmt: skip
def test_shapes_that_it_does_not_compute_are_refused_by_name(net, size, said, tmp_path):
    with pytest.raises(CapabilityError, match=said):
        steps(integers(torch.nn.Sequential(net), (3, *size), tmp_path), Shape())


def test_what_no_command_can_say_is_refused(tmp_path):
    net, shape = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), Shape(sums=4096, o_words=4096)
    found = steps(integers(net, (1, 2050, 2050), tmp_path), shape)
    with pytest.raises(
        CapabilityError, match=r"too large for the accelerator: \w+ = \d+ does not fit 11 bits"
    ):
        Compiler(shape, DRAM).program(found, INPUT, 1, 2050)


@pytest.mark.parametrize(("change", "said"), [
    (lambda said: said["scales"].pop("0"), r"no scale of \['0'\]"),
    (lambda said: said["ops"][0].update(inputs=["nothing"]), r"0 reads \['nothing'\]"),
    (lambda said: said["ops"][0].update(inputs=[]), r"0 reads \[\]"),
    (lambda said: said["ops"][0].update(stride=0), "0 is "),
    (lambda said: said["ops"][0].update(shape=[2, 5, 5]), "out of .* it would be"),
    (lambda said: said["ops"].clear(), "it has no operators"),
])  # fmt: skip
def test_a_file_whose_parts_do_not_go_together_is_one_line(change, said, tmp_path):
    network = integers(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), (1, 6, 6), tmp_path)
    path = tmp_path / "net.fpga"
    with safe_open(path, "np") as file:
        metadata, arrays = dict(file.metadata()), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    told = json.loads(metadata["network"])
    change(told)
    save_file(arrays, path, metadata={**metadata, "network": json.dumps(told)})
    assert [op.name for op in network.ops] == ["0"]
    with pytest.raises(CorruptFile, match=said):
        Network.load(path)


@given(cut=st.integers(0, 3000), flip=st.integers(0, 3000), bit=st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_a_damaged_file_is_one_line(cut, flip, bit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    integers(net, (1, 6, 6), folder)
    path = folder / "net.fpga"
    content = bytearray(path.read_bytes())
    content[flip % len(content)] ^= 1 << bit
    path.write_bytes(content[: max(1, len(content) - cut % len(content))] if cut % 2 else content)
    try:
        Network.load(path)
    except CorruptFile as e:
        assert str(path) in str(e) and "\n" not in str(e)
