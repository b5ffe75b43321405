"""The program for boards without Python, built from source and run here."""

import hashlib
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenas import build_tools, native, ops, run
from edgenas.build_runner import build
from edgenas.config import parse_config
from edgenas.device import Device, load_device
from edgenas.errors import (
    CapabilityError,
    CorruptFile,
    DataError,
    DeviceError,
    UnstableMeasurement,
    UsageError,
)
from edgenas.export import exporter_for
from edgenas.exporters.ncnn import Ncnn as Writer
from edgenas.graph import calibrate, trace
from edgenas.profile import profile
from edgenas.rounds import Effort
from edgenas.runtimes.ncnn import Ncnn
from edgenas.session import Pace, Refusal, Visit, predict, probe, time_models
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec
from edgenas.transports.local import Local

pytestmark = pytest.mark.trains

OPERATORS = [
    "conv 3-8 @9 k3 s2",
    "conv 8-24 @5 hs1 k1 s1",
    "conv 8-8 @6 k3 res1 s1",
    "fused-mbconv 8-8 @6 e4 k3 s1",
    "mbconv 8-8 @6 e4 k3 s1",
    "mbconv 8-12 @7 e3 k5 s2",
    "mbconv 8-8 @6 e1 hs1 k7 s1",
    "mbconv 8-8 @6 h13 k3 s1",
    "mbconv 8-8 @8 e1 k3 s1 se4",
    "mbconv 8-8 @5 e3 hs1 k3 s1 se4",
    "mbconv 8-8 @1 e4 k3 s1 se4",
    "mbconv 8-12 @7 h20 k5 s2 se4",
    "classifier 24-7 @4",
    "classifier 24-7 @4 h12 hs1",
]
FEW = Pace(visit_ms=0.01, min_calls=3, max_calls=3)


@pytest.fixture
def board(native_runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "runner_path", lambda arch: native_runner)
    return Device("board", Local(), Ncnn(arch="x86_64"), ("fp32",))


@pytest.mark.parametrize("text", OPERATORS)
def test_what_it_computes_is_what_the_graph_computes(
    board: Device, tmp_path: Path, text: str
) -> None:
    op = OpSpec.parse(text)
    torch.manual_seed(1)
    module = ops.build(op).eval()
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.running_var, 0.1, 0.5)
            torch.nn.init.normal_(m.bias)
        if isinstance(m, ops.SqueezeExcitation):  # gates of their own, some of them shut or open
            torch.nn.init.normal_(m.excite.weight, std=2)
        if isinstance(m, torch.nn.Linear):
            torch.nn.init.normal_(m.weight)
    shape = (op.cin, op.size, op.size)
    graph = trace(module, shape)
    artifact = Writer().network(graph, tmp_path / "m.ncnn", {})
    x = 3 * torch.randn(66, *shape)
    want = graph(x).detach().numpy().reshape(66, -1)
    assert np.abs(want).max() > 1
    got = predict(board, artifact, x.numpy())
    # The transforms of Winograd, for dense 3x3, round in proportion to the largest values.
    near = 1e-5 * np.abs(want).max() if op.kind == "fused-mbconv" else 1e-4
    np.testing.assert_allclose(got, want, atol=near, rtol=1e-4)


def test_a_board_is_profiled_whole(board: Device, tmp_path: Path) -> None:
    space = Mobile(
        resolution=8, channels=1, classes=3, stem=4, stem_stride=1, first=4, widths=(8,),
        depths=(2,), strides=(2,), head=8, kernels=(3, 5), expansions=(1, 2),
    )  # fmt: skip
    table = profile(
        board, space, "fp32", tmp_path / "tables", networks=12, allow_unstable=True,
        effort=Effort(passes=2, rounds=2, visit_ms=0.5, extensions=0, settling=0),
    )  # fmt: skip
    assert set(table.rows) == space.vocabulary()
    assert all(table[op].floor_ms > 0 for op in table.rows)
    assert (table.header.runtime, table.header.provenance) == ("ncnn", "measured")
    with pytest.raises(UsageError, match="int8-static"):
        profile(board, space, "int8-static", tmp_path / "tables")


