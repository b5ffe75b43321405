import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas import ops
from edgenas.cli import main
from edgenas.errors import UsageError
from edgenas.latency import Fit, Header, HeldOut, LatencyTable, Missing, Timing
from edgenas.lut import check, diff
from edgenas.spec import OpSpec

OPS = [
    OpSpec.of("mbconv", 16, 16, size, e=e, k=k, s=1)
    for size in (7, 14, 28)
    for e in (3, 6)
    for k in (3, 5)
]
GOOD = HeldOut(40, 0.01, 1.0, 1.0, 0.99, 0.0)


def row(ms: float, half: float = 0.01) -> Timing:
    return Timing(ms, ms * 1.05, ms * 1.2, 99, interval_ms=(ms * (1 - half), ms * (1 + half)))


def table(**header: object) -> LatencyTable:
    head = Header(
        "board", "litert", "fp32", "s", {"cpu": "A76"}, fit=Fit(0, 1, 1, 0, 8), held_out=GOOD
    )
    return LatencyTable(replace(head, **header), {op: row(1e-7 * ops.macs(op)) for op in OPS})


def with_row(op: OpSpec, new: Timing | Missing) -> LatencyTable:
    whole = table()
    return replace(whole, rows={**whole.rows, op: new})


def texts(whole: LatencyTable, kind: str) -> list[str]:
    return [f.text for f in check(whole, OPS, ops.macs) if f.kind == kind]


# --- check


def test_nothing_is_wrong_with_a_good_table() -> None:
    assert check(table(), OPS, ops.macs) == []


def test_what_a_table_lacks_is_missing() -> None:
    other = OpSpec.of("conv", 3, 16, 28, k=3, s=2)
    (found,) = check(table(), [*OPS, other])
    assert (found.kind, found.text) == ("missing", f"no row for '{other}'")
    (text,) = texts(with_row(OPS[0], Missing("failed", "out of memory")), "missing")
    assert text == f"'{OPS[0]}' is failed: out of memory"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"grade": "unstable"}, "slow throughout"),
        ({"fit": None, "held_out": None}, "never checked"),
        ({"held_out": replace(GOOD, within_10=0.8)}, "only 80% of 40"),
    ],
)
def test_a_table_that_keeps_no_budget_is_untrusted(header: dict, said: str) -> None:
    (text,) = texts(table(**header), "untrusted")
    assert said in text


def test_a_larger_kernel_that_is_faster_beyond_its_interval_is_suspicious() -> None:
    small, large = OPS[0], OPS[1]
    found = texts(with_row(large, row(table()[small].floor_ms * 0.9)), "suspicious")
    assert any(f"'{large}' has more k than '{small}' and is faster" in text for text in found)
    near = texts(with_row(large, row(table()[small].floor_ms * 0.99)), "suspicious")
    assert not any("more k" in text for text in near)


def test_a_row_unlike_its_kind_and_an_uncertain_one_are_suspicious() -> None:
    far = texts(with_row(OPS[-1], row(50 * table()[OPS[-1]].floor_ms)), "suspicious")
    assert any(f"'{OPS[-1]}'" in text and "times what mbconv" in text for text in far)
    ms = table()[OPS[3]].floor_ms
    (wide,) = texts(with_row(OPS[3], row(ms, half=0.3)), "suspicious")
    assert f"'{OPS[3]}': wide interval" in wide
    (noisy,) = texts(with_row(OPS[3], replace(row(ms), p50_ms=2 * ms)), "suspicious")
    assert "far over" in noisy


# --- diff


def test_a_table_agrees_with_itself() -> None:
    same = diff(table(), table())
    assert (same.rows, same.agree, same.ratio, same.spread) == (12, 1.0, 1.0, 0.0)
    assert not (same.moved or same.only_first or same.only_second or same.header)


def test_what_moved_beyond_the_intervals_is_found_and_what_only_wobbled_is_not() -> None:
    before, extra = table(), OpSpec.of("conv", 3, 16, 28, k=3, s=2)
    rows = dict(before.rows)
    rows[OPS[0]] = row(before[OPS[0]].floor_ms * 1.5)
    rows[OPS[1]] = row(before[OPS[1]].floor_ms * 1.015)
    del rows[OPS[2]]
    after = replace(table(fingerprint={"cpu": "A78"}), rows={**rows, extra: row(1.0)})
    found = diff(before, after)
    (moved,) = found.moved
    assert moved.op == OPS[0] and moved.ratio == pytest.approx(1.5)
    assert found.agree == pytest.approx(10 / 11)
    assert (found.only_first, found.only_second) == ((OPS[2],), (extra,))
    assert found.header == {"cpu": ("A76", "A78")}


def test_tables_with_nothing_in_common_are_refused() -> None:
    other = replace(table(), rows={OpSpec.of("conv", 3, 16, 28, k=3, s=2): row(1.0)})
    with pytest.raises(UsageError, match="no timed operator in common"):
        diff(table(), other)


# --- the commands


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "board.s.fp32.jsonl"
    table().save(path)
    return path


def test_show_sorts_filters_and_marks_what_was_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "t.jsonl"
    estimated = replace(row(9.0), provenance="estimated")
    conv = OpSpec.of("conv", 3, 16, 28, k=3, s=2)
    replace(table(), rows={**table().rows, OPS[3]: estimated, conv: row(0.5)}).save(path)
    assert main(["lut", "show", str(path), "--kind", "mbconv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[0].startswith(str(OPS[3])) and lines[0].endswith("estimated")
    assert main(["lut", "show", str(path), "--sort", "op", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert list(rows) == sorted(rows) and len(rows) == 13
    assert main(["lut", "show", str(path), "--kind", "pool"]) == 2
    assert "has no pool; its operators are conv, mbconv" in capsys.readouterr().err


def test_check_exits_by_what_it_found(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["lut", "check", str(saved)]) == 0
    assert capsys.readouterr().out == ""
    table(grade="unstable").save(tmp_path / "u.jsonl")
    assert main(["lut", "check", str(tmp_path / "u.jsonl"), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)[0]["kind"] == "untrusted"
    with_row(OPS[0], Missing("failed", "x")).save(tmp_path / "m.jsonl")
    assert main(["lut", "check", str(tmp_path / "m.jsonl")]) == 2
    assert "is not whole: edgenas profile board" in capsys.readouterr().err


def test_diff_prints_what_moved(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with_row(OPS[0], row(9.0)).save(tmp_path / "b.jsonl")
    assert main(["lut", "diff", str(saved), str(tmp_path / "b.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "12 rows in both: 91.7% agree" in out and f"\n{OPS[0]}" in out
    assert main(["lut", "diff", str(saved), str(tmp_path / "b.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["moved"][0]["op"] == str(OPS[0])
    assert main(["lut", "diff", str(saved), str(tmp_path / "none.jsonl")]) == 2
