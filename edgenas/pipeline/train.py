"""Stage ``train``: the found network, trained on its own."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgenas.config import Train
from edgenas.errors import CapabilityError
from edgenas.files import write_json
from edgenas.gates import Mixed
from edgenas.pipeline.brought import brought, weights_digest
from edgenas.pipeline.context import Context, load_weights, save_weights
from edgenas.pipeline.stage import Stage
from edgenas.rundir import RunDir
from edgenas.space import Relaxable
from edgenas.train import Epoch, TrainRecipe, accuracy, train

SCORED = 2000  # images after each epoch


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        "train": asdict(ctx.config.train),
        "weights": weights_digest(ctx.config),
        "supernet": _supernet(ctx),
        "data": [ctx.task.digest("train"), ctx.task.digest("test")],
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
    taken = settings.weights is not None
    net, notes = brought(ctx, ctx.architecture) if taken else (_trained(ctx), ())
    save_weights(net, folder / "found.safetensors")
    layers = ctx.space.ops(ctx.architecture)
    write_json(folder / "found.json", {"ops": [str(o) for o in layers]})
    write_json(
        folder / "train.json",
        {
            "accuracy": accuracy(net, ctx.fitted, "test"),
            "epochs": 0 if taken else settings.epochs,
            "images": len(ctx.task.parts["train"].y),
            "notes": notes,
        },
    )


def _trained(ctx: Context) -> nn.Module:
    net = _untrained(ctx).to(ctx.config.accelerator)

    def on_epoch(e: Epoch) -> None:
        keep_epoch(ctx, "train", e, net)
        ctx.progress(f"train ({pace(e)})", e.number, e.epochs)

    checkpoint = STAGE.checkpoint(ctx, "found")
    asked = recipe(ctx.config.train)
    train(net, ctx.fitted, asked, ctx.config.seed, on_epoch, checkpoint=checkpoint)
    return net


def recipe(settings: Train) -> TrainRecipe:
    """As the config asks for."""
    asked = asdict(settings)
    return TrainRecipe(**{f.name: asked[f.name] for f in fields(TrainRecipe) if f.name in asked})


def keep_epoch(ctx: Context, phase: str, e: Epoch, net: nn.Module, **of: str) -> None:
    """An epoch as the ledger keeps it; accuracy is of search-validation, not of training.

    ``of``: what is trained, where a phase trains several.
    """
    ledger = ctx.ledger()
    pace = {"seconds": e.seconds, "images_per_second": e.images_per_second}
    ledger.read(phase, "epoch", **of, epoch=e.number, **pace)
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
