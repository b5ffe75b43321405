"""What a search epoch costs in time and memory, against training stand-alone networks.

    python benchmarks/search_cost.py [--repeats 5]

Claim: at most 1.6 of the time and 1.3 of the memory. Search: weight steps on one sampled path and
an architecture step every ``arch_every``, paths uniform throughout. Plain: stand-alone networks
drawn uniformly from the same space, as many steps in all. Each side runs in its own process and
the two alternate; the fastest run of each side counts for time (others share the machine), the
median for memory, once of the whole process and once of what training adds to an idle one.
Writes benchmarks/results/search_cost.json.
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
from pathlib import Path

import torch
from results_file import write_results

from edgenas.augment import Augment
from edgenas.budgets import Latency
from edgenas.images import Images
from edgenas.latency import Fit, Header, LatencyTable, Timing
from edgenas.methods.proxyless import Proxyless
from edgenas.policies import TwoPaths
from edgenas.predict import Predictor
from edgenas.relax import train_supernet
from edgenas.search import Ledger, Objective, Problem
from edgenas.space import load_space
from edgenas.spaces.mobile import Mobile
from edgenas.task import Task
from edgenas.train import TrainRecipe, train

BATCH, STEPS, NETWORKS = 128, 60, 15
EXPANSIONS = {7: (3, 6), 13: (2, 3, 4, 6)}  # by the number of options, skip included
LIMITS = {"time": 1.6, "memory": 1.3}


def noise(n: int, seed: int) -> Images:
    """Images of nothing: cost does not depend on what they show."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (n, 1, 28, 28), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(10, (n,), generator=g))


def task(steps: int) -> Task:
    """As many training images as ``steps`` take."""
    parts = {"train": noise(steps * BATCH, 0), "search": noise(20 * BATCH, 1)}
    names = tuple("0123456789")
    return Task("noise", names, (1, 28, 28), (0.5,), (0.3,), parts, Augment())  # type: ignore[arg-type]


def side_search(space: Mobile) -> float:
    """Seconds of one epoch of both kinds of steps."""
    rows = {op: Timing(1.0, 1.0, 1.0, 1, "estimated") for op in space.vocabulary()}
    header = Header("none", "none", "fp32", space.id, {}, fit=Fit(0.0, 1.0, 1.0, 0.0, 8))
    budget = Latency("none", 10.0, Predictor(LatencyTable(header, rows)))
    problem = Problem(space, task(STEPS), Objective((budget,)))
    policy = TwoPaths(space, 1e-9, random.Random(0))  # too slow to leave the uniform draw
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        train_supernet(problem, space, policy, Proxyless(epochs=1, warmup=0, batch=BATCH), ledger)
        (epoch,) = ledger.epochs("search")
    return float(epoch["seconds"])


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
    seconds = {"search": side_search, "plain": side_plain, "paths": side_paths}[side](space)
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


def compared(options: int, repeats: int) -> dict[str, object]:
    """All runs of both sides and their ratios."""
    runs: dict[str, list[dict[str, float]]] = {"search": [], "plain": [], "paths": []}
    for _ in range(repeats):
        for side, rows in runs.items():
            rows.append(measured(side, options))

    def fastest(side: str, key: str) -> float:
        return min(r[key] for r in runs[side])

    def median(side: str, key: str) -> float:
        return statistics.median(r[key] for r in runs[side])

    def growth(side: str) -> float:
        return statistics.median(r["peak_bytes"] - r["idle_bytes"] for r in runs[side])

    ratios = {
        "time": fastest("search", "seconds") / fastest("plain", "seconds"),
        "memory": median("search", "peak_bytes") / median("paths", "peak_bytes"),
        "memory_growth": growth("search") / growth("paths"),
    }
    met = ratios["time"] <= LIMITS["time"] and ratios["memory_growth"] <= LIMITS["memory"]
    return {"options": options, "met": met, "ratios": ratios, "runs": runs}


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=["search", "plain", "paths"])
    parser.add_argument("--options", type=int, default=7)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.options)
        return
    rows = [compared(options, args.repeats) for options in EXPANSIONS]
    print("options  time  memory  memory beyond the idle process   (search / plain)")
    for row in rows:
        r = row["ratios"]
        assert isinstance(r, dict)
        print("{:7}  {time:4.2f}  {memory:6.2f}  {memory_growth:6.2f}".format(row["options"], **r))
    setup = {"batch": BATCH, "steps": STEPS, "networks": NETWORKS, "repeats": args.repeats}
    write_results(
        "search_cost", setup=setup, limits=LIMITS, met=all(r["met"] for r in rows), rows=rows
    )


if __name__ == "__main__":
    main()
