"""Model-based search: what every option is worth is learnt from trainings, and trainings decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import pydantic
import torch
from torch import Tensor

from edgenas import surrogate
from edgenas.errors import ImpossibleBudget
from edgenas.evaluate import Scratch
from edgenas.model_based import ModelBased
from edgenas.race import cost_epochs, race
from edgenas.search import Found, Ledger, Objective, Problem, Progress, Trial, ask_tell, silent
from edgenas.space import Relaxable, require
from edgenas.spec import Architecture
from edgenas.surrogate import LEAST
from edgenas.validate import Count, Epochs

__all__ = ["Surrogate"]


@dataclass(frozen=True)
class Surrogate:
    """``trials`` networks are trained for ``epochs`` each: half as a design near the budget, half
    as a surrogate of those before thinks best. The best ``finalists`` of them, the largest that
    fits among them, are trained anew for ``final_epochs``, and the best of those is found. Scores
    are what each option adds to it in the eyes of the surrogate."""

    trials: Annotated[Count, pydantic.Field(ge=LEAST)] = 16
    epochs: Epochs = 2
    finalists: Count = 4
    final_epochs: Epochs = 8

    def training_epochs(self, objectives: int) -> float:
        """Cost in epochs of plainly training one path."""
        final = cost_epochs(self.finalists, [self.final_epochs]) if self.finalists > 1 else 0
        return float(objectives * (self.trials * self.epochs + final))

    def run(self, problem: Problem, ledger: Ledger, progress: Progress = silent) -> Found:
        """Raises CapabilityError, ImpossibleBudget."""
        require(problem.space, Relaxable, "surrogate")
        phases = ["search", *(f"search {i + 1}" for i in range(1, len(problem.objectives)))]
        found = [
            self._best(problem, objective, phase, ledger, progress)
            for phase, objective in zip(phases, problem.objectives, strict=True)
        ]
        return Found(tuple(arch for arch, _ in found), scores=tuple(gains for _, gains in found))

    def _best(
        self, problem: Problem, objective: Objective, phase: str, ledger: Ledger, progress: Progress
    ) -> tuple[Architecture, Mapping[str, Tensor]]:
        assert isinstance(problem.space, Relaxable)
        rng, evaluate = problem.rng(phase), Scratch(problem)
        sampler = ModelBased(problem.space, objective, rng, self.trials, epochs=self.epochs)
        trials = ask_tell(
            sampler, evaluate, ledger, phase=phase, trials=self.trials, progress=progress
        )
        if len(trials) < LEAST:
            raise ImpossibleBudget(
                f"{len(trials)} networks keep the budget: too few to learn from; ask for more"
            )
        order = [t.arch for t in sorted(trials, key=lambda t: -t.metrics["accuracy"])]
        largest = trials[0].arch  # what the design begins with
        archs = order[: self.finalists]
        if largest not in archs and self.finalists > 1:
            archs[-1] = largest
        final: list[Trial] = []
        if self.finalists > 1:
            final = race(
                archs, [self.final_epochs], evaluate, ledger, phase=f"{phase}, race",
                progress=progress,
            )  # fmt: skip
            archs = [t.arch for t in final]
        learnt = surrogate.Surrogate.fit(problem.space, [*trials, *final])
        gains = learnt.gains(archs[0]).items()
        return archs[0], {choice: torch.tensor(each) for choice, each in gains}
