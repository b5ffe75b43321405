import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from report_run import CLASSES, HASH, SPACE, build_run

from edgenas.errors import CorruptFile, UsageError
from edgenas.report import quantity as q
from edgenas.report import write_report
from edgenas.report.chart import Chart, Point, Rule, Series, tick_labels, ticks

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, what each section says, and a check that all tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: dict[str, str] = {}
        self.section = "top"
        self.text = text
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append((tag, facts))
        if tag == "section":
            self.section = str(facts["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            text = " ".join(data.replace("\xa0", " ").split())
            self.said[self.section] = f"{self.said.get(self.section, '')} {text}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [facts for name, facts in self.tags if name == tag]


def page(run: Path) -> Page:
    return Page(write_report(run).read_text())


def change(path: Path, edit: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("report.html")
    return Path(shutil.copytree(whole, tmp_path / whole.name, ignore=ignored))


def test_a_finished_run_has_every_section(whole: Path) -> None:
    shown = page(whole)
    assert [str(s["id"]) for s in shown.all("section")] == [
        "verdict", "candidates", "accuracy", "tried", "network", "why", "blocks", "progress",
        "provenance",
    ]  # fmt: skip
    links = {str(a["href"]) for a in shown.all("a")}
    assert links == {f"#{s['id']}" for s in shown.all("section")} | {"model.onnx", "model.tflite"}


def test_the_verdict_states_value_limit_interval_and_grade(whole: Path) -> None:
    gates = json.loads((whole / "verdict.json").read_text())["gates"]
    gate = next(g for g in gates if g["name"] == "latency:onnx")
    said = page(whole).said["verdict"]
    for value in (gate["value"], gate["limit"], gate["interval"][1]):
        assert f"{value:.3f} ms" in said
    assert "Met 10 of 10 gates are met" in page(whole).said["top"]
    assert "measured p50" in said and "predicted p50" in said
    assert "stable" in said and "noisy" in said and "6.0 % under budget" in said
    assert "96.6 KiB" in said and HASH[:12] in said


def test_a_missed_budget_is_named_at_the_top(tmp_path: Path) -> None:
    top = page(build_run(tmp_path, met=False)).said["top"]
    assert re.search(r"Not met latency:tflite is \d\.\d+ ms, not ≤ \d\.\d+ ms", top)
    assert "latency:onnx is" not in top


def test_a_near_miss_shows_the_digits_that_tell_it_from_the_limit(run: Path) -> None:
    def near(verdict: Any) -> None:
        verdict["met"] = verdict["gates"][0]["met"] = False
        verdict["gates"][0] |= {"value": 0.50004, "limit": 0.5}

    change(run / "verdict.json", near)
    assert "latency:onnx is 0.50004 ms, not ≤ 0.50000 ms" in page(run).said["top"]


def test_what_was_simulated_is_not_called_measured(run: Path) -> None:
    def simulate(verdict: Any) -> None:
        for candidate in verdict["candidates"]:
            candidate["latency"]["provenance"] = "simulated"

    change(run / "verdict.json", simulate)
    said = page(run).said
    assert "simulated p50" in said["verdict"] and "measured p50" not in said["verdict"]
    assert said["candidates"].count("simulated") == 8 + 4  # files, and what they stand under
    assert not [part for part in said.values() if "p50 measured" in part]
    assert "against simulated" in said["blocks"]


def test_a_file_that_could_not_be_measured_has_no_number(run: Path) -> None:
    def lose(verdict: Any) -> None:
        verdict["met"] = verdict["gates"][0]["met"] = False
        verdict["gates"][0] |= {"value": None, "interval": None}
        for candidate in verdict["candidates"]:
            candidate |= {"latency": None, "accuracy": None, "predicted_p50_ms": None}
            candidate |= {"agreement": None, "quantized": None, "why": "could not be measured"}

    change(run / "verdict.json", lose)
    said = page(run).said
    assert "latency:onnx is –, not ≤" in said["top"]
    assert not re.search(r"\d (ms|%)", said["candidates"])


def test_every_candidate_is_compared_with_its_reason(whole: Path) -> None:
    verdict = json.loads((whole / "verdict.json").read_text())
    said = page(whole).said["candidates"]
    assert len(verdict["candidates"]) == 8
    for candidate in verdict["candidates"]:
        assert candidate["why"] in said
        assert f"{candidate['latency']['p50_ms']:.3f} ms" in said
    assert said.count("delivered") == 2


def test_blocks_add_up_to_the_predicted_network(whole: Path) -> None:
    found = json.loads((whole / "search/search.json").read_text())
    said = page(whole).said["network"]
    for device, predicted in found["predicted"].items():
        assert device in said
        assert f"{predicted['p50_ms']:.4f} ms" in said
    assert said.count("pruned to") == len(SPACE.choices) - 1  # one is skipped
    assert "the input goes on unchanged" in said


def test_a_later_attempt_of_an_epoch_counts(run: Path) -> None:
    again = {"phase": "train", "event": "epoch", "epoch": 1, "loss": 1235.4, "accuracy": 0.5}
    ledger = run / "ledger.jsonl"
    whole_lines = ledger.read_text().rsplit("\n", 1)[0]
    ledger.write_text(f"{whole_lines}\n{json.dumps(again)}\n")
    said = page(run).said["progress"]
    assert "epoch 1: train 1 235" in said.replace("\N{THIN SPACE}", " ")
    assert said.count("epoch 1: search-validation 50.0") == 2  # wide and narrow


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(whole: Path) -> None:
    text = write_report(whole).read_text()
    shown = Page(text)
    assert not shown.all("script") and not shown.all("link") and not shown.all("img")
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_every_picture_says_what_it_shows_or_is_hidden(whole: Path) -> None:
    pictures = page(whole).all("svg")
    assert len(pictures) > 60
    for picture in pictures:
        named = picture.get("role") == "img" and picture.get("aria-label")
        assert (
            named or picture.get("aria-hidden") == "true" or picture.get("viewbox") == "0 0 18 12"
        )


def test_text_of_the_run_is_escaped(run: Path) -> None:
    evil = "<img src=x onerror='alert(1)'>\"&"

    def spoil(verdict: Any) -> None:
        verdict["gates"][0]["name"] = verdict["candidates"][0]["why"] = evil
        verdict["conditions"] = {evil: {evil: evil}}
        verdict["delivered"]["onnx"]["file"] = 'javascript:alert(1)"><b>'
        verdict["blocks"]["cpu-litert"][0] |= {"label": evil, "op": evil}

    def spoil_profile(profile: Any) -> None:
        profile["targets"][0]["asked"] = evil
        profile["targets"][0]["device"] = evil

    run = run.rename(run.parent / evil)
    change(run / "verdict.json", spoil)
    change(run / "profile/profile.json", spoil_profile)
    (run / "config.yaml").write_text(f"note: {evil}</pre><script>1</script>")
    shown = page(run)
    assert not shown.all("img") and not shown.all("script") and not shown.all("b ")
    assert not any("onerror" in facts for _, facts in shown.tags)
    assert "javascript%3Aalert" in str([a["href"] for a in shown.all("a")])
    assert evil in shown.said["top"] and CLASSES[2] in shown.said["provenance"]


def test_without_pruning_or_repairs_the_reason_is_given(tmp_path: Path) -> None:
    shown = page(build_run(tmp_path, pruned=False))
    assert "Not pruned: the found network is within every budget" in shown.said["accuracy"]
    assert "pruned" not in shown.said["network"]
    assert "None was needed" in shown.said["provenance"]


def test_a_search_without_epochs_shows_no_convergence(tmp_path: Path) -> None:
    shown = page(build_run(tmp_path, epochs=0, trials=1))
    assert "How the search converged" not in shown.said["progress"]
    assert "before full training" in shown.said["tried"]


def test_without_trials_there_is_no_picture_of_them(tmp_path: Path) -> None:
    assert "tried" not in page(build_run(tmp_path, trials=0)).said


@pytest.mark.parametrize("gone", ["verdict.json", "search", "ledger.jsonl", "manifest.json"])
def test_an_unfinished_run_gets_the_report_of_what_it_has(run: Path, gone: str) -> None:
    order = ["manifest.json", "verdict.json", "export", "compress", "train", "search"]
    removed = order[1 : order.index(gone) + 1] if gone in order[1:] else [gone]
    for name in removed:
        path = run / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    shown = page(run)
    unfinished = gone in ("verdict.json", "search")
    assert ("Unfinished" in shown.said["top"]) == unfinished
    assert ("verify not yet" in shown.said["verdict"]) == unfinished
    if gone == "search":
        assert "It finished: profile." in shown.said["top"] and "network" not in shown.said


def test_an_operator_without_a_row_is_said_and_not_guessed(run: Path) -> None:
    (run / "profile/cpu-litert.int8-static.jsonl").unlink()
    said = page(run).said["network"]
    assert "the table of cpu-litert for int8-static is not in the run directory" in said


@pytest.mark.parametrize("name", ["config.yaml", "profile/profile.json"])
def test_what_is_not_a_run_directory_is_refused(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(UsageError, match=f"there is no {name}") as e:
        write_report(run)
    assert "\n" not in str(e.value) and not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("verdict.json", '{"met": true}', "verdict.json: name: Field required"),
        ("verdict.json", "{", "cannot be read as JSON"),
        ("search/search.json", "[]", "search.json"),
        ("ledger.jsonl", 'nonsense\n{"phase": "train"}\n', "ledger.jsonl, line 1: not JSON"),
        ("ledger.jsonl", 'nonsense\n{"phase": "train"}\n', "take the line out"),
        ("verdict.json", "[]", "move it away, and edgenas run makes it again"),
        ("ledger.jsonl", '{"event": "epoch", "epoch": "x"}\n', "line 1: epoch"),
        ("ledger.jsonl", '{"event": "tell"}\n', "a tell without id"),
        ("ledger.jsonl", "7\n", "expected an object"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(run: Path, name: str, text: str, says: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(CorruptFile, match=re.escape(says)) as e:
        write_report(run)
    assert "\n" not in str(e.value)


SENSIBLE = st.floats(-1e6, 1e6).map(lambda v: round(v, 6))


@given(SENSIBLE, st.floats(1e-6, 1e6), st.integers(2, 10), st.booleans())
def test_ticks_are_few_inside_and_evenly_spaced(
    low: float, span: float, most: int, whole: bool
) -> None:
    assume(span >= 1e-6 * abs(low))
    high = low + span
    found = ticks(low, high, most, whole)
    slack = 1e-6 * span
    assert 0 <= len(found) <= max(most, 2)
    assert all(low - slack <= t <= high + slack for t in found)
    steps = [b - a for a, b in pairwise(found)]
    assert all(abs(s - steps[0]) <= 1e-6 * abs(steps[0]) + 1e-9 for s in steps)
    assert len(set(tick_labels(found))) == len(found)
    assert not whole or all(t == round(t) for t in found)


@given(st.lists(st.tuples(SENSIBLE, SENSIBLE), max_size=12), st.lists(SENSIBLE, max_size=2))
def test_labels_stay_in_the_picture_and_never_overlap(
    points: list[tuple[float, float]], limits: list[float]
) -> None:
    series = Series("s", tuple(Point(x, y) for x, y in points), "tone0")
    chart = Chart("t", "s", "x", "y", (series,), tuple(Rule("r", v) for v in limits))
    for drawn, width in ((chart.wide, 560), (chart.narrow, 340)):
        placed = re.findall(r'<text x="([\d.-]+)" y="[\d.]+" text-anchor="middle">([^<]+)', drawn)
        spans = [(float(x) - 3.35 * len(t), float(x) + 3.35 * len(t)) for x, t in placed]
        assert all(a[1] < b[0] for a, b in pairwise(spans))
        ends = re.findall(r'<text x="([\d.-]+)" y="([\d.]+)" text-anchor="end">([^<]+)', drawn)
        assert all(float(x) - 6.7 * len(t) + 1 >= 0 and float(x) <= width for x, _, t in ends)


@given(st.floats(1e-7, 1e7))
def test_a_number_keeps_three_digits_and_no_exponent(value: float) -> None:
    text = q.number(value).replace("\N{THIN SPACE}", "")
    assert re.fullmatch(r"\d+(\.\d+)?", text)
    assert float(text) == pytest.approx(value, rel=0.006, abs=1e-8)


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (q.ms(0.00461), "0.00461 ms"), (q.ms(4.6123), "4.61 ms"), (q.ms(1235.4), "1 235 ms"),
        (q.ms(None), "–"), (q.ms(0.0), "0 ms"), (q.number(float("nan")), "–"),
        (q.percent(0.9184), "91.84 %"), (q.signed(-0.031), "−3.1 %"),
        (q.points(-0.0015), "−0.15 pp"),
        (q.points(-1e-9), "0.00 pp"), (q.size(900), "900 B"), (q.size(128900), "126 KiB"),
        (q.size(5 * 2**20), "5.00 MiB"), (q.tiny(3.1e-6), "3.1×10⁻⁶"), (q.tiny(0.412), "0.41"),
    ],
)  # fmt: skip
def test_quantities(got: str, want: str) -> None:
    assert got.replace("\xa0", " ").replace("\N{THIN SPACE}", " ") == want


@pytest.mark.parametrize("name", ["../b/verdict.json", "/etc/passwd", "a\0", "x" * 400, ""])
def test_a_verdict_of_a_front_names_runs_within_it(tmp_path: Path, name: str) -> None:
    folder = build_run(tmp_path)
    path = folder / "verdict.json"
    verdict = json.loads(path.read_text())
    verdict["networks"] = {"one": {"met": True, "verdict": name}}
    path.write_text(json.dumps(verdict))
    with pytest.raises(CorruptFile, match=r"names .*, which"):
        write_report(folder)


def test_what_misses_a_gate_is_nowhere_said_to_be_delivered(tmp_path: Path) -> None:
    shown = page(build_run(tmp_path, met=False))
    for row in re.findall(r"<tr.*?</tr>", shown.text, re.S):
        words = re.sub("<[^>]+>", " ", row)
        if "pruned, int8-static" in words and "tflite" in words:
            assert 'class="missing"' in row and "not met" in words and "delivered" not in words
        if "model.tflite" in words and "cpu-litert" in words:
            assert "not met" in words and "latency:tflite" in words
        if "pruned, int8-static" in words and "onnx" in words:
            assert 'class="delivered"' in row and "delivered" in words
    assert "Delivered files" not in shown.said["verdict"]
    assert (
        "What to do next" in shown.said["top"] and "latency: allow more time" in shown.said["top"]
    )


@pytest.mark.parametrize(
    "kind", ["latency", "accuracy", "parity", "int8", "size", "memory", "same"]
)
def test_each_kind_of_miss_has_its_advice(run: Path, kind: str) -> None:
    def miss(verdict: Any) -> None:
        verdict["met"] = verdict["gates"][0]["met"] = False
        verdict["gates"][0]["name"] = "same:onnx on pi4" if kind == "same" else f"{kind}:onnx"

    change(run / "verdict.json", miss)
    said = page(run).said
    assert f"{kind}: " in said["top"].partition("What to do next")[2]
    assert said["candidates"].count("delivered") == 1  # that of TFLite


def test_a_run_that_is_met_needs_no_advice(whole: Path) -> None:
    assert "What to do next" not in page(whole).said["top"]
    assert "Delivered files" in page(whole).said["verdict"]


@pytest.mark.parametrize(
    ("share", "images", "want"),
    [
        (0.0, 10, "0.0 to 27.8 %"),
        (1.0, 10, "72.2 to 100.0 %"),
        (0.889, 505, "85.9 to 91.4 %"),
        (0.5, 100, "40.4 to 59.6 %"),
        (0.9148, 10_000, "90.9 to 92.0 %"),
        (None, 10, ""),
        (0.5, None, ""),
        (0.5, 0, ""),
    ],
)
def test_intervals_of_accuracies_are_those_of_wilson(
    share: float | None, images: int | None, want: str
) -> None:
    assert q.between(q.share_interval(share, images)).replace("\N{NO-BREAK SPACE}", " ") == want


def test_every_accuracy_has_its_interval_and_its_images(whole: Path) -> None:
    said = page(whole).said
    assert said["verdict"].count("90.9 to 92.0 %") == 2  # files
    assert said["verdict"].count("90.92 % to 92.01 %") == 2  # gates
    assert len(re.findall(r"9\d\.\d to 92\.\d %", said["candidates"])) == 8
    assert len(re.findall(r"9\d\.\d to 92\.\d %", said["accuracy"])) == 2 + 8
    for section in ("verdict", "candidates", "accuracy"):
        assert "10 000 images of the test part" in said[section]
    assert "6 000 images of search-validation" in said["tried"]


def test_an_interval_that_the_verdict_has_is_the_one_that_is_shown(run: Path) -> None:
    def known(verdict: Any) -> None:
        for candidate in verdict["candidates"]:
            candidate["accuracy_interval"] = [0.5, 0.99]

    change(run / "verdict.json", known)
    assert page(run).said["candidates"].count("50.0 to 99.0 %") == 8


def test_a_file_is_compared_with_the_space_in_its_own_precision(run: Path) -> None:
    def float32(verdict: Any) -> None:
        for candidate in verdict["candidates"]:
            candidate["delivered"] = candidate["variant"] == "pruned" and (
                candidate["precision"] == "fp32"
            )

    def spans(profile: Any) -> None:
        profile["targets"][0]["spans_ms"] = {"fp32": [1.25, 8.5], "int8-static": [0.1, 2.0]}

    change(run / "verdict.json", float32)
    change(run / "profile/profile.json", spans)
    said = page(run).said["verdict"]
    assert "1.25 ms to 8.50 ms predicted in fp32" in said
    assert "predicted in int8-static" in said  # the other's span in fp32 is not known: it is named


def test_a_network_that_was_scored_twice_is_one_point(run: Path) -> None:
    ledger = run / "ledger.jsonl"
    before = page(run).said["tried"]
    tells = [line for line in ledger.read_text().splitlines() if '"tell"' in line]
    again = [json.loads(line) | {"phase": "again"} for line in (tells[3], tells[3], tells[-1])]
    more = "".join(json.dumps(event) + "\n" for event in again)
    ledger.write_text(more + ledger.read_text())
    assert f"{len(tells)} networks tried" in before
    assert f"{len(tells)} networks tried" in page(run).said["tried"]


def test_tables_of_many_columns_name_each_cell_for_a_narrow_page(whole: Path) -> None:
    tables = re.findall(r"<table.*?</table>", page(whole).text, re.S)
    heads = {t: t.partition("</thead>")[0] for t in tables}
    own = ('class="network"', 'class="heat"')  # drawings of the whole, narrow in their own way
    wide = [t for t in tables if heads[t].count("<th") > 7 and not any(k in t for k in own)]
    assert len(wide) >= 4
    for table in wide:
        assert 'stack"' in table.partition(">")[0]
        cells = re.findall(r"<td[^>]*>", table)
        assert all("data-label" in cell or "colspan" in cell for cell in cells)
