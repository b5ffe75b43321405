"""What trials teach: an additive truth is found again, and the best come in exact order."""

import itertools
import math
import random

import numpy as np
import pytest

from edgenas import ops
from edgenas.budgets import Peak, Total
from edgenas.errors import UsageError
from edgenas.search import Proposal, Trial
from edgenas.space import context_of
from edgenas.spaces.mobile import Mobile
from edgenas.spaces.nasbench_macro import NasBenchMacro
from edgenas.spec import Architecture
from edgenas.surrogate import Surrogate, informative

MACRO = NasBenchMacro()
EVERY = [MACRO.published("".join(digits)) for digits in itertools.product("012", repeat=8)]
OFFSET = 0.4  # of the logarithm of the error, of short trainings


def additive(arch: Architecture) -> float:
    """-log(error), a sum over picks."""
    return 0.5 + sum(
        (0.1 + 0.03 * i) * arch.index(c.name) ** 0.7 for i, c in enumerate(MACRO.choices)
    )


def trial(arch: Architecture, value: float, epochs: int = 10) -> Trial:
    return Trial(0, Proposal(arch, epochs), {"accuracy": 1 - math.exp(-value)}, 0.0)


def under(mflops: float) -> Total:
    return Total("flops", "MFLOPs", mflops, lambda op: ops.macs(op) / 1e6)


def drawn(n: int, seed: int = 0) -> list[Architecture]:
    return random.Random(seed).sample(EVERY, n)


def learnt(n: int = 80, noise: float = 0.0) -> Surrogate:
    rng = random.Random(1)
    return Surrogate.fit(MACRO, [trial(a, additive(a) + rng.gauss(0, noise)) for a in drawn(n)])


def test_an_additive_truth_is_found_again_also_where_nothing_was_trained() -> None:
    expected = learnt().accuracy(EVERY)
    true = 1 - np.exp([-additive(a) for a in EVERY])
    assert np.abs(expected - true).max() < 0.005


def test_short_trainings_teach_as_long_ones_do_but_for_a_constant() -> None:
    few, many = drawn(8, 1), drawn(80, 2)
    trials = [trial(a, additive(a)) for a in few]
    trials += [trial(a, additive(a) - OFFSET, 2) for a in [*few, *many]]
    true = 1 - np.exp([-additive(a) for a in EVERY])
    expected = Surrogate.fit(MACRO, trials).accuracy(EVERY)
    assert np.abs(expected - true).max() < 0.01


@pytest.mark.parametrize("mflops", [30, 45, 80])
@pytest.mark.parametrize("sign", [1, -1])  # size that helps and size that harms: bound from above
def test_the_best_under_a_budget_come_in_exact_order(mflops: float, sign: int) -> None:
    rng = random.Random(3)
    total = {a: sum(map(ops.macs, MACRO.ops(a))) / 1e7 for a in drawn(60)}
    value = {a: 1 + sign * math.log(m) / 3 + rng.gauss(0, 0.05) for a, m in total.items()}
    surrogate = Surrogate.fit(MACRO, [trial(a, v) for a, v in value.items()])
    budget = under(mflops)
    found = list(itertools.islice(surrogate.ranked([budget], rng), 200))
    fitting = [a for a in EVERY if budget.load(MACRO.ops(a)) <= 1]
    best = sorted(surrogate.accuracy(fitting), reverse=True)[:200]
    assert [v for v, _ in found] == pytest.approx(best, abs=1e-12)
    assert surrogate.accuracy([a for _, a in found]) == pytest.approx([v for v, _ in found])
    assert len({a for _, a in found}) == min(200, len(fitting))


