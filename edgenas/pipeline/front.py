"""A front: one search for networks at several budgets, then a run of each."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgenas.config import Config
from edgenas.files import read_json
from edgenas.pipeline.race import seats
from edgenas.pipeline.search import architecture_file


def networks(config: Config, root: Path) -> Iterator[Config]:
    """What remains to be done for each network that the search in ``root`` found, as a run."""
    for level, name in enumerate(names(config)):
        found = read_json(root / "search" / architecture_file(level))
        yield replace(
            config,
            name=name,
            targets=config.level(level),
            search={"method": "measured", "architecture": found},
            race=replace(config.race, seats=seats(config)),
        )


def names(config: Config) -> list[str]:
    """Of the networks of a front: the number and the budget of each."""
    budgets = [config.level(level)[0].budgets[0].text for level in range(config.levels)]
    return [f"{number}-{_slug(text)}" for number, text in enumerate(budgets, 1)]


def verdict_of(config: Config, verdicts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of the front: met where every network's is; files are named from the folder of the front."""
    return {
        "schema": 1,
        "met": all(v["met"] for v in verdicts.values()),
        "name": config.name,
        "candidates": [],
        "gates": [{"network": name, **g} for name, v in verdicts.items() for g in v["gates"]],
        "networks": {
            name: {"met": v["met"], "verdict": f"{folder(name)}/verdict.json"}
            for name, v in verdicts.items()
        },
    }


def folder(name: str) -> str:
    """Of a network's run, within that of the front."""
    return f"networks/{name}"


def _slug(budget: str) -> str:
    """``<= 3.5 ms`` as ``3.5ms``."""
    return re.sub(r"[^0-9A-Za-z.]", "", budget.replace("%", "percent"))
