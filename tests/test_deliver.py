"""What lies on top of a run is what it delivers now."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.artifact import sha256
from edgenas.errors import UsageError
from edgenas.pipeline.deliver import deliver, withdraw
from edgenas.pipeline.made import require_made
from edgenas.rundir import RunDir


def verdict(*formats: str) -> dict[str, Any]:
    return {"met": True, "gates": [], "delivered": {f: {"file": f"model.{f}"} for f in formats}}


def delivered(root: Path, *formats: str, networks: tuple[str, ...] = ()) -> dict[str, str]:
    """A run that delivers ``formats``; what its manifest names."""
    run = RunDir(root)
    with run.locked(lambda text: None):

        def work(folder: Path) -> None:
            files(folder, *formats)
            withdraw(root)  # as every stage does, before what was judged is replaced

        run.make("verify", lambda: "key", work)
        (root / "config.yaml").write_text("name: mine")
        ctx: Any = SimpleNamespace(
            root=root, config=SimpleNamespace(seed=0), task=SimpleNamespace(describe=dict)
        )
        given = verdict(*formats) if formats else {}
        deliver(ctx, given, ["verify"] if formats else [], networks)
    outputs: dict[str, str] = json.loads((root / "manifest.json").read_text())["outputs"]
    return outputs


def files(folder: Path, *formats: str) -> None:
    (folder / "verdict.json").write_text(json.dumps(verdict(*formats)))
    for format in formats:
        (folder / f"model.{format}").write_text(f"{folder.parent.name} {format}")


def on_top(root: Path) -> set[str]:
    names = {p.name for p in root.iterdir()}
    return {n for n in names if n.startswith("model.") or n == "verdict.json"}


@pytest.mark.parametrize(
    "after", [("onnx",), ("tflite",), ("ncnn", "tflite"), ("onnx", "tflite", "ncnn"), ()]
)
def test_a_file_that_is_no_longer_delivered_goes(tmp_path: Path, after: tuple[str, ...]) -> None:
    root = tmp_path / "mine"
    delivered(root, "onnx", "tflite")
    for name in ("model.h5", "model.md", "my.onnx"):
        (root / name).write_text("somebody else's")
    named = delivered(root, *after)
    models = {f"model.{f}" for f in after}
    assert on_top(root) == models | ({"verdict.json"} if after else set()) | {
        "model.h5",
        "model.md",
    }
    assert {n for n in named if n.startswith("model.")} == models
    assert all(sha256(root / name) == digest for name, digest in named.items())
    assert (root / "my.onnx").read_text() == "somebody else's" and "my.onnx" not in named


@pytest.mark.parametrize("lost", ["verdict.json", "manifest.json"])
def test_a_run_that_lost_its_verdict_delivers_nothing(tmp_path: Path, lost: str) -> None:
    root = tmp_path / "mine"
    delivered(root, "onnx", "tflite")
    (root / lost).unlink()
    assert not [n for n in delivered(root) if n.startswith("model.")]
    assert on_top(root) == set()


def test_what_is_made_anew_is_withdrawn_and_its_stages_stay(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    delivered(root, "onnx")
    (root / "report.html").write_text("<title>mine: met (edgenas)</title>")
    withdraw(root)
    assert sorted(p.name for p in root.iterdir()) == [
        ".edgenas", ".lock", "config.yaml", "verify",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "verdict.json", "report.html"])
def test_what_somebody_else_put_on_top_stays(tmp_path: Path, name: str) -> None:
    root = tmp_path / "mine"
    delivered(root, "onnx")
    require_made(root, ["onnx", "tflite"])
    (root / name).write_text("mine")
    with pytest.raises(UsageError, match=rf"{name} was not made by edgenas, or was changed since"):
        require_made(root, ["onnx", "tflite"])
    withdraw(root)
    assert (root / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "report.html"])
def test_folders_in_the_place_of_files_are_named(tmp_path: Path, name: str) -> None:
    root = tmp_path / "mine"
    delivered(root)
    (root / name).unlink(missing_ok=True)
    (root / name).mkdir()
    with pytest.raises(UsageError, match=f"{name} was not made"):
        require_made(root, ["onnx"])


def test_what_a_kill_left_between_model_and_manifest_is_ours(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    delivered(root, "onnx", "tflite")
    for lost in ("manifest.json", "verdict.json", "model.onnx"):
        (root / lost).unlink()
        require_made(root, ["onnx", "tflite"])


def test_networks_that_a_front_no_longer_asks_for_deliver_nothing(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    delivered(root)
    for name in ("1-5ms", "2-8ms"):
        delivered(root / "networks" / name, "onnx")
    (root / "networks" / "notes").mkdir()
    (root / "networks" / "notes" / "verdict.json").write_text(json.dumps(verdict("onnx")))
    (root / "networks" / "notes" / "model.onnx").write_text("somebody else's")
    delivered(root, networks=("2-8ms",))
    assert on_top(root / "networks" / "1-5ms") == set()
    assert on_top(root / "networks" / "2-8ms") == {"model.onnx", "verdict.json"}
    assert on_top(root / "networks" / "notes") == {"model.onnx", "verdict.json"}
