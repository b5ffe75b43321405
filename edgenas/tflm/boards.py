"""Boards whose throughputs MLPerf Tiny published: edgenas/tflm/published.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PUBLISHED = Path(__file__).parent / "published.json"


@dataclass(frozen=True)
class Board:
    """What was published of one. ``stack``: what ran there, ``round``: of the benchmark.

    ``inferences_per_s``: of each of its networks, by the name of its task.
    """

    board: str
    core: str
    arch: str
    clock_mhz: float
    flash_kb: int
    ram_kb: int
    stack: str
    round: str
    inferences_per_s: Mapping[str, float]


def boards() -> dict[str, Board]:
    """By the names of device files."""
    told = json.loads(PUBLISHED.read_text(encoding="utf-8"))["boards"]
    return {name: Board(**facts) for name, facts in told.items()}
