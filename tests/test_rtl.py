"""The runtime rtl: a device whose times and answers are those of simulated hardware."""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenas.device import Device, load_device
from edgenas.errors import CapabilityError, DeviceError, UsageError
from edgenas.export import exporter_for
from edgenas.fpga.lower import steps, values
from edgenas.fpga.network import INPUT, Network
from edgenas.fpga.shape import Shape
from edgenas.fpga.simulator import simulator_path
from edgenas.graph import calibrate, trace
from edgenas.measure import memory_bytes
from edgenas.profile import profile
from edgenas.session import Pace, Refusal, predict, probe, time_models
from edgenas.space import load_space

pytestmark = pytest.mark.trains

SHAPE = {
    "lanes": 8, "taps": 8, "groups": 2, "x_words": 1024, "y_words": 1024, "z_words": 512,
    "o_words": 512, "weight_words": 1024, "sums": 512,
}  # fmt: skip
SPACE = load_space({
    "kind": "mobile", "preset": "tiny", "resolution": 12, "channels": 1, "classes": 3, "stem": 8,
    "stem_stride": 1, "first": 8, "widths": [8, 12], "depths": [1, 2], "strides": [2, 2],
    "head": 16, "kernels": [3, 5], "expansions": [3],
})  # fmt: skip


def written(folder: Path, **more: object) -> Path:
    runtime = {
        "kind": "rtl", "fmax_mhz": 50, "report": "none",
        "part": {"chip": "LFE5U-25F", "package": "CABGA381", "speed_grade": 6},
        "dram": {"latency": 20, "reads": [3, 8], "writes": [3, 8]}, "shape": SHAPE, **more,
    }  # fmt: skip
    path = folder / "small.yaml"  # YAML holds JSON
    path.write_text(json.dumps({"transport": {"kind": "local"}, "runtime": runtime}))
    return path


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory):
    """Its simulator is built by the first test."""
    folder = tmp_path_factory.mktemp("rtl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_CACHE", str(folder))
        yield load_device(str(written(folder)))


def network(folder: Path):
    """A file, and images that it was calibrated on."""
    torch.manual_seed(0)
    net, seen = SPACE.build(SPACE.sample(random.Random(1))).eval(), torch.randn(16, 1, 12, 12)
    int8 = calibrate(trace(net, (1, 12, 12)), [seen])
    return exporter_for("fpga").network(int8, folder / "net.fpga", {}), seen.numpy()


def test_its_answers_are_those_of_the_reference(device: Device, tmp_path):
    artifact, x = network(tmp_path)
    y = predict(device, artifact, x)
    integers, _ = Network.load(artifact.path)
    begin, last = integers.scales[INPUT], integers.ops[-1].name
    found = steps(integers, Shape(**SHAPE))
    for image, answer in zip(x, y, strict=True):
        q = np.clip(np.rint(image / begin.scale) + begin.zero, -128, 127).astype(np.int8)
        want = values(found, q)[last].reshape(-1).astype(np.float32) - integers.scales[last].zero
        np.testing.assert_array_equal(answer, want * np.float32(integers.scales[last].scale))


def test_a_call_takes_its_cycles_whenever_it_is_asked(device: Device, tmp_path):
    artifact, _ = network(tmp_path)
    visits = [(0, "a"), (1, "a")]
    first, second = (
        list(time_models(device, {"a": artifact}, visits, Pace(1.0, min_calls=3))) for _ in range(2)
    )
    assert first == second
    assert [len(set(v.ns)) for v in first] == [1, 1] and first[0].ns == first[1].ns
    slow = load_device(str(written(tmp_path, fmax_mhz=25)))
    assert memory_bytes(device, artifact) is None
    (half,) = time_models(slow, {"a": artifact}, visits[:1], Pace(1.0))
    assert half.ns[0] == pytest.approx(2 * first[0].ns[0], abs=40)


def test_a_table_predicts_whole_networks_and_says_that_it_was_simulated(device, tmp_path):
    table = profile(device, SPACE, "int8-static", tmp_path, networks=14)
    assert {row.provenance for row in table.rows.values()} == {"simulated"}
    assert table.header.grade == "stable"
    assert table.header.held_out is not None and table.header.held_out.mape < 0.03
    fingerprint, _ = probe(device)
    assert (fingerprint["arch"], fingerprint["fmax_mhz"]) == ("fpga", 50)


def test_hardware_that_computes_something_else_is_found_out(device, tmp_path, monkeypatch):
    """Its simulator is exchanged for one that spoils what the true one leaves in DRAM."""
    artifact, x = network(tmp_path)
    path = Path("simulators") / simulator_path(Shape(**SHAPE), tmp_path).parent.name / "simulate"
    true, spoilt = Path(os.environ["EDGENAS_CACHE"]) / path, tmp_path / "cache" / path
    spoilt.parent.mkdir(parents=True)
    spoilt.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        f"subprocess.run([{str(true)!r}, *sys.argv[1:]], check=True)\n"
        "data = bytearray(open(sys.argv[1], 'rb').read())\n"
        "open(sys.argv[1], 'wb').write(bytes(b ^ 1 for b in data))\n"
    )
    spoilt.chmod(0o755)
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DeviceError, match=r"3 of 3 outputs are not those of the reference"):
        predict(device, artifact, x[:1])
    (refusal,) = time_models(device, {"a": artifact}, [(0, "a")], Pace(1.0))
    assert isinstance(refusal, Refusal) and refusal.status == "failed"
    assert "not those of the reference" in refusal.reason


def test_what_it_cannot_compute_and_what_makes_no_sense_is_one_line(device, tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.MaxPool2d(2)).eval()
    int8 = calibrate(trace(net, (1, 12, 12)), [torch.randn(4, 1, 12, 12)])
    with pytest.raises(CapabilityError, match="the accelerator has no MaxPool"):
        exporter_for("fpga").network(int8, tmp_path / "net.fpga", {})
    (tmp_path / "bad.fpga").write_bytes(b"no network")
    artifact, x = network(tmp_path)
    artifact.path.write_bytes(b"no network")
    with pytest.raises(DeviceError, match="cannot be read as a network of the accelerator"):
        predict(device, artifact, x)
    with pytest.raises(UsageError, match="runtime rtl: fmax_mhz cannot be 0"):
        load_device(str(written(tmp_path, fmax_mhz=0)))
    for name, size in (("x_words", 1), ("sums", 0), ("weight_words", 1 << 15), ("move_slots", 3)):
        with pytest.raises(UsageError, match=f"{name} of an accelerator can be"):
            load_device(str(written(tmp_path, shape={**SHAPE, name: size})))
    with pytest.raises(UsageError, match=r"runtime: shape: unknown key 'x_word'\. Did you mean"):
        load_device(str(written(tmp_path, shape={**SHAPE, "x_word": 512})))
    with pytest.raises(UsageError, match="run_slots and move_slots are powers of two"):
        load_device(str(written(tmp_path, shape={**SHAPE, "run_slots": 12})))
    usual = {"latency": 20, "reads": [3, 8], "writes": [3, 8]}
    for dram in ({"latency": 2}, {"reads": [9, 8]}, {"reads": [1, 1]}, {"writes": [0, 8]}):
        with pytest.raises(UsageError, match="dram: latency is 3 cycles or more"):
            load_device(str(written(tmp_path, dram={**usual, **dram})))
    with pytest.raises(UsageError, match="cannot be had then: 14 can be on their way"):
        load_device(str(written(tmp_path, dram={**usual, "latency": 63})))
    with pytest.raises(UsageError, match="lanes"):
        load_device(str(written(tmp_path, shape={**SHAPE, "lanes": 6})))
