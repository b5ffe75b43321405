"""The runtimes torch and tensorrt: on the CPU where one can, on a GPU where there is one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenas import ops
from edgenas.device import Device, load_device
from edgenas.errors import CapabilityError, CorruptFile, DeviceError, ForeignTable, UsageError
from edgenas.export import exporter_for
from edgenas.exporters.torch import Torch as Writer
from edgenas.graph import calibrate, trace
from edgenas.profile import profile
from edgenas.rounds import Effort
from edgenas.runtimes.tensorrt import TensorRt
from edgenas.runtimes.torch import Torch
from edgenas.session import Pace, Visit, predict, probe, time_models
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec
from edgenas.transports.local import Local

pytestmark = pytest.mark.trains

OPERATORS = [
    "conv 3-8 @9 k3 s2",
    "mbconv 8-8 @6 e4 k3 s1",
    "mbconv 8-12 @7 e3 hs1 k5 s2",
    "fused-mbconv 8-8 @6 e4 k3 s1",
    "mbconv 8-8 @6 e4 k3 s1 se4",
    "classifier 24-7 @4",
    "classifier 24-7 @4 h12 hs1",
]
SPACE = Mobile(
    resolution=8, channels=1, classes=3, stem=4, stem_stride=1, first=4, widths=(8,),
    depths=(2,), strides=(2,), head=8, kernels=(3, 5), expansions=(1, 2),
)  # fmt: skip
QUICK = Effort(passes=2, rounds=2, visit_ms=0.5, extensions=0, settling=0)
CPU = Device("board", Local(), Torch(accelerator="cpu"), ("fp32",))
GPU = Device("gpu", Local(), Torch(), ("fp32",))
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


def agrees(device: Device, writer: object, text: str, folder: Path, atol: float) -> None:
    op = OpSpec.parse(text)
    torch.manual_seed(1)
    shape = (op.cin, op.size, op.size)
    module = ops.build(op).eval()
    for m in module.modules():
        if isinstance(m, ops.SqueezeExcitation):
            torch.nn.init.normal_(m.excite.weight)
    graph = trace(module, shape)
    artifact = writer.network(graph, folder / f"m.{writer.format}", {})
    x = 3 * torch.randn(66, *shape)
    want = graph(x).detach().numpy()
    np.testing.assert_allclose(predict(device, artifact, x.numpy()), want, atol=atol, rtol=atol)


@pytest.mark.parametrize("text", OPERATORS)
def test_what_it_computes_is_what_the_graph_computes(tmp_path: Path, text: str) -> None:
    agrees(CPU, Writer(), text, tmp_path, 1e-5)


def test_a_batch_is_part_of_what_a_table_is_for(tmp_path: Path) -> None:
    four = replace(CPU, runtime=Torch(accelerator="cpu", batch=4))
    assert (probe(CPU)[0]["batch"], probe(four)[0]["batch"]) == (1, 4)
    how = {"networks": 12, "effort": QUICK, "allow_unstable": True}
    table = profile(four, SPACE, "fp32", tmp_path, **how)
    assert set(table.rows) == SPACE.vocabulary()
    assert table.header.batch == 4
    with pytest.raises(ForeignTable, match="batch 4, not 1"):
        profile(CPU, SPACE, "fp32", tmp_path, **how)


def test_a_file_says_what_it_holds_and_a_damaged_one_is_corrupt(tmp_path: Path) -> None:
    graph = trace(ops.build(OpSpec.parse(OPERATORS[1])).eval(), (8, 6, 6))
    path = Writer().network(graph, tmp_path / "m.torch", {"labels": "a"}).path
    found = exporter_for("torch").inspect(path)
    assert (found.operators, found.precision) == (4, "fp32")
    assert found.metadata == {"labels": "a", "precision": "fp32"}
    content = path.read_bytes()
    for damaged in (b"", content[:40], content[:-1], b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=r"cannot be read as a torch file: \S"):
            exporter_for("torch").inspect(path)
    with pytest.raises(CapabilityError, match="fp32 only"):
        Writer().operator(calibrate(graph, [torch.randn(1, 8, 6, 6)]), path)


def test_where_something_is_missing_it_is_said(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="sees no CUDA device"):
            probe(GPU)
    path = tmp_path / "gpu.yaml"
    path.write_text("transport: {kind: local}\nruntime: {kind: torch, batch: 0}\n")
    with pytest.raises(UsageError, match=r"runtime: batch: Input should be greater than 0, not 0"):
        load_device(str(path))


@on_gpu
@pytest.mark.parametrize("text", OPERATORS)
def test_a_gpu_computes_what_the_graph_computes(tmp_path: Path, text: str) -> None:
    agrees(GPU, Writer(), text, tmp_path, 1e-2)  # TF32 may be on


@on_gpu
def test_a_gpu_is_profiled_whole(tmp_path: Path) -> None:
    table = profile(GPU, SPACE, "fp32", tmp_path, networks=12, effort=QUICK, allow_unstable=True)
    assert set(table.rows) == SPACE.vocabulary()
    assert table.header.fingerprint["gpu"] == torch.cuda.get_device_name(0)


@on_gpu
def test_tensorrt_builds_runs_and_times_an_engine(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    device = Device("gpu", Local(), TensorRt(), ("fp32",))
    exporter = exporter_for("tensorrt")
    agrees(device, exporter, OPERATORS[1], tmp_path, 1e-2)
    graph = trace(ops.build(OpSpec.parse(OPERATORS[0])).eval(), (3, 9, 9))
    artifact = exporter.network(graph, tmp_path / "n.tensorrt", {})
    events = list(time_models(device, {"n": artifact}, [(0, "n")], Pace(0.1)))
    assert isinstance(events[-1], Visit) and min(events[-1].ns) > 0
