"""Stage ``compress``: a pruned variant, fine-tuned, and int8-static of every variant."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgenas.budgets import Latency
from edgenas.compress.prune import Plan, cut, importance, plan, widths
from edgenas.errors import ImpossibleBudget
from edgenas.files import write_json
from edgenas.pipeline import quantize
from edgenas.pipeline.context import Context, save_weights
from edgenas.pipeline.stage import Stage
from edgenas.pipeline.train import epoch_event, pace
from edgenas.profile import profile
from edgenas.spec import OpSpec
from edgenas.train import Epoch, TrainRecipe, accuracy, train

IMPORTANCE_BATCHES = 16


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        "prune": asdict(ctx.config.prune),
        **quantize.settings(ctx),
        "formats": ctx.exported,
        "train": asdict(ctx.config.train),
        "data": [ctx.task.digest("train"), ctx.task.digest("test")],
        "seed": ctx.config.seed,
        "threads": ctx.config.threads,
        "accelerator": ctx.config.accelerator,
    }


def _work(ctx: Context, folder: Path) -> None:
    layers, _ = ctx.network("found")
    found = {"ops": [str(o) for o in layers], "accuracy": ctx.read("train/train.json")["accuracy"]}
    record: dict[str, Any] = {"variants": {"found": found}, "skipped": None}
    if ctx.config.prune.epochs == 0:
        record["skipped"] = "prune: epochs is 0"
    else:
        extend_tables(ctx, layers, folder)
        budgets = _step(ctx, folder, layers)
        try:
            record["variants"]["pruned"] = prune(ctx, STAGE, "found", "pruned", budgets, folder)
        except ImpossibleBudget as e:
            record["skipped"] = str(e)
    if ctx.quantizes:
        for name, variant in record["variants"].items():
            variant["int8"] = quantize.quantize_variant(ctx, STAGE, name, folder)
    write_json(folder / "compress.json", record)


def extend_tables(ctx: Context, layers: Sequence[OpSpec], folder: Path) -> None:
    """Measure the narrower forms of ``layers`` on every target; tables go to ``folder``."""
    extra = {narrow for op in layers for narrow in widths(op)}
    for name, device in ctx.devices.items():
        for precision in ctx.precisions(device):
            table = profile(
                device, ctx.space, precision, ctx.tables, extra=extra,
                networks=ctx.config.measure.networks, seed=ctx.config.seed, progress=ctx.progress,
            )  # fmt: skip
            table.save(folder / f"{name}.{precision}.jsonl")


def _step(ctx: Context, folder: Path, layers: Sequence[OpSpec]) -> tuple[Latency, ...]:
    """The latency of ``layers`` less the step that config asks for."""
    budgets = []
    for t in ctx.targets:
        predictor = ctx.predictor(t["device"], t["precision"], folder)
        assert predictor is not None
        limit = predictor.p50_ms(layers) * (1 - ctx.config.prune.step)
        budgets.append(Latency(t["device"], limit, predictor))
    return tuple(budgets)


def prune(
    ctx: Context, stage: Stage, source: str, name: str, budgets: Sequence[Latency], folder: Path
) -> dict[str, Any]:
    """Cut ``source`` to ``budgets`` (no margin), fine-tune it from its teacher's labels, save it.

    ``stage``: the one at work, which keeps how far fine-tuning got. Raises ImpossibleBudget where
    pruning cannot get there.
    """
    layers, net = ctx.network(source)
    settings, seed = ctx.config.prune, ctx.config.seed
    scores = importance(net, layers, ctx.fitted, IMPORTANCE_BATCHES, ctx.config.train.batch, seed)
    made: Plan = plan(layers, scores, budgets)
    smaller = cut(net, ctx.space, made).to(ctx.config.accelerator)
    net.to(ctx.config.accelerator)
    training = ctx.config.train
    recipe = TrainRecipe(
        epochs=settings.epochs, batch=training.batch, lr=settings.lr,
        weight_decay=training.weight_decay, smoothing=training.smoothing,
        precision=training.precision,
    )  # fmt: skip
    left = [str(o) for o in made.ops]
    checkpoint = stage.checkpoint(
        ctx, name, recipe=asdict(recipe), ops=left, keep=sorted(made.keep.items())
    )
    ledger = ctx.ledger()

    def on_epoch(e: Epoch) -> None:
        ledger.append("finetune", "epoch", variant=name, **epoch_event(e, smaller, ctx))
        ctx.progress(f"fine-tune {name} ({pace(e)})", e.number, e.epochs)

    train(smaller, ctx.fitted, recipe, seed, on_epoch, teacher=net, checkpoint=checkpoint)
    save_weights(smaller, folder / f"{name}.safetensors")
    described = {
        "ops": left,
        "accuracy": accuracy(smaller, ctx.fitted, "test"),
        "target_ms": {b.device: b.limit_ms for b in budgets},
    }
    write_json(folder / f"{name}.json", described)
    return described


STAGE = Stage("compress", ("profile", "train"), _settings, _work)
