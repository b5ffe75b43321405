import ast
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil
import pytest
from onnx import helper
from torch import nn

from edgenas import doctor, runner
from edgenas.artifact import Artifact
from edgenas.cli import main
from edgenas.conditions import warnings
from edgenas.device import Device, load_device, read_device
from edgenas.errors import CapabilityError, DeviceError, EdgenasError, UnknownName, UsageError
from edgenas.exporters.tflite import Tflite
from edgenas.graph import trace
from edgenas.runtimes.litert import LiteRt
from edgenas.runtimes.onnxruntime import OnnxRuntime
from edgenas.session import (
    Pace,
    Placement,
    Refusal,
    Visit,
    count,
    memory_bytes,
    predict,
    probe,
    time_models,
)
from edgenas.transports.local import Local

CPU = Device("cpu", Local(), OnnxRuntime())
FEW = Pace(visit_ms=0.01, min_calls=3, max_calls=3)
SHAPE = (3, 4, 5)


def model(path: Path, op: str = "Relu", batch: str | int = "n") -> Artifact:
    """One elementwise operator on images of shape SHAPE."""
    ends = [helper.make_tensor_value_info(n, 1, [batch, *SHAPE]) for n in "xy"]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, path)
    return Artifact.of(path, "onnx", "fp32", SHAPE)


def script(folder: Path, body: str) -> Device:
    """A device whose interpreter is the shell script ``body``."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return replace(CPU, transport=Local(str(path)))


def bare_python(folder: Path, *packages: str) -> Device:
    """A device whose Python has only ``packages``, to be found in this environment."""
    (folder / "site").mkdir()
    for name in packages:
        for found in Path(np.__file__).parent.parent.glob(f"{name}*"):
            (folder / "site" / found.name).symlink_to(found)
    return script(folder, f'PYTHONPATH={folder}/site exec {sys.executable} -S "$@"')


@pytest.mark.parametrize("name", ["cpu-onnxruntime", "cpu-litert"])
def test_a_shipped_device_answers(name: str) -> None:
    fingerprint, facts = probe(load_device(name))
    assert fingerprint["runtime"] == name.removeprefix("cpu-")
    assert fingerprint["threads"] == 1
    assert fingerprint["cores"] == os.cpu_count()
    assert facts["kernel"] == os.uname().release
    assert probe(load_device(name))[0] == fingerprint


def test_a_device_may_be_kept_to_some_cores_and_is_another_one_then() -> None:
    some = replace(CPU, runtime=replace(CPU.runtime, affinity="0"))
    fingerprint, facts = probe(some)
    assert (fingerprint["affinity"], facts["affinity"]) == ("0", [0])
    assert "affinity" not in probe(CPU)[0]
    assert runner.cores_meant("0,2,4-7") == {0, 2, 4, 5, 6, 7}
    with pytest.raises(DeviceError, match=r"kept to cores \[9999\]"):
        probe(replace(CPU, runtime=replace(CPU.runtime, affinity="9999")))


@pytest.fixture
def one_core() -> Iterator[None]:
    """As under ``taskset``: what is started here may use one core of several."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("this process may use one core only")
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


def test_a_machine_of_which_fewer_cores_may_be_used_is_another_one(
    one_core: None,
) -> None:
    fingerprint, _ = probe(CPU)
    assert (fingerprint["cores"], fingerprint["usable_cores"]) == (os.cpu_count(), 1)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    assert int(probe(CPU)[0]["usable_cores"]) > 1
    assert {k: v for k, v in probe(CPU)[0].items() if v != fingerprint[k]}.keys() == {
        "usable_cores"
    }


