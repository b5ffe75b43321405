"""A latency table from a few whole networks, on the published split of NAS-Bench-201.

    python benchmarks/fewshot.py [--data ../shared/data/nasbench201.csv.gz] [--draws 20]

Claim: mean Spearman at least 0.909 with 10 timings and 0.937 with 20. As HELP (Lee et al., NeurIPS
2021) splits: timings are drawn from cells 0 to 899, cells 900 to 1899 are ranked, the fastest and
slowest tenth of each left out. No other device is looked at; the prior is the multiply-accumulates
of each operation. Writes benchmarks/results/fewshot.json.
"""

import argparse
import csv
import gzip
import re
import sys
from pathlib import Path

import numpy as np
from results_file import write_results
from scipy.stats import spearmanr

from edgenas.fewshot import FewShot, fit_rows
from edgenas.spec import OpSpec

DEVICES = ("titan_rtx_256", "gold_6226", "pixel2", "raspi4", "eyeriss", "fpga")
SHOTS = {10: 0.909, 20: 0.937, 50: None}
STAGES = (16, 32, 64)  # channels; each halves the image, so that a convolution's work stays equal
# Multiply-accumulates over those of a 1x1 convolution; pooling adds k*k values a channel.
WORK = {
    "none": 0.0,
    "skip_connect": 0.0,
    "nor_conv_1x1": 1.0,
    "nor_conv_3x3": 9.0,
    "avg_pool_3x3": float(np.mean([9 / c for c in STAGES])),
}
PUBLISHED = {
    "HELP, 10 timings and 10 of each reference": (0.987, 0.989, 0.802, 0.890, 0.940, 0.985),
    "BRP-NAS, 900 timings (mean alone is published)": (0.789,),
}
Network = tuple[OpSpec, ...]


def cells(path: Path) -> tuple[list[Network], dict[str, np.ndarray]]:
    """The first 1,900 cells, an operator an edge, and their ms on each device."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(1900), strict=False)]
    networks = [
        tuple(
            OpSpec.of(kind, 16, 16, 32, edge=edge)
            for edge, kind in enumerate(re.findall(r"([a-z_0-9]+)~", row["arch_str"]))
        )
        for row in rows
    ]
    return networks, {d: np.array([float(r[f"lat_ms_{d}"]) for r in rows]) for d in DEVICES}


def trimmed(ms: np.ndarray, start: int, end: int) -> np.ndarray:
    """Indices from ``start`` to ``end`` without the fastest and slowest tenth."""
    low, high = np.percentile(ms[start:end], (10, 90))
    index = np.arange(start, end)
    return index[(ms[index] >= low) & (ms[index] <= high)]


def table(networks: list[Network], ms: np.ndarray, drawn: np.ndarray) -> FewShot:
    """The table that the ``drawn`` timings make."""
    work = {OpSpec.of(k, 16, 16, 32, edge=e): w for k, w in WORK.items() for e in range(6)}
    return fit_rows([(networks[i], float(ms[i])) for i in drawn], [work], lambda op: op.kind)


def main() -> int:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/nasbench201.csv.gz"))
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    if not options.data.exists():
        print(f"skipped: there is no {options.data}")
        return 0
    networks, latency = cells(options.data)
    print(f"{'':<48}" + "".join(f"{d:>15}" for d in DEVICES) + f"{'mean':>8}")
    rows, met = [], True
    for shots, goal in SHOTS.items():
        found = []
        for ms in latency.values():
            pool, test = trimmed(ms, 0, 900), trimmed(ms, 900, 1900)
            scores = []
            for seed in range(options.draws):
                few = table(networks, ms, np.random.default_rng(seed).permutation(pool)[:shots])
                predicted = [few.ms(networks[i]) for i in test]
                scores.append(float(spearmanr(predicted, ms[test]).statistic))
            found.append(scores)
        means, mean = [float(np.mean(s)) for s in found], float(np.mean(found))
        met = met and (goal is None or mean >= goal)
        line = "".join(f"{m:>9.3f} ±{np.std(s):.3f}" for m, s in zip(means, found, strict=True))
        print(f"{f'edgenas, {shots} timings':<48}{line}{mean:>8.4f}")
        rows.append({"timings": shots, "mean": mean, "goal": goal,
                     "spearman": dict(zip(DEVICES, found, strict=True))})  # fmt: skip
    for name, figures in PUBLISHED.items():
        line = "".join(f"{m:>15.3f}" for m in figures) if len(figures) > 1 else " " * 90
        print(f"{name:<48}{line}{np.mean(figures):>8.3f}  published")
    print(write_results("fewshot", draws=options.draws, rows=rows, published=PUBLISHED, met=met))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