def test_choices_that_change_what_others_cost_are_ranked_with_them() -> None:
    space = Mobile.configured(
        {"preset": "tiny", "resolution": 16, "widths": [8, 16], "depths": [1, 1], "strides": [1, 2],
         "multipliers": [0.5, 1.0], "resolutions": [16, 24]}
    )  # fmt: skip
    names = [c.name for c in space.choices]
    picks = itertools.product(*(range(len(c.options)) for c in space.choices))
    every = [Architecture.of(space.id, dict(zip(names, p, strict=True))) for p in picks]
    rng = random.Random(0)
    surrogate = Surrogate.fit(space, [trial(a, rng.random()) for a in rng.sample(every, 40)])
    memory = Peak("memory", "B", 24_000, lambda op: 4 * op.cout * ops.output_size(op) ** 2)
    budgets = [memory, Total("macs", "M", 0.6, lambda op: ops.macs(op) / 1e6)]
    fitting = [a for a in every if all(b.load(space.ops(a)) <= 1 for b in budgets)]
    assert 0 < len(fitting) < len(every)
    assert {tuple(context_of(space, a).picks.items()) for a in fitting}
    found = list(surrogate.ranked(budgets, rng))
    assert {a for _, a in found} == set(fitting)
    best = sorted(surrogate.accuracy(fitting), reverse=True)
    assert [v for v, _ in found] == pytest.approx(best, abs=1e-12)


def test_what_an_option_is_worth_is_said_in_points_with_an_interval() -> None:
    arch = MACRO.published("11111111")
    here = math.exp(-additive(arch))
    inside = total = 0
    for name, options in learnt(60, noise=0.05).worth(arch).items():
        assert options[1].points == options[1].low == options[1].high == 0.0  # what is there
        for k in (0, 2):
            true = 100 * (here - math.exp(-additive(arch.but(**{name: k}))))
            assert options[k].low < options[k].points < options[k].high
            inside += options[k].low <= true <= options[k].high
            total += 1
            assert options[k].points == pytest.approx(true, abs=3)
    assert inside >= 0.8 * total


def test_an_interval_narrows_with_trials_and_is_wide_of_what_was_never_tried() -> None:
    def width(surrogate: Surrogate, pick: int) -> float:
        worth = surrogate.worth(MACRO.published("11111111"))["layer1"][pick]
        return worth.high - worth.low

    assert width(learnt(60, 0.1), 2) < width(learnt(20, 0.1), 2)
    rng = random.Random(0)
    seen = [a for a in drawn(60) if a.index("layer1") < 2]
    surrogate = Surrogate.fit(MACRO, [trial(a, additive(a) + rng.gauss(0, 0.1)) for a in seen])
    assert width(surrogate, 2) > 1.5 * width(surrogate, 0)


def test_trials_that_differ_by_nothing_and_perfect_ones_are_survived() -> None:
    archs = drawn(5)
    same = Surrogate.fit(MACRO, [trial(a, 1.0) for a in archs])
    assert same.accuracy(EVERY[:9]) == pytest.approx(1 - math.exp(-1), abs=1e-6)
    perfect = [Trial(0, Proposal(a), {"accuracy": 1.0}, 0.0) for a in archs]
    assert np.all(np.isfinite(Surrogate.fit(MACRO, perfect).accuracy(EVERY[:9])))
    with pytest.raises(UsageError, match="2 trials teach nothing: give 3 or more"):
        Surrogate.fit(MACRO, perfect[:2])


def test_a_design_tells_more_than_draws() -> None:
    def wrong(archs: list[Architecture]) -> float:
        surrogate = Surrogate.fit(MACRO, [trial(a, additive(a)) for a in archs])
        true = 1 - np.exp([-additive(a) for a in EVERY])
        return float(np.abs(surrogate.accuracy(EVERY) - true).mean())

    pool = drawn(300)
    design = informative(MACRO, pool, 20, known=pool[:1])
    assert len(set(design)) == 20 and pool[0] not in design and set(design) <= set(pool)
    assert design == informative(MACRO, pool, 20, known=pool[:1])
    draws = np.mean([wrong(random.Random(seed).sample(pool, 21)) for seed in range(5)])
    assert wrong([pool[0], *design]) < draws
    assert len(informative(MACRO, pool[:3], 20)) == 3
