"""What a search epoch costs in time and memory, against plainly training the same path.

    python benchmarks/search_cost.py [--repeats 5]

Goals: at most 1.3 of the time and 1.15 of the memory. Search: an epoch after warm-up, weight and
architecture steps by the method's defaults, its logits so far apart that the path that is on is
always the same one. Plain: as many steps of that network alone. Three networks drawn at random,
each side in a process of its own, alternating. Time: the fastest run of each side counts (others
share the machine). Memory: the peak of what torch allocates, weights and momenta included, as a
GPU's counter says it; beside it the resident size of the process. Beside the forms of proxyless,
DARTS, which keeps all paths.

``busy_speed``: of its speed, what a search, or a training, keeps while one other process computes
all the time: the least over both and the networks, medians of alternating runs. Goal: 0.45.

Writes benchmarks/results/search_cost.json.
"""

import argparse
import contextlib
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from results_file import write_results
from torch.profiler import ProfilerActivity, profile

from edgenas.augment import Augment
from edgenas.budgets import Latency
from edgenas.images import Images
from edgenas.latency import Fit, Header, LatencyTable, Timing
from edgenas.predict import Predictor
from edgenas.resident import peak_bytes
from edgenas.search import METHODS, Ledger, Objective, Problem
from edgenas.space import load_space
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture
from edgenas.supernet import train_supernet
from edgenas.task import Part, Task
from edgenas.train import TrainRecipe, train

BATCH, STEPS, PEAK_STEPS = 128, 40, 6
NETWORKS = (0, 1, 2)  # seeds of architectures
EXPANSIONS = {7: (3, 6), 13: (2, 3, 4, 6)}  # by the number of options, skip included
LIMITS = {"time": 1.3, "memory": 1.15}
BUSY_LIMIT = 0.45
BUSY = "while True: pass"
SURE = 20.0  # logit of the path that is on


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


def searching(space: Mobile, name: str, arch: Architecture, steps: int) -> Callable[[], float]:
    """An epoch of both kinds of steps; its seconds."""
    rows = {op: Timing(1.0, 1.0, 1.0, 1, "estimated") for op in space.vocabulary()}
    header = Header("none", "none", "fp32", space.id, {}, fit=Fit(0.0, 1.0, 1.0, 0.0, 8))
    budget = Latency("none", 10.0, Predictor(LatencyTable(header, rows)))
    problem = Problem(space, task(steps), (Objective((budget,)),))
    method = METHODS[name](epochs=1, warmup=0, batch=BATCH, arch_lr=1e-9)

    def run() -> float:
        policy = method.policy(space, random.Random(0))
        with torch.no_grad():
            for choice, alpha in policy.alpha.items():
                alpha[arch.index(choice)] = SURE
        with tempfile.TemporaryDirectory() as folder:
            ledger = Ledger(Path(folder) / "ledger.jsonl")
            train_supernet(problem, space, [policy], method, ledger)
            (epoch,) = ledger.epochs("search")
        return float(epoch["seconds"])

    return run


def plain(space: Mobile, arch: Architecture, steps: int) -> Callable[[], float]:
    """As many steps of the network alone; their seconds."""
    data, seconds = task(steps), list[float]()

    def run() -> float:
        train(
            space.build(arch), data, TrainRecipe(epochs=1, batch=BATCH), 0,
            on_epoch=lambda e: seconds.append(e.seconds),
        )  # fmt: skip
        return seconds[-1]

    return run