def test_more_threads_than_cores_are_refused_in_one_line(
    one_core: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(model(tmp_path / "a.onnx").path)
    assert main(["measure", file, "--device", "cpu-onnxruntime-t2"]) == 4
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "2 threads, and it may use 1 of its" in err
    two = load_device("cpu-onnxruntime-t2")
    with pytest.raises(DeviceError, match="set threads to no more"):
        list(time_models(two, {"a": model(tmp_path / "a.onnx")}, [(0, "a")], FEW))
    kept = replace(CPU, runtime=OnnxRuntime(threads=2, affinity="0"))
    with pytest.raises(DeviceError, match="2 threads, and it may use 1 of its"):
        probe(kept)


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2.0),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, 0.5),
        ("0::/gone/away", {"cpu.max": "100000 100000"}, 1.0),
        ("3:cpu,cpuacct:/c", {"cpu/c/cpu.cfs_quota_us": "300000",
                              "cpu/c/cpu.cfs_period_us": "100000"}, 3.0),
        ("3:cpu,cpuacct:/c", {"cpu/cpu.cfs_quota_us": "-1",
                              "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:memory:/c\n0::/", {"cpu.max": "junk"}, None),
        ("", {"cpu.max": "100000 0"}, None),
    ],
)  # fmt: skip
def test_a_quota_of_a_control_group_is_found_wherever_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, files: dict[str, str],
    cores: float | None,
) -> None:  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(group + "\n")
    monkeypatch.setattr(runner, "CGROUPS", str(tmp_path))
    monkeypatch.setattr(runner, "CGROUP", str(tmp_path / "cgroup"))
    assert runner.quota() == (float("inf") if cores is None else cores)
    said: list[dict[str, Any]] = []
    job = {"backend": "none", "threads": 1}
    monkeypatch.setattr(runner, "usable_cores", lambda: 8)
    runner.probe(job, SimpleNamespace(version="1", identity={}), said.append)
    assert said[0]["fingerprint"].get("quota_cores") == (None if cores is None else f"{cores:g}")
    assert said[0]["facts"].get("quota_cores") == cores
    warned = warnings(8, said[0]["facts"])
    assert any("of a core: it is stopped now" in w for w in warned) == (cores == 0.5)
    runner.require_cores(1)
    if cores is not None:
        with pytest.raises(runner.Refused, match="4 threads, and it may use"):
            runner.require_cores(4)


def test_big_cores_are_all_but_the_slowest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = [1800, 1800, 1800, 1800, 2400, 2400, 2400, 3000]
    for core, mhz in enumerate(speeds):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{mhz}000\n")
    monkeypatch.setattr(runner, "CPUS", str(tmp_path))
    assert runner.cores_meant("big") == {4, 5, 6, 7}
    assert runner.cores_meant("little") == {0, 1, 2, 3}
    monkeypatch.setattr(runner, "CPUS", str(tmp_path / "cpu7"))
    with pytest.raises(runner.Refused, match="all alike: big means none"):
        runner.cores_meant("big")


def test_energy_is_read_where_it_is_counted_and_said_to_be_absent_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "POWERCAP", str(tmp_path))
    assert runner.Rapl().why == "this machine has no RAPL counters"
    for zone, now in (("0", 90), ("1", 50)):
        folder = tmp_path / f"intel-rapl:{zone}"
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("100\n")
        (folder / "energy_uj").write_text(f"{now}\n")
    energy = runner.Rapl()
    before = energy.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("20")  # past its range
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("57")
    assert (energy.why, energy.since(before)) == ("", 30 + 7)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("")
    assert "cannot be read by this user" in runner.Rapl().why


def test_a_provider_that_is_not_there_is_refused_with_those_that_are() -> None:
    cuda = replace(CPU, runtime=OnnxRuntime(provider="NoSuchExecutionProvider"))
    with pytest.raises(DeviceError, match=r"has no NoSuchExecutionProvider, only .*CPUExecution"):
        probe(cuda)


def test_a_model_that_falls_back_to_the_cpu_has_failed(tmp_path: Path) -> None:
    remote = replace(CPU, runtime=OnnxRuntime(provider="AzureExecutionProvider"))
    if "Azure" not in str(ort.get_available_providers()):
        pytest.skip("this onnxruntime has no provider beside the CPU")
    assert probe(remote)[0]["provider"] == "AzureExecutionProvider"
    (event,) = time_models(remote, {"a": model(tmp_path / "a.onnx")}, [(0, "a")], FEW)
    assert isinstance(event, Refusal) and event.status == "failed"
    assert "1 of 1 nodes fell back from AzureExecutionProvider to the CPU: Relu" in event.reason


def test_the_share_of_a_delegate_is_told(tmp_path: Path) -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 1)), (3, 8, 8))
    artifact = Tflite().network(graph, tmp_path / "m.tflite", {})
    events = list(time_models(load_device("cpu-litert"), {"m": artifact}, [(0, "m")], FEW))
    assert [e for e in events if isinstance(e, Placement)] == [Placement("m", 2, 0)]
    nodes = [
        {"op_name": "A", "inputs": [0], "outputs": [1]},
        {"op_name": "B", "inputs": [1], "outputs": [2]},
        {"op_name": "C", "inputs": [2], "outputs": [3]},
        {"op_name": "DELEGATE", "inputs": [0], "outputs": [2]},
    ]
    assert runner._delegated(nodes) == (3, 1)
    assert runner._delegated(nodes[:3]) == (3, 3)


