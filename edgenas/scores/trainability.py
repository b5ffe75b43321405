"""Part of AZ-NAS: whether gradients keep their size (Lee and Ham, CVPR 2024, arXiv:2403.19232)."""

import itertools
import math
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from edgenas.untrained import Subject, features

__all__ = ["Trainability"]

EPSILON = 1e-6


@dataclass(frozen=True)
class Trainability:
    """Mean over layers of 2 - s - 1 / s, s being the spectral norm of their Jacobian.

    Estimated from one pass back of Rademacher signs, averaged over places (section 3.2.3).
    """

    def of(self, subject: Subject) -> float:
        """Of Gaussian noise."""
        g = torch.Generator().manual_seed(subject.seed)
        maps = features(subject.net(), torch.randn(subject.x.shape, generator=g))
        norms = [_norm(a, b, g) for a, b in itertools.pairwise(maps)]
        return fmean(2 - s - 1 / (s + EPSILON) for s in norms) if norms else math.nan


def _norm(before: Tensor, after: Tensor, g: torch.Generator) -> float:
    signs = 2.0 * torch.randint(2, after.shape, generator=g) - 1
    (back,) = torch.autograd.grad(after, before, signs, retain_graph=True)
    stride = before.shape[2] // after.shape[2]
    back = F.pixel_unshuffle(
        back[..., : after.shape[2] * stride, : after.shape[3] * stride], stride
    )
    places = after.shape[0] * after.shape[2] * after.shape[3]
    mean = torch.einsum("nihw,nohw->io", back, signs) / places
    return float(torch.linalg.matrix_norm(mean, 2))
