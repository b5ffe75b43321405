"""Searching in published tables, where every architecture of a space was trained once and for all.

Published     a table, checked: an accuracy to search on, one to report, other numbers by column
Tabular       Evaluate by looking up; it counts how many architectures that took
Multilinear   what a supernet is to a policy: loss and accuracy under gates, looked up too
"""

import csv
import io
import math
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgenas import parsing
from edgenas.errors import CapabilityError, CorruptFile, InvalidArchitecture, UsageError
from edgenas.gates import Gates
from edgenas.pressure import Pressure
from edgenas.relax import Loads, Policy, Step
from edgenas.search import Objective, Proposal, Trial
from edgenas.space import ChoiceSpace
from edgenas.spaces.nasbench201 import NasBench201
from edgenas.spaces.nasbench_macro import NasBenchMacro
from edgenas.spec import Architecture

PERCENT = 100.0


@dataclass(frozen=True, eq=False)
class Published:
    """All architectures of ``space`` by rank, the last choice varying fastest; (architectures,).

    ``search``: accuracy, a fraction, that a method may look at; ``report``: what it is judged by.
    ``columns``: every other number of the table, by name.
    """

    space: ChoiceSpace
    search: np.ndarray
    report: np.ndarray
    columns: Mapping[str, np.ndarray]

    @classmethod
    def load(
        cls,
        path: Path,
        space: ChoiceSpace,
        names: str,
        published: Callable[[str], Architecture],
        search: Sequence[str],
        report: Sequence[str],
    ) -> "Published":
        """Read a gzipped CSV. ``names``: the column that ``published`` makes architectures of.

        Several columns of ``search`` or ``report``, in percent, are averaged. Raises UsageError
        (absent) or CorruptFile with the line.
        """
        lines = _lines(path)
        if lacking := [c for c in (names, *search, *report) if c not in lines[0]]:
            raise CorruptFile(
                f"{path} has no column {lacking[0]!r}, but: {', '.join(map(repr, lines[0]))[:200]}"
            )
        place = lines[0].index(names)
        order = np.argsort(_ranks(path, lines, place, space, published))
        columns = {
            name: _numbers(path, name, [line[i] for line in lines[1:]])[order]
            for i, name in enumerate(lines[0])
            if i != place
        }

        def mean(wanted: Sequence[str]) -> np.ndarray:
            accuracy = np.mean([columns[c] for c in wanted], axis=0) / PERCENT
            if not np.all((accuracy > 0) & (accuracy <= 1)):
                raise CorruptFile(f"{path}: {' and '.join(wanted)} are not all in 0 to 100 percent")
            return np.asarray(accuracy)

        return cls(space, mean(search), mean(report), columns)

    def rank(self, arch: Architecture) -> int:
        """Where ``arch`` is. Raises InvalidArchitecture."""
        self.space.check(arch)
        return _rank(self.space, arch)

    def at(self, rank: int) -> Architecture:
        """Inverse of ``rank``."""
        picks: dict[str, int] = {}
        for c in reversed(self.space.choices):
            rank, picks[c.name] = divmod(rank, len(c.options))
        return Architecture.of(self.space.id, picks)

    def oracle(self, fits: np.ndarray) -> float:
        """The best reported accuracy among those that ``fits`` is true of."""
        return float(self.report[fits].max())


def nasbench_macro(path: Path) -> Published:
    """NAS-Bench-Macro: searched on one seed's accuracy, reported by the mean of all three."""
    space, seeds = NasBenchMacro(), [f"test_acc_s{i}" for i in range(3)]
    return Published.load(path, space, "arch", space.published, seeds[:1], seeds)


def nasbench201(path: Path) -> Published:
    """CIFAR-10 of NAS-Bench-201: searched on validation at 12 epochs, reported on test at 200."""
    space = NasBench201()
    return Published.load(path, space, "arch_str", space.published, ["c10_val12"], ["c10_test200"])


class Tabular:
    """Worth of an architecture by looking it up.

    ``asked``: accuracies of all that were asked for, in that order; each once, however often.
    """

    def __init__(self, table: Published, objective: Objective) -> None:
        self.table, self.objective = table, objective
        self.asked: dict[Architecture, float] = {}

    def __call__(self, proposal: Proposal, id: int) -> Trial:
        """The trial of ``proposal``."""
        load = self.objective.load(self.table.space.ops(proposal.arch))
        return Trial(id, proposal, {"accuracy": self.accuracy(proposal.arch), "load": load}, 0.0)

    def accuracy(self, arch: Architecture) -> float:
        """The fraction to search on. Raises InvalidArchitecture."""
        if arch not in self.asked:
            self.asked[arch] = float(self.table.search[self.table.rank(arch)])
        return self.asked[arch]


