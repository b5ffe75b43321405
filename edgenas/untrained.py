"""Scores of networks that nobody trained: cheap signals of what training might make of them.

None is believed alone: a race decides. ``edgenas/scores/`` has one file a score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas.chain import Network
from edgenas.registry import Shelf
from edgenas.search import Problem, Progress, silent
from edgenas.space import Space
from edgenas.spec import Architecture, OpSpec
from edgenas.train import seeded

IMAGES = 16
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU)
WEIGHTED = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True, eq=False)
class Subject:
    """An architecture with the weights of ``seed``, and images to look at it with.

    ``x``: (n, c, h, w) as training sees them; ``y``: (n,) classes.
    """

    space: Space
    arch: Architecture
    x: Tensor
    y: Tensor
    seed: int = 0

    @property
    def ops(self) -> tuple[OpSpec, ...]:
        """What a device executes."""
        return self.space.ops(self.arch)

    def net(self) -> nn.Module:
        """A fresh one, convolutions as He et al. (arXiv:1502.01852) begin them, in train mode."""
        with seeded(self.seed):
            net = self.space.build(self.arch)
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_in")
        return net.train()

    def gradients(self, net: nn.Module) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Weights of ``net`` without biases, and those of the cross entropy by them, in a graph."""
        each, loss = weights(net), F.cross_entropy(net(self.x), self.y)
        return each, torch.autograd.grad(loss, each, create_graph=True)


class Score(Protocol):
    """More is better; the scale is its own. NaN where the network has none."""

    def of(self, subject: Subject) -> float:
        """Of an untrained network."""
        ...


SCORES = Shelf("edgenas.scores", Score)


def scored(
    name: str,
    problem: Problem,
    archs: Sequence[Architecture],
    progress: Progress = silent,
    images: int = IMAGES,
) -> list[float]:
    """Of each of ``archs`` by score ``name``; all see the same images of the train part.

    Raises UnknownName.
    """
    score: Score = SCORES[name]()
    batches: dict[int, tuple[Tensor, Tensor]] = {}
    found = []
    for number, arch in enumerate(archs):
        progress(f"score {name}", number, len(archs))
        side = problem.space.input_of(arch)[1]
        if side not in batches:
            task = problem.task.at(side)
            many = min(images, len(task.parts["train"]))
            batches[side] = next(iter(task.batches("train", many, problem.seed, augmented=False)))
        found.append(score.of(Subject(problem.space, arch, *batches[side], problem.seed)))
    return found


def weights(net: nn.Module) -> list[Tensor]:
    """Of convolutions and fully connected layers, without biases."""
    return [m.weight for m in net.modules() if isinstance(m, WEIGHTED)]


def patterns(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Which units each rectifier lets through, bool, (n, units) each."""
    seen: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, given: seen.append((given[0] > 0).flatten(1)))
        for layer in net.modules()
        if isinstance(layer, RECTIFIERS)
    ]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def features(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Maps (n, c, h, w) behind each layer of a chain, of other networks behind each child."""
    chain = net.layers if isinstance(net, Network) else net
    maps: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _, __, out: maps.append(out))
        for layer in chain.children()
    ]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    return [out for out in maps if isinstance(out, Tensor) and out.dim() == 4 and out.shape[2] > 1]


def entropies(net: nn.Module, x: Tensor) -> list[float]:
    """How evenly each map uses its channels: entropy of the eigenvalues of their covariance."""
    found = []
    with torch.no_grad():
        for out in features(net, x):
            channels = out.transpose(0, 1).flatten(1).double()
            values = torch.linalg.eigvalsh(torch.cov(channels)).clamp(min=0)
            found.append(float(torch.special.entr(values / values.sum()).sum()))
    return found
