"""Networks that the search finds against every simple baseline, at three budgets of this CPU.

    python benchmarks/pareto_cifar10.py [--jobs 2] [--accelerator cpu] [--full]
    python benchmarks/pareto_cifar10.py --only search | --only train

Contestants, all under the same measured budgets (int8-static, ONNX Runtime, one thread): proxyless
(gradient) and proxyless-r (REINFORCE), a front of one search a seed; random networks within the
budget; the network with the most multiply-accumulates within it; MobileNetV2 and MobileNetV3-Small
times the widest width that fits; the three published ProxylessNAS networks, where they fit. All are
trained from scratch on the same images by the same recipe, exported to int8-static, and judged as
files: accuracy on the 10,000 test images, p50 on the device, all files in one measurement.

The space has the widths and strides that the hand-made networks have at 32 px. Reduced by
default; --full is the whole recipe. What is done lies in --work: a run that
was stopped goes on. --only does one stage that measures nothing, where --work (or a copy of it) is
beside a GPU; without it the rest follows on the device. Writes
benchmarks/results/pareto_cifar10.json, drawn by pareto_picture.py.
"""

import argparse
import hashlib
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, TypeVar

import handmade
import torch
import yaml
from results_file import write_results
from torch import nn

from edgenas import ops
from edgenas.artifact import Artifact
from edgenas.checkpoint import Checkpoint
from edgenas.config import Config, parse_config
from edgenas.console import Bars
from edgenas.exporters.onnx import Onnx
from edgenas.files import read_json, write_json
from edgenas.graph import calibrate, trace
from edgenas.measure import measure
from edgenas.pipeline import run
from edgenas.pipeline.confirm import BLOCK_SECONDS, BLOCKS, MOST, confirm
from edgenas.pipeline.context import Context, load_weights, save_weights
from edgenas.pipeline.objectives import objectives
from edgenas.pipeline.search import method
from edgenas.project import project
from edgenas.samplers import Fitting
from edgenas.search import Found, Ledger, Objective, Problem
from edgenas.space import Relaxable
from edgenas.spec import Architecture, OpSpec
from edgenas.train import TrainRecipe, seeded, train
from edgenas.verify import numbers

DEVICE, PRECISION = "cpu-onnxruntime", "int8-static"
SPACE = {
    "preset": "tiny", "widths": (24, 40, 80, 160), "depths": (3, 3, 3, 3),
    "strides": (1, 2, 2, 1), "head": 320,
}  # fmt: skip
SEARCH = {"epochs": 9, "warmup": 2, "batch": 128, "samples": 0}
EVERY = {"proxyless": 2, "proxyless-r": 4}  # weight steps between architecture steps
SHARES = (15, 30, 50)  # percent of the way from the fastest to the slowest network
TABLES = Path("latency_tables")
WIDTHS = [round(0.1 + 0.025 * i, 3) for i in range(77)]  # of the hand-made networks
PUBLISHED = Path("../shared/data/pixel1")
T = TypeVar("T")


@dataclass(frozen=True)
class Contestant:
    """One training: whose network, for which budget, with which seed."""

    who: str
    budget: int
    seed: int
    ops: tuple[str, ...]
    note: str = ""

    @property
    def layers(self) -> tuple[OpSpec, ...]:
        """Parsed."""
        return tuple(map(OpSpec.parse, self.ops))

    @property
    def id(self) -> str:
        """Names its files: the same network and seed is trained once."""
        return digest(self.ops, self.seed)


