"""Files on emulated ARM: they compute what they compute here, and their instructions repeat."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgenas import build_emulator, native, specimen
from edgenas.cli import main
from edgenas.count import count, table_path
from edgenas.device import Device
from edgenas.errors import CapabilityError, CorruptFile, DataError, EdgenasError, UsageError
from edgenas.export import exporter_for
from edgenas.instructions import Counts, InstructionTable
from edgenas.runtimes.litert import LiteRt
from edgenas.runtimes.ncnn import Ncnn
from edgenas.runtimes.onnxruntime import OnnxRuntime
from edgenas.session import Pace, predict, probe, time_models
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec
from edgenas.transports.local import Local
from edgenas.transports.qemu import Qemu
from edgenas.verify import same_gate

pytestmark = pytest.mark.trains

SPACE = Mobile(
    resolution=12, channels=1, classes=3, stem=8, stem_stride=1, first=8, widths=(8,),
    depths=(2,), strides=(2,), head=16, kernels=(3, 5), expansions=(2, 4),
)  # fmt: skip
GATED = replace(SPACE, ses=(4,), activations=("relu6", "hard-swish"))
SMALL = ["--preset", "tiny", "--resolution", "28", "--channels", "1"]
KEPT = Path(__file__).parent.parent / ".cache"


@pytest.fixture(autouse=True)
def emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built once, kept in .cache; skipped where there is no Debian to fetch it from."""
    pytest.importorskip("ziglang")
    monkeypatch.setenv("EDGENAS_CACHE", str(KEPT))
    try:
        build_emulator.build(None, lambda what, done, total: None)
    except EdgenasError as e:
        pytest.skip(str(e))


def arm(runtime: LiteRt | OnnxRuntime | Ncnn) -> Device:
    return Device("arm", Qemu(), runtime)


@pytest.fixture
def table(tmp_path: Path) -> InstructionTable:
    return count(arm(LiteRt()), SPACE, "fp32", tmp_path)


@pytest.mark.parametrize("runtime", [LiteRt(), OnnxRuntime()], ids=lambda r: r.name)
@pytest.mark.parametrize("precision", ("fp32", "int8-static"))
def test_a_file_computes_on_arm_what_it_computes_here(
    runtime: LiteRt | OnnxRuntime, precision: str, tmp_path: Path
) -> None:
    exporter, arch = exporter_for(runtime.format), GATED.sample(random.Random(0))
    artifact = specimen.network(exporter, GATED, arch, precision, tmp_path / f"n.{runtime.format}")
    x = np.random.default_rng(0).standard_normal((8, *GATED.input)).astype(np.float32)
    gate = same_gate(Device("here", Local(), runtime), arm(runtime), artifact, x)
    assert gate["met"] and gate["name"] == f"same:{runtime.format} on arm", gate
    assert probe(arm(runtime))[0]["arch"] == "aarch64"


def test_a_device_that_computes_something_else_fails_the_gate(tmp_path: Path) -> None:
    runtime, arch = LiteRt(), SPACE.sample(random.Random(0))
    path = tmp_path / "n.tflite"
    artifact = specimen.network(exporter_for("tflite"), SPACE, arch, "fp32", path)

    class Wrong(Local):
        def pull(self, remote: str, local: Path) -> None:
            np.save(local, 1.001 * np.load(remote))

    x = np.random.default_rng(0).standard_normal((4, *SPACE.input)).astype(np.float32)
    gate = same_gate(Device("here", Local(), runtime), Device("x", Wrong(), runtime), artifact, x)
    assert not gate["met"] and gate["value"] == pytest.approx(0.001, rel=0.1)


def test_counts_repeat_grow_with_work_and_are_resumed(
    table: InstructionTable, tmp_path: Path
) -> None:
    assert set(table.rows) == set(SPACE.vocabulary())
    e2, e4 = (OpSpec.parse(f"mbconv 8-8 @12 e{e} k3 s2") for e in (2, 4))
    assert sum(table.cost(e4)) > 1.3 * sum(table.cost(e2)) > 0
    path = table_path(tmp_path, "arm", SPACE.id, "fp32")
    assert InstructionTable.load(path) == table
    kept = {op: row for op, row in table.rows.items() if op != e4}
    kept[e2] = replace(kept[e2], load=1)
    replace(table, rows=kept).save(path)
    again = count(arm(LiteRt()), SPACE, "fp32", tmp_path)
    assert again.rows[e2].load == 1, "what was there is not counted again"
    assert again.rows[e4].total == pytest.approx(table.rows[e4].total, rel=0.002)
    fresh = count(arm(LiteRt()), SPACE, "fp32", tmp_path, fresh=True)
    for op, row in table.rows.items():
        assert fresh.rows[op].total == pytest.approx(row.total, rel=0.005)
    with pytest.raises(UsageError, match=r"is for runtime 'litert', not 'onnxruntime'.*--fresh"):
        count(replace(arm(OnnxRuntime()), name="arm"), SPACE, "fp32", tmp_path)


