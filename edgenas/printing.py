"""How commands print: JSON for programs, a line a table."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # `edgenas --help` must not wait for it
    from edgenas.latency import LatencyTable

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


SEED = click.IntRange(0, 2**31 - 1)


class Number(click.FloatRange):
    """A float in a range; not NaN, which is below and above nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As of ``click.FloatRange``."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


def emit(data: Any) -> None:
    """``data`` on stdout as JSON."""
    click.echo(json.dumps(data, indent=1))


def minutes(seconds: float) -> str:
    """How long, for a person who waits."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def table_facts(path: Path, table: "LatencyTable") -> dict[str, Any]:
    """What a program wants to know of a table."""
    h = table.header
    return {
        "file": str(path),
        "device": h.device,
        "precision": h.precision,
        "rows": len(table.rows),
        "provenance": h.provenance,
        "grade": h.grade,
        "held_out": h.held_out and asdict(h.held_out),
        "margin": h.fit and h.fit.margin,
    }


def table_line(path: Path, table: "LatencyTable") -> str:
    """What a person wants to know of a table."""
    h = table.header
    text = f"{path}: {len(table.rows)} rows, {h.provenance}, {h.grade}"
    if h.held_out and h.fit:
        text += (
            f"; on {h.held_out.networks} held-out networks: error {h.held_out.mape:.1%}, "
            f"within 10 %: {h.held_out.within_10:.0%}, Spearman {h.held_out.spearman:.3f}, "
            f"margin {h.fit.margin:.1%}"
        )
    return text
