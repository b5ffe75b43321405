"""What a search epoch costs in time and memory, against training stand-alone networks.

    python benchmarks/search_cost.py [--repeats 5]

Goals: at most 1.3 of the time and 1.15 of the memory. Search: an epoch after warm-up, weight steps
on one sampled path and the architecture steps of the method's defaults, paths uniform throughout.
Plain: as many steps of stand-alone networks drawn uniformly from the same space. Beside the forms
of proxyless, DARTS, which keeps all paths. Each side runs in its own process and the sides
alternate; the fastest run of each side counts for time (others share the machine), the median for
memory, once of the whole process and once of what training adds to an idle one: the goal is for
the latter. Writes benchmarks/results/search_cost.json.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from results_file import write_results

from edgenas.augment import Augment
from edgenas.budgets import Latency
from edgenas.images import Images
from edgenas.latency import Fit, Header, LatencyTable, Timing
from edgenas.predict import Predictor
from edgenas.search import METHODS, Ledger, Objective, Problem
from edgenas.space import load_space
from edgenas.spaces.mobile import Mobile
from edgenas.supernet import train_supernet
from edgenas.task import Part, Task
from edgenas.train import TrainRecipe, train

BATCH, STEPS, NETWORKS = 128, 60, 15
EXPANSIONS = {7: (3, 6), 13: (2, 3, 4, 6)}  # by the number of options, skip included
LIMITS = {"time": 1.3, "memory": 1.15}


def noise(n: int, seed: int) -> Images:
    """Images of nothing: cost does not depend on what they show."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (n, 1, 28, 28), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(10, (n,), generator=g))


def task(steps: int) -> Task:
    """As many training images as ``steps`` take."""
    parts: dict[Part, Images] = {"train": noise(steps * BATCH, 0), "search": noise(20 * BATCH, 1)}
    names = tuple("0123456789")
    return Task("noise", names, (1, 28, 28), (0.5,), (0.3,), parts, Augment())


def side_search(space: Mobile, name: str) -> float:
    """Seconds of one epoch of both kinds of steps."""
    rows = {op: Timing(1.0, 1.0, 1.0, 1, "estimated") for op in space.vocabulary()}
    header = Header("none", "none", "fp32", space.id, {}, fit=Fit(0.0, 1.0, 1.0, 0.0, 8))
    budget = Latency("none", 10.0, Predictor(LatencyTable(header, rows)))
    few = 4 if name == "darts" else 1  # all paths take many times as long
    problem = Problem(space, task(STEPS // few), (Objective((budget,)),))
    # too slow to leave the uniform draw
    method = METHODS[name](epochs=1, warmup=0, batch=BATCH, arch_lr=1e-9)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        train_supernet(problem, space, [method.policy(space, random.Random(0))], method, ledger)
        (epoch,) = ledger.epochs("search")
    return few * float(epoch["seconds"])


def side_plain(space: Mobile) -> float:
    """Seconds of as many steps on stand-alone networks."""
    rng, data, seconds = random.Random(0), task(STEPS // NETWORKS), 0.0
    for number in range(NETWORKS):
        net = space.build(space.sample(rng))
        train(net, data, TrainRecipe(epochs=1, batch=BATCH), number)  # memory is touched once
        start = time.perf_counter()
        train(net, data, TrainRecipe(epochs=1, batch=BATCH), number)
        seconds += time.perf_counter() - start
    return seconds


def side_paths(space: Mobile) -> float:
    """Seconds of a step on each of as many networks as the search draws paths: for memory.

    The peak is that of the largest one drawn, so both sides must draw equally often.
    """
    rng, data, start = random.Random(0), task(1), time.perf_counter()
    for number in range(STEPS):
        net = space.build(space.sample(rng))
        train(net, data, TrainRecipe(epochs=1, batch=BATCH), number)
    return time.perf_counter() - start


def child(side: str, options: int) -> None:
    """One process, one side; prints its figures as JSON."""
    torch.set_num_threads(2)
    space = load_space(
        {
            "kind": "mobile", "preset": "tiny", "resolution": 28, "channels": 1, "classes": 10,
            "expansions": EXPANSIONS[options],
        }
    )  # fmt: skip
    assert isinstance(space, Mobile)
    assert max(len(c.options) for c in space.choices) == options
    few = task(2)
    train(space.build(space.sample(random.Random(1))), few, TrainRecipe(epochs=1, batch=8), 0)
    idle = peak_bytes()
    plain = {"plain": side_plain, "paths": side_paths}
    seconds = plain[side](space) if side in plain else side_search(space, side)
    print(json.dumps({"seconds": seconds, "idle_bytes": idle, "peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(side: str, options: int) -> dict[str, float]:
    """The figures of one child."""
    argv = [sys.executable, __file__, "--child", side, "--options", str(options)]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    row: dict[str, float] = json.loads(out)
    return row


def compared(options: int, sides: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """All runs of every side, and the ratios of each method."""
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in (*sides, "plain", "paths")}
    for _ in range(repeats):
        for side, rows in runs.items():
            rows.append(measured(side, options))

    def fastest(side: str) -> float:
        return min(r["seconds"] for r in runs[side])

    def peak(side: str) -> float:
        return statistics.median(r["peak_bytes"] for r in runs[side])

    def growth(side: str) -> float:
        return statistics.median(r["peak_bytes"] - r["idle_bytes"] for r in runs[side])

    return [
        {
            "method": side,
            "options": options,
            "time": fastest(side) / fastest("plain"),
            "memory": growth(side) / growth("paths"),
            "memory_of_process": peak(side) / peak("paths"),
            "runs": {name: runs[name] for name in (side, "plain", "paths")},
        }
        for side in sides
    ]


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child")
    parser.add_argument("--options", type=int, default=7)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.options)
        return
    rows = compared(7, ["proxyless", "proxyless-full", "proxyless-r", "darts"], args.repeats)
    rows += compared(13, ["proxyless"], args.repeats)
    print("method           options  time  memory  of the process   (search / plain)")
    for r in rows:
        print(
            f"{r['method']:<16} {r['options']:7}  {r['time']:4.2f}  {r['memory']:6.2f}"
            f"  {r['memory_of_process']:6.2f}"
        )
    first = rows[0]
    print(write_results(
        "search_cost", memory_ratio=first["memory"], time_ratio=first["time"], limits=LIMITS,
        met=first["time"] <= LIMITS["time"] and first["memory"] <= LIMITS["memory"],
        setup={"batch": BATCH, "steps": STEPS, "networks": NETWORKS, "repeats": args.repeats},
        rows=rows,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
