"""The whole chain on tiny images, really trained, exported and run; timed by a steady clock."""

import contextlib
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import steady
import yaml
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from edgenas import pipeline
from edgenas.artifact import sha256
from edgenas.budgets import Latency
from edgenas.config import load_config
from edgenas.errors import CorruptFile, TrainingDiverged
from edgenas.export import exporter_for
from edgenas.latency import LatencyTable
from edgenas.pipeline import mix, race
from edgenas.pipeline.context import HEADROOM, Context
from edgenas.predict import Predictor
from edgenas.project import least
from edgenas.report import quantity as q
from edgenas.report import write_report
from edgenas.rundir import RunDir
from edgenas.space import load_space

pytestmark = pytest.mark.trains

CONFIG = """
task: {task}
space:
  {{kind: mobile, stem: 8, stem_stride: 1, first: 8, widths: [8, 12], depths: [2, 2],
    strides: [2, 2], head: 16, kernels: [3, 5], expansions: [3, 6]}}
targets:
  - {{device: cpu-onnxruntime, latency: "<= 100 ms"}}
  - {{device: cpu-litert, latency: "<= 100 ms"}}
search: {{method: proxyless, epochs: 3, warmup: 1, samples: 2, batch: 32}}
race: {{seats: 3, rungs: [0.2, 0.5]}}
train: {{epochs: 6, batch: 32, lr: 0.1}}
prune: {{latency: "5 %", max_drop: "100 points"}}
quantize: {{epochs: 2, lr: 0.01}}
gates: {{drop: "100 points", agreement: ">= 50 %", difference: "50 %", class_drop: "100 points"}}
measure: {{networks: 12, blocks: 2, block_seconds: 0.05}}
threads: 1
"""
SPACE = load_space(
    yaml.safe_load(CONFIG.format(task="{}"))["space"]
    | {"preset": "tiny", "resolution": 12, "channels": 1, "classes": 3}
)
GIVEN = ("mine.yaml", "devices", "latency_tables")
MEASURED = ("stage.json", "confirmed.json")
STAGES = ["profile", "search", "race", "train", "compress", "export", "verify"]


def npz(folder: Path) -> str:
    """Three kinds of stripes, 12 x 12 grey."""
    rng = np.random.default_rng(0)
    y = np.arange(480) % 3
    grid = np.mgrid[:12, :12]
    waves = np.stack([np.sin(grid[0]), np.sin(grid[1]), np.sin(grid[0] + grid[1])])
    x = 127 + 60 * waves[y] + rng.normal(0, 25, (480, 12, 12))
    x = x.clip(0, 255).astype(np.uint8)[..., None]
    np.savez(folder / "data.npz", x_train=x[:360], y_train=y[:360], x_test=x[360:], y_test=y[360:])
    return f"{{dataset: npz, path: {folder / 'data.npz'}}}"


def images(folder: Path) -> str:
    """A folder a class, as a user brings it."""
    rng = np.random.default_rng(1)
    for k, name in enumerate(["bolts", "nuts"]):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(0, 120, (12, 12, 3)) + np.array([110, 0, 0])[[k, 1 - k, 2]]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / name / f"{i}.png")
    return f"{{dataset: folder, path: {folder / 'photos'}}}"


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgenas", "run", "mine.yaml", *arguments]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "EDGENAS_CACHE": str(folder / "cache")}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *arguments), cwd=folder, env=environment(folder),
        capture_output=True, text=True,
    )  # fmt: skip


