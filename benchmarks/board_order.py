"""Latency order of known networks on the accelerator against measured boards.

    python benchmarks/board_order.py [--simulate 10]

The rule, before any result: all classification networks of the Vitis-AI model zoo 2.5 that the
accelerator computes as they are; beside them those of which nothing but max pools is replaced. Each
is compiled for the device ecp5-85f and takes the cycles of its model; those up to so many million
cycles are simulated in RTL too, where outputs and cycles have to be equal. The boards are another
architecture, with 16 times the multipliers, and their figures hold the host's part with one thread:
the order is to be compared, and the ratio says nothing but how far apart the two are.

Writes benchmarks/results/board_order.json.
"""

import argparse
from dataclasses import asdict
from itertools import combinations
from typing import Any

from known_networks import KNOWN, LEFT_OUT, ZOO, Accelerated, Known, accelerator, integers, macs
from results_file import write_results
from scipy.stats import spearmanr

from edgenas.errors import CapabilityError
from edgenas.runtimes.rtl import Rtl

GOAL = 0.94
BOARDS = ("kv260", "zcu104")


def row(known: Known, on: Rtl, most: float) -> dict[str, Any]:
    """Of ``known``; simulated up to ``most`` million cycles."""
    network = integers(known.build, (3, known.size, known.size))
    said = asdict(known)
    del said["build"]
    found: dict[str, Any] = {**said, "macs": macs(network)}
    try:
        run = Accelerated.of(network, on)
    except CapabilityError as e:
        return {**found, "refused": str(e)}
    found |= {"cycles": run.program.cycles, "ms": run.ms, "simulated": False}
    found["macs_per_cycle"] = found["macs"] / run.program.cycles
    for board in BOARDS:
        found[f"{board}_ratio"] = run.ms * found[f"{board}_fps"] / 1e3
    if run.program.cycles <= most * 1e6:
        run.simulated()
        found["simulated"] = True
    return found


def order(rows: list[dict[str, Any]], board: str) -> dict[str, Any]:
    """Spearman of latencies, and of multiplications with theirs; pairs the other way round."""
    ms, fps = [r["ms"] for r in rows], [r[f"{board}_fps"] for r in rows]
    swapped = [
        (a["name"], b["name"])
        for a, b in combinations(sorted(rows, key=lambda r: -r[f"{board}_fps"]), 2)
        if a["ms"] > b["ms"]
    ]
    theirs = [1 / f for f in fps]
    return {
        "networks": len(rows), "spearman": float(spearmanr(ms, theirs).statistic),
        "spearman_of_macs": float(spearmanr([r["macs"] for r in rows], theirs).statistic),
        "swapped": swapped,
    }  # fmt: skip


def line(r: dict[str, Any]) -> str:
    """Of the table."""
    begin = f"{r['name']:<27}{r['size']:>4}{r['macs'] / 1e6:>8.0f}"
    if "refused" in r:
        return f"{begin}  refused: {r['refused']}"
    ours = f"{r['cycles'] / 1e6:>9.2f}{r['macs_per_cycle']:>7.1f}{r['ms']:>9.1f}"
    theirs = "".join(f"{1e3 / r[f'{b}_fps']:>9.2f}{r[f'{b}_ratio']:>7.1f}" for b in BOARDS)
    marks = (" simulated" if r["simulated"] else "") + (" (replaced)" if r["replaced"] else "")
    return begin + ours + theirs + marks


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--simulate", type=float, default=0, help="Simulate networks up to so many million cycles."
    )
    most = parser.parse_args().simulate
    on = accelerator()
    print(f"{'network':<27}{'px':>4}{'M MAC':>8}{'M cycles':>9}{'MAC/c':>7}{'ms':>9}", end="")
    print("".join(f"{b:>9}{'ratio':>7}" for b in BOARDS))
    rows = []
    for known in KNOWN:
        rows.append(row(known, on, most))
        print(line(rows[-1]), flush=True)
    fit = [r for r in rows if "refused" not in r]
    sets = {"as they are": [r for r in fit if not r["replaced"]]}
    if len(fit) > len(sets["as they are"]):
        sets["with max pools replaced"] = fit
    found = {what: {b: order(chosen, b) for b in BOARDS} for what, chosen in sets.items()}
    for what, boards in found.items():
        for board, o in boards.items():
            goal = "met" if o["spearman"] >= GOAL else "missed"
            print(f"{o['networks']} networks {what}, {board}: Spearman {o['spearman']:.3f}", end="")
            print(f" (goal {GOAL}: {goal}; of MACs alone {o['spearman_of_macs']:.3f})")
            for a, b in o["swapped"]:
                print(f"  faster there, slower here: {a} than {b}")
    for why, names in LEFT_OUT.items():
        print(f"left out, {why}: {names}")
    device = {"fmax_mhz": on.fmax_mhz, "dram": asdict(on.dram), "shape": asdict(on.shape)}
    print(write_results(
        "board_order", source=ZOO, device=device, goal=GOAL, seed=0, order=found, rows=rows,
        left_out=LEFT_OUT,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
