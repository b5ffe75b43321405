"""What is delivered, and why: the decisions on figures that a device gave."""

from pathlib import Path

import pytest

from edgenas.artifact import Artifact, Inspection
from edgenas.config import Config, parse_config
from edgenas.measure import Measurement
from edgenas.verify import Candidate, Numbers, _least_quantized, choose, gates

LIMIT_MS = 1.0


def config(**changes: object) -> Config:
    target = {"device": "board", "latency": "<= 1 ms"}
    return parse_config({"task": {"dataset": "npz"}, "targets": [target], **changes}, "test")


def candidate(
    variant: str, precision: str, p50: float, accuracy: float, *,
    agreement: float = 1.0, quantized: float | None = None, size: int = 1000,
    torch: float | None = None, lost: float = 0.0, off: float = 0.0, memory: int | None = 5000,
) -> Candidate:  # fmt: skip
    asked = {"int8-static": 1.0, "mixed": 0.8}.get(precision, 0.0)
    share = asked if quantized is None else quantized
    timing = Measurement(
        p50, p50 * 1.1, p50 * 1.2, p50 * 0.9, (p50, p50), 5, 100, "stable", "measured", (1.0, 1.0)
    )
    path = Path(f"{variant}.{precision}.onnx")
    return Candidate(
        variant, Artifact(path, "onnx", precision, (1, 8, 8), "0"), "board", p50,
        Numbers(
            accuracy, agreement, 0.0, off, share, asked, 0, size, memory, torch or accuracy, lost,
            "a", 100,
        ),
        timing,
    )  # fmt: skip


FOUND = candidate("found", "fp32", 0.9, 0.90)
INT8 = candidate("found", "int8-static", 0.5, 0.895)


def name(c: Candidate) -> str:
    return c.artifact.path.name


def test_the_fastest_that_keeps_the_accuracy_is_delivered() -> None:
    choice = choose([FOUND, INT8], config(), LIMIT_MS)
    assert choice.delivered is INT8
    assert choice.why[name(FOUND)] == "slower: 0.9 ms against 0.5 ms"


def test_a_mixed_file_is_delivered_where_int8_loses_too_much_or_is_slower() -> None:
    poor, slow = (candidate("found", "int8-static", ms, a) for ms, a in ((0.4, 0.8), (0.8, 0.9)))
    mixed = candidate("found", "mixed", 0.6, 0.895)
    for int8 in (poor, slow):
        assert choose([FOUND, int8, mixed], config(), LIMIT_MS).delivered is mixed
    assert choose([FOUND, INT8, mixed], config(), LIMIT_MS).delivered is INT8


def test_a_mixed_file_of_a_pruned_network_may_not_lose_more_than_pruning_may() -> None:
    poor = candidate("pruned", "fp32", 0.4, 0.88)
    mixed = candidate("pruned", "mixed", 0.3, 0.879)
    choice = choose([FOUND, INT8, poor, mixed], config(), LIMIT_MS)
    assert choice.delivered is INT8
    assert choice.why[name(mixed)] == "accuracy 87.90% is below 89.00%"


def test_a_file_that_takes_no_memory_to_speak_of_is_not_refused() -> None:
    file = candidate("found", "fp32", 0.5, 0.9, memory=0)
    choice = choose([file], config(gates={"memory": "<= 4 kB"}), LIMIT_MS)
    assert choice.why[name(file)] == "delivered"


def test_int8_that_is_slower_is_undone() -> None:
    slow = candidate("found", "int8-static", 0.95, 0.90)
    choice = choose([FOUND, slow], config(), LIMIT_MS)
    assert choice.delivered is FOUND
    assert "slower" in choice.why[name(slow)]


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (candidate("found", "int8-static", 0.5, 0.88), "accuracy 88.00% is below 89.00%"),
        (candidate("found", "int8-static", 0.5, 0.90, agreement=0.9), "parity"),
        (candidate("found", "int8-static", 0.5, 0.90, quantized=0.9), "90% of its operators"),
        (candidate("found", "mixed", 0.5, 0.90, quantized=0.7), "70% of its operators"),
        (candidate("pruned", "fp32", 0.5, 0.89), "accuracy 89.00% is below 89.50%"),
    ],
)
def test_a_step_that_costs_too_much_is_undone(spoilt: Candidate, why: str) -> None:
    choice = choose([FOUND, spoilt], config(), LIMIT_MS)
    assert choice.delivered is FOUND
    assert why in choice.why[name(spoilt)]


