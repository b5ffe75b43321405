"""No search: architectures that were found before, or drawn by hand."""

from dataclasses import dataclass
from pathlib import Path

from edgenas.errors import ImpossibleBudget
from edgenas.files import read_json
from edgenas.search import Found, Ledger, Problem, Progress, silent
from edgenas.spec import Architecture

__all__ = ["Fixed"]


@dataclass(frozen=True)
class Fixed:
    """``architecture``: an architecture.json, or a run directory that holds one."""

    architecture: Path

    def training_epochs(self, objectives: int) -> float:
        """Costs nothing."""
        return 0.0

    def run(self, problem: Problem, ledger: Ledger, progress: Progress = silent) -> Found:
        """Raises InvalidArchitecture (of another space), ImpossibleBudget (over a budget)."""
        path = self.architecture
        if path.is_dir():
            path = next((p for p in _kept(path) if p.exists()), path / "search/architecture.json")
        arch = Architecture.from_json(read_json(path))
        ops = problem.space.ops(arch)
        load = max(o.load(ops) for o in problem.objectives)
        if load > 1:
            raise ImpossibleBudget(
                f"{path} would take {load:.1%} of the budget, margin included; "
                "ask for more milliseconds, or search"
            )
        return Found((arch,) * len(problem.objectives))


def _kept(run: Path) -> list[Path]:
    """Where the architecture of a run may lie; one that did not race left it in ``search``."""
    return [run / stage / "architecture.json" for stage in ("race", "search")]
