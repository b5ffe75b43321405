"""What channels are worth: three ways to say it, each one number a channel."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgenas.channels import Channels
from edgenas.config import Importance
from edgenas.task import Task

Scores = Mapping[str, Tensor]  # of what is cut together, by the name it has in Prunable.cuts


def importance(
    net: nn.Module,
    channels: Mapping[str, Channels],
    by: Importance,
    task: Task,
    batches: int,
    size: int,
    seed: int,
) -> dict[str, Tensor]:
    """Scores, shape (count,), of ``channels`` of ``net``.

    ``taylor``: the squared change of the loss, to first order, if a channel were cut, from
    ``batches`` of ``size`` images (Molchanov et al. 2019, arXiv:1906.10771, sec. 3.1).
    ``magnitude``: the squared length of all weights that make or read it (Fang et al. 2023,
    arXiv:2301.12900, sec. 3.3). ``bn-scale``: of its batch norms (Liu et al. 2017,
    arXiv:1708.06519, sec. 3). The latter two are given as multiples of their mean.
    """
    if not channels:  # a network too narrow for any to be cut
        return {}
    if by == "taylor":
        return _taylor(net, channels, task, batches, size, seed)
    modules, of = dict(net.named_modules()), _STATIC[by]
    raw = {name: of(modules, c) for name, c in channels.items()}
    return {name: s / s.mean().clamp_min(1e-12) for name, s in raw.items()}


def _taylor(
    net: nn.Module,
    channels: Mapping[str, Channels],
    task: Task,
    batches: int,
    size: int,
    seed: int,
) -> dict[str, Tensor]:
    """I_c = (sum of dL/dw w over the batch norms of c)^2, or over the layers.

    Where it has none, or none that scales its channels.
    """
    modules = dict(net.named_modules())
    gates = {name: _gates(modules, c) for name, c in channels.items()}
    scores = {name: torch.zeros(c.count) for name, c in channels.items()}
    net.eval()
    for number, (x, y) in enumerate(task.batches("train", size, seed, augmented=False)):
        if number == batches:
            break
        every = [p for of in gates.values() for p in of]
        grads = iter(torch.autograd.grad(task.loss(net(x), y), every))
        for name, of in gates.items():
            changes = [(next(grads) * p.detach()).reshape(len(p), -1).sum(1) for p in of]
            scores[name] += torch.stack(changes).sum(0) ** 2
    return scores


def _gates(modules: Mapping[str, nn.Module], c: Channels) -> list[nn.Parameter]:
    norms, makers = (_parameters(modules, names) for names in (c.norms, c.makers))
    return norms or makers


def _parameters(modules: Mapping[str, nn.Module], names: Sequence[str]) -> list[nn.Parameter]:
    layers = [modules[name] for name in names]
    return [p for m in layers for p in (m.weight, m.bias) if isinstance(p, nn.Parameter)]


def _magnitude(modules: Mapping[str, nn.Module], c: Channels) -> Tensor:
    total = torch.zeros(c.count)
    for name in c.makers:
        total += _weight(modules[name]).square().flatten(1).sum(1)
    for name in c.readers:
        weight = _weight(modules[name])
        if weight.shape[1] == c.count:  # a depthwise convolution was counted as a maker
            total += weight.square().transpose(0, 1).flatten(1).sum(1)
    return total


def _bn_scale(modules: Mapping[str, nn.Module], c: Channels) -> Tensor:
    """Where there is none, or none that scales, nothing tells one channel from another."""
    norms = [modules[name] for name in c.norms]
    scales = [_weight(m).abs() for m in norms if m.weight is not None]
    return torch.stack(scales).sum(0) if scales else torch.ones(c.count)


def _weight(m: nn.Module) -> Tensor:
    assert isinstance(m.weight, Tensor)
    return m.weight.detach()


_STATIC: Mapping[str, Callable[[Mapping[str, nn.Module], Channels], Tensor]] = {
    "magnitude": _magnitude,
    "bn-scale": _bn_scale,
}


def kept(scores: Tensor, width: int) -> Sequence[int]:
    """The ``width`` channels that are worth most, in order."""
    return sorted(scores.topk(width).indices.tolist())