class Multilinear:
    """A supernet that knows the loss of each architecture: minus the logarithm of its accuracy.

    Between architectures it is multilinear in the gates, the only function that is linear in each
    choice's gates and right at every architecture.
    """

    def __init__(self, known: Tabular) -> None:
        self.known = known

    def ce(self, gates: Gates) -> Tensor:
        """Loss of the architecture that is on, (), and the gradient of the multilinear function.

        So the gate of option k of a choice gets the loss of the architecture with k there: every
        live option is looked up where gates want a gradient. Raises CapabilityError unless exactly
        one option of a choice has weight 1 and the others 0.
        """
        arch = self._on(gates)
        total = torch.tensor(self._loss(arch))
        for choice, gate in gates.items():
            if gate.value.requires_grad:
                near = [self._loss(arch.but(**{choice: k})) for k in gate.live]
                slope = gate.value.new_tensor(near)
                total = total + slope @ (gate.value - gate.value.detach())
        return total

    def accuracy(self, gates: Gates) -> float:
        """Of the architecture that is on. Raises CapabilityError as ``ce``."""
        return self.known.accuracy(self._on(gates))

    def _loss(self, arch: Architecture) -> float:
        return -math.log(self.known.accuracy(arch))

    def _on(self, gates: Gates) -> Architecture:
        picks = {}
        for choice, gate in gates.items():
            weights = gate.value.tolist()
            if sorted(weights) != [0.0] * (len(weights) - 1) + [1.0]:
                raise CapabilityError(
                    f"a table knows whole architectures only, but {choice} has weights {weights}"
                )
            picks[choice] = gate.live[weights.index(1.0)]
        return Architecture.of(self.known.table.space.id, picks)


def learn(
    policy: Policy, net: Multilinear, loads: Loads, pressure: Pressure, rng: random.Random
) -> Iterator[float]:
    """Architecture steps without end, as in a supernet that is trained already; their losses."""
    while True:
        expected = loads.expected({c: s.exp() for c, s in policy.scores().items()})
        pressure.adapt(float(expected.max()))
        budget = int(expected.argmax())
        yield policy.arch_step(Step(net.ce, net.accuracy, loads, budget, pressure, rng))


def _lines(path: Path) -> list[list[str]]:
    try:
        lines = list(csv.reader(io.StringIO(parsing.decoded(parsing.gunzipped(path)), newline="")))
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as e:
        raise CorruptFile(f"{path} cannot be read as gzipped CSV: {e}") from e
    if not lines:
        raise CorruptFile(f"{path} is empty")
    return lines


def _ranks(
    path: Path,
    lines: Sequence[Sequence[str]],
    place: int,
    space: ChoiceSpace,
    published: Callable[[str], Architecture],
) -> list[int]:
    """Of the architectures that are named at ``place``, each of ``space`` once."""
    ranks: dict[int, int] = {}
    for number, line in enumerate(lines[1:], 2):
        where = f"{path}, line {number}"
        if len(line) != len(lines[0]):
            raise CorruptFile(f"{where}: {len(line)} values for {len(lines[0])} columns")
        try:
            rank = _rank(space, published(line[place]))
        except InvalidArchitecture as e:
            raise CorruptFile(f"{where}: {e}") from e
        if ranks.setdefault(rank, number) != number:
            raise CorruptFile(f"{where}: {line[place]!r} is in line {ranks[rank]} already")
    if len(ranks) != (whole := math.prod(len(c.options) for c in space.choices)):
        raise CorruptFile(f"{path} has {len(ranks)} of the {whole} architectures of {space.id}")
    return list(ranks)


def _numbers(path: Path, name: str, texts: Sequence[str]) -> np.ndarray:
    values = []
    for number, text in enumerate(texts, 2):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise CorruptFile(f"{path}, line {number}: {name} is {text!r}, not a number")
        values.append(value)
    return np.array(values)


def _rank(space: ChoiceSpace, arch: Architecture) -> int:
    rank = 0
    for c in space.choices:
        rank = rank * len(c.options) + arch.index(c.name)
    return rank
