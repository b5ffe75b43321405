"""Search by weight sharing: train a supernet and its policies, then choose under the budgets."""

import abc
import hashlib
import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

from edgenas.artifact import sha256
from edgenas.checkpoint import Checkpoint
from edgenas.errors import ImpossibleBudget, UsageError
from edgenas.evaluate import Shared
from edgenas.noise import fewer
from edgenas.policies import Logits
from edgenas.project import project, slack
from edgenas.relax import Loads, Schedule, affordable, relaxable
from edgenas.samplers import Listed
from edgenas.search import Found, Ledger, Objective, Problem, Progress, ask_tell, silent
from edgenas.space import Relaxable, Space
from edgenas.spec import Architecture
from edgenas.supernet import train_supernet
from edgenas.validate import Fraction, Rate, Whole

TRIES = 20  # draws for each sample that is wanted
STEP = 2**-0.5  # from a candidate to the next: half the load in two


@dataclass(frozen=True)
class WeightSharing(Schedule, abc.ABC):
    """A method that differs from others by its policy.

    ``fill``: share of the budget that the answer takes at least; a budget is a ceiling, so none by
    default. ``samples``: further architectures that are drawn for each objective and scored, for
    the front.
    """

    arch_lr: Rate = 0.05
    fill: Fraction = 0.0
    samples: Whole = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        least = self.length()
        if least.warmup >= least.epochs:
            raise UsageError(
                f"search: warmup is {self.warmup}: of {self.epochs} epochs none would be left for "
                "the architecture to learn"
            )

    @abc.abstractmethod
    def policy(self, space: Relaxable, rng: random.Random) -> Logits:
        """A fresh one."""

    @property
    @abc.abstractmethod
    def arch_cost(self) -> float:
        """Of an architecture step, in steps of plain training."""

    @property
    def name(self) -> str:
        """As in messages."""
        return type(self).__name__.lower()

    def training_epochs(self, objectives: int) -> float:
        """Cost in epochs of plainly training one path; the least where ``sized`` was not asked."""
        length = self.length()
        learning = max(length.epochs - length.warmup, 0)
        return length.epochs + learning * objectives * self.arch_cost / self.arch_every

    def sized(self, images: int) -> Self:
        """The same on so many training images: nothing is ``auto`` any more."""
        return replace(self, **asdict(self.length(images)))

    def run(self, problem: Problem, ledger: Ledger, progress: Progress = silent) -> Found:
        """The best architecture that keeps each objective, and the supernet."""
        space = relaxable(problem.space, self.name)
        policies = [
            self.policy(space, problem.rng(f"alpha/{i}")) for i in range(len(problem.objectives))
        ]
        for policy, objective in zip(policies, problem.objectives, strict=True):
            project(space, policy.worth(), objective.budgets)  # says so now if nothing can fit
            policy.start(affordable(Loads.of(space, objective)))
        net = train_supernet(
            problem, space, policies, self, ledger, progress, self._checkpoint(problem, ledger)
        )
        worths = [policy.worth() for policy in policies]
        each = [
            candidates(problem.space, worth, objective, self.fill)
            for worth, objective in zip(worths, problem.objectives, strict=True)
        ]
        rng, drawn = problem.rng("samples"), [arch for archs in each for arch in archs]
        for policy, objective in zip(policies, problem.objectives, strict=True):
            drawn += self._fitting(policy, objective, problem, rng)
        shared = Shared(problem, space, net)
        ask_tell(
            Listed(drawn), shared, ledger,
            phase="evaluate", trials=len(drawn), progress=progress,
        )  # fmt: skip
        answers = [
            chosen({a: shared.rights(a) for a in archs}, slack(space, objective.budgets))
            for archs, objective in zip(each, problem.objectives, strict=True)
        ]
        return Found(tuple(answers), net, tuple(worths))

    def _fitting(
        self, policy: Logits, objective: Objective, problem: Problem, rng: random.Random
    ) -> list[Architecture]:
        """Drawn from ``policy``, as many as ``samples``; fewer where draws seldom fit."""
        draws = (policy.draw(rng) for _ in range(TRIES * self.samples))
        fitting = (a for a in draws if objective.fits(problem.space.ops(a)))
        return list(itertools.islice(fitting, self.samples))

    def _checkpoint(self, problem: Problem, ledger: Ledger) -> Checkpoint:
        """Beside the ledger; of this very search only."""
        facts = {
            "method": [self.name, asdict(self)],
            "space": problem.space.id,
            "budgets": [
                [[b.name, b.limit, b.margin] for b in o.budgets] for o in problem.objectives
            ],
            "data": [problem.task.digest("train"), problem.task.digest("search")],
            "seed": problem.seed,
            "start": None if problem.start is None else sha256(problem.start),
            "form": 2,
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return Checkpoint(_beside(ledger), key)


def candidates(
    space: Space, worth: Mapping[str, Tensor], objective: Objective, fill: float = 0.0
) -> list[Architecture]:
    """What ``worth`` says is best within the budgets, then within ever less of them.

    Each takes at most ``STEP`` of what the one before took. Raises ImpossibleBudget.
    """
    offered = relaxable(space, "weight sharing")
    found = [project(offered, worth, objective.budgets, fill)]
    while True:
        ceiling = STEP * objective.load(space.ops(found[-1]))
        try:
            found.append(project(offered, worth, objective.budgets, ceiling=ceiling))
        except ImpossibleBudget:
            return found


def chosen(rights: Mapping[Architecture, np.ndarray], slack: bool) -> Architecture:
    """Of those that are no worse than the best by more than chance: the first, or if ``slack`` the
    last.

    ``rights``: of each candidate, the dearest first, which images of one part it gets right.
    """
    best = max(rights.values(), key=np.mean)
    alike = [arch for arch, right in rights.items() if not fewer(right, best)]
    return alike[-1 if slack else 0]


def _beside(ledger: Ledger) -> Path:
    return ledger.path.parent / ".checkpoints" / "search" / f"{ledger.path.stem}.safetensors"
