"""Part of AZ-NAS: how evenly maps use their channels (Lee and Ham, CVPR 2024, arXiv:2403.19232)."""

from dataclasses import dataclass

import torch

from edgenas.untrained import Subject, entropies

__all__ = ["Expressivity"]


@dataclass(frozen=True)
class Expressivity:
    """Sum over layers of the entropy of their principal components (section 3.2.1)."""

    def of(self, subject: Subject) -> float:
        """Of Gaussian noise."""
        g = torch.Generator().manual_seed(subject.seed)
        return sum(entropies(subject.net(), torch.randn(subject.x.shape, generator=g)))
