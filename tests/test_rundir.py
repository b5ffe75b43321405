"""Only what edgenas made is changed or removed; a run is the folder that it lies in."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgenas.artifact import sha256
from edgenas.cli import cli, main
from edgenas.errors import CorruptFile, UsageError
from edgenas.files import MARK
from edgenas.rundir import RunDir

CONFIG = "\n".join(
    f"{key}: {{}}"
    for key in ("name", "task", "targets", "space", "search", "train", "schema_version")
)
STARTED = '{"phase": "stage", "event": "start", "stage": "profile", "key": "k"}\n'


def silent(text: str) -> None:
    raise AssertionError(text)


def made(root: Path, *stages: str) -> RunDir:
    run = RunDir(root)
    with run.locked(silent):
        for stage in stages:
            run.make(stage, lambda: "key", lambda f: (f / "a.json").write_text("1") and None)
    return run


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else sha256(p)
        for p in folder.rglob("*")
        if p.is_symlink() or p.is_file()
    }


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")


FOREIGN = {
    "images": ["train/cat/1.png", "test/cat/1.png"],
    "a file": ["notes.txt"],
    "a config of the user": ["config.yaml", "train/cat/1.png"],
    "a mark of something else": [MARK],
    "stages without config": ["search/a.json", "ledger.jsonl"],
    "models": ["model.onnx", "verdict.json"],
    "checkpoints": [".checkpoints/train/found.safetensors"],
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_that_is_no_run_is_refused_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    root = tmp_path / "photos"
    fill(root, *FOREIGN[what])
    before = contents(root)
    with pytest.raises(UsageError, match=f"{root} is there, and no run of edgenas made it"):
        made(root, "train")
    assert contents(root) == before


@pytest.mark.parametrize(
    "config",
    [
        "[" * 5000,
        "a: &a {x: 1}\n" + "\n".join(f"{n}: &a {{<<: [*a, *a]}}" for n in range(30)),
        "name: x" * (1 << 20),
        "\0",
    ],
)  # fmt: skip
def test_a_folder_with_an_odd_config_is_no_run(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(UsageError, match="no run of edgenas made it"):
        made(tmp_path, "train")
    assert (tmp_path / "config.yaml").read_text() == config


def test_a_user_s_images_outlive_a_run_of_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", "train/cat/1.png", "test/cat/1.png")
    (tmp_path / "photos.yaml").write_text(
        "task: {dataset: folder, path: photos}\n"
        "targets: [{device: cpu-onnxruntime, latency: 5 ms}]\n"
    )
    before = contents(tmp_path / "photos")
    for more in ([], ["--dry-run"]):
        assert main(["run", "photos.yaml", "--runs", ".", *more]) == 2
        assert "no run of edgenas made it" in capsys.readouterr().err
        assert contents(tmp_path / "photos") == before


@pytest.mark.parametrize("left", [(), (".lock",), (".lock", MARK)])
def test_an_empty_folder_and_one_that_was_begun_are_taken(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    root = tmp_path / "run"
    root.mkdir()
    for name in left:
        (root / name).touch()
    made(root, "train")
    assert sorted(os.listdir(root)) == [MARK, ".lock", "train"]
    assert sorted(os.listdir(root / "train")) == ["a.json", "stage.json"]


def test_a_stage_is_made_anew_and_nothing_of_somebody_else_goes_with_it(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "search", "train")
    made(run.root, "train")
    fill(run.root, "train/notes.txt", "train/more/photo.png", "my.txt")
    for name in ("train/more/photo.png", "train/notes.txt"):
        before = contents(run.root)
        with pytest.raises(UsageError, match=f"{name} was not made by edgenas"):
            made(run.root, "train")
        assert contents(run.root) == before
        (run.root / name).rename(tmp_path / Path(name).name)
    made(run.root, "search", "train")
    assert (run.root / "my.txt").read_text() == "mine: my.txt"
    assert run.outputs("train") == {"a.json": sha256(run.root / "train" / "a.json")}


def test_a_folder_of_a_stage_s_name_that_is_none_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "search")
    fill(run.root, "train/cat/1.png")
    before = contents(run.root)
    with pytest.raises(UsageError, match="train was not made by edgenas"):
        made(run.root)
    assert contents(run.root) == before
    shutil.rmtree(run.root / "train")
    (run.root / "train").mkdir()
    (run.root / "train" / "stage.json").write_text('{"key": 1, "outputs": ["x"]}')
    with pytest.raises(CorruptFile, match=r"stage\.json is not a stage record; move .* away"):
        made(run.root)
    (run.root / "train" / "stage.json").write_text("{")
    with pytest.raises(CorruptFile, match=r"cannot be read as JSON: .*; move .*train away to run"):
        made(run.root)


def test_what_a_kill_left_half_made_goes_and_what_somebody_put_there_stays(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "search")
    part = run.root / ".train.part"

    def killed(folder: Path) -> None:
        (folder / "half").write_text("half")
        shutil.copytree(folder, tmp_path / "left")

    run.make("train", lambda: "key", killed)
    (tmp_path / "left").rename(part)
    made(run.root, "train")
    assert not part.exists()
    for mark in ("", "edgenas run of another"):
        fill(run.root, ".train.part/photo.png")
        if mark:
            (part / MARK).write_text(mark)
        with pytest.raises(UsageError, match=r"\.train\.part lies in the way"):
            made(run.root, "train")
        assert (part / "photo.png").read_text() == "mine: .train.part/photo.png"
        shutil.rmtree(part)


@pytest.mark.parametrize("evidence", ["ledger", "stage"])
def test_a_run_that_was_made_before_there_were_marks_goes_on(tmp_path: Path, evidence: str) -> None:
    root = made(tmp_path / "run", *(["profile"] if evidence == "stage" else [])).root
    (root / MARK).unlink()
    (root / "config.yaml").write_text(CONFIG)
    if evidence == "ledger":
        (root / "ledger.jsonl").write_text(STARTED)
    made(root, "profile", "train")
    assert (root / MARK).read_text().startswith("edgenas run ")
    (root / MARK).unlink()
    (root / "config.yaml").write_text("name: mine")
    with pytest.raises(UsageError, match="no run of edgenas"):
        made(root, "train")


LINKS = [
    ".lock", MARK, "config.yaml", "ledger.jsonl", "ledger.readings.jsonl", "manifest.json",
    "verdict.json", "report.html", "model.onnx", ".checkpoints", ".checkpoints/train", "train",
    "train/a.json", ".train.part", "networks", "networks/1-5ms", "search",
]  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("to", ["file", "folder", "nothing"])
def test_a_link_planted_in_a_run_is_named_and_what_it_points_to_stays(
    tmp_path: Path, name: str, to: str
) -> None:
    run = made(tmp_path / "run", "train")
    outside = tmp_path / "outside"
    fill(outside, "file", "folder/found.safetensors", "folder/stage.json")
    path = run.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    whole = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    path.symlink_to(outside / to)
    before = contents(outside)
    for work in (lambda: made(run.root, "search", "train"), run.require_ours):
        with pytest.raises(UsageError, match=f"{path} is a link to "):
            work()
    assert contents(outside) == before
    path.unlink()
    if name == MARK:
        path.write_bytes(whole)
    made(run.root, "search", "train")


@pytest.mark.parametrize("kind", ["file", "dangling link", "fifo"])
def test_what_is_no_folder_is_no_run(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "run"
    plant: dict[str, Callable[[], object]] = {
        "file": lambda: root.write_text("mine"),
        "dangling link": lambda: root.symlink_to(tmp_path / "nowhere"),
        "fifo": lambda: os.mkfifo(root),
    }
    plant[kind]()
    with pytest.raises(UsageError, match="run is no folder"):
        made(root)


def test_a_pipe_in_place_of_the_lock_is_named(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run.root / ".lock").unlink()
    os.mkfifo(run.root / ".lock")
    with pytest.raises(UsageError, match="lock is no file"):
        made(run.root)


def test_a_copy_by_hard_links_shares_no_ledger(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "train")
    (run.root / "ledger.jsonl").write_text(STARTED)
    shutil.copytree(run.root, tmp_path / "copy", copy_function=os.link)
    made(tmp_path / "copy", "train")
    with (tmp_path / "copy" / "ledger.jsonl").open("a") as ledger:
        ledger.write(STARTED)
    assert (run.root / "ledger.jsonl").read_text() == STARTED


@pytest.mark.parametrize("name", ["experiment", "of.yaml", "zwei Läufe", "10"])
def test_a_run_is_the_folder_that_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[Path] = []

    def survey(config: object, runs: Path, **_: object) -> list[object]:
        seen.append(runs / config.name)
        return []

    monkeypatch.setattr("edgenas.pipeline.survey", survey)
    original = tmp_path / "runs" / "mine"
    original.mkdir(parents=True)
    (original / "config.yaml").write_text(
        json.dumps(
            {
                "name": "mine",
                "task": {"dataset": "npz", "path": "x"},
                "targets": [{"device": "cpu-onnxruntime", "latency": "5 ms"}],
            }
        )
    )
    copy = tmp_path / "elsewhere" / name
    shutil.copytree(original, copy)
    (tmp_path / "link").symlink_to(copy)
    monkeypatch.chdir(copy)
    ways = [copy, Path("."), Path("..") / name, tmp_path / "link", f"{copy}/"]
    for way in ways:
        done = CliRunner().invoke(cli, ["run", str(way), "--dry-run"], catch_exceptions=False)
        assert done.exit_code == 0
    assert {p.resolve() for p in seen} == {copy} and len(seen) == len(ways)
    CliRunner().invoke(cli, ["run", str(copy), "--set", "name=other", "--dry-run"])
    assert seen[-1].resolve() == copy.parent / "other"