def allocated_bytes(run: Callable[[], float]) -> int:
    """Peak of what torch allocates during ``run``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    memory = sorted(
        (e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    return max(itertools.accumulate(e.nbytes() for e in memory))


def child(side: str, options: int, network: int, what: str) -> None:
    """One process, one side; prints its figure as JSON."""
    torch.set_num_threads(2)
    space = load_space(
        {
            "kind": "mobile", "preset": "tiny", "resolution": 28, "channels": 1, "classes": 10,
            "expansions": EXPANSIONS[options],
        }
    )  # fmt: skip
    assert isinstance(space, Mobile)
    assert max(len(c.options) for c in space.choices) == options
    arch = space.sample(random.Random(network))

    def made(steps: int) -> Callable[[], float]:
        return plain(space, arch, steps) if side == "plain" else searching(space, side, arch, steps)

    made(2)()  # kernels are chosen once
    if what == "allocated":
        print(json.dumps({"allocated_bytes": allocated_bytes(made(PEAK_STEPS))}))
        return
    few = 4 if side == "darts" else 1  # all paths take many times as long
    seconds = few * made(STEPS // few)()
    print(json.dumps({"seconds": seconds, "resident_bytes": peak_bytes()}))


def measured(side: str, options: int, network: int, what: str) -> dict[str, float]:
    """The figures of one child."""
    argv = [sys.executable, __file__, "--child", side, "--options", str(options)]
    argv += ["--network", str(network), "--what", what]
    out = subprocess.run(
        argv, check=True, capture_output=True, encoding="utf-8", errors="replace"
    ).stdout
    row: dict[str, float] = json.loads(out.splitlines()[-1])
    return row


@contextlib.contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """One other process that computes meanwhile, if ``busy``."""
    with contextlib.ExitStack() as stack:
        if busy:
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(process.kill)
        yield


def kept(repeats: int) -> list[dict[str, Any]]:
    """Speed beside a busy neighbour by that without, of search and of training."""
    rows = []
    for side, network in itertools.product(("proxyless", "plain"), NETWORKS):
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _, busy in itertools.product(range(repeats), (False, True)):
            with neighbour(busy):
                seconds[busy].append(measured(side, 7, network, "time")["seconds"])
        alone, beside = (statistics.median(seconds[busy]) for busy in (False, True))
        rows.append({
            "side": side, "network": network, "speed": alone / beside,
            "alone_s": seconds[False], "beside_s": seconds[True],
        })  # fmt: skip
    return rows


def compared(options: int, sides: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """All runs of every side, and the ratios of each method, means over the networks."""
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for network in NETWORKS:
        for side in (*sides, "plain"):
            runs[side, network] = [measured(side, options, network, "allocated")]
    for _ in range(repeats):
        for side, network in runs:
            runs[side, network].append(measured(side, options, network, "time"))

    def ratio(side: str, pick: Callable[[list[dict[str, float]]], float]) -> float:
        return statistics.fmean(pick(runs[side, n]) / pick(runs["plain", n]) for n in NETWORKS)

    return [
        {
            "method": side,
            "options": options,
            "time": ratio(side, lambda r: min(x["seconds"] for x in r[1:])),
            "memory": ratio(side, lambda r: r[0]["allocated_bytes"]),
            "resident": ratio(
                side, lambda r: statistics.median(x["resident_bytes"] for x in r[1:])
            ),
            "runs": {f"{s} {n}": runs[s, n] for s in (side, "plain") for n in NETWORKS},
        }
        for side in sides
    ]


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child")
    parser.add_argument("--options", type=int, default=7)
    parser.add_argument("--network", type=int, default=0)
    parser.add_argument("--what", default="time")
    args = parser.parse_args()
    if args.child:
        child(args.child, args.options, args.network, args.what)
        return
    busy = kept(args.repeats)
    busy_speed = min(r["speed"] for r in busy)
    print(f"beside a busy neighbour {busy_speed:.2f} of the speed")
    rows = compared(7, ["proxyless", "proxyless-full", "proxyless-r", "darts"], args.repeats)
    rows += compared(13, ["proxyless"], args.repeats)
    print("method           options  time  memory  resident   (search / plain)")
    for r in rows:
        print(
            f"{r['method']:<16} {r['options']:7}  {r['time']:4.2f}  {r['memory']:6.2f}"
            f"  {r['resident']:8.2f}"
        )
    first = rows[0]
    print(write_results(
        "search_cost", memory_ratio=first["memory"], time_ratio=first["time"], limits=LIMITS,
        busy_speed=busy_speed, busy_limit=BUSY_LIMIT, busy=busy,
        met=first["time"] <= LIMITS["time"] and first["memory"] <= LIMITS["memory"]
        and busy_speed >= BUSY_LIMIT,
        setup={"batch": BATCH, "steps": STEPS, "networks": NETWORKS, "repeats": args.repeats},
        rows=rows,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