SSH = "runtime: {kind: litert}\ntransport: {kind: ssh, host: pi@board, "
AFFINITY = "transport: {kind: local}\nruntime: {kind: litert, affinity: "
LOCAL = "runtime: {kind: litert}\ntransport: {kind: local}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("transport: {kind: local}\nruntime: {kind: litert, affinity: fast}", "say big, little"),
        (AFFINITY + "0-9999999999}", "affinity cannot be '0-9999999999'; say big, little, or the"),
        (AFFINITY + "0-30000000}", "affinity cannot be '0-30000000'; say"),
        (AFFINITY + "'0,10000'}", "affinity cannot be '0,10000'; say"),
        (AFFINITY + f"'{'1,' * 9 + '9' * 5000}'}}", "affinity cannot be '1,1,"),
        (AFFINITY + "'٣'}", "affinity cannot be '٣'; say"),
        (AFFINITY + "1-0}", "affinity 1-0 names no core; did you mean 0-1?"),
        (AFFINITY + "'0,7-4,9'}", "affinity 7-4 names no core; did you mean 4-7?"),
        ("transport: {kind: locl}\nruntime: {kind: litert}", "no transport 'locl'. Did you mean"),
        ("transport: {kind: local}\nruntime: {kind: onnx-runtime}", "no runtime 'onnx-runtime'"),
        ("transport: {}\nruntime: {kind: litert}", "transport: kind is missing"),
        ("transport: {kind: 7}\nruntime: {kind: litert}", "transport: kind cannot be 7. Known"),
        (SSH + "options: ProxyJump=gate}", "; write a list: options: [ProxyJump=gate]"),
        (SSH + "options: {ProxyJump: gate}}", "; write a list: options: [ProxyJump=gate]"),
        (SSH + "options: {User: pi, Port: 22}}", "write a list: options: [User=pi, Port=22]"),
        (SSH + "options: 7}", "options: Input should be a valid tuple, not 7; write a list"),
        (SSH + "options: [7]}", "options.0: Input should be a valid string, not 7"),
        (SSH + "options: [[a, b]]}", "options.0: Input should be a valid string"),
        (SSH + "options: ['']}", "options[0] cannot be ''"),
        (SSH + 'options: ["a=b\\nc=d"]}', "options[0] cannot be"),
        (SSH + "port: ssh}", "port: Input should be a valid integer"),
        (SSH + "port: 0}", "port: Input should be greater than or equal to 1, not 0"),
        (SSH + "port: 65536}", "port: Input should be less than or equal to 65535, not 65536"),
        (SSH + "port: true}", "port: expected no true or false"),
        (SSH + "port: 22.5}", "port: Input should be a valid integer"),
        (SSH + "patience_s: .inf}", "patience_s: Input should be a finite number"),
        (SSH + "patience_s: -1}", "patience_s: Input should be greater than or equal to 0"),
        (SSH + "patience_s: long}", "patience_s: Input should be a valid number"),
        (SSH + "folder: [a]}", "folder: Input should be a valid string"),
        ("runtime: {kind: litert}\ntransport: {kind: ssh, host: 7}", "host: Input should be a val"),
        ("runtime: {kind: litert}\ntransport: {kind: ssh}", "host: Field required"),
        ("runtime: {kind: litert}\ntransport: {kind: adb, serial: 7}", "serial: Input should be"),
        (LOCAL + "precisions: fp32", "; write a list: precisions: [fp32]"),
        (LOCAL + "precisions: {fp32: int8-static}", "precisions: Input should be a valid tuple"),
        (LOCAL + "description: [a]", "description: Input should be a valid string"),
        ("transport: {kind: local}", "runtime: Field required"),
        ("transport: {kind: local}\nruntime: {kind: litert, thread: 2}", "Did you mean 'threads'"),
        ("transport: {kind: local}\nruntime: {kind: litert, threads: 0}", "equal to 1, not 0"),
        ("transport: {kind: local}\nruntime: {kind: litert, threads: many}", "not 'many'"),
        ("transport: local\nruntime: {kind: litert}", "transport: Input should be a valid dict"),
        ("transport: {kind: local}\nruntim: {kind: litert}", "unknown key 'runtim'"),
        ("{", "is not YAML"),
        ("- 1", "expected keys and values"),
    ],
)
def test_a_bad_device_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as e:
        load_device(str(path))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'cpu-litert'"):
        load_device("cpu-litrt")


