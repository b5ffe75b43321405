"""Asked for 20 budgets across a space's range: do the networks keep them, and use them?

    python benchmarks/budget.py [--budgets 20] [--device cpu-onnxruntime] [--precision int8-static]

The table is measured first, anew. One search for all of them (a front), from one supernet, on
CIFAR-10. Each network is then exported with the supernet's weights and measured apart from the
search, by the protocol that ends a run. Use is measured p50 / budget. Goals: all within, 90 % used
on average.
Writes benchmarks/results/budget.json.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from results_file import write_results

from edgenas.budgets import Latency
from edgenas.config import parse_config
from edgenas.console import Bars
from edgenas.export import exporter_for
from edgenas.files import read_json
from edgenas.gates import Mixed
from edgenas.graph import calibrate, trace
from edgenas.measure import measure
from edgenas.pipeline import run
from edgenas.pipeline.context import Context, load_weights
from edgenas.pipeline.search import architecture_file
from edgenas.space import Relaxable
from edgenas.spec import Architecture


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """A front of shares of the space's range."""
    shares = [(i + 0.5) / args.budgets for i in range(args.budgets)]
    return {
        "name": "budget",
        "task": {"dataset": "cifar10", "train_images": args.images},
        "space": {"kind": "mobile", "preset": args.preset},
        "targets": [
            {"device": args.device, "latency": [f"<= {100 * share:g} %" for share in shares]}
        ],
        "precision": args.precision,
        "search": {"method": "proxyless", "epochs": 4, "warmup": 2, "arch_every": 4, "samples": 0},
        "seed": args.seed,
    }


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--precision", default="int8-static")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = parse_config(asked(args), "budget")
    with tempfile.TemporaryDirectory() as scratch, Bars() as bars:
        runs, tables = Path(scratch), Path(scratch) / "tables"  # a table of these minutes
        run(config, runs, until="search", tables=tables, progress=bars)
        ctx = Context(runs / config.name, config, tables, bars)
        assert isinstance(ctx.space, Relaxable)
        weights = ctx.root / "search" / "supernet.safetensors"
        supernet = load_weights(ctx.space.supernet(Mixed), weights)
        device = ctx.devices[args.device]
        exporter = exporter_for(device.runtime.format)
        images = ctx.task.tensors("calibration", 256)[0]
        files, archs = [], []
        for level in range(args.budgets):
            arch = Architecture.from_json(read_json(ctx.root / "search" / architecture_file(level)))
            graph = trace(ctx.space.subnet(supernet, arch).eval(), ctx.space.input)
            graph = graph if args.precision == "fp32" else calibrate(graph, torch.split(images, 64))
            files.append(exporter.network(graph, runs / f"{level}.{exporter.format}", {}))
            archs.append(arch)
        timings = measure(device, files, blocks=5, block_seconds=0.5, seed=1, progress=bars)
        confirmed = ctx.read("search/confirmed.json")
        predictor = ctx.predictors()[args.device]
        rows = []
        for number, (arch, timing, tried) in enumerate(zip(archs, timings, confirmed, strict=True)):
            limit = ctx.targets[0]["limits_ms"][number]
            first = Architecture.from_json(tried[0]["architecture"])
            load = Latency(args.device, limit, predictor).load(ctx.space.ops(first))
            rows.append(
                {
                    "budget_ms": limit,
                    "p50_ms": timing.p50_ms,
                    "interval_ms": timing.interval_ms,
                    "use": timing.p50_ms / limit,
                    "met": timing.p50_ms <= limit,
                    "architecture": arch.to_json(),
                    "tried": [
                        {"architecture": t["architecture"], **t["measured"][args.device]}
                        for t in tried
                    ],
                    "first": {
                        "load": load,
                        "use": tried[0]["measured"][args.device]["p50_ms"] / limit,
                    },
                }
            )
        held_out = ctx.read("profile/profile.json")["tables"][0]["held_out"]
    print("budget ms   p50 ms   used   after the table alone   measured so often")
    for r in rows:
        print(
            f"{r['budget_ms']:9.4f} {r['p50_ms']:8.4f} {r['use']:6.1%} {r['first']['use']:15.1%}"
            f" {len(r['tried']):15d}   {'' if r['met'] else 'OVER'}"
        )
    met, use = sum(r["met"] for r in rows), fmean(r["use"] for r in rows)
    alone = [r["first"]["use"] for r in rows]
    print(f"{met} of {len(rows)} within, {use:.1%} used on average; by the table alone "
          f"{sum(u <= 1 for u in alone)} within, {fmean(alone):.1%} used")  # fmt: skip
    write_results(
        "budget", asked=len(rows), met=met, mean_use=use, setup=asked(args), held_out=held_out,
        table_alone={"met": sum(u <= 1 for u in alone), "mean_use": fmean(alone)}, rows=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
