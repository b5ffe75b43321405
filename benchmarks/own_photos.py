"""``edgenas run`` with its defaults against thirty lines of plain CNN, on data of a user's own.

    python benchmarks/own_photos.py PHOTOS [--tasks ...] [--budgets plain 0.3 1 5 50] [--work ...]

PHOTOS is a folder of photos, in it a folder a class. Tasks: those photos at 64 and 96 px,
Fashion-MNIST and CIFAR-10. Of each, a run as documented at every budget, milliseconds on ONNX
Runtime and LiteRT, nothing set beside task and targets; ``plain``: what the plain CNN takes on
each, measured before. The plain CNN is trained from scratch on
all images but the test part, as long (seconds of training steps, measured on the way, same number
of threads) as the network of the run that it is compared with, and brought to int8 through
``compress``, uncut. Both are judged as files: accuracy on the same test images, p50 by edgenas.

A row is a task and a budget. At the top level: ``ahead_points``, the least over the tasks of what
edgenas gets right beyond the plain CNN, in points, and ``latency_ratio``, the largest of its p50 by
the plain CNN's on any device: both of the widest budget whose network is no slower than the plain
CNN on any device, or else of the one that is slower by least. ``slack_monotone``: no wider budget
of a task gave a network that is slower by more than its intervals and gets fewer right. They are
of the rows that are there, and ``whole`` says whether those are all. Killed and started again it
goes on: finished rows are kept in benchmarks/results/own_photos.json, runs in --work.
"""

import argparse
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results_file import RESULTS, rows_before, write_results
from torch import nn

from edgenas.config import parse_config
from edgenas.console import Bars
from edgenas.files import read_json, write_json
from edgenas.noise import faster
from edgenas.pipeline import run
from edgenas.pipeline.context import save_weights
from edgenas.search import Ledger
from edgenas.task import Task, load_task
from edgenas.train import TrainRecipe, seeded, train

NAME, PLAIN_NAME = "own_photos", "plain"
DEVICES = ("cpu-onnxruntime", "cpu-litert")
TEST_SHARE = 5  # one photo in so many is held out
TIMED = 30  # steps, to know how many fit into the time
BRIEFLY_S = 20.0  # enough to be better than guessing
PLAIN = '''"""A plain CNN: 3 x 3 convolutions, batch norm, ReLU."""

from torch import nn


def build():
    layers, before = [], {channels}
    for width, stride in zip((24, 48, 48, 96, 96, 192), (2, 2, 1, 2, 1, 2)):
        layers.append(nn.Conv2d(before, width, 3, stride, 1, bias=False))
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    head = [nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, {classes})]
    return nn.Sequential(*layers, *head)
'''
RECIPE = TrainRecipe(batch=32, optimizer="adamw", lr=0.002, weight_decay=0.05, smoothing=0.1)

Row = dict[str, Any]


def split(photos: Path, folder: Path) -> Path:
    """``photos`` as links in train/ and test/: what both contestants take."""
    if (folder / "test").is_dir():
        return folder
    for kind in sorted(p for p in photos.iterdir() if p.is_dir()):
        files = sorted(p for p in kind.iterdir() if p.is_file())
        random.Random(0).shuffle(files)
        for number, file in enumerate(files):
            part = "train" if number % TEST_SHARE else "test"
            link = folder / f"{part}.part" / kind.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
    for part in ("train", "test"):  # whole or not there
        (folder / f"{part}.part").rename(folder / part)
    return folder


def tasks(photos: Path, work: Path) -> dict[str, dict[str, Any]]:
    """By name, as in a config."""
    folder = str(split(photos, work / "photos"))
    return {
        "photos-64": {"dataset": "folder", "path": folder, "resolution": 64},
        "photos-96": {"dataset": "folder", "path": folder, "resolution": 96},
        "fashion-mnist": {"dataset": "fashion-mnist"},
        "cifar10": {"dataset": "cifar10"},
    }