def digest(*facts: Any) -> str:
    """Of JSON types."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def settings(args: argparse.Namespace) -> Config:
    """The task, the space and the budgets, as of a run."""
    task: dict[str, Any] = {"dataset": "cifar10"}
    if args.images:
        task["train_images"] = args.images
    return parse_config(
        {
            "name": "pareto", "task": task,
            "space": {"kind": "mobile", **args.space},
            "targets": [{"device": DEVICE, "latency": [f"<= {s} %" for s in SHARES]}],
            "precision": PRECISION, "search": {"method": "random"}, "threads": 1,
        },
        "pareto",
    )  # fmt: skip


def recipe(args: argparse.Namespace) -> TrainRecipe:
    """Of every network."""
    return TrainRecipe(epochs=args.epochs, batch=args.batch, lr=args.lr, ema=args.ema)


@cache
def context(work: Path) -> Context:
    """What the profile stage left in ``work``; once a process, whose task is loaded once."""
    config = parse_config(read_json(work / "config.json"), "pareto")
    return Context(work / "run", config, TABLES, lambda what, done, total: None)


def objectives_of(ctx: Context) -> tuple[Objective, ...]:
    """One a budget."""
    return objectives(ctx.config, ctx.space, ctx.targets, ctx.predictors())


def searched(job: tuple[str, int, dict[str, Any], Path, str]) -> dict[str, Any]:
    """One search for all budgets: architectures, scores and what they cost, JSON types."""
    who, seed, fields, work, accelerator = job
    torch.set_num_threads(1)
    chosen = {"method": who, "arch_every": EVERY[who], **fields}
    folder = work / f"search-{digest(read_json(work / 'config.json'), chosen, seed)}"
    if (path := folder / "answer.json").exists():
        before: dict[str, Any] = read_json(path)
        return before
    ctx = context(work)
    problem = Problem(ctx.space, ctx.task, objectives_of(ctx), seed=seed, accelerator=accelerator)
    began = time.perf_counter()
    answer = method(chosen).run(problem, Ledger(folder / "ledger.jsonl"))
    assert answer.scores is not None
    written = {
        "who": who, "seed": seed, "settings": chosen, "accelerator": named(accelerator),
        "minutes": (time.perf_counter() - began) / 60,
        "peak_bytes": torch.cuda.max_memory_allocated() if accelerator == "cuda" else None,
        "archs": [a.to_json() for a in answer.archs],
        "scores": [{c: s.tolist() for c, s in own.items()} for own in answer.scores],
    }  # fmt: skip
    write_json(path, written)
    return written


def named(accelerator: str) -> str:
    """The GPU by its name."""
    return torch.cuda.get_device_name() if accelerator == "cuda" else accelerator


def found(answer: Mapping[str, Any]) -> Found:
    """What ``searched`` wrote."""
    scores = tuple({c: torch.tensor(v) for c, v in own.items()} for own in answer["scores"])
    return Found(tuple(map(Architecture.from_json, answer["archs"])), None, scores)


def trained(job: tuple[Contestant, TrainRecipe, Path, Path, str]) -> None:
    """Train one network; its weights lie in ``folder``."""
    contestant, how, work, folder, accelerator = job
    torch.set_num_threads(1)
    weights = folder / f"{contestant.id}.safetensors"
    if weights.exists():
        return
    ctx = context(work)
    with seeded(contestant.seed):
        net = ctx.space.assemble(contestant.layers)
    net.to(accelerator)
    checkpoint = Checkpoint(folder / f"{contestant.id}.checkpoint.safetensors", repr(how))
    train(net, ctx.task, how, contestant.seed, checkpoint=checkpoint)
    save_weights(net, weights)
    checkpoint.remove()


class Arena:
    """Everything that is measured on the device: one at a time, nothing else running."""

    def __init__(self, args: argparse.Namespace, bars: Bars) -> None:
        self.args, self.bars = args, bars
        self.work: Path = args.work
        config = settings(args)
        write_json(self.work / "config.json", yaml.safe_load(config.dumps))
        run(replace(config, name="run"), self.work, until="profile", tables=TABLES, progress=bars)
        self.ctx = Context(self.work / "run", config, TABLES, bars)
        assert isinstance(self.ctx.space, Relaxable)
        self.space = self.ctx.space
        self.asked = objectives_of(self.ctx)
        self.limits: list[float] = self.ctx.targets[0]["limits_ms"]
        self.published_ms: dict[str, float] = {}

    def contestants(self, searches: Sequence[Mapping[str, Any]]) -> list[Contestant]:
        """All that is to be trained, each measured within its budget."""
        *of_searches, largest = self.confirmed([*map(found, searches), self.largest()])
        of = [(s["who"], s["seed"], archs) for s, archs in zip(searches, of_searches, strict=True)]
        of += [("largest", seed, largest) for seed in range(self.args.seeds)]
        return [
            *(
                self.entry(who, level, seed, self.space.ops(arch))
                for who, seed, archs in of for level, arch in enumerate(archs)
            ),
            *self.random(),
            *self.widest("mobilenet_v2", handmade.mobilenet_v2),
            *self.widest("mobilenet_v3_small", handmade.mobilenet_v3_small),
            *self.published(),
        ]  # fmt: skip

    def confirmed(self, answers: Sequence[Found]) -> list[list[Architecture]]:
        """Of each answer an architecture a budget, measured within it; all in the same minutes."""
        every = Found(
            tuple(a for f in answers for a in f.archs), None,
            tuple(s for f in answers for s in f.scores or ()),
        )  # fmt: skip
        archs = confirm(self.ctx, every, self.asked * len(answers))[0].archs
        levels = len(self.limits)
        return [list(archs[i * levels : (i + 1) * levels]) for i in range(len(answers))]

    def most_ms(self, networks: Sequence[Sequence[OpSpec]]) -> list[float]:
        """Upper end of the interval of the p50, as ``confirm`` takes it; weights never trained."""
        device = self.ctx.devices[DEVICE]
        x, _ = self.ctx.task.tensors("calibration", 64)
        files = []
        for i, layers in enumerate(networks):
            with seeded(0):
                net = self.ctx.space.assemble(layers).eval()
            graph = calibrate(trace(net, self.ctx.space.input), [x])
            files.append(Onnx().network(graph, self.work / f"probe-{i}.onnx", {}))
        timings = measure(
            device, files, blocks=BLOCKS, block_seconds=BLOCK_SECONDS, progress=self.bars
        )
        return [t.interval_ms[1] for t in timings]

    def random(self) -> Iterator[Contestant]:
        """Drawn uniformly among those that fit, and measured to do so."""
        for level, limit in enumerate(self.limits):
            sampler = Fitting(self.ctx.space, self.asked[level], random.Random(f"random {level}"))
            kept = 0
            while kept < self.args.random:
                proposals = [p for _ in range(self.args.random) if (p := sampler.ask())]
                layers = [self.ctx.space.ops(p.arch) for p in proposals]
                for each, ms in zip(layers, self.most_ms(layers), strict=True):
                    if ms <= limit * MOST and kept < self.args.random:
                        yield self.entry("random", level, kept, each)
                        kept += 1

    def largest(self) -> Found:
        """The most multiply-accumulates: measured and filled as a search is."""
        macs = {
            c.name: torch.tensor(
                [sum(map(ops.macs, o)) / 1e6 for o in self.space.option_ops(c.name)]
            )
            for c in self.space.choices
        }
        archs = tuple(project(self.space, macs, o.budgets) for o in self.asked)
        return Found(archs, None, (macs,) * len(self.limits))

    def widest(self, who: str, make: Any) -> Iterator[Contestant]:
        """A hand-made network times the widest width that fits."""
        by_width: dict[tuple[OpSpec, ...], float] = {}
        for width in WIDTHS:
            by_width.setdefault(make(width, *self.shape), width)
        networks = [n for n in by_width if sum(map(ops.macs, n)) < 60e6]
        ms = self.most_ms(networks)
        for level, limit in enumerate(self.limits):
            fitting = [(m, n) for m, n in zip(ms, networks, strict=True) if m <= limit * MOST]
            if not fitting:
                continue
            _, best = max(fitting, key=lambda pair: sum(map(ops.macs, pair[1])))
            for seed in range(self.args.seeds):
                yield self.entry(who, level, seed, best, f"width {by_width[best]:g}")

    def published(self) -> Iterator[Contestant]:
        """Of the authors of ProxylessNAS."""
        for path in sorted(PUBLISHED.glob("proxyless_*.json")):
            layers = handmade.published(path, *self.shape)
            (ms,) = self.most_ms([layers])
            self.published_ms[path.stem] = ms
            for level, limit in enumerate(self.limits):
                if ms <= limit * MOST:
                    for seed in range(self.args.seeds):
                        yield self.entry(path.stem, level, seed, layers)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size, channels, classes."""
        channels, size, _ = self.ctx.space.input
        return size, channels, len(self.ctx.task.classes)

    def entry(
        self, who: str, level: int, seed: int, layers: Sequence[OpSpec], note: str = ""
    ) -> Contestant:
        """A contestant."""
        return Contestant(who, level, seed, tuple(map(str, layers)), note)

    def exported(self, contestant: Contestant, folder: Path) -> Artifact:
        """Its int8 file, made of its trained weights."""
        file = folder / f"{contestant.id}.int8-static.onnx"
        if not file.exists():
            net = self.network(contestant, folder)
            x, _ = self.ctx.task.tensors("calibration")
            graph = calibrate(trace(net, self.ctx.space.input), torch.split(x, 64))
            Onnx().network(graph, file, self.ctx.task.metadata)
        return Artifact.of(file, "onnx", PRECISION, self.ctx.space.input)

    def network(self, contestant: Contestant, folder: Path) -> nn.Module:
        """Trained."""
        weights = folder / f"{contestant.id}.safetensors"
        return load_weights(self.ctx.space.assemble(contestant.layers), weights)

    def judged(self, contestants: Sequence[Contestant], folder: Path) -> list[dict[str, Any]]:
        """All files, measured together, and what they are worth on the test images."""
        device, each = self.ctx.devices[DEVICE], {c.id: c for c in contestants}
        files = {i: self.exported(c, folder) for i, c in each.items()}
        timings = measure(
            device, list(files.values()), blocks=5, block_seconds=0.3, progress=self.bars
        )
        p50 = dict(zip(files, timings, strict=True))
        x, _ = self.ctx.task.tensors("test")
        worth: dict[str, Any] = {}
        for i, contestant in each.items():
            net = self.network(contestant, folder)
            with torch.inference_mode():
                want = torch.cat([net(part) for part in x.split(500)]).numpy()
            worth[i] = numbers(device, files[i], self.ctx.task, want)
        return [
            {
                "who": c.who, "budget_ms": self.limits[c.budget], "seed": c.seed, "note": c.note,
                "accuracy": worth[c.id].accuracy, "fp32_accuracy": worth[c.id].torch_accuracy,
                "p50_ms": p50[c.id].p50_ms, "interval_ms": p50[c.id].interval_ms,
                "met": p50[c.id].p50_ms <= self.limits[c.budget],
                "macs": sum(map(ops.macs, c.layers)),
                "parameters": sum(map(ops.parameters, c.layers)), "ops": c.ops,
            }
            for c in contestants
        ]  # fmt: skip


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", type=json.loads, default=SPACE, help="of mobile, JSON")
    parser.add_argument("--images", type=int, default=0, help="0: all")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--ema", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--random", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--search", type=json.loads, default=SEARCH, help="of the methods, JSON")
    parser.add_argument("--work", type=Path, default=Path("runs/pareto"))
    parser.add_argument("--only", choices=["search", "train"], help="needs no device")
    parser.add_argument("--full", action="store_true", help="150 epochs, a longer search")
    args = parser.parse_args()
    if args.full:
        args.epochs = 150
        args.search = {**SEARCH, "epochs": 120, "warmup": 40}
    args.work.mkdir(parents=True, exist_ok=True)
    how = recipe(args)
    folder = args.work / f"trained-{digest(asdict(how), args.images)}"
    with Bars() as bars:
        if args.only == "search":
            search_all(args, bars)
            return
        if args.only != "train":
            arena = Arena(args, bars)
            searches = search_all(args, bars)
            if not listed(args).exists():
                of_all = [asdict(c) for c in arena.contestants(searches)]
                write_json(
                    listed(args), {"contestants": of_all, "published_ms": arena.published_ms}
                )
        field = read_json(listed(args))
        contestants = [Contestant(**{**c, "ops": tuple(c["ops"])}) for c in field["contestants"]]
        train_all(args, how, contestants, folder, bars)
        if args.only == "train":
            return
        rows = arena.judged(contestants, folder)
    summary = summarised(rows, arena.limits)
    show(summary)
    for name, ms in field["published_ms"].items():
        print(f"{name} takes {ms:.4f} ms")
    write_results(
        "pareto_cifar10", budgets=summary, recipe=asdict(how),
        searches=[{k: v for k, v in s.items() if k not in ("archs", "scores")} for s in searches],
        task=arena.ctx.config.task, space=arena.ctx.space.describe(),
        published_ms=field["published_ms"], rows=rows,
    )  # fmt: skip


