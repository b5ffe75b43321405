import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import CorruptFile, ForeignTable, MissingLatency, UsageError
from edgenas.latency import Fit, Header, HeldOut, LatencyTable, Missing, Timing
from edgenas.sentinel import floor_path
from edgenas.spec import OpSpec

A, B = OpSpec.of("conv", 3, 16, 28, k=3, s=2), OpSpec.of("mbconv", 16, 24, 14, e=3, k=5, s=1)
HEADER = Header(
    device="board",
    runtime="onnxruntime",
    precision="fp32",
    space="mobile-28x1-abcdef",
    fingerprint={"cpu": "A76", "cores": 4, "threads": 1},
    empty_ms=0.002,
    fit=Fit(0.01, 1.1, 1.05, 0.03, 8),
    held_out=HeldOut(20, 0.01, 1.0, 1.0, 0.99, -0.001),
)
TABLE = LatencyTable(HEADER, {A: Timing(0.5, 0.6, 0.7, 100), B: Missing("unsupported", "no op")})

ops = st.builds(
    lambda kind, cin, cout, size, args: OpSpec.of(kind, cin, cout, size, **args),
    st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True),
    *[st.integers(0, 4096)] * 3,
    st.dictionaries(st.from_regex(r"[a-z]{1,2}", fullmatch=True), st.integers(0, 99), max_size=3),
)
stored_ms = st.integers(0, 10**12).map(lambda n: round(n * 1e-7, 7))


@st.composite
def timings(draw: st.DrawFn) -> Timing:
    low, floor, high = sorted(draw(st.lists(stored_ms, min_size=3, max_size=3)))
    p50, p90, p99 = (draw(s) for s in (stored_ms, st.none() | stored_ms, st.none() | stored_ms))
    interval = draw(st.sampled_from([None, (low, high)]))
    return Timing(floor, p50, p90, draw(st.integers(1, 10**6)), "measured", p99, interval)


rows = timings() | st.builds(
    Missing, st.sampled_from(["unsupported", "failed"]), st.text(max_size=40)
)
finite = st.floats(allow_nan=False, allow_infinity=False)
held_out = st.builds(HeldOut, st.integers(0, 99), *[finite] * 5)
headers = st.builds(
    replace,
    st.just(HEADER),
    device=st.text(),
    fingerprint=st.dictionaries(st.text(), st.text() | st.integers(), max_size=4),
    grade=st.sampled_from(["stable", "noisy", "unstable"]),
    empty_ms=finite,
    fit=st.none() | st.builds(Fit, *[finite] * 4, st.integers(0, 99)),
    held_out=st.none() | held_out,
    baselines=st.dictionaries(st.text(), held_out, max_size=2),
)
tables = st.builds(LatencyTable, headers, st.dictionaries(ops, rows, max_size=5))


@given(tables)
def test_a_table_reads_back_as_it_was(table: LatencyTable) -> None:
    assert LatencyTable.loads(table.dumps(), "t") == table


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_measuring_does_not_show_in_the_file(table: LatencyTable, rng) -> None:
    shuffled = list(table.rows.items())
    rng.shuffle(shuffled)
    assert replace(table, rows=dict(shuffled)).dumps() == table.dumps()


@given(st.integers(0, len(TABLE.dumps()) - 1))
def test_a_file_cut_short_anywhere_is_refused(length: int) -> None:
    with pytest.raises(CorruptFile, match=r"^t, line 1"):
        LatencyTable.loads(TABLE.dumps()[:length], "t")


@given(st.data())
def test_an_edited_row_is_refused(data: st.DataObject) -> None:
    text = TABLE.dumps()
    at = data.draw(st.integers(text.index("\n") + 1, len(text) - 1))
    other = data.draw(st.characters(exclude_characters=text[at], exclude_categories=["Cs"]))
    with pytest.raises(CorruptFile):
        LatencyTable.loads(text[:at] + other + text[at + 1 :], "t")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def sealed_text(head: dict[str, object], body: str) -> str:
    """A table whose hash fits what is in it."""
    bare = {k: v for k, v in head.items() if k != "sha256"}
    digest = hashlib.sha256((json.dumps(bare) + "\n" + body).encode()).hexdigest()
    return json.dumps({**bare, "sha256": digest}) + "\n" + body


@settings(max_examples=10_000)
@given(st.data())
def test_a_mutated_table_gives_its_rows_or_one_line(data: st.DataObject) -> None:
    """The hash is made to fit, so that what stands behind it is reached."""
    head, *body = [json.loads(line) for line in TABLE.dumps().splitlines()]
    target = data.draw(st.sampled_from([head, *body]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(values)
    lines = [json.dumps(row) for row in body]
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(lines[0]) - 1))
        lines[0] = lines[0][:at] + data.draw(st.characters(codec="utf-8")) + lines[0][at + 1 :]
    text = "".join(line + "\n" for line in lines)
    whole = json.dumps(head) + "\n" + text if target is head else sealed_text(head, text)
    try:
        table = LatencyTable.loads(whole, "t")
    except CorruptFile as e:
        assert str(e).startswith("t, line ")
        assert "\n" not in str(e)
    else:
        assert LatencyTable.loads(table.dumps(), "t").dumps() == table.dumps()


