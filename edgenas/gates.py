"""Gates: how much of each option of each choice is in the network for one forward pass.

A forward pass takes the gates as an argument, ``supernet(x, gates)``; no module keeps an
architecture. Every weight-sharing method is a way of writing gates:

    one path           live=(k,)        value=[1]
    softmax mixture    live=(0..K-1)    value=softmax(alpha)
    two binary paths   live=(a, b)      value=[1, 0] + (p - stop_grad(p))
    all, one of them on  live=(0..K-1)  value=[0, 1, 0 ...] + (p - stop_grad(p))
    Gumbel one path    live=(k,)        value=1 + p_k - stop_grad(p_k)
    path dropout       live=subset      value=ones
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Gate:
    """The options of one choice that are computed, and their weights.

    ``value``: shape (len(live),). Options not in ``live`` cost neither time nor memory.
    """

    live: tuple[int, ...]
    value: Tensor

    @classmethod
    def one(cls, k: int) -> "Gate":
        """Only option ``k``, weight one."""
        return cls((k,), torch.ones(1))


Gates = Mapping[str, Gate]


class Gated(nn.Module):
    """A module with choices inside, called as ``module(x, gates)``."""


def run(module: nn.Module, x: Tensor, gates: Gates) -> Tensor:
    """``module`` of ``x``, handed ``gates`` where it has choices inside."""
    y: Tensor = module(x, gates) if isinstance(module, Gated) else module(x)
    return y


class Mixed(Gated):
    """Sum of live options, weighted. Options own their weights (the usual sharing)."""

    def __init__(self, choice: str, options: Sequence[nn.Module]) -> None:
        super().__init__()
        self.choice = choice
        self.options = nn.ModuleList(options)

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, c, h, w) -> sum over live k of value_k * option_k(x)."""
        return mixture(self.choice, [partial(run, o, gates=gates) for o in self.options], x, gates)


def mixture(
    choice: str, options: Sequence[Callable[[Tensor], Tensor]], x: Tensor, gates: Gates
) -> Tensor:
    """Sum over live k of value_k * option_k(x), under the gate of ``choice``."""
    gate = gates[choice]
    learnt = gate.value.requires_grad
    off: list[int] = []
    total: Tensor | None = None
    for place, now in enumerate(gate.value.tolist()):
        if now == 0:
            off.append(place)
            continue
        y = options[gate.live[place]](x)
        term = y * gate.value[place].to(y) if learnt else y if now == 1 else y * now
        total = term if total is None else total + term
    if total is None:
        raise ValueError(f"choice {choice}: no live option has a weight")
    if learnt and off:
        left = [options[gate.live[place]] for place in off]
        # torch leaves Function.apply untyped
        total = _Off.apply(total, x.detach(), gate.value[off], left)  # type: ignore[no-untyped-call]
    return total


class _Off(torch.autograd.Function):
    """Options of weight zero: nothing forward; in backward their outputs, for their gates alone.

    They are made one at a time and without a graph, so that memory is that of the path that is on
    (ProxylessNAS, arXiv:1812.00332, sec. 3.2; ``full_v2`` of its code). Choices inside an option
    of weight zero change nothing, so their gates get no gradient from it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        on: Tensor,
        x: Tensor,
        values: Tensor,
        options: Sequence[Callable[[Tensor], Tensor]],
    ) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.options = options
        kind = x.device.type
        ctx.precision = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        return on.view_as(on)

    @staticmethod
    def backward(ctx: Any, *up: Tensor) -> tuple[Tensor, None, Tensor, None]:
        (g,) = up
        x, values = ctx.saved_tensors
        low, enabled = ctx.precision
        with torch.autocast(x.device.type, low, enabled=enabled):
            inner = [(g * option(x)).sum() for option in ctx.options]
        return g, None, torch.stack(inner).to(values), None


Mix = Callable[[str, Sequence[nn.Module]], nn.Module]
Supernet = Callable[[Tensor, Gates], Tensor]
