"""SNIP: what taking weights away would change (Lee et al., ICLR 2019, arXiv:1810.02340)."""

from dataclasses import dataclass

import torch

from edgenas.untrained import Subject

__all__ = ["Snip"]


@dataclass(frozen=True)
class Snip:
    """log of the sum of |weight x gradient| (equation 6), over the network as arXiv:2101.08134."""

    def of(self, subject: Subject) -> float:
        """Of one batch."""
        each, grads = subject.gradients(subject.net())
        total = sum((w * g).detach().abs().sum() for w, g in zip(each, grads, strict=True))
        return float(torch.as_tensor(total).log())
