"""GraSP: what taking weights away does to the flow of gradients (Wang et al., arXiv:2002.07376)."""

from dataclasses import dataclass

import torch

from edgenas.untrained import Subject

__all__ = ["Grasp"]


@dataclass(frozen=True)
class Grasp:
    """-sum of weight x (Hessian x gradient) (equation 8), over the network as arXiv:2101.08134."""

    def of(self, subject: Subject) -> float:
        """Of one batch."""
        each, grads = subject.gradients(subject.net())
        flow = torch.as_tensor(sum((g.detach() * g).sum() for g in grads))
        through = torch.autograd.grad(flow, each)
        return -sum(float((w.detach() * h).sum()) for w, h in zip(each, through, strict=True))
