"""Part of AZ-NAS: do maps say more layer by layer (Lee and Ham, CVPR 2024, arXiv:2403.19232)."""

import itertools
import math
from dataclasses import dataclass

import torch

from edgenas.untrained import Subject, entropies

__all__ = ["Progressivity"]


@dataclass(frozen=True)
class Progressivity:
    """Least gain of entropy from a layer to the next (section 3.2.2)."""

    def of(self, subject: Subject) -> float:
        """Of Gaussian noise."""
        g = torch.Generator().manual_seed(subject.seed)
        each = entropies(subject.net(), torch.randn(subject.x.shape, generator=g))
        return min((b - a for a, b in itertools.pairwise(each)), default=math.nan)
