"""Mixed precision of a variant: which operators of its int8-static stay in float, by format."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgenas.compress.fake_quant import FakeQuantized
from edgenas.compress.mixed import (
    Pair,
    faster,
    fastest,
    integer_time,
    most_accurate,
    sensitivities,
    times,
)
from edgenas.compress.quantize import outputs
from edgenas.files import write_json
from edgenas.graph import Graph
from edgenas.pipeline.context import HEADROOM, Context, mixed_path
from edgenas.pipeline.quantize import VALIDATION_IMAGES

SENSITIVITY_IMAGES = 128  # of search-validation, once for each layer


def mix_variant(ctx: Context, variant: str, folder: Path) -> dict[str, Any]:
    """Choose for every format and write that into ``folder``; by format, how it was chosen.

    Where int8-static keeps the accuracy that its gate asks for, what makes the network faster stays
    in float; where not, as much as the latency budgets allow, what int8 hurts most first.
    """
    graph = ctx.graph(variant, "int8-static", unfinished=folder)
    drop = _drop(ctx, variant, graph, folder)
    lost: dict[str, float] | None = None
    if drop > ctx.config.gates.max_drop:
        x, _ = ctx.fitted.tensors("search", SENSITIVITY_IMAGES)
        lost = sensitivities(graph, x, ctx.progress)
    record = {}
    for format in sorted({t["format"] for t in ctx.targets}):
        targets = [t for t in ctx.targets if t["format"] == format and _both(ctx, t)]
        if not targets:
            continue
        costs = [times(ctx.devices[t["device"]], graph, ctx.progress) for t in targets]
        slack_ms = [_slack_ms(ctx, t, variant, folder) for t in targets]
        if lost is None:
            devices = [ctx.devices[t["device"]] for t in targets]
            floats = fastest(devices, graph, faster(costs), ctx.progress)
        else:
            floats = most_accurate(lost, costs, slack_ms) or frozenset()
        of_device = dict(zip((t["device"] for t in targets), costs, strict=True))
        record[format] = {
            "floats": sorted(floats),
            "drop": drop,
            "aim": "speed" if lost is None else "accuracy",
            "integer_time": {
                device: integer_time(pairs, floats) for device, pairs in of_device.items()
            },
            "layers": _layers(lost, of_device),
        }
        if floats:
            write_json(mixed_path(folder, variant, format), record[format])
    return record


def _both(ctx: Context, target: Mapping[str, Any]) -> bool:
    device = ctx.devices[target["device"]]
    return "mixed" in device.runs and {"fp32", "int8-static"} <= {*device.precisions}


def _drop(ctx: Context, variant: str, graph: Graph, folder: Path) -> float:
    """Accuracy that int8-static loses on images of search-validation."""
    _, net = ctx.network(variant, folder)
    x, y = ctx.fitted.tensors("search", VALIDATION_IMAGES)
    before, after = (
        float((outputs(n, x).argmax(1) == y).float().mean())
        for n in (net.eval(), FakeQuantized(graph).eval())
    )
    return before - after


def _slack_ms(ctx: Context, target: Mapping[str, Any], variant: str, folder: Path) -> float:
    """What is left of the budget beside int8-static as its table predicts it."""
    layers, _ = ctx.network(variant, folder)
    predictor = ctx.predictor(target["device"], "int8-static", folder)
    assert predictor is not None
    return float(HEADROOM * target["limit_ms"] - predictor.p50_ms(layers))


def _layers(
    lost: Mapping[str, float] | None, costs: Mapping[str, Mapping[str, Pair]]
) -> dict[str, dict[str, Any]]:
    names = next(iter(costs.values()))
    return {
        name: {device: asdict(of[name]) for device, of in costs.items()}
        | ({} if lost is None else {"divergence": lost[name]})
        for name in names
    }