def test_a_key_of_two_lines_is_still_one_line() -> None:
    head, first, *rest = TABLE.dumps().splitlines()
    body = "".join(
        line + "\n" for line in [first.replace('"provenance"', '"prov\\nance"', 1), *rest]
    )
    with pytest.raises(CorruptFile, match="prov ance") as e:
        LatencyTable.loads(sealed_text(json.loads(head), body), "t")
    assert len(str(e.value).splitlines()) == 1


def test_numbers_and_nesting_beyond_reason_are_refused() -> None:
    head = json.loads(TABLE.dumps().partition("\n")[0])
    for value in ("9" * 500, "[" * 100_000):
        body = f'{{"op": "{A}", "floor_ms": {value}, "p50_ms": 1, "n": 1}}\n'
        with pytest.raises(CorruptFile, match=r"^t, line 2"):
            LatencyTable.loads(sealed_text(head, body), "t")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("empty_ms", math.nan),
        ("empty_ms", math.inf),
        ("empty_ms", "fast"),
        ("grade", "splendid"),
        ("provenance", "dreamt"),
        ("fingerprint", 3),
        ("batch", None),
        ("schema", 99),
        ("color", "red"),
        ("fit", {"slope": 1.0}),
        ("baselines", {"\n": None}),
    ],
)
def test_a_bad_header_is_refused_in_one_line_that_says_where(key: str, value: object) -> None:
    head, _, body = TABLE.dumps().partition("\n")
    text = json.dumps(json.loads(head) | {key: value}) + "\n" + body
    with pytest.raises(CorruptFile, match=r"^some\.jsonl, line 1: ") as e:
        LatencyTable.loads(text, "some.jsonl")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_a_timing_that_is_no_time_cannot_be_made(bad: float) -> None:
    with pytest.raises(ValueError, match="milliseconds"):
        Timing(bad, 1.0, 1.0, 5)


def test_saved_and_loaded_from_disk(tmp_path) -> None:
    path = tmp_path / "new" / "board.x.fp32.jsonl"
    TABLE.save(path)
    assert LatencyTable.load(path) == TABLE
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_absent_table_says_how_to_measure_it(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"edgenas profile pi4$"):
        LatencyTable.load(tmp_path / "pi4.mobile.fp32.jsonl")


def test_bytes_that_are_no_text_are_a_corrupt_file(tmp_path) -> None:
    path = tmp_path / "pi4.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptFile):
        LatencyTable.load(path)


def test_a_cost_is_the_floor_less_an_empty_call_and_never_negative() -> None:
    assert TABLE.cost_ms(A) == pytest.approx(0.498)
    slow_call = replace(TABLE, header=replace(HEADER, empty_ms=9.0))
    assert slow_call.cost_ms(A) == 0.0


def test_an_operator_without_a_row_is_an_error_that_names_the_next_step() -> None:
    near = OpSpec.of("conv", 3, 16, 28, k=5, s=2)
    with pytest.raises(MissingLatency, match=r"nearest: 'conv 3-16 @28 k3 s2'.*edgenas profile"):
        TABLE.cost_ms(near)


def test_an_operator_that_failed_gives_its_reason() -> None:
    with pytest.raises(MissingLatency, match="unsupported on this device: no op"):
        TABLE.cost_ms(B)


def test_failed_rows_are_not_missing_but_unmeasured_ones_are() -> None:
    other = OpSpec.of("conv", 1, 1, 1)
    assert TABLE.missing([A, B, other]) == [other]
    assert TABLE.with_rows({other: Timing(1, 1, 1, 1)}).missing([A, B, other]) == []


def test_another_device_is_refused_with_only_what_differs() -> None:
    TABLE.require(fingerprint=dict(HEADER.fingerprint), precision="fp32", batch=1)
    with pytest.raises(ForeignTable) as e:
        TABLE.require(fingerprint={"cpu": "A53", "cores": 4, "threads": 1})
    assert "cpu 'A76', not 'A53'" in str(e.value)
    assert "cores" not in str(e.value)
    assert str(e.value).endswith("edgenas profile board --fresh")


OLD = {"cpu": "A76", "cores": 4, "threads": 2}
ALL = {**OLD, "usable_cores": 4}


