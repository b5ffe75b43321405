"""Networks that the search finds against every simple baseline, at three budgets of this CPU.

    python benchmarks/pareto_cifar10.py [--jobs 2] [--accelerator cpu] [--full]

Contestants, all under the same measured budgets (int8-static, ONNX Runtime, one thread): proxyless
(gradient) and proxyless-r (REINFORCE), a front of one search a seed; random networks within the
budget; the network with the most multiply-accumulates within it; MobileNetV2 and MobileNetV3-Small
times the widest width that fits; the three published ProxylessNAS networks, where they fit. All are
trained from scratch on the same images by the same recipe, exported to int8-static, and judged as
files: accuracy on the 10,000 test images, p50 on the device, all files in one measurement.

The space widens as its images shrink, as hand-made networks do; there a multiply-accumulate costs
least, so that the network with the most of them is not the best one. Reduced by default to what two
cores do in an hour and a half; --full is the recipe for a GPU. What is trained lies in --work: a
run that was stopped goes on. Writes benchmarks/results/pareto_cifar10.json, drawn by
pareto_picture.py.
"""

import argparse
import hashlib
import json
import multiprocessing
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import handmade
import numpy as np
import torch
from results_file import write_results

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
from edgenas.search import Found, Ledger, Problem
from edgenas.space import Relaxable, load_space
from edgenas.spec import Architecture, OpSpec
from edgenas.task import Task, load_task
from edgenas.train import TrainRecipe, seeded, train
from edgenas.verify import numbers

DEVICE, PRECISION = "cpu-onnxruntime", "int8-static"
SPACE = {"preset": "tiny", "strides": (1, 2, 2), "widths": (24, 48, 128), "kernels": (3, 5)}
SEARCH = {"epochs": 3, "warmup": 1, "batch": 64, "samples": 0}
EVERY = {"proxyless": 1, "proxyless-r": 2}  # weight steps between architecture steps
SHARES = (8, 15, 25)  # percent of the way from the fastest to the slowest network
TABLES = Path("latency_tables")
WIDTHS = [round(0.1 + 0.025 * i, 3) for i in range(77)]  # of the hand-made networks
PUBLISHED = Path("../shared/data/pixel1")


@dataclass(frozen=True)
class Contestant:
    """One training: whose network, for which budget, with which seed."""

    who: str
    budget: int
    seed: int
    ops: tuple[str, ...]
    note: str = ""

    @property
    def id(self) -> str:
        """Names its files: the same network and seed is trained once."""
        return hashlib.sha256(json.dumps([self.ops, self.seed]).encode()).hexdigest()[:12]


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
def task_of(text: str) -> Task:
    """Loaded once a process; the split does not depend on the seed of a training."""
    return load_task(json.loads(text), 0)


def searched(job: tuple[str, int, dict[str, Any], str, str, Path, str]) -> dict[str, Any]:
    """One search for all budgets: architectures and scores, JSON types."""
    who, seed, fields, space_text, task_text, tables, accelerator = job
    torch.set_num_threads(1)
    path = tables / f"{who}-{seed}.json"
    if path.exists():
        before: dict[str, Any] = read_json(path)
        return before
    config = parse_config(read_json(tables / "config.json"), "pareto")
    ctx = Context(tables / "run", config, TABLES, lambda what, done, total: None)
    problem = Problem(
        load_space(json.loads(space_text)), task_of(task_text),
        objectives(config, ctx.space, ctx.targets, ctx.predictors()),
        seed=seed, accelerator=accelerator,
    )  # fmt: skip
    answer = method({"method": who, "arch_every": EVERY[who], **fields}).run(
        problem, Ledger(tables / f"{who}-{seed}" / "ledger.jsonl")
    )
    assert answer.scores is not None
    written = {
        "archs": [a.to_json() for a in answer.archs],
        "scores": [{c: s.tolist() for c, s in own.items()} for own in answer.scores],
    }
    write_json(path, written)
    return written


def found(answer: Mapping[str, Any]) -> Found:
    """What ``searched`` wrote."""
    scores = tuple({c: torch.tensor(v) for c, v in own.items()} for own in answer["scores"])
    return Found(tuple(map(Architecture.from_json, answer["archs"])), None, scores)


def trained(job: tuple[Contestant, str, str, TrainRecipe, Path, str]) -> str:
    """Train one network and write its int8 file; its id."""
    contestant, space_text, task_text, how, work, accelerator = job
    torch.set_num_threads(1)
    file = work / f"{contestant.id}.onnx"
    if file.exists():
        return contestant.id
    task, space = task_of(task_text), load_space(json.loads(space_text))
    layers = tuple(map(OpSpec.parse, contestant.ops))
    with seeded(contestant.seed):
        net = space.assemble(layers)
    net.to(accelerator)
    checkpoint = Checkpoint(work / f"{contestant.id}.checkpoint.safetensors", repr(how))
    train(net, task, how, contestant.seed, checkpoint=checkpoint)
    net.cpu()
    save_weights(net, work / f"{contestant.id}.safetensors")
    x, _ = task.tensors("calibration")
    graph = calibrate(trace(net, space.input), torch.split(x, 64))
    Onnx().network(graph, file, {})
    checkpoint.remove()
    return contestant.id


