"""Policies: the ways to write gates and to learn from them."""

import abc
import random
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from edgenas.checkpoint import joined
from edgenas.gates import Gate, Gates
from edgenas.relax import Step
from edgenas.space import Relaxable
from edgenas.spec import Architecture

MEMORY, TINY = 0.99, 1e-8  # of the mean square of gradients, a step; what keeps zero from dividing


class Logits(abc.ABC):
    """One logit an option, learnt by gradient descent in steps of ``lr``, the root mean square.

    One scale for all logits, where Adam (the reference code) has one for each: under Adam a choice
    that hardly matters drifts by noise as far as one that matters, and what is projected in the end
    is the sum of all. No momentum: an option that got no gradient stays where it is.

    Beside the logits stands what accuracy alone moved them by. Under a tight budget the logits of
    whatever is dear are low, whether it is good or not: they say what to train. What to take is
    asked of the other, under the budget itself.
    """

    def __init__(self, space: Relaxable, lr: float, rng: random.Random) -> None:
        self.space = space
        g = generator(rng)
        self.alpha = {
            c.name: nn.Parameter(1e-3 * torch.randn(len(c.options), generator=g))
            for c in space.choices
        }
        self.gained = {c: a.detach().clone() for c, a in self.alpha.items()}
        self.lr = lr
        self.square, self.weight = (
            torch.zeros(()),
            torch.zeros(()),
        )  # of gradients; of their average

    def start(self, logits: Mapping[str, Tensor]) -> None:
        """Lean towards ``logits``, (options,) per choice, before anything is learnt."""
        with torch.no_grad():
            for c, a in self.alpha.items():
                a.add_(logits[c])

    @abc.abstractmethod
    def arch_step(self, step: Step) -> float:
        """Learn from one batch."""

    def scores(self) -> Mapping[str, Tensor]:
        """log softmax(alpha), (options,) per choice."""
        return {c: a.detach().log_softmax(0) for c, a in self.alpha.items()}

    def worth(self) -> Mapping[str, Tensor]:
        """What accuracy alone moved the logits by, a mean of zero a choice."""
        return {c: g - g.mean() for c, g in self.gained.items()}

    def draw(self, rng: random.Random) -> Architecture:
        """An architecture from softmax(alpha), by perturbed logits (Gumbel-max)."""
        g = generator(rng)
        noisy = {
            c: a.detach() - torch.empty_like(a).exponential_(generator=g).log()
            for c, a in self.alpha.items()
        }
        return self.space.decode(noisy)

    def weight_gates(self, rng: random.Random) -> Gates:
        """One path, drawn from softmax(alpha)."""
        return self.space.gates(self.draw(rng))

    def state(self) -> dict[str, Tensor]:
        """Logits, what accuracy moved them by, the scale of their gradients."""
        alpha = {c: a.detach() for c, a in self.alpha.items()}
        scale = {"square": self.square, "weight": self.weight}
        return joined(alpha=alpha, gained=self.gained, scale=scale)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state``."""
        with torch.no_grad():
            for c, a in self.alpha.items():
                a.copy_(state[f"alpha.{c}"])
                self.gained[c].copy_(state[f"gained.{c}"])
        self.square, self.weight = state["scale.square"], state["scale.weight"]

    def descend(self, loss: Tensor, of_load: Tensor) -> None:
        """One step of the logits, and of nothing else, down the gradient of ``loss``.

        ``of_load``: a loss whose gradient is the part of it that load alone has.
        """
        alphas = list(self.alpha.values())
        priced = torch.autograd.grad(of_load, alphas, retain_graph=True)
        grads = torch.autograd.grad(loss, alphas)
        square = torch.cat(grads).square().mean()
        self.square = torch.lerp(square, self.square, MEMORY)
        self.weight = torch.lerp(torch.ones(()), self.weight, MEMORY)
        size = self.lr / ((self.square / self.weight).sqrt() + TINY)
        with torch.no_grad():
            for c, grad, price in zip(self.alpha, grads, priced, strict=True):
                self.alpha[c].sub_(size * grad)
                self.gained[c].sub_(size * (grad - price))


class TwoPaths(Logits):
    """Binarised paths (ProxylessNAS, arXiv:1812.00332, sec. 3.2): two live, one of them on."""

    def gates(self, rng: random.Random) -> tuple[Gates, dict[str, Tensor]]:
        """Two live options a choice, and all probabilities renormalised over these two."""
        g = generator(rng)
        gates, probs = {}, {}
        for c, a in self.alpha.items():
            pair = torch.multinomial(a.detach().softmax(0), 2, generator=g)
            p = a[pair].softmax(0)
            gates[c] = binary(pair.tolist(), p, g)
            probs[c] = torch.zeros_like(a).index_put((pair,), p)
        return gates, probs

    def arch_step(self, step: Step) -> float:
        """One step on alpha alone; the sampled two keep their share against the others."""
        gates, probs = self.gates(step.rng)
        loss, of_load, ce = step.loss(gates, probs)
        before = {c: a.detach()[list(gates[c].live)].logsumexp(0) for c, a in self.alpha.items()}
        self.descend(loss, of_load)
        with torch.no_grad():
            for c, a in self.alpha.items():
                live = list(gates[c].live)
                a[live] += before[c] - a[live].logsumexp(0)
        return float(ce.detach())


class AllPaths(Logits):
    """Binarised paths with the gradient of every gate, options that are off made in backward.

    Memory of one path, as many forward passes as there are options (``full_v2`` of the reference
    code of arXiv:1812.00332).
    """

    def gates(self, rng: random.Random) -> tuple[Gates, dict[str, Tensor]]:
        """Every option live, one of them on, and their probabilities."""
        g = generator(rng)
        probs = {c: a.softmax(0) for c, a in self.alpha.items()}
        return {c: binary(range(len(p)), p, g) for c, p in probs.items()}, probs

    def arch_step(self, step: Step) -> float:
        """One step on alpha alone."""
        loss, of_load, ce = step.loss(*self.gates(step.rng))
        self.descend(loss, of_load)
        return float(ce.detach())


class Mixture(Logits):
    """Every option on, weighted by its probability (DARTS, arXiv:1806.09055, sec. 2.2).

    First order. Memory of all paths; weight steps train all of them.
    """

    def weight_gates(self, rng: random.Random) -> Gates:
        """softmax(alpha), without gradient."""
        return {c: Gate(tuple(range(len(s))), s.exp()) for c, s in self.scores().items()}

    def arch_step(self, step: Step) -> float:
        """One step on alpha alone."""
        probs = {c: a.softmax(0) for c, a in self.alpha.items()}
        gates = {c: Gate(tuple(range(len(p))), p) for c, p in probs.items()}
        loss, of_load, ce = step.loss(gates, probs)
        self.descend(loss, of_load)
        return float(ce.detach())


class Reinforce(Logits):
    """REINFORCE (ProxylessNAS, arXiv:1812.00332, sec. 3.3.1): rewards of whole networks.

    ``networks``, two at least, are drawn a step and rewarded on the same batch; the baseline of
    each is the mean of the others (Kool et al. 2019, Buy 4 REINFORCE samples, get a baseline for
    free), so that how hard the batch is cancels. Differs from the reference code, whose baseline is
    99 % the mean of all.
    """

    def __init__(self, space: Relaxable, lr: float, rng: random.Random, networks: int) -> None:
        super().__init__(space, lr, rng)
        self.networks = networks

    def arch_step(self, step: Step) -> float:
        """One step up the expected reward; one less the mean accuracy."""
        archs = [self.draw(step.rng) for _ in range(self.networks)]
        rewards, accuracies = zip(*(step.reward(self.space.gates(a)) for a in archs), strict=True)
        chances = torch.stack([self._chance(a) for a in archs])
        loss, of_accuracy = (-(self._gains(r) * chances).mean() for r in (rewards, accuracies))
        self.descend(loss, loss - of_accuracy)
        return 1 - fmean(accuracies)

    def _gains(self, rewards: Sequence[float]) -> Tensor:
        """Of each network over the mean of the others."""
        mean, others = fmean(rewards), self.networks - 1
        return torch.tensor([(r - mean) * self.networks / others for r in rewards])

    def _chance(self, arch: Architecture) -> Tensor:
        """log-probability of ``arch``, differentiable in alpha."""
        logs = [a.log_softmax(0)[arch.index(c)] for c, a in self.alpha.items()]
        return torch.stack(logs).sum()


def binary(live: Sequence[int], p: Tensor, g: torch.Generator) -> Gate:
    """One of ``live`` on, drawn from ``p``; the gradient of its gates is that of ``p``."""
    on = torch.multinomial(p.detach(), 1, generator=g)
    hard = torch.zeros(len(p)).index_fill(0, on, 1.0).to(p)
    return Gate(tuple(live), hard + (p - p.detach()))


def generator(rng: random.Random) -> torch.Generator:
    """Of torch, seeded from ``rng``."""
    return torch.Generator().manual_seed(rng.getrandbits(60))
