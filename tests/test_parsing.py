"""What is read of text that others wrote, and what is refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas import cli, parsing
from edgenas.config import load_config, parse_config
from edgenas.console import Bars
from edgenas.errors import CorruptFile, UsageError
from edgenas.files import read_json
from edgenas.space import load_space
from edgenas.spaces.mobile import Mobile
from edgenas.validate import read_yaml

CONFIG = """\
task: {dataset: npz, path: data.npz}
targets: [{device: cpu-onnxruntime, latency: "<= 5 ms"}]
train:
  epochs: 3
"""


def _config(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (CONFIG + "targets: []\n", 5, "targets"),
        (CONFIG + "  epochs: 4\n", 5, "epochs"),
        (CONFIG.replace("dataset: npz", "dataset: npz, dataset: folder"), 1, "dataset"),
        (CONFIG + '"train": {epochs: 1}\n', 5, "train"),
    ],
)
def test_a_key_twice_is_named_with_its_line(tmp_path: Path, text: str, line: int, key: str) -> None:
    with pytest.raises(UsageError, match=rf"mine.yaml, line {line}: key '{key}' twice, first in"):
        load_config(_config(tmp_path, text))


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": [{"a": {}, "c": 1, "a": 3}]}'])
def test_a_key_twice_in_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"a.json cannot be read as JSON: key 'a' twice"):
        read_json(tmp_path / "a.json")


NUMBERS = ["010", "-010", "08", "1:30", "190:20:30", "1_000", "0b11", "1_0.5", "1:30.5", "00"]


@pytest.mark.parametrize("written", NUMBERS)
def test_a_number_that_two_versions_of_yaml_read_differently_is_refused(
    tmp_path: Path, written: str
) -> None:
    with pytest.raises(UsageError, match=r"line 4: .* is one number in YAML 1.1"):
        load_config(_config(tmp_path, CONFIG.replace("epochs: 3", f"epochs: {written}")))
    path = _config(tmp_path, CONFIG)
    with pytest.raises(UsageError, match=r"--set .* is one number in YAML 1.1"):
        load_config(path, [f"train.epochs={written}"])
    assert load_config(path, [f'name="{written}"']).name == written


@pytest.mark.parametrize("written", ["1" * 5000, "-" + "9" * 4200, "0x" + "f" * 4000])
def test_a_number_without_end_is_refused(tmp_path: Path, written: str) -> None:
    said = rf"a number of {len(written)} digits: {written[:20]}\.\.\."
    with pytest.raises(UsageError, match=rf"line 4: {said}"):
        load_config(_config(tmp_path, CONFIG.replace("epochs: 3", f"epochs: {written}")))
    with pytest.raises(UsageError, match=rf"--set .*: {said}"):
        load_config(_config(tmp_path, CONFIG), [f"train.epochs={written}"])


@pytest.mark.parametrize("written", [*NUMBERS, "yes", "no", "on", "null", "2026-01-30", "1e3", "~"])
def test_text_that_looks_like_something_else_comes_back_as_it_was(written: str) -> None:
    assert parsing.yaml_value(parsing.yaml_text({"name": written})) == {"name": written}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_comes_back_as_it_was(written: str) -> None:
    assert parsing.yaml_value(parsing.yaml_text([written, {written: 1}])) == [written, {written: 1}]


def test_yes_and_a_date_are_text_where_text_is_wanted(tmp_path: Path) -> None:
    path = _config(tmp_path, CONFIG)
    for name in ("yes", "off", "No", "2026-11-30"):
        assert load_config(path, [f"name={name}"]).name == name
    for mixed, meant in (("yes", True), ("off", False), ("true", True)):
        assert load_config(path, [f"quantize.mixed={mixed}"]).quantize.mixed is meant
    for wrong in ("train.epochs=yes", "train.epochs=true", "seed=false", "train.lr=True"):
        with pytest.raises(UsageError):
            load_config(path, [wrong])


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
MERGES = (
    "a: &a {" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}\nb: {<<: [" + "*a, " * 2000 + "]}"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "aliases stand for more than"),
        (MERGES, "aliases stand for more than"),
        ("a: &a [*a]", "stands within itself"),
        ("a: " + "[" * 50_000, "nested more than"),
        ("a: " + "{b: " * 3000 + "}" * 3000, "nested more than"),
        ("- " * 5000 + "a", "nested more than"),
        ("\n".join(" " * i + "a:" for i in range(500)), "nested more than"),
        ("a: 1\nb: [", "line 3"),
        ("a: 1\n---\nb: 2", "line 2"),
        ("a: !!python/object/apply:os.system [true]", "line 1: could not determine"),
        ("a: !!bool maybe", "is not YAML"),
        ("a: !!int x", "is one number"),
        ("a: !!timestamp x", "is not YAML"),
        ("a: !!binary x", "is not YAML"),
        ('name: "a\\0b"', "no character of a text"),
        ('name: "a\\x1b[31m"', "no character of a text"),
        ('task: {path: "\\ud800"}', "mine.yaml"),
        ("a: " + "9" * 5000, "mine.yaml"),
        ("? [a, b]\n: c", "mine.yaml"),
        ("1: 2", "expected names as keys, not 1"),
        ("- a", "expected keys and values"),
        ("", "expected keys and values"),
        ("a: " + "x" * (3 << 20), "longer than 2 MB"),
    ],
    ids=range(23),
)
def test_what_no_config_can_hold_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read_yaml(_config(tmp_path, text))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested more than"),
        ('{"a":' * 100_000, "nested more than"),
        ("[" * 100 + "]" * 100, "nested more than"),
        ('"\\ud800"', "half of a character"),
        ('{"\\udfff": 1}', "half of a character"),
        ("[NaN]", "is no number"),
        ("[-Infinity]", "is no number"),
        ("[1e999]", "is no number"),
        ("9" * 5000, "cannot be read"),
        ('{"a": 1', "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_what_no_json_may_hold_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CorruptFile, match=says):
        read_json(tmp_path / "a.json")


def test_brackets_in_text_are_no_nesting_and_whole_pairs_are_characters(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["' + "[" * 200 + '\\"{", "\\ud83d\\ude00"]')
    assert read_json(tmp_path / "a.json") == ["[" * 200 + '"{', "\U0001f600"]


def test_aliases_and_merges_that_end_are_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    assert parsing.yaml_value(text) == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2,
    }  # fmt: skip


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_mark_of_byte_order_and_any_line_end_are_read(
    tmp_path: Path, mark: str, end: str
) -> None:
    text = mark + CONFIG.replace("<= 5 ms", "≤ 5 ms").replace("\n", end)
    (tmp_path / "mine.yaml").write_bytes(text.encode())
    config = load_config(tmp_path / "mine.yaml")
    assert config.train.epochs == 3 and config.targets[0].budgets[0].limit_ms == 5
    (tmp_path / "a.json").write_bytes((mark + '{"a":' + end + "1}").encode())
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_another_encoding_is_said_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(CONFIG.encode() + "name: café\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"line 5 is not UTF-8: save it as UTF-8"):
        load_config(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_bytes(CONFIG.encode("utf-16"))
    with pytest.raises(UsageError, match=r"line 1 is not UTF-8"):
        load_config(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "name",
    ["a\0b", "a\nb", "a/b", ".", "..", "", "  ", "\ud800", "x" * 300, "é" * 150, "\x1b[31m"],
)
def test_a_name_that_makes_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    data = parsing.yaml_value(CONFIG)
    with pytest.raises(UsageError, match=r"name .* does not make a folder") as caught:
        parse_config({**data, "name": name}, "mine.yaml")
    assert len(str(caught.value)) < 400


LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii:strict"},
]


@pytest.mark.parametrize("locale", LOCALES)
def test_no_locale_changes_what_is_read_or_ends_in_an_error(
    tmp_path: Path, locale: dict[str, str]
) -> None:
    text = CONFIG.replace("<= 5 ms", "≤ 5 ms").replace("epochs: 3", "epochs: „drei“")
    done = subprocess.run(
        [sys.executable, "-m", "edgenas", "run", str(_config(tmp_path, text)), "--dry-run"],
        env={**os.environ, **locale}, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    said = done.stderr.decode(errors="replace")
    assert "mine.yaml: train: epochs:" in said and "drei" in said and "internal" not in said


def test_every_text_names_its_encoding() -> None:
    """What ruff does not see: text of programs, and of files whose type it does not know."""
    sources = Path(cli.__file__).parent.rglob("*.py")
    for source in sources:
        text = source.read_text(encoding="utf-8")
        assert "text=True" not in text and "universal_newlines" not in text, source
        assert ".read_text()" not in text, source


@pytest.mark.parametrize("name", ["[bold]x[/]", "[/]", ":smile:", "a [link=x]b", "[red"])
def test_what_a_console_says_is_no_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars.console.print(f"runs/{name}", soft_wrap=True)
        bars(f"train {name}", 1, 1)
    said = capsys.readouterr().err
    assert said.count(name) == 2


ABSURD = [
    "kernels: [3, 99999]", "widths: [100000, 100000, 100000]", "depths: [100000, 1, 1]",
    "expansions: [3, 100000]", "kernels: [3, 1000000000000000000001]", "resolution: 1000000000",
    "depths: [1000000000000, 1, 1]", "multipliers: [100.0]", "classes: 99999999999999999999",
    "head: 100000, classes: 1000000", "kernels: [-3, 5]", "expansions: [0]",
    "dense_kernels: [63], expansions: [1000]", "dense_kernels: [3, 99999]", "blocks: [conv, conv]",
]  # fmt: skip


@pytest.mark.parametrize("part", ABSURD)
def test_a_space_of_absurd_numbers_is_refused_in_a_line(part: str) -> None:
    facts = {"resolution": 32, "channels": 3, "classes": 10, "kind": "mobile"}
    with pytest.raises(UsageError, match=r"^space mobile: ") as caught:
        load_space(facts | parsing.yaml_value("{" + part + "}"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_no_preset_is_absurd() -> None:
    for preset in Mobile.presets:
        assert Mobile.configured({"preset": preset}).choices
