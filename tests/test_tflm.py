"""The runtime tflm: files that TFLM's interpreter really runs, with times that are estimates."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgenas.artifact import Artifact
from edgenas.device import device_files, load_device
from edgenas.errors import CapabilityError, CorruptFile, DeviceError, UsageError
from edgenas.export import exporter_for
from edgenas.graph import INPUT, Graph, calibrate, trace
from edgenas.latency import LatencyTable
from edgenas.measure import measure, memory_bytes
from edgenas.session import Pace, Refusal, Visit, predict, probe, time_models
from edgenas.space import load_space
from edgenas.tflm import cycles, work
from edgenas.tflm.boards import PUBLISHED, boards

pytestmark = pytest.mark.trains
runs = pytest.mark.skipif(
    find_spec("tflite_micro") is None, reason="without tflite-micro: pip install 'edgenas[tflm]'"
)

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("EDGENAS_SHARED_DATA", ROOT.parent / "shared" / "data"))
FILES = DATA / "mlperf_tiny"
with_files = pytest.mark.skipif(not FILES.is_dir(), reason="without MLPerf Tiny's files")
# As they stand beside the files themselves, counted by another program than ours.
ARENA = {
    "pretrainedResnet_quant": 55984, "kws_ref_model": 24272, "vww_96_int8": 103680,
    "ad01_int8": 3984, "pretrainedResnet_large_int8": 133744,
}  # fmt: skip
SHAPE = (1, 12, 12)
SMALL = {
    "kind": "mobile", "preset": "tiny", "stem": 8, "stem_stride": 1, "first": 8, "widths": [8, 12],
    "depths": [1, 2], "strides": [2, 2], "head": 16, "kernels": [3, 5], "expansions": [3],
}  # fmt: skip
SPACE = load_space({**SMALL, "resolution": 12, "channels": 1, "classes": 3})
ONCE = Pace(1.0, min_calls=3)


def written(folder: Path, python: str = sys.executable, **runtime: object) -> str:
    path = folder / "mcu.yaml"  # YAML holds JSON
    whole = {"kind": "tflm", "board": "nucleo-l4r5zi", **runtime}
    path.write_text(
        json.dumps({"transport": {"kind": "local", "python": python}, "runtime": whole})
    )
    return str(path)


def network() -> tuple[Graph, np.ndarray]:
    """One of the space, and images that it was calibrated on."""
    torch.manual_seed(0)
    net, seen = SPACE.build(SPACE.sample(random.Random(1))).eval(), torch.randn(70, *SHAPE)
    return calibrate(trace(net, SHAPE), [seen]), seen.numpy()


def file(graph: Graph, path: Path) -> Artifact:
    return exporter_for("tflite").network(graph, path, {})


def rewritten(path: Path, change: Any) -> None:
    """The file, after ``change`` did something to its tables."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())


def mean_becomes(kind: str, model: Any) -> None:
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.MEAN:
            code.builtinCode = getattr(schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)


def timed(models: dict[str, Artifact], device: str = "cortex-m4") -> Sequence[Any]:
    return list(time_models(load_device(device), models, [(0, name) for name in models], ONCE))


def reference(path: Path, images: np.ndarray) -> np.ndarray:
    """Integers that LiteRT's own reference kernels give for integer ``images``."""
    kernels = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    begin, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    answers = []
    for image in images:
        interpreter.set_tensor(begin["index"], image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(end["index"])[0])
    return np.array(answers)


@runs
def test_an_estimate_is_cycles_over_the_clock_and_always_the_same(tmp_path):
    artifact = file(network()[0], tmp_path / "net.tflite")
    prices = cycles.fitted(boards()["nucleo-l4r5zi"])
    told = round(1e3 * prices.cycles(work.read(artifact.path).work) / 120)
    (visit,) = timed({"a": artifact})
    assert {*visit.ns} == {told} and [visit] == timed({"a": artifact})
    (slower,) = timed({"a": artifact}, written(tmp_path, clock_mhz=60))
    assert slower.ns[0] == pytest.approx(2 * told, abs=1)
    fingerprint, _ = probe(load_device(written(tmp_path, clock_mhz=60)))
    assert fingerprint["clock_mhz"] == 60 and fingerprint != probe(load_device("cortex-m4"))[0]


