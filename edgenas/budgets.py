"""Budgets: what a network may cost. A cost becomes a load: the share of a limit that it takes.

Latency   milliseconds on a device, from its table           loads of operators add up
Total     parameters, operations, bytes of a file, energy    loads of operators add up
Peak      memory that is free again after each operator      the largest load counts
"""

import abc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from edgenas.predict import Predictor
from edgenas.spec import OpSpec

Parts = Sequence[Sequence[float]]  # the load of every option of every choice


@dataclass(frozen=True)
class Row:
    """A linear rule: the ``parts`` of the options that are picked sum to at most ``limit``."""

    parts: Parts
    limit: float


class Budget(abc.ABC):
    """A limit on one cost. A network keeps it while its load is at most 1."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What the ledger calls its amounts: ``ms:pi4``, ``parameters``."""

    @property
    @abc.abstractmethod
    def limit(self) -> float:
        """In the unit that ``text`` names."""

    @abc.abstractmethod
    def text(self, number: str) -> str:
        """``number`` in words: ``5 ms on pi4``, ``1.2 M parameters``."""

    @abc.abstractmethod
    def part(self, ops: Iterable[OpSpec]) -> float:
        """Load of ``ops`` within a network. Raises MissingLatency."""

    @abc.abstractmethod
    def together(self, parts: Tensor) -> Tensor:
        """Loads of all parts, (parts, ...) -> (...); differentiable."""

    @abc.abstractmethod
    def rows(self, parts: Parts, fixed: float) -> Iterator[Row]:
        """What picks have to keep; ``fixed``: load of what every network has."""

    @abc.abstractmethod
    def filling(self, parts: Parts, fixed: float, share: float) -> Row | None:
        """That picks take at least ``share``; None where using more is no gain."""

    @property
    def margin(self) -> float:
        """What predictions are raised by, a fraction."""
        return 0.0

    @property
    def beside(self) -> float:
        """Load of a network beside its operators."""
        return 0.0

    def load(self, ops: Iterable[OpSpec]) -> float:
        """Share of the limit that a network of ``ops`` takes, margin included."""
        return self.beside + self.part(ops)

    def amount(self, load: float) -> float:
        """What is predicted of a network with this ``load``, less the margin."""
        return load * self.limit / (1 + self.margin)


class _Summed(Budget):
    @abc.abstractmethod
    def cost(self, op: OpSpec) -> float:
        """Load that ``op`` adds."""

    def part(self, ops: Iterable[OpSpec]) -> float:
        return math.fsum(map(self.cost, ops))

    def together(self, parts: Tensor) -> Tensor:
        return parts.sum(0)

    def rows(self, parts: Parts, fixed: float) -> Iterator[Row]:
        yield Row(parts, 1 - fixed)

    def filling(self, parts: Parts, fixed: float, share: float) -> Row | None:
        return Row([[-part for part in group] for group in parts], fixed - share)


@dataclass(frozen=True)
class Latency(_Summed):
    """Predicted p50 on ``device``, raised by the margin of its table, up to ``limit_ms``."""

    device: str
    limit_ms: float
    predictor: Predictor

    @property
    def name(self) -> str:
        """``ms:pi4``."""
        return f"ms:{self.device}"

    @property
    def limit(self) -> float:
        """Milliseconds."""
        return self.limit_ms

    @property
    def margin(self) -> float:
        """Of the table."""
        return self.predictor.margin

    @property
    def beside(self) -> float:
        """What a call costs beside its operators."""
        return self._share(self.predictor.fixed_ms)

    def cost(self, op: OpSpec) -> float:
        """Load that ``op`` adds."""
        return self._share(self.predictor.cost_ms(op))

    def text(self, number: str) -> str:
        """``5 ms on pi4``."""
        return f"{number} ms on {self.device}"

    def _share(self, ms: float) -> float:
        return ms * (1 + self.margin) / self.limit_ms


@dataclass(frozen=True)
class _Counted(Budget):
    """What ``of`` says of an operator, up to ``most``, in ``unit``; ``key`` is the name."""

    key: str
    unit: str
    most: float
    of: Callable[[OpSpec], float]

    @property
    def name(self) -> str:
        """The key."""
        return self.key

    @property
    def limit(self) -> float:
        """In ``unit``."""
        return self.most

    def text(self, number: str) -> str:
        """``1.2 M parameters``."""
        return f"{number} {self.unit}"


@dataclass(frozen=True)
class Total(_Counted, _Summed):
    """The sum over all operators is limited; ``base``: of a network beside its operators."""

    base: float = 0.0

    @property
    def beside(self) -> float:
        """Load of ``base``."""
        return self.base / self.most

    def cost(self, op: OpSpec) -> float:
        """Load that ``op`` adds."""
        return self.of(op) / self.most


@dataclass(frozen=True)
class Peak(_Counted):
    """The worst operator is limited."""

    def part(self, ops: Iterable[OpSpec]) -> float:
        """Load of the worst of ``ops``."""
        return max((self.of(op) / self.most for op in ops), default=0.0)

    def together(self, parts: Tensor) -> Tensor:
        """The largest."""
        return parts.amax(0)

    def rows(self, parts: Parts, fixed: float) -> Iterator[Row]:
        """A rule for every choice alone, and one that ``fixed`` itself must keep."""
        nothing = [[0.0] * len(group) for group in parts]
        yield Row(nothing, 1 - fixed)
        for number, group in enumerate(parts):
            yield Row([*nothing[:number], group, *nothing[number + 1 :]], 1.0)

    def filling(self, parts: Parts, fixed: float, share: float) -> Row | None:
        """None: memory that is there need not be used."""
        return None
