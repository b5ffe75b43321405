"""The real OpenSSH client against a server on loopback, with keys of their own."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ssh_servers import SSHD, PythonServer, Server, Sshd, key

from edgenas import remote, talk
from edgenas.board_scripts import MARK
from edgenas.device import Device, load_device
from edgenas.errors import DeviceError, UsageError
from edgenas.files import cache_folder
from edgenas.profile import profile
from edgenas.remote import Disconnected
from edgenas.rounds import Effort
from edgenas.runtimes.onnxruntime import OnnxRuntime
from edgenas.session import probe
from edgenas.spaces.mobile import Mobile
from edgenas.transports import ssh
from edgenas.transports.adb import Adb
from edgenas.transports.local import Local
from edgenas.transports.ssh import Ssh

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on this machine")
BOTH = pytest.mark.parametrize(
    "server",
    [*([Sshd] if SSHD else []), PythonServer],
    indirect=True,
    ids=lambda kind: kind.__name__,
)
SPACE = Mobile(
    resolution=8, channels=1, classes=3, stem=4, stem_stride=1, first=4, widths=(8,),
    depths=(2,), strides=(2,), head=8, kernels=(3, 5), expansions=(1, 2),
)  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """sshd where there is one; a test may ask for another."""
    home = tmp_path / "sshd"
    home.mkdir()
    key(home / "id")
    public = key(home / "host").with_suffix(".pub").read_text()
    server = getattr(request, "param", Sshd if SSHD else PythonServer)(home)
    (home / "known").write_text(f"[127.0.0.1]:{server.port} {public}")
    yield server
    server.stop()


@pytest.fixture
def board(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ssh:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    return Ssh(
        "127.0.0.1",
        port=server.port,
        python=sys.executable,
        options=(
            f"IdentityFile={server.home}/id", "IdentitiesOnly=yes",
            f"UserKnownHostsFile={server.home}/known", "StrictHostKeyChecking=yes",
        ),
        folder=str(tmp_path / "there"),
        patience_s=20,
    )  # fmt: skip


def left(board: Ssh) -> set[str]:
    """What a board keeps when nothing runs, but the mark: pushed files."""
    kept = {p.name for p in Path(board.folder).rglob("*") if p.parent.name != "files"}
    return kept - {"files", MARK}


COUNT = "for i in $(seq 2000); do echo line $i; done; sleep 0.2; printf end"


@BOTH
def test_a_command_there_says_what_it_says_here(board: Ssh) -> None:
    said = list(board.lines(["sh", "-c", COUNT]))
    assert said == [f"line {i}\n" for i in range(1, 2001)] + ["end"]
    assert left(board) == {"jobs"}


def test_a_failing_command_is_an_error_with_the_end_of_what_it_complained(board: Ssh) -> None:
    with pytest.raises(DeviceError, match=r"sh failed with code 7 there: no good$"):
        list(board.lines(["sh", "-c", "echo no good >&2; exit 7"]))
    with pytest.raises(DeviceError, match=r"nowhere failed with code 127 there"):
        list(board.lines(["nowhere"]))
    assert left(board) == {"jobs"}


@pytest.mark.parametrize("name", ["a'; touch HACKED #", "$(touch HACKED)", "-rf", "two\nlines"])
def test_no_name_reaches_a_shell(board: Ssh, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"content")
    (there,) = board.push([path])
    assert Path(there).read_bytes() == b"content"
    assert list(board.lines(["printf", "%s", name])) == name.splitlines(keepends=True)
    board.pull(there, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    with board.scratch() as folder:
        assert Path(folder).is_dir()
    assert not list(tmp_path.rglob("HACKED")) and not Path("HACKED").exists()
    assert not (Path.home() / "HACKED").exists()


def test_files_are_placed_under_their_names_whatever_the_folder_is_called(
    board: Ssh, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"one")
    folder = tmp_path / "it's $(here) now"
    for content in (b"two", b"three"):  # what was there before is replaced
        (tmp_path / "b").write_bytes(content)
        there = board.place({"x.py": tmp_path / "a", "y.json": tmp_path / "b"}, str(folder))
        assert Path(there) == folder
        assert {p.name: p.read_bytes() for p in folder.glob("[!.]*")} == {
            "x.py": b"one",
            "y.json": content,
        }
    relative = board.place({"x": tmp_path / "a"}, board.folder + "/placed")
    assert Path(relative).is_absolute() and (Path(relative) / "x").read_bytes() == b"one"


@pytest.mark.parametrize("field", ["host", "python", "folder"])
@pytest.mark.parametrize("bad", ["-oProxyCommand=touch HACKED", "", "a\nb"])
def test_what_would_be_an_option_or_two_lines_is_refused(field: str, bad: str) -> None:
    with pytest.raises(UsageError, match=f"transport ssh: {field} cannot be"):
        replace(Ssh("board"), **{field: bad})


def test_a_device_file_says_all_that_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "pi.yaml"
    path.write_text(
        "transport: {kind: ssh, host: pi@192.0.2.7, options: [ProxyJump=gate]}\n"
        "runtime: {kind: onnxruntime, threads: 2}\n"
    )
    assert load_device(str(path)).transport == Ssh("pi@192.0.2.7", options=("ProxyJump=gate",))


def test_what_is_there_is_not_sent_again_and_a_cut_push_is_completed(
    board: Ssh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK_BYTES", 2500)
    files = [tmp_path / f"{i}.onnx" for i in range(6)]
    for i, path in enumerate(files):
        path.write_bytes(bytes([i]) * 1000)
    sent: list[int] = []
    run = Ssh.run

    def failing(self: Ssh, script: str, stdin: bytes = b"") -> remote.Answer:
        if len(sent) == 2:
            raise Disconnected("the cable came out")
        if stdin:
            sent.append(len(stdin))
        return run(self, script, stdin)

    monkeypatch.setattr(Ssh, "run", failing)
    with pytest.raises(Disconnected):
        replace(board, patience_s=0).push(files)
    monkeypatch.setattr(Ssh, "run", run)
    before = {p: p.stat().st_mtime_ns for p in (Path(board.folder) / "files").iterdir()}
    assert len(before) == 4
    there = board.push(files)
    assert [Path(p).read_bytes() for p in there] == [p.read_bytes() for p in files]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    os.utime(there[0], (0, 0))  # unused for more than a week
    replace(board).push(files[1:])  # by another session
    assert not Path(there[0]).exists()
    assert left(board) == set()


@BOTH
def test_a_connection_cut_five_times_loses_and_doubles_nothing(board: Ssh, server: Server) -> None:
    slow = "for i in $(seq 400); do echo line $i; sleep 0.01; done"
    rng = random.Random(0)
    at = sorted(rng.sample(range(10, 380), 5))
    said, cuts = [], 0
    for line in board.lines(["sh", "-c", slow]):
        said.append(line)
        if cuts < 5 and len(said) >= at[cuts]:
            server.cut()
            cuts += 1
    assert cuts == 5
    assert said == [f"line {i}\n" for i in range(1, 401)]


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_an_answer_that_arrives_cut_short_is_asked_for_again(
    board: Ssh, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    run, cut = Ssh.run, []

    def losing(self: Ssh, script: str, stdin: bytes = b"") -> remote.Answer:
        answer = run(self, script, stdin)
        if len(answer.out) > 50 and len(cut) < 2:
            cut.append(script)
            return replace(answer, out=answer.out[:kept])
        return answer

    monkeypatch.setattr(Ssh, "run", losing)
    said = list(board.lines(["sh", "-c", COUNT]))
    assert len(cut) == 2
    assert said == [f"line {i}\n" for i in range(1, 2001)] + ["end"]


def test_a_full_profile_with_the_connection_cut_at_random_has_every_row_once(
    board: Ssh, server: Server, tmp_path: Path
) -> None:
    device = Device("board", board, OnnxRuntime())
    rng, cuts, stop = random.Random(1), [], threading.Event()
    work = tmp_path / "tables"

    def saw() -> None:
        while not any(work.glob("*")):  # the campaign has begun: two cuts in its first call end it
            if stop.wait(0.05):
                return
        while len(cuts) < 5 and not stop.wait(rng.uniform(0.3, 1.5)):
            server.cut()
            cuts.append(1)

    thread = threading.Thread(target=saw)
    thread.start()
    try:
        table = profile(
            device, SPACE, "fp32", work, networks=12, allow_unstable=True,
            effort=Effort(passes=2, rounds=6, visit_ms=2.0, extensions=0),
        )  # fmt: skip
    finally:
        stop.set()
        thread.join()
    assert len(cuts) == 5
    assert set(table.rows) == SPACE.vocabulary()
    assert all(row.n >= 12 * 5 for row in (table[op] for op in table.rows))
    assert left(board) <= {"jobs"}


@BOTH
def test_an_unknown_and_a_changed_host_key_are_refused_with_advice(
    board: Ssh, server: Server, tmp_path: Path
) -> None:
    (server.home / "known").write_text("")
    with pytest.raises(DeviceError, match=r"not known here.*by hand: ssh 127\.0\.0\.1") as e:
        list(board.lines(["true"]))
    assert not isinstance(e.value, Disconnected)
    assert f"-p {server.port} -o IdentityFile=" in str(e.value)  # the same way as ours
    assert "StrictHostKeyChecking" not in str(e.value)  # which would refuse it by hand too
    other = key(tmp_path / "other").with_suffix(".pub").read_text()
    (server.home / "known").write_text(f"[127.0.0.1]:{server.port} {other}")
    with pytest.raises(DeviceError, match=r"not the one known here.*ssh-keygen -R") as e:
        list(board.lines(["true"]))
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in str(e.value)


def test_no_host_no_server_no_key_are_a_line_each(board: Ssh, server: Server) -> None:
    quick = replace(board, patience_s=0)
    with pytest.raises(DeviceError, match="no such host"):
        list(replace(quick, host="no-such-board.invalid").lines(["true"]))
    keyless = tuple(o for o in board.options if not o.startswith("IdentityFile"))
    with pytest.raises(DeviceError, match="does not let us in without a password: ssh-copy-id"):
        list(replace(quick, options=(*keyless, "IdentityFile=/dev/null")).lines(["true"]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Disconnected, match=r"cannot be reached over ssh: .*refused"):
            list(replace(quick, port=free.getsockname()[1]).lines(["true"]))


def test_one_job_at_a_time_and_whose_it_is(board: Ssh, server: Server) -> None:
    running = board.lines(["sh", "-c", "echo up; sleep 60"])
    assert next(running) == "up\n"
    with pytest.raises(DeviceError, match=r"busy with a job of .*@.*; wait for it, or end it"):
        next(board.lines(["true"]))
    running.close()
    assert list(board.lines(["echo", "free"])) == ["free\n"]


def test_a_job_whose_host_was_killed_gives_way(board: Ssh) -> None:
    code = (
        "import os, signal\n"
        "from edgenas.transports.ssh import Ssh\n"
        f"lines = {board!r}.lines(['sh', '-c', 'echo $$; exec sleep 600'])\n"
        "print(next(lines), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert psutil.pid_exists(int(killed.stdout)), killed.stderr
    assert list(board.lines(["echo", "mine"])) == ["mine\n"]
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(killed.stdout)).wait(10)
    assert not psutil.pid_exists(int(killed.stdout))


def test_closing_ends_the_command_there_and_removes_its_folder(board: Ssh) -> None:
    running = board.lines(["sh", "-c", "echo $$; sleep 600"])
    pid = int(next(running))
    shell = psutil.Process(pid)
    family = [shell, *shell.children()]
    running.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert left(board) == {"jobs"}


def test_a_board_without_that_python_says_so(board: Ssh, tmp_path: Path) -> None:
    bare = Device("board", replace(board, python="python9"), OnnxRuntime())
    with pytest.raises(
        DeviceError, match=r"board: python9 failed with code 127 there: .*not found"
    ):
        profile(bare, SPACE, "fp32", tmp_path)


@pytest.mark.parametrize(
    "folder",
    [
        "/", "//", ".", "./", "..", "~", "~/", "~/.", "a/..", "/a/..", "~pi/x", "~pi", "$HOME/x",
        "${HOME}/x", "/data/$(id)/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["{kind: ssh, host: pi, ", "{kind: adb, "])
def test_a_folder_that_cannot_be_ours_is_refused_before_a_board_is_asked(
    tmp_path: Path, kind: str, folder: str
) -> None:
    path = tmp_path / "pi.yaml"
    path.write_text(f"transport: {kind}folder: '{folder}'}}\nruntime: {{kind: onnxruntime}}\n")
    with pytest.raises(UsageError, match=r"pi\.yaml.*folder cannot be") as e:
        load_device(str(path))
    assert "\n" not in str(e.value)


def test_a_board_s_folder_is_apart_from_what_edgenas_keeps_there_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("EDGENAS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / Ssh("pi").folder
    assert cache_folder() not in (folder, *folder.parents)
    assert folder not in cache_folder().parents


def test_a_tilde_is_the_home_of_the_login(board: Ssh, tmp_path: Path) -> None:
    assert Ssh("pi", folder="~/x", python="~/venv/python") == Ssh(
        "pi", folder="./x", python="./venv/python"
    )
    with pytest.raises(UsageError, match="folder cannot be"):
        Adb(folder="~/x")  # a phone has none
    with pytest.raises(UsageError, match="a phone has no home"):
        Adb().place({}, "~/x")
    folder = f".edgenas-test-{tmp_path.parent.name}-{tmp_path.name}"
    (tmp_path / "a").write_bytes(b"one")
    try:
        (there,) = replace(board, folder=f"~//{folder}/x").push([tmp_path / "a"])
        assert (Path.home() / there).read_bytes() == b"one"
        placed = board.place({"b": tmp_path / "a"}, f"~/{folder}/placed")
        assert Path(placed) == Path.home().resolve() / folder / "placed"
        assert Local().place({"c": tmp_path / "a"}, f"~/{folder}/placed") == placed
        assert (Path(placed) / "c").read_bytes() == b"one"
    finally:
        shutil.rmtree(Path.home() / folder)
    assert not (Path.home() / "~").exists()


@pytest.mark.parametrize("script", ["yes", "yes >&2", "cat /dev/zero"])
def test_a_command_that_answers_without_end_is_cut_off(
    board: Ssh, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(talk, "ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(talk, "GREETING_BYTES", 1 << 19)
    with pytest.raises(DeviceError, match="prints there has no end") as e:
        board.run(script)
    assert not isinstance(e.value, Disconnected)
    monkeypatch.undo()
    assert board.run("head -c 3000000 /dev/zero").out == bytes(3_000_000)


@pytest.mark.parametrize(
    ("host", "port", "known", "by_hand"),
    [
        ("pi@board", 2222, "ssh-keygen -R '[board]:2222'", "ssh pi@board -p 2222"),
        ("board", None, "ssh-keygen -R board", "ssh board"),
        ("pi@192.0.2.7", 22, "ssh-keygen -R 192.0.2.7", "ssh pi@192.0.2.7 -p 22"),
    ],
)
def test_advice_is_for_that_host_and_port(
    host: str, port: int | None, known: str, by_hand: str
) -> None:
    board = Ssh(host, port=port)
    changed = board._failure("REMOTE HOST IDENTIFICATION HAS CHANGED!")
    assert str(changed).endswith(known)
    assert str(board._failure("Host key verification failed.")).endswith(by_hand)
    own = Ssh(host, port=port, options=("UserKnownHostsFile=a b",))
    told = str(own._failure("REMOTE HOST IDENTIFICATION HAS CHANGED!"))
    assert told.endswith(f"{known} -f 'a b'")
    copy = by_hand.replace("ssh ", "ssh-copy-id ", 1)
    assert f"without a password: {copy}, or" in str(board._failure("x: Permission denied (none)."))


if SSHD:

    class Motd(Sshd):
        login = 'echo 12 users; echo beware >&2; sh -c "$SSH_ORIGINAL_COMMAND"; echo bye'

    class Tcsh(Sshd):
        login = 'exec tcsh -c "$SSH_ORIGINAL_COMMAND"'

    class NoLogin(Sshd):
        login = "echo This account is currently not available.; exit 1"

    @pytest.mark.parametrize(
        "server",
        [
            Motd,
            pytest.param(
                Tcsh, marks=pytest.mark.skipif(not shutil.which("tcsh"), reason="no tcsh here")
            ),
        ],
        indirect=True,
    )
    def test_a_login_may_print_and_have_another_shell(board: Ssh, tmp_path: Path) -> None:
        (tmp_path / "a b").write_bytes(b"content!")
        (there,) = board.push([tmp_path / "a b"])
        assert Path(there).read_bytes() == b"content!"
        assert list(board.lines(["printf", "%s\n", "it's!", "$HOME"])) == ["it's!\n", "$HOME\n"]
        device = Device("board", board, OnnxRuntime())
        assert probe(device)[0]["runtime"] == "onnxruntime"

    class Menu(Sshd):
        login = r"printf '\n1) configure  2) reboot\nChoose: '; exec sleep 600"

    class Mute(Sshd):
        login = "exec sleep 600"

    @pytest.mark.parametrize(
        ("server", "said"), [(Menu, "reboot | Choose:"), (Mute, "nothing")], indirect=["server"]
    )
    def test_a_login_that_waits_is_told_with_what_it_shows(
        board: Ssh, monkeypatch: pytest.MonkeyPatch, said: str
    ) -> None:
        monkeypatch.setattr(ssh, "LOGIN_S", 3.0)
        with pytest.raises(DeviceError, match="came to no command in 3 s") as e:
            list(replace(board, patience_s=0).lines(["true"]))
        assert said in str(e.value) and "\n" not in str(e.value)

    class Endless(Sshd):
        login = "exec yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

    class NoLine(Sshd):
        login = "exec cat /dev/zero"

    class Complaining(Sshd):
        login = "exec yes watch out >&2"

    @pytest.mark.parametrize("server", [Endless, NoLine, Complaining], indirect=True)
    def test_a_login_that_prints_without_end_is_cut_off(
        board: Ssh, server: Server, tmp_path: Path
    ) -> None:
        before = {p.pid for p in psutil.Process().children()}
        with pytest.raises(DeviceError, match=r"its login prints without end\. Look") as e:
            board.push([Path(__file__)])
        assert not isinstance(e.value, Disconnected) and "\n" not in str(e.value)
        assert {p.pid for p in psutil.Process().children()} <= before
        there = psutil.Process(server.process.pid).children(recursive=True)
        printing = [p for p in there if p.is_running() and p.name() in ("yes", "cat")]
        assert not psutil.wait_procs(printing, timeout=10)[1]

    @pytest.mark.parametrize("server", [NoLogin], indirect=True)
    def test_a_login_that_runs_nothing_is_told_with_what_it_says(board: Ssh) -> None:
        with pytest.raises(DeviceError, match=r"runs no command.*not available.*chsh") as e:
            list(board.lines(["true"]))
        assert not isinstance(e.value, Disconnected)

    @pytest.mark.parametrize("planted", ["file", "link", "dangling link", "open folder", "pipe"])
    def test_what_is_planted_for_shared_connections_is_not_used_and_stops_nothing(
        board: Ssh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        run = tmp_path / "r"
        run.mkdir()
        place = run / f"edgenas-ssh-{os.getuid()}"
        match planted:
            case "file":
                place.write_text("mine")
            case "link":
                place.symlink_to(outside)
            case "dangling link":
                place.symlink_to(tmp_path / "nowhere")
            case "open folder":
                place.mkdir()
                place.chmod(0o777)
            case "pipe":
                os.mkfifo(place)
        monkeypatch.setattr(ssh, "FOLDERS", (str(run),))
        monkeypatch.setattr(ssh, "LONGEST", 4096)
        assert list(board.lines(["echo", "free"])) == ["free\n"]
        assert not list(outside.iterdir())
        assert ssh._shared() is None
        place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
        assert ssh._shared() == place and place.stat().st_mode & 0o777 == 0o700
