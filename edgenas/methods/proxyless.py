"""ProxylessNAS, gradient form, two paths a step (arXiv:1812.00332, sec. 3.2)."""

import random
from dataclasses import dataclass

from edgenas.policies import TwoPaths
from edgenas.sharing import WeightSharing
from edgenas.space import Relaxable

__all__ = ["Proxyless"]


@dataclass(frozen=True)
class Proxyless(WeightSharing):
    """Memory of one path, twice the forward passes."""

    def policy(self, space: Relaxable, rng: random.Random) -> TwoPaths:
        """Two paths."""
        return TwoPaths(space, self.arch_lr, rng)

    @property
    def arch_cost(self) -> float:
        """Forward twice and back once, without the gradients of weights."""
        return 1.0
