"""The two published spaces: the networks that were trained, by name, size and operations."""

import csv
import gzip
import os
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from edgenas import ops, specimen
from edgenas.errors import CapabilityError, InvalidArchitecture, UsageError
from edgenas.export import exporter_for
from edgenas.gates import Gate, Mixed
from edgenas.space import ChoiceSpace, load_space
from edgenas.spaces.nasbench201 import NasBench201
from edgenas.spaces.nasbench_macro import NasBenchMacro
from edgenas.spec import OpSpec

DATA = Path(os.environ.get("EDGENAS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
published = pytest.mark.skipif(not DATA.exists(), reason=f"no published tables at {DATA}")


def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / name, "rt") as file:
        return list(csv.DictReader(file))


def weights(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.fixture(params=[NasBenchMacro(), NasBench201()], ids=lambda s: s.id)
def form(request: pytest.FixtureRequest) -> ChoiceSpace:
    space: ChoiceSpace = request.param
    return space


@published
def test_chains_have_the_published_operations_and_weights() -> None:
    space, every = NasBenchMacro(), rows("nasbench_macro.csv.gz")
    for row in every:
        arch = space.published(row["arch"])
        assert sum(map(ops.macs, space.ops(arch))) == int(row["flops"])  # nothing is left over
    for row in random.Random(0).sample(every, 8):
        assert weights(space.build(space.published(row["arch"]))) == int(row["params"])


@published
def test_cells_have_the_published_weights() -> None:
    space, every = NasBench201(), rows("nasbench201.csv.gz")
    fixed, wrong = weights(space.assemble([])), 0
    for row in every:
        used = sum(map(space.parameters, space.ops(space.published(row["arch_str"]))))
        wrong += f"{(fixed + used) / 1e6:.6g}" != row["c10_params_M"]
    assert wrong == 150  # lines that state the weights of another cell
    for row in every[::2500]:
        assert (
            f"{weights(space.build(space.published(row['arch_str']))) / 1e6:.6g}"
            == (row["c10_params_M"])
        )


def test_work_of_a_cell_is_what_its_convolutions_do() -> None:
    space = NasBench201(resolution=8)
    done: list[int] = []

    def note(m: nn.Conv2d, x: tuple[torch.Tensor], y: torch.Tensor) -> None:
        done.append(y[0].numel() * m.in_channels * m.kernel_size[0] ** 2)

    def executed(operators: list[OpSpec]) -> int:
        done.clear()
        net = space.assemble(operators)
        for m in net.modules():
            if isinstance(m, nn.Conv2d):
                m.register_forward_hook(note)
        net.eval()(torch.zeros(1, *space.input))
        return sum(done)

    empty = executed([])
    convolutions = [op for op in space.vocabulary() if op.kind.startswith("nor_conv")]
    assert executed(convolutions[:1]) - empty == space.work(convolutions[0])
    assert executed(convolutions[-1:]) - empty == space.work(convolutions[-1])


def test_subnet_is_the_supernet_under_gates(form: ChoiceSpace) -> None:
    torch.manual_seed(0)
    net = form.supernet(Mixed).train()
    net(torch.randn(4, *form.input), {c.name: Gate.one(2) for c in form.choices})
    net.eval()
    rng, x = random.Random(0), torch.randn(2, *form.input)
    for _ in range(3):
        arch = form.sample(rng)
        alone = form.subnet(net, arch).eval()
        assert alone(x).shape == (2, form.classes)
        torch.testing.assert_close(alone(x), net(x, form.gates(arch)))
        form.build(arch).load_state_dict(alone.state_dict())  # the same layers by the same names
        mine = {p.data_ptr() for p in net.parameters()}
        assert all(p.data_ptr() not in mine for p in alone.parameters())
    with pytest.raises(TypeError, match="not a supernet"):
        form.subnet(alone, arch)


def test_vocabulary_is_exactly_what_architectures_contain(form: ChoiceSpace) -> None:
    rng = random.Random(0)
    seen = {op for _ in range(300) for op in form.ops(form.sample(rng))}
    assert seen == form.vocabulary()
    assert all(OpSpec.parse(str(op)) == op for op in seen)


def test_nodes_of_a_cell_are_sums_of_their_edges() -> None:
    """Skip from 0 to 1 to 3 and from 0 to 3: the input twice."""
    space = NasBench201(resolution=8)
    name = "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|skip_connect~1|none~2|"
    net, x = space.build(space.published(name)).eval(), torch.randn(2, 3, 8, 8)
    stem, cell = net.layers[0], net.layers[1]
    torch.testing.assert_close(cell(stem(x)), 2 * stem(x))
    unconnected = space.build(
        space.published("|none~0|+|none~0|none~1|+" + "|none~0|none~1|none~2|")
    )
    assert not unconnected.layers[1](stem(x)).any()


@pytest.mark.parametrize("name", ["0120", "012301230", "0120012x", ""])
def test_a_chain_that_was_not_published_is_named(name: str) -> None:
    with pytest.raises(InvalidArchitecture, match=f"'{name}' is not eight digits"):
        NasBenchMacro().published(name)


@pytest.mark.parametrize("edge", ["skip_connect~0", "|skip~0|", "|none~1|"])
def test_a_cell_that_was_not_published_is_named(edge: str) -> None:
    name = f"{edge}+|none~0|none~1|+|none~0|none~1|none~2|"
    with pytest.raises(InvalidArchitecture, match="is not a cell of NAS-Bench-201"):
        NasBench201().published(name)


def test_description_rebuilds_the_space(form: ChoiceSpace) -> None:
    other = load_space({**form.describe(), "resolution": 28, "channels": 1})
    assert load_space(form.describe()) == form
    assert other.input == (1, 28, 28) and other.id != form.id


@pytest.mark.parametrize(
    "settings, says",
    [
        (
            {"kind": "nasbench201", "resolution": 30},
            "resolution: Input should be a multiple of 4, not 30",
        ),
        ({"kind": "nasbench201", "classes": 1}, "classes: Input should be .* to 2, not 1"),
        ({"kind": "nasbench-macro", "channels": 0}, "channels: Input should be .* to 1, not 0"),
        ({"kind": "nasbench-macro", "classes": 1}, "classes: Input should be .* to 2, not 1"),
        ({"kind": "nasbench-macro", "width": 3}, "unknown key 'width'"),
    ],
)
def test_settings_that_are_wrong_are_named(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_space(settings)


def test_a_chain_can_be_exported_a_cell_says_why_not(tmp_path: Path) -> None:
    macro, cells = NasBenchMacro(resolution=8), NasBench201(resolution=8)
    onnx = exporter_for("onnx")
    made = specimen.network(onnx, macro, macro.published("00120012"), "fp32", tmp_path / "a.onnx")
    assert made.path.exists()
    shrink = next(op for op in macro.vocabulary() if op.arg("linear", 0))
    assert specimen.operator(onnx, shrink, "fp32", tmp_path / "b.onnx").path.exists()
    with torch.no_grad():
        assert ops.build(shrink).eval()(torch.randn(1, shrink.cin, 8, 8)).min() < 0
    pooled = cells.published("|avg_pool_3x3~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|")
    with pytest.raises(CapabilityError, match="cannot export AvgPool2d"):
        specimen.network(onnx, cells, pooled, "fp32", tmp_path / "c.onnx")
    alone = min(cells.vocabulary(), key=str)
    with pytest.raises(CapabilityError, match=r"'avg_pool_3x3 .*' cannot be built alone"):
        specimen.operator(onnx, alone, "fp32", tmp_path / "d.onnx")
