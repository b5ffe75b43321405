"""What each part of a training recipe is worth: the same networks with it and without it.

    python benchmarks/recipe.py [--epochs 10] [--networks 3] [--seeds 2] [--images 20000]

CIFAR-10, space mobile, preset tiny, 32 px. Networks are drawn by seeds 0, 1 ...; each is trained
from fresh weights with the defaults of TrainRecipe (``base``) and with one part changed, all parts
of one network and seed one after the other. Accuracy is of the test part; ``gain`` is the mean
difference to ``base`` on the same network and seed, with its standard error; ``time`` the median
ratio of the fastest epochs. Killed and started again it goes on: rows that are in
benchmarks/results/<name>.json are kept. Choose the name anew for another setup.
"""

import argparse
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean, median, pstdev, stdev
from typing import Any

import torch
from results_file import RESULTS, write_results

from edgenas.errors import TrainingDiverged
from edgenas.files import read_json
from edgenas.space import Space, load_space
from edgenas.task import Task, load_task
from edgenas.train import Epoch, TrainRecipe, accuracy, seeded, train

SPACE = {"kind": "mobile", "preset": "tiny", "resolution": 32, "channels": 3, "classes": 10}
PARTS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "ema 0.99": {"ema": 0.99},
    "ema 0.999": {"ema": 0.999},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
    "mix, cut": {"mixup": 0.2, "cutmix": 1.0},
    "bf16": {"precision": "bf16"},
    "lr 0.05": {"lr": 0.05},
    "lr 0.2": {"lr": 0.2},
    "lr 0.4": {"lr": 0.4},
    "warmup 0.1": {"warmup": 0.1},
    "warmup 2": {"warmup": 2.0},
    "smoothing 0": {"smoothing": 0.0},
    "decay 5e-4": {"weight_decay": 5e-4},
}

Row = dict[str, Any]


def trained(part: str, network: int, seed: int, base: TrainRecipe, space: Space, task: Task) -> Row:
    """One training; ``accuracy`` is None where it diverged."""
    with seeded(seed):
        net = space.build(space.sample(random.Random(network)))
    epochs: list[Epoch] = []
    row: Row = {"part": part, "change": PARTS[part], "network": network, "seed": seed}
    try:
        train(net, task, replace(base, **PARTS[part]), seed, epochs.append)
    except TrainingDiverged as e:
        return {**row, "accuracy": None, "diverged": str(e)}
    return {
        **row,
        "accuracy": accuracy(net, task, "test"),
        "train_accuracy": epochs[-1].accuracy,
        "loss": epochs[-1].loss,
        "epoch_seconds": min(e.seconds for e in epochs),
        "images_per_second": max(e.images_per_second for e in epochs),
    }


def summary(rows: Sequence[Row]) -> dict[str, Row]:
    """What is said of every part that was trained; gains where ``base`` was, too."""
    by = {(r["part"], r["network"], r["seed"]): r for r in rows}
    out: dict[str, Row] = {}
    for part in dict.fromkeys(r["part"] for r in rows):
        mine = [r for r in rows if r["part"] == part]
        done = [r for r in mine if r["accuracy"] is not None]
        pairs = [(r, by.get(("base", r["network"], r["seed"]))) for r in done]
        both = [(r, b) for r, b in pairs if b is not None and b["accuracy"] is not None]
        gains = [r["accuracy"] - b["accuracy"] for r, b in both]
        accuracies = [r["accuracy"] for r in done]
        out[part] = {
            "trainings": len(mine),
            "diverged": len(mine) - len(done),
            "accuracy": fmean(accuracies) if done else None,
            "spread": pstdev(accuracies) if done else None,
            "gain": fmean(gains) if gains else None,
            "gain_error": stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None,
            "time": median(r["epoch_seconds"] / b["epoch_seconds"] for r, b in both)
            if both
            else None,
        }
    return out


def line(part: str, s: Row) -> str:
    """One part for the terminal."""
    if s["accuracy"] is None:
        return f"{part:<12}diverged"
    text = f"{part:<12}{s['accuracy']:>8.2%} +- {s['spread']:.2%}"
    if s["gain"] is not None:
        error = "" if s["gain_error"] is None else f" +- {100 * s['gain_error']:.2f}"
        text += f"{100 * s['gain']:>+8.2f}{error}{s['time']:>8.2f}"
    return text + (f"  {s['diverged']} of {s['trainings']} diverged" if s["diverged"] else "")


def main() -> None:
    """Print the table and write the result after every training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, help="to train on, before any are set aside")
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--name", default="recipe", help="of the result file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = TrainRecipe(epochs=args.epochs)
    task_settings = {"dataset": "cifar10", "train_images": args.images}
    setup = {"space": SPACE, "task": task_settings, "base": asdict(base), "threads": args.threads}
    path = RESULTS / f"{args.name}.json"
    before = read_json(path) if path.exists() else {"setup": setup, "rows": []}
    if before["setup"] != setup:
        parser.error(f"{path} is of another setup: delete it or choose another --name")
    rows: list[Row] = [r for r in before["rows"] if r["change"] == PARTS.get(r["part"])]
    known = {(r["part"], r["network"], r["seed"]) for r in rows}
    space, task = load_space(SPACE), load_task(task_settings, 0)
    for network in range(args.networks):
        for seed in range(args.seeds):
            for part in dict.fromkeys(["base", *args.parts]):
                if (part, network, seed) in known:
                    continue
                rows.append(trained(part, network, seed, base, space, task))
                print(f"network {network}, seed {seed}, {part}: {rows[-1]['accuracy']}", flush=True)
                write_results(args.name, setup=setup, summary=summary(rows), rows=rows)
    print("part          accuracy, spread   gain in points   time")
    for part, said in summary(rows).items():
        print(line(part, said))
    print(path)


if __name__ == "__main__":
    main()
