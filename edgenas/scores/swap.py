"""SWAP: how many units are told apart by the images (Peng et al., ICLR 2024, arXiv:2403.04161)."""

from dataclasses import dataclass

import torch

from edgenas.untrained import Subject, patterns

__all__ = ["Swap"]


BITS = 62  # images told apart in one whole number


@dataclass(frozen=True)
class Swap:
    """How many different patterns units make over the images (definition 3.2), as it is."""

    def of(self, subject: Subject) -> float:
        """Their number; of more than BITS images, of the first."""
        on = patterns(subject.net(), subject.x[:BITS])
        if not on:
            return 0.0
        bits = torch.cat(on, 1).T.long()
        return float(len(torch.unique(bits @ (1 << torch.arange(bits.shape[1])))))
