"""What budgets have to do with the latencies that a space offers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgenas.pipeline.brought import is_brought
from edgenas.pipeline.context import Context
from edgenas.space import Relaxable


def spans(ctx: Context, targets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line a target, of those of the stage profile: what networks take, by its table."""
    for t in targets if _searched(ctx) else ():
        yield (
            f"networks of this space take {t['fastest_ms']:.3g} to {t['slowest_ms']:.3g} ms on "
            f"{t['device']} ({t['precision']}, by its table)"
        )


def slack(ctx: Context, targets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each whose budget every network of the space keeps."""
    for t in targets if _searched(ctx) else ():
        limit_ms = min(t["limits_ms"])
        if limit_ms > t["slowest_ms"]:
            yield (
                f"{limit_ms:.4g} ms on {t['device']} is above the slowest network of this space, "
                f"{t['slowest_ms']:.3g} ms: a larger space or resolution could use it"
            )


def _searched(ctx: Context) -> bool:
    return isinstance(ctx.space, Relaxable) and not is_brought(ctx.config)
