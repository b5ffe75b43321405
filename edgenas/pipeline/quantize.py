"""int8-static of a variant, for the stages that make one: ``<variant>.int8-static.safetensors``."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgenas import noise
from edgenas.compress.fake_quant import FakeQuantized
from edgenas.compress.qat import qat
from edgenas.compress.quantize import kept, quantize, save_quantized
from edgenas.files import write_json
from edgenas.graph import Graph, coarse, trace
from edgenas.pipeline.context import Context, quantized_path
from edgenas.pipeline.recipe import learning, tuning
from edgenas.pipeline.stage import Stage
from edgenas.pipeline.training import keep_epoch, pace
from edgenas.train import Epoch, rights

VALIDATION_IMAGES = 512  # of search-validation, that decide between calibrations


def settings(ctx: Context) -> Mapping[str, Any]:
    """All that decides what ``quantize_variant`` makes, beside the network."""
    return {
        "quantize": asdict(ctx.config.quantize),
        "images": [ctx.task.digest("calibration"), ctx.task.digest("search")],
    }


def quantize_variant(ctx: Context, stage: Stage, variant: str, folder: Path) -> dict[str, Any]:
    """Write the int8-static of ``variant`` into ``folder``; how it was made.

    Training in int8, where the config asks for it, is undone unless search-validation is the better
    for it, by more than noise. ``stage``: the one at work, which keeps how far training got.
    """
    asked = ctx.config.quantize
    _, net = ctx.network(variant, folder)
    graph = trace(net, ctx.fitted.input)
    ctx.progress(f"quantize {variant}", 0, 1)
    made, tried = quantize(
        graph, ctx.fitted.tensors("calibration")[0],
        ctx.fitted.tensors("search", VALIDATION_IMAGES)[0], asked,
    )  # fmt: skip
    record = {**asdict(kept(tried)), "tried": [asdict(t) for t in tried]}
    ctx.progress(f"quantize {variant}", 1, 1)
    if left := coarse(made):
        record["coarse"] = left
        worst = min(left, key=lambda name: left[name])
        ctx.progress(
            f"int8 of {variant}: values of {worst!r} lie far from zero, to which a range has to "
            f"reach: {left[worst]:.2g} of 256 levels are left for what differs; outputs diverge by "
            f"{record['divergence']:.3g} nats an image", 1, 1,
        )  # fmt: skip
    if asked.epochs:
        better = _trained(ctx, stage, variant, made, net)
        before, after = (rights(FakeQuantized(g), ctx.fitted, "search") for g in (made, better))
        pays = noise.fewer(before, after)
        record["trained"] = {
            "before": float(before.mean()), "after": float(after.mean()),
            "epochs": asked.epochs, "kept": pays,
        }  # fmt: skip
        made = better if pays else made
    path = quantized_path(folder, variant)
    save_quantized(made, path)
    write_json(path.with_suffix(".json"), record)
    return record


def _trained(ctx: Context, stage: Stage, variant: str, graph: Graph, net: nn.Module) -> Graph:
    asked = ctx.config.quantize
    how = replace(tuning(ctx, asked.epochs, asked.lr), warmup=0.0, precision="fp32")
    checkpoint = stage.checkpoint(
        ctx,
        f"{variant}.int8-static",
        recipe=asdict(how),
        ranges=sorted((graph.ranges or {}).items()),
    )

    def on_epoch(e: Epoch, quantized: nn.Module) -> None:
        keep_epoch(ctx, "int8", e, quantized, variant=variant)
        ctx.progress(f"train {variant} in int8 ({pace(e)})", e.number, e.epochs)

    return qat(
        graph,
        learning(ctx, ctx.fitted),
        how,
        ctx.config.seed,
        net,
        on_epoch,
        checkpoint,
        ctx.config.accelerator,
    )
