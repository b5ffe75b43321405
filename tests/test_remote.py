"""What runs on a board, in several shells with their own tools: no connection, no Python there."""

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from edgenas import board_scripts, client, remote
from edgenas.errors import DeviceError, UsageError
from edgenas.remote import Answer, Disconnected, Remote
from edgenas.shell import Spoken, any_shell

SHELLS = [name for name in ("dash", "bash", "busybox", "tcsh") if shutil.which(name)]
MINIMAL = ("sh", "cat", "mkdir", "rm", "mv", "find", "touch", "tar", "dd", "wc", "tail", "grep",
           "xargs", "sleep", "cp", "seq", "printf", "rmdir")  # fmt: skip


@dataclass(frozen=True)
class Board(Remote):
    """This machine, as a board: ``login`` is its shell, ``path`` where its tools are.

    ``noise``: what the login does first. ``takes``: how many bytes of stdin pass before each cut.
    """

    folder: str
    login: tuple[str, ...] = ("sh",)
    path: str = os.environ["PATH"]
    noise: str = ""
    python: str = sys.executable
    patience_s: float = 10.0
    takes: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    @property
    def label(self) -> str:
        return "board"

    def _spoken(self, script: str, stdin: bytes) -> Spoken:
        cut = bool(stdin and self.takes)
        given = stdin[: self.takes.pop(0)] if cut else stdin
        self.sent.append(len(given))
        done = subprocess.run(
            [*self.login, "-c", self.noise + any_shell(script)], input=given, capture_output=True,
            env={**os.environ, "PATH": self.path}, start_new_session=True, check=False,
        )  # fmt: skip
        if cut:
            raise Disconnected("cut")
        return Spoken(done.stdout, done.stderr.decode(errors="replace"), reached=True)

    def _failure(self, said: str) -> DeviceError:
        return Disconnected(said)


def tools(folder: Path, *names: str) -> str:
    """A folder with ``names`` alone."""
    folder.mkdir()
    for name in names:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return str(folder)


@pytest.fixture(params=SHELLS)
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Board:
    there = str(tmp_path / "there")
    if request.param != "busybox":
        return Board(there, (request.param,))
    (tmp_path / "bin").mkdir()
    subprocess.run(["busybox", "--install", "-s", tmp_path / "bin"], check=True)
    return Board(there, (str(shutil.which("busybox")), "sh"), str(tmp_path / "bin"))


@pytest.fixture
def plain(tmp_path: Path) -> Board:
    return Board(str(tmp_path / "there"))


def written(folder: Path, *contents: bytes) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.onnx" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def job(board: Board) -> Path:
    """The folder of the one job there."""
    (found,) = Path(board.folder, "jobs").iterdir()
    return found


def lying(board: Board) -> list[str]:
    """What lies in its folder, but the mark."""
    return sorted({p.name for p in Path(board.folder).iterdir()} - {board_scripts.MARK})


def age(path: Path, days: float = 30) -> Path:
    then = time.time() - 86400 * days
    os.utime(path, (then, then))
    return path


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_job_says_all_is_ended_and_leaves_nothing(board: Board) -> None:
    count = "i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo line $i; done; printf end"
    assert list(board.lines(["sh", "-c", count])) == [f"line {i}\n" for i in range(1, 501)] + [
        "end"
    ]
    running = board.lines(["sh", "-c", "echo $$; sleep 600"])
    shell = psutil.Process(int(next(running)))
    family = [shell, *shell.children()]
    with pytest.raises(
        DeviceError, match=r"busy with a job of .*@.*; wait for it, or end it there: kill -9"
    ):
        next(board.lines(["true"]))
    assert shell.is_running()
    running.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive and not list(Path(board.folder, "jobs").iterdir())


def test_a_job_is_ended_where_there_is_no_setsid(tmp_path: Path) -> None:
    bare = Board(str(tmp_path / "there"), path=tools(tmp_path / "bin", *MINIMAL))
    running = bare.lines(["sh", "-c", "echo $$; exec sleep 600"])
    process = psutil.Process(int(next(running)))
    running.close()
    process.wait(10)