def test_a_device_file_in_the_working_folder_wins(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "devices").mkdir()
    mine = tmp_path / "devices" / "cpu-litert.yaml"
    mine.write_text("transport: {kind: local}\nruntime: {kind: litert, threads: 2}")
    assert load_device("cpu-litert").runtime.options == {"threads": 1}
    monkeypatch.chdir(tmp_path)
    assert load_device("cpu-litert").runtime.options == {"threads": 2}


def test_probing_and_timing_need_no_torch() -> None:
    code = (
        "import sys; from edgenas import session; from edgenas.device import load_device;"
        "session.probe(load_device('cpu-onnxruntime')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_visits_come_in_the_order_asked_for_and_only_those(tmp_path: Path) -> None:
    models = {"a": model(tmp_path / "a.onnx"), "b": model(tmp_path / "b.onnx", "Neg")}
    visits = [(3, "b"), (3, "a"), (7, "b")]
    events = list(time_models(CPU, models, visits, FEW))
    assert [(e.round, e.id) for e in events if isinstance(e, Visit)] == visits
    assert all(len(e.ns) == 3 and min(e.ns) > 0 for e in events if isinstance(e, Visit))


def test_the_time_spent_in_timed_calls_is_told(tmp_path: Path) -> None:
    events = time_models(CPU, {"a": model(tmp_path / "a.onnx")}, [(0, "a"), (1, "a")], FEW)
    ns = 0
    try:
        while True:
            ns += sum(next(events).ns)
    except StopIteration as end:
        assert end.value == ns > 0


def test_models_that_cannot_run_are_refused_with_reason_and_the_others_timed(
    tmp_path: Path,
) -> None:
    torn = model(tmp_path / "torn.onnx")
    torn.path.write_bytes(torn.path.read_bytes()[:20])
    models = {
        "odd": model(tmp_path / "odd.onnx", "Teleport"),
        "torn": torn,
        "fine": model(tmp_path / "fine.onnx"),
    }
    visits = [(0, "odd"), (0, "torn"), (0, "fine")]
    odd, broken, fine = time_models(CPU, models, visits, FEW)
    assert isinstance(odd, Refusal) and odd.status == "unsupported" and "Teleport" in odd.reason
    assert isinstance(broken, Refusal) and (broken.id, broken.status) == ("torn", "failed")
    assert isinstance(fine, Visit) and fine.id == "fine"


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_predictions_on_the_device_are_those_of_the_model(tmp_path: Path, batch) -> None:
    x = np.random.default_rng(0).standard_normal((11, *SHAPE)).astype(np.float32)
    y = predict(CPU, model(tmp_path / "a.onnx", batch=batch), x, batch=4)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    assert y.dtype == np.float32


def test_images_of_another_shape_or_none_are_refused(tmp_path: Path) -> None:
    artifact = model(tmp_path / "a.onnx")
    for bad in ((2, 3, 5, 4), (0, *SHAPE), SHAPE):
        with pytest.raises(UsageError, match="takes images of shape"):
            predict(CPU, artifact, np.zeros(bad, np.float32))


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    artifact = replace(model(tmp_path / "a.onnx"), format="tflite")
    with pytest.raises(CapabilityError, match="cpu runs onnx"):
        list(time_models(CPU, {"a": artifact}, [(0, "a")], FEW))


@pytest.mark.parametrize(
    ("runtime", "packages", "missing"),
    [
        (OnnxRuntime(), (), "numpy"),
        (OnnxRuntime(), ("numpy",), "onnxruntime"),
        (LiteRt(), ("numpy",), "ai-edge-litert"),
    ],
)
def test_a_missing_package_says_what_to_install(
    tmp_path: Path, runtime, packages: tuple[str, ...], missing: str
) -> None:
    device = replace(bare_python(tmp_path, *packages), runtime=runtime)
    with pytest.raises(DeviceError, match=rf"^cpu: .*pip install {missing}$"):
        probe(device)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo out of paper >&2; exit 7", "failed with code 7: out of paper"),
        ("exit 7", "failed with code 7 and said nothing"),
        ("echo hello", "the runner said 'hello', which is not a JSON object"),
        ("echo '[1]'", "which is not a JSON object"),
        ("exit 0", "the runner stopped before its end: is '.*' there a Python that starts"),
        ("kill -9 $$", "was ended by SIGKILL"),
        ("""echo '{"event": "loading", "id": "conv"}'; exit 9""", r"while loading 'conv'\)"),
    ],
)
def test_a_failing_runner_is_one_line_with_what_it_said(
    tmp_path: Path, body: str, message: str
) -> None:
    with pytest.raises(DeviceError, match=message) as e:
        probe(script(tmp_path, body))
    assert "\n" not in str(e.value)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ('{"event": "end"}', "'fingerprint' is missing"),
        ('{"event": "end", "fingerprint": {"cpu": "x"}}', "'facts' is missing"),
        ('{"event": "end", "fingerprint": [1], "facts": {}}', "'fingerprint' is not an object"),
        ('{"event": "end", "fingerprint": {}, "facts": {}}', "'fingerprint' is empty"),
        ('{"event": "end", "fingerprint": {"cpu": null}, "facts": {}}', "'cpu' of 'fingerprint'"),
        ('{"event": "end", "fingerprint": {"cores": "2"}, "facts": {}}', "'cores' is not a num"),
        ('{"event": "end", "fingerprint": {"cpu": "x"}, "facts": 7}', "'facts' is not an object"),
        ('{"event": "end", "fingerprint": {"a": NaN}, "facts": {}}', "not a JSON object"),
        ('{"event": "refused"}', "'reason' is missing"),
        ('{"event": "refused", "reason": {}}', "'reason' is not text"),
        ('{"event": "refused", "reason": "two\\\\nlines"}', "two lines"),
        ('{"event": "loading"}', "'id' is missing"),
        ('{"event": "loading", "id": 7}', "'id' is not text"),
        (f'{{"event": {DEEP}', "not a JSON object"),
        ("null", "not a JSON object"),
        ("", "not a JSON object"),
        ("{}", "stopped before its end"),
        ('{"event": ["end"]}', "stopped before its end"),
    ],
)
def test_an_answer_of_another_form_is_one_line(tmp_path: Path, said: str, what: str) -> None:
    (tmp_path / "said").write_text(said.replace("\\\\n", "\\n") + "\n")
    with pytest.raises(DeviceError, match="^cpu.*" + what) as e:
        probe(script(tmp_path, f"cat {tmp_path}/said"))
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


