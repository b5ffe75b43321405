"""What a finished run says on a terminal."""

from pathlib import Path

import pytest
from report_run import build_run

from edgenas.files import read_json
from edgenas.summary import summary


def test_what_a_repair_costs_is_noted(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    verdict = read_json(run / "verdict.json")
    c = next(c for c in verdict["candidates"] if c["delivered"])
    assert "what the budget costs" not in summary(verdict, run)
    found = next(
        f for f in verdict["candidates"] if f["format"] == c["format"] and f["variant"] == "found"
    )
    c["variant"], c["accuracy"], found["accuracy"] = "repaired-1", 0.7, 0.85
    found = {**found, "variant": "found", "delivered": False}
    verdict["candidates"] = [found, c]
    found["accuracy"] = 0.85
    assert "repaired-1 on" in summary(verdict, run)
    assert "15 points below found: that is what the budget costs" in summary(verdict, run)


@pytest.mark.parametrize(("speed", "said"), [(1.0, False), (1.1, False), (1.4, True), (0.7, True)])
def test_a_table_of_another_speed_is_noted(tmp_path: Path, speed: float, said: bool) -> None:
    run = build_run(tmp_path)
    verdict = read_json(run / "verdict.json")
    for c in verdict["candidates"]:
        if c["delivered"] and c["predicted_p50_ms"]:
            c["predicted_p50_ms"] = c["latency"]["p50_ms"] / speed
    text = summary(verdict, run)
    assert (f"took {speed:.2f} of what its table says" in text) is said
    assert (f"it was {'slower' if speed < 1 else 'faster'} when that was" in text) is said


@pytest.mark.parametrize("how", ["measured", "simulated", "estimated"])
def test_times_that_were_not_measured_are_noted(tmp_path: Path, how: str) -> None:
    run = build_run(tmp_path)
    verdict = read_json(run / "verdict.json")
    for c in verdict["candidates"]:
        c["latency"]["provenance"] = how
    text = summary(verdict, run)
    assert (f"note    cpu-litert: its times are {how}, not measured" in text) is (how != "measured")
