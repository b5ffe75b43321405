"""Model-based search: a design near the budget, then what a surrogate of it thinks best."""

import itertools
import math
import random
from collections.abc import Callable

from edgenas import ops
from edgenas.errors import ImpossibleBudget
from edgenas.race import DRAWS, EVEN, NEAR
from edgenas.samplers import Fitting, Largest
from edgenas.search import Objective, Proposal, Trial
from edgenas.space import Relaxable, Space, require
from edgenas.spec import Architecture, OpSpec
from edgenas.surrogate import LEAST, Surrogate, informative

ROUNDS = 4


class ModelBased:
    """Proposes ``trials`` architectures that keep every budget, none twice.

    The first half: the largest that fits by ``size``, and of draws at NEAR to 1 of the
    budget those that tell a surrogate most. The other half in ROUNDS rounds: before each the
    surrogate is fitted to all that was told, and the best in its eyes are tried. The best of all
    that were trained is the answer: a race in which the surrogate gives the seats. Raises
    CapabilityError for a space whose choices are not listed.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        rng: random.Random,
        trials: int,
        size: Callable[[OpSpec], float] = ops.macs,
        epochs: int = 0,
    ) -> None:
        require(space, Relaxable, "model-based")
        assert isinstance(space, Relaxable)
        self._space, self._objective, self._rng = space, objective, rng
        self._trials, self._size, self._epochs = trials, size, epochs
        self._seen: set[Architecture] = set()
        self._told: list[Trial] = []
        self._waiting: list[Architecture] = []
        self._round = -1

    def ask(self) -> Proposal | None:
        """A new one; None after the last. Raises ImpossibleBudget."""
        while not self._waiting:
            self._round += 1
            if self._round > ROUNDS:
                return None
            self._waiting = self._next()
            self._seen.update(self._waiting)
        return Proposal(self._waiting.pop(0), self._epochs)

    def tell(self, trial: Trial) -> None:
        """Learn from it in the next round."""
        self._told.append(trial)

    def _next(self) -> list[Architecture]:
        """What this round tries; as many as bring all rounds to ``trials``."""
        first = max(math.ceil(self._trials / 2), min(LEAST, self._trials))
        if self._round == 0:
            return self._design(first)
        left = ROUNDS + 1 - self._round
        count = math.ceil((self._trials - len(self._seen)) / left)
        if count <= 0 or len(self._told) < LEAST:
            return []
        surrogate = Surrogate.fit(self._space, self._told, self._size)
        ranked = surrogate.ranked(self._objective.budgets, self._rng)
        fitting = (
            arch
            for _, arch in ranked
            if arch not in self._seen and self._objective.fits(self._space.ops(arch))
        )
        return list(itertools.islice(fitting, count))

    def _design(self, count: int) -> list[Architecture]:
        space, objective, rng = self._space, self._objective, self._rng
        largest = Largest(space, objective, self._size, rng, within=EVEN).ask()
        fitting = Fitting(space, objective, rng, least=NEAR)
        draws = [p.arch for p in itertools.islice(iter(fitting.ask, None), max(DRAWS, 2 * count))]
        known = [] if largest is None else [largest.arch]
        others = [arch for arch in draws if arch not in known]
        chosen = informative(space, others, count - len(known), self._size, known)
        if not known and not chosen:
            raise ImpossibleBudget("no network keeps the budget; ask for more")
        return [*known, *chosen]
