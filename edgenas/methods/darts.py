"""DARTS, first order (arXiv:1806.09055): all paths at once, for comparison."""

import random
from dataclasses import dataclass

from edgenas.policies import Mixture
from edgenas.sharing import WeightSharing
from edgenas.space import Relaxable

__all__ = ["Darts"]


@dataclass(frozen=True)
class Darts(WeightSharing):
    """Memory and time of all paths together."""

    def policy(self, space: Relaxable, rng: random.Random) -> Mixture:
        """Every option on."""
        return Mixture(space, self.arch_lr, rng)

    @property
    def arch_cost(self) -> float:
        """Of seven options; its weight steps cost as much."""
        return 7.0