def whole_run(folder: Path, *arguments: str) -> None:
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in runs/mine."""
    folder = tmp_path_factory.mktemp("chain")
    steady.boards(folder)
    (folder / "mine.yaml").write_text(CONFIG.format(task=npz(folder)))
    whole_run(folder)
    return folder


def again(finished: Path, folder: Path) -> None:
    """A copy of the finished run in ``folder``, to go on with."""
    for file in GIVEN:
        (folder / file).symlink_to(finished / file)
    shutil.copytree(finished / "runs/mine", folder / "runs/mine")


def verdict(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "runs" / "mine" / "verdict.json").read_text())
    return data


def events(folder: Path) -> Iterator[dict[str, Any]]:
    for line in (folder / "runs" / "mine" / "ledger.jsonl").read_text().splitlines():
        yield json.loads(line)


def readings(folder: Path) -> Iterator[dict[str, Any]]:
    """Times and memory, beside the ledger."""
    path = folder / "runs" / "mine" / "ledger.readings.jsonl"
    yield from map(json.loads, path.read_text().splitlines())


def made(root: Path) -> dict[str, str]:
    """What must not depend on interruptions: decisions, weights, files; not what was measured."""
    names = [*root.glob("search/*"), *root.glob("train/*"), *root.glob("compress/*")]
    names += root.glob("export/*")
    return {str(p.relative_to(root)): sha256(p) for p in names if p.name not in MEASURED}


def test_every_gate_has_a_measured_figure(finished: Path) -> None:
    v = verdict(finished)
    assert v["met"] and v["test"] == "held out"
    assert all(d["met"] and not d["missed"] for d in v["delivered"].values())
    assert {g["name"] for g in v["gates"]} >= {
        *("latency:onnx", "latency:tflite", "accuracy:onnx", "accuracy:tflite"),
        *("parity:onnx", "parity:tflite"),
    }
    for c in v["candidates"]:
        low, high = c["accuracy_interval"]
        assert low <= c["accuracy"] <= high and high - low < 0.2
        assert c["latency"]["provenance"] == "measured"
        assert c["latency"]["floor_ms"] <= c["latency"]["p50_ms"] <= c["latency"]["p90_ms"]
        borders = c["format"] == "onnx" and c["precision"] == "int8-static"
        assert c["transposes"] == (2 if borders else 0)  # ONNX Runtime's own, at both ends
        assert c["quantized"] == (1.0 if c["precision"] == "int8-static" else 0.0)
    assert Counter(c["format"] for c in v["candidates"]) == {"onnx": 4, "tflite": 4}
    assert v["torch"]["found"] > 0.9  # a third is chance


def test_the_delivered_files_are_candidates(finished: Path) -> None:
    root = finished / "runs" / "mine"
    for delivered in verdict(finished)["delivered"].values():
        assert sha256(root / delivered["file"]) == sha256(root / delivered["source"])
    manifest = json.loads((root / "manifest.json").read_text())
    for name, digest in manifest["outputs"].items():
        assert sha256(root / name) == digest
    assert "<html" in (root / "report.html").read_text()


def test_the_pruned_variant_is_narrower(finished: Path) -> None:
    root = finished / "runs" / "mine"
    variants = json.loads((root / "compress" / "compress.json").read_text())["variants"]
    assert variants["pruned"]["ops"] != variants["found"]["ops"]
    weights = {v: (root / s / f"{v}.safetensors").stat().st_size
               for v, s in [("found", "train"), ("pruned", "compress")]}  # fmt: skip
    assert weights["pruned"] < weights["found"]


def test_how_int8_was_made_is_told_and_what_was_worse_is_undone(finished: Path) -> None:
    root = finished / "runs" / "mine"
    variants = json.loads((root / "compress" / "compress.json").read_text())["variants"]
    assert variants.keys() == {"found", "pruned"}
    for variant in variants.values():
        made = variant["int8"]
        assert len(made["tried"]) == 8
        kept = next(t for t in made["tried"] if not t["farther"])
        assert made["divergence"] == kept["divergence"]
        trained = made["trained"]
        assert trained["after"] > trained["before"] or not trained["kept"]
    epochs = [(e["variant"], e["epoch"]) for e in events(finished) if e["phase"] == "int8"]
    assert epochs == [(v, n) for v in ("found", "pruned") for n in (1, 2)]
    page = (root / "report.html").read_text()
    assert (
        "found in int8-static: ranges by" in page and "Training with int8 in it, 2 epochs" in page
    )


def test_where_parity_is_missed_it_is_said_at_which_operator(
    finished: Path, tmp_path: Path
) -> None:
    again(finished, tmp_path)
    strict = ("--set", "gates.difference=0.001 %", "--set", "precision=int8-static")
    done = run(tmp_path, *strict)
    assert done.returncode == 3, done.stderr
    for fmt, file in verdict(tmp_path)["delivered"].items():
        assert not file["met"] and file["missed"] == [f"parity:{fmt}:outputs"]
        assert f"NOT MET parity:{fmt}:outputs" in done.stdout and file["next"][0] in done.stdout
    found = verdict(tmp_path)["layer_errors"]
    assert found.keys() == {"cpu-onnxruntime", "cpu-litert"}
    for where in found.values():  # nothing is wrong with the files, only the limit
        assert 0 < max(e["error"] for e in where["operators"]) < 0.25
    assert "no operator by itself is off by more than rounding explains" in done.stdout
    page = (tmp_path / "runs" / "mine" / "report.html").read_text()
    assert "no operator by itself is off by more than rounding explains" in page


@pytest.mark.parametrize("device", ["cpu-onnxruntime", "cpu-litert"])
def test_a_deployed_file_is_used_there_with_nothing_of_edgenas(
    finished: Path, tmp_path: Path, device: str
) -> None:
    root = finished / "runs" / "mine"
    call = [sys.executable, "-m", "edgenas", "deploy", str(root), "--device", device]
    call += ["--to", str(tmp_path / "model")]
    done = subprocess.run([*call, "--samples", "30", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    model = next(p for p in (tmp_path / "model").glob("model.*") if p.suffix != ".json")
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        model.name, "model.json", "classify.py", ".edgenas",
    }  # fmt: skip
    assert sha256(model) == sha256(root / model.name)
    right = sum(a["truth"] == a["best"][0][0] for a in told["answers"])
    accuracy = next(
        c["accuracy"]
        for c in verdict(finished)["candidates"]
        if c["delivered"] and c["device"] == device
    )
    assert len(told["answers"]) == 30 and abs(right / 30 - accuracy) < 0.2
    picture = tmp_path / "across.png"
    rows = 127 + 60 * np.sin(np.mgrid[:12, :12][0])
    Image.fromarray(np.repeat(np.repeat(rows.astype(np.uint8), 4, 0), 4, 1)).save(picture)
    alone = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "model" / "classify.py"), str(picture)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(alone.stdout)["best"][0]["class"] == "0", alone.stderr
    for junk in ("missing.png", __file__):
        alone = subprocess.run(
            [sys.executable, "-I", str(tmp_path / "model" / "classify.py"), junk],
            capture_output=True, text=True,
        )  # fmt: skip
        assert alone.returncode and "cannot be read as an image" in alone.stderr
        assert "Traceback" not in alone.stderr
    classes = [a["truth"] for a in told["answers"]]
    assert {classes.count(k) for k in "012"} == {10}  # as many of each
    shown = subprocess.run([*call, "--image", str(picture)], capture_output=True, text=True).stdout
    assert "across.png" in shown and "right" not in shown


def test_what_was_not_judged_is_not_deployed(finished: Path, tmp_path: Path) -> None:
    def said(root: Path, device: str = "cpu-litert", *more: str) -> tuple[int, str]:
        call = [sys.executable, "-m", "edgenas", "deploy", str(root), "--device", device, *more]
        done = subprocess.run(
            [*call, "--to", str(tmp_path / "there")] if not more else call,
            capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stderr

    root = tmp_path / "mine"
    shutil.copytree(finished / "runs" / "mine", root)
    code, err = said(root, "cpu-litert", "--to", "-rf")
    assert code == 2 and "does not make a folder" in err
    for name, content in (("notes.txt", b"words"), ("broken.png", b"\x89PNG\r\n\x1a\n")):
        (tmp_path / name).write_bytes(content)
        code, err = said(root, "cpu-litert", "--image", str(tmp_path / name))
        assert code == 2 and f"{name} cannot be read as an image" in err
    whole = (root / "verdict.json").read_text()
    for damaged in ("{}", "[]"):
        (root / "verdict.json").write_text(damaged)
        code, err = said(root)
        assert code == 2 and "verdict.json or manifest.json is damaged" in err
    (root / "verdict.json").write_text(whole)
    code, err = said(tmp_path / "nowhere")
    assert code == 2 and "is not a run directory" in err
    (root / "model.tflite").write_bytes(b"another")
    code, err = said(root)
    assert code != 0 and "is not the file that was judged" in err
    (root / "verdict.json").unlink()
    code, err = said(root)
    assert code == 2 and "nothing is delivered without one" in err
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_a_model_of_the_user_is_not_replaced(
    finished: Path, tmp_path: Path, more: list[str]
) -> None:
    root = tmp_path / "mine"
    shutil.copytree(finished / "runs" / "mine", root)
    (root / "model.tflite").write_bytes(b"converted by hand")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.name != ".lock"}
    done = subprocess.run(
        [sys.executable, "-m", "edgenas", "run", str(root), *more], cwd=finished,
        env=environment(finished), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "model.tflite was not made by edgenas" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.name != ".lock"}
    assert (root / "model.tflite").read_bytes() == b"converted by hand"


def test_a_second_run_does_nothing(finished: Path) -> None:
    before = [e for e in events(finished)]
    done = run(finished)
    assert done.returncode == 0
    assert "every stage is whole and unchanged" in done.stderr
    assert [e for e in events(finished)] == before


def test_its_folder_says_every_default_and_is_the_same_run(finished: Path) -> None:
    root = finished / "runs" / "mine"
    written = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    assert {"search_share", "test_share", "augment"} < written["task"].keys()
    assert {"batch", "lr", "pressure"} < written["search"].keys()
    assert {"widths", "kernels", "head"} < written["space"].keys()
    done = subprocess.run(
        [sys.executable, "-m", "edgenas", "run", "runs/mine", "--dry-run", "--json"],
        cwd=finished, env=environment(finished), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(stage["unchanged"] for stage in json.loads(done.stdout))


def test_the_space_is_spanned_in_every_precision(finished: Path) -> None:
    profile = json.loads((finished / "runs/mine/profile/profile.json").read_text())
    for target in profile["targets"]:
        assert {"fp32", "int8-static"} == target["spans_ms"].keys()
        assert all(0 < low < high for low, high in target["spans_ms"].values())
        span = [target["fastest_ms"], target["slowest_ms"]]
        assert target["spans_ms"][target["precision"]] == span


def test_a_change_reruns_what_depends_on_it(finished: Path) -> None:
    done = run(finished, "--set", "measure.blocks=3", "--dry-run", "--json")
    plan = {c["stage"]: c["unchanged"] for c in json.loads(done.stdout)}
    assert plan == {s: s != "verify" for s in STAGES}
    done = run(finished, "--set", "train.epochs=4", "--dry-run", "--json")
    plan = {c["stage"]: c["unchanged"] for c in json.loads(done.stdout)}
    assert plan == {s: s in ("profile", "search") for s in STAGES}


def test_a_copy_of_a_run_is_its_own_and_delivers_what_it_has(
    finished: Path, tmp_path: Path
) -> None:
    again(finished, tmp_path)
    original, copy = tmp_path / "runs" / "mine", tmp_path / "elsewhere" / "experiment"
    shutil.copytree(original, copy)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in original.rglob("*") if p.is_file()}

    def edgenas(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edgenas", *arguments], cwd=tmp_path,
            env=environment(tmp_path), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "every stage is whole and unchanged" in edgenas("run", str(copy))
    assert json.loads((copy / "verdict.json").read_text())["name"] == "experiment"
    assert RunDir(copy).compared().keys() == RunDir(original).compared().keys()
    edgenas("train", str(copy), "--set", "train.epochs=1")
    assert sha256(copy / "train/found.safetensors") != sha256(original / "train/found.safetensors")
    named = RunDir(copy).compared()
    assert named.keys() >= {"train/found.safetensors", "search/search.json", "config.yaml"}
    gone = ("verdict.json", "model.onnx", "model.tflite", "report.html")
    assert not any((copy / name).exists() or name in named for name in gone)
    edgenas("report", str(copy))
    assert "experiment" in (copy / "report.html").read_text()
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in original.rglob("*") if p.is_file()}
    assert after == before


def test_a_table_that_was_measured_anew_is_taken(finished: Path, tmp_path: Path) -> None:
    again(finished, tmp_path)
    (tmp_path / "latency_tables").unlink()
    shutil.copytree(finished / "latency_tables", tmp_path / "latency_tables")

    def pending() -> list[str]:
        done = run(tmp_path, "--dry-run", "--json")
        assert done.returncode == 0, done.stderr
        return [c["stage"] for c in json.loads(done.stdout) if not c["unchanged"]]

    path = next((tmp_path / "latency_tables").glob("cpu-litert.*.fp32.jsonl"))
    whole, table = path.read_text(), LatencyTable.load(path)
    vocabulary = SPACE.vocabulary()
    assert pending() == []  # although pruning added to the tables
    assert set(table.rows) > set(vocabulary)
    pruned = {op: row for op, row in table.rows.items() if op not in vocabulary}
    slower = {op: replace(row, floor_ms=row.floor_ms * 2, p50_ms=row.p50_ms * 2, interval_ms=None)
              for op, row in pruned.items()}  # fmt: skip
    table.with_rows(slower).save(path)
    assert pending() == []
    fit = table.header.fit
    assert fit is not None
    for fresh in (
        table.with_rows({op: replace(table[op], n=7) for op in vocabulary}),
        replace(table, header=replace(table.header, fit=replace(fit, slope=fit.slope * 1.01))),
    ):
        fresh.save(path)
        assert pending() == STAGES
    path.write_text(whole.replace(f'"slope": {fit.slope}', f'"slope": {fit.slope / 10}', 1))
    done = run(tmp_path, "--dry-run")
    assert done.returncode == 2 and "edited" in done.stderr
    path.unlink()
    assert pending() == []


def test_a_damaged_file_is_made_again(finished: Path, tmp_path: Path) -> None:
    victim = finished / "runs" / "mine" / "export" / "found.fp32.onnx"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-10])
    try:
        done = run(finished, "--dry-run", "--json")
        plan = {c["stage"]: c["unchanged"] for c in json.loads(done.stdout)}
        assert [s for s in STAGES if not plan[s]] == ["export", "verify"]
    finally:
        victim.write_bytes(whole)


def test_killed_at_five_moments_and_resumed_it_ends_the_same(
    finished: Path, tmp_path: Path
) -> None:
    for name in GIVEN:
        (tmp_path / name).symlink_to(finished / name)
    rng = random.Random(7)
    codes: list[int] = []
    for kill in range(5):
        process = subprocess.Popen(
            command(tmp_path, *(["--resume"] if kill else [])), cwd=tmp_path,
            env=environment(tmp_path), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        for _ in range(rng.randrange(14, 22)):  # past what is announced before anything is made
            process.stderr.readline()
        process.send_signal(signal.SIGKILL)
        codes.append(process.wait())
        process.stderr.close()
    assert codes.count(-signal.SIGKILL) >= 4  # a run that ended first was not interrupted
    done = run(tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    root = tmp_path / "runs" / "mine"
    assert made(root) == made(finished / "runs" / "mine")
    equal = RunDir(root).compared()
    assert equal == RunDir(finished / "runs" / "mine").compared()
    assert {"verdict.json", "manifest.json", "config.yaml", "model.onnx"} <= equal.keys()
    ended: set[str] = set()
    for e in events(tmp_path):
        if e["phase"] == "stage":
            assert e["stage"] not in ended, f"{e['stage']} was run again although it was whole"
            if e["event"] == "end":
                ended.add(e["stage"])
    assert ended == set(STAGES)
    assert not list(root.glob(".*.part"))


def long_training(folder: Path) -> list[str]:
    """Trains what ``finished`` found once more, for more epochs, with every part of a recipe."""
    parts = ("epochs=16", "ema=0.9", "mixup=0.2", "cutmix=1", "precision=bf16", "dead_after=0.9")
    settings = [text for part in parts for text in ("--set", f"train.{part}")]
    alone = ["--set", "race.seats=1"]
    return [sys.executable, "-m", "edgenas", "train", "mine.yaml", *settings, *alone]


def test_a_training_that_was_killed_goes_on_where_it_was(finished: Path, tmp_path: Path) -> None:
    weights = []
    for name in ("killed", "whole"):
        folder = tmp_path / name
        (folder / "runs").mkdir(parents=True)
        shutil.copytree(finished / "runs" / "mine", folder / "runs" / "mine")
        for file in GIVEN:
            (folder / file).symlink_to(finished / file)
        kept = folder / "runs" / "mine" / ".checkpoints"
        before = len(list(events(folder)))
        if name == "killed":
            process = subprocess.Popen(
                long_training(folder), cwd=folder, env=environment(folder),
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stderr is not None
            assert any(line.endswith(" 5/16\n") for line in process.stderr)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
            assert (kept / "train" / "found.safetensors").exists()
            (kept / "train" / ".found.safetensors.abcd_123.aside").write_bytes(b"killed writing")
        done = subprocess.run(
            long_training(folder), cwd=folder, env=environment(folder),
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        first = next(line for line in done.stderr.splitlines() if line.startswith("train ("))
        assert "images/s" in first and "min left" in first
        assert (int(first.rpartition(" ")[2].partition("/")[0]) > 4) == (name == "killed")
        assert not list(kept.iterdir())
        told = [e for e in list(events(folder))[before:] if e["phase"] == "train"]
        assert {e["epoch"] for e in told} == set(range(1, 17))
        paces = [e for e in readings(folder) if e["phase"] == "train"]
        assert all(e["images_per_second"] > 0 and e["seconds"] > 0 for e in paces[-16:])
        assert len(paces) >= 16 and not any("seconds" in e for e in told)
        manifest = json.loads((folder / "runs" / "mine" / "manifest.json").read_text())
        assert not [p for p in manifest["outputs"] if p.startswith(".")]
        weights.append(sha256(folder / "runs" / "mine" / "train" / "found.safetensors"))
    assert weights[0] == weights[1]


LONG_RACE = ("race.seats=6", "race.rungs=[0.25,0.5]", "race.scores=[naswot,trainability]",
             "train.epochs=16", "train.optimizer=adamw", "train.search_images=judge")  # fmt: skip


def racing(folder: Path, stage: str, *more: str) -> list[str]:
    settings = [text for part in (*LONG_RACE, *more) for text in ("--set", part)]
    return [sys.executable, "-m", "edgenas", stage, "mine.yaml", *settings]


def test_a_race_that_was_killed_goes_on_where_it_was(finished: Path, tmp_path: Path) -> None:
    made_of = []
    for name in ("killed", "whole"):
        folder = tmp_path / name
        (folder / "runs").mkdir(parents=True)
        again(finished, folder)
        for last in (" 6/", " 19/", "") if name == "killed" else ("",):  # in rungs one and two
            process = subprocess.Popen(
                racing(folder, "race"), cwd=folder, env=environment(folder),
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stderr is not None
            seen = [
                line for line in iter(process.stderr.readline, "")
                if line.startswith("race (") and stopped(process, last, line)
            ]  # fmt: skip
            assert process.wait() == (-signal.SIGKILL if last else 0)
            process.stderr.close()
            assert bool(seen) == bool(last)
        made_of.append({
            file: sha256(folder / "runs" / "mine" / "race" / file)
            for file in ("race.json", "architecture.json", "winner.safetensors")
        })  # fmt: skip
        asked = [e for e in events(folder) if e["phase"][:5] == "race " and e["event"] == "tell"]
        assert len(asked) == 3 + 2 + 6 + 3  # of the finished run, and its own
    assert made_of[0] == made_of[1]


def stopped(process: subprocess.Popen[str], last: str, line: str) -> bool:
    """Kill it where ``line`` is the ``last`` that was waited for."""
    if last and last in line:
        process.send_signal(signal.SIGKILL)
        return True
    return False


def test_training_goes_on_from_the_race_and_ends_as_if_it_had_trained_alone(
    finished: Path, tmp_path: Path
) -> None:
    again(finished, tmp_path)
    done = subprocess.run(
        racing(tmp_path, "train"), cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_of = tmp_path / "runs" / "mine"
    first = next(line for line in done.stderr.splitlines() if line.startswith("train ("))
    assert first.endswith(" 9/16")  # 8 of 16 were raced
    raced = json.loads((run_of / "race" / "race.json").read_text())
    assert raced["goes_on"] and raced["rungs"] == [4, 8] and len(raced["seats"]) == 6
    assert [len(seat["rungs"]) for seat in raced["seats"]] == [2, 2, 2, 1, 1, 1]
    assert {"best by naswot", "best by trainability"} & {seat["why"] for seat in raced["seats"]}
    assert raced["held_out"] == {"parts": ["search"], "images": 36}
    assert raced["worth"].keys() == raced["labels"].keys()
    whole = sha256(run_of / "train" / "found.safetensors")
    shutil.copy(run_of / "race" / "architecture.json", tmp_path / "won.json")
    for name in ("devices", "latency_tables"):
        assert (tmp_path / name).exists()
    alone = ("race.seats=1", f"search={{method: measured, architecture: {tmp_path / 'won.json'}}}")
    done = subprocess.run(
        racing(tmp_path, "train", *alone), cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (run_of / "race" / "race.json").exists()
    assert sha256(run_of / "train" / "found.safetensors") == whole


def test_the_report_shows_who_raced_and_what_options_are_worth(finished: Path) -> None:
    root = finished / "runs" / "mine"
    page = (root / "report.html").read_text()
    raced = json.loads((root / "race" / "race.json").read_text())
    assert page.count('<span class="chip delivered">won</span>') == 1
    for seat in raced["seats"]:
        assert f"<code>{seat['id']}</code>" in page and seat["why"] in page
        for rung in seat["rungs"]:
            assert q.percent(rung["accuracy"], 1) in page
    assert 'id="worth"' in page and raced["worth"].keys() == {c.name for c in SPACE.choices}
    for worth in raced["worth"].values():
        assert all(w["low"] <= w["points"] <= w["high"] for w in worth.values())


def test_who_diverges_leaves_the_race(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again(finished, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    real, calls, said = race.train, itertools.count(), list[str]()

    def train(*of: Any, **more: Any) -> Any:
        if next(calls) == 1:
            raise TrainingDiverged("training: the loss became nan")
        return real(*of, **more)

    monkeypatch.setattr(race, "train", train)
    config = load_config("mine.yaml", ["race.seats=4"])
    pipeline.run(config, until="race", progress=lambda what, *of: said.append(what))
    seats = json.loads((tmp_path / "runs/mine/race/race.json").read_text())["seats"]
    assert seats[-1]["rungs"][0]["accuracy"] == 0 and all(
        s["rungs"][0]["accuracy"] for s in seats[:-1]
    )
    assert any("leaves it: training: the loss became nan" in line for line in said)


def test_a_race_is_shown_with_its_own_search_alone(finished: Path, tmp_path: Path) -> None:
    again(finished, tmp_path)
    root = tmp_path / "runs" / "mine"
    searched = root / "search" / "search.json"
    kept = searched.read_text()
    searched.write_text(kept.replace('"method"', '"method": "another",\n "was"', 1))
    write_report(root)
    assert 'id="race"' not in (root / "report.html").read_text()
    searched.write_text(kept)
    write_report(root)
    assert 'id="race"' in (root / "report.html").read_text()
    raced = json.loads((root / "race" / "race.json").read_text())
    for damage in ({"rungs": []}, {"architecture": {"picks": None}}, {"rungs": None}):
        seats = [seat | damage for seat in raced["seats"]]
        (root / "race" / "race.json").write_text(json.dumps(raced | {"seats": seats}))
        with contextlib.suppress(CorruptFile):
            write_report(root)
    (root / "race" / "race.json").unlink()
    other = {**raced["architecture"], "picks": {**raced["architecture"]["picks"], "s1b1": 9}}
    (root / "race" / "architecture.json").write_text(json.dumps(other))
    with pytest.raises(CorruptFile, match="holds who won a race, and not the race"):
        write_report(root)


def test_a_race_in_which_none_learns_ends_the_run(finished: Path, tmp_path: Path) -> None:
    again(finished, tmp_path)
    done = run(tmp_path, *(f"--set={s}" for s in ("train.lr=1000", "train.dead_after=0.1")))
    assert done.returncode == 1
    assert "race: none of 3 networks learnt anything; lower train: lr" in done.stderr


def test_who_judges_a_race_is_learnt_from_after_it(finished: Path, tmp_path: Path) -> None:
    again(finished, tmp_path)
    learn = ("train.search_images=learn", "train.epochs=4", "race.seats=2", "quantize.epochs=0")
    done = subprocess.run(
        racing(tmp_path, "train", *learn), cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_of = tmp_path / "runs" / "mine"
    raced = json.loads((run_of / "race" / "race.json").read_text())
    trained = json.loads((run_of / "train" / "train.json").read_text())
    assert not raced["goes_on"] and not (run_of / "race" / "winner.safetensors").exists()
    assert raced["held_out"]["parts"] == ["search", "calibration"]
    assert trained["images"] == 288 + raced["held_out"]["images"] and trained["epochs"] == 4


def test_another_run_is_started_from(finished: Path, tmp_path: Path) -> None:
    again(finished, tmp_path)
    (tmp_path / "latency_tables").unlink()  # those of the others are theirs
    with np.load(finished / "data.npz") as data:
        two = {k: data[k][data[f"y_{k[2:]}"] < 2] for k in data}
    np.savez(tmp_path / "two.npz", **two)
    said = CONFIG.format(task=f"{{dataset: npz, path: {tmp_path / 'two.npz'}}}")
    (tmp_path / "other.yaml").write_text(f"{said}start: runs/mine\n")
    done = subprocess.run(
        [sys.executable, "-m", "edgenas", "train", "other.yaml", "--set", "train.epochs=1",
         "--set", "search.epochs=2"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shares = [float(s) for s in re.findall(r"start: ([\d.]+) % of the weights", done.stderr)]
    assert len(shares) >= 4 and all(80 <= s < 100 for s in shares), shares  # two classes
    (tmp_path / "text.pt").write_text("no weights")
    named = (
        ("runs/none", "is not there"), ("devices", "holds no weights"), ("text.pt", "text.pt"),
        ("runs/other", "is of this very run"),
    )  # fmt: skip
    for name, why in named:
        refused = subprocess.run(
            [sys.executable, "-m", "edgenas", "run", "other.yaml", "--dry-run",
             "--set", f"start={name}"],
            cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
        )  # fmt: skip
        assert refused.returncode == 2 and why in refused.stderr


def test_a_teacher_is_learnt_from(finished: Path, tmp_path: Path) -> None:
    again(finished, tmp_path)
    shutil.copytree(tmp_path / "runs" / "mine", tmp_path / "runs" / "other")

    def trained(*more: str) -> subprocess.CompletedProcess[str]:
        settings = (f"--set={s}" for s in ("train.epochs=4", "race.seats=2", *more))
        return subprocess.run(
            [sys.executable, "-m", "edgenas", "train", "mine.yaml", *settings],
            cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
        )  # fmt: skip

    made_of = []
    for more in ((), ("train.teacher=runs/other",)):
        done = trained(*more)
        assert done.returncode == 0, done.stderr
        made_of.append(sha256(tmp_path / "runs" / "mine" / "train" / "found.safetensors"))
    assert made_of[0] != made_of[1]
    layers = tmp_path / "runs" / "other" / "train" / "found.json"
    for run_of, why in (
        ("runs/none", "there is no runs/none/train/found.json; name a run that has trained"),
        ("runs/mine", "is of this very run"),
        ("runs/mine/../mine", "is of this very run"),
    ):
        done = trained(f"train.teacher={run_of}")
        assert done.returncode == 2 and why in done.stderr.splitlines()[-1]
    layers.write_text(layers.read_text().replace("classifier 16-3", "classifier 16-5"))
    done = trained("train.teacher=runs/other")
    assert done.returncode == 2 and "does not hold this network" in done.stderr.splitlines()[-1]


def test_a_damaged_checkpoint_says_what_to_do(finished: Path, tmp_path: Path) -> None:
    again(finished, tmp_path)
    kept = tmp_path / "runs" / "mine" / ".checkpoints" / "train" / "found.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"damaged")
    done = subprocess.run(
        long_training(tmp_path), cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "found.safetensors" in last and "delete it to start afresh" in last


def test_an_accelerator_that_is_not_there_is_known_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CONFIG.format(task=npz(tmp_path)))
    hidden = {**environment(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command(tmp_path, "--set", "accelerator=cuda"), cwd=tmp_path, env=hidden,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "accelerator: torch finds no CUDA device here; set it to cpu" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    finished: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 20 kB: the supernet does not fit, everything before it does."""
    for name in GIVEN:
        (tmp_path / name).symlink_to(finished / name)
    limited = f"ulimit -f 20; exec {shlex.join(command(tmp_path))}"
    done = subprocess.run(
        ["bash", "-c", limited], cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert ".checkpoints/search/ledger.safetensors" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    root = tmp_path / "runs" / "mine"
    assert (root / "profile" / "stage.json").exists()
    assert not [p.name for p in root.iterdir() if p.name in ("search", ".search.part")]


def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(finished: Path, tmp_path: Path) -> None:
    for name in GIVEN:
        (tmp_path / name).symlink_to(finished / name)
    process = subprocess.Popen(
        command(tmp_path), cwd=tmp_path, env=environment(tmp_path),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while "search" not in process.stderr.readline().split(" ")[:1]:
        pass
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert rest.splitlines()[-1].startswith("edgenas: interrupted")
    assert "Traceback" not in rest
    assert not list((tmp_path / "runs" / "mine").glob(".*.part"))


def promise(tables: Path, into: Path, share: float) -> float:
    """Tables that predict ``share`` of what they should; what the fastest network takes, in ms."""
    fastest_ms = 0.0
    for path in tables.glob("cpu-onnxruntime.*.jsonl"):
        table = LatencyTable.load(path)
        fit = table.header.fit
        assert fit is not None
        exact = replace(table, header=replace(table.header, fit=replace(fit, margin=0.0)))
        if table.header.precision == "fp32":
            fastest_ms = least(SPACE, Latency("cpu-onnxruntime", 1.0, Predictor(exact)))
        flattering = replace(
            fit, slope=fit.slope * share, intercept_ms=fit.intercept_ms * share, margin=0.0
        )
        replace(table, header=replace(table.header, fit=flattering)).save(into / path.name)
    return fastest_ms


def squeezed(
    finished: Path, folder: Path, promised: float, asked: float
) -> subprocess.CompletedProcess[str]:
    """A run under a budget of ``asked`` times what the fastest network takes; as tables promise."""
    for name in ("mine.yaml", "devices"):
        (folder / name).symlink_to(finished / name)
    fastest_ms = promise(finished / "latency_tables", folder / "latency_tables", promised)
    target = f"{{device: cpu-onnxruntime, latency: '{asked * fastest_ms:.6f} ms'}}"
    return run(
        folder, "--set", f"targets=[{target}]", "--set", "precision=fp32",
        "--set", "prune.epochs=0", "--set", "train.epochs=1",
    )  # fmt: skip


def test_a_missed_budget_is_repaired_by_pruning(finished: Path, tmp_path: Path) -> None:
    """A budget that no network of the space keeps, though tables promise it: one has to be cut."""
    done = squeezed(finished, tmp_path, promised=0.5, asked=0.96)
    assert done.returncode == 0, done.stderr
    v, device = verdict(tmp_path), "cpu-onnxruntime"
    assert v["met"]
    for repair in v["repairs"]:
        assert repair["measured_ms"][device] > repair["limit_ms"][device]
    p50 = {
        c["variant"]: c["latency"]["p50_ms"] for c in v["candidates"] if c["precision"] == "fp32"
    }
    delivered = v["delivered"]["onnx"]["variant"]
    assert delivered == v["repairs"][-1]["variant"]
    assert p50[delivered] <= v["repairs"][0]["limit_ms"][device] < p50["found"]
    assert [e["variant"] for e in events(tmp_path) if e["phase"] == "repair"] == [
        r["variant"] for r in v["repairs"]
    ]


def test_a_budget_that_no_cut_keeps_is_given_up_and_missed(finished: Path, tmp_path: Path) -> None:
    done = squeezed(finished, tmp_path, promised=0.1, asked=0.15)
    assert done.returncode == 3, done.stderr
    v = verdict(tmp_path)
    assert not v["met"]
    assert "every block is at its narrowest" in v["repairs"][-1]["gave_up"]


def test_a_device_that_shall_compute_the_same_is_known_before_anything_runs(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.yaml").write_text(CONFIG.format(task=npz(tmp_path)))
    for name, says in (("nowhere", "no device 'nowhere'"), ("phone", "runs ncnn, and no target")):
        (tmp_path / "devices").mkdir(exist_ok=True)
        (tmp_path / "devices" / "phone.yaml").write_text(
            "{transport: {kind: adb}, runtime: {kind: ncnn}}"
        )
        done = run(tmp_path, "--set", f"gates.same_on=[{name}]")
        assert done.returncode == 2 and says in done.stderr, done.stderr
        assert not (tmp_path / "runs").exists()


def test_a_network_is_delivered_at_the_width_and_resolution_that_were_found(
    tmp_path: Path,
) -> None:
    steady.boards(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG.format(task=npz(tmp_path)))
    whole_run(
        tmp_path, "--set", "space.resolutions=[8, 10]", "--set", "space.multipliers=[1, 2]",
        "--set", "space.kernels=[3]", "--set", "train.from_supernet=true",
        "--set", "train.epochs=6",
    )  # fmt: skip
    root, v = tmp_path / "runs" / "mine", verdict(tmp_path)
    found = json.loads((root / "search" / "search.json").read_text())
    size = int(found["labels"]["resolution"].removeprefix("r"))
    assert size in (8, 10) and f"@{size} " in found["ops"][0]
    assert {b["choice"] for b in found["blocks"]} == {None, "s1b1", "s1b2", "s2b1", "s2b2"}
    assert set(found["probabilities"]["width"]) == {"w1", "w2"}
    picked = [op for c, of in found["options"].items() for op in of[found["labels"][c]]]
    assert picked and picked == found["ops"][2:-2]  # at the width that was found
    for fmt, shape in (("onnx", [1, size, size]), ("tflite", [size, size, 1])):
        path = root / v["delivered"][fmt]["file"]
        assert json.loads(exporter_for(fmt).inspect(path).metadata["input"]) == [1, size, size]
        assert input_shape(path) == shape
    assert v["met"] and v["torch"]["found"] > 0.6
    assert {g["name"] for g in v["gates"]} >= {"parity:onnx", "parity:tflite"}


def test_a_resolution_that_the_task_has_not_says_how_to_ask_for_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CONFIG.format(task=npz(tmp_path)))
    done = run(tmp_path, "--set", "space.resolution=8", "--dry-run")
    assert done.returncode == 2
    said = "space: resolution is 8, but the task has 12; leave it out, or write resolutions: [8]"
    assert said in done.stderr


def input_shape(path: Path) -> list[int]:
    """Of one image, as the runtime sees it."""
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(path).get_inputs()[0].shape[1:]
    return Interpreter(str(path)).get_input_details()[0]["shape"][1:].tolist()


@pytest.mark.parametrize("precision", ["int8-static", "int8-dynamic"])
def test_a_folder_of_images_and_a_named_precision(tmp_path: Path, precision: str) -> None:
    steady.boards(tmp_path)
    text = CONFIG.format(task=images(tmp_path))
    (tmp_path / "mine.yaml").write_text(text + f"precision: {precision}\n")
    whole_run(tmp_path, "--set", "prune.epochs=0", "--set", "gates.same_on=[cpu-litert-t2]")
    v = verdict(tmp_path)
    (same,) = (g for g in v["gates"] if g["name"].startswith("same:"))
    assert same["name"] == "same:tflite on cpu-litert-t2" and same["met"]
    assert {d["precision"] for d in v["delivered"].values()} == {precision}
    assert v["task"]["classes"] == ["bolts", "nuts"]
    integers = {"int8:onnx", "int8:tflite"} <= {g["name"] for g in v["gates"]}
    assert integers == (precision == "int8-static")


def slow_table(folder: Path) -> None:
    """As one that was measured in minutes when the machine was slower."""
    profile = [
        sys.executable, "-m", "edgenas", "profile", "cpu-onnxruntime", "--config", "mine.yaml",
        "--precision", "int8-static", "--networks", "12",
    ]  # fmt: skip
    subprocess.run(profile, cwd=folder, env=environment(folder), check=True, capture_output=True)
    (path,) = (folder / "latency_tables").glob("*.jsonl")
    table = LatencyTable.load(path)
    assert table.header.fit is not None
    slow = replace(table.header.fit, p50_per_floor=table.header.fit.p50_per_floor * 1.5)
    replace(table, header=replace(table.header, fit=slow)).save(path)


def test_a_front_is_one_search_and_a_run_of_each_network(tmp_path: Path) -> None:
    config = CONFIG.format(task=npz(tmp_path)).replace(
        'cpu-onnxruntime, latency: "<= 100 ms"',
        'cpu-onnxruntime, latency: ["<= 20 %", "<= 100 ms"]',
    )
    config = config.replace("prune: {", "precision: int8-static\nprune: {epochs: 0, ")
    lines = [line for line in config.splitlines() if "cpu-litert" not in line]
    steady.boards(tmp_path)
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    slow_table(tmp_path)
    done = run(tmp_path, "--set", "repairs=0")
    assert done.returncode in (0, 3), done.stderr
    front, root = verdict(tmp_path), tmp_path / "runs" / "mine"
    assert list(front["networks"]) == ["1-20percent", "2-100ms"]
    own = {
        name: json.loads((root / n["verdict"]).read_text()) for name, n in front["networks"].items()
    }
    assert front["met"] == all(v["met"] for v in own.values())
    assert [(g["network"], g["name"]) for g in front["gates"]] == [
        (name, g["name"]) for name, v in own.items() for g in v["gates"]
    ]
    assert len(list((root / "networks").glob("*/model.onnx"))) == 2
    found = json.loads((root / "search" / "search.json").read_text())["levels"]
    searched = [
        json.loads((root / "networks" / name / "search" / "search.json").read_text())
        for name in own
    ]
    assert [f["ops"] for f in found] == [s["ops"] for s in searched]
    latencies = [g for g in front["gates"] if g["name"].startswith("latency:")]
    assert len(latencies) == 2 and all(g["met"] for g in latencies)  # a slack one may be faster
    page = (root / "report.html").read_text()
    assert "networks/1-20percent/report.html" in page and "2-100ms" in page
    assert not (root / "train").exists()
    again = run(tmp_path, "--set", "repairs=0")
    assert again.returncode == done.returncode
    assert (
        sum("search" in str(e.get("stage")) and e["event"] == "start" for e in events(tmp_path))
        == 1
    )


def test_files_look_from_outside_as_was_asked_and_take_no_more_memory(
    finished: Path, tmp_path: Path
) -> None:
    again(finished, tmp_path)
    asked = ("precision=int8-static", "export.batch=1", "export.ends=float32", "gates.memory=50 MB")
    whole_run(tmp_path, *itertools.chain.from_iterable(("--set", text) for text in asked))
    v, root = verdict(tmp_path), tmp_path / "runs/mine"
    assert {d["precision"] for d in v["delivered"].values()} == {"int8-static"}
    for format in ("onnx", "tflite"):
        found = exporter_for(format).inspect(root / f"model.{format}")
        assert (found.input_dtype, found.output_dtype) == ("float32", "float32")
        assert found.precision == "int8-static"
    assert onnxruntime.InferenceSession(root / "model.onnx").get_inputs()[0].shape == [1, 1, 12, 12]
    memory = [g for g in v["gates"] if g["name"].startswith("memory:")]
    assert len(memory) == 2 and all(0 < g["value"] < 5e7 and g["met"] for g in memory)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.1])
