"""Multiply-accumulates: what every other score has to beat."""

import math
from dataclasses import dataclass

from edgenas import ops
from edgenas.untrained import Subject

__all__ = ["Macs"]


@dataclass(frozen=True)
class Macs:
    """Their logarithm."""

    def of(self, subject: Subject) -> float:
        """Of one image."""
        return math.log1p(sum(map(ops.macs, subject.ops)))
