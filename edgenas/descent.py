"""What moves the weights: an optimiser, and how its learning rate goes."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

Kind = Literal["sgd", "adamw"]
SMALLEST_BATCH, LARGEST_BATCH = 16, 128
BATCHES = 50  # in an epoch


def fitting_batch(images: int) -> int:
    """A power of two that gives an epoch about ``BATCHES`` steps, within what trains well."""
    fitting = int(2 ** round(math.log2(max(images / BATCHES, 1))))
    return min(max(fitting, SMALLEST_BATCH), LARGEST_BATCH, images)


def optimiser(net: nn.Module, kind: Kind, momentum: float, weight_decay: float) -> Optimizer:
    """Of all parameters of ``net``; biases and batch norms are not decayed. Set its lr per step.

    ``momentum``: of SGD; AdamW keeps its own (arXiv:1711.05101).
    """
    return _KINDS[kind](_groups(net, weight_decay), momentum)


def sgd(net: nn.Module, momentum: float, weight_decay: float) -> Optimizer:
    """SGD with Nesterov momentum, as of ``optimiser``."""
    return optimiser(net, "sgd", momentum, weight_decay)


def cosine(epoch: float, epochs: float, warmup: float) -> float:
    """Share of the peak learning rate: up linearly over ``warmup`` epochs, then half a cosine."""
    if epoch < warmup:
        return (epoch + 0.01) / (warmup + 0.01)
    return (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1e-9))) / 2


def set_lr(optimiser: Optimizer, lr: float) -> None:
    """The same learning rate for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = lr


_Groups = list[dict[str, Any]]


def _groups(net: nn.Module, weight_decay: float) -> _Groups:
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _sgd(groups: _Groups, momentum: float) -> Optimizer:
    return SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)


def _adamw(groups: _Groups, momentum: float) -> Optimizer:
    return AdamW(groups, lr=0.0)


_KINDS: Mapping[Kind, Callable[[_Groups, float], Optimizer]] = {"sgd": _sgd, "adamw": _adamw}
