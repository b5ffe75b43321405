"""docs/configuration.md lists every key, with the default that the code takes."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgenas import config, pressure, task
from edgenas.augment import Augment
from edgenas.config import Config, Target
from edgenas.search import METHODS
from edgenas.space import SPACES
from edgenas.spaces.mobile import Mobile

DOC = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
OF_TASK = ("resolution", "channels", "classes")
Key = tuple[str, str]  # of a file, and the data set, space or method that has it, or ""


def _rows(text: str) -> dict[Key, str]:
    """Key -> what stands under default."""
    rows: dict[Key, str] = {}
    for line in text.splitlines():
        if not line.startswith("| `") or line.count(" | ") < 2:
            continue
        first, default, _ = line[2:].split(" | ", 2)
        key, *owners = re.findall(r"`([^`]+)`", first)
        for owner in owners or [""]:
            assert (key, owner) not in rows, f"{key} stands there twice"
            rows[key, owner] = default.strip()
    return rows


def _of(cls: Any, prefix: str, owner: str = "") -> Iterator[tuple[Key, Field[Any]]]:
    for field in fields(cls):
        inner = field.type
        if isinstance(inner, type) and is_dataclass(inner):
            yield from _of(inner, f"{prefix}{field.name}.")
        elif field.init:
            yield (f"{prefix}{field.name}", owner), field


def _keys() -> Iterator[tuple[Key, Field[Any]]]:
    yield from _of(Config, "")
    yield from _of(Target, "targets.")
    yield from _of(task._Settings, "task.")
    yield from _of(Augment, "task.augment.")
    for prefix, shelf in (("task.", task.DATASETS), ("space.", SPACES), ("search.", METHODS)):
        for name in shelf:
            yield from _of(shelf[name], prefix, name)
    for name, kind in pressure._KINDS.items():
        yield from _of(kind, "search.pressure.", name)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


ROWS, KEYS = _rows(DOC), dict(_keys())


@pytest.mark.parametrize("key", KEYS, ids=lambda key: " ".join(key).strip())
def test_every_key_is_there_with_its_default(key: Key) -> None:
    name, owner = key
    assert key in ROWS, (
        f"docs/configuration.md has no row for {name}{owner and f' of {owner}'}: write it there as "
        "the other rows are, with its default"
    )
    said, default = ROWS[key], _default(KEYS[key])
    if name.startswith("space.") and name.removeprefix("space.") in OF_TASK:
        assert said == "of the task"
    elif default is MISSING:
        preset = owner == "mobile" and name.removeprefix("space.") in Mobile.presets["tiny"]
        assert said == {"name": "the file's name"}.get(
            name, "of the preset" if preset else "required"
        )
    elif isinstance(default, str):
        assert said.strip("`") == default
    else:
        assert yaml.safe_load(said.strip("`")) == config._plain(default), said


def test_no_row_is_of_a_key_that_is_gone() -> None:
    by_hand = {("space.kind", ""), ("space.preset", "mobile"), ("search.method", "")}
    assert ROWS.keys() - KEYS.keys() == by_hand


@pytest.mark.parametrize("preset", Mobile.presets)
def test_every_preset_says_what_it_fills_in(preset: str) -> None:
    (line,) = (row for row in DOC.splitlines() if row.startswith(f"| `{preset}` | "))
    said: Mapping[str, Any] = yaml.safe_load("\n".join(re.findall(r"`(\w+: [^`]+)`", line)))
    assert said == config._plain(Mobile.presets[preset])


def test_every_choice_of_a_shelf_is_named() -> None:
    for shelf in (task.DATASETS, SPACES, METHODS):
        for name in shelf:
            assert f"`{name}`" in DOC