def test_emulated_milliseconds_are_refused_and_so_are_counts_of_a_real_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "qemu-arm64", *SMALL]) == 2
    assert "its milliseconds mean nothing. Count instructions: edgenas count qemu-arm64" in (
        capfd.readouterr().err
    )
    for more in ([], ["--dry-run"]):
        assert main(["count", "cpu-litert", *SMALL, *more]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "is a real machine, where nothing counts instructions" in line
    assert not list(tmp_path.rglob("*.jsonl"))


def test_the_command_counts_both_precisions_and_says_so_in_one_document(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    space = {"kind": "mobile", "stem": 8, "first": 8, "widths": [8], "depths": [1], "strides": [2]}
    y = np.arange(30) % 3
    x = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    task = {"dataset": "npz", "path": str(tmp_path / "data.npz")}
    target = {"device": "cpu-litert", "latency": "<= 5 ms"}
    config.write_text(json.dumps({"task": task, "space": space, "targets": [target]}))
    told = ["--config", str(config), "--tables", str(tmp_path), "--json"]
    code = main(["count", "qemu-arm64", *told])
    said = capfd.readouterr()
    assert code == 0, said.err
    made = json.loads(said.out)
    assert len(made) == 2 and all(m["not_counted"] == 0 < m["rows"] for m in made)
    assert "qemu-arm64 fp32: about 5 s" in said.err.splitlines()[0]
    assert main(["count", "qemu-arm64", *told, "--dry-run"]) == 0
    assert "is there: only what it lacks is counted" in capfd.readouterr().err


def test_a_dry_run_counts_nothing_and_a_larger_space_takes_longer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seconds = []
    for preset in ("tiny", "proxyless"):
        told = ["count", "qemu-arm64", "--preset", preset, "--tables", str(tmp_path), "--dry-run"]
        assert main([*told, "--precision", "fp32", "--json"]) == 0
        (plan,) = json.loads(capfd.readouterr().out)
        seconds.append(plan["seconds"])
    assert 0 < 2 * seconds[0] < seconds[1]
    assert not any(tmp_path.iterdir())


def test_an_operator_without_a_kernel_is_a_row_that_says_so(tmp_path: Path) -> None:
    from edgenas.session import Refusal
    from edgenas.session import count as counted

    path = tmp_path / "broken.tflite"
    artifact = specimen.operator(exporter_for("tflite"), specimen.EMPTY, "fp32", path)
    path.write_bytes(path.read_bytes()[:-40])
    (found,) = counted(arm(LiteRt()), {"x": artifact}, 2)
    assert isinstance(found, Refusal) and found.status == "failed"


def test_the_runner_for_phones_computes_on_arm_what_the_others_do(tmp_path: Path) -> None:
    if not native.runner_path("aarch64").exists():
        pytest.skip("minutes of compiling: EDGENAS_CACHE=.cache edgenas build-runner aarch64")
    arch = SPACE.sample(random.Random(1))
    x = np.random.default_rng(0).standard_normal((4, *SPACE.input)).astype(np.float32)
    logits = []
    for device in (arm(Ncnn(arch="aarch64")), Device("here", Local(), OnnxRuntime())):
        path = tmp_path / f"n.{device.runtime.format}"
        exporter = exporter_for(device.runtime.format)
        artifact = specimen.network(exporter, SPACE, arch, "fp32", path)
        logits.append(predict(device, artifact, x))
        if device.transport.emulated:
            with pytest.raises(CapabilityError, match="milliseconds mean nothing"):
                list(time_models(device, {"n": artifact}, [(0, "n")], Pace(1)))
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-5 * np.abs(logits[1]).max())


def test_what_cannot_be_built_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path))
    assert main(["count", "qemu-arm64", *SMALL]) == 2
    assert "edgenas build-emulator" in capfd.readouterr().err
    with pytest.raises(DataError, match="apt-get"):
        build_emulator.build(f"file://{tmp_path}/nothing", lambda what, done, total: None)
    assert not list(tmp_path.rglob("count.so"))


def test_a_file_of_instructions_is_no_latency_table(
    table: InstructionTable, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = table_path(tmp_path, "arm", SPACE.id, "fp32")
    assert main(["lut", "check", str(path)]) != 0
    assert "'instructions', no milliseconds" in capfd.readouterr().err
    assert main(["lut", "show", str(path), "--kind", "mbconv"]) == 0
    assert "instructions" in capfd.readouterr().out
    text = path.read_text()
    for wrong in (text[:-30], text.replace('"load": ', '"load": -', 1), "{}\n", ""):
        with pytest.raises(CorruptFile, match="line 1"):
            InstructionTable.loads(wrong, "x")
    assert table.header.provenance == "estimated"
    assert all(isinstance(row, Counts) for row in table.rows.values())
