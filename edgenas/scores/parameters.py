"""Parameters: what every other score has to beat."""

import math
from dataclasses import dataclass

from edgenas import ops
from edgenas.untrained import Subject

__all__ = ["Parameters"]


@dataclass(frozen=True)
class Parameters:
    """Their logarithm."""

    def of(self, subject: Subject) -> float:
        """As a device holds them."""
        return math.log1p(sum(map(ops.parameters, subject.ops)))
