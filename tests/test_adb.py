"""The real adb client against a real adbd, in a network namespace of their own.

Debian's adbd listens everywhere and asks nobody who they are: it must not run outside of one.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from edgenas import native, ops
from edgenas.device import Device, load_device
from edgenas.errors import DeviceError, UsageError
from edgenas.exporters.ncnn import Ncnn as Writer
from edgenas.graph import trace
from edgenas.profile import profile
from edgenas.remote import Answer, Disconnected
from edgenas.rounds import Effort
from edgenas.runtimes.ncnn import Ncnn
from edgenas.runtimes.onnxruntime import OnnxRuntime
from edgenas.session import predict
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec
from edgenas.transports.adb import Adb

TREE = Path(os.environ.get("EDGENAS_ADBD", Path(__file__).parent.parent / ".cache" / "adbd"))
TOOLS = TREE / "usr/lib/android-sdk/platform-tools"
LOADERS = sorted(TREE.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
SPACE = Mobile(
    resolution=8, channels=1, classes=3, stem=4, stem_stride=1, first=4, widths=(8,),
    depths=(2,), strides=(2,), head=8, kernels=(3, 5), expansions=(1, 2),
)  # fmt: skip


def isolated() -> bool:
    """Whether this user may have a network namespace."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run(["unshare", "-r", "-n", "true"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.skipif(not (TOOLS / "adbd").exists(), reason="no adbd: run .ci/adbd"),
    pytest.mark.skipif(not isolated(), reason="no network namespaces for this user"),
]