@pytest.mark.parametrize(
    ("have", "facts", "want", "said"),
    [
        (ALL, {}, ALL, ""),
        ({**ALL, "usable_cores": 1}, {}, ALL, "usable_cores 1, not 4"),
        (ALL, {}, {**ALL, "usable_cores": 2}, "usable_cores 4, not 2"),
        ({**ALL, "quota_cores": "1.5"}, {}, ALL, "quota_cores '1.5', not None"),
        (ALL, {}, {**ALL, "quota_cores": "2"}, "quota_cores None, not '2'"),
        # of before fingerprints held it: facts may tell
        (OLD, {}, ALL, ""),
        (OLD, {"affinity": [0, 1, 2, 3]}, ALL, ""),
        (OLD, {"affinity": [1]}, {**ALL, "usable_cores": 1}, ""),
        (OLD, {"affinity": [1]}, ALL, "usable_cores 1, not 4"),
        (OLD, {"affinity": [0, 1, 2, 3]}, {**ALL, "usable_cores": 2}, "usable_cores 4, not 2"),
        (OLD, {"affinity": "all"}, {**ALL, "usable_cores": 2}, ""),
        (OLD, {"affinity": [0, 1, 2, 3]}, {**ALL, "quota_cores": "2"}, ""),
        ({**ALL, "usable_cores": 1}, {"affinity": [1]}, OLD, ""),
        (OLD, {"affinity": [1]}, OLD, ""),
        (OLD, {}, {**ALL, "cpu": "A53"}, "cpu 'A76', not 'A53'"),
    ],
)
def test_a_table_is_of_so_many_cores_as_could_be_used(
    have: dict[str, Any], facts: dict[str, Any], want: dict[str, Any], said: str
) -> None:
    table = replace(TABLE, header=replace(HEADER, fingerprint=have, facts=facts))
    if not said:
        table.require(fingerprint=want)
        return
    with pytest.raises(ForeignTable) as e:
        table.require(fingerprint=want)
    assert said in str(e.value)


def test_the_best_floor_of_a_machine_is_remembered_by_the_cores_that_may_be_used() -> None:
    """Of a whole machine as ever; of a part of it apart."""
    assert floor_path(OLD, "fp32") == floor_path(ALL, "fp32")
    others = [{**ALL, "usable_cores": 2}, {**ALL, "quota_cores": "2"}, ALL]
    assert len({floor_path(f, "fp32") for f in others}) == 3


@pytest.mark.parametrize("want", [{"precision": "int8-static"}, {"batch": 4}, {"space": "other"}])
def test_other_precision_batch_or_space_is_refused(want: dict[str, object]) -> None:
    with pytest.raises(ForeignTable, match=next(iter(want))):
        TABLE.require(**want)


HEADERS = {
    "slope": lambda h: h["fit"].update(slope=h["fit"]["slope"] / 10),
    "intercept": lambda h: h["fit"].update(intercept_ms=0.0),
    "margin": lambda h: h["fit"].update(margin=0.0),
    "fingerprint": lambda h: h["fingerprint"].update(cpu="another"),
    "grade": lambda h: h.update(grade="stable"),
    "provenance": lambda h: h.update(provenance="measured"),
    "empty": lambda h: h.update(empty_ms=0.5),
    "facts": lambda h: h.update(facts={}),
    "schema": lambda h: h.update(schema=2),
}


@pytest.mark.parametrize("edit", HEADERS)
def test_a_header_that_was_edited_by_hand_is_refused(edit: str) -> None:
    fit = Fit(0.1, 1.2, 1.1, 0.05, 8)
    header = replace(
        TABLE.header, fit=fit, grade="noisy", provenance="estimated",
        fingerprint={"cpu": "one"}, facts={"load": 1},
    )  # fmt: skip
    text = replace(TABLE, header=header).dumps()
    LatencyTable.loads(text, "t")
    first, _, body = text.partition("\n")
    head = json.loads(first)
    HEADERS[edit](head)
    with pytest.raises(CorruptFile, match=r"t, line 1: .*edited"):
        LatencyTable.loads(json.dumps(head) + "\n" + body, "t")


def test_a_table_of_the_schema_before_is_read_and_its_rows_are_checked() -> None:
    first, _, body = TABLE.dumps().partition("\n")
    head = {**json.loads(first), "schema": 2}
    head["rows_sha256"] = hashlib.sha256(body.encode()).hexdigest()
    del head["sha256"]
    old = json.dumps(head) + "\n" + body
    assert LatencyTable.loads(old, "t") == TABLE
    assert json.loads(LatencyTable.loads(old, "t").dumps().partition("\n")[0])["schema"] == 3
    with pytest.raises(CorruptFile, match=r"t, line 1: .*edited"):
        LatencyTable.loads(old.replace('"n": 1', '"n": 2', 1), "t")