TIMED = '{"id": "a", "round": 0, "ns": [5]}'
END = '{"event": "end", "timed_ns": 5}'


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ([TIMED, '{"event": "end"}'], "'timed_ns' is missing"),
        ([TIMED, '{"event": "end", "timed_ns": "5"}'], "'timed_ns' is not a number"),
        ([TIMED, '{"event": "end", "timed_ns": true}'], "'timed_ns' is not a number"),
        ([END], "left out 1 of 1 timings"),
        ([TIMED, TIMED, END], "nothing was asked for"),
        (['{"id": "b", "round": 0, "ns": [5]}', END], "nothing was asked for"),
        (['{"id": "a", "round": 1, "ns": [5]}', END], "nothing was asked for"),
        (['{"round": 0, "ns": [5]}', END], "'id' is missing"),
        (['{"id": "a", "ns": [5]}', END], "'round' is missing"),
        (['{"id": "a", "round": 0.5, "ns": [5]}', END], "'round' is not a number"),
        (['{"id": "a", "round": 0, "ns": []}', END], "'ns' is not a list of numbers"),
        (['{"id": "a", "round": 0, "ns": 5}', END], "'ns' is not a list"),
        (['{"id": "a", "round": 0, "ns": [-5]}', END], "'ns' is not a list of numbers"),
        (['{"id": "a", "round": 0, "ns": [5, "6"]}', END], "'ns' is not a list of numbers"),
        ([f'{{"id": "a", "round": 0, "ns": [{2**70}]}}', END], "'ns' is not a list of numbers"),
        (['{"id": "a", "round": 0, "ns": [5], "uj": "x"}', END], "'uj' is not a number"),
        (['{"id": "a", "status": "failed"}', END], "'reason' is missing"),
        (['{"id": "b", "status": "failed", "reason": ""}', END], "none that was asked for"),
        (['{"id": "a", "status": "sad", "reason": ""}', END], "'status' is neither"),
        (['{"event": "placed", "id": "a", "nodes": 1}', TIMED, END], "'outside' is missing"),
        (['{"event": "placed", "nodes": 1, "outside": 0}', TIMED, END], "'id' is missing"),
    ],
)
def test_timings_of_another_form_are_one_line(tmp_path: Path, said: list[str], what: str) -> None:
    (tmp_path / "said").write_text("\n".join(said) + "\n")
    device, models = script(tmp_path, f"cat {tmp_path}/said"), {"a": model(tmp_path / "a.onnx")}
    with pytest.raises(DeviceError, match=f"^cpu: .*{what}") as e:
        list(time_models(device, models, [(0, "a")], FEW))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("said", ["", ', "bytes": "7"', ', "bytes": 1.5', ', "bytes": []'])
