"""SynFlow: how much passes through all weights, without data (Tanaka et al., arXiv:2006.05467)."""

from dataclasses import dataclass

import torch
from torch import nn

from edgenas.untrained import Subject, weights

__all__ = ["Synflow"]


@dataclass(frozen=True)
class Synflow:
    """log of the sum of weight x gradient of the sum of outputs, weights positive (equation 3).

    Batch norms pass everything on, rectifiers what is positive; in float64, for it overflows.
    """

    def of(self, subject: Subject) -> float:
        """Of an image of ones."""
        net = subject.net().double().eval()
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.forward = nn.Identity().forward  # type: ignore[method-assign]
            elif isinstance(layer, nn.ReLU6):
                layer.max_val = torch.finfo(torch.float64).max  # what is positive has no ceiling
        each = weights(net)
        with torch.no_grad():
            for w in each:
                w.abs_()
        out = net(torch.ones_like(subject.x[:1], dtype=torch.float64)).sum()
        grads = torch.autograd.grad(out, each)
        total = sum((w * g).detach().sum() for w, g in zip(each, grads, strict=True))
        return float(torch.as_tensor(total).log())