class Arena:
    """Everything that is measured on the device: one at a time, nothing else running."""

    def __init__(self, args: argparse.Namespace, config: Config, bars: Bars) -> None:
        self.args, self.config, self.bars = args, config, bars
        self.work: Path = args.work
        write_json(self.work / "config.json", json.loads(json.dumps(_plain(config))))
        run(replace(config, name="run"), self.work, until="profile", tables=TABLES, progress=bars)
        self.ctx = Context(self.work / "run", config, TABLES, bars)
        assert isinstance(self.ctx.space, Relaxable)
        self.space = self.ctx.space
        self.asked = objectives(config, self.ctx.space, self.ctx.targets, self.ctx.predictors())
        self.limits: list[float] = self.ctx.targets[0]["limits_ms"]
        self.published_ms: dict[str, float] = {}

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

    def judged(self, contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
        """All files, measured together, and what they are worth on the test images."""
        device = self.ctx.devices[DEVICE]
        ids = sorted({c.id for c in contestants})
        files = {
            i: Artifact.of(self.work / f"{i}.onnx", "onnx", PRECISION, self.ctx.space.input)
            for i in ids
        }
        timings = measure(
            device, list(files.values()), blocks=5, block_seconds=0.3, progress=self.bars
        )
        p50 = dict(zip(ids, timings, strict=True))
        x, y = self.ctx.task.tensors("test")
        images, labels = np.ascontiguousarray(x.numpy()), y.numpy()
        worth: dict[str, Any] = {}
        for contestant in contestants:
            if contestant.id not in worth:
                layers = tuple(map(OpSpec.parse, contestant.ops))
                weights = self.work / f"{contestant.id}.safetensors"
                net = load_weights(self.ctx.space.assemble(layers), weights)
                with torch.inference_mode():
                    want = torch.cat([net(part) for part in x.split(500)]).numpy()
                worth[contestant.id] = numbers(device, files[contestant.id], images, labels, want)
        return [
            {
                "who": c.who, "budget_ms": self.limits[c.budget], "seed": c.seed, "note": c.note,
                "accuracy": worth[c.id].accuracy, "fp32_accuracy": worth[c.id].torch_accuracy,
                "p50_ms": p50[c.id].p50_ms, "interval_ms": p50[c.id].interval_ms,
                "met": p50[c.id].p50_ms <= self.limits[c.budget],
                "macs": sum(ops.macs(OpSpec.parse(o)) for o in c.ops),
                "parameters": sum(ops.parameters(OpSpec.parse(o)) for o in c.ops), "ops": c.ops,
            }
            for c in contestants
        ]  # fmt: skip


def _plain(config: Config) -> dict[str, Any]:
    """As parse_config reads it."""
    import yaml

    data: dict[str, Any] = yaml.safe_load(config.dumps)
    return data


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", type=json.loads, default=SPACE, help="of mobile, JSON")
    parser.add_argument("--images", type=int, default=32000, help="0: all")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--ema", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--random", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--search", type=json.loads, default=SEARCH, help="of the methods, JSON")
    parser.add_argument("--work", type=Path, default=Path("runs/pareto"))
    parser.add_argument(
        "--full", action="store_true", help="all images, 150 epochs, a longer search"
    )
    args = parser.parse_args()
    if args.full:
        args.images, args.epochs, args.batch = 0, 150, 128
        args.search = {**SEARCH, "epochs": 60, "warmup": 20, "batch": 128}
    args.work.mkdir(parents=True, exist_ok=True)
    config, how = settings(args), recipe(args)
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with Bars() as bars:
        arena = Arena(args, config, bars)
        space_text = json.dumps(arena.ctx.space.describe())
        task_text = json.dumps(config.task)
        with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
            jobs = [
                (who, seed, args.search, space_text, task_text, args.work,
                 args.accelerator)
                for seed in range(args.seeds) for who in EVERY
            ]  # fmt: skip
            answers = [found(answer) for answer in pool.map(searched, jobs)]
        contestants = list(arena.random())
        *of_searches, largest = arena.confirmed([*answers, arena.largest()])
        of = [(who, seed, archs) for (who, seed, *_), archs in zip(jobs, of_searches, strict=True)]
        of += [("largest", seed, largest) for seed in range(args.seeds)]
        contestants += [
            arena.entry(who, level, seed, arena.ctx.space.ops(arch))
            for who, seed, archs in of for level, arch in enumerate(archs)
        ]  # fmt: skip
        contestants += arena.widest("mobilenet_v2", handmade.mobilenet_v2)
        contestants += arena.widest("mobilenet_v3_small", handmade.mobilenet_v3_small)
        contestants += arena.published()
        with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
            work = {c.id: c for c in contestants}
            todo = [
                (c, space_text, task_text, how, args.work, args.accelerator) for c in work.values()
            ]
            for number, _ in enumerate(pool.map(trained, todo), 1):
                bars("training networks", number, len(todo))
        rows = arena.judged(contestants)
    summary = summarised(rows, arena.limits)
    show(summary)
    for name, ms in arena.published_ms.items():
        print(f"{name} takes {ms:.4f} ms")
    write_results(
        "pareto_cifar10", budgets=summary, recipe=asdict(how), search=args.search, every=EVERY,
        task=config.task, space=arena.ctx.space.describe(), published_ms=arena.published_ms,
        rows=rows,
    )  # fmt: skip


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
                "accuracy": fmean(accuracy), "spread": pstdev(accuracy), "seeds": len(own),
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
                print(
                    f"  {who:<20}{v['accuracy']:7.2%} +- {v['spread']:.2%} of {v['seeds']}   "
                    f"p50 {v['p50_ms']:.4f} ms, {v['met']} within   {v['macs'] / 1e6:.2f} M MACs"
                )


if __name__ == "__main__":
    main()
