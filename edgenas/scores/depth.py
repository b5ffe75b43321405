"""Depth: operators one after the other."""

from dataclasses import dataclass

from edgenas import ops
from edgenas.untrained import Subject

__all__ = ["Depth"]


@dataclass(frozen=True)
class Depth:
    """How many operators have weights."""

    def of(self, subject: Subject) -> float:
        """As a device executes them."""
        return float(sum(ops.parameters(op) > 0 for op in subject.ops))
