"""Weight sharing: what the one supernet loop (supernet.py) and a Policy say to each other.

Policy  weight_gates(rng) -> Gates    which paths a weight step trains
        arch_step(Step)               how the architecture learns
        scores() -> {choice: Tensor}  log-probability of every option
        worth() -> {choice: Tensor}   what accuracy alone says of every option
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
from scipy.optimize import brentq
from torch import Tensor

from edgenas.budgets import Budget
from edgenas.descent import LARGEST_BATCH, fitting_batch
from edgenas.gates import Gates
from edgenas.pressure import Pressure, pressure
from edgenas.search import Objective
from edgenas.space import Context, Relaxable, Space, require
from edgenas.validate import Auto, Batch, Count, Epochs, Fraction, Rate, UnderOne, Whole

STEPS, EPOCHS, WARMUP = 1000, 5, 0.4  # of weights, at least; and the share of them
STEEPEST = 20.0  # between two logits of one choice before anything is learnt


@dataclass(frozen=True)
class Loads:
    """Expected share of every budget, margin included; differentiable in the probabilities.

    ``fixed``: (contexts, budgets); ``options``: (contexts, budgets, options) per choice. No unit is
    left.
    """

    budgets: tuple[Budget, ...]
    contexts: tuple[Context, ...]
    fixed: Tensor
    options: Mapping[str, Tensor]

    @classmethod
    def of(cls, space: Relaxable, objective: Objective) -> "Loads":
        """Read from the tables. Raises MissingLatency."""
        budgets, contexts = objective.budgets, space.contexts
        options = {
            c.name: [
                [[b.part(ops) for ops in at.options[c.name]] for b in budgets] for at in contexts
            ]
            for c in space.choices
        }
        return cls(
            budgets,
            contexts,
            torch.tensor([[b.load(at.fixed) for b in budgets] for at in contexts]),
            {c: torch.tensor(rows) for c, rows in options.items()},
        )

    def expected(self, probs: Mapping[str, Tensor]) -> Tensor:
        """(budgets,) under independent choices; ``probs``: (options,) per choice."""
        parts = torch.stack([self.fixed, *(self.options[c] @ p for c, p in probs.items())])
        loads = torch.stack([b.together(parts[..., i]) for i, b in enumerate(self.budgets)])
        return loads @ torch.stack([self._chance(at, probs) for at in self.contexts])

    def _chance(self, context: Context, probs: Mapping[str, Tensor]) -> Tensor:
        """Probability of ``context``."""
        return math.prod(
            (probs[c][k] for c, k in context.picks.items()), start=self.fixed.new_ones(())
        )


def affordable(loads: Loads) -> dict[str, Tensor]:
    """Logits, (options,) per choice, of probabilities as even as an expected load up to 1 allows.

    Of all that keep a mean the one of most entropy is exp(-price x load) (Jaynes 1957, sec. 2). A
    search that starts there has no budget to find its way to first, which would push all choices
    alike, whatever they are worth. Where even ones keep it they stay even: nothing leans towards
    what is slow. A load is taken as linear, as it is at even probabilities.
    """
    even = {
        c: torch.full(parts.shape[-1:], 1 / parts.shape[-1]).requires_grad_()
        for c, parts in loads.options.items()
    }
    slopes = torch.autograd.grad(loads.expected(even).sum(), list(even.values()))
    costs = {c: s - s.mean() for c, s in zip(even, slopes, strict=True)}
    widest = max(float(cost.max() - cost.min()) for cost in costs.values())

    def excess(price: float) -> float:
        probs = {c: (-price * cost).softmax(0) for c, cost in costs.items()}
        return float(loads.expected(probs).max()) - 1

    most = STEEPEST / max(widest, 1e-12)
    if excess(0) <= 0:
        price = 0.0
    elif excess(most) > 0:  # hardly anything fits
        price = most
    else:
        price = float(brentq(excess, 0, most, xtol=1e-6 * most))
    return {c: -price * cost for c, cost in costs.items()}


@dataclass(frozen=True)
class Step:
    """What an architecture step may use.

    ``ce``: cross-entropy of a batch of the search part under gates, no smoothing; ``accuracy``: the
    share of it that is right; ``budget``: the tightest one now, by index.
    """

    ce: Callable[[Gates], Tensor]
    accuracy: Callable[[Gates], float]
    loads: Loads
    budget: int
    pressure: Pressure
    rng: random.Random

    def loss(self, gates: Gates, probs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What is to be minimised under ``probs``, what of it is load alone, the cross-entropy.

        The gradient of the second is that part of the first's which no accuracy has a share in.
        """
        ce, load = self.ce(gates), self.loads.expected(probs)[self.budget]
        return self.pressure.loss(ce, load), self.pressure.loss(ce.detach(), load), ce

    def reward(self, gates: Gates) -> tuple[float, float]:
        """(what is to be maximised, the accuracy alone) of one live option a choice."""
        one_hot = {
            c: torch.zeros(self.loads.options[c].shape[-1]).index_fill_(0, torch.tensor(g.live), 1)
            for c, g in gates.items()
        }
        load = float(self.loads.expected(one_hot)[self.budget])
        accuracy = self.accuracy(gates)
        return self.pressure.reward(accuracy, load), accuracy


