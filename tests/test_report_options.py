"""What each option costs on a device, as the report of a run says it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_run import DEVICES, SPACE, build_run
from test_report import change, page

from edgenas import ops
from edgenas.latency import LatencyTable, Missing, Timing
from edgenas.predict import Predictor
from edgenas.report.options import Step, option_costs, steps
from edgenas.report.record import Record
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec

OPTIONS = {
    c.name: dict(zip(c.options, SPACE.option_ops(c.name), strict=True)) for c in SPACE.choices
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("runs"), pruned=False)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def table_of(run: Path, device: str) -> tuple[LatencyTable, Path]:
    path = run / f"profile/{device}.int8-static.jsonl"
    return LatencyTable.load(path), path


def search(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "search/search.json").read_text())
    return found


def at(found: list[Step], axis: str, value: int | str) -> Step:
    return next(s for s in found if (s.axis, s.value) == (axis, value))


def test_every_option_has_its_cost_by_the_table_and_the_chosen_one_is_framed(whole: Path) -> None:
    shown, picked = page(whole), search(whole)["labels"]
    framed = [str(t["title"]) for t in shown.all("td") if "picked" in str(t.get("class"))]
    assert len(framed) == len(DEVICES) * len(picked)
    for number, device in enumerate(DEVICES):
        predictor = Predictor(table_of(whole, device)[0])
        for (choice, label), note in zip(
            picked.items(), framed[number * len(picked) :], strict=False
        ):
            ms = sum(map(predictor.cost_ms, OPTIONS[choice][label]))
            digits = float(note.split(": ")[1].split("\xa0")[0])
            assert note.startswith(f"{label} at {choice}: ")
            assert digits == pytest.approx(ms, rel=0.006)


def test_devices_stand_side_by_side_with_their_provenance(run: Path) -> None:
    table, path = table_of(run, "cpu-litert")
    simulated = {
        op: replace(row, provenance="simulated")
        for op, row in table.rows.items()
        if isinstance(row, Timing)
    }
    LatencyTable(replace(table.header, provenance="simulated"), simulated).save(path)
    said = page(run).said["why"]
    first, second = said.split("cpu-litert")
    assert "Why this network on these devices" in first
    assert "measured" in first and "simulated" not in first
    assert "simulated" in second and "measured" not in second


def test_a_row_that_is_missing_has_no_number_and_a_reason(run: Path) -> None:
    table, path = table_of(run, "cpu-onnxruntime")
    (gone,) = OPTIONS["s1b1"]["k5e6"]
    rows = {op: row for op, row in table.rows.items() if op != gone}
    (refused,) = OPTIONS["s2b1"]["k3e3"]
    LatencyTable(table.header, {**rows, refused: Missing("unsupported", "not there")}).save(path)
    shown = page(run)
    assert "Not everything could be priced" in shown.said["why"]
    notes = [str(t["title"]) for t in shown.all("td") if "title" in t]
    assert sum("k5e6 at s1b1: –" in n for n in notes) == 1
    assert sum("k3e3 at s2b1: –" in n for n in notes) == 1
    assert "The options that were chosen take" in shown.said["why"]  # on the other device
    assert shown.said["why"].count("The options that were chosen take") == 1


def test_a_table_that_is_not_there_is_said(run: Path) -> None:
    table_of(run, "cpu-litert")[1].unlink()
    said = page(run).said["why"]
    assert "the table of cpu-litert for int8-static is not in the run directory" in said
    assert "kernel" in said.split("cpu-litert")[0]


def edited(options: Callable[[Any], Any]) -> Callable[[Any], None]:
    def edit(found: Any) -> None:
        found["options"] = options(found["options"])

    return edit


@pytest.mark.parametrize("options", [{}, {"s1b1": {"k3e3": ["nothing that is known"]}}])
def test_without_options_there_is_no_such_section(run: Path, options: dict[str, Any]) -> None:
    change(run / "search/search.json", edited(lambda _: options))
    assert "why" not in page(run).said


def test_a_run_from_before_options_were_written_has_no_such_section(run: Path) -> None:
    change(run / "search/search.json", lambda found: found.pop("options"))
    assert "why" not in page(run).said


def test_options_of_several_operators_have_costs_but_no_axes(run: Path) -> None:
    def doubled(options: Any) -> Any:
        return {c: {label: 2 * of for label, of in labels.items()} for c, labels in options.items()}

    once = option_costs(Record.read(run))
    change(run / "search/search.json", edited(doubled))
    twice = option_costs(Record.read(run))
    assert once and twice
    assert once.devices[0].steps and not twice.devices[0].steps
    for one, two in zip(once.devices[0].places, twice.devices[0].places, strict=True):
        cells = zip(one.cells, two.cells, strict=True)
        assert all(a.small == b.small for a, b in cells if a and b)  # relative to the cheapest
    assert "expansion" not in page(run).said["why"].split("cpu-onnxruntime")[1]


def test_a_device_without_costs_of_its_own_divides_by_nothing(run: Path) -> None:
    table, path = table_of(run, "cpu-litert")
    LatencyTable(replace(table.header, empty_ms=1e6), table.rows).save(path)
    found = option_costs(Record.read(run))
    assert found and not found.devices[1].steps
    texts = {c.text for p in found.devices[1].places for c in p.cells if c}
    assert texts == {"0"} and page(run)


@given(st.floats(1e-3, 1e3))
def test_where_work_is_all_that_counts_no_axis_is_better_used(ms_per_mac: float) -> None:
    found = steps(OPTIONS, lambda op: ms_per_mac * ops.macs(op))
    assert {(s.axis, s.value) for s in found} == {
        ("k", 3), ("k", 5), ("k", 7), ("e", 3), ("e", 6),
    }  # fmt: skip
    assert all(s.rate == pytest.approx(1) for s in found)
    assert at(found, "e", 6).macs == pytest.approx(2)


@given(st.floats(1, 9), st.floats(1, 9))
def test_an_axis_is_told_apart_from_the_others(kernel: float, expansion: float) -> None:
    def cost(op: OpSpec) -> float:
        dear = kernel if op.arg("k", 3) == 7 else 1.0
        return op.cin * dear * (expansion if op.arg("e", 1) == 6 else 1.0)

    found = steps(OPTIONS, cost, {"s1b1": "k7e3", "s1b2": "k7e6", "s1b3": "skip"})
    assert at(found, "k", 7).time == pytest.approx(kernel)
    assert at(found, "e", 6).time == pytest.approx(expansion)
    assert at(found, "k", 5).time == at(found, "k", 3).time == pytest.approx(1)
    assert (at(found, "k", 7).chosen, at(found, "e", 6).chosen, at(found, "k", 3).chosen) == (
        2, 1, 0,
    )  # fmt: skip


def test_a_ratio_is_the_geometric_mean_of_all_places() -> None:
    found = steps(OPTIONS, lambda op: 8.0 if op.arg("k", 3) == 7 and op.size > 4 else 1.0)
    large = sum(of["k3e3"][0].size > 4 for of in OPTIONS.values())
    assert 0 < large < len(OPTIONS)
    assert at(found, "k", 7).time == pytest.approx(8 ** (large / len(OPTIONS)))


def test_fused_blocks_stand_beside_those_of_the_same_kernel_and_expansion() -> None:
    """A plain convolution has no expansion, and is in no pair of blocks."""
    space = Mobile.configured({"preset": "64px"})
    options = {
        c.name: dict(zip(c.options, space.option_ops(c.name), strict=True)) for c in space.choices
    }
    ms = {"mbconv": 1.0, "fused-mbconv": 3.0, "conv": 5.0}
    picked = {"s1b1": "fused-k3e3", "s1b2": "conv-k3", "s1b3": "skip", "s2b1": "k5e6"}
    found = steps(options, lambda op: ms[op.kind] * op.arg("e", 1), picked)
    assert {(s.axis, s.value) for s in found} == {
        ("kind", "mbconv"), ("kind", "fused-mbconv"), ("k", 3), ("k", 5), ("e", 3), ("e", 6),
    }  # fmt: skip
    assert at(found, "kind", "fused-mbconv").time == pytest.approx(3)
    assert at(found, "kind", "fused-mbconv").macs > 2
    assert at(found, "e", 6).time == pytest.approx(2)
    assert [at(found, "kind", k).chosen for k in ("mbconv", "fused-mbconv")] == [1, 1]
    assert (at(found, "k", 3).chosen, at(found, "k", 5).chosen) == (2, 1)


def test_gates_and_activations_are_axes_too() -> None:
    space = Mobile.configured({"preset": "tiny-v3"})
    options = {
        c.name: dict(zip(c.options, space.option_ops(c.name), strict=True)) for c in space.choices
    }
    found = steps(options, lambda op: 2.0 if op.arg("hs", 0) else 1.0)
    assert at(found, "hs", 1).time == pytest.approx(2)
    assert at(found, "se", 4).time == pytest.approx(1)
    assert at(found, "se", 4).macs > 1
