"""One space, one task, one relative budget, three devices: how do the found networks differ?

    python benchmarks/devices_differ.py [--share 50] [--largest 20] [--seeds 3]

The budget is ``--share`` percent of the way from the fastest to the slowest network of the space by
each device's own int8-static table, which is made where ``--tables`` lacks it: simulated for the
FPGA, measured for the CPU, estimated for the NPU. Two policies:

largest    the ``--largest`` networks of most multiply-accumulates within the budget: exact, trains
           nothing, has no seed but for the order of equals
proxyless  the search of a run, Fashion-MNIST; a supernet a seed that learns for the three devices
           together, so that nothing but the table differs between them

Each network is then predicted on the other devices too: its share of their budget. Nothing is
trained to the end and no file is measured. Writes benchmarks/results/devices_differ.json after each
seed; ``--seeds 0`` keeps the searched networks that are in it.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from results_file import rows_before, write_results

from edgenas import ops
from edgenas.budgets import Latency
from edgenas.console import Bars
from edgenas.device import load_device
from edgenas.methods.proxyless import Proxyless
from edgenas.pipeline.profile import extremes_ms
from edgenas.predict import Predictor, require_trusted
from edgenas.profile import profile
from edgenas.report.options import steps
from edgenas.samplers import Largest
from edgenas.search import Ledger, Objective, Problem
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture
from edgenas.task import load_task

DEVICES = ("ecp5-85f", "cpu-onnxruntime", "ethos-u55-128")
PRECISION = "int8-static"


@dataclass(frozen=True)
class Asked:
    """A device with its budget."""

    predictor: Predictor
    fastest_ms: float
    slowest_ms: float
    limit_ms: float

    @classmethod
    def of(cls, space: Mobile, predictor: Predictor, share: float) -> "Asked":
        """As a run resolves ``"<= 50 %"``."""
        require_trusted(predictor.table)
        fastest, slowest = extremes_ms(space, predictor)
        least = fastest * (1 + predictor.margin)
        return cls(predictor, fastest, slowest, least + share * (slowest - least))

    @property
    def objective(self) -> Objective:
        """Best accuracy within the budget."""
        return Objective((Latency(self.device, self.limit_ms, self.predictor),))

    @property
    def device(self) -> str:
        """Its name."""
        return self.predictor.table.header.device

    def described(self, space: Mobile) -> dict[str, Any]:
        """Its table and budget, and what a step along each axis costs by the table."""
        h = self.predictor.table.header
        options = {c.name: dict(zip(c.options, space.option_ops(c.name), strict=True))
                   for c in space.choices}  # fmt: skip
        return {
            "provenance": h.provenance, "grade": h.grade, "fingerprint": dict(h.fingerprint),
            "mape": h.held_out and h.held_out.mape, "margin": self.predictor.margin,
            "fastest_ms": self.fastest_ms, "slowest_ms": self.slowest_ms, "limit_ms": self.limit_ms,
            "axes": [
                {"axis": s.axis, "value": s.value, "time": s.time, "macs": s.macs}
                for s in steps(options, self.predictor.cost_ms)
            ],
        }  # fmt: skip


def largest(space: Mobile, asked: Asked, count: int) -> Iterator[Architecture]:
    """Of most multiply-accumulates within the budget, the largest first."""
    sampler = Largest(space, asked.objective, ops.macs, random.Random(0))
    for _ in range(count):
        proposal = sampler.ask()
        if proposal is None:
            return
        yield proposal.arch


def searched(
    space: Mobile, asked: Mapping[str, Asked], args: argparse.Namespace, bars: Bars
) -> Iterator[tuple[int, dict[str, Architecture], list[float]]]:
    """Seed by seed, a network for each device, and how undecided each search was at the end."""
    settings = {"dataset": "fashion-mnist", "train_images": args.images}
    for seed in range(args.seeds):
        task = load_task(settings, seed)
        problem = Problem(space, task, tuple(a.objective for a in asked.values()), seed=seed)
        with tempfile.TemporaryDirectory() as scratch:
            ledger = Ledger(Path(scratch) / "ledger.jsonl")
            found = method(args).run(problem, ledger, bars)
            # of even probabilities: 1 has not decided anything
            entropies = [level["entropy"] for level in ledger.epochs("search")[-1]["levels"]]
        yield seed, dict(zip(asked, found.archs, strict=True)), entropies


def row(space: Mobile, asked: Mapping[str, Asked], arch: Architecture) -> dict[str, Any]:
    """What ``arch`` is made of, and what every device is predicted to take for it."""
    executed = space.ops(arch)
    blocks = {
        c.name: o for c in space.choices for o in space.option_ops(c.name)[arch.index(c.name)]
    }
    stages = [
        sum(name.startswith(f"s{i + 1}b") for name in blocks) for i in range(len(space.depths))
    ]
    p50s = {device: a.predictor.p50_ms(executed) for device, a in asked.items()}
    return {
        "kernel": fmean(op.arg("k", 0) for op in blocks.values()),
        "expansion": fmean(op.arg("e", 0) for op in blocks.values()),
        "depth": stages,
        "macs": sum(map(ops.macs, executed)),
        "p50_ms": p50s,
        "of_budget": {device: p50s[device] / a.limit_ms for device, a in asked.items()},
        "picks": {c.name: c.options[arch.index(c.name)] for c in space.choices},
    }


def mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of some networks."""
    return {
        "kernel": fmean(r["kernel"] for r in rows),
        "expansion": fmean(r["expansion"] for r in rows),
        "depth": [fmean(of) for of in zip(*(r["depth"] for r in rows), strict=True)],
        "macs": fmean(r["macs"] for r in rows),
        "of_budget": {d: fmean(r["of_budget"][d] for r in rows) for d in rows[0]["of_budget"]},
    }