def judged(config: Mapping[str, Any], work: Path) -> tuple[Path, dict[str, Any]]:
    """The run's folder, and of each device what was delivered there."""
    settings = parse_config(dict(config), NAME)
    with Bars() as bars:
        verdict = run(settings, work, tables=work / "tables", progress=bars)
    best = verdict["delivered"].values()
    delivered = {
        c["device"]: {
            "accuracy": c["accuracy"],
            "p50_ms": c["latency"]["p50_ms"],
            "interval_ms": c["latency"]["interval_ms"],
            "file": c["file"],
            "size_bytes": c["size_bytes"],
            "met": verdict["met"],
        }
        for c in verdict["candidates"]
        if any((c["file"], c["device"]) == (d["source"], d["device"]) for d in best)
    }
    return work / settings.name, delivered


def targets(budget_ms: Mapping[str, float]) -> list[dict[str, Any]]:
    """By device."""
    return [{"device": d, "latency": f"<= {ms:g} ms"} for d, ms in budget_ms.items()]


def budgets(
    asked: str, name: str, task: Mapping[str, Any], work: Path, seed: int
) -> dict[str, float]:
    """Milliseconds by device; those of ``plain`` are of one trained briefly."""
    if asked != PLAIN_NAME:
        return dict.fromkeys(DEVICES, float(asked))
    files = plain(f"{name}-{seed}-timed", task, BRIEFLY_S, work, seed)["files"]
    return {device: files[device]["p50_ms"] for device in DEVICES}


def trained_seconds(root: Path) -> float:
    """Of the training steps of the found network, those in its race too if it went on from them."""
    ledger, phases = Ledger(root / "ledger.jsonl"), ["train"]
    raced = read_json(root / "race" / "race.json")
    if raced["goes_on"]:
        seats = {seat["id"]: seat["architecture"] for seat in raced["seats"]}
        won = next(id for id, arch in seats.items() if arch == raced["architecture"])
        phases.append(f"{raced['phase']} {won}")
    return sum(e["seconds"] for phase in phases for e in ledger.epochs(phase))


