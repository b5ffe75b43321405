import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgenas import ops
from edgenas.budgets import Latency
from edgenas.cli import main
from edgenas.errors import CorruptFile, ForeignTable, UsageError
from edgenas.latency import Checked, Fit, Header, HeldOut, LatencyTable, Missing, Timing
from edgenas.lut import check, diff, import_table, merge
from edgenas.predict import Predictor
from edgenas.relax import Loads
from edgenas.search import Objective
from edgenas.space import load_space
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


def test_of_many_rows_that_look_alike_the_command_prints_a_few(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "wide.jsonl"
    whole = table()
    replace(whole, rows={op: row(1e-7 * ops.macs(op), half=0.3) for op in OPS}).save(path)
    assert main(["lut", "check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and f"... and {len(OPS) - 5} more rows like these" in lines[-1]
    assert main(["lut", "check", str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(OPS)


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


# --- import

PUBLISHED = """
Conv-input:224x224x3-output:112x112x32: {count: 100, mean: 4.0, var: 0.25}
Logits-input:7x7x1280-output:1000: {count: 100, mean: 0.3, var: 0.01}
expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:5-stride:2-idskip:0:
  {count: 4, mean: 7.5, var: 0.04}
"""


def test_a_published_yaml_becomes_rows_with_intervals(tmp_path: Path) -> None:
    path = tmp_path / "phone.yaml"
    path.write_text(PUBLISHED)
    rows = import_table(path, "phone", "fp32", None).rows
    assert set(map(str, rows)) == {
        "conv 3-32 @224 k3 s2", "classifier 1280-1000 @7", "mbconv 16-24 @112 e3 k5 s2",
    }  # fmt: skip
    block = rows[OpSpec.parse("mbconv 16-24 @112 e3 k5 s2")]
    assert isinstance(block, Timing) and (block.floor_ms, block.n) == (7.5, 4)
    assert block.interval_ms == pytest.approx((7.5 - 0.196, 7.5 + 0.196))


def once_for_all(size: int, first: int, blocks: list[tuple[int, int, int, int, int, int]]):
    """Keys of a whole network. ``blocks``: hidden and output channels, kernel, stride, se, hs."""
    side = (size + 1) // 2
    keys, cin = [f"Conv-input:{size}x{size}x3-output:{side}x{side}x{first}"], first
    for hidden, cout, kernel, stride, se, hs in blocks:
        out = (side - 1) // stride + 1
        keys.append(
            f"expanded_conv-input:{side}x{side}x{cin}-output:{out}x{out}x{cout}-expand:{hidden}"
            f"-kernel:{kernel}-stride:{stride}-idskip:{int(stride == 1 and cin == cout)}"
            f"-se:{se}-hs:{hs}"
        )
        side, cin = out, cout
    last = f"{side}x{side}"
    return [
        *keys, f"Conv_1-input:{last}x{cin}-output:{last}x1152",
        f"AvgPool2D-input:{last}x1152-output:1x1x1152",
        "Conv_2-input:1x1x1152-output:1x1x1536", "Logits-input:1x1x1536-output:1000",
    ]  # fmt: skip


NETWORKS = [
    (224, 24, [(24, 24, 3, 1, 0, 0), (144, 32, 3, 2, 0, 0), (96, 32, 5, 1, 0, 0),
               (128, 48, 7, 2, 1, 0), (192, 48, 3, 1, 1, 0), (288, 96, 3, 2, 0, 1)]),
    (160, 16, [(16, 16, 3, 1, 0, 0), (64, 24, 3, 2, 0, 0), (72, 24, 3, 1, 0, 0),
               (200, 24, 3, 1, 0, 1), (184, 40, 5, 2, 1, 1), (123, 40, 5, 1, 1, 1)]),
    (225, 17, [(35, 17, 3, 1, 0, 1), (35, 17, 3, 1, 1, 1), (35, 17, 3, 1, 1, 0),
               (40, 20, 5, 2, 0, 0)]),
]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("spread", ["std", "var"])
def test_a_table_of_once_for_all_is_read_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], network, spread: str
) -> None:
    keys = once_for_all(*network)
    means = {key: 0.1 + 0.37 * number for number, key in enumerate(keys)}
    path = tmp_path / "224_lookup_table.yaml"
    path.write_text("".join(
        f"{key}: {{count: 25, mean: {ms}, {spread}: 0.25}}\n" for key, ms in means.items()
    ))  # fmt: skip
    argv = ["lut", "import", str(path), "--device", "note10", "--out", str(tmp_path), "--json"]
    assert main(argv) == 0
    told = json.loads(capsys.readouterr().out)
    table = import_table(path, "note10", "fp32", 0.0)
    assert len(table.rows) == len(keys) == told["rows"]
    assert sum(table.cost_ms(op) for op in table.rows) == pytest.approx(sum(means.values()))
    half = 1.96 * (0.25 if spread == "std" else 0.5) / 5
    for row, ms in zip(table.rows.values(), means.values(), strict=True):
        assert row.floor_ms == ms
        assert row.interval_ms == pytest.approx((max(ms - half, 0.0), ms + half))
    again = LatencyTable.loads(table.dumps(), "x")
    assert again.rows.keys() == table.rows.keys()


@pytest.mark.parametrize(
    ("key", "op"),
    [
        ("Conv-input:225x225x3-output:113x113x16", "conv 3-16 @225 k3 s2"),
        ("Conv_1-input:7x7x192-output:7x7x1152", "conv 192-1152 @7 k1 s1"),
        ("Conv_2-input:1x1x1152-output:1x1x1536", "conv 1152-1536 @1 k1 s1"),
        ("AvgPool2D-input:7x7x1152-output:1x1x1152", "mean 1152-1152 @7"),
        ("Logits-input:1x1x1536-output:1000", "classifier 1536-1000 @1"),
        ("expanded_conv-input:56x56x24-output:28x28x40-expand:144-kernel:3-stride:2-idskip:0"
         "-se:0-hs:0", "mbconv 24-40 @56 e6 k3 s2"),
        ("expanded_conv-input:56x56x24-output:56x56x24-expand:100-kernel:5-stride:1-idskip:1"
         "-se:1-hs:1", "mbconv 24-24 @56 h100 hs1 k5 s1 se4"),
        ("expanded_conv-input:56x56x24-output:56x56x24-expand:100-kernel:5-stride:1-idskip:0"
         "-se:0-hs:1", "mbconv 24-24 @56 h100 hs1 k5 s1 skip0"),
        ("expanded_conv-input:56x56x24-output:56x56x24-expand:6-kernel:5-stride:1-idskip:1",
         "mbconv 24-24 @56 e6 k5 s1"),
    ],
)  # fmt: skip
def test_a_published_key_says_which_operator(tmp_path: Path, key: str, op: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"{key}: {{count: 1, mean: 2, std: 0}}\n")
    assert [str(o) for o in import_table(path, "b", "fp32", None).rows] == [op]


@pytest.mark.parametrize(
    "line",
    [
        "Conv_3-input:1x1x3-output:1x1x4: {count: 1, mean: 1.0, std: 0.1}",
        "AvgPool2D-input:7x7x3-output:2x2x3: {count: 1, mean: 1.0, std: 0.1}",
        "AvgPool2D-input:7x7x3-output:1x1x4: {count: 1, mean: 1.0, std: 0.1}",
        "Conv-input:7x8x3-output:4x4x4: {count: 1, mean: 1.0, std: 0.1}",
        "Conv-input:7x7x3-output:4x4x4-expand:1-kernel:3-stride:1-idskip:0:"
        " {count: 1, mean: 1, std: 0}",
        "expanded_conv-input:7x7x3-output:4x4x4: {count: 1, mean: 1.0, std: 0.1}",
        "expanded_conv-input:7x7x3-output:7x7x4-expand:0-kernel:3-stride:1-idskip:0-se:0-hs:0:"
        " {count: 1, mean: 1.0, std: 0.1}",
        "Conv_1-input:7x7x3-output:7x7x4: {count: 1, mean: 1.0}",
        "Conv_1-input:7x7x3-output:7x7x4: {count: 1, mean: 1.0, std: -1}",
        "Conv_1-input:7x7x3-output:7x7x4: {count: 1, mean: 1.0, std: wide}",
        "Conv_1-input:7x7x3-output:7x7x4: 3.0",
    ],
)
def test_a_published_key_that_says_nothing_known_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"Conv_1-input:9x9x3-output:9x9x4: {{count: 1, mean: 1, std: 0}}\n{line}\n")
    with pytest.raises(CorruptFile) as error:
        import_table(path, "b", "fp32", None)
    assert line.partition(": ")[0][:30] in str(error.value)


@given(st.dictionaries(st.sampled_from(OPS), st.floats(1e-3, 1e6), min_size=1))
def test_a_csv_reads_back_in_every_unit(tmp_path_factory, rows: dict[OpSpec, float]) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    for unit, per_ms in (("ms", 1), ("us", 1e3), ("s", 1e-3)):
        lines = [f"{op},{ms * per_ms!r}" for op, ms in rows.items()]
        path.write_text("\n".join([f"op,latency_{unit}", *lines]))
        read = import_table(path, "b", "fp32", None)
        assert {op: read[op].floor_ms for op in read.rows} == pytest.approx(rows)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "op,latency\nconv 3-8 @4 k1 s1,3", "ends in its unit"),
        ("t.csv", "", "found nothing"),
        ("t.csv", "op,ms\n", "has no rows"),
        ("t.csv", "op,ms\nconv 3-8 @4 k1 s1,fast", "line 2: could not convert"),
        ("t.csv", "op,ms\nconv 3-8 @4 k1 s1,1\nconv 3-8 @4 k1 s1,1", "line 3: .* twice"),
        ("t.csv", "op,ms\nconv 3-8 @4 k1 s1,-1", "line 2: .*not negative"),
        ("t.csv", "op,ms\nconv 3-8 @4 k1 s1,1_0", "line 2: '1_0' could be meant in two ways"),
        ("t.csv", "op,ms,n\nconv 3-8 @4 k1 s1,1,1_0", "line 2: '1_0' could be meant in two ways"),
        ("t.csv", "KERNEL,HW,CIN,ms\nconv,1_6,3,1", "line 2: '1_6' could be meant in two ways"),
        ("t.csv", "op,ms\nconv 3-8 @4 k1 s1,1e-400", "line 2: '1e-400' is too small"),
        ("t.csv", "op,ms\nconv 3-8 @4 k1 s1", "line 2: it has no time"),
        ("t.csv", "op,ms\nwarp 9,1", "line 2: not an operator"),
        ("t.csv", '"op,ms\nconv 3-8 @4 k1 s1,1\n', "line 1: unexpected end of data"),
        ("t.csv", 'op,ms\n"conv 3-8 @4 k1 s1,1\n', "unexpected end of data"),
        ("t.csv", "op" * 100_000, "line 1: field larger than field limit"),
        ("t.csv", ",".join(f"c{k}" for k in range(100_000)), "ends in its unit"),
        ("t.csv", "op,ms\n" + "x" * 200_000, "field larger than field limit"),
        ("t.csv", "op,ms\nconv 3-8 @4 k1 s1,1,2\n", "line 2: it has more than 2 columns"),
        ("t.csv", "op,op,ms\nconv 3-8 @4 k1 s1,warp,2\n", "line 1: the column 'op' .* twice"),
        ("t.csv", "KERNEL,HW,CIN,ms\nconv,8,3,1,9\n", "line 2: it has more than 4 columns"),
        ("t.csv", "KERNEL,HW,CIN,ms\nconv,-8,3,1\n", "line 2: CIN is 3 and HW -8"),
        ("t.csv", "KERNEL,HW,CIN,ms\nconv,8,0,1\n", "line 2: CIN is 0"),
        ("t.yaml", "a: [", "is not YAML"),
        ("t.yaml", "!!python/object/apply:os.system [id]", "is not YAML"),
        ("t.yaml", "- 1", "expected operators"),
        ("t.yaml", "warp: {count: 1, mean: 1}", "'warp' is no operator"),
        ("t.yaml", PUBLISHED.replace("mean: 4.0", "mean: fast"), "mean in ms"),
        ("t.yaml", PUBLISHED.replace("count: 4,", "count: 0,"), "1 or more"),
        ("t.pkl", "", "are read from .yaml, .yml, .csv"),
    ],
)
def test_what_is_no_table_is_refused_in_a_line(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as error:
        import_table(path, "b", "fp32", None)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("columns", ["op,latency_ms", '"op","latency_ms"', "latency_ms,op"])
def test_a_table_of_a_spreadsheet_begins_with_a_mark(
    tmp_path: Path, columns: str, end: str
) -> None:
    path = tmp_path / "t.csv"
    row = "1.5,conv 3-8 @4 k1 s1" if columns.startswith("lat") else "conv 3-8 @4 k1 s1,1.5"
    path.write_bytes(f"\ufeff{columns}{end}{row}{end}".encode())
    (ms,) = (timing.floor_ms for timing in import_table(path, "b", "fp32", None).rows.values())
    assert ms == 1.5


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
@pytest.mark.parametrize("suffix", [".csv", ".yaml"])
def test_a_table_in_another_encoding_is_told(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes("op,ms  # \xe9\n".encode(encoding))
    with pytest.raises(UsageError, match=r"line 1 is not UTF-8: save it as UTF-8"):
        import_table(path, "b", "fp32", None)


PIXEL1 = Path(
    os.environ.get("EDGENAS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
) / "pixel1/mobile_trim.yaml"  # fmt: skip


@pytest.mark.skipif(not PIXEL1.exists(), reason=f"the published table is not at {PIXEL1}")
def test_the_table_of_the_paper_expects_what_its_authors_space_expects() -> None:
    table = import_table(PIXEL1, "pixel1", "fp32", 0.0)
    assert len(table.rows) == 72
    space = load_space({"kind": "mobile", "preset": "proxyless"})
    assert not table.missing(space.vocabulary())
    predictor = Predictor(table)
    loads = Loads.of(space, Objective((Latency("pixel1", 100.0, predictor),)))
    scores = {
        c.name: torch.zeros(len(c.options), dtype=torch.float64, requires_grad=True)
        for c in space.choices
    }

    def expected_ms() -> torch.Tensor:
        probs = {name: s.softmax(0) for name, s in scores.items()}
        fixed = loads.fixed.double()
        parts = [loads.options[name].double() @ p for name, p in probs.items()]
        return 100 * (fixed + torch.stack(parts).sum(0))[0]

    uniform = expected_ms()
    assert float(uniform.detach()) == pytest.approx(113.99, abs=0.005)
    probs = {name: s.detach().softmax(0).float() for name, s in scores.items()}
    assert float(100 * loads.expected(probs)[0]) == pytest.approx(113.99, abs=0.005)
    uniform.backward()
    for score in list(scores.values())[::5]:
        for i in range(len(score)):
            with torch.no_grad():
                score[i] += 1e-4
                up = float(expected_ms())
                score[i] -= 2e-4
                down = float(expected_ms())
                score[i] += 1e-4
            assert score.grad is not None
            assert (up - down) / 2e-4 == pytest.approx(float(score.grad[i]), rel=1e-4, abs=1e-7)


# --- merge


CONV = OpSpec.of("conv", 3, 16, 28, k=3, s=2)


def test_merged_tables_have_all_rows_and_the_surer_of_two() -> None:
    surer = row(table()[OPS[0]].floor_ms * 1.005, half=0.002)
    lame = with_row(OPS[1], Missing("failed", "busy"))
    other = replace(table(), rows={CONV: row(0.5), OPS[0]: surer, OPS[1]: row(3.0)})
    both = merge([lame, other])
    assert set(both.rows) == {*OPS, CONV}
    assert both[OPS[0]] == surer and both[OPS[1]] == row(3.0) and both[CONV] == row(0.5)
    assert (both.header, both[OPS[2]]) == (lame.header, lame[OPS[2]])
    noisy = replace(
        other, rows={CONV: row(0.5)}, header=replace(other.header, grade="noisy", space="another")
    )
    assert merge([table(), noisy]).header == replace(table().header, grade="noisy")
    assert merge([table()]) == table()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": {"cpu": "A55"}}, "cpu 'A76', not 'A55'"),
        ({"precision": "int8-static"}, "precision 'fp32', not 'int8-static'"),
        ({"device": "phone"}, "device 'board', not 'phone'"),
        ({"batch": 8}, "batch 1, not 8"),
    ],
)
def test_tables_of_different_things_are_not_merged(change: dict, said: str) -> None:
    with pytest.raises(ForeignTable, match=said):
        merge([table(), table(**change)])


def test_tables_that_disagree_are_not_merged() -> None:
    slow = {op: row(1.2 * table()[op].floor_ms) for op in OPS}
    with pytest.raises(ForeignTable, match=r"only 0% of 12 rows .* not in the same state"):
        merge([table(), replace(table(), rows=slow)])


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


def test_merge_writes_a_table_or_nothing(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other, out = tmp_path / "other.jsonl", tmp_path / "both.jsonl"
    replace(table(), rows={CONV: row(0.5)}).save(other)
    assert main(["lut", "merge", str(saved), str(other), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 13
    assert len(LatencyTable.load(out).rows) == 13
    table(precision="int8-static").save(other)
    assert main(["lut", "merge", str(saved), str(other), "--out", str(tmp_path / "no")]) != 0
    assert not (tmp_path / "no").exists()


def test_plot_draws_every_row_and_network_and_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    networks = tuple(Checked(f"a{i}", 1.0 + i, 1.0 + i, 1.1 + i, 1.2 + i) for i in range(12))
    whole = table(
        device="<b>board", networks=networks, baselines={"plain sum": GOOD},
        facts={"warnings": ["it is <hot>"]},
    )  # fmt: skip
    path = tmp_path / "t.jsonl"
    replace(whole, rows={**whole.rows, CONV: Missing("failed", "no kernel")}).save(path)
    assert main(["lut", "plot", str(path)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert all(str(op) in page for op in [*OPS, CONV]) and "no kernel" in page
    assert page.count("as a whole, ") == 2 * len(networks)  # a wide and a narrow picture
    assert "plain sum" in page and "it is &lt;hot&gt;" in page and "<b>board" not in page
    bare = table(fit=None, held_out=None)
    bare.save(path)
    assert main(["lut", "plot", str(path), "--out", str(tmp_path / "bare.html")]) == 0
    assert "never checked" in (tmp_path / "bare.html").read_text()


def test_nn_meters_kernel_data_is_read(tmp_path: Path) -> None:
    source = tmp_path / "kernels.csv"
    source.write_text(
        "KERNEL,HW,CIN,COUT,KERNEL_SIZE,STRIDES,latency_ms\n"
        "conv-bn-relu,56,24,48,3,2,1.5\ndwconv-bn-relu,28,96,,5,1,0.25\nfc,1,1280,1000,,,0.5\n"
    )
    rows = import_table(source, "phone", "fp32", None).rows
    assert {str(op): row.floor_ms for op, row in rows.items()} == {
        "conv 24-48 @56 k3 s2": 1.5, "dwconv 96-96 @28 k5 s1": 0.25, "fc 1280-1000 @1": 0.5,
    }  # fmt: skip
    assert check(LatencyTable(table().header, rows), [], ops.macs) == []


def test_import_writes_a_table_that_show_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = tmp_path / "phone.yaml"
    source.write_text(PUBLISHED)
    told = ["lut", "import", str(source), "--device", "phone", "--out", str(tmp_path)]
    assert main([*told, "--margin", "10", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["rows"], made["margin"]) == (3, 0.1)
    assert main(["lut", "show", made["file"]]) == 0
    assert "classifier 1280-1000 @7" in capsys.readouterr().out
    assert main(["lut", "check", made["file"]]) == 5
    assert "never checked against whole networks" in capsys.readouterr().out


def test_out_is_never_what_is_read_nor_a_file_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, script = tmp_path / "a.jsonl", tmp_path / "script.sh"
    table().save(path)
    script.write_text("mine")
    before = path.read_bytes()
    for command in (
        ["merge", str(path), str(path), "--out", str(path)],
        ["merge", str(path), str(path), "--out", str(script)],
        ["plot", str(path), "--out", str(path)],
        ["plot", str(path), "--out", str(script)],
    ):
        assert main(["lut", *command]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert path.read_bytes() == before and script.read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ["lut", "calibrate", "a", "b", "--margin", "nan"],
        ["lut", "import", "a", "--device", "x", "--margin", "inf"],
        ["profile", "cpu-litert", "--budget-minutes", "nan", "--dry-run"],
        ["lut", "merge", "a"],
        ["lut", "nothing"],
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edgenas: ") and line.endswith("--help")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b"a: b\n", "no JSON: 'a: b'"), (b"\xff\x00", "line 1 is not UTF-8")],
)
def test_what_is_no_table_is_a_line(
    content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert main(["lut", "show", str(path)]) == 2
    assert says in capsys.readouterr().err
    assert main(["lut", "show", str(tmp_path)]) == 2
    assert "Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028", "\x85"])
def test_a_head_with_a_line_end_in_it_is_refused_in_a_line(tmp_path: Path, end: str) -> None:
    path = tmp_path / "odd.csv"
    path.write_text(f'"KER{end}NEL",x\n1,2\n', encoding="utf-8", newline="")
    with pytest.raises(CorruptFile, match="expected a column op") as e:
        import_table(path, "b", "fp32", None)
    assert len(str(e.value).splitlines()) == 1
