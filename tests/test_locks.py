"""Who works where, and what a killed process leaves: seen by locks, where there are locks."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgenas import specimen
from edgenas.errors import UsageError
from edgenas.export import exporter_for
from edgenas.files import aside, require_writable, write_text
from edgenas.journal import open_journal
from edgenas.rundir import RunDir
from edgenas.scratch import scratch_folder

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def refusing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("code", NO_LOCKS)
def test_where_there_are_no_locks_it_works_on_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refusing(monkeypatch, code)
    said: list[str] = []
    with RunDir(tmp_path / "run").locked(said.append):
        write_text(tmp_path / "run" / "a.txt", "whole")
    with open_journal(tmp_path / "j.jsonl", {"of": "this"}, said.append) as journal:
        journal.append({"ns": [1]})
    with scratch_folder() as folder:
        (folder / "a").touch()
    assert not folder.exists()
    assert len(said) == 2 and all(
        text.startswith("warning: the file system of ") and "no locks" in text for text in said
    )


@pytest.mark.parametrize("code", [errno.EIO, errno.EBADF, errno.ENOMEM])
def test_what_else_goes_wrong_with_a_lock_is_said_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refusing(monkeypatch, code)
    with pytest.raises(OSError) as caught, RunDir(tmp_path / "run").locked(print):
        pass
    assert caught.value.errno == code
    assert caught.value.filename == str(tmp_path / "run" / ".lock")
    with pytest.raises(OSError) as caught, open_journal(tmp_path / "j.jsonl", {}):
        pass
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "j.jsonl"))


def test_a_lock_that_another_holds_is_another_edgenas(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    said = pytest.raises(UsageError, match="another edgenas works in")
    with run.locked(print), said, run.locked(print):
        pass
    path, said = tmp_path / "j.jsonl", pytest.raises(UsageError, match="another process")
    with open_journal(path, {}), said, open_journal(path, {}):
        pass


@pytest.mark.parametrize("to", ["file", "nothing", "folder"])
def test_a_journal_that_is_a_link_is_named_and_its_file_stays(tmp_path: Path, to: str) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("mine\n")
    path = tmp_path / ".table.jsonl.journal.jsonl"
    path.symlink_to(outside / to)
    with pytest.raises(UsageError, match=f"{path} is a link to"), open_journal(path, {"of": 1}):
        pass
    assert (outside / "file").read_text() == "mine\n" and not (outside / "nothing").exists()


def test_a_journal_with_a_second_name_is_not_emptied_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("mine\n")
    os.link(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    with open_journal(tmp_path / "b.jsonl", {"of": 1}):
        pass
    assert (tmp_path / "a.jsonl").read_text() == "mine\n"


def test_a_link_is_replaced_by_a_file_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "outside")
    write_text(tmp_path / "a", "ours")
    assert (tmp_path / "outside").read_text() == "mine" and not (tmp_path / "a").is_symlink()


KILLED = """
import os, signal, sys
from pathlib import Path
from edgenas.export import exporter_for
from edgenas.files import aside
from edgenas.scratch import scratch_folder
with scratch_folder() as folder, aside(Path(sys.argv[1])) as temporary:
    (folder / "model").write_text("half")
    temporary.write_text("half")
    print(folder.parent, flush=True)
    sys.stdin.read() if len(sys.argv) > 2 else os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_dead_is_swept_and_what_lives_or_is_another_s_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    there = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    wanted = tmp_path / "table.jsonl"
    argv = [sys.executable, "-c", KILLED, str(wanted)]
    done = subprocess.run(argv, env=there, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    alive = subprocess.Popen(
        [*argv, "alive"], env=there, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert alive.stdout is not None
    living = Path(alive.stdout.readline().strip())
    mine = ["edgenas-notes", "edgenas-abc/.owner/x", "edgenas-def/work/photo.png", "other/.owner"]
    for name in mine:
        (tmp_path / "tmp" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tmp" / name).write_text("mine")
    (tmp_path / "tmp" / "edgenas-link").symlink_to(tmp_path / "tmp" / "other")
    others = [tmp_path / ".table.jsonl.notes", tmp_path / ".table.jsonl.abcdefgh.aside.bak"]
    for path in others:
        path.write_text("mine")
    with scratch_folder(), aside(wanted) as temporary:
        temporary.write_text("whole")
    assert not Path(done.stdout.strip()).exists()
    assert (living / "work" / "model").read_text() == "half"
    assert all((tmp_path / "tmp" / name).read_text() == "mine" for name in mine)
    assert wanted.read_text() == "whole" and all(p.read_text() == "mine" for p in others)
    assert len(list(tmp_path.glob(".table.jsonl.*.aside"))) == 1  # of the living
    alive.communicate("")
    assert not living.exists() and not list(tmp_path.glob(".table.jsonl.*.aside"))


WRITING = """
import sys
from pathlib import Path
from edgenas.files import write_text
for number in range(400):
    write_text(Path(sys.argv[1]), f"{number}")
"""


def test_those_who_write_one_file_at_once_take_nothing_of_each_other(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITING, str(tmp_path / "table.jsonl")]
    writers = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [writer.communicate()[1] for writer in writers] == [""] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["table.jsonl"]
    assert (tmp_path / "table.jsonl").read_text() == "399"


@pytest.mark.parametrize("kind", ["file", "below a file", "nowhere that can be made"])
def test_a_folder_that_cannot_be_written_is_named_before(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("mine")
    folder = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "cache",
        "nowhere that can be made": Path("/proc/edgenas"),
    }[kind]
    with pytest.raises(OSError) as caught:
        require_writable(folder)
    assert caught.value.filename == str(folder)
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
from edgenas.export import exporter_for
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    exporter_for("onnx").inspect(path)
except OSError as e:
    print("full", e.strerror)
"""


def test_a_full_temporary_folder_is_not_said_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    specimen.operator(exporter_for("onnx"), specimen.EMPTY, "fp32", path)
    argv = [sys.executable, "-c", FULL, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout == f"full {os.strerror(errno.EFBIG)}\n", done.stderr
    assert exporter_for("onnx").inspect(path).operators >= 0


def test_a_full_disk_is_told_by_where_it_is_full() -> None:
    """A failed write does not say it: the line would be of `a file`."""
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(OSError, match=os.strerror(number)) as e, scratch_folder() as folder:
            raise OSError(number, os.strerror(number))
        assert e.value.filename == str(folder)
    with pytest.raises(ConnectionResetError) as other, scratch_folder():
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    assert other.value.filename is None
