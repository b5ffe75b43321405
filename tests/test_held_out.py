"""Brought weights are judged on images that they have not seen, or it is said that they have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgenas.cli import main
from edgenas.config import parse_config
from edgenas.errors import UsageError
from edgenas.missed import outcome
from edgenas.pipeline import silent
from edgenas.pipeline.brought import brought_config
from edgenas.pipeline.context import Context
from edgenas.summary import summary
from edgenas.task import load_task

NETWORK = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 2),
    )
"""
NO_TEST_PART = "has no test part, and which of its images"
SEEN = "seen by the weights"


def photos(top: Path, count: int = 30, seed: int = 0, size: int = 12) -> Path:
    """``count`` images of each of two classes, every one of its own."""
    rng = np.random.default_rng(seed)
    for k, name in enumerate(("bolts", "nuts")):
        (top / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (size, size, 3)) + np.array([110, 0, 0])[[k, 1 - k, 2]]
            Image.fromarray(pixels.astype(np.uint8)).save(top / name / f"{i}.png")
    return top


def pixels(count: int, **more: Any) -> dict[str, Any]:
    x = np.random.default_rng(count).integers(0, 255, (count, 12, 12, 3)).astype(np.uint8)
    return {"x_train": x, "y_train": np.arange(count) % 2, **more}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What somebody brings: code, weights, and images in every form."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    scope: dict[str, Any] = {}
    exec(NETWORK, scope)
    net: nn.Module = scope["build"]()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    photos(tmp_path / "plain")
    photos(tmp_path / "held", 5, seed=1)
    photos(tmp_path / "parts/train")
    photos(tmp_path / "parts/test", 5, seed=1)
    photos(tmp_path / "large/train", size=16)
    test = pixels(8)
    np.savez(tmp_path / "one.npz", **pixels(60))
    np.savez(tmp_path / "other.npz", **pixels(20))
    np.savez(tmp_path / "both.npz", **pixels(60, x_test=test["x_train"], y_test=test["y_train"]))
    return tmp_path


def compress(data: str, *more: str) -> int:
    return main([
        "compress", "net.py:build", "--weights", "w.pt", "--data", data, "--device",
        "cpu-onnxruntime", "--latency", "5 ms", "--dry-run", "--set", "train.batch=8", *more,
    ])  # fmt: skip


@pytest.mark.parametrize("data", ["plain", "one.npz", "large"])
def test_images_without_a_test_part_are_refused_in_one_line(
    folder: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress(data) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"edgenas: {data} {NO_TEST_PART} w.pt was trained on cannot be known")
    assert "train/ and test/" in said and "--test FOLDER" in said and "--data-seen" in said
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("data", "more"),
    [("parts", ()), ("both.npz", ()), ("plain", ("--test", "held")), ("plain", ("--data-seen",)),
     ("one.npz", ("--test", "other.npz"))],
)  # fmt: skip
def test_what_says_its_parts_is_taken(folder: Path, data: str, more: tuple[str, ...]) -> None:
    assert compress(data, *more) == 0