def show(tables: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    """Print what steps cost, then the means of the networks of each policy and device."""
    for device, table in tables.items():
        said = ", ".join(f"{s['axis']}{s['value']} {s['time']:.2f} x time, {s['macs']:.2f} x MACs"
                         for s in table["axes"])  # fmt: skip
        print(f"{device} ({table['provenance']}), {table['limit_ms']:.3f} ms: {said}")
    print(f"\n{'':<27}{'kernel':>7}{'exp.':>6}{'depth':>15}{'M MAC':>7}  share of the budget on")
    print(f"{'':<62}  " + "".join(f"{device:>17}" for device in tables))
    for policy in dict.fromkeys(r["policy"] for r in rows):
        for device in tables:
            m = mean([r for r in rows if (r["policy"], r["for"]) == (policy, device)])
            depth = " ".join(f"{d:.1f}" for d in m["depth"])
            print(f"{policy:<11}{device:<16}{m['kernel']:>7.2f}{m['expansion']:>6.2f}{depth:>15}"
                  f"{m['macs'] / 1e6:>7.2f}  "
                  + "".join(f"{share:>17.0%}" for share in m["of_budget"].values()))  # fmt: skip


def main() -> None:
    """Print the tables and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=50.0)
    parser.add_argument("--largest", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--arch-every", type=int, default=2)
    parser.add_argument("--images", type=int, default=24000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tables", type=Path, default=Path("latency_tables"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    space = Mobile.configured({"preset": "tiny", "resolution": 28, "channels": 1})
    with Bars() as bars:
        asked = {
            name: Asked.of(
                space,
                Predictor(profile(load_device(name), space, PRECISION, args.tables, progress=bars)),
                args.share / 100,
            )
            for name in DEVICES
        }
        tables = {name: a.described(space) for name, a in asked.items()}
        rows = [
            {"policy": "largest", "for": name, "seed": None, **row(space, asked, arch)}
            for name, a in asked.items()
            for arch in largest(space, a, args.largest)
        ]
        if not args.seeds:
            rows += [r for r in rows_before("devices_differ") if r["policy"] == "proxyless"]
        for seed, found, entropies in searched(space, asked, args, bars):
            for (name, arch), entropy in zip(found.items(), entropies, strict=True):
                about = {"policy": "proxyless", "for": name, "seed": seed, "entropy": entropy}
                rows.append({**about, **row(space, asked, arch)})
            write(args, space, tables, rows)
    show(tables, rows)
    print(write(args, space, tables, rows))


def write(
    args: argparse.Namespace, space: Mobile, tables: dict[str, Any], rows: list[dict[str, Any]]
) -> Path:
    """The result of what there is."""
    setup = {k: v for k, v in vars(args).items() if k != "tables"}
    return write_results(
        "devices_differ", setup=setup, method=asdict(method(args)), space=space.describe(),
        tables=tables, rows=rows,
    )  # fmt: skip


def method(args: argparse.Namespace) -> Proxyless:
    """How it is searched."""
    return Proxyless(epochs=args.epochs, arch_every=args.arch_every, samples=0)


if __name__ == "__main__":
    main()
