import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from edgenas.device import load_device
from edgenas.errors import ForeignTable, UsageError
from edgenas.fewshot import fit_rows
from edgenas.latency import LatencyTable
from edgenas.predict import Predictor
from edgenas.profile_networks import profile_from_networks
from edgenas.rounds import Effort
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec
from edgenas.store import table_path

OPS = [
    OpSpec.of("mbconv", 16, 16, size, e=e, k=k, s=1)
    for size in (7, 14, 28)
    for e in (3, 6)
    for k in (3, 5)
]
TRUTH = {op: 1e-3 * op.size * op.arg("e", 1) * (1 + 0.2 * op.arg("k", 3)) for op in OPS}
WORK = {op: float(op.size**2 * op.arg("e", 1)) for op in OPS}
SPACE = Mobile(
    resolution=8, channels=1, classes=3, stem=4, stem_stride=1, first=4, widths=(8,),
    depths=(3,), strides=(2,), head=8, kernels=(3, 5), expansions=(1, 2),
)  # fmt: skip
QUICK = Effort(passes=2, rounds=1, visit_ms=0.2, extensions=0)
Networks = list[tuple[Sequence[OpSpec], float]]


def networks(count: int, seed: int, noise: float = 0.0) -> Networks:
    rng = random.Random(seed)
    made: Networks = []
    for _ in range(count):
        used = rng.choices(OPS, k=6)
        ms = 0.1 + sum(TRUTH[op] for op in used)
        made.append((used, ms * math.exp(rng.gauss(0, noise))))
    return made


def errors(fitted_on: Networks, prior: dict[OpSpec, float]) -> np.ndarray:
    few = fit_rows(fitted_on, [prior])
    return np.array([abs(few.ms(used) / ms - 1) for used, ms in networks(200, seed=99)])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


def test_with_enough_networks_a_device_linear_in_its_operators_is_found() -> None:
    assert errors(networks(60, seed=0), WORK).mean() < 0.01


def test_a_few_networks_rank_others_and_a_good_prior_helps() -> None:
    flat = dict.fromkeys(OPS, 1.0)
    told = np.mean([errors(networks(8, seed=s), WORK).mean() for s in range(8)])
    untold = np.mean([errors(networks(8, seed=s), flat).mean() for s in range(8)])
    assert told < untold
    few = fit_rows(networks(8, seed=1), [WORK])
    others = networks(100, seed=5)
    assert spearmanr([few.ms(u) for u, _ in others], [ms for _, ms in others]).statistic > 0.8


def test_a_prior_of_nonsense_is_outvoted() -> None:
    rng = random.Random(0)
    nonsense = {op: rng.random() for op in OPS}
    assert errors(networks(60, seed=0), nonsense).mean() < 0.02


def test_the_unit_of_the_prior_does_not_matter() -> None:
    known = networks(10, seed=0)
    a, b = (fit_rows(known, [{op: w * unit for op, w in WORK.items()}]) for unit in (1.0, 1e9))
    assert a.ms(OPS) == pytest.approx(b.ms(OPS))


def test_an_operators_cost_lies_in_its_interval_as_often_as_it_claims() -> None:
    held = []
    for seed in range(20):
        few = fit_rows(networks(15, seed=seed, noise=0.02), [WORK])
        # what all operators of a network have in common cannot be told from what it costs anyway
        shift = np.mean([few.rows[op].ms - TRUTH[op] for op in OPS])
        held += [abs(few.rows[op].ms - shift - TRUTH[op]) <= few.rows[op].half_ms for op in OPS]
    assert np.mean(held) >= 0.9


def test_too_few_or_equal_networks_and_priors_with_gaps_are_refused() -> None:
    with pytest.raises(UsageError, match=r"3 networks .* measure 4"):
        fit_rows(networks(3, seed=0), [WORK])
    with pytest.raises(UsageError, match="all take 1 ms"):
        fit_rows([(OPS[:2], 1.0)] * 5, [WORK])
    gap = {op: w for op, w in WORK.items() if op != OPS[3]}
    with pytest.raises(UsageError, match=f"nothing of 1 operators: '{OPS[3]}'"):
        fit_rows(networks(9, seed=0), [gap, WORK])
    with pytest.raises(UsageError, match="not 0 everywhere"):
        fit_rows(networks(9, seed=0), [dict.fromkeys(OPS, 0.0)])


def test_a_real_device_gets_a_table_from_its_networks_that_says_it_is_estimated(
    tmp_path: Path,
) -> None:
    device = load_device("cpu-onnxruntime")
    table = profile_from_networks(
        device, SPACE, "fp32", tmp_path, networks=10, effort=QUICK, allow_unstable=True
    )
    assert LatencyTable.load(table_path(tmp_path, device.name, SPACE.id, "fp32")).dumps() == (
        table.dumps()
    )
    assert set(table.rows) == SPACE.vocabulary()
    header = table.header
    assert header.provenance == "estimated" and header.protocol["statistic"] == "fitted"
    assert {table[op].provenance for op in table.rows} == {"estimated"}
    assert header.held_out is not None and header.held_out.networks == 20
    assert header.held_out.mape < 0.5
    assert Predictor(table).p50_ms(SPACE.ops(SPACE.sample(random.Random(0)))) > 0

    again = profile_from_networks(device, SPACE, "fp32", tmp_path, networks=10)
    assert again.dumps() == table.dumps()

    told = profile_from_networks(
        load_device("cpu-litert"), SPACE, "fp32", tmp_path, networks=10, prior=table,
        effort=QUICK, allow_unstable=True,
    )  # fmt: skip
    assert told.header.protocol["prior"] == "cpu-onnxruntime fp32"


def test_a_prior_of_another_space_is_refused_before_anything_is_measured(
    tmp_path: Path, table: LatencyTable
) -> None:
    with pytest.raises(ForeignTable, match=r"lacks .* take one of the same space"):
        profile_from_networks(load_device("cpu-onnxruntime"), SPACE, "fp32", tmp_path, prior=table)
    assert not list(tmp_path.glob("*.jsonl"))
