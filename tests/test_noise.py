"""What differs by more than chance, and that nothing is preferred for less."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgenas.artifact import Artifact
from edgenas.config import Config, parse_config
from edgenas.latency import LatencyTable
from edgenas.measure import Measurement
from edgenas.noise import faster, fewer, lower, share_interval
from edgenas.pipeline.profile import surely_faster
from edgenas.predict import Predictor
from edgenas.spaces.mobile import Mobile
from edgenas.verify import Candidate, Numbers, choose, described, doubts, gates

LIMIT_MS = 5.0


def rights(of: int, wrong: range) -> np.ndarray:
    right = np.ones(of, bool)
    right[wrong.start : wrong.stop] = False
    return right


@pytest.mark.parametrize(
    ("lost", "won", "said"),
    [(0, 0, False), (4, 0, False), (5, 0, True), (6, 1, False), (7, 1, True), (0, 9, False),
     (30, 20, False), (40, 20, True), (3, 3, False)],
)  # fmt: skip
def test_images_that_only_one_gets_right_decide(lost: int, won: int, said: bool) -> None:
    """As tosses of a coin: five of five come by chance once in thirty-two times."""
    one, other = rights(505, range(lost)), rights(505, range(100, 100 + won))
    assert fewer(one, other) is said
    both_wrong = rights(505, range(200, 400))
    assert fewer(one & both_wrong, other & both_wrong) is said


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962),
     (449, 505, 0.8589, 0.9135), (1, 1, 0.2065, 1.0)],
)  # fmt: skip
def test_the_interval_of_an_accuracy_is_wilsons(
    right: int, of: int, low: float, high: float
) -> None:
    assert share_interval(right, of) == pytest.approx((low, high), abs=2e-4)


def test_a_mean_is_lower_where_images_agree_on_it() -> None:
    rng = np.random.default_rng(0)
    base = rng.gamma(0.3, 1, 400)
    assert lower(0.9 * base, base) and not lower(base, 0.9 * base)
    assert not lower(base, base) and not lower(rng.permutation(base), base)
    assert lower(base - 1e-3, base) and not lower(base, base - 1e-3)


def test_latencies_whose_intervals_meet_are_alike() -> None:
    assert faster((1.0, 2.0), (2.1, 3.0))
    assert not faster((1.0, 2.0), (2.0, 3.0)) and not faster((2.1, 3.0), (1.0, 2.0))


def candidate(
    variant: str, precision: str, interval: tuple[float, float], right: np.ndarray,
    agreement: float = 1.0,
) -> Candidate:  # fmt: skip
    p50 = sum(interval) / 2
    timing = Measurement(
        p50, p50 * 1.1, p50 * 1.2, p50 * 0.9, interval, 5, 100, "stable", "measured", (1.0, 1.0)
    )
    accuracy, asked = float(right.mean()), float(precision == "int8-static")
    found = Numbers(
        accuracy, agreement, 0.0, 0.0, asked, asked, 0, 1000, 1000, accuracy, 0.0, "a", 100, right
    )
    path = Path(f"{variant}.{precision}.onnx")
    artifact = Artifact(path, "onnx", precision, (1, 8, 8), "0")
    return Candidate(variant, artifact, "board", p50, found, timing)


def config(**changes: object) -> Config:
    target = {"device": "board", "latency": f"<= {LIMIT_MS} ms"}
    return parse_config({"task": {"dataset": "npz"}, "targets": [target], **changes}, "test")


def delivered(*candidates: Candidate, **changes: object) -> Candidate:
    return choose(candidates, config(**changes), LIMIT_MS).delivered


FOUND = candidate("found", "fp32", (4.6, 4.7), rights(505, range(50)))
INT8 = candidate("found", "int8-static", (4.1, 4.2), rights(505, range(50)))


@pytest.mark.parametrize(("more", "undone"), [(2, False), (4, False), (5, True), (20, True)])
def test_pruning_is_not_undone_for_less_than_noise(more: int, undone: bool) -> None:
    """Four images of 505 are 0.8 points, of which pruning may cost 0.5."""
    pruned = candidate("pruned", "fp32", (3.2, 3.3), rights(505, range(50 + more)))
    assert delivered(FOUND, INT8, pruned) is (INT8 if undone else pruned)
    judged = choose([FOUND, INT8, pruned], config(), LIMIT_MS)
    met = gates(judged, [FOUND, INT8, pruned], config(), LIMIT_MS)
    assert all(g["met"] for g in met)


@pytest.mark.parametrize(
    ("images", "lost", "told"), [(505, 2, False), (505, 4, True), (45, 4, True), (45, 0, False)]
)
def test_a_loss_that_noise_hides_is_told(images: int, lost: int, told: bool) -> None:
    found = candidate("found", "fp32", (4.6, 4.7), rights(images, range(10)))
    pruned = candidate("pruned", "fp32", (3.2, 3.3), rights(images, range(10 + lost)))
    choice = choose([found, pruned], config(), LIMIT_MS)
    assert choice.delivered is pruned
    said = doubts(choice, [found, pruned], config())
    assert bool(said) is told
    if told:
        assert f"of the {images} test images" in said[0]
        assert f"{100 * lost / images:.1f} points fewer right" in said[0]
    assert doubts(choose([found], config(), LIMIT_MS), [found], config()) == []


def test_a_gate_goes_by_its_figure_whatever_the_noise() -> None:
    worse = candidate("found", "int8-static", (1.0, 1.1), rights(505, range(56)))  # 1.2 points
    assert delivered(FOUND, worse) is FOUND
    asked = {"gates": {"accuracy": ">= 89.2 %"}}
    almost = candidate("found", "fp32", (1.0, 1.1), rights(505, range(55)))
    exact = candidate("pruned", "fp32", (2.0, 2.1), rights(505, range(54)))
    assert delivered(almost, exact, **asked) is exact


def test_of_two_that_are_as_fast_the_more_accurate_is_delivered_if_it_is_surely_so() -> None:
    exact = candidate("found", "fp32", (2.0, 2.6), rights(505, range(40)))
    for lost, surely in ((0, False), (4, False), (5, True)):
        quick = candidate("found", "int8-static", (1.9, 2.5), rights(505, range(40 + lost)))
        choice = choose([exact, quick], config(), LIMIT_MS)
        assert choice.delivered is (exact if surely else quick)
        said = choice.why[(quick if surely else exact).artifact.path.name]
        assert ("less accurate" if surely else "no more accurate by more than noise") in said
    slow = candidate("found", "fp32", (2.6, 2.7), rights(505, range(40)))
    quick = candidate("found", "int8-static", (1.9, 2.5), rights(505, range(45)))
    assert delivered(slow, quick) is quick  # all that pass are alike but for time


def test_where_nothing_passes_the_fastest_of_the_most_accurate_is_delivered() -> None:
    wrong = [
        candidate("found", "fp32", (4.0, 4.1), rights(505, range(50)), agreement=0.5),
        candidate("pruned", "fp32", (3.0, 3.1), rights(505, range(53)), agreement=0.5),
        candidate("found", "int8-static", (1.0, 1.1), rights(505, range(80)), agreement=0.5),
    ]
    assert delivered(*wrong) is wrong[1]


def test_a_slower_file_is_never_taken_but_for_surely_more_accuracy() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        files = []
        for variant in ("found", "pruned"):
            for precision in ("fp32", "int8-static"):
                low = rng.uniform(1, 4)
                interval = (low, low * rng.uniform(1, 1.2))
                right = rights(300, range(int(rng.integers(30, 40))))
                files.append(candidate(variant, precision, interval, right))
        best = delivered(*files, gates={"drop": "100 points"}, prune={"max_drop": "0.5 points"})
        for other in files:
            if other.latency.p50_ms < best.latency.p50_ms:
                assert other.numbers.less_accurate(best.numbers)


def test_a_verdict_has_the_interval_of_each_accuracy() -> None:
    choice = choose([FOUND, INT8], config(), LIMIT_MS)
    ends = list(share_interval(455, 505))
    row = described(FOUND, choice)
    assert row["accuracy_interval"] == ends
    named = {g["name"]: g for g in gates(choice, [FOUND, INT8], config(), LIMIT_MS)}
    assert named["accuracy:onnx"]["interval"] == ends


@pytest.mark.parametrize(("factor", "chosen"), [(0.999, "fp32"), (0.99, "fp32"), (0.9, "int8")])
def test_the_precision_of_a_search_is_float_unless_int8_is_surely_faster(
    table: LatencyTable, space: Mobile, factor: float, chosen: str
) -> None:
    """Its margin of 5 % is that of one network: of what is fitted to eight, it is 1.8."""
    whole = Predictor(table)
    networks = [space.ops(space.all_first), space.ops(space.all_last)]
    predictors = {"fp32": whole, "int8": replace(whole, correction=factor)}
    assert surely_faster(predictors, networks) == chosen
    assert surely_faster({"int8": replace(whole, correction=1.5), "fp32": whole}, networks) == (
        "fp32"
    )
