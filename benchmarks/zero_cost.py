"""Which scores of untrained networks rank networks of one budget?

    python benchmarks/zero_cost.py [--data ../shared/data] [--sets nasbench-macro tiny]

Networks are drawn at 90 to 100 % of each budget of multiply-accumulates, and what a score says of
them untrained is held against how well they do trained: Spearman's rank correlation within the
budget, never over a space, with a 95 % interval (bootstrap over networks), and ``regret``: the best
of them less the one that the score puts first, beside that of a random one, in points.

``nasbench-macro``: published accuracies of CIFAR-10, means of three seeds; scores look at noise.
``tiny``: preset tiny on CIFAR-10, trained here, --seeds times each; ``sd_seeds`` of one network has
to be below ``sd`` of networks before a rank says anything. What was scored and trained lies in
--work: a run that was stopped goes on.

Writes benchmarks/results/zero_cost.json, a row a budget and score; sets left out stay there.
"""

import argparse
import itertools
import multiprocessing
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import rows_before, write_results
from scipy.stats import spearmanr

from edgenas import ops
from edgenas.budgets import Total
from edgenas.files import read_json, write_json
from edgenas.race import NEAR
from edgenas.samplers import Fitting
from edgenas.search import Objective
from edgenas.space import Space, load_space
from edgenas.spec import Architecture
from edgenas.tabular import nasbench_macro
from edgenas.task import Task, load_task
from edgenas.train import TrainRecipe, accuracy, seeded, train
from edgenas.untrained import IMAGES, SCORES, Subject

BUDGETS = {"nasbench-macro": (30, 45, 60, 80), "tiny": (3.5, 5)}
TINY = {"kind": "mobile", "preset": "tiny"}
RESAMPLED = 2000

Row = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """Of a set, and the networks that are compared within it."""

    set: str
    mmacs: float
    count: int

    @property
    def objective(self) -> Objective:
        """Multiply-accumulates."""
        return Objective((Total("macs", "MMACs", self.mmacs, lambda op: ops.macs(op) / 1e6),))

    def networks(self, space: Space) -> list[Architecture]:
        """Drawn near it."""
        rng = random.Random(f"zero-cost/{self.set}/{self.mmacs}")
        fitting = Fitting(space, self.objective, rng, least=NEAR)
        return [p.arch for p in itertools.islice(iter(fitting.ask, None), self.count)]


def space_of(name: str) -> Space:
    """That a set is of."""
    return load_space(TINY if name == "tiny" else {"kind": name})


def task(images: int) -> Task:
    """What ``tiny`` is trained on."""
    return load_task({"dataset": "cifar10", "train_images": images}, 0)


def kept(path: Path, made: Callable[[], Any]) -> Any:
    """What an earlier run left, else made now."""
    if not path.exists():
        write_json(path, {"value": made()})
    return read_json(path)["value"]


def trained(job: tuple[Path, int, int, Architecture, int]) -> float:
    """Test accuracy of a network's own training."""
    work, images, epochs, arch, seed = job

    def made() -> float:
        torch.set_num_threads(1)
        data, space = task(images), space_of("tiny")
        with seeded(seed):
            net = space.build(arch)
        train(net, data, TrainRecipe(epochs=epochs, batch=64), seed)
        return accuracy(net, data, "test")

    return float(kept(work / f"trained-{images}-{epochs}-{arch.id}-{seed}.json", made))


def scored(job: tuple[Path, str, str, Architecture, int]) -> float:
    """By a score, on images of the task or on noise."""
    work, set, name, arch, images = job

    def made() -> float:
        torch.set_num_threads(1)
        space = space_of(set)
        if set == "tiny":
            x, y = next(iter(task(images).batches("train", IMAGES, 0, augmented=False)))
        else:
            g = torch.Generator().manual_seed(zlib.crc32(set.encode()))
            x = torch.randn(IMAGES, *space.input, generator=g)
            y = torch.randint(space.classes, (IMAGES,), generator=g)
        return float(SCORES[name]().of(Subject(space, arch, x, y)))

    return float(kept(work / f"{name}-{set}-{images}-{arch.id}.json", made))


def compared(truth: np.ndarray, score: Sequence[float]) -> Row:
    """``truth`` (n,): accuracies, fractions."""
    marks, draws = np.nan_to_num(np.asarray(score), nan=-np.inf), np.random.default_rng(0)
    picks = draws.integers(len(truth), size=(RESAMPLED, len(truth)))
    both = [(truth[p], marks[p]) for p in [np.arange(len(truth)), *picks]]
    told, *each = (
        float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else None
        for a, b in both
    )
    each = [rank for rank in each if rank is not None]
    first = truth[marks == marks.max()].mean()
    return {
        "spearman": told,
        "interval": [float(q) for q in np.quantile(each, (0.025, 0.975))] if each else None,
        "regret": 100 * float(truth.max() - first),
    }


def truths(args: argparse.Namespace, budget: Budget, pool: ProcessPoolExecutor) -> np.ndarray:
    """(networks, seeds), fractions."""
    archs = budget.networks(space_of(budget.set))
    if budget.set != "tiny":
        table = nasbench_macro(args.data / "nasbench_macro.csv.gz")
        return np.array([[table.report[table.rank(arch)]] for arch in archs])
    jobs = [(args.work, args.images, args.epochs, a, s) for s in range(args.seeds) for a in archs]
    done = list(pool.map(trained, jobs))
    return np.array(done).reshape(args.seeds, len(archs)).T


def rows_of(args: argparse.Namespace, budget: Budget, pool: ProcessPoolExecutor) -> Iterator[Row]:
    """A row a score."""
    archs = budget.networks(space_of(budget.set))
    every = {
        name: list(pool.map(scored, [(args.work, budget.set, name, a, args.images) for a in archs]))
        for name in SCORES
    }
    truth = truths(args, budget, pool)
    mean = truth.mean(1)
    facts = {
        "set": budget.set, "mmacs": budget.mmacs, "networks": len(archs),
        "sd": 100 * float(mean.std(ddof=1)),
        "sd_seeds": 100 * float(truth.std(1, ddof=1).mean()) if truth.shape[1] > 1 else None,
        "random_regret": 100 * float(mean.max() - mean.mean()),
    }  # fmt: skip
    for name, score in every.items():
        yield {**facts, "score": name, **compared(mean, score)}


def main() -> None:
    """A budget at a time, printed and kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="*", choices=list(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--networks", type=int, default=48, help="a budget of a published table")
    parser.add_argument("--own", type=int, default=16, help="networks a budget that train here")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/zero_cost"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        for name in args.sets:
            rows = [row for row in rows_before("zero_cost") if row["set"] != name]
            for mmacs in BUDGETS[name]:
                count = args.own if name == "tiny" else args.networks
                rows += rows_of(args, Budget(name, mmacs, count), pool)
            setup = {k: getattr(args, k) for k in ("images", "epochs", "seeds")}
            write_results("zero_cost", setup=setup, rows=rows)
    print(f"{'set':<16}{'budget':>9}{'score':>16}{'Spearman':>10}{'interval':>15}{'regret':>8}")
    for r in rows_before("zero_cost"):
        rank = "-" if r["spearman"] is None else f"{r['spearman']:.2f}"
        ends = "-" if r["interval"] is None else " to ".join(f"{e:.2f}" for e in r["interval"])
        print(
            f"{r['set']:<16}{r['mmacs']:>8}M{r['score']:>16}{rank:>10}{ends:>15}{r['regret']:>8.2f}"
        )


if __name__ == "__main__":
    main()