@runs
@pytest.mark.parametrize("name", [name for name in device_files() if name.startswith("cortex-")])
def test_a_shipped_device_says_what_it_is_and_how_far_off(name: str, tmp_path):
    fingerprint, facts = probe(load_device(name))
    assert (fingerprint["cpu"], fingerprint["runtime"]) == (name, "tflm")
    assert re.match(r"estimated from MLPerf Tiny v1.*left out: \d+ % off", fingerprint["times"])
    assert "TFLM" in fingerprint["answers"] and facts["ram_kb"] > 100
    (visit,) = timed({"a": file(network()[0], tmp_path / "net.tflite")}, name)
    assert min(visit.ns) > 1000


@runs
def test_its_answers_are_those_of_reference_kernels_within_a_step(tmp_path):
    graph, x = network()
    artifact = file(graph, tmp_path / "net.tflite")
    answers = predict(load_device("cortex-m4"), artifact, x)
    ends = Interpreter(str(artifact.path))
    (begin,), (end,) = ends.get_input_details(), ends.get_output_details()
    scale, zero = begin["quantization"]
    q = np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8).transpose(0, 2, 3, 1)
    scale, zero = end["quantization"]
    want = (reference(artifact.path, q).astype(np.float32) - zero) * scale
    assert np.abs(answers - want).max() <= 1.01 * scale
    assert np.ptp(want) > 10 * scale  # else a step would be no small thing