def test_where_int8_loses_too_much_the_budget_goes_to_what_it_hurts_most(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.chdir(finished)
    ctx = Context(
        finished / "runs/mine", load_config(Path("mine.yaml")), Path("latency_tables"),
        lambda *_: None,
    )  # fmt: skip
    monkeypatch.setattr(mix._Judge, "keeps", lambda *_: False)
    whole = mix.mix_variant(ctx, "found", tmp_path)
    assert set(whole) == {"onnx", "tflite"}
    layers = {f: record["layers"] for f, record in whole.items()}
    assert all(set(record["floats"]) == set(layers[f]) for f, record in whole.items())

    def more_ms(format: str, device: str, names: Iterable[str]) -> float:
        both = (layers[format][name][device] for name in names)
        return sum(pair["float_ms"] - pair["int8_ms"] for pair in both)

    targets = []
    for t in ctx.targets:
        predictor = ctx.predictor(t["device"], "int8-static")
        assert predictor is not None
        slack_ms = share * more_ms(t["format"], t["device"], layers[t["format"]])
        int8_ms = predictor.p50_ms(ctx.network("found")[0])
        targets.append({**t, "limit_ms": (int8_ms + slack_ms + 1e-6) / HEADROOM, "slack": slack_ms})
    ctx.__dict__["targets"] = targets
    for t, record in zip(targets, mix.mix_variant(ctx, "found", tmp_path).values(), strict=True):
        assert record["aim"] == "accuracy"
        assert more_ms(t["format"], t["device"], record["floats"]) <= t["slack"] + 1e-5
        assert (share > 1) == (set(record["floats"]) == set(layers[t["format"]]))


def test_what_int8_makes_slower_or_worse_stays_in_float(tmp_path: Path) -> None:
    steady.boards(tmp_path, int8=20)
    config = CONFIG.format(task=npz(tmp_path)).replace("epochs: 2, lr: 0.01", "mixed: true")
    config = config.replace("device: cpu-litert", "device: devices/cpu-litert.yaml")
    (tmp_path / "mine.yaml").write_text(config)
    whole_run(tmp_path, "--set", "prune.epochs=0", "--set", "gates.agreement='>= 0 %'")
    found = verdict(tmp_path)["candidates"]
    told = json.loads((tmp_path / "runs/mine/compress/compress.json").read_text())
    for format, mixed in told["variants"]["found"]["mixed"].items():
        assert mixed["aim"] == "speed" and mixed["floats"]
        (file,) = (c for c in found if (c["precision"], c["format"]) == ("mixed", format))
        (int8,) = (c for c in found if (c["precision"], c["format"]) == ("int8-static", format))
        assert 0 < file["quantized"] < 1 == int8["quantized"]
        assert file["latency"]["p50_ms"] < int8["latency"]["p50_ms"]
    page = (tmp_path / "runs/mine/report.html").read_text()
    assert "found in mixed precision, tflite" in page and "faster on the device" in page
    asked = ("prune.epochs=0", "gates.agreement='>= 0 %'", "quantize.mixed=false")
    whole_run(tmp_path, *itertools.chain.from_iterable(("--set", text) for text in asked))
    assert "mixed" not in {c["precision"] for c in verdict(tmp_path)["candidates"]}


def test_the_clock_of_this_machine_is_measured_or_found_wanting(tmp_path: Path) -> None:
    """No steady clock here: a run ends with what was measured, or before it with why not."""
    (tmp_path / "mine.yaml").write_text(CONFIG.format(task=npz(tmp_path)))
    done = run(tmp_path, "--set", "train.epochs=1", "--set", "precision=fp32")
    if done.returncode == 5:
        said = done.stderr.splitlines()[-1]
        assert re.search("[Qq]uieten .*profile", said), said
        assert not (tmp_path / "runs" / "mine" / "verdict.json").exists()  # pruning profiles too
        return
    assert done.returncode in (0, 3), done.stderr
    for c in verdict(tmp_path)["candidates"]:
        assert c["latency"]["provenance"] == "measured"
        assert 0 < c["latency"]["floor_ms"] <= c["latency"]["p50_ms"] < 100