def test_it_says_what_the_board_is_and_keeps_to_cores(board: Device) -> None:
    fingerprint, facts = probe(board)
    assert fingerprint["runtime_version"] == native.VERSION
    assert (fingerprint["runtime"], fingerprint["threads"]) == ("ncnn", 1)
    assert facts["kernel"] and "affinity" not in fingerprint
    kept = replace(board, runtime=Ncnn(arch="x86_64", affinity="0"))
    assert (probe(kept)[0]["affinity"], probe(kept)[1]["affinity"]) == ("0", [0])
    assert probe(kept)[0]["cores"] == fingerprint["cores"] == len(os.sched_getaffinity(0))
    with pytest.raises(DeviceError, match=r"kept to cores \[9999\]|its cores are all alike"):
        probe(replace(board, runtime=Ncnn(arch="x86_64", affinity="9999")))


def test_models_that_do_not_load_are_told_apart_and_ids_are_escaped(
    board: Device, tmp_path: Path
) -> None:
    graph = trace(ops.build(OpSpec.parse(OPERATORS[0])).eval(), (3, 9, 9))
    good = Writer().operator(graph, tmp_path / "good.ncnn")
    text = good.path.read_bytes()
    foreign = tmp_path / "foreign.ncnn"
    foreign.write_bytes(text.replace(b"Convolution ", b"Involution  "))
    cut = tmp_path / "cut.ncnn"
    cut.write_bytes(text[:20])
    models = {
        'a "good" \\ one': good,
        "foreign": replace(good, path=foreign),
        "cut": replace(good, path=cut),
    }
    events = list(time_models(board, models, [(3, id) for id in models], FEW))
    (visit,) = (e for e in events if isinstance(e, Visit))
    assert (visit.id, visit.round, len(visit.ns)) == ('a "good" \\ one', 3, 3)
    refused = {e.id: e.status for e in events if isinstance(e, Refusal)}
    assert refused == {"foreign": "unsupported", "cut": "failed"}


def test_inputs_that_do_not_fit_are_one_line(board: Device, tmp_path: Path) -> None:
    graph = trace(ops.build(OpSpec.parse(OPERATORS[0])).eval(), (3, 9, 9))
    artifact = Writer().network(graph, tmp_path / "m.ncnn", {})
    wrong = replace(artifact, input=(3, 8, 8))
    with pytest.raises(DeviceError, match="the inputs are not what the model takes"):
        predict(board, wrong, np.zeros((2, 3, 8, 8), np.float32))


# --- the file


def test_a_file_says_what_it_holds_and_a_damaged_one_is_corrupt(tmp_path: Path) -> None:
    graph = trace(ops.build(OpSpec.parse("mbconv 8-8 @6 e4 k3 s1")).eval(), (8, 6, 6))
    path = Writer().network(graph, tmp_path / "m.ncnn", {"labels": "a, b"}).path
    found = exporter_for("ncnn").inspect(path)
    assert (found.operators, found.quantized, found.precision) == (4, 0, "fp32")
    assert found.metadata == {"labels": "a, b", "precision": "fp32"}
    content = path.read_bytes()
    param, _, rest = content.partition(b"\0")
    assert param.startswith(b"7767517\n6 7\nInput ") and b"\nSplit " in param
    assert len(rest) > 4 * sum(n.weight.size for n in graph.nodes if hasattr(n, "weight"))
    lies = struct.pack("<I", 10**6) + b"EDGENAS"
    for damaged in (b"", content[:-9], content[:40], content[:-11] + lies, b"x" + content):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=r"cannot be read as ncnn: \S"):
            exporter_for("ncnn").inspect(path)