class Policy(Protocol):
    """A weight-sharing method, less its loop."""

    def weight_gates(self, rng: random.Random) -> Gates:
        """Live options of one weight step."""
        ...

    def arch_step(self, step: Step) -> float:
        """Learn from one batch; its cross-entropy, or one less its accuracy if that is known."""
        ...

    def scores(self) -> Mapping[str, Tensor]:
        """log-probabilities, (options,) per choice, without gradient."""
        ...

    def worth(self) -> Mapping[str, Tensor]:
        """Logits as they would be had no load moved them, (options,) per choice."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that it has learnt, for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state``."""
        ...


@dataclass(frozen=True)
class Length:
    """Of a supernet's training, as of ``Schedule``."""

    epochs: int
    warmup: int
    batch: int


@dataclass(frozen=True)
class Schedule:
    """How a supernet is trained.

    ``warmup``: epochs before the architecture learns; then one architecture step every
    ``arch_every`` weight steps. ``auto`` follows the images: ``length``. ``pressure``: kind and
    settings of a Pressure. ``precision``: of what is computed forward and back; weights and loss
    are fp32 in any case.
    """

    epochs: Auto | Epochs = "auto"
    warmup: Auto | Whole = "auto"
    batch: Auto | Batch = "auto"
    lr: Rate = 0.1
    momentum: UnderOne = 0.9
    weight_decay: Fraction = 4e-5
    smoothing: UnderOne = 0.1
    arch_every: Count = 4
    precision: Literal["fp32", "bf16"] = "fp32"
    pressure: Mapping[str, Any] = field(default_factory=lambda: {"kind": "adaptive"})

    def __post_init__(self) -> None:
        pressure(self.pressure)

    def length(self, images: int | None = None) -> Length:
        """On so many training images; where that is not known, the shortest.

        ``auto`` is a batch as of ``fitting_batch``; ``STEPS`` steps and ``EPOCHS`` epochs at least,
        of which ``WARMUP`` warm up.
        """
        size = fitting_batch(images) if images and self.batch == "auto" else self.batch
        batch = LARGEST_BATCH if size == "auto" else min(size, images or size)
        steps = -(-STEPS // (images // batch)) if images else 0
        warm = 0 if self.warmup == "auto" else math.ceil(self.warmup / WARMUP)
        epochs = max(EPOCHS, steps, warm) if self.epochs == "auto" else self.epochs
        warmup = int(WARMUP * epochs) if self.warmup == "auto" else self.warmup
        return Length(epochs, warmup, batch)


def relaxable(space: Space, method: str) -> Relaxable:
    """``space`` as one that offers a supernet. Raises CapabilityError."""
    require(space, Relaxable, method)
    return cast(Relaxable, space)
