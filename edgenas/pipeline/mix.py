"""Mixed precision of a variant: which operators of its int8-static stay in float, by format."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from edgenas.compress.fake_quant import FakeQuantized
from edgenas.compress.mixed import (
    Pair,
    enough,
    faster,
    fastest,
    integer_time,
    mixed,
    sensitivities,
    times,
)
from edgenas.compress.quantize import load_quantized, outputs
from edgenas.config import Gates
from edgenas.files import write_json
from edgenas.graph import Graph, trace
from edgenas.noise import fewer
from edgenas.pipeline.context import HEADROOM, Context, mixed_path, was_trained
from edgenas.pipeline.quantize import VALIDATION_IMAGES
from edgenas.verify import difference

SENSITIVITY_IMAGES = 128  # of search-validation, once for each layer


def settings(ctx: Context) -> Mapping[str, Any]:
    """All that decides what ``mix_variant`` chooses, beside the network and what is measured."""
    if not ctx.config.quantize.mixed:
        return {}
    gates = ctx.config.gates
    return {"mixed": [gates.max_drop, gates.min_agreement, gates.max_difference]}


def mix_variant(ctx: Context, variant: str, folder: Path) -> dict[str, Any]:
    """Choose for every format and write that into ``folder``; by format, how it was chosen.

    Where int8-static keeps on search-validation what its gates ask for, what makes the network
    faster stays in float; where not, what int8 hurts most, until the gates are kept or the latency
    budgets used up.
    """
    _, net = ctx.network(variant, folder)
    path = ctx.quantized(variant, folder)
    plain = trace(net, ctx.fitted.input)
    int8 = load_quantized(plain, path)
    real = replace(int8, ranges=None) if was_trained(path) else plain
    judge = _Judge.of(ctx, net)
    kept = judge.keeps(int8)
    lost: dict[str, float] | None = None
    if not kept:
        x, _ = ctx.fitted.tensors("search", SENSITIVITY_IMAGES)
        lost = sensitivities(int8, real, x, ctx.progress)
    record = {}
    for format in sorted({t["format"] for t in ctx.targets}):
        targets = [
            t for t in ctx.targets if t["format"] == format and ctx.devices[t["device"]].mixes
        ]
        if not targets:
            continue
        devices = [ctx.devices[t["device"]] for t in targets]
        costs = [times(device, int8, ctx.progress) for device in devices]
        if lost is None:
            floats = fastest(devices, int8, real, faster(costs), ctx.progress)
        else:
            slack_ms = [_slack_ms(ctx, t, variant, folder) for t in targets]
            floats = enough(
                lost, costs, slack_ms, lambda some: judge.keeps(mixed(int8, real, some))
            ) or frozenset()  # fmt: skip
        of_device = {d.name: of for d, of in zip(devices, costs, strict=True)}
        record[format] = {
            "floats": sorted(floats),
            "aim": "speed" if lost is None else "accuracy",
            "integer_time": {
                device: integer_time(pairs, floats) for device, pairs in of_device.items()
            },
            "layers": _layers(lost, of_device),
        }
        write_json(mixed_path(folder, variant, format), record[format])
    return record


@dataclass(frozen=True)
class _Judge:
    """Whether a graph keeps on images ``x`` of search-validation what the gates ask for."""

    x: Tensor
    y: Tensor
    wanted: Tensor  # logits of the network in float
    gates: Gates

    @classmethod
    def of(cls, ctx: Context, net: nn.Module) -> "_Judge":
        x, y = ctx.fitted.tensors("search", VALIDATION_IMAGES)
        return cls(x, y, outputs(net.eval(), x), ctx.config.gates)

    def keeps(self, graph: Graph) -> bool:
        got = outputs(FakeQuantized(graph).eval(), self.x)
        before, after = (self._right(logits) for logits in (self.wanted, got))
        drop = float(before.mean() - after.mean())
        agreement = float((got.argmax(1) == self.wanted.argmax(1)).float().mean())
        return (
            (drop <= self.gates.max_drop or not fewer(after, before))
            and agreement >= self.gates.min_agreement
            and difference(got.numpy(), self.wanted.numpy()) <= self.gates.max_difference
        )

    def _right(self, logits: Tensor) -> np.ndarray:
        return (logits.argmax(1) == self.y).numpy()


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
