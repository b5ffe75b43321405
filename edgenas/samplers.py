"""Samplers: what to try next."""

import random
from collections.abc import Callable, Iterable

import torch

from edgenas.project import project
from edgenas.search import Objective, Proposal, Trial
from edgenas.space import Relaxable, Space
from edgenas.spec import Architecture

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
    """

    def __init__(
        self, space: Space, objective: Objective, rng: random.Random, epochs: int = 0
    ) -> None:
        self._space, self._objective, self._rng, self._epochs = space, objective, rng, epochs
        self._seen: set[Architecture] = set()

    def ask(self) -> Proposal | None:
        """A new one; None if none was found. Raises ImpossibleBudget."""
        arch = self._first(lambda: self._space.sample(self._rng), TRIES)
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
            if arch not in self._seen and self._objective.fits(self._space.ops(arch)):
                return arch
        return None

    def _projected(self, space: Relaxable) -> Architecture:
        g = torch.Generator().manual_seed(self._rng.getrandbits(60))
        scores = {c.name: torch.randn(len(c.options), generator=g) for c in space.choices}
        return project(space, scores, self._objective.budgets)
