"""Random search: the baseline that every method has to beat."""

from dataclasses import dataclass

from edgenas.errors import ImpossibleBudget
from edgenas.evaluate import Predicted, Scratch
from edgenas.samplers import Fitting
from edgenas.search import Found, Ledger, Objective, Problem, Progress, ask_tell, silent
from edgenas.spec import Architecture
from edgenas.validate import Count, Epochs

__all__ = ["Random"]


@dataclass(frozen=True)
class Random:
    """Architectures that keep every budget, drawn uniformly.

    The best of ``trials`` after ``epochs`` of training each; with one trial, the first.
    """

    trials: Count = 1
    epochs: Epochs = 2

    def training_epochs(self, objectives: int) -> float:
        """Cost in epochs of plainly training one path."""
        return 0.0 if self.trials == 1 else float(objectives * self.trials * self.epochs)

    def run(self, problem: Problem, ledger: Ledger, progress: Progress = silent) -> Found:
        """Raises ImpossibleBudget."""
        phases = ["search", *(f"search {i + 1}" for i in range(1, len(problem.objectives)))]
        return Found(
            tuple(
                self._best(problem, objective, phase, ledger, progress)
                for phase, objective in zip(phases, problem.objectives, strict=True)
            )
        )

    def _best(
        self, problem: Problem, objective: Objective, phase: str, ledger: Ledger, progress: Progress
    ) -> Architecture:
        sampler = Fitting(problem.space, objective, problem.rng(phase), self.epochs)
        evaluate = Predicted(problem) if self.trials == 1 else Scratch(problem)
        trials = ask_tell(
            sampler, evaluate, ledger, phase=phase, trials=self.trials, progress=progress
        )
        if not trials:
            raise ImpossibleBudget(
                "no network that was drawn keeps the budget; ask for more milliseconds"
            )
        return max(trials, key=lambda t: t.metrics.get("accuracy", 0.0)).arch