def test_memory_of_another_form_is_one_line(tmp_path: Path, said: str) -> None:
    (tmp_path / "said").write_text(f'{{"event": "end"{said}}}\n')
    artifact = model(tmp_path / "a.onnx")
    with pytest.raises(DeviceError, match=r"^cpu: .*'bytes' is"):
        memory_bytes(script(tmp_path, f"cat {tmp_path}/said"), artifact, artifact)


@pytest.mark.parametrize(
    "said",
    ["{}", '{"load": 1}', '{"load": 1, "store": 1, "simd": 1, "branch": 1, "integer": "1"}', "7",
     '{"load": 1, "store": 1, "simd": 1, "branch": 1, "integer": 1, "more": 1}'],
)  # fmt: skip
def test_counts_of_another_form_are_one_line(tmp_path: Path, said: str) -> None:
    (tmp_path / "said").write_text(f'{{"id": "a", "counts": {said}}}\n{{"event": "end"}}\n')
    device = script(tmp_path, f"cat {tmp_path}/said")
    with pytest.raises(DeviceError, match=r"^cpu: .*'counts' is not"):
        list(count(device, {"a": model(tmp_path / "a.onnx")}, 2))


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (None, "no array of numbers"),
        (b"\x93NUMPY\x01\0", "no array of numbers"),
        (np.zeros((1, 3), np.float32), "answered for 1 of 2 images"),
        (np.zeros((2, 3)), "not float32"),
        (np.zeros(2, np.float32), "not float32"),
        ("huge", "no array of numbers"),
    ],
)
def test_outputs_of_another_form_are_one_line(tmp_path: Path, array: object, what: str) -> None:
    made = tmp_path / "made"
    match array:
        case np.ndarray():
            with made.open("wb") as file:
                np.save(file, array)
        case bytes():
            made.write_bytes(array)
        case "huge":
            with made.open("wb") as file:
                np.save(file, np.zeros((2, 3), np.float32))
            made.write_bytes(made.read_bytes().replace(b"(2, 3), ", b"(2, 3000000000), ", 1))
        case _:
            made.write_bytes(b"")
    fake = tmp_path / "run.py"
    fake.write_text(
        "import json, shutil, sys\n"
        f"shutil.copyfile({str(made)!r}, json.load(open(sys.argv[2]))['output'])\n"
        'print(json.dumps({"event": "end"}))\n'
    )
    device = script(tmp_path, f'exec {sys.executable} {fake} "$@"')
    with pytest.raises(DeviceError, match=f"^cpu.*{what}") as e:
        predict(device, model(tmp_path / "a.onnx"), np.zeros((2, *SHAPE), np.float32))
    assert "\n" not in str(e.value)


def test_one_bad_device_never_ends_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "devices"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    (folder / "odd.yaml").write_text("transport: {kind: local}\nruntime: {kind: onnxruntime}\n")
    (folder / "empty.yaml").write_text("")
    (folder / "folder.yaml").mkdir()
    (folder / "link.yaml").symlink_to("nowhere")
    (folder / "deep.yaml").write_text("[" * 5000)
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    real = doctor.probe

    def bad(device: Device) -> object:
        if device.name == "odd":
            raise KeyError("a plug-in's own\nmistake")
        return real(device)

    monkeypatch.setattr(doctor, "probe", bad)
    few = {**{p.stem: p for p in folder.iterdir()}, "cpu-onnxruntime": Path()}
    monkeypatch.setattr(doctor, "device_files", lambda: few)
    found = {f.name.removeprefix("device "): f for f in doctor._devices()}
    assert {"odd", "empty", "folder", "deep", "binary", "cpu-onnxruntime"} <= set(found)
    assert "KeyError" in found["odd"].detail and found["cpu-onnxruntime"].ok
    assert not any("\n" in f.detail for f in found.values())
    assert main(["devices"]) == 0
    assert "cpu-onnxruntime" in capsys.readouterr().out


def test_no_interpreter_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="cannot start /nowhere/python"):
        probe(replace(CPU, transport=Local("/nowhere/python")))


def test_much_standard_error_does_not_block_the_runner(tmp_path: Path) -> None:
    device = script(tmp_path, f'head -c 1000000 /dev/zero >&2; exec {sys.executable} "$@"')
    assert probe(device)[0] == probe(CPU)[0]


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_closing_a_session_ends_its_process(tmp_path: Path) -> None:
    visits = [(i, "a") for i in range(100_000)]
    events = time_models(CPU, {"a": model(tmp_path / "a.onnx")}, visits, FEW)
    next(events)
    assert len(children()) == 2  # the runner, and what ends it with us
    events.close()
    assert children() == []


