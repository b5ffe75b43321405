"""What is put on a board to stay there replaces what was there whole, or not at all."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgenas.device import Transport
from edgenas.errors import DeviceError, UsageError
from edgenas.files import MARK
from edgenas.remote import Remote
from edgenas.shell import Spoken
from edgenas.transports.local import Local


@dataclass(frozen=True)
class Shell(Remote):
    """A board that is a shell of this machine."""

    folder: str
    python: str = "python3"
    patience_s: float = 1.0
    path: str = os.environ["PATH"]

    @property
    def label(self) -> str:
        return "shell"

    def _spoken(self, script: str, stdin: bytes) -> Spoken:
        done = subprocess.run(
            ["/bin/sh", "-c", script], input=stdin, capture_output=True, check=False,
            env={"PATH": self.path},
        )  # fmt: skip
        return Spoken(done.stdout, done.stderr.decode(), True)

    def _failure(self, said: str) -> DeviceError:
        return DeviceError(said)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(path)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(params=["here", "there"])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Transport:
    return Local() if request.param == "here" else Shell(str(tmp_path / "ours"))


def file(path: Path, kilobytes: int) -> Path:
    path.write_bytes(os.urandom(1024 * kilobytes))
    return path


@pytest.mark.parametrize(("model", "words"), [(100, 1), (200, 1), (4, 120), (60, 60)])
def test_a_disk_that_is_too_small_keeps_what_it_has(
    board: Transport, disk: Path, tmp_path: Path, model: int, words: int
) -> None:
    old = {"model.onnx": file(tmp_path / "a", 48), "model.json": file(tmp_path / "b", 1)}
    there = Path(board.place(old, str(disk / "model")))
    before = {p.name: p.read_bytes() for p in there.iterdir()}
    told = before.pop(MARK).decode()
    assert sorted(line.split()[1] for line in told.splitlines()) == sorted(old)
    assert before == {name: path.read_bytes() for name, path in old.items()}
    new = {"model.onnx": file(tmp_path / "c", model), "model.json": file(tmp_path / "d", words)}
    with pytest.raises(DeviceError, match=r"No space left on device.*as it was") as e:
        board.place(new, str(disk / "model"))
    assert "\n" not in str(e.value)
    assert {p.name: p.read_bytes() for p in there.iterdir() if p.name != MARK} == before
    small = {"model.onnx": file(tmp_path / "c", 32), "model.json": file(tmp_path / "d", 2)}
    board.place(small, str(disk / "model"))
    assert {p.name: p.read_bytes() for p in there.iterdir() if p.name != MARK} == {
        name: path.read_bytes() for name, path in small.items()
    }


@pytest.mark.parametrize("what", ["file", "link", "dangling", "changed"])
def test_what_was_not_put_there_is_left_alone(board: Transport, tmp_path: Path, what: str) -> None:
    """Nor what a link points at."""
    kept, into = file(tmp_path / "kept", 1), tmp_path / "model"
    content, new = kept.read_bytes(), {n: file(tmp_path / "a", 2) for n in ("x", "y")}
    board.place(new, str(into))
    board.place(new, str(into))
    (into / "y").unlink()
    if what in ("link", "dangling"):
        (into / "y").symlink_to(kept if what == "link" else tmp_path / "nothing")
    else:
        (into / "y").write_bytes(content)
    if what == "file":
        (into / MARK).unlink()
        (into / "x").unlink()
    before = {p.name: (p.is_symlink(), p.exists() and p.read_bytes()) for p in into.iterdir()}
    with pytest.raises(
        UsageError, match=r"model/y is there, and edgenas did not put it there"
    ) as e:
        board.place({n: file(tmp_path / "b", 3) for n in ("x", "y")}, str(into))
    assert "\n" not in str(e.value) and kept.read_bytes() == content
    assert before == {
        p.name: (p.is_symlink(), p.exists() and p.read_bytes()) for p in into.iterdir()
    }


@pytest.mark.parametrize("into", ["plain", "a/b c", "./z"])
def test_nothing_but_the_files_is_left_in_a_folder_named_from_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: str
) -> None:
    monkeypatch.chdir(tmp_path)
    board, new = Shell(str(tmp_path / "ours")), {n: file(tmp_path / n, 2) for n in "xy"}
    for _ in range(2):
        assert board.place(new, into) == str((tmp_path / into).resolve())
        assert sorted(p.name for p in (tmp_path / into).iterdir()) == sorted([MARK, "x", "y"])


def test_a_link_in_the_place_of_the_record_is_not_followed(tmp_path: Path) -> None:
    into, outside = tmp_path / "model", tmp_path / "outside"
    into.mkdir()
    outside.mkdir()
    (into / MARK).symlink_to(outside)
    with pytest.raises(UsageError, match=rf"model/{MARK} is there, and edgenas did not put it"):
        Shell(str(tmp_path / "ours")).place({"x": file(tmp_path / "a", 2)}, str(into))
    assert list(outside.iterdir()) == [] and [p.name for p in into.iterdir()] == [MARK]


def test_a_folder_in_the_way_is_said(board: Transport, tmp_path: Path) -> None:
    (tmp_path / "model" / "y").mkdir(parents=True)
    with pytest.raises(DeviceError, match=r"model/y.* is a folder"):
        board.place({n: file(tmp_path / "a", 2) for n in "yx"}, str(tmp_path / "model"))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["y"]


def test_a_file_that_did_not_arrive_whole_is_never_used(tmp_path: Path) -> None:
    board = Shell(str(tmp_path / "ours"))
    model = file(tmp_path / "a", 2)
    (sent,) = board.push([model])
    for spoilt in (b"", model.read_bytes()[:-1], b"x" * 2048):
        Path(board.place({"model": file(tmp_path / "b", 1)}, str(tmp_path / "model")))
        before = (tmp_path / "model" / "model").read_bytes()
        Path(sent).write_bytes(spoilt)
        held = [*(tmp_path / "model").iterdir()]
        try:
            board.place({"model": model}, str(tmp_path / "model"))
        except DeviceError as e:
            assert "did not arrive whole" in str(e)
            assert (tmp_path / "model" / "model").read_bytes() == before
        assert [*(tmp_path / "model").iterdir()] == held
        board.place({"model": model}, str(tmp_path / "model"))  # it is sent anew
        assert (tmp_path / "model" / "model").read_bytes() == model.read_bytes()


@pytest.mark.parametrize("tools", ["sha256sum", "shasum", ""])
def test_a_board_without_a_tool_to_hash_compares_sizes(tmp_path: Path, tools: str) -> None:
    (tmp_path / "bin").mkdir()
    hashing = {"sha256sum", "shasum", "openssl"} - {*tools.split()}
    for found in [f for d in ("/usr/bin", "/bin") for f in Path(d).iterdir()]:
        if found.name not in hashing and not (tmp_path / "bin" / found.name).is_symlink():
            (tmp_path / "bin" / found.name).symlink_to(found)
    board = Shell(str(tmp_path / "ours"), path=f"{tmp_path}/bin")
    model = file(tmp_path / "a", 2)
    board.place({"model": model}, str(tmp_path / "model"))
    assert (tmp_path / "model" / "model").read_bytes() == model.read_bytes()
