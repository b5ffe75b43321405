"""No search: the network that somebody brought, as it is."""

from dataclasses import dataclass

from edgenas.search import Found, Ledger, Problem, Progress, silent
from edgenas.space import ListedSpace, require

__all__ = ["Given"]


@dataclass(frozen=True)
class Given:
    """The first option of every choice; of a space of kind ``module``: all channels.

    It may take more than a budget, which pruning is to bring it under.
    """

    def training_epochs(self, objectives: int) -> float:
        """Costs nothing."""
        return 0.0

    def run(self, problem: Problem, ledger: Ledger, progress: Progress = silent) -> Found:
        """Raises CapabilityError where a space has no choices."""
        space = problem.space
        require(space, ListedSpace, "given")
        assert isinstance(space, ListedSpace)
        return Found((space.all_first,) * len(problem.objectives))
