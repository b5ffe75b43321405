"""Stage ``train``: the found network, trained on its own."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from edgenas.files import write_json
from edgenas.pipeline.brought import brought, weights_digest
from edgenas.pipeline.context import Context, save_weights
from edgenas.pipeline.race import WINNER, winner
from edgenas.pipeline.recipe import judging, learning, planned
from edgenas.pipeline.stage import Stage
from edgenas.pipeline.training import (
    beginning,
    keep_epoch,
    pace,
    teacher,
    teacher_digests,
    untrained,
)
from edgenas.rundir import RunDir
from edgenas.train import Ended, Epoch, accuracy, rights, train


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        "train": asdict(ctx.config.train),
        "weights": weights_digest(ctx.config),
        "begins": beginning(ctx),
        "teacher": teacher_digests(ctx.config),
        "raced": RunDir(ctx.root).outputs("race").get(WINNER),
        "learns": judging(ctx) or "search and calibration too",
        "data": [ctx.task.digest("train"), ctx.task.digest("test")],
        "augment": ctx.task.augment.key,
        "seed": ctx.config.seed,
        "threads": ctx.config.threads,
        "accelerator": ctx.config.accelerator,
    }


def _work(ctx: Context, folder: Path) -> None:
    settings = ctx.config.train
    record: dict[str, Any] = {"images": len(learning(ctx, ctx.task).parts["train"])}
    if settings.weights is not None:
        net, record["notes"] = brought(ctx, ctx.architecture)
        record["epochs"] = 0
    else:
        net, ended = _trained(ctx)
        record |= {
            "notes": (), **asdict(ended), "recipe": asdict(planned(ctx)),
            "search_images": "judge" if judging(ctx) else "learn",
        }  # fmt: skip
    save_weights(net, folder / "found.safetensors")
    layers = ctx.space.ops(ctx.architecture)
    write_json(folder / "found.json", {"ops": [str(o) for o in layers]})
    write_json(folder / "train.json", {"accuracy": accuracy(net, ctx.fitted, "test"), **record})


def _trained(ctx: Context) -> tuple[nn.Module, Ended]:
    net = untrained(ctx, ctx.architecture).to(ctx.config.accelerator)
    task, judges = ctx.fitted, judging(ctx)

    def on_epoch(e: Epoch) -> None:
        keep_epoch(ctx, "train", e, net)
        ctx.progress(f"train ({pace(e)})", e.number, e.epochs)

    ended = train(
        net, learning(ctx, task), planned(ctx), ctx.config.seed, on_epoch, teacher(ctx),
        judge=(lambda net: rights(net, task, "search")) if judges else None,
        checkpoint=STAGE.checkpoint(ctx, "found"), start=winner(ctx),
    )  # fmt: skip
    return net, ended


STAGE = Stage("train", ("race/architecture.json",), _settings, _work)
