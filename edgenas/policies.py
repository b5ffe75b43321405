"""Policies: the ways to write gates and to learn from them."""

import random
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgenas.gates import Gate, Gates
from edgenas.relax import Step
from edgenas.space import Relaxable
from edgenas.spec import Architecture


class TwoPaths:
    """Binarised paths (ProxylessNAS, arXiv:1812.00332, sec. 3.2): two live, one of them on.

    One logit an option, learnt by Adam without momentum, so that options which were not sampled
    stay where they are.
    """

    def __init__(self, space: Relaxable, lr: float, rng: random.Random) -> None:
        self.space = space
        g = _generator(rng)
        self.alpha = {
            c.name: nn.Parameter(1e-3 * torch.randn(len(c.options), generator=g))
            for c in space.choices
        }
        self.optimiser = torch.optim.Adam(list(self.alpha.values()), lr, betas=(0.0, 0.999))

    def scores(self) -> Mapping[str, Tensor]:
        """log softmax(alpha), (options,) per choice."""
        return {c: a.detach().log_softmax(0) for c, a in self.alpha.items()}

    def draw(self, rng: random.Random) -> Architecture:
        """An architecture from softmax(alpha), by perturbed logits (Gumbel-max)."""
        g = _generator(rng)
        noisy = {
            c: a.detach() - torch.empty_like(a).exponential_(generator=g).log()
            for c, a in self.alpha.items()
        }
        return self.space.decode(noisy)

    def weight_gates(self, rng: random.Random) -> Gates:
        """One path, drawn from softmax(alpha)."""
        return self.space.gates(self.draw(rng))

    def gates(self, rng: random.Random) -> tuple[Gates, dict[str, Tensor]]:
        """Two live options a choice, and all probabilities renormalised over these two."""
        g = _generator(rng)
        gates, probs = {}, {}
        for c, a in self.alpha.items():
            pair = torch.multinomial(a.detach().softmax(0), 2, generator=g)
            p = a[pair].softmax(0)
            on = torch.multinomial(p.detach(), 1, generator=g)
            hard = torch.zeros(2).index_fill(0, on, 1.0)
            gates[c] = Gate(tuple(pair.tolist()), hard + (p - p.detach()))
            probs[c] = torch.zeros_like(a).index_put((pair,), p)
        return gates, probs

    def arch_step(self, step: Step) -> float:
        """One step on alpha alone; the sampled two keep their share against the others."""
        gates, probs = self.gates(step.rng)
        loss, ce = step.loss(gates, probs)
        before = {c: a.detach()[list(gates[c].live)].logsumexp(0) for c, a in self.alpha.items()}
        grads = torch.autograd.grad(loss, list(self.alpha.values()))
        for a, grad in zip(self.alpha.values(), grads, strict=True):
            a.grad = grad
        self.optimiser.step()
        with torch.no_grad():
            for c, a in self.alpha.items():
                live = list(gates[c].live)
                a[live] += before[c] - a[live].logsumexp(0)
        return float(ce.detach())


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(60))
