"""What each block of the delivered network costs inside it: prefixes timed, their differences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgenas.export import exporter_for
from edgenas.measure import measure
from edgenas.ops import has_hidden, hidden
from edgenas.pipeline.context import Context
from edgenas.scratch import scratch_folder
from edgenas.spec import OpSpec
from edgenas.verify import Candidate

BLOCKS, BLOCK_SECONDS = 2, 0.1


def blocks(ctx: Context, best: Candidate, folder: Path) -> list[dict[str, Any]]:
    """One row an operator of ``best``: predicted and measured milliseconds, both at p50.

    The last row is what a call costs beside its operators.
    """
    layers, _ = ctx.network(best.variant, folder)
    graph = ctx.graph(best.variant, best.precision, best.artifact.format, folder)
    ends = {ctx.space.operator_of(n.name, i): n.name for i, n in enumerate(graph.nodes)}
    device = ctx.devices[best.device]
    exporter = exporter_for(device.runtime.format)
    with scratch_folder() as scratch:
        prefixes = [
            exporter.operator(graph.prefix(ends[i]), scratch / f"{i}.{exporter.format}")
            for i in range(len(layers))
        ]
        timings = measure(
            device, prefixes, blocks=BLOCKS, block_seconds=BLOCK_SECONDS, seed=ctx.config.seed,
            progress=ctx.progress,
        )  # fmt: skip
    scale = best.latency.p50_ms / best.latency.floor_ms
    predictor = ctx.predictor(device.name, best.precision, folder)
    rows: list[dict[str, Any]] = []
    before = predictor.table.header.empty_ms if predictor else 0.0
    for i, (op, timing) in enumerate(zip(layers, timings, strict=True)):
        predicted = predictor.cost_ms(op) if predictor else None
        rows.append(
            {
                "label": label(layers, i),
                "op": str(op),
                "predicted_ms": predicted,
                "measured_ms": (timing.floor_ms - before) * scale,
            }
        )
        before = timing.floor_ms
    beside = {
        "label": "beside the blocks",
        "op": None,
        "predicted_ms": predictor.fixed_ms if predictor else None,
        "measured_ms": best.latency.p50_ms - sum(row["measured_ms"] for row in rows),
    }
    return [*rows, beside]


def label(layers: Sequence[OpSpec], position: int) -> str:
    """A short name for one of ``layers``."""
    op = layers[position]
    k = op.arg("k", 3)
    if has_hidden(op):
        return f"{'fused ' if op.kind == 'fused-mbconv' else ''}k{k} {hidden(op)} ch"
    if op.kind == "conv" and position == 0:
        return "stem"
    if op.kind == "conv" and position == len(layers) - 2 and k == 1:
        return "head"
    return op.kind