def listed(args: argparse.Namespace) -> Path:
    """Where the contestants of these settings are kept."""
    asked = read_json(args.work / "config.json"), args.search, EVERY, args.seeds, args.random
    return Path(args.work / f"contestants-{digest(*asked)}.json")


def search_all(args: argparse.Namespace, bars: Bars) -> list[dict[str, Any]]:
    """Every method with every seed; one answer a budget each."""
    jobs = [
        (who, seed, args.search, args.work, args.accelerator)
        for seed in range(args.seeds) for who in EVERY
    ]  # fmt: skip
    return in_processes(args.jobs, searched, jobs, "searching", bars)


def train_all(
    args: argparse.Namespace, how: TrainRecipe, contestants: Sequence[Contestant], folder: Path,
    bars: Bars,
) -> None:  # fmt: skip
    """Each network and seed once."""
    each = {c.id: c for c in contestants}.values()
    jobs = [(c, how, args.work, folder, args.accelerator) for c in each]
    in_processes(args.jobs, trained, jobs, "training networks", bars)


def in_processes(
    count: int, work: Callable[[Any], T], jobs: Sequence[Any], what: str, bars: Bars
) -> list[T]:
    """``work`` of every job, so many at a time."""
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    answers = []
    with ProcessPoolExecutor(count, mp_context=spawn) as pool:
        for answer in pool.map(work, jobs):
            answers.append(answer)
            bars(what, len(answers), len(jobs))
    return answers


