"""Gates: how much of each option of each choice is in the network for one forward pass.

A forward pass takes the gates as an argument, ``supernet(x, gates)``; no module keeps an
architecture. Every weight-sharing method is a way of writing gates:

    one path           live=(k,)        value=[1]
    softmax mixture    live=(0..K-1)    value=softmax(alpha)
    two binary paths   live=(a, b)      value=[1, 0] + (p - stop_grad(p))
    Gumbel one path    live=(k,)        value=1 + p_k - stop_grad(p_k)
    path dropout       live=subset      value=ones
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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


class Mixed(nn.Module):
    """Sum of live options, weighted. Options own their weights (the usual sharing)."""

    def __init__(self, choice: str, options: Sequence[nn.Module]) -> None:
        super().__init__()
        self.choice = choice
        self.options = nn.ModuleList(options)

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, c, h, w) -> sum over live k of value_k * option_k(x)."""
        gate = gates[self.choice]
        learnt = gate.value.requires_grad
        terms: list[Tensor] = []
        for k, now, value in zip(gate.live, gate.value.tolist(), gate.value, strict=True):
            if now == 0:  # off: its output feeds the gate's gradient, its own graph is not needed
                if learnt:
                    with torch.no_grad():
                        y = self.options[k](x)
                    terms.append(y * value.to(y))
                continue
            y = self.options[k](x)
            terms.append(y * value.to(y) if learnt else y if now == 1 else y * now)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


Mix = Callable[[str, Sequence[nn.Module]], nn.Module]
Supernet = Callable[[Tensor, Gates], Tensor]