def test_closing_a_session_ends_what_its_process_started(tmp_path: Path) -> None:
    device = script(tmp_path, f'{sys.executable} "$@"; exit $?')
    events = time_models(
        device, {"a": model(tmp_path / "a.onnx")}, [(i, "a") for i in range(100_000)], FEW
    )
    next(events)
    below = children()
    assert len(below) == 3
    events.close()
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive


def test_a_killed_host_leaves_no_runner_behind(tmp_path: Path) -> None:
    model(tmp_path / "a.onnx")
    code = f"""
from edgenas.artifact import Artifact
from edgenas.device import load_device, read_device
from edgenas.session import Pace, time_models
from pathlib import Path
a = Artifact.of(Path({str(tmp_path / "a.onnx")!r}), "onnx", "fp32", {SHAPE})
visits = [(i, "a") for i in range(1_000_000)]
for e in time_models(load_device("cpu-onnxruntime"), {{"a": a}}, visits, Pace(1.0)):
    print(e.round, flush=True)
"""
    host = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert host.stdout is not None
    with host:
        assert host.stdout.readline() == b"0\n"
        runners = psutil.Process(host.pid).children()
        assert len(runners) == 1
        host.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(runners, timeout=30)
    assert not alive


def test_ctrl_c_ends_host_and_runner_without_a_word_of_the_runner(tmp_path: Path) -> None:
    artifact = model(tmp_path / "a.onnx")
    events = time_models(CPU, {"a": artifact}, [(i, "a") for i in range(100_000)], FEW)
    with pytest.raises(KeyboardInterrupt):
        for _ in events:
            signal.raise_signal(signal.SIGINT)
    events.close()
    assert children() == []


def test_an_untimed_call_comes_first_and_limits_hold() -> None:
    calls: list[int] = []
    samples = runner.timed(lambda: calls.append(1), 0, 5, 100)
    assert (len(samples), len(calls)) == (5, 6)
    assert len(runner.timed(lambda: None, 1e12, 5, 9)) == 9


def test_the_runner_is_one_file_of_old_python_that_needs_nothing_of_edgenas() -> None:
    tree = ast.parse(Path(runner.__file__).read_text(), feature_version=(3, 9))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_what_a_runtime_prints_does_not_reach_the_answer(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"verb": "probe", "backend": "onnxruntime", "threads": 1}))
    noisy = tmp_path / "onnxruntime.py"
    noisy.write_text("import os; print('hi'); os.system('echo hello'); __version__ = '1'")
    done = subprocess.run(
        [sys.executable, runner.__file__, str(job)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["fingerprint"]["runtime_version"] == "1"


def test_the_neighbours_of_the_runner_do_not_shadow_modules(tmp_path: Path) -> None:
    alone = tmp_path / "runner.py"
    alone.write_text(Path(runner.__file__).read_text())
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"verb": "probe", "backend": "onnxruntime", "threads": 1}))
    subprocess.run([sys.executable, str(alone), str(job)], check=True, capture_output=True)


