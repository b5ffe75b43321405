"""The network that the demo's search finds against random ones under the same budget and recipe.

python benchmarks/demo_vs_random.py [--config docs/demo.yaml] [--random 5] [--seeds 2]

Every network is trained by the same recipe from fresh weights; the found one with ``--seeds``
training seeds, so that its spread is known too. Accuracy is of the test split, in PyTorch.
Tables, and so the budget in milliseconds, are the same for all.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from results_file import write_results

from edgenas.config import Config, load_config
from edgenas.console import Bars
from edgenas.files import read_json
from edgenas.pipeline import run


def trained(config: Config, runs: Path) -> dict[str, Any]:
    """Search and train; what was found and how good it is."""
    with Bars() as bars:
        run(config, runs, until="train", progress=bars)
    root = runs / config.name
    search = read_json(root / "search" / "search.json")
    return {
        "name": config.name,
        "architecture": search["labels"],
        "predicted_p50_ms": {d: p["p50_ms"] for d, p in search["predicted"].items()},
        "accuracy": read_json(root / "train" / "train.json")["accuracy"],
        "seed": config.seed,
    }


def main() -> None:
    """Print a table and write benchmarks/results/demo_vs_random.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("docs/demo.yaml"))
    parser.add_argument("--random", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    args = parser.parse_args()
    config = load_config(args.config, args.overrides)
    found = [trained(config, args.runs)]
    fixed = {"method": "fixed", "architecture": str(args.runs / config.name)}
    for seed in range(1, args.seeds):
        other = replace(config, name=f"{config.name}-found-{seed}", seed=seed, search=fixed)
        found.append(trained(other, args.runs))
    random = [
        trained(
            replace(
                config, name=f"{config.name}-random-{seed}", seed=seed, search={"method": "random"}
            ),
            args.runs,
        )
        for seed in range(args.random)
    ]
    rows = [
        {"method": m, **r} for m, group in (("found", found), ("random", random)) for r in group
    ]
    for row in rows:
        print(f"{row['method']:<8}{row['accuracy']:.2%}  {row['predicted_p50_ms']}")
    summary = {}
    for name, group in (("found", found), ("random", random)):
        values = [r["accuracy"] for r in group]
        summary[name] = {"mean": fmean(values), "spread": pstdev(values), "networks": len(values)}
        print(f"{name}: {fmean(values):.2%} +- {pstdev(values):.2%} of {len(values)}")
    targets = read_json(args.runs / config.name / "profile" / "profile.json")["targets"]
    print(write_results("demo_vs_random", config=str(args.config), overrides=args.overrides,
                        targets=targets, summary=summary, rows=rows))  # fmt: skip


if __name__ == "__main__":
    main()