@pytest.mark.parametrize(
    "noise",
    [
        "echo Welcome to the board", "printf 'no new line'", "echo 12345; echo 0; echo '{}'",
        "echo; echo edgenas ended 0", "printf '\\377\\0\\r\\n'", "seq 20000",
        "echo Last login >&2; echo 7 >&2", "echo edgenas begins; echo running 999",
    ],
)  # fmt: skip
def test_what_a_login_prints_is_no_answer(plain: Board, tmp_path: Path, noise: str) -> None:
    noisy = replace(plain, noise=f"{noise}; trap 'echo bye' EXIT; ")
    assert noisy.run("printf 'a\\0b'; echo c >&2; exit 3") == Answer(3, b"a\0b", "c\n")
    (path,) = written(tmp_path / "here", b"content")
    (there,) = noisy.push([path])
    assert Path(there).read_bytes() == b"content"
    assert list(noisy.lines(["printf", "1\\n2"])) == ["1\n", "2"]
    noisy.pull(there, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    with pytest.raises(DeviceError, match=r"sh failed with code 7 there: why$"):
        list(noisy.lines(["sh", "-c", "echo why >&2; exit 7"]))


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ("echo This account is currently not available.; exit 1; ", "not available"),
        ("echo \"Unmatched '''.\" >&2; exit 1; ", "Unmatched"),
        ("exit 0; ", "says: nothing"),
    ],
)
def test_a_login_that_runs_nothing_says_what_it_said(plain: Board, noise: str, said: str) -> None:
    with pytest.raises(DeviceError, match=f"its login runs no command.*{said}.*chsh") as e:
        list(replace(plain, noise=noise).lines(["true"]))
    assert not isinstance(e.value, Disconnected) and "\n" not in str(e.value)


@pytest.mark.parametrize("fact", ["boot", "start", "both", "none"])
@pytest.mark.parametrize("whose", ["mine", "a colleague's"])
def test_a_number_of_a_process_that_is_another_now_is_left_alone(
    plain: Board, foreign: subprocess.Popen[bytes], fact: str, whose: str
) -> None:
    """After a reboot, or when numbers come around: the lock is void, and nobody is signalled."""
    left = plain.lines(["sh", "-c", "echo up; sleep 600"])
    next(left)
    folder = job(plain)
    kept = Path(plain.folder, "jobs", "f" * 32)
    shutil.copytree(folder, kept)
    left.close()
    born = (kept / "pids").read_text().split()[1]
    start = "1" if fact in ("start", "both") else born
    (kept / "pids").write_text(f"{foreign.pid} {start}\n" * 2)
    if fact in ("boot", "both"):
        (kept / "boot").write_text("00000000-0000-0000-0000-000000000000\n")
    if fact == "none":
        (kept / "pids").write_text(f"{foreign.pid}\n")
        (kept / "boot").unlink()
    if whose == "mine":
        (kept / "client").write_text(f"{client.proof().rpartition(' ')[0]} 1\n")
    assert list(plain.lines(["echo", "free"])) == ["free\n"]
    assert foreign.poll() is None


