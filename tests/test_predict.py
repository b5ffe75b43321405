import math
import random
from dataclasses import replace

import numpy as np
import pytest

from edgenas.errors import MissingLatency, UnstableMeasurement, UsageError
from edgenas.latency import Header, LatencyTable, Missing, Timing
from edgenas.predict import Predictor, fitted, require_trusted
from edgenas.spec import OpSpec

OPS = [OpSpec.of("mbconv", 16, 16, size, e=e, k=3) for size in (7, 14) for e in (1, 3, 6)]
FLOOR_MS = dict(zip(OPS, (0.05, 0.12, 0.2, 0.11, 0.3, 0.61), strict=True))
EMPTY_MS = 0.002
Network = tuple[str, tuple[OpSpec, ...], Timing]


def table() -> LatencyTable:
    header = Header("board", "litert", "fp32", "s", {}, empty_ms=EMPTY_MS)
    return LatencyTable(header, {op: Timing(v, v, v, 9) for op, v in FLOOR_MS.items()})


def networks(count: int, latency, *, seed: int = 0, noise: float = 0.0) -> list[Network]:
    """Random networks; ``latency(ops)`` is their floor in ms, 5 % below their p50."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        ops = tuple(rng.choices(OPS, k=rng.randint(3, 9)))
        floor = latency(ops) * math.exp(rng.gauss(0, noise))
        made.append((f"{seed} {len(made)}", ops, Timing(floor, floor * 1.05, floor * 1.2, 99)))
    return made


def additive(ops) -> float:
    return sum(FLOOR_MS[o] - EMPTY_MS for o in ops)


def fused(ops) -> float:
    """A device that runs blocks in a network a third faster than alone, at a fixed price."""
    return 0.4 + 0.66 * additive(ops)


@pytest.mark.parametrize("latency", [additive, fused])
def test_a_device_linear_in_its_operators_is_predicted_exactly(latency) -> None:
    whole = fitted(table(), networks(28, latency))
    held_out = whole.header.held_out
    assert held_out is not None and held_out.networks == 20
    assert held_out.mape == pytest.approx(0, abs=1e-9)
    assert held_out.spearman == pytest.approx(1)
    assert (held_out.within_5, held_out.within_10) == (1, 1)
    predictor = Predictor(whole)
    assert predictor.margin == pytest.approx(0, abs=1e-9)
    for _, ops, timing in networks(10, latency, seed=1):
        assert predictor.p50_ms(ops) == pytest.approx(timing.p50_ms)


def test_the_correction_beats_the_bare_sum_on_a_device_that_is_not_additive() -> None:
    known = networks(28, fused, noise=0.01)
    whole = fitted(table(), known)
    assert whole.header.held_out is not None and whole.header.held_out.mape < 0.03
    assert whole.header.baselines["plain sum"].mape > 0.10


def test_work_alone_is_a_baseline_that_a_device_linear_in_it_meets() -> None:
    def proportional(ops) -> float:
        return 0.1 + sum(1e-3 * op.size * op.arg("e", 1) for op in ops)

    def work(op: OpSpec) -> float:
        return op.size * op.arg("e", 1)

    told = fitted(table(), networks(28, proportional), work=work).header.baselines
    assert told["FLOPs"].mape == pytest.approx(0, abs=1e-9)
    assert told["plain sum"].mape > 0.10
    mistaken = fitted(table(), networks(28, fused), work=lambda op: 1.0 / op.size)
    assert mistaken.header.baselines["FLOPs"].mape > 0.05
    assert "FLOPs" not in fitted(table(), networks(28, fused)).header.baselines


def test_the_networks_that_checked_a_table_are_kept() -> None:
    known = networks(12, additive)
    kept = fitted(table(), known).header.networks
    assert [c.arch for c in kept] == [name for name, _, _ in known]
    for c, (_, ops, timing) in zip(kept, known, strict=True):
        assert c.rows_ms == pytest.approx(sum(FLOOR_MS[op] for op in ops))
        assert c.cost_ms == pytest.approx(additive(ops))
        assert (c.floor_ms, c.p50_ms) == (timing.floor_ms, timing.p50_ms)


def test_the_error_is_that_of_networks_the_fit_has_not_seen() -> None:
    good, bad = networks(8, additive), networks(20, lambda ops: 2 * additive(ops), seed=1)
    held_out = fitted(table(), good + bad).header.held_out
    assert held_out is not None
    assert held_out.mape == pytest.approx(0.5)
    assert held_out.bias == pytest.approx(-0.5)
    assert held_out.within_10 == 0


def test_nine_in_ten_new_networks_keep_a_prediction_with_its_margin() -> None:
    kept = []
    for seed in range(40):
        known = networks(28, additive, seed=seed, noise=0.04)
        predictor = Predictor(fitted(table(), known))
        for _, ops, timing in networks(25, additive, seed=1000 + seed, noise=0.04):
            kept.append(timing.p50_ms <= predictor.p50_ms(ops) * (1 + predictor.margin))
    assert np.mean(kept) >= 0.88


def test_a_prediction_is_a_fixed_part_and_a_part_for_each_operator() -> None:
    predictor = Predictor(fitted(table(), networks(28, fused)))
    ops = OPS[:4]
    parts = predictor.fixed_ms + sum(predictor.cost_ms(op) for op in ops)
    assert predictor.p50_ms(ops) == pytest.approx(parts)
    assert predictor.fixed_ms == pytest.approx(0.4 * 1.05)


def test_corrected_by_a_measurement_is_exact_for_that_network_and_keeps_proportions() -> None:
    predictor = Predictor(fitted(table(), networks(28, fused)))
    ops, other = OPS[:3], OPS[2:]
    better = predictor.corrected(7.5, ops)
    assert better.p50_ms(ops) == pytest.approx(7.5)
    ratio = 7.5 / predictor.p50_ms(ops)
    assert better.p50_ms(other) == pytest.approx(ratio * predictor.p50_ms(other))
    assert better.corrected(1.0, other).p50_ms(other) == pytest.approx(1.0)


def test_a_table_never_checked_predicts_nothing() -> None:
    with pytest.raises(UsageError, match=r"not checked .*edgenas profile board"):
        Predictor(table()).p50_ms(OPS)


def test_an_operator_without_timing_has_no_prediction() -> None:
    whole = fitted(table(), networks(28, additive))
    lame = replace(whole, rows={**whole.rows, OPS[0]: Missing("failed", "out of memory")})
    with pytest.raises(MissingLatency, match="out of memory"):
        Predictor(lame).p50_ms(OPS)
    with pytest.raises(MissingLatency):
        fitted(lame, networks(28, additive))


def test_equal_calibration_networks_still_give_a_scale() -> None:
    same = networks(1, additive) * 8
    whole = fitted(table(), same + networks(20, additive, seed=3))
    assert whole.header.held_out is not None
    assert whole.header.held_out.mape == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [0, 8, 9])
def test_too_few_networks_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="networks"):
        fitted(table(), networks(count, additive))


def test_held_out_networks_that_are_all_alike_are_refused() -> None:
    with pytest.raises(UsageError, match="alike"):
        fitted(table(), networks(8, additive) + networks(1, additive, seed=5) * 20)


def test_a_checked_table_survives_its_file() -> None:
    whole = fitted(table(), networks(28, fused, noise=0.02))
    again = LatencyTable.loads(whole.dumps(), "t")
    assert Predictor(again).p50_ms(OPS) == Predictor(whole).p50_ms(OPS)


def test_a_table_that_misses_whole_networks_promises_no_hard_budget() -> None:
    require_trusted(fitted(table(), networks(28, fused, noise=0.01)))
    noisy = fitted(table(), networks(28, fused, noise=0.2))
    with pytest.raises(UnstableMeasurement, match=r"of 20 held-out .*--precise --fresh"):
        require_trusted(noisy)