def test_int8_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    graph = trace(ops.build(OpSpec.parse(OPERATORS[0])).eval(), (3, 9, 9))
    whole = calibrate(graph, [torch.randn(1, 3, 9, 9)])
    with pytest.raises(CapabilityError, match="fp32 only, not int8-static"):
        Writer().network(whole, tmp_path / "m.ncnn", {})
    assert list(tmp_path.iterdir()) == []


# --- the device file, the build


@pytest.mark.parametrize(
    ("runtime", "said"),
    [
        ("{kind: ncnn, arch: riscv64}", "arch cannot be 'riscv64'. Known: aarch64, x86_64"),
        ("{kind: ncnn, threads: 4}", "threads is 4; its program has 1"),
        ("{kind: ncnn, affinity: fast}", "affinity cannot be 'fast'"),
    ],
)
def test_a_device_file_that_asks_for_too_much_is_one_line(
    tmp_path: Path, runtime: str, said: str
) -> None:
    path = tmp_path / "phone.yaml"
    path.write_text(f"transport: {{kind: adb}}\nruntime: {runtime}\n")
    with pytest.raises(UsageError, match=said):
        load_device(str(path))


def test_what_is_not_built_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path))
    with pytest.raises(CapabilityError, match="once: edgenas build-runner aarch64"):
        probe(Device("phone", Local(), Ncnn()))


def test_a_tool_that_is_missing_says_how_to_install_it() -> None:
    build_tools.require("json")
    with pytest.raises(CapabilityError, match=r"^no_such_tool not installed: .*edgenas\[native\]"):
        build_tools.require("json", "no_such_tool")


def test_another_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path))
    source = tmp_path / "ncnn.tar.gz"
    source.write_bytes(b"something else")
    digest = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(DataError, match=f"has sha256 {digest}, not"):
        build("x86_64", source, lambda what, done, total: None)
    assert not native.runner_path("x86_64").exists()


def test_a_job_is_lines_that_hold_all_of_it() -> None:
    models = [{"id": "a b", "path": "/x"}, {"id": "c", "path": "/y"}]
    visits = [[0, "c"], [4, "a b"]]
    job = {"verb": "time", "threads": 1, "models": models, "visits": visits, "visit_ms": 4.0}
    lines = Ncnn().encode(job).decode().splitlines()
    assert lines[-4:] == ["model\t/x\ta b", "model\t/y\tc", "visit\t0\t1", "visit\t4\t0"]
    assert {"verb\ttime", "threads\t1", "visit_ms\t4.0"} < set(lines)


def test_a_whole_run_for_a_board_of_one_precision_delivers_its_file(
    board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = (rng.integers(0, 80, (240, 8, 8, 1)) + 80 * y[:, None, None, None]).astype(np.uint8)
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    Path("devices").mkdir()
    Path("devices/phone.yaml").write_text(
        "{transport: {kind: local}, runtime: {kind: ncnn, arch: x86_64}}"
    )
    settings = {
        "task": {"dataset": "npz", "path": "data.npz"},
        "space": {
            "kind": "mobile", "stem": 8, "first": 8, "widths": [8], "depths": [2],
            "strides": [2], "head": 16, "kernels": [3, 5], "expansions": [2, 4],
        },
        "targets": [{"device": "phone", "latency": "<= 100 ms"}],
        "search": {"method": "random"},
        "train": {"epochs": 1},
        "prune": {"epochs": 0},
        "gates": {"drop": "100 points", "agreement": ">= 50 %"},
        "measure": {"networks": 12, "blocks": 2, "block_seconds": 0.02},
        "threads": 1,
    }  # fmt: skip
    for _ in range(3):
        try:
            verdict = run(parse_config(settings, "test"))
            break
        except UnstableMeasurement:  # a machine too noisy just now
            shutil.rmtree("latency_tables", ignore_errors=True)
    assert verdict["met"], verdict["gates"]
    assert verdict["delivered"]["ncnn"]["precision"] == "fp32"
    assert exporter_for("ncnn").inspect(Path("runs/run/model.ncnn")).precision == "fp32"
