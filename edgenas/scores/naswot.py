"""NASWOT: how differently images switch the rectifiers on (Mellor et al., arXiv:2006.04647)."""

from dataclasses import dataclass

import torch

from edgenas.untrained import Subject, patterns

__all__ = ["Naswot"]


@dataclass(frozen=True)
class Naswot:
    """log |det K|, K being on how many units two images agree (section 3.2)."""

    def of(self, subject: Subject) -> float:
        """-inf where two images switch all units alike."""
        kernel = torch.zeros(len(subject.x), len(subject.x), dtype=torch.float64)
        for on in patterns(subject.net(), subject.x):
            codes = on.double()
            kernel += codes @ codes.T + (1 - codes) @ (1 - codes).T
        return float(torch.linalg.slogdet(kernel).logabsdet)
