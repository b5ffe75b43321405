"""Random search: the baseline that every method has to beat."""

from dataclasses import dataclass

from edgenas.errors import ImpossibleBudget
from edgenas.evaluate import Predicted, Scratch
from edgenas.samplers import Fitting
from edgenas.search import Found, Ledger, Problem, Progress, ask_tell, silent

__all__ = ["Random"]


@dataclass(frozen=True)
class Random:
    """Architectures that keep every budget, drawn uniformly.

    The best of ``trials`` after ``epochs`` of training each; with one trial, the first.
    """

    trials: int = 1
    epochs: int = 2

    @property
    def training_epochs(self) -> float:
        """Cost in epochs of plainly training one path."""
        return 0.0 if self.trials == 1 else float(self.trials * self.epochs)

    def run(self, problem: Problem, ledger: Ledger, progress: Progress = silent) -> Found:
        """Raises ImpossibleBudget."""
        sampler = Fitting(problem.space, problem.objective, problem.rng("search"), self.epochs)
        evaluate = Predicted(problem) if self.trials == 1 else Scratch(problem)
        trials = ask_tell(
            sampler, evaluate, ledger, phase="search", trials=self.trials, progress=progress
        )
        if not trials:
            raise ImpossibleBudget(
                "no network that was drawn keeps the budget; ask for more milliseconds"
            )
        return Found(max(trials, key=lambda t: t.metrics.get("accuracy", 0.0)).arch)