class Phones:
    """A network namespace with daemons in it; ``adb`` on the PATH is one that enters it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.daemons: dict[int, subprocess.Popen[bytes]] = {}
        loader = LOADERS[0]
        libraries = f"{loader.parent}:{loader.parent}/android"
        self.inside = [str(loader), "--library-path", libraries]
        ready = home / "ready"
        os.mkfifo(ready)
        up = f"ip link set lo up; echo up > {ready}; exec sleep infinity"
        self.namespace = subprocess.Popen(["unshare", "-r", "-n", "sh", "-c", up])
        assert ready.read_text() == "up\n"
        self.enter = [
            "nsenter", "-t", str(self.namespace.pid), "-U", "-n", "--preserve-credentials",
            "env", f"HOME={home}", "ANDROID_ADB_SERVER_PORT=15037", f"TMPDIR={home}",
        ]  # fmt: skip
        (home / "bin").mkdir()
        adb = home / "bin" / "adb"
        adb.write_text(
            f'#!/bin/sh\nexec {" ".join([*self.enter, *self.inside])} {TOOLS}/adb "$@"\n'
        )
        adb.chmod(0o755)
        with (home / "server.log").open("wb") as log:  # it cannot start itself through a loader
            self.server = subprocess.Popen([adb, "nodaemon", "server"], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while "List of devices" not in (said := self.adb("devices")):
            assert time.monotonic() < deadline, said

    def adb(self, *arguments: str) -> str:
        command = [str(self.home / "bin" / "adb"), *arguments]
        with (self.home / "said").open("w+") as said:  # the server it starts holds a pipe open
            subprocess.run(command, stdout=said, stderr=said, check=False)
            said.seek(0)
            return said.read()

    def start(self, port: int) -> str:
        """A daemon; its serial."""
        command = [*self.enter, f"ADBD_PORT={port}", *self.inside, str(TOOLS / "adbd")]
        with (self.home / f"adbd-{port}.log").open("ab") as log:
            self.daemons[port] = subprocess.Popen(command, stdout=log, stderr=log)
        serial = f"127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while "connected to" not in (said := self.adb("connect", serial)):
            assert time.monotonic() < deadline, said
        return serial

    def kill(self, port: int) -> None:
        """The daemon, not what runs behind it."""
        daemon = self.daemons.pop(port)
        daemon.kill()
        daemon.wait()

    def cut(self, port: int) -> None:
        self.kill(port)
        self.start(port)

    def stop(self) -> None:
        self.server.kill()
        self.server.wait()
        for port in list(self.daemons):
            self.kill(port)
        self.namespace.kill()
        self.namespace.wait()


@pytest.fixture
def phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phones]:
    home = tmp_path / "adb"
    home.mkdir()
    phones = Phones(home)
    monkeypatch.setenv("PATH", f"{home}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    yield phones
    phones.stop()


@pytest.fixture
def phone(phones: Phones, tmp_path: Path) -> Adb:
    serial = phones.start(15555)
    folder = str(tmp_path / "there")
    return Adb(serial, python=sys.executable, folder=folder, patience_s=30)


COUNT = "for i in $(seq 2000); do echo line $i; done; sleep 0.2; printf end"


def test_a_command_there_says_what_it_says_here(phone: Adb) -> None:
    said = list(phone.lines(["sh", "-c", COUNT]))
    assert said == [f"line {i}\n" for i in range(1, 2001)] + ["end"]
    with pytest.raises(DeviceError, match=r"sh failed with code 7 there: no good$"):
        list(phone.lines(["sh", "-c", "echo no good >&2; exit 7"]))
    answer = phone.run("printf 'a\\0b\\r\\n'; echo said >&2; exit 1")
    assert (answer.code, answer.out, answer.err) == (1, b"a\0b\r\n", "said\n")


@pytest.mark.parametrize("name", ["a'; touch HACKED #", "$(touch HACKED)", "-rf", "two\nlines"])
def test_no_name_reaches_a_shell(phone: Adb, tmp_path: Path, name: str) -> None:
    path, content = tmp_path / name, random.Random(0).randbytes(300_000)
    path.write_bytes(content)
    (there,) = phone.push([path])
    assert Path(there).read_bytes() == content
    assert list(phone.lines(["printf", "%s", name])) == name.splitlines(keepends=True)
    phone.pull(there, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert not list(tmp_path.rglob("HACKED")) and not Path("HACKED").exists()


def test_files_are_placed_beside_our_folder(phone: Adb, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    there = Path(phone.place({"model.onnx": tmp_path / "a"}, "my model"))
    assert there == Path(phone.folder).parent / "my model"
    assert (there / "model.onnx").read_bytes() == b"one"


@pytest.mark.parametrize("field", ["serial", "python", "folder"])
@pytest.mark.parametrize("bad", ["-H", "", "a\nb"])
def test_what_would_be_an_option_or_two_lines_is_refused(field: str, bad: str) -> None:
    with pytest.raises(UsageError, match=f"transport adb: {field} cannot be"):
        replace(Adb(), **{field: bad})


def test_a_device_file_says_all_that_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "phone.yaml"
    path.write_text("transport: {kind: adb, serial: R58M}\nruntime: {kind: onnxruntime}\n")
    assert load_device(str(path)).transport == Adb("R58M")


def test_a_full_profile_with_the_daemon_killed_at_random_has_every_row_once(
    phone: Adb, phones: Phones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device("board", phone, OnnxRuntime())
    rng, run = random.Random(1), Adb.run
    cuts: list[threading.Timer] = []
    commands, due = 0, 3

    def cut_during(adb: Adb, script: str, stdin: bytes = b"") -> Answer:
        nonlocal commands, due
        commands += 1
        if commands >= due and len(cuts) < 5 and not any(cut.is_alive() for cut in cuts):
            due = commands + rng.randint(1, 4)
            cuts.append(threading.Timer(rng.uniform(0.0, 0.3), phones.cut, (15555,)))
            cuts[-1].start()
        return run(adb, script, stdin)

    monkeypatch.setattr(Adb, "run", cut_during)
    try:
        table = profile(
            device, SPACE, "fp32", tmp_path / "tables", networks=12, allow_unstable=True,
            effort=Effort(passes=2, rounds=6, visit_ms=2.0, extensions=0, settling=0),
        )  # fmt: skip
    finally:
        for cut in cuts:
            cut.join()
    assert len(cuts) == 5
    assert set(table.rows) == SPACE.vocabulary()
    assert all(row.n >= 12 * 5 for row in (table[op] for op in table.rows))


def test_a_phone_on_which_nothing_is_installed_runs_networks(
    phone: Adb, native_runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "runner_path", lambda arch: native_runner)
    bare = Device("phone", replace(phone, python="no-python"), Ncnn(arch="x86_64"), ("fp32",))
    graph = trace(ops.build(OpSpec.parse("mbconv 8-8 @6 e4 k3 s1")).eval(), (8, 6, 6))
    artifact = Writer().network(graph, tmp_path / "m.ncnn", {})
    x = torch.randn(66, 8, 6, 6)
    got = predict(bare, artifact, x.numpy())
    np.testing.assert_allclose(got, graph(x).detach().numpy().reshape(66, -1), atol=1e-4)
    table = profile(
        bare, SPACE, "fp32", tmp_path / "tables", networks=12, allow_unstable=True,
        effort=Effort(passes=2, rounds=2, visit_ms=0.5, extensions=0, settling=0),
    )  # fmt: skip
    assert set(table.rows) == SPACE.vocabulary()


def test_one_phone_needs_no_serial_and_two_are_told_apart(
    phone: Adb, phones: Phones, tmp_path: Path
) -> None:
    assert list(replace(phone, serial=None).lines(["echo", "me"])) == ["me\n"]
    other = replace(phone, serial=phones.start(15557), folder=str(tmp_path / "other"))
    both = [phone.lines(["echo", "first"]), other.lines(["echo", "second"])]
    assert [next(lines) for lines in both] == ["first\n", "second\n"]
    for lines in both:
        lines.close()
    with pytest.raises(
        DeviceError, match=r"name one of.*15555 device, 127\.0\.0\.1:15557 dev"
    ) as e:
        list(replace(phone, serial=None).lines(["echo", "who"]))
    assert not isinstance(e.value, Disconnected)


def test_no_phone_and_no_adb_are_a_line_each(
    phones: Phones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gone in (Adb(patience_s=0), Adb("R58M", patience_s=0)):
        with pytest.raises(Disconnected, match=r"is not connected: .*debugging.*Connected: none"):
            list(gone.lines(["true"]))
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:1 is not connected"):
        list(Adb("127.0.0.1:1", patience_s=0).lines(["true"]))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="no adb can be started here: install"):
        list(Adb().lines(["true"]))


def test_closing_ends_the_command_there(phone: Adb) -> None:
    running = phone.lines(["sh", "-c", "echo $$; sleep 600"])
    pid = int(next(running))
    shell = psutil.Process(pid)
    family = [shell, *shell.children()]
    running.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not list(Path(phone.folder).glob("jobs/*")) and not Path(phone.folder, "lock").exists()


def test_a_phone_that_comes_back_is_connected_again(phone: Adb, phones: Phones) -> None:
    slow = "for i in $(seq 60); do echo line $i; sleep 0.05; done"
    said = []
    for line in phone.lines(["sh", "-c", slow]):
        said.append(line)
        if len(said) == 5:
            phones.daemons[15555].send_signal(signal.SIGKILL)
            phones.daemons.pop(15555).wait()
            phones.adb("disconnect")
            phones.start(15555)
    assert said == [f"line {i}\n" for i in range(1, 61)]
