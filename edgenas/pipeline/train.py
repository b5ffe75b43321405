"""Stage ``train``: the found network, trained on its own."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgenas.errors import CapabilityError
from edgenas.files import write_json
from edgenas.gates import Mixed
from edgenas.pipeline.brought import brought, weights_digest
from edgenas.pipeline.context import Context, load_weights, save_weights
from edgenas.pipeline.recipe import judging, learning, planned
from edgenas.pipeline.stage import Stage
from edgenas.rundir import RunDir
from edgenas.space import Relaxable
from edgenas.train import Ended, Epoch, accuracy, rights, train

SCORED = 2000  # images after each epoch


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        "train": asdict(ctx.config.train),
        "weights": weights_digest(ctx.config),
        "supernet": _supernet(ctx),
        "learns": judging(ctx) or "search and calibration too",
        "data": [ctx.task.digest("train"), ctx.task.digest("test")],
        "augment": ctx.task.augment.key,
        "seed": ctx.config.seed,
        "threads": ctx.config.threads,
        "accelerator": ctx.config.accelerator,
    }


def _supernet(ctx: Context) -> str | None:
    """Hash of the weights that training goes on from."""
    if not ctx.config.train.from_supernet:
        return None
    return RunDir(ctx.root).outputs("search").get("supernet.safetensors")


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
    net = _untrained(ctx).to(ctx.config.accelerator)
    task, judges = ctx.fitted, judging(ctx)

    def on_epoch(e: Epoch) -> None:
        keep_epoch(ctx, "train", e, net)
        ctx.progress(f"train ({pace(e)})", e.number, e.epochs)

    ended = train(
        net, learning(ctx, task), planned(ctx), ctx.config.seed, on_epoch,
        judge=(lambda net: rights(net, task, "search")) if judges else None,
        checkpoint=STAGE.checkpoint(ctx, "found"),
    )  # fmt: skip
    return net, ended


def keep_epoch(ctx: Context, phase: str, e: Epoch, net: nn.Module, **of: str) -> None:
    """An epoch as the ledger keeps it; accuracy is of search-validation, not of training.

    None where the found network learns from search-validation too. ``of``: what is trained, where
    a phase trains several.
    """
    ledger = ctx.ledger()
    pace = {"seconds": e.seconds, "images_per_second": e.images_per_second}
    ledger.read(phase, "epoch", **of, epoch=e.number, **pace)
    right = e.judged
    if right is None and judging(ctx):
        right = accuracy(net, ctx.fitted, "search", SCORED)
    told = {"epoch": e.number, "epochs": e.epochs, "loss": e.loss, "accuracy": right}
    ledger.append(phase, "epoch", **of, **told)


def pace(e: Epoch) -> str:
    """How fast it goes, for a person who waits."""
    return f"{e.images_per_second:,.0f} images/s, {e.left_s / 60:.1f} min left"


def _untrained(ctx: Context) -> nn.Module:
    torch.manual_seed(ctx.config.seed)
    if not ctx.config.train.from_supernet:
        return ctx.space.build(ctx.architecture)
    weights = ctx.root / "search" / "supernet.safetensors"
    if not isinstance(ctx.space, Relaxable) or not weights.exists():
        raise CapabilityError(
            "train: from_supernet: the search left no supernet; set it to false or "
            "search with method 'proxyless'"
        )
    return ctx.space.subnet(load_weights(ctx.space.supernet(Mixed), weights), ctx.architecture)


STAGE = Stage("train", ("search/architecture.json",), _settings, _work)