def summarised(rows: Sequence[Mapping[str, Any]], limits: Sequence[float]) -> list[dict[str, Any]]:
    """A line a budget: mean accuracy and spread of each contestant."""
    table = []
    for limit in limits:
        line: dict[str, Any] = {"budget_ms": limit}
        mine = [r for r in rows if r["budget_ms"] == limit]
        for who in dict.fromkeys(r["who"] for r in mine):
            own = [r for r in mine if r["who"] == who]
            accuracy = [r["accuracy"] for r in own]
            line[who] = {
                "accuracy": fmean(accuracy), "seeds": len(own),
                "spread": pstdev(accuracy) if len(own) > 1 else None,
                "p50_ms": fmean(r["p50_ms"] for r in own), "met": sum(r["met"] for r in own),
                "macs": fmean(r["macs"] for r in own),
            }  # fmt: skip
        table.append(line)
    return table


def show(summary: Sequence[Mapping[str, Any]]) -> None:
    """On stdout."""
    for line in summary:
        print(f"budget {line['budget_ms']:.4f} ms")
        for who, v in line.items():
            if isinstance(v, dict):
                spread = "" if v["spread"] is None else f" +- {v['spread']:.2%}"
                print(
                    f"  {who:<20}{v['accuracy']:7.2%}{spread} of {v['seeds']}   "
                    f"p50 {v['p50_ms']:.4f} ms, {v['met']} within   {v['macs'] / 1e6:.2f} M MACs"
                )


if __name__ == "__main__":
    main()