@runs
def test_an_arena_of_as_many_bytes_is_enough_and_one_of_fewer_is_not(tmp_path):
    from tflite_micro import runtime

    artifact = file(network()[0], tmp_path / "net.tflite")
    taken = memory_bytes(load_device("cortex-m4"), artifact)
    assert taken is not None and taken == memory_bytes(load_device("cortex-m85"), artifact)
    content = artifact.path.read_bytes()
    aligned = -(-taken // 16) * 16
    runtime.Interpreter.from_bytes(content, arena_size=aligned).invoke()
    with pytest.raises(RuntimeError, match="failed to allocate"):
        runtime.Interpreter.from_bytes(content, arena_size=aligned - 32)


@runs
def test_what_cannot_run_is_named_and_nothing_else_is_lost(tmp_path):
    graph, _ = network()
    names = ("whole", "custom", "strange", "real", "wrong", "junk")
    models = {name: file(graph, tmp_path / f"{name}.tflite") for name in names}
    real = replace(graph, ranges=None)
    models["real"] = exporter_for("tflite").network(real, tmp_path / "real.tflite", {})
    rewritten(models["strange"].path, lambda model: mean_becomes("LSTM", model))

    def custom(model: Any) -> None:
        mean_becomes("CUSTOM", model)
        for code in model.operatorCodes:
            if code.builtinCode == schema.BuiltinOperator.CUSTOM:
                code.customCode = b"Mine"

    def wrong(model: Any) -> None:
        (main,) = model.subgraphs
        main.tensors[main.operators[0].inputs[1]].shape = [1, 3, 3, 1]

    rewritten(models["custom"].path, custom)
    rewritten(models["wrong"].path, wrong)
    models["junk"].path.write_bytes(b"no network")
    events = timed(models)
    assert {e.id for e in events if isinstance(e, Visit)} == {"whole"}
    refused = {e.id: (e.status, e.reason) for e in events if isinstance(e, Refusal)}
    operators = work.read(models["whole"].path).operators
    for name, kind in (("strange", "1 LSTM"), ("custom", "1 CUSTOM Mine")):
        assert refused[name] == (
            "unsupported",
            f"1 of {operators} operators have no estimate on a microcontroller: {kind}",
        )
    assert refused["real"][0] == "unsupported"
    assert re.search(r": \d+ CONV_2D of float32, \d+ DEPTHWISE_CONV_2D of f", refused["real"][1])
    assert {refused[name][0] for name in ("wrong", "junk")} == {"failed"}
    assert refused["wrong"][1].startswith("TFLM cannot load it: Node CONV_2D (number 0)")
    assert "cannot be read as TFLite" in refused["junk"][1]
    with pytest.raises(DeviceError, match=r"cannot run .*custom\.tflite: 1 of \d+ operators"):
        measure(load_device("cortex-m4"), [models["custom"]], blocks=2, block_seconds=0.01)


@runs
def test_an_operator_that_tflm_lacks_is_named(tmp_path, monkeypatch):
    """TFLM has all that are estimated; told to estimate another one, it says so itself."""
    from edgenas.tflm import interpreter

    artifact = file(network()[0], tmp_path / "net.tflite")
    rewritten(artifact.path, lambda model: mean_becomes("GELU", model))
    with pytest.raises(CapabilityError, match="no estimate on a microcontroller: 1 GELU"):
        work.read(artifact.path)
    monkeypatch.setattr(work, "_MOVE", work._MOVE | {"GELU"})
    with pytest.raises(CapabilityError, match=r"^TFLM \(tflite-micro .*\) has no operator GELU$"):
        interpreter.arena_bytes(work.read(artifact.path))


@runs
def test_ends_in_float_are_run_and_counted(tmp_path):
    graph, x = network()
    whole = file(graph, tmp_path / "whole.tflite")
    ends = file(replace(graph, floats=frozenset({INPUT})), tmp_path / "ends.tflite")
    asked, more = work.read(whole.path), work.read(ends.path)
    assert more.operators == asked.operators + 2 and more.work.macs == asked.work.macs
    assert more.work.values == asked.work.values + 12 * 12 + 3
    answers = [predict(load_device("cortex-m4"), artifact, x) for artifact in (whole, ends)]
    np.testing.assert_allclose(*answers, atol=1e-6)


def test_work_is_counted_as_the_layers_say(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
            self.depthwise = torch.nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8)
            self.last = torch.nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.depthwise(self.first(x).relu()).relu()
            return self.last(x.mean((2, 3)))

    torch.manual_seed(0)
    graph = calibrate(trace(Net().eval(), SHAPE), [torch.randn(8, *SHAPE)])
    first, depthwise, mean, last = 12 * 12 * 8, 6 * 6 * 8, 6 * 6 * 8, 3
    counted = work.read(file(graph, tmp_path / "net.tflite").path).work
    assert counted.macs == first * 9 + depthwise * 25 + 8 * 3
    assert counted.weights == 8 * 9 + 8 * 25 + 8 * 3
    padded = counted.values - (first + depthwise + mean + last)
    assert padded in (0, 15 * 15 * 8)  # what a PAD before the strided one writes


def test_junk_is_no_traceback(tmp_path):
    path = tmp_path / "junk.tflite"
    path.write_bytes(b"TFL3" * 100)
    with pytest.raises(CorruptFile, match=r"junk\.tflite cannot be read as TFLite"):
        work.read(path)


def test_a_fit_is_near_what_was_published_and_says_its_error_where_it_has_not_seen_it():
    for board in boards().values():
        prices, off = cycles.fitted(board), cycles.left_out(board)
        assert prices.mac > 0 and prices.value >= 0.999 and prices.weight >= 0
        fits = [
            prices.cycles(asked) / cycles.published(board, task) - 1
            for task, asked in cycles.networks().items()
        ]
        assert max(map(abs, fits)) < 0.2
        assert np.abs(fits).mean() < np.abs(list(off.values())).mean() < 0.5


@with_files
def test_the_published_networks_are_counted_so():
    told = json.loads(PUBLISHED.read_text())["networks"]
    for task, counted in cycles.networks().items():
        assert work.read(FILES / told[task]["file"]).work == counted


@runs
@with_files
@pytest.mark.parametrize("name", list(ARENA))
def test_an_arena_and_answers_of_mlperf_tiny(name: str):
    from edgenas.tflm import interpreter

    model = work.read(FILES / f"{name}.tflite")
    assert interpreter.arena_bytes(model) == ARENA[name]
    opened = interpreter._opened(model)
    shape = tuple(opened.get_input_details(0)["shape"])[1:]
    x = np.random.default_rng(0).integers(-128, 128, (5, *shape)).astype(np.int8)
    want = reference(FILES / f"{name}.tflite", x)
    for image, y in zip(x, want, strict=True):
        opened.set_input(image[None], 0)
        opened.invoke()
        apart = np.abs(opened.get_output(0)[0].astype(int) - y).max()
        assert apart <= (2 if name == "ad01_int8" else 0)  # ten fully connected layers round


def test_a_board_that_makes_no_sense_is_one_line(tmp_path):
    for runtime, says in (
        ({"board": "nucleo-l4r5"}, "no board 'nucleo-l4r5'. Did you mean 'nucleo-l4r5zi'? Known: "),
        ({"clock_mhz": 1e5}, "clock_mhz cannot be 100000"),
        ({"clock_mhz": -1}, "clock_mhz"),
    ):
        with pytest.raises(UsageError, match=re.escape(says)) as caught:
            load_device(written(tmp_path, **runtime))
        assert "\n" not in str(caught.value)


def test_where_it_is_not_installed_one_line_says_what_to_install(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for found in Path(np.__file__).parent.parent.iterdir():
        if not found.name.startswith("tflite_micro"):
            (site / found.name).symlink_to(found)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site}:{ROOT} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    device = load_device(written(tmp_path, str(python)))
    with pytest.raises(DeviceError, match=r"package tflite_micro is not installed: .*\[tflm\]'$"):
        probe(device)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A whole one, whose arena is more than it may be."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    waves = np.stack([*np.sin(np.mgrid[:12, :12]), np.eye(12)])
    x = (127 + 60 * waves[y] + rng.normal(0, 20, (300, 12, 12))).clip(0, 255).astype(np.uint8)
    parts = {"x_train": x[:240], "x_test": x[240:]}
    np.savez(
        folder / "d.npz", **{name: part[..., None] for name, part in parts.items()},
        y_train=y[:240], y_test=y[240:],
    )  # fmt: skip
    config = {
        "task": {"dataset": "npz", "path": "d.npz"},
        "space": SMALL, "targets": [{"device": "cortex-m4", "latency": "<= 200 ms"}],
        "search": {"method": "random"}, "train": {"epochs": 1}, "prune": {"epochs": 0},
        "gates": {"memory": "<= 1 kB", "size": "<= 100 kB", "drop": "100 points",
                  "agreement": ">= 50 %", "difference": "50 %", "class_drop": "100 points"},
        "measure": {"networks": 12, "blocks": 2, "block_seconds": 0.05}, "threads": 1,
    }  # fmt: skip
    (folder / "mcu.yaml").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "edgenas", "run", "mcu.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return folder, done


@runs
def test_a_run_reaches_its_verdict_by_arena_and_size(run):
    folder, done = run
    assert done.returncode == 3, done.stdout + done.stderr
    assert "note    cortex-m4: its times are estimated, not measured" in done.stdout
    verdict = json.loads((folder / "runs" / "mcu" / "verify" / "verdict.json").read_text())
    assert {c["latency"]["provenance"] for c in verdict["candidates"]} == {"estimated"}
    gates = {gate["name"]: gate for gate in verdict["gates"]}
    delivered = Artifact.of(
        folder / "runs" / "mcu" / "model.tflite", "tflite", "int8-static", SHAPE
    )
    assert {name for name, gate in gates.items() if not gate["met"]} == {"memory:tflite"}
    assert gates["memory:tflite"]["value"] == memory_bytes(load_device("cortex-m4"), delivered)
    assert gates["size:tflite"]["value"] == delivered.path.stat().st_size
    assert gates["parity:tflite"]["value"] > 0.95  # of what TFLM answers, with PyTorch


@runs
def test_its_table_predicts_whole_networks_and_says_that_it_is_estimated(run):
    folder, _ = run
    (path,) = (folder / "latency_tables").glob("cortex-m4.*.jsonl")
    table = LatencyTable.load(path)
    assert {row.provenance for row in table.rows.values()} == {"estimated"}
    assert (table.header.provenance, table.header.grade) == ("estimated", "stable")
    assert table.header.held_out is not None and table.header.held_out.mape < 0.02
    assert table.header.facts["left_out"].keys() == cycles.networks().keys()