def test_a_job_seen_from_another_container_is_not_ended_and_no_advice_says_so(
    plain: Board,
) -> None:
    running = plain.lines(["sh", "-c", "echo $$; sleep 600"])
    process = psutil.Process(int(next(running)))
    folder = job(plain)
    space = (folder / "space").read_text()
    (folder / "space").write_text("pid:[1]\n")
    gone = subprocess.run(
        [sys.executable, "-c", "from edgenas import client; print(client.proof())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (folder / "client").write_text(gone.stdout)
    with pytest.raises(DeviceError, match=r"busy with a job of .*; wait for it$"):
        next(plain.lines(["true"]))
    assert process.is_running()
    (folder / "space").write_text(space)
    assert list(plain.lines(["echo", "mine"])) == ["mine\n"]  # its client is gone, and it is seen
    process.wait(10)
    running.close()


def test_who_is_gone_is_proved_or_not_said() -> None:
    mine = client.proof()
    world, pid, born = mine.split()
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert not client.gone(mine)
    assert client.gone(f"{world} {ended.pid} {born}")
    assert client.gone(f"{world} {pid} {int(born) + 1}")
    boot, space = world.split("/")
    for unseen in (f"{boot}/pid:[1]", f"another/{space}", "", world):
        assert not client.gone(f"{unseen} {ended.pid} {born}" if unseen != world else world)
    for torn in ("", " ", "a b c", f"{world} x {born}", f"{world} {10**30} {born}", f"{world} 1"):
        assert not client.gone(torn)


UNSHARE = ["unshare", "--pid", "--fork"]


@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0,
    reason="no namespaces of processes for this user",
)
@pytest.mark.parametrize("own_proc", [True, False])
def test_clients_in_two_namespaces_of_processes_leave_each_others_job(
    plain: Board, own_proc: bool
) -> None:
    """Neither sees the other's number: that is no proof that its client is gone."""
    running = plain.lines(["sh", "-c", "echo $$; sleep 600"])
    process = psutil.Process(int(next(running)))
    code = f"from edgenas import client; print(client.gone({client.proof()!r}), client.proof())"
    apart = [*UNSHARE, *(["--mount-proc"] if own_proc else [])]
    said = subprocess.run(
        [*apart, sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    told, _, theirs = said.stdout.strip().partition(" ")
    assert told == "False" and not client.gone(theirs)
    Path(job(plain), "client").write_text(theirs + "\n")
    with pytest.raises(DeviceError, match="busy with a job of"):
        next(plain.lines(["true"]))
    assert process.is_running()
    running.close()


@pytest.mark.parametrize("slow", [False, True])
def test_of_jobs_at_one_instant_one_runs(board: Board, tmp_path: Path, slow: bool) -> None:
    if slow:  # what starts a job there takes its time
        late = tmp_path / "late"
        late.mkdir()
        for name in ("setsid", "mv"):
            real = shutil.which(name, path=board.path)
            (late / name).write_text(f'#!/bin/sh\nsleep 0.3\nexec {real} "$@"\n')
            (late / name).chmod(0o755)
        board = replace(board, path=f"{late}:{board.path}")
    for _ in range(2):
        ready = threading.Barrier(3)

        def one(_: int, ready: threading.Barrier = ready) -> str:
            lines = board.lines(["sh", "-c", "echo ran; sleep 600"])
            try:
                ready.wait(60)
                said = next(lines)
                ready.wait(60)  # until all have been answered
            except DeviceError as e:
                ready.wait(60)
                return str(e)
            finally:
                lines.close()
            return said

        with ThreadPoolExecutor(3) as pool:
            said = list(pool.map(one, range(3)))
        assert sorted(s.startswith("board is busy") for s in said) == [False, True, True], said


@pytest.mark.parametrize("harm", ["emptied", "cut", "altered", "a folder", "a link"])
def test_what_lies_there_damaged_is_sent_again(board: Board, tmp_path: Path, harm: str) -> None:
    files = written(tmp_path / "here", b"a" * 5000, b"b" * 100, b"", b"c" * 70_000)
    there = [Path(p) for p in board.push(files)]
    whole = there[1].stat().st_mtime_ns
    for path in (there[0], there[3]):
        content = path.read_bytes()
        path.unlink()
        match harm:
            case "emptied":
                path.touch()
            case "cut":
                path.write_bytes(content[:-1])
            case "altered":
                path.write_bytes(b"\0" + content[1:])
            case "a folder":
                (path / "in it").mkdir(parents=True)
            case "a link":
                path.symlink_to(tmp_path / "here" / "1.onnx")
    assert board.push(files) == [str(p) for p in there]
    assert [p.read_bytes() for p in there] == [p.read_bytes() for p in files]
    assert there[1].stat().st_mtime_ns == whole


def test_a_board_that_counts_no_hash_is_asked_for_sizes(tmp_path: Path) -> None:
    bare = Board(str(tmp_path / "there"), path=tools(tmp_path / "bin", *MINIMAL))
    files = written(tmp_path / "here", b"a" * 5000, b"b" * 100)
    there = [Path(p) for p in bare.push(files)]
    for harmed in (b"", b"a" * 4999):
        there[0].write_bytes(harmed)
        bare.push(files)
        assert [p.read_bytes() for p in there] == [p.read_bytes() for p in files]
    before = len(bare.sent)
    bare.push(files)
    assert len(bare.sent) == before + 1  # one question, nothing sent


def test_a_push_over_a_line_that_drops_ends_and_sends_little_twice(
    board: Board, tmp_path: Path
) -> None:
    content = random.Random(0).randbytes(400_000)
    files = written(tmp_path / "here", content, b"small", content[:1000])
    dropping = replace(board, takes=[9000, 30_000, 0, 65_000, 100_000, 50_000, 4097], patience_s=1)
    there = dropping.push(files)
    assert not dropping.takes
    assert [Path(p).read_bytes() for p in there] == [p.read_bytes() for p in files]
    assert sum(dropping.sent) < 1.4 * len(content)
    assert lying(board) == ["files"]


def test_a_push_that_gave_up_goes_on_in_the_next(board: Board, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(300_000)
    files = written(tmp_path / "here", content)
    with pytest.raises(Disconnected):
        replace(board, takes=[60_000, 0, 0, 0], patience_s=0).push(files)
    (part,) = Path(board.folder).glob("part-*")
    assert part.stat().st_size == 60_000
    again = replace(board, sent=[])
    (there,) = again.push(files)
    assert Path(there).read_bytes() == content
    assert sum(again.sent) < len(content) + 20_000
    (part := Path(board.folder, part.name)).write_bytes(b"\0" * 50_000)  # as a power cut leaves it
    Path(there).unlink()
    again.push(files)
    assert Path(there).read_bytes() == content and not part.exists()


def test_what_two_push_at_once_arrives(plain: Board, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(600_000)
    files = written(tmp_path / "here", content, content[1:], content[2:])
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(plain.push(files))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for paths in found:
        assert [Path(p).read_bytes() for p in paths] == [p.read_bytes() for p in files]


def test_a_full_disk_there_is_said_and_what_was_cached_stays(tmp_path: Path, plain: Board) -> None:
    kept = written(tmp_path / "kept", b"k" * 100)
    (there,) = plain.push(kept)
    limited = replace(plain, noise="ulimit -f 40; trap '' XFSZ; ")  # 512 bytes each
    files = written(tmp_path / "here", random.Random(2).randbytes(50_000))
    with pytest.raises(DeviceError, match=r"(?i)file too large"):
        limited.push(files)
    assert Path(there).read_bytes() == b"k" * 100
    assert lying(plain) == ["files"]


def test_ages_are_by_the_clock_of_the_board(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = written(tmp_path / "here", b"one", b"two")
    now = time.time()
    for ahead_days in (-10, 10, 4000):  # of this machine
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda days=ahead_days: now + 86400 * days)
            there = [Path(p) for p in board.push(files)]
        assert all(abs(p.stat().st_mtime - now) < 3600 for p in there)
        other = written(tmp_path / "other", b"%d" % ahead_days)
        board.push(other)
        assert all(p.exists() for p in there)
        for path in there:
            path.unlink()


def test_what_is_used_stays_and_what_is_not_goes(board: Board, tmp_path: Path) -> None:
    files = written(tmp_path / "here", b"one", b"two", b"three")
    there = [Path(p) for p in board.push(files)]
    for path in there:
        age(path)
    another = replace(board)  # of the same login, later
    another.push(files[:1])
    assert [p.exists() for p in there] == [True, False, False]
    assert time.time() - there[0].stat().st_mtime < 3600


@pytest.mark.parametrize("days", [8, 30, 4000])
def test_a_clock_that_jumps_takes_nothing_of_the_session(
    plain: Board, tmp_path: Path, days: int
) -> None:
    first = written(tmp_path / "here", b"one", b"two")
    there = [Path(p) for p in plain.push(first)]
    with plain.scratch() as scratch:
        for path in (*there, Path(scratch)):
            age(path, days)
        there += [Path(p) for p in plain.push(written(tmp_path / "other", b"three"))]
        assert all(p.exists() for p in there) and Path(scratch).exists()


def test_nothing_is_swept_that_a_running_job_of_another_may_read(
    plain: Board, tmp_path: Path
) -> None:
    (model,) = (Path(p) for p in plain.push(written(tmp_path / "here", b"one")))
    running = plain.lines(["sh", "-c", "echo up; sleep 600"])
    next(running)
    age(model)
    replace(plain).push(written(tmp_path / "other", b"two"))
    assert model.exists()
    running.close()
    replace(plain).push(written(tmp_path / "other", b"two"))
    assert not model.exists()


def test_a_cut_in_the_middle_of_unpacking_is_gone_on_from(plain: Board, tmp_path: Path) -> None:
    """Its folder is still there: a try of the same name could not make it."""
    path = tools(tmp_path / "bin", *(set(MINIMAL) - {"tar"}), "sha256sum", "cut", "ps", "setsid")
    tar, done = Path(path, "tar"), tmp_path / "killed"
    tar.write_text(
        f"#!/bin/sh\n[ -e {done} ] || {{ : > {done}; kill -9 0; }}\n"
        f'exec {shutil.which("tar")} "$@"\n',
        encoding="utf-8",
    )
    tar.chmod(0o755)
    sent = written(tmp_path / "here", b"a" * 5000, b"b")
    there = replace(plain, path=path).push(sent)
    assert done.exists()
    assert [Path(p).read_bytes() for p in there] == [p.read_bytes() for p in sent]


def test_what_a_cut_left_behind_is_swept_when_it_is_old_and_dead(
    board: Board, tmp_path: Path
) -> None:
    files = written(tmp_path / "here", b"one")
    board.push(files)
    at = Path(board.folder)
    (at / "jobs" / ("e" * 32)).mkdir(parents=True)
    (at / "jobs" / f".{'c' * 32}-12").mkdir()
    token = "d" * 32
    for name in (f"part-{token}", f"scratch-{token}", "lock"):
        (at / name).mkdir()
        (at / name / "who").touch()
    (at / f"part-{'b' * 32}").touch()
    young = [*(at / "jobs").iterdir(), *(at / name for name in lying(board)[2:])]
    assert len(young) == 6
    board.push(files)
    assert all(p.exists() for p in young)
    running = board.lines(["sh", "-c", "echo up; sleep 600"])
    next(running)
    (live,) = (p for p in (at / "jobs").glob("[!.]*") if (p / "pids").exists())
    for path in (*young, live):
        age(path)
    board.push(files)
    assert live.exists() and (at / f"scratch-{token}").exists()  # something runs: it may be its
    running.close()
    board.push(files)
    assert lying(board) == ["files", "jobs"]
    assert not list((at / "jobs").iterdir())


def test_what_is_no_name_of_ours_is_never_swept(board: Board, tmp_path: Path) -> None:
    files = written(tmp_path / "here", b"one")
    board.push(files)
    at, token = Path(board.folder), "e" * 32
    theirs = [
        at / "jobs/thesis/a.txt", at / "jobs/.hidden/b", at / "files/photos/wedding.jpg",
        at / "files/notes.txt", at / f"files/photos/{token}.jpg", at / f"files/{token}-2.jpg",
        at / "part-1/x", at / "scratch-notes/y", at / f"part-{token}-of-mine", at / "lock/diary",
        at / f"jobs/{token}-mine/z", at / "scratch-", at / "notes.txt",
    ]  # fmt: skip
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for path in at.rglob("*"):
        age(path)
    board.push(files)
    assert [p for p in theirs if p.exists()] == theirs


THEIRS = ["notes.txt", "jobs/thesis/a.txt", "files/photos/wedding.jpg", "files/wedding.jpg", ".x",
          "part-1", "scratch-notes/y", "lock", f"files/{'a' * 32}.jpg", f"files/{'a' * 32}/in",
          f"jobs/{'a' * 32}/thesis.txt", f"jobs/{'a' * 31}/out", f"PART-{'a' * 32}"]  # fmt: skip


@pytest.mark.parametrize("way", ["push", "lines", "scratch", "place"])
def test_a_folder_of_others_is_refused_and_left_as_it_is(
    plain: Board, tmp_path: Path, way: str
) -> None:
    files = written(tmp_path / "here", b"one")
    ways = {
        "push": lambda: plain.push(files),
        "lines": lambda: list(plain.lines(["true"])),
        "scratch": lambda: plain.scratch().__enter__(),
        "place": lambda: plain.place({"a": files[0]}, str(tmp_path / "placed")),
    }
    for name in THEIRS if way == "push" else THEIRS[:2]:
        path = Path(plain.folder, name)
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        for each in Path(plain.folder).rglob("*"):
            age(each)
        there = sorted(Path(plain.folder).rglob("*"))
        with pytest.raises(UsageError, match=r"board: .*there is not a folder for edg.*`fol") as e:
            ways[way]()
        assert "\n" not in str(e.value) and Path(name).parts[0] in str(e.value)
        assert sorted(Path(plain.folder).rglob("*")) == there and path.read_text() == "mine"
        shutil.rmtree(plain.folder)
    assert not (tmp_path / "placed").exists()


def test_a_home_a_root_and_links_are_refused(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = written(tmp_path / "here", b"one")
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "to-home").symlink_to(home)
    monkeypatch.setenv("HOME", str(home))
    for folder in (home, tmp_path / "to-home", home / "x" / "..", Path("/")):
        with pytest.raises(UsageError, match="not a folder for edgenas alone"):
            replace(board, folder=str(folder)).push(files)
    assert not list(home.glob("[!x]*"))
    (tmp_path / "mark").touch()
    Path(board.folder).mkdir()
    for name, to in ((board_scripts.MARK, tmp_path / "mark"), ("files", home)):
        Path(board.folder, name).symlink_to(to)
        with pytest.raises(UsageError, match=f"it holds {name}"):
            board.push(files)
        Path(board.folder, name).unlink()
    assert board.push(files)  # empty is as good as not there
    monkeypatch.delenv("HOME")
    assert replace(board, folder=str(tmp_path / "other")).push(files)


@pytest.mark.parametrize("hashes", [True, False])
def test_the_folder_of_a_version_that_made_no_mark_is_used_on(
    board: Board, tmp_path: Path, hashes: bool
) -> None:
    if not hashes:
        board = Board(board.folder, path=tools(tmp_path / "tools", *MINIMAL))
    files = written(tmp_path / "here", b"one", b"two")
    there = [Path(p) for p in board.push(files)]
    at, token = Path(board.folder), "e" * 32
    (at / board_scripts.MARK).unlink()
    there[0].write_bytes(b"")  # by a power cut
    there[1].with_name("0" * 32).write_bytes(b"damaged")
    (at / "files/__pycache__").mkdir()  # of a Python that imported what was pushed
    for name in (f"jobs/{token}/pid", "lock/pid", f"part-{token}/x", f"scratch-{token}/y"):
        (at / name).parent.mkdir(parents=True)
        (at / name).touch()
    whole = there[1].stat().st_mtime_ns
    assert board.push(files) == [str(p) for p in there]
    assert there[1].stat().st_mtime_ns == whole and there[0].read_bytes() == b"one"
    assert (at / board_scripts.MARK).is_file()
    for path in at.rglob("*"):
        age(path)
    replace(board).push(files)  # another session
    assert lying(board) == ["files", "jobs"] and not list((at / "jobs").iterdir())
    assert sorted((at / "files").glob("[!_]*")) == sorted(there)


@pytest.mark.parametrize("script", ["yes", "yes >&2", "cat /dev/zero"])
def test_a_job_that_prints_without_end_is_ended(
    plain: Board, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(remote, "ANSWER_BYTES", 100_000)
    with pytest.raises(DeviceError, match="board: sh prints there without end"):
        for _ in plain.lines(["sh", "-c", f"ulimit -f 100000; {script}"]):
            pass
    assert not list(Path(plain.folder, "jobs").iterdir())


def test_what_cannot_be_run_there_is_said_with_what_to_do(plain: Board, tmp_path: Path) -> None:
    text = tmp_path / "not-a-program"
    text.write_text("text")
    for command, said in (
        ("nowhere", r"nowhere failed with code 127 there: .*not found.*install it"),
        (str(text), r"not-a-program failed with code 126 there: .*[Pp]ermission.*chmod \+x"),
        (str(tmp_path), r"failed with code 126 there: .*cannot be executed"),
    ):
        with pytest.raises(DeviceError, match=said) as e:
            list(plain.lines([command]))
        assert "\n" not in str(e.value)


def test_a_board_whose_tools_answer_nonsense_is_one_line(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", *(name for name in MINIMAL if name != "wc"))
    (tmp_path / "bin" / "wc").write_text("#!/bin/sh\necho 12 lots\n")
    (tmp_path / "bin" / "wc").chmod(0o755)
    odd = Board(str(tmp_path / "there"), path=path, patience_s=0)
    with pytest.raises(DeviceError) as e:
        list(odd.lines(["echo", "x"]))
    assert "\n" not in str(e.value)
    with pytest.raises(DeviceError) as e:
        odd.push(written(tmp_path / "here", b"x"))
    assert "\n" not in str(e.value)
