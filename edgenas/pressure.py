"""Pressure: how load and accuracy are weighed while an architecture is learnt.

Adaptive         a price that rises while the expected load is over 1
Additive         a fixed price (arXiv:1812.00332, sec. 3.2, equation 5)
Multiplicative   accuracy times a power of load (arXiv:1812.00332, sec. 3.3; MnasNet)

A load is a share of the budget, so that no unit is left in any of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from edgenas.errors import UsageError
from edgenas.registry import nearest
from edgenas.validate import Amount, construct

_LEAST = 0.01  # of a budget: a power of nothing is undefined


class Pressure(Protocol):
    """What load does to a loss and to a reward."""

    @property
    def value(self) -> float:
        """Where it stands, for the ledger."""
        ...

    def adapt(self, load: float) -> None:
        """Follow the current expected load."""
        ...

    def loss(self, ce: Tensor, load: Tensor) -> Tensor:
        """To be minimised; ``ce``: cross-entropy."""
        ...

    def reward(self, accuracy: float, load: float) -> float:
        """To be maximised; ``accuracy``: a fraction."""
        ...

    def state(self) -> dict[str, float]:
        """What moves, for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Inverse of ``state``."""
        ...


@dataclass
class Adaptive:
    """Augmented Lagrangian of ``load <= 1`` (Bertsekas 1982, sec. 3.1).

    Never negative: a budget is a ceiling, and being under it is no fault. ``stiffness`` damps what
    ``rate`` alone would let swing. ``value`` is at most ``bound``.
    """

    rate: Amount = 0.05
    stiffness: Amount = 15.0
    bound: Amount = 20.0
    multiplier: float = field(default=0.0, init=False)
    value: float = field(default=0.0, init=False)

    def adapt(self, load: float) -> None:
        """Dearer while ``load`` is over 1, cheaper while it is under, down to nothing."""
        excess = load - 1
        self.multiplier = self._bounded(self.multiplier + self.rate * excess)
        self.value = self._bounded(self.multiplier + self.stiffness * excess)

    def loss(self, ce: Tensor, load: Tensor) -> Tensor:
        """ce + value (load - 1)."""
        return ce + self.value * (load - 1)

    def reward(self, accuracy: float, load: float) -> float:
        """accuracy - value (load - 1)."""
        return accuracy - self.value * (load - 1)

    def state(self) -> dict[str, float]:
        """Multiplier and value."""
        return {"multiplier": self.multiplier, "value": self.value}

    def restore(self, state: Mapping[str, float]) -> None:
        """Inverse of ``state``."""
        self.multiplier, self.value = state["multiplier"], state["value"]

    def _bounded(self, price: float) -> float:
        return min(max(price, 0.0), self.bound)


class _Still:
    """Nothing moves."""

    def adapt(self, load: float) -> None:
        """Nothing moves."""

    def state(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Nothing."""


@dataclass
class Additive(_Still):
    """``weight`` for each budget's worth of load."""

    weight: float = 0.1

    @property
    def value(self) -> float:
        """The weight."""
        return self.weight

    def loss(self, ce: Tensor, load: Tensor) -> Tensor:
        """ce + weight (load - 1)."""
        return ce + self.weight * (load - 1)

    def reward(self, accuracy: float, load: float) -> float:
        """accuracy - weight (load - 1)."""
        return accuracy - self.weight * (load - 1)


@dataclass
class Multiplicative(_Still):
    """``load`` to the power of ``exponent``; loads under a hundredth of the budget count as that.

    Differs from the reference code, whose ``(log E / log target)^beta`` depends on the unit of time
    and is undefined at 1 ms.
    """

    exponent: Amount = 0.3

    @property
    def value(self) -> float:
        """The exponent."""
        return self.exponent

    def loss(self, ce: Tensor, load: Tensor) -> Tensor:
        """ce * load^exponent."""
        product: Tensor = ce * load.clamp(min=_LEAST) ** self.exponent
        return product

    def reward(self, accuracy: float, load: float) -> float:
        """accuracy * load^-exponent."""
        return accuracy * float(max(load, _LEAST) ** -self.exponent)


_KINDS: Mapping[str, type] = {
    "adaptive": Adaptive,
    "additive": Additive,
    "multiplicative": Multiplicative,
}


def pressure(settings: Mapping[str, Any]) -> Pressure:
    """``{"kind": "adaptive", "rate": 0.05}``. Raises UsageError."""
    fields = dict(settings)
    kind = str(fields.pop("kind", "adaptive"))
    if kind not in _KINDS:
        raise UsageError(f"pressure: no kind {kind!r}.{nearest(kind, list(_KINDS))}")
    made: Pressure = construct(_KINDS[kind], fields, f"pressure {kind}")
    return made