def plain(name: str, task: Mapping[str, Any], seconds: float, work: Path, seed: int) -> Row:
    """The plain CNN after so many seconds of training, and as files in int8."""
    folder = work / f"{name}-source"
    folder.mkdir(parents=True, exist_ok=True)
    data = load_task(task, seed).joined("search", "calibration")
    source, weights, took = (folder / f for f in ("plain.py", "plain.safetensors", "took.json"))
    code = PLAIN.format(channels=data.input[0], classes=len(data.classes))
    source.write_text(code, encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(code, scope)
    if not took.exists():
        net, steps = fitted(scope["build"], data, seconds, seed)
        save_weights(net, weights)
        write_json(took, {"steps": steps, "seconds": seconds})
    root, files = judged(
        {
            "name": name, "task": dict(task), "targets": targets(dict.fromkeys(DEVICES, 1000.0)),
            "space": {"kind": "module", "source": f"{source}:build"},
            "search": {"method": "given"}, "train": {"weights": str(weights)},
            "prune": {"epochs": 0}, "precision": "int8-static", "measure": {"networks": 16},
            "seed": seed,
        },
        work,
    )  # fmt: skip
    torch_accuracy = read_json(root / "train" / "train.json")["accuracy"]
    return {"files": files, "accuracy": torch_accuracy, **read_json(took)}


def fitted(
    build: Callable[[], nn.Module], data: Task, seconds: float, seed: int
) -> tuple[nn.Module, int]:
    """A network trained for about ``seconds``, and the steps that these were."""
    each = len(data.parts["train"]) // RECIPE.batch

    def after(steps: int) -> nn.Module:
        with seeded(seed):
            net = build()
        warmup = min(50, steps / 5) / each
        how = TrainRecipe(**{**vars(RECIPE), "steps": steps, "warmup": warmup})
        train(net, data, how, seed)
        return net

    after(2)  # kernels are chosen once
    start = time.perf_counter()
    after(TIMED)
    steps = max(1, round(seconds * TIMED / (time.perf_counter() - start)))
    return after(steps), steps


def row(name: str, task: Mapping[str, Any], asked: str, work: Path, seed: int) -> Row:
    """One budget: both contestants."""
    label, budget_ms = f"{name}-{asked}-{seed}", budgets(asked, name, task, work, seed)
    root, files = judged(
        {"name": label, "task": dict(task), "targets": targets(budget_ms), "seed": seed}, work
    )
    seconds = trained_seconds(root)
    other = plain(f"{label}-plain", task, seconds, work, seed)
    return {
        "task": name, "asked": asked, "budget_ms": budget_ms, "seed": seed,
        "training_seconds": seconds,
        "edgenas": files, "plain": other, "trained": read_json(root / "train" / "train.json"),
        "ahead_points": ahead(files, other["files"]), "latency_ratio": ratio(files, other["files"]),
        "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def ahead(files: Mapping[str, Row], others: Mapping[str, Row]) -> float:
    """Points, on the device where it is least."""
    return min(100 * (files[d]["accuracy"] - others[d]["accuracy"]) for d in files)


def ratio(files: Mapping[str, Row], others: Mapping[str, Row]) -> float:
    """Of p50, on the device where it is largest."""
    return max(float(files[d]["p50_ms"] / others[d]["p50_ms"]) for d in files)


def compared(rows: Sequence[Row]) -> Row:
    """Of one task and seed, the row that counts, chosen by latency alone."""
    level = [r for r in rows if r["latency_ratio"] <= 1]
    if level:
        return max(level, key=lambda r: min(r["budget_ms"].values()))
    return min(rows, key=lambda r: r["latency_ratio"])


def monotone(rows: Sequence[Row]) -> bool:
    """Whether no wider budget made both worse."""
    return not any(
        a["budget_ms"][d] < b["budget_ms"][d]
        and faster(tuple(a["edgenas"][d]["interval_ms"]), tuple(b["edgenas"][d]["interval_ms"]))
        and b["edgenas"][d]["accuracy"] < a["edgenas"][d]["accuracy"]
        for a, b in itertools.permutations(rows, 2)
        for d in a["edgenas"].keys() & b["edgenas"].keys()
    )


def groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """By task and seed."""
    keys = dict.fromkeys((r["task"], r["seed"]) for r in rows)
    for key in keys:
        yield [r for r in rows if (r["task"], r["seed"]) == key]


def keep(rows: Sequence[Row], wanted: int) -> None:
    """Write what is known."""
    chosen = [compared(some) for some in groups(rows)]
    write_results(
        NAME,
        ahead_points=min(r["ahead_points"] for r in chosen),
        latency_ratio=max(r["latency_ratio"] for r in chosen),
        slack_monotone=all(monotone(some) for some in groups(rows)),
        whole=len(rows) >= wanted,
        compared=[{k: r[k] for k in ("task", "seed", "asked")} for r in chosen],
        rows=rows,
    )


def main() -> None:
    """A row at a time, printed and kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--tasks", nargs="*", help="all where none is named")
    parser.add_argument("--budgets", nargs="*", default=[PLAIN_NAME, "0.3", "1", "5", "50"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/own_photos"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    known = tasks(args.photos, args.work)
    if strange := [name for name in args.tasks or () if name not in known]:
        parser.error(f"no task {strange[0]}; known: {', '.join(known)}")
    rows = rows_before(NAME) if (RESULTS / f"{NAME}.json").exists() else []
    done = {(r["task"], r["seed"], r["asked"]) for r in rows}
    for seed, name, asked in itertools.product(args.seeds, args.tasks or known, args.budgets):
        if (name, seed, asked) not in done:
            rows.append(row(name, known[name], asked, args.work, seed))
            keep(rows, len(args.seeds) * len(known) * len(args.budgets))
    print(f"{'task':<15}{'budget':>8}{'points':>8}{'ratio':>7}{'edgenas':>9}{'plain':>8}")
    for r in rows:
        best, other = (
            next(iter(f.values()))["accuracy"] for f in (r["edgenas"], r["plain"]["files"])
        )
        print(
            f"{r['task']:<15}{r['asked']:>8}{r['ahead_points']:>+8.1f}"
            f"{r['latency_ratio']:>7.2f}{best:>9.1%}{other:>8.1%}"
        )


if __name__ == "__main__":
    main()
