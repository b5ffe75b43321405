"""ProxylessNAS, gradient form, every gate of every step (arXiv:1812.00332, sec. 3.2)."""

import random
from dataclasses import dataclass

from edgenas.policies import AllPaths
from edgenas.sharing import WeightSharing
from edgenas.space import Relaxable

__all__ = ["ProxylessFull"]


@dataclass(frozen=True)
class ProxylessFull(WeightSharing):
    """Memory of one path, as many forward passes as options."""

    def policy(self, space: Relaxable, rng: random.Random) -> AllPaths:
        """All paths."""
        return AllPaths(space, self.arch_lr, rng)

    @property
    def arch_cost(self) -> float:
        """Of seven options."""
        return 2.7