@pytest.mark.parametrize(
    ("data", "more", "says"),
    [
        ("plain", ("--test", "plain"), "are the training images themselves"),
        ("plain", ("--test", "./held/../plain"), "are the training images themselves"),
        ("plain", ("--test", "nowhere"), "there is no folder nowhere"),
        ("plain", ("--test", "strange"), "has the class 'screws', which the training images lack"),
        ("plain", ("--test", "wide"), "has images of 3x16x16, and the training images are 3x12x12"),
        ("plain", ("--test", "held", "--data-seen"), "leave one of them out"),
        ("parts", ("--test", "held"), "has a test part of its own; leave it out"),
        ("both.npz", ("--test", "other.npz"), "has a test part of its own; leave it out"),
        ("plain", ("--test", "one-class"), "expected two or more"),
    ],
)
def test_held_out_images_that_do_not_go_are_one_line(
    folder: Path, data: str, more: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(folder / "strange", 2)
    (folder / "strange/nuts").rename(folder / "strange/screws")
    photos(folder / "wide", 2, size=16)
    photos(folder / "one-class", 2)
    for file in (folder / "one-class/nuts").iterdir():
        file.unlink()
    (folder / "one-class/nuts").rmdir()
    assert compress(data, *more) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert says in said


def config(folder: Path, task: dict[str, Any], **train: Any) -> Context:
    settings = {
        "task": task, "targets": [{"device": "cpu-onnxruntime", "latency": "5 ms"}],
        "space": {"kind": "module", "source": str(folder / "net.py:build")},
        "search": {"method": "given"}, "train": train,
    }  # fmt: skip
    return Context(folder / "runs/x", parse_config(settings, "x.yaml"), folder, silent)


def test_a_config_is_held_to_the_same(folder: Path) -> None:
    plain = {"dataset": "folder", "path": "plain"}
    call = f"{folder / 'data.py'}:load"
    (folder / "data.py").write_text(
        "import numpy as np\ndef load(): return dict(np.load('one.npz'))\n"
    )
    for task in (plain, {"dataset": "function", "call": call}):
        with pytest.raises(UsageError, match=NO_TEST_PART):
            _ = config(folder, task, weights="w.pt").task
        assert config(folder, task).task.drawn  # trained here, on other images
        known = config(folder, task, weights="w.pt", data_seen=True)
        assert known.task.drawn and known.test_is == SEEN
    assert config(folder, {**plain, "test": "held"}, weights="w.pt").test_is == "held out"
    parts = {"dataset": "folder", "path": "parts"}
    assert config(folder, parts, weights="w.pt").test_is == "held out"
    assert config(folder, parts, weights="w.pt", data_seen=True).test_is == SEEN
    with pytest.raises(UsageError, match="data_seen is of weights, and none are given"):
        config(folder, plain, data_seen=True)
    # A run's config.yaml is read again: what compress was told is in it.
    made = brought_config(
        "net.py:build", Path("w.pt"), "plain", ["cpu-litert"], "5 ms", test="held"
    )
    assert made.task["test"] == "held" and not made.train.data_seen


def test_images_held_out_are_the_test_part_and_all_others_are_not(folder: Path) -> None:
    (folder / "held/bolts").rename(folder / "held/zzz")
    (folder / "held/nuts").rename(folder / "held/bolts")  # classes in another order
    (folder / "held/zzz").rename(folder / "held/nuts")
    task = load_task({"dataset": "folder", "path": "plain", "test": "held"}, 0)
    sizes = {part: len(images) for part, images in task.parts.items()}
    assert sizes["test"] == 10 and sum(sizes.values()) == 70 and not task.drawn
    alone = load_task({"dataset": "folder", "path": "held", "mean": [0.5] * 3, "std": [1] * 3}, 0)
    shown = {x.numpy().tobytes() for images in alone.parts.values() for x in images.x}
    assert {x.numpy().tobytes() for x in task.parts["test"].x} == shown


GATE = {"comparison": "<=", "unit": "ms", "value": 2.0, "limit": 1.0}


@pytest.mark.parametrize(
    ("name", "step"),
    [("latency:onnx", "allow more time"), ("accuracy:onnx", "train for longer"),
     ("accuracy:onnx:worst-class", "gates.class_drop"), ("parity:onnx", "quantize.mixed"),
     ("parity:tflite:outputs", "gates.difference"), ("int8:onnx", "precision: auto"),
     ("size:onnx", "budgets.size"), ("memory:onnx", "gates.memory"),
     ("same:onnx on qemu-arm64", "compute different things")],
)  # fmt: skip
def test_a_file_that_misses_a_gate_says_so_and_what_to_do(name: str, step: str) -> None:
    checks = [{**GATE, "name": "size:onnx", "met": name != "size:onnx"},
              {**GATE, "name": name, "met": False}]  # fmt: skip
    told = outcome(checks)
    assert not told["met"] and name in told["missed"] and step in " ".join(told["next"])
    file = {"file": "model.onnx", "variant": "found", "precision": "fp32", "device": "pi", **told}
    verdict = {
        "candidates": [], "gates": checks, "delivered": {"onnx": file}, "test": SEEN,
        "notes": ["w.pt: several"],
        "task": {"parts": {"test": {"images": 90}}},
    }  # fmt: skip
    said = summary(verdict, Path("runs/x"))
    missed = ", ".join(told["missed"])
    assert f"runs/x/model.onnx  found, fp32, for pi: NOT MET {missed}" in said
    assert f"next    {told['next'][-1]}" in said
    assert "note    w.pt: several" in said
    assert "accuracy is of 90 test images, seen by the weights" in said
    assert "on others the network gets fewer right" in said
    met = outcome([{**GATE, "name": name, "met": True}])
    assert met == {"met": True, "missed": [], "next": []}
    said = summary({**verdict, "delivered": {"onnx": {**file, **met}}, "test": "held out"}, Path())
    assert "next " not in said and "for pi: NOT MET" not in said and "held out" in said
