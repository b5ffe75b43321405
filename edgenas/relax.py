"""Weight sharing: one supernet, one loop, a Policy per method.

Policy  weight_gates(rng) -> Gates    which paths a weight step trains
        arch_step(Step)               how the architecture learns
        scores() -> {choice: Tensor}  log-probability of every option
"""

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from edgenas.gates import Gates, Mixed
from edgenas.search import Ledger, Objective, Problem, Progress, silent
from edgenas.space import Relaxable, Space, require
from edgenas.task import Task
from edgenas.train import cosine, finite, seeded, set_lr, sgd


@dataclass(frozen=True)
class Loads:
    """Expected share of every budget, margin included; differentiable in the probabilities.

    ``fixed``: (budgets,); ``options``: (budgets, options) per choice. No unit of time is left.
    """

    fixed: Tensor
    options: Mapping[str, Tensor]

    @classmethod
    def of(cls, space: Relaxable, objective: Objective) -> "Loads":
        """Read from the tables. Raises MissingLatency."""
        budgets = objective.budgets
        fixed = [b.fixed + sum(map(b.cost, space.fixed_ops())) for b in budgets]
        options = {
            c.name: [[sum(map(b.cost, ops)) for ops in space.option_ops(c.name)] for b in budgets]
            for c in space.choices
        }
        return cls(torch.tensor(fixed), {c: torch.tensor(rows) for c, rows in options.items()})

    def expected(self, probs: Mapping[str, Tensor]) -> Tensor:
        """(budgets,) under independent choices; ``probs``: (options,) per choice."""
        return self.fixed + torch.stack([self.options[c] @ p for c, p in probs.items()]).sum(0)


@dataclass
class Price:
    """What load beyond 1 costs, adapted during the search so that the expected load ends at 1.

    Augmented Lagrangian of ``load = 1`` (Bertsekas 1982, sec. 2.2): signed, so that a network
    under its budget is pulled up to it; ``stiffness`` damps what ``rate`` alone would let swing.
    """

    rate: float
    stiffness: float
    bound: float
    multiplier: float = 0.0
    value: float = 0.0

    def adapt(self, load: float) -> None:
        """Follow the current expected load."""
        excess = load - 1
        self.multiplier = self._bounded(self.multiplier + self.rate * excess)
        self.value = self._bounded(self.multiplier + self.stiffness * excess)

    def _bounded(self, price: float) -> float:
        return min(max(price, -self.bound), self.bound)


@dataclass(frozen=True)
class Step:
    """What an architecture step may use: a batch of the search part, the price of load."""

    task: Task
    supernet: nn.Module
    x: Tensor
    y: Tensor
    loads: Loads
    budget: int  # the tightest, by index
    price: float
    rng: random.Random

    def loss(self, gates: Gates, probs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(cross-entropy + price * (expected load - 1), cross-entropy alone); no smoothing."""
        ce = self.task.loss(self.supernet(self.x, gates), self.y)
        return ce + self.price * (self.loads.expected(probs)[self.budget] - 1), ce


class Policy(Protocol):
    """A weight-sharing method, less its loop."""

    def weight_gates(self, rng: random.Random) -> Gates:
        """Live options of one weight step."""
        ...

    def arch_step(self, step: Step) -> float:
        """Learn from one batch; its cross-entropy."""
        ...

    def scores(self) -> Mapping[str, Tensor]:
        """log-probabilities, (options,) per choice, without gradient."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How a supernet is trained.

    ``warmup``: epochs before the architecture learns; then one architecture step every
    ``arch_every`` weight steps. ``price_*``: see Price.
    """

    epochs: int = 5
    warmup: int = 2
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    smoothing: float = 0.1
    arch_every: int = 3
    price_rate: float = 0.05
    price_stiffness: float = 15.0
    price_bound: float = 20.0

    @property
    def training_epochs(self) -> float:
        """Cost in epochs of plainly training one path; two paths forward, one back, a step."""
        return self.epochs + (self.epochs - self.warmup) * 1.4 / self.arch_every


def relaxable(space: Space, method: str) -> Relaxable:
    """``space`` as one that offers a supernet. Raises CapabilityError."""
    require(space, Relaxable, method)
    return cast(Relaxable, space)


def train_supernet(
    problem: Problem,
    space: Relaxable,
    policy: Policy,
    schedule: Schedule,
    ledger: Ledger,
    progress: Progress = silent,
) -> nn.Module:
    """Alternate weight and architecture steps (arXiv:1812.00332, sec. 3.2).

    The ledger gets an event an epoch. Raises TrainingDiverged.
    """
    task, rng = problem.task, problem.rng("supernet")
    loads = Loads.of(space, problem.objective)
    price = Price(schedule.price_rate, schedule.price_stiffness, schedule.price_bound)
    with seeded(problem.seed):
        net = space.supernet(Mixed)
    net.to(problem.accelerator).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = sgd(net, schedule.momentum, schedule.weight_decay)
    size = min(schedule.batch, len(task.parts["train"].y))
    steps = len(task.parts["train"].y) // size
    validation = _endless(task, size, problem.seed)
    for epoch in range(schedule.epochs):
        start, total = time.perf_counter(), 0.0
        val: list[float] = []
        batches = task.batches("train", size, problem.seed * 1009 + epoch, augmented=True)
        for step, (x, y) in enumerate(batches):
            x, y = x.to(problem.accelerator), y.to(problem.accelerator)
            set_lr(optimiser, schedule.lr * cosine(epoch + step / steps, schedule.epochs, 0))
            loss = task.loss(net(x, policy.weight_gates(rng)), y, schedule.smoothing)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            total += finite(loss, "search", epoch, schedule.lr)
            if epoch >= schedule.warmup and step % schedule.arch_every == 0:
                expected = loads.expected(_probs(policy))
                price.adapt(float(expected.max()))
                x, y = (t.to(problem.accelerator) for t in next(validation))
                budget = int(expected.argmax())
                val.append(policy.arch_step(Step(task, net, x, y, loads, budget, price.value, rng)))
            progress("search", epoch * steps + step + 1, schedule.epochs * steps)
        ledger.append(
            "search", "epoch", epoch=epoch + 1, epochs=schedule.epochs, loss=total / steps,
            val_loss=sum(val) / len(val) if val else None, weight=price.value,
            seconds=time.perf_counter() - start, **_state(policy, loads, problem.objective),
        )  # fmt: skip
    return net.eval()


def _state(policy: Policy, loads: Loads, objective: Objective) -> dict[str, object]:
    """Where the architecture stands, in JSON types."""
    probs = _probs(policy)
    expected = loads.expected(probs).tolist()
    entropy = [
        float(torch.special.entr(p).sum()) / torch.tensor(len(p)).log().item()
        for p in probs.values()
    ]
    return {
        "load": max(expected),
        "expected_ms": {
            b.device: b.p50_ms(load) for b, load in zip(objective.budgets, expected, strict=True)
        },
        "entropy": sum(entropy) / len(entropy),  # of log(options): 1 undecided, 0 decided
        "probabilities": {c: [round(v, 5) for v in p.tolist()] for c, p in probs.items()},
    }


def _probs(policy: Policy) -> dict[str, Tensor]:
    return {c: s.exp() for c, s in policy.scores().items()}


def _endless(task: Task, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the search part, shuffled anew each time round."""
    while True:
        seed += 1
        yield from task.batches("search", size, seed, augmented=False)
