"""ProxylessNAS, gradient form (arXiv:1812.00332)."""

from dataclasses import dataclass

from edgenas.evaluate import Shared
from edgenas.policies import TwoPaths
from edgenas.project import project
from edgenas.relax import Schedule, relaxable, train_supernet
from edgenas.samplers import Listed
from edgenas.search import Found, Ledger, Problem, Progress, ask_tell, silent
from edgenas.spec import Architecture

__all__ = ["Proxyless"]


@dataclass(frozen=True)
class Proxyless(Schedule):
    """Train a supernet and its architecture, then project onto the budgets.

    ``fill``: share of the budget that the answer takes at least; the most probable option of each
    choice alone would leave much of it unused while probabilities are still even. ``samples``:
    further architectures that are drawn at the end and scored for comparison.
    """

    arch_lr: float = 0.05
    fill: float = 0.95
    samples: int = 8

    def run(self, problem: Problem, ledger: Ledger, progress: Progress = silent) -> Found:
        """The most probable architecture that keeps every budget, and the supernet."""
        space, budgets = relaxable(problem.space, "proxyless"), problem.objective.budgets
        policy = TwoPaths(space, self.arch_lr, problem.rng("alpha"))
        project(space, policy.scores(), budgets)  # says so before training if nothing can fit
        net = train_supernet(problem, space, policy, self, ledger, progress)
        best = project(space, policy.scores(), budgets, self.fill)
        rng = problem.rng("samples")
        drawn: list[Architecture] = []
        for _ in range(20 * self.samples):
            arch = policy.draw(rng)
            if len(drawn) < self.samples and problem.objective.fits(problem.space.ops(arch)):
                drawn.append(arch)
        ask_tell(
            Listed([best, *drawn]),
            Shared(problem, space, net),
            ledger,
            phase="evaluate",
            trials=1 + len(drawn),
            progress=progress,
        )
        return Found(best, net)
