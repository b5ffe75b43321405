"""Finalists are trained in rungs: after each the worse half leaves.

Synchronous successive halving (Jamieson and Talwalkar, AISTATS 2016, algorithm 1). Who races is
decided before, by name: no score is believed alone, so what the method found, the largest networks
that fit and random ones all get a seat.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from edgenas.budgets import Latency
from edgenas.errors import ImpossibleBudget, UsageError
from edgenas.project import most, project, slack
from edgenas.samplers import Fitting, Largest
from edgenas.search import Evaluate, Ledger, Objective, Progress, Proposal, Trial, ask_tell, silent
from edgenas.space import Relaxable, Space
from edgenas.spec import Architecture, OpSpec

NEAR = 0.9  # of the budget: where draws are made
DRAWS = 200
EQUAL = 0.02  # of a budget: loads that close are equal
EVEN = 0.001  # of the size: networks that close are equally large
TRIES = 500
TIERS = 4

Score = Callable[[Sequence[Architecture]], Sequence[float]]


@dataclass(frozen=True)
class Seat:
    """An architecture that races, and why."""

    arch: Architecture
    why: str


class Rungs:
    """Proposes ``archs`` for the first of ``rungs`` (epochs in all), then the better half for the
    next, and so on, until one is left or rungs are over. Of equals the earlier stays."""

    def __init__(self, archs: Sequence[Architecture], rungs: Sequence[int]) -> None:
        if not archs or not rungs or list(rungs) != sorted(set(rungs)):
            raise UsageError(
                f"a race of {len(archs)} networks over {list(rungs)} epochs: it needs networks and "
                "epochs that grow"
            )
        self._rungs = list(rungs)
        self._running = list(dict.fromkeys(archs))
        self._next = iter(self._running)
        self._told: list[Trial] = []
        self._left: list[Trial] = []

    def ask(self) -> Proposal | None:
        """The next of this rung; None while results of it are to be told, and after the last."""
        arch = next(self._next, None)
        return None if arch is None else Proposal(arch, self._rungs[0])

    def tell(self, trial: Trial) -> None:
        """After the last of a rung the worse half leaves."""
        self._told.append(trial)
        if len(self._told) < len(self._running):
            return
        self._told.sort(key=lambda t: (-t.metrics["accuracy"], self._running.index(t.arch)))
        over = len(self._rungs) == 1 or len(self._told) == 1
        stay = 0 if over else half(len(self._told))
        self._left = self._told[stay:] + self._left
        self._running = [t.arch for t in self._told[:stay]]
        self._next, self._told, self._rungs = iter(self._running), [], self._rungs[1:]

    @property
    def standing(self) -> list[Trial]:
        """The last trial of each, the winner first, once the race is over."""
        return self._left


def half(count: int) -> int:
    """How many of a rung stay."""
    return (count + 1) // 2


def trainings(seats: int, rungs: Sequence[int]) -> list[tuple[int, int]]:
    """How many are trained up to how many epochs, rung by rung."""
    found = [(seats, rungs[0])]
    for epochs in rungs[1:]:
        if (count := found[-1][0]) > 1:
            found.append((half(count), epochs))
    return found


def cost_epochs(seats: int, rungs: Sequence[int]) -> int:
    """What a race costs where each training goes on from the rung before."""
    steps = trainings(seats, rungs)
    before = [0, *(epochs for _, epochs in steps)]
    return sum(count * (epochs - b) for (count, epochs), b in zip(steps, before, strict=False))


def race(
    archs: Sequence[Architecture],
    rungs: Sequence[int],
    evaluate: Evaluate,
    ledger: Ledger,
    *,
    phase: str = "race",
    progress: Progress = silent,
) -> list[Trial]:
    """The last trial of each, the winner first. What the ledger holds is not trained again.

    ``rungs``: epochs in all after each. Raises LedgerMismatch, UsageError.
    """
    sampler = Rungs(archs, rungs)
    count = sum(n for n, _ in trainings(len(dict.fromkeys(archs)), rungs))
    ask_tell(sampler, evaluate, ledger, phase=phase, trials=count, progress=progress)
    return sampler.standing


def seated(
    space: Space,
    objective: Objective,
    found: Sequence[Architecture],
    seats: int,
    sizes: Sequence[Callable[[OpSpec], float]],
    rng: random.Random,
    scores: Mapping[str, Score] = MappingProxyType({}),
) -> list[Seat]:
    """Up to ``seats`` different architectures, of which one half stands for what may be wrong.

    What was ``found`` comes first, then the largest that fits by each of ``sizes``; half of what is
    left is for the best by each of ``scores``, by turns, of DRAWS draws at NEAR to 1 of the budget,
    the rest by turns for neighbours of the largest with an equal load and for draws, of which
    those of less load come last. Raises ImpossibleBudget.
    """
    near = _drawn(Fitting(space, objective, rng, least=NEAR), DRAWS)
    draws = near + (_drawn(Fitting(space, objective, rng), seats) if len(near) < seats else [])
    largest = [
        p.arch
        for s in sizes
        if (p := Largest(space, objective, s, rng, within=EVEN).ask()) is not None
    ]
    taken: dict[Architecture, str] = {}
    for why, archs in (("found", found), ("largest", largest)):
        for arch in archs:
            taken.setdefault(arch, why)
    named = len(taken)
    best = {f"best by {name}": _by_mark(draws, score(draws)) for name, score in scores.items()}
    for each in zip(*best.values(), strict=False):
        for why, arch in zip(best, each, strict=True):
            if len(taken) < named + half(seats - named):
                taken.setdefault(arch, why)
    around = [n for arch in largest for n in _neighbours(space, objective, arch, rng)]
    for pair in itertools.zip_longest(around, draws):
        for arch, why in zip(pair, ("neighbour of the largest", "random"), strict=True):
            if arch is not None and len(taken) < seats:
                taken.setdefault(arch, why)
    if not taken:
        raise ImpossibleBudget("no network keeps the budget: there is none to race")
    return [Seat(arch, why) for arch, why in itertools.islice(taken.items(), seats)]


def _by_mark(archs: Sequence[Architecture], marks: Sequence[float]) -> list[Architecture]:
    """The highest first; those without one are left out."""
    told = [(mark, arch) for mark, arch in zip(marks, archs, strict=True) if not math.isnan(mark)]
    return [arch for _, arch in sorted(told, key=lambda pair: -pair[0])]


def _drawn(fitting: Fitting, count: int) -> list[Architecture]:
    return [p.arch for p in itertools.islice(iter(fitting.ask, None), count)]


def spread(
    space: Space,
    tiers: Sequence[Objective],
    found: Sequence[Architecture],
    seats: int,
    sizes: Sequence[Callable[[OpSpec], float]],
    rng: random.Random,
    scores: Mapping[str, Score] = MappingProxyType({}),
) -> list[Seat]:
    """``seats`` as of ``seated``, shared out among ``tiers``; the first has what was ``found``."""
    taken: dict[Architecture, Seat] = {}
    for number, tier in enumerate(tiers):
        share = -(-(seats - len(taken)) // (len(tiers) - number))
        for seat in seated(space, tier, found if not number else (), share, sizes, rng, scores):
            why = f"{seat.why}, 1/{2**number} of the longest time" if number else seat.why
            taken.setdefault(seat.arch, Seat(seat.arch, why))
    return list(taken.values())


def tiers(space: Space, objective: Objective) -> list[Objective]:
    """``objective``; one that is slack as if it were at the slowest network, and ever less of it.

    Each of these is half of the one before, and some network keeps it.
    """
    if not isinstance(space, Relaxable) or not slack(space, objective.budgets):
        return [objective]
    slowest = {b.name: most(space, b) for b in objective.budgets}
    even = {c.name: torch.zeros(len(c.options)) for c in space.choices}
    found: list[Objective] = []
    for number in range(TIERS):
        budgets = tuple(
            replace(b, limit_ms=slowest[b.name] / 2**number) if isinstance(b, Latency) else b
            for b in objective.budgets
        )
        try:
            project(space, even, budgets)
        except ImpossibleBudget:
            break
        found.append(Objective(budgets))
    return found


def _neighbours(
    space: Space, objective: Objective, arch: Architecture, rng: random.Random
) -> list[Architecture]:
    """Of one or two other options, whose load differs by EQUAL at the most."""
    load = objective.load(space.ops(arch))
    found: dict[Architecture, None] = {}
    for number in range(TRIES):
        near = space.mutate(arch, rng)
        if number % 2:
            near = space.mutate(near, rng)
        if near != arch and load - EQUAL <= objective.load(space.ops(near)) <= min(1, load + EQUAL):
            found[near] = None
    return list(found)