def test_a_named_precision_is_obeyed_even_where_it_is_slower() -> None:
    choice = choose([FOUND, INT8], config(precision="fp32"), LIMIT_MS)
    assert choice.delivered is FOUND
    assert "was asked for" in choice.why[name(INT8)]


def test_a_repair_is_delivered_only_where_nothing_else_is_within_budget() -> None:
    repaired = candidate("repaired-1", "fp32", 0.4, 0.8)
    assert choose([FOUND, repaired], config(), LIMIT_MS).delivered is FOUND
    slow = candidate("found", "fp32", 1.5, 0.9)
    assert choose([slow, repaired], config(), LIMIT_MS).delivered is repaired


def test_gates_state_value_limit_and_whether_it_is_met() -> None:
    slow = candidate("found", "int8-static", 1.5, 0.9, size=2000)
    asked = config(precision="int8-static", gates={"accuracy": ">= 95 %", "size": "<= 1.5 kB"})
    both = [FOUND, slow]
    found = {g["name"]: g for g in gates(choose(both, asked, LIMIT_MS), both, asked, LIMIT_MS)}
    assert {n for n, g in found.items() if not g["met"]} == {
        *("latency:onnx", "accuracy:onnx", "size:onnx")
    }
    assert found["latency:onnx"]["value"] == 1.5
    assert found["latency:onnx"]["limit"] == LIMIT_MS
    assert found["accuracy:onnx"]["limit"] == pytest.approx(0.95)
    assert found["int8:onnx"]["value"] == 1.0


@pytest.mark.parametrize(
    ("taken", "limit", "met"), [(4000, 4000, True), (4001, 4000, False), (None, 4000, False)]
)
def test_memory_is_judged_where_it_is_asked_for(taken: int | None, limit: int, met: bool) -> None:
    file = candidate("found", "fp32", 0.5, 0.9, memory=taken)
    asked = config(gates={"memory": f"<= {limit} B"})
    choice = choose([file], asked, LIMIT_MS)
    (gate,) = (g for g in gates(choice, [file], asked, LIMIT_MS) if g["name"] == "memory:onnx")
    assert (gate["value"], gate["met"]) == (taken, met)


def test_what_is_too_large_is_not_delivered_where_another_is_not() -> None:
    large = candidate("found", "fp32", 0.3, 0.9, size=3000)
    small = candidate("found", "int8-static", 0.5, 0.9, size=1000)
    asked = config(gates={"size": "<= 2 kB"})
    choice = choose([large, small], asked, LIMIT_MS)
    assert choice.delivered is small
    assert choice.why[name(large)] == "it has 3000 bytes, more than 2000"
    hungry = candidate("found", "fp32", 0.3, 0.9, memory=9000)
    asked = config(gates={"memory": "<= 6 kB"})
    assert choose([hungry, small], asked, LIMIT_MS).delivered is small


def test_counts_of_float_operators_are_compared_and_not_their_rounded_shares() -> None:
    for operators in range(1, 60):
        for floats in range(operators):
            integer = operators - floats
            inspection = Inspection(
                operators, integer, (), 0, "float32", "float32", {"floats": str(floats)}
            )
            artifact = Artifact(Path("a.onnx"), "onnx", "mixed", (1, 8, 8), "0")
            assert integer / operators >= _least_quantized(artifact, inspection)


def test_nothing_that_may_be_delivered_still_gives_a_verdict() -> None:
    wrong = candidate("found", "fp32", 0.5, 0.9, agreement=0.5)
    asked = config()
    choice = choose([wrong], asked, LIMIT_MS)
    assert choice.delivered is wrong
    missed = [g["name"] for g in gates(choice, [wrong], asked, LIMIT_MS) if not g["met"]]
    assert missed == ["parity:onnx"]


def test_a_file_that_lost_accuracy_in_export_fails_without_any_gate_asked_for() -> None:
    wrong = candidate("found", "fp32", 0.5, 0.5, torch=0.9)
    asked = config()
    checks = gates(choose([wrong], asked, LIMIT_MS), [wrong], asked, LIMIT_MS)
    assert [g["name"] for g in checks if not g["met"]] == ["accuracy:onnx"]