def test_timing_writes_nothing_into_the_home_folder(tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    list(time_models(CPU, {"a": model(tmp_path / "a.onnx")}, [(0, "a")], FEW))
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("bad", [{"visit_ms": 0}, {"visit_ms": 1, "min_calls": 0}])
def test_a_pace_without_calls_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(EdgenasError):
        Pace(**bad)


def test_a_broken_device_file_says_which_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "empty.yaml").write_text("")
    (tmp_path / "devices" / "none.yaml").write_text(
        "{transport: {kind: local}, runtime: {kind: onnxruntime, threads: 0}}"
    )
    assert main(["devices"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "devices/empty.yaml" in lines["empty"] and "local + litert" in lines["cpu-litert"]
    assert "devices/none.yaml: runtime: threads" in lines["none"] and "equal to 1" in lines["none"]


RUNS = [
    ("transport: {{kind: local, python: {program}}}", "python: "),
    ("transport: {{kind: ssh, host: board, options: ['ProxyCommand={program}']}}", "ProxyCommand"),
    ("transport: {{kind: ssh, host: board, options: ['proxycommand {program}']}}", "proxycomm"),
    ("transport: {{kind: ssh, host: board, options: ['\"ProxyCommand\"={program}']}}", "ProxyComm"),
    (
        "transport: {{kind: ssh, host: board, options: ['KnownHostsCommand={program}']}}",
        "KnownHosts",
    ),
    ("transport: {{kind: ssh, host: board, options: ['User=x', 'Include={program}']}}", "Include"),
    ("transport: {{kind: ssh, host: board, options: ['Match exec {program}']}}", "Match exec"),
    ("transport: {{kind: ssh, host: board, options: ['PKCS11Provider={program}']}}", "PKCS11"),
]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``devices`` in it whose user was asked nothing yet; where programs note it."""
    monkeypatch.delenv("EDGENAS_TRUST_DEVICES", raising=False)
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    (tmp_path / "program").write_text(f"#!/bin/sh\necho ran >> {tmp_path}/ran\nexit 1\n")
    (tmp_path / "program").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("transport", "said"), RUNS)
def test_what_a_device_file_runs_here_is_said_and_asked_for_once(
    asked: Path,
    transport: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = asked / "devices" / "mine.yaml"
    monkeypatch.setattr(doctor, "device_files", lambda: {"mine": path})  # the others take long
    text = f"{transport}\nruntime: {{{{kind: onnxruntime}}}}\n"
    path.write_text(text.format(program=asked / "program"))
    for name in ("mine", "devices/mine.yaml", str(path)):
        with pytest.raises(UsageError, match=f"starts programs.*{said}.*--trust.*TRUST_DEVICES=1"):
            load_device(name)
    assert main(["devices"]) == 0 and main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "not trusted yet" in out and "miss device mine" in out
    assert not (asked / "ran").exists()
    assert main(["devices", "--trust", "mine"]) == 0
    assert said in capsys.readouterr().out
    assert load_device("mine").name == "mine"
    assert main(["devices"]) == 0 and "not trusted yet" not in capsys.readouterr().out
    path.write_text(path.read_text() + "# another content\n")
    with pytest.raises(UsageError, match="starts programs"):
        load_device("mine")
    path.write_text(path.read_text().removesuffix("# another content\n"))
    load_device("mine")
    elsewhere = asked / "elsewhere.yaml"  # where the same words may mean other programs
    elsewhere.write_text(path.read_text())
    with pytest.raises(UsageError, match="starts programs"):
        load_device(str(elsewhere))
    assert not (asked / "ran").exists()


@pytest.mark.parametrize("answer", ["y", "yes", "", "n", "no"])
def test_a_terminal_is_asked(
    asked: Path, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = asked / "devices" / "mine.yaml"
    path.write_text("transport: {kind: local, python: ./program}\nruntime: {kind: litert}\n")
    given = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(given, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", given)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    if answer.startswith("y"):
        load_device("mine")
        load_device("mine")  # once
    else:
        with pytest.raises(UsageError, match="starts programs"):
            load_device("mine")
    assert capsys.readouterr().err.count("[y/N]") == 1


def test_where_nobody_can_be_asked_a_variable_allows(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = asked / "devices" / "mine.yaml"
    path.write_text("transport: {kind: local, python: ./program}\nruntime: {kind: litert}\n")
    for value in ("0", "", "no"):
        monkeypatch.setenv("EDGENAS_TRUST_DEVICES", value)
        with pytest.raises(UsageError, match="starts programs"):
            load_device("mine")
    monkeypatch.setenv("EDGENAS_TRUST_DEVICES", "1")
    load_device("mine")


def test_a_device_that_starts_nothing_here_is_not_asked_for(asked: Path) -> None:
    for number, transport in enumerate((
        "kind: local", "kind: ssh, host: pi@board, python: venv/bin/python",
        "kind: ssh, host: b, options: [ProxyJump=gate, User=pi, 'IdentityFile ~/.ssh/key']",
        "kind: adb, serial: X", "kind: qemu",
    )):  # fmt: skip
        path = asked / "devices" / f"d{number}.yaml"
        path.write_text(f"transport: {{{transport}}}\nruntime: {{kind: onnxruntime}}\n")
        assert load_device(path.stem).starts_here == ()


def test_a_file_in_the_place_of_ours_is_told_in_one_line(
    asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = asked / "devices" / "cpu-litert.yaml"
    path.write_text("transport: {kind: local}\nruntime: {kind: litert, threads: 2}\n")
    for _ in range(3):
        load_device("cpu-litert")
    load_device("cpu-onnxruntime")
    (line,) = capsys.readouterr().err.splitlines()
    assert "devices/cpu-litert.yaml is used as cpu-litert" in line
    assert main(["devices"]) == 0
    rows = [r for r in capsys.readouterr().out.splitlines() if "in place of ours" in r]
    assert len(rows) == 1 and rows[0].startswith("cpu-litert ")


def test_a_device_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "board.yaml")
    with pytest.raises(UsageError, match=r"board\.yaml is no regular file"):
        read_device(tmp_path / "board.yaml")
