"""What makes a supernet rank networks as their own training does?

    python benchmarks/ranking.py [--networks 24] [--epochs 8] [--supernet-epochs 12] [--jobs 2]

Networks of space mobile, preset tiny, from the smallest to the largest, are trained alone on
CIFAR-10. A supernet of every variation is then trained and scores the same networks by shared
weights on search-validation images. Reported: Spearman with the accuracy on test images of the
networks' own training, the same with what multiply-accumulates explain taken out of both, and the
mean accuracy by shared weights. ``cost``: forward and backward passes, of plain training.

What is trained lies in --work: a run that was stopped goes on.
Writes benchmarks/results/ranking.json.
"""

import argparse
import itertools
import multiprocessing
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from results_file import write_results
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgenas import ops
from edgenas.descent import cosine, set_lr, sgd
from edgenas.evaluate import recalibrate
from edgenas.files import read_json, write_json
from edgenas.gates import Gates, Mixed
from edgenas.space import load_space
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture
from edgenas.task import Task, load_task
from edgenas.train import TrainRecipe, accuracy, finite, seeded, train

SPACE = {"kind": "mobile", "preset": "tiny"}


@dataclass(frozen=True)
class Variation:
    """How a supernet is trained; ``recompute``: batch norm statistics for each network."""

    paths: str = "uniform"
    smoothing: float = 0.1
    distil: bool = False
    ema: float = 0.0
    recompute: bool = True
    passes: int = 1


VARIATIONS: Mapping[str, Variation] = {
    "uniform paths": Variation(),
    "batch norm as trained": Variation(recompute=False),
    "no label smoothing": Variation(smoothing=0.0),
    "fair paths": Variation(paths="fair"),
    "EMA of weights": Variation(ema=0.998),
    "distilled from the largest": Variation(paths="largest and random", distil=True, passes=2),
    "sandwich": Variation(paths="sandwich", distil=True, passes=3),
}


def extreme(space: Mobile, pick: Callable[..., int]) -> Architecture:
    """The architecture of the options with the most or the fewest multiply-accumulates."""
    return Architecture.of(
        space.id,
        {
            c.name: pick(
                range(len(c.options)),
                key=lambda k, c=c: sum(map(ops.macs, space.option_ops(c.name)[k])),
            )
            for c in space.choices
        },
    )


def spread(space: Mobile, count: int) -> list[Architecture]:
    """From small to large: every choice takes a large option with a probability that grows."""
    rng, small, large = random.Random("networks"), extreme(space, min), extreme(space, max)
    archs: list[Architecture] = []
    while len(archs) < count:
        towards = large if rng.random() < len(archs) / max(count - 1, 1) else small
        arch = space.sample(rng)
        kept = {c.name: towards[c.name] for c in space.choices if rng.random() < 0.35}
        if (arch := arch.but(**kept)) not in archs:
            archs.append(arch)
    return archs


def paths(space: Mobile, variation: Variation, number: int, seed: int) -> list[Gates]:
    """What one step trains, the teacher first."""
    rng = random.Random(f"{seed}/{number}")
    one = space.gates(space.sample(rng))
    match variation.paths:
        case "uniform":
            return [one]
        case "fair":  # FairNAS (arXiv:1907.01845): each option as often as the others
            return [space.gates(Architecture.of(space.id, dict(_fair(space, number, seed))))]
        case "largest and random":
            return [space.gates(extreme(space, max)), one]
    return [space.gates(extreme(space, max)), space.gates(extreme(space, min)), one]


def _fair(space: Mobile, number: int, seed: int) -> Any:
    for c in space.choices:
        block, place = divmod(number, len(c.options))
        order = list(range(len(c.options)))
        random.Random(f"{seed}/{c.name}/{block}").shuffle(order)
        yield c.name, order[place]


def supernet(task: Task, space: Mobile, v: Variation, epochs: int, seed: int) -> nn.Module:
    """Trained by ``v``."""
    with seeded(seed):
        net = space.supernet(Mixed)
    net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(v.ema)) if v.ema else None
    optimiser, size = sgd(net, 0.9, 4e-5), 64
    steps, number = len(task.parts["train"].y) // size, 0
    for epoch in range(epochs):
        for step, (x, y) in enumerate(
            task.batches("train", size, seed * 1009 + epoch, augmented=True)
        ):
            set_lr(optimiser, 0.1 * cosine(epoch + step / steps, epochs, 0.2))
            optimiser.zero_grad()
            soft: Tensor | None = None
            for gates in paths(space, v, number, seed):
                logits = net(x, gates)
                loss = task.loss(logits, y, v.smoothing)
                if soft is not None:
                    loss = -(soft * logits.log_softmax(1)).sum(1).mean()
                elif v.distil:
                    soft = logits.detach().softmax(1)
                torch.autograd.backward(loss)
                finite(loss, "ranking", epoch, 0.1)
            optimiser.step()
            if average is not None:
                average.update_parameters(net)
            number += 1
    return (average.module if average is not None else net).eval()


