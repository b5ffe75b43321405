"""Instructions and a few operators of a real board -> a latency table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas import store
from edgenas.cli import main
from edgenas.count import table_path
from edgenas.errors import CorruptFile, ForeignTable, UsageError
from edgenas.instructions import Counts, Header, InstructionTable
from edgenas.latency import Header as LatencyHeader
from edgenas.latency import LatencyTable, Missing, Timing
from edgenas.lut import calibrate
from edgenas.spec import OpSpec

OPS = [
    OpSpec.of("mbconv", c, c, size, e=e, k=k, s=1)
    for c in (8, 16)
    for size in (7, 14, 28)
    for e in (3, 6)
    for k in (3, 5)
]
LIBRARY = {"runtime": "litert", "runtime_version": "2.3.0"}
NS = np.array([0.5, 0.4, 0.9, 0.1, 0.2])  # what an instruction of each class takes


def counts(**header: object) -> InstructionTable:
    rng = np.random.default_rng(0)
    rows = {
        op: Counts(*(int(v) for v in op.cin * op.size**2 * rng.integers(20, 90, 5))) for op in OPS
    }
    head = Header(
        "arm", "litert", "fp32", "s", {"arch": "aarch64", **LIBRARY}, Counts(9, 1, 0, 3, 7)
    )
    return InstructionTable(replace(head, **header), rows)


def board(number: int, noise: float = 0.0, **header: object) -> LatencyTable:
    """The first few operators as they would be timed on it."""
    rng, known = np.random.default_rng(1), counts()
    rows = {}
    for op in OPS[:number]:
        ms = 0.002 + float(np.dot(known.cost(op), NS)) / 1e6 * (1 + noise * rng.standard_normal())
        rows[op] = Timing(ms, ms * 1.1, None, 30)
    head = LatencyHeader("pi", "litert", "fp32", "few", {"cpu": "A72", **LIBRARY}, empty_ms=0.002)
    return LatencyTable(replace(head, **header), rows)


def test_ten_operators_of_the_board_price_all_others() -> None:
    truth, table = board(len(OPS)), calibrate(counts(), board(10), None)
    assert set(table.rows) == set(OPS)
    for op in OPS:
        row = table[op]
        assert row.floor_ms == pytest.approx(truth[op].floor_ms, rel=1e-6)
        assert row.provenance == ("measured" if op in OPS[:10] else "estimated")
    h = table.header
    assert (h.device, h.provenance, h.space, h.empty_ms) == ("pi", "estimated", "s", 0.002)
    assert h.protocol["calibrated_on"] == 10 and h.protocol["prices"] == "a class"
    assert h.fit is None, "it was not checked on networks"
    assert calibrate(counts(), board(10), 0.2).header.fit.margin == 0.2


def test_the_error_that_is_stated_is_the_error_that_is_made() -> None:
    truth = board(len(OPS), 0.1)
    table = calibrate(counts(), board(16, 0.1), None)
    stated = table.header.protocol["left_out_mape"][table.header.protocol["prices"]]
    made = np.mean([abs(table[op].floor_ms / truth[op].floor_ms - 1) for op in OPS[16:]])
    assert 0.4 * made < stated < 2.5 * made
    within = [
        table[op].interval_ms[0] <= truth[op].floor_ms <= table[op].interval_ms[1]
        for op in OPS[16:]
    ]
    assert np.mean(within) >= 0.8


def test_only_a_table_with_an_estimated_row_is_estimated() -> None:
    every = board(len(OPS), 0.1)
    whole = calibrate(counts(), every, None)
    assert whole.header.provenance == "measured" and whole.rows == every.rows
    assert calibrate(counts(), board(len(OPS) - 1), None).header.provenance == "estimated"


def test_what_was_measured_stays_though_nothing_is_learned_from_it() -> None:
    free, lame, known, timed = OPS[0], OPS[1], counts(), board(len(OPS))
    timed = replace(timed, rows={**timed.rows, free: Timing(0.001, 0.001, None, 30)})
    known = replace(known, rows={**known.rows, lame: Missing("unsupported", "no kernel")})
    table = calibrate(known, timed, None)
    assert table.rows == timed.rows
    assert table.header.protocol["calibrated_on"] == len(OPS) - 2


@pytest.mark.parametrize(
    ("instructions", "measured", "error", "says"),
    [
        ({}, {"number": 9}, UsageError, "9 operators .* time 10 or more there"),
        ({"precision": "int8-static"}, {}, ForeignTable, "counted at int8-static, pi timed at"),
        (
            {"fingerprint": {**LIBRARY, "runtime_version": "2.4.0"}}, {}, ForeignTable,
            "runtime_version 2.3.0, arm counted with 2.4.0.*one kernel library",
        ),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(
    instructions: dict[str, object], measured: dict[str, int], error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        calibrate(counts(**instructions), board(**{"number": 12, **measured}), None)


def test_what_was_not_counted_stays_without_a_figure() -> None:
    lame = counts()
    whole = replace(lame, rows={**lame.rows, OPS[-1]: Missing("unsupported", "no kernel")})
    assert isinstance(calibrate(whole, board(12), None).rows[OPS[-1]], Missing)


def test_the_command_writes_a_table_and_never_over_a_measured_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    instructions, measured = tmp_path / "arm.instructions.jsonl", tmp_path / "few.jsonl"
    counts().save(instructions)
    board(12, 0.05).save(measured)
    command = ["lut", "calibrate", str(instructions), str(measured), "--out", str(tmp_path)]
    assert main(command) == 0
    said = capfd.readouterr().out
    assert "pi.s.fp32.jsonl: 24 rows, estimated" in said and "on 12 operators, left out" in said
    board(24).save(tmp_path / "pi.s.fp32.jsonl")
    assert main(command) == 2
    assert "was measured: write elsewhere with --out" in capfd.readouterr().err
    assert LatencyTable.load(tmp_path / "pi.s.fp32.jsonl").header.provenance == "measured"


def test_show_takes_a_table_for_what_its_header_says_whatever_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = tmp_path / "counts.jsonl"
    counts().save(renamed)
    assert main(["lut", "show", str(renamed)]) == 0
    assert " instructions, " in capsys.readouterr().out
    timed = tmp_path / "pi.instructions.jsonl"
    board(12).save(timed)
    assert main(["lut", "show", str(timed)]) == 0
    assert " ms " in capsys.readouterr().out
    renamed.write_text('{"unit": "instructions"}\n')
    assert main(["lut", "show", str(renamed)]) == 2
    assert "not a whole table of instructions" in capsys.readouterr().err


def test_a_device_whose_name_holds_dots_has_tables_of_its_own(tmp_path: Path) -> None:
    name = "rack.2.pi"
    kept = table_path(tmp_path, name, "s", "fp32"), store.table_path(tmp_path, name, "s", "fp32")
    assert [path.name for path in kept] == [
        "rack.2.pi.s.fp32.instructions.jsonl", "rack.2.pi.s.fp32.jsonl"
    ]  # fmt: skip
    assert store.samples_path(kept[1]).name == "rack.2.pi.s.fp32.samples.jsonl.gz"
    with pytest.raises(UsageError, match=r"edgenas profile rack\.2\.pi$"):
        LatencyTable.load(kept[1])


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_file_is_an_error_line_or_the_right_answer(data: st.DataObject) -> None:
    text = counts().dumps()
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 30))
    mutated = text[:start] + data.draw(st.text(max_size=10)) + text[start + length :]
    try:
        assert InstructionTable.loads(mutated, "x").rows == counts().rows
    except CorruptFile as e:
        assert "\n" not in str(e)


NO_NAMES = [
    "../outside", "/tmp/outside", "a/b", "..", ".hidden", "", "a\0b", "n" * 300, "é" * 150,
    "..\\outside", "a\nb", " pi",
]  # fmt: skip


@pytest.mark.parametrize("field", ["device", "space", "precision"])
@pytest.mark.parametrize("name", NO_NAMES)
def test_a_header_names_no_file_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, name: str
) -> None:
    of_counts = {field: name} if field != "device" else {}
    counts(**of_counts).save(tmp_path / "c.jsonl")
    board(12, **({field: name} if field != "space" else {})).save(tmp_path / "m.jsonl")
    before = sorted(tmp_path.rglob("*"))
    argv = ["lut", "calibrate", *(str(tmp_path / n) for n in ("c.jsonl", "m.jsonl"))]
    assert main([*argv, "--out", str(tmp_path / "in" / "side")]) == 2
    err = capsys.readouterr().err
    assert "file" in err and err.count("\n") == 1 and len(err) < 400, err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_device_that_is_imported_for_names_no_file_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "t.csv").write_text("op,latency_ms\nconv 3-8 @12 k3 s1,1.0\n")
    before = sorted(tmp_path.rglob("*"))
    argv = ["lut", "import", str(tmp_path / "t.csv"), "--out", str(tmp_path / "in" / "side")]
    assert main([*argv, "--device", name]) == 2
    err = capsys.readouterr().err
    assert "file" in err and err.count("\n") == 1 and len(err) < 400, err
    assert sorted(tmp_path.rglob("*")) == before
