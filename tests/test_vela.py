"""The runtime vela: an NPU whose times are estimates of Arm's compiler, and answers LiteRT's."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgenas.artifact import Artifact
from edgenas.device import device_files, load_device
from edgenas.errors import DeviceError, UsageError
from edgenas.export import exporter_for
from edgenas.graph import INPUT, Graph, calibrate, trace
from edgenas.measure import measure, memory_bytes
from edgenas.profile import profile
from edgenas.session import Pace, Placement, Refusal, Visit, predict, probe, time_models
from edgenas.space import load_space

pytestmark = pytest.mark.trains

ROOT = Path(__file__).parent.parent
SHAPE = (1, 12, 12)
SPACE = load_space({
    "kind": "mobile", "preset": "tiny", "resolution": 12, "channels": 1, "classes": 3, "stem": 8,
    "stem_stride": 1, "first": 8, "widths": [8, 12], "depths": [1, 2], "strides": [2, 2],
    "head": 16, "kernels": [3, 5], "expansions": [3],
})  # fmt: skip
U55 = load_device("ethos-u55-128")
ONCE = Pace(1.0, min_calls=3)


def written(folder: Path, python: str = sys.executable, **runtime: object) -> str:
    path = folder / "npu.yaml"  # YAML holds JSON
    whole = {"kind": "vela", **runtime}
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


def timed(artifact: Artifact, device=U55) -> list[Visit | Refusal | Placement]:
    return list(time_models(device, {"a": artifact}, [(0, "a"), (1, "a")], ONCE))


def test_a_table_predicts_whole_networks_and_says_that_it_is_estimated(tmp_path):
    table = profile(U55, SPACE, "int8-static", tmp_path, networks=14)
    assert {row.provenance for row in table.rows.values()} == {"estimated"}
    assert (table.header.provenance, table.header.grade) == ("estimated", "stable")
    assert table.header.held_out is not None and table.header.held_out.mape < 0.05
    assert table.header.facts["delegated"]["outside"] == 0
    artifact = file(network()[0], tmp_path / "net.tflite")
    (measured,) = measure(U55, [artifact], blocks=2, block_seconds=0.01)
    assert (measured.provenance, measured.grade) == ("estimated", "stable")
    assert measured.interval_ms == (measured.p50_ms, measured.p50_ms)


def test_an_estimate_is_cycles_over_the_clock_and_always_the_same(tmp_path):
    artifact = file(network()[0], tmp_path / "net.tflite")
    placed, first, second = timed(artifact)
    assert [placed, first, second] == timed(artifact)
    assert len({*first.ns, *second.ns}) == 1 and placed.nodes > placed.outside == 0
    clocks, memory = {}, {}
    for name in ("Ethos_U55_Deep_Embedded", "Ethos_U55_High_End_Embedded"):
        path = written(tmp_path, accelerator="ethos-u55-128", system_config=name)
        fingerprint, _ = probe(load_device(path))
        clocks[name] = fingerprint["clock_mhz"], timed(artifact, load_device(path))[1].ns[0]
        memory[name] = memory_bytes(load_device(path), artifact)
    (low_mhz, low_ns), (high_mhz, high_ns) = clocks.values()
    assert (low_mhz, high_mhz) == (200, 500) and low_ns > high_ns
    assert first.ns[0] == high_ns and high_ns % 2 == 0  # 2 ns a cycle
    assert all(1000 < taken < 64 * 1024 for taken in memory.values())


@pytest.mark.parametrize("name", [name for name in device_files() if name.startswith("ethos-")])
def test_a_shipped_device_estimates_and_says_what_it_is(name: str, tmp_path):
    device = load_device(name)
    fingerprint, facts = probe(device)
    assert (fingerprint["cpu"], fingerprint["arch"], facts) == (name, "ethos-u", {})
    assert "LiteRT" in fingerprint["answers"] and "this machine" in fingerprint["answers"]
    placed, visit, _ = timed(file(network()[0], tmp_path / "net.tflite"), device)
    assert placed.outside == 0 and min(visit.ns) > 1000
    bare = load_device(written(tmp_path, accelerator=name))  # Vela's own choice is what they say
    assert bare.runtime.options == device.runtime.options


def test_its_answers_are_those_of_the_reference_kernels(tmp_path):
    graph, x = network()
    artifact = file(graph, tmp_path / "net.tflite")
    answers = predict(U55, artifact, x)
    kernels = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(str(artifact.path), experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    begin, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    for image, answer in zip(x, answers, strict=True):
        scale, zero = begin["quantization"]
        q = np.clip(np.rint(image / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(begin["index"], q.transpose(1, 2, 0)[None])
        interpreter.invoke()
        scale, zero = end["quantization"]
        y = (interpreter.get_tensor(end["index"])[0].astype(np.float32) - zero) * scale
        np.testing.assert_array_equal(answer, y.astype(np.float32))


def test_what_is_left_to_the_cpu_is_counted_and_named_and_nothing_else_is_lost(tmp_path):
    graph, _ = network()
    whole = file(graph, tmp_path / "whole.tflite")
    ends = file(replace(graph, floats=frozenset({INPUT})), tmp_path / "ends.tflite")
    models = {"ends": ends, "whole": whole}
    events = list(time_models(U55, models, [(0, "ends"), (0, "whole")], ONCE))
    placed, refusal, fine, visit = events
    assert (placed.id, placed.outside, fine.outside) == ("ends", 2, 0)
    assert placed.nodes == fine.nodes + 2
    assert refusal.status == "unsupported"
    assert refusal.reason == (
        f"2 of {placed.nodes} operators are left to the CPU (1 DEQUANTIZE, 1 QUANTIZE), "
        f"{fine.nodes} run on the NPU: how long the CPU takes is not known"
    )
    assert visit.id == "whole"
    with pytest.raises(DeviceError, match=r"cannot run .*ends\.tflite: 2 of \d+ operators"):
        measure(U55, [ends], blocks=2, block_seconds=0.01)


def test_a_file_that_ends_the_compiler_ends_no_other(tmp_path):
    graph, _ = network()
    whole, wrong, junk = (file(graph, tmp_path / f"{name}.tflite") for name in "abc")
    model = schema.ModelT.InitFromPackedBuf(wrong.path.read_bytes())
    weights = model.subgraphs[0].operators[0].inputs[1]
    model.subgraphs[0].tensors[weights].shape = [1]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    wrong.path.write_bytes(builder.Output())
    junk.path.write_bytes(b"no network")
    models = {"wrong": wrong, "junk": junk, "whole": whole}
    events = list(time_models(U55, models, [(0, name) for name in models], ONCE))
    refused = {e.id: e for e in events if isinstance(e, Refusal)}
    assert {e.id for e in events if isinstance(e, Visit)} == {"whole"}
    assert {e.status for e in refused.values()} == {"failed"}
    assert refused["wrong"].reason.startswith("Vela was ended by SIG")
    assert "cannot be read as TFLite" in refused["junk"].reason


def test_a_system_that_makes_no_sense_is_one_line(tmp_path):
    for runtime, says in (
        ({"accelerator": "ethos-u55-512"}, "accelerator cannot be 'ethos-u55-512'. Known: etho"),
        (
            {"accelerator": "ethos-u55-128", "system_config": "Ethos_U65_Embedded"},
            "'Ethos_U65_Embedded' is not of ethos-u55-128",
        ),
    ):
        with pytest.raises(UsageError, match=says):
            load_device(written(tmp_path, **runtime))
    for runtime, says in (
        (
            {"system_config": "Ethos_U65_Embedded", "memory_mode": "Dedicated_Sram"},
            "Ethos_U65_Embedded with memory_mode Dedicated_Sram: .*arena_mem_area=OffChipFlash",
        ),
        ({"system_config": "Ethos_U65_None"}, "System_Config.Ethos_U65_None not found"),
        ({"memory_mode": "None"}, "Memory_Mode.None not found"),
    ):
        device = load_device(written(tmp_path, accelerator="ethos-u65-256", **runtime))
        with pytest.raises(DeviceError, match=says) as caught:
            profile(device, SPACE, "int8-static", tmp_path)
        assert "\n" not in str(caught.value)


def test_where_it_is_not_installed_one_line_says_what_to_install(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for found in Path(np.__file__).parent.parent.iterdir():
        if not found.name.startswith("ethos"):
            (site / found.name).symlink_to(found)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site}:{ROOT} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    device = load_device(written(tmp_path, str(python), accelerator="ethos-u55-128"))
    with pytest.raises(DeviceError, match=r"package ethosu is not installed: .*edgenas\[vela\]'$"):
        probe(device)
