"""The network that the demo's search finds against random ones under the same budget and recipe.

python benchmarks/demo_vs_random.py [--run runs/demo] [--random 5] [--seeds 3] [--jobs 2]

Every network is trained from fresh weights by the recipe of ``--run``, a finished run, each in a
process of its own with one thread; the found one with ``--seeds`` training seeds, so that its
spread is known too. Accuracy is of the test split, in PyTorch. Tables, and so the budgets in
milliseconds, are those of the run for all.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from results_file import write_results

from edgenas.config import Config, load_config
from edgenas.files import read_json
from edgenas.pipeline import run


def trained(config: Config, runs: Path) -> dict[str, Any]:
    """Search and train; what it is and how good it is."""
    run(config, runs, until="train")
    root = runs / config.name
    search = read_json(root / "search" / "search.json")
    return {
        "method": "random" if config.search["method"] == "random" else "found",
        "seed": config.seed,
        "accuracy": read_json(root / "train" / "train.json")["accuracy"],
        "architecture": search["labels"],
        "predicted_p50_ms": {d: p["p50_ms"] for d, p in search["predicted"].items()},
        "limit_ms": {
            t["device"]: t["limit_ms"]
            for t in read_json(root / "profile" / "profile.json")["targets"]
        },
    }


def main() -> None:
    """Print a table and write benchmarks/results/demo_vs_random.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--random", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    base = replace(load_config(args.run / "config.yaml"), threads=1)
    again = {"method": "fixed", "architecture": str(args.run)}
    asked = [(again, "found", seed) for seed in range(args.seeds)]
    asked += [({"method": "random"}, "random", seed) for seed in range(args.random)]
    configs = [
        replace(base, search=search, seed=seed, name=f"{base.name}-{kind}-{seed}")
        for search, kind, seed in asked
    ]
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
        rows = list(pool.map(trained, configs, [args.run.parent] * len(configs)))
    summary = {}
    for method in ("found", "random"):
        group = [r["accuracy"] for r in rows if r["method"] == method]
        summary[method] = {"mean": fmean(group), "spread": pstdev(group), "networks": len(group)}
        print(
            f"{method:<8}{fmean(group):.2%} +- {pstdev(group):.2%}  {[f'{a:.2%}' for a in group]}"
        )
    print(write_results("demo_vs_random", recipe=base.dumps, summary=summary, rows=rows))


if __name__ == "__main__":
    main()
