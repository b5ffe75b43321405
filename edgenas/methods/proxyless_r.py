"""ProxylessNAS, REINFORCE form (arXiv:1812.00332, sec. 3.3.1)."""

import random
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from edgenas.policies import Reinforce
from edgenas.sharing import WeightSharing
from edgenas.space import Relaxable

__all__ = ["ProxylessR"]


@dataclass(frozen=True)
class ProxylessR(WeightSharing):
    """``networks``: drawn and scored a step, each against the mean of the others."""

    networks: Annotated[int, Field(strict=True, ge=2, le=1000)] = 6

    def policy(self, space: Relaxable, rng: random.Random) -> Reinforce:
        """Rewards of whole networks."""
        return Reinforce(space, self.arch_lr, rng, self.networks)

    @property
    def arch_cost(self) -> float:
        """Forward passes alone."""
        return self.networks / 3
