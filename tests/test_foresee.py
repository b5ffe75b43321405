"""``--dry-run`` ends as the run would, where that can be known, and says what all of it takes."""

import argparse
import json
from pathlib import Path

import pytest
import steady
import torch
from test_pipeline import CONFIG, npz

from edgenas.cli import main

BOARDS = {
    "no such Python": "{kind: local, python: /nowhere/python}",
    "a Python that ends": "{kind: local, python: /bin/false}",
    "a host that does not answer": "{kind: ssh, host: 127.0.0.1, port: 9}",
}
NETWORK = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 48, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3),
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a config, data and steady boards; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    steady.boards(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG.format(task=npz(tmp_path)))
    return tmp_path


def dry(*settings: str, command: tuple[str, ...] = ("run", "mine.yaml")) -> int:
    asked = [text for setting in settings for text in ("--set", setting)]
    return main([*command, *asked, "--dry-run"])


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("command", ["run", "profile", "compress"])
def test_a_board_that_does_not_answer_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], board: str, command: str
) -> None:
    (folder / "devices" / "cpu-litert.yaml").write_text(
        f"transport: {BOARDS[board]}\nruntime: {{kind: litert}}\n"
    )
    (folder / "net.py").write_text(NETWORK)
    weights(folder, "net.py")
    argv = {
        "run": ["run", "mine.yaml"],
        "profile": ["profile", "cpu-litert", "--config", "mine.yaml"],
        "compress": [
            "compress", "net.py:build", "--weights", "w.pt", "--data", "data.npz",
            "--device", "cpu-litert", "--latency", "5 ms",
        ],
    }[command]  # fmt: skip
    assert dry(command=tuple(argv)) == 4
    said = [t for t in capsys.readouterr().err.splitlines() if t.startswith("edgenas: ")]
    assert len([t for t in said if "is used as cpu-" not in t]) == 1  # told of each board, too
    assert not (folder / "runs").exists() and not (folder / "latency_tables").exists()


@pytest.mark.parametrize(
    "budget",
    ["parameters: 0.1 k", "macs: 0.05 k", "activations: 10 B", "parameters: 1 k, macs: 1 k"],
)
def test_a_budget_that_no_network_keeps_is_told_without_a_table(
    folder: Path, capsys: pytest.CaptureFixture[str], budget: str
) -> None:
    assert dry(f"budgets={{{budget}}}") == 3
    assert "edgenas: no " in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["data.npz", "a part of it"])
def test_data_that_is_not_there_is_told(folder: Path, lost: str) -> None:
    if lost == "data.npz":
        (folder / lost).unlink()
    else:
        (folder / "data.npz").write_bytes((folder / "data.npz").read_bytes()[:-400])
    assert dry() == 2


def weights(folder: Path, source: str) -> None:
    scope: dict[str, object] = {}
    exec((folder / source).read_text(), scope)  # the test's own text
    torch.save(scope["build"]().state_dict(), folder / "w.pt")


class Setting:
    """What a file of weights should not hold."""


@pytest.mark.parametrize("beside", [argparse.Namespace(lr=1), Setting()])
@pytest.mark.parametrize("run", [("--dry-run",), ()])
def test_weights_that_cannot_be_read_are_told_before_anything_is_measured(
    folder: Path, capsys: pytest.CaptureFixture[str], beside: object, run: tuple[str, ...]
) -> None:
    (folder / "net.py").write_text(NETWORK)
    weights(folder, "net.py")
    whole = torch.load(folder / "w.pt", weights_only=True)
    torch.save({"state_dict": whole, "args": beside}, folder / "w.pt")
    command = (
        "compress", "net.py:build", "--weights", "w.pt", "--data", "data.npz",
        "--device", "cpu-onnxruntime", "--latency", "50 ms",
    )  # fmt: skip
    assert main([*command, *run]) == 2
    said = capsys.readouterr()
    assert "w.pt holds other objects" in said.err
    assert "memory in training" not in said.out + said.err
    assert not (folder / "runs").exists() and not (folder / "latency_tables").exists()


OTHERS = {
    "wider": [("(1, 64, 3", "(1, 16, 3"), ("(64, 48, 3", "(16, 48, 3")],
    "more classes": [("nn.Linear(48, 3)", "nn.Linear(48, 5)")],
    "a batch norm more": [("nn.ReLU(), nn.Conv", "nn.BatchNorm2d(64), nn.Conv")],
}


@pytest.mark.parametrize("change", OTHERS)
def test_weights_of_another_network_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    other = NETWORK
    for before, after in OTHERS[change]:
        other = other.replace(before, after)
    (folder / "net.py").write_text(NETWORK)
    (folder / "other.py").write_text(other)
    weights(folder, "other.py")
    command = (
        "compress", "net.py:build", "--weights", "w.pt", "--data", "data.npz",
        "--device", "cpu-onnxruntime", "--latency", "50 ms",
    )  # fmt: skip
    assert dry(command=command) == 2
    said = capsys.readouterr()
    assert "w.pt" in said.err and "memory in training" not in said.out + said.err
    weights(folder, "net.py")
    assert dry(command=command) == 0


def test_what_all_of_it_takes_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.yaml", "--dry-run", "--json"]) == 0
    told, said = capsys.readouterr()
    assert "on the disk, where" in said and "of memory in training" in said
    plan = {c["stage"]: c for c in json.loads(told)}
    assert all(c["seconds"] > 0 and c["disk_bytes"] > 0 for c in plan.values())
    trains = {"search", "race", "train", "compress"}
    assert {s for s, c in plan.items() if c["memory_bytes"]} == trains
    assert not (folder / "runs").exists()


def test_who_calls_it_keeps_their_threads(folder: Path) -> None:
    torch.set_num_threads(2)
    assert main(["run", "mine.yaml", "--dry-run", "--set", "threads=1"]) == 0
    assert torch.get_num_threads() == 2
