"""Samplers: what to try next."""

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from edgenas.best_first import Worth, ordered
from edgenas.budgets import Budget
from edgenas.project import most, project
from edgenas.search import Objective, Proposal, Trial
from edgenas.space import Context, Relaxable, Space
from edgenas.spec import Architecture, OpSpec

TRIES = 2000  # draws before rejection counts as hopeless


class Listed:
    """A fixed list of architectures, each once."""

    def __init__(self, archs: Iterable[Architecture], epochs: int = 0) -> None:
        self._todo, self._epochs = iter(dict.fromkeys(archs)), epochs

    def ask(self) -> Proposal | None:
        """The next of the list."""
        arch = next(self._todo, None)
        return None if arch is None else Proposal(arch, self._epochs)

    def tell(self, trial: Trial) -> None:
        """Nothing to learn."""


class Fitting:
    """Architectures that keep every budget, drawn uniformly, none twice.

    Where draws hardly ever fit, random scores are projected instead (not uniform, but it fits).
    ``least``: the share they take, at the least, of what the fullest network takes of its tightest
    budget.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        rng: random.Random,
        epochs: int = 0,
        least: float = 0.0,
    ) -> None:
        self._space, self._objective, self._rng, self._epochs = space, objective, rng, epochs
        self._least = least * _fullest(space, objective, rng) if least else 0.0
        self._hopeful = True
        self._seen: set[Architecture] = set()

    def ask(self) -> Proposal | None:
        """A new one; None if none was found. Raises ImpossibleBudget."""
        arch = self._first(lambda: self._space.sample(self._rng), TRIES) if self._hopeful else None
        self._hopeful = arch is not None  # what is new only becomes rarer
        if arch is None and isinstance(space := self._space, Relaxable):
            arch = self._first(lambda: self._projected(space), 20)
        if arch is None:
            return None
        self._seen.add(arch)
        return Proposal(arch, self._epochs)

    def tell(self, trial: Trial) -> None:
        """Nothing to learn."""

    def _first(self, draw: Callable[[], Architecture], tries: int) -> Architecture | None:
        for _ in range(tries):
            arch = draw()
            if arch not in self._seen and self._fits(arch):
                return arch
        return None

    def _fits(self, arch: Architecture) -> bool:
        return self._least <= self._objective.load(self._space.ops(arch)) <= 1

    def _projected(self, space: Relaxable) -> Architecture:
        g = torch.Generator().manual_seed(self._rng.getrandbits(60))
        scores = {c.name: torch.randn(len(c.options), generator=g) for c in space.choices}
        return project(space, scores, self._objective.budgets, self._least)


class Aging:
    """Aging evolution (Real et al. 2019, arXiv:1802.01548, algorithm 1) under every budget.

    ``population`` random architectures, then mutants of the best of a random ``tournament`` among
    them; each new one takes the place of the oldest. None is proposed twice: a mutant that was
    tried already mutates on.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        rng: random.Random,
        population: int = 20,
        tournament: int = 5,
        epochs: int = 0,
    ) -> None:
        self._space, self._objective, self._rng, self._epochs = space, objective, rng, epochs
        self._random = Fitting(space, objective, rng, epochs)
        self._alive: deque[Trial] = deque(maxlen=population)
        self._tournament = min(tournament, population)
        self._seen: set[Architecture] = set()

    def ask(self) -> Proposal | None:
        """A new one; None if none was found. Raises ImpossibleBudget."""
        full = len(self._alive) == self._alive.maxlen
        arch = self._mutant() if full else None
        while arch is None or arch in self._seen:
            proposal = self._random.ask()
            if proposal is None:
                return None
            arch = proposal.arch
        self._seen.add(arch)
        return Proposal(arch, self._epochs)

    def tell(self, trial: Trial) -> None:
        """It joins, the oldest leaves."""
        self._alive.append(trial)

    def _mutant(self) -> Architecture | None:
        arch = self._parent()
        for _ in range(TRIES):
            arch = self._space.mutate(arch, self._rng)
            if arch in self._seen:
                continue
            if self._objective.fits(self._space.ops(arch)):
                return arch
            arch = self._parent()
        return None

    def _parent(self) -> Architecture:
        drawn = self._rng.sample(list(self._alive), self._tournament)
        return max(drawn, key=lambda t: t.metrics["accuracy"]).arch


class Largest:
    """Architectures that keep every budget, the largest first: what every search has to beat.

    ``size`` of an operator, e.g. its multiply-accumulates; equal ones in random order. The order is
    exact where choices are independent, else that of ``TRIES`` draws. ``within``: the share of the
    largest of all up to which order does not matter; where size is nearly the budget, large spaces
    need it.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        size: Callable[[OpSpec], float],
        rng: random.Random,
        epochs: int = 0,
        within: float = 0.0,
    ) -> None:
        self._space, self._objective, self._epochs = space, objective, epochs
        self._order = (
            _ordered(space, objective.budgets, size, rng, within)
            if isinstance(space, Relaxable)
            else _drawn(Fitting(space, objective, rng), lambda a: sum(map(size, space.ops(a))))
        )

    def ask(self) -> Proposal | None:
        """The next; None after the last. Raises ImpossibleBudget."""
        for arch in self._order:
            if self._objective.fits(self._space.ops(arch)):
                return Proposal(arch, self._epochs)
        return None

    def tell(self, trial: Trial) -> None:
        """Nothing to learn."""


def _ordered(
    space: Relaxable,
    budgets: Sequence[Budget],
    size: Callable[[OpSpec], float],
    rng: random.Random,
    within: float,
) -> Iterator[Architecture]:
    """Those that keep ``budgets`` but for rounding, by falling size."""
    even = {c.name: torch.zeros(len(c.options)) for c in space.choices}
    project(space, even, budgets)  # raises if none fits
    worth = summed(lambda ops: float(sum(map(size, ops))))
    short = within * max(
        fixed + sum(map(max, adds.values())) for fixed, adds in map(worth, space.contexts)
    )
    for _, arch in ordered(space, budgets, worth, rng, short):
        yield arch


def summed(of: Callable[[Sequence[OpSpec]], float]) -> Worth:
    """Worth of networks as the sum of ``of`` what is fixed and ``of`` what each option executes."""

    def worth(context: Context) -> tuple[float, Mapping[str, Sequence[float]]]:
        free = {c: ops for c, ops in context.options.items() if c not in context.picks}
        return of(context.fixed), {c: [of(ops) for ops in every] for c, every in free.items()}

    return worth


def _fullest(space: Space, objective: Objective, rng: random.Random) -> float:
    """The largest load up to 1; of ``TRIES`` draws where choices are not known."""
    if not isinstance(space, Relaxable):
        drawn = itertools.islice(iter(Fitting(space, objective, rng).ask, None), TRIES)
        return max((objective.load(space.ops(p.arch)) for p in drawn), default=0.0)
    return min(1.0, max(most(space, b) / b.limit for b in objective.budgets))


def _drawn(fitting: Fitting, size: Callable[[Architecture], float]) -> Iterator[Architecture]:
    drawn = itertools.islice(iter(fitting.ask, None), TRIES)
    yield from sorted((proposal.arch for proposal in drawn), key=size, reverse=True)