def scores(
    task: Task, space: Mobile, net: nn.Module, v: Variation, archs: list[Any]
) -> list[float]:
    """Accuracy of each by shared weights."""
    out = []
    for arch in archs:
        subnet = space.subnet(net, arch).eval()
        if v.recompute:
            batches = task.batches("train", 128, 0, augmented=False)
            recalibrate(subnet, (x for x, _ in itertools.islice(batches, 16)))
        out.append(accuracy(subnet, task, "search"))
    return out


def _setup(args: argparse.Namespace) -> tuple[Task, Mobile, list[Architecture]]:
    torch.set_num_threads(1)
    space = load_space(SPACE)
    assert isinstance(space, Mobile)
    task = load_task({"dataset": "cifar10", "train_images": args.images}, 0)
    return task, space, spread(space, args.networks)[: args.up_to]


def alone(job: tuple[argparse.Namespace, int]) -> float:
    """Test accuracy of one network's own training."""
    args, number = job
    path = args.work / f"network-{number}.json"
    if not path.exists():
        task, space, archs = _setup(args)
        with seeded(number):
            net = space.build(archs[number])
        train(net, task, TrainRecipe(epochs=args.epochs, batch=64), number)
        write_json(path, {"accuracy": accuracy(net, task, "test")})
    return float(read_json(path)["accuracy"])


def shared(job: tuple[argparse.Namespace, str, int]) -> list[float]:
    """Scores of all networks by one supernet."""
    args, name, seed = job
    path = args.work / f"{name.replace(' ', '-')}-{seed}.json"
    if not path.exists():
        task, space, archs = _setup(args)
        v = VARIATIONS[name]
        net = supernet(task, space, v, max(1, args.supernet_epochs // v.passes), seed)
        write_json(path, {"scores": scores(task, space, net, v, archs)})
    return list(read_json(path)["scores"])


def correlations(own: list[float], by_weights: list[float], macs: list[float]) -> dict[str, float]:
    """Spearman, alone and with what size explains taken out of both."""
    x = np.log(macs)

    def rest(values: list[float]) -> np.ndarray:
        return np.asarray(values) - np.polyval(np.polyfit(x, values, 1), x)

    return {
        "spearman": float(spearmanr(own, by_weights).statistic),
        "beyond_size": float(spearmanr(rest(own), rest(by_weights)).statistic),
        "accuracy": fmean(by_weights),
    }


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--up-to", type=int, help="only so many of them, from the smallest on")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--supernet-epochs", type=int, default=12, help="cost, in plain epochs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(VARIATIONS))
    parser.add_argument("--work", type=Path, default=Path("runs/ranking"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    _, space, archs = _setup(args)
    macs = [float(sum(map(ops.macs, space.ops(a)))) for a in archs]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        own = list(pool.map(alone, [(args, i) for i in range(len(archs))]))
        jobs = [(args, name, seed) for seed in range(args.seeds) for name in args.only]
        by_weights = list(pool.map(shared, jobs))
    rows = []
    for name in args.only:
        runs = [s for (_, n, _), s in zip(jobs, by_weights, strict=True) if n == name]
        each = [correlations(own, s, macs) for s in runs]
        rows.append(
            {
                "variation": name, "settings": asdict(VARIATIONS[name]), "runs": each,
                **{k: fmean(e[k] for e in each) for k in each[0]},
            }
        )  # fmt: skip
    size = float(spearmanr(own, macs).statistic)
    print(f"networks' own accuracy {min(own):.2%} to {max(own):.2%}; Spearman of size {size:.3f}")
    print(f"{'supernet':<30}{'Spearman':>10}{'beyond size':>13}{'accuracy':>10}")
    for row in rows:
        print(
            f"{row['variation']:<30}{row['spearman']:>10.3f}{row['beyond_size']:>13.3f}"
            f"{row['accuracy']:>10.2%}"
        )
    setup = {k: v for k, v in vars(args).items() if k not in ("work", "jobs", "only")}
    write_results("ranking", setup=setup, size_spearman=size, own=own, macs=macs, rows=rows)


if __name__ == "__main__":
    main()
