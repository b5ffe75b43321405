"""Stage ``compress``: a pruned variant, fine-tuned, and int8-static of every variant."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgenas.budgets import Latency
from edgenas.checkpoint import Checkpoint
from edgenas.compress.importance import importance
from edgenas.compress.plan import plan
from edgenas.compress.prune import cut, cuttable
from edgenas.errors import ImpossibleBudget
from edgenas.files import write_json
from edgenas.latency import LatencyTable
from edgenas.pipeline import mix, quantize
from edgenas.pipeline.context import HEADROOM, Context, save_weights
from edgenas.pipeline.recipe import learning, tuning
from edgenas.pipeline.stage import Stage
from edgenas.pipeline.training import keep_epoch, pace
from edgenas.profile import profile
from edgenas.space import Prunable, require
from edgenas.spec import OpSpec
from edgenas.train import Epoch, TrainRecipe, accuracy, learns, train

IMPORTANCE_BATCHES = 16


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        "prune": asdict(ctx.config.prune),
        **quantize.settings(ctx),
        "formats": ctx.exported,
        **mix.settings(ctx),
        "train": asdict(ctx.config.train),
        "data": [ctx.task.digest("train"), ctx.task.digest("test")],
        "augment": ctx.task.augment.key,
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
    elif not isinstance(ctx.space, Prunable):
        record["skipped"] = f"networks of {ctx.space.id} cannot be pruned"
    else:
        extend_tables(ctx, layers, folder)
        budgets = _step(ctx, folder, layers)
        try:
            record["variants"]["pruned"] = prune(ctx, STAGE, "found", "pruned", budgets, folder)
        except ImpossibleBudget as e:
            record["skipped"] = str(e)
            ctx.progress(f"not pruned: {e}", 1, 1)
    if ctx.quantizes:
        for name, variant in record["variants"].items():
            variant["int8"] = quantize.quantize_variant(ctx, STAGE, name, folder)
            if ctx.config.quantize.mixed:
                variant["mixed"] = mix.mix_variant(ctx, name, folder)
    write_json(folder / "compress.json", record)


def extend_tables(ctx: Context, layers: Sequence[OpSpec], folder: Path) -> None:
    """Measure the narrower forms of ``layers`` on every target; tables go to ``folder``."""
    assert isinstance(ctx.space, Prunable)
    widths = ctx.space.cuts(layers)
    extra = {
        form.at(*joint)
        for form in ctx.space.forms(layers)
        for joint in itertools.product(*(widths[g] for g in form.groups))
    }
    for name, device in ctx.devices.items():
        for precision in ctx.precisions(device):
            before = ctx.predictor(name, precision, folder)
            assert before is not None
            table = profile(
                device, ctx.space, precision, ctx.tables, extra=extra,
                networks=ctx.config.measure.networks, seed=ctx.config.seed, progress=ctx.progress,
            )  # fmt: skip
            own = table.only({*before.table.rows, *extra})  # not those of other runs
            own.save(folder / f"{name}.{precision}.jsonl")


def _step(ctx: Context, folder: Path, layers: Sequence[OpSpec]) -> tuple[Latency, ...]:
    """The latency of ``layers`` less the step that config asks for; or the budget, if less."""
    budgets = []
    for t in ctx.targets:
        predictor = ctx.predictor(t["device"], t["precision"], folder)
        assert predictor is not None
        step = predictor.p50_ms(layers) * (1 - ctx.config.prune.step)
        limit = min(step, HEADROOM * t["limit_ms"])
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
    teacher, rounds = net.to(ctx.config.accelerator), ctx.config.prune.rounds
    whole = [b.predictor.p50_ms(layers) for b in budgets]
    for number in range(1, rounds + 1):
        if number > 1:  # what is left can be narrowed further than was timed
            budgets = _extended(ctx, budgets, layers, folder)
        steps = [
            replace(b, limit_ms=before * (b.limit_ms / before) ** (number / rounds))
            for b, before in zip(budgets, whole, strict=True)
        ]
        layers, net = _cut(ctx, layers, net, steps)
        suffix = f"-{number}" if number < rounds else ""
        left = [str(o) for o in layers]
        checkpoint = stage.checkpoint(ctx, name + suffix, recipe=asdict(_recipe(ctx)), ops=left)
        _fine_tune(ctx, net.to(ctx.config.accelerator), teacher, name + suffix, checkpoint)
    save_weights(net, folder / f"{name}.safetensors")
    described = {
        "ops": [str(o) for o in layers],
        "accuracy": accuracy(net, ctx.fitted, "test"),
        "target_ms": {b.device: b.limit_ms for b in budgets},
    }
    write_json(folder / f"{name}.json", described)
    return described


def _extended(
    ctx: Context, budgets: Sequence[Latency], layers: Sequence[OpSpec], folder: Path
) -> list[Latency]:
    """``budgets`` by tables that know the narrower forms of ``layers``."""
    extend_tables(ctx, layers, folder)
    paths = [folder / f"{b.device}.{b.predictor.table.header.precision}.jsonl" for b in budgets]
    return [
        replace(b, predictor=replace(b.predictor, table=LatencyTable.load(path)))
        for b, path in zip(budgets, paths, strict=True)
    ]


def _cut(
    ctx: Context, layers: Sequence[OpSpec], net: nn.Module, budgets: Sequence[Latency]
) -> tuple[tuple[OpSpec, ...], nn.Module]:
    """What is left of ``net``, of ``layers``, under ``budgets``."""
    space, by = ctx.space, ctx.config.prune.importance
    require(space, Prunable, "prune")
    assert isinstance(space, Prunable)
    net = copy.deepcopy(net).cpu().requires_grad_(True)
    scores = importance(
        net, cuttable(space, net, layers), by, ctx.fitted, IMPORTANCE_BATCHES,
        _recipe(ctx).batch, ctx.config.seed,
    )  # fmt: skip
    made = plan(space, layers, scores, budgets)
    return made.ops, cut(net, ctx.space, made)


def _recipe(ctx: Context) -> TrainRecipe:
    settings = ctx.config.prune
    return tuning(ctx, settings.epochs, settings.lr)


def _fine_tune(
    ctx: Context, net: nn.Module, teacher: nn.Module, name: str, checkpoint: Checkpoint
) -> None:
    if not learns(net):
        ctx.progress(f"{name} is as it was cut: every weight is frozen, nothing to fine-tune", 1, 1)

    def on_epoch(e: Epoch) -> None:
        keep_epoch(ctx, "finetune", e, net, variant=name)
        ctx.progress(f"fine-tune {name} ({pace(e)})", e.number, e.epochs)

    train(
        net, learning(ctx, ctx.fitted), _recipe(ctx), ctx.config.seed, on_epoch,
        teacher=teacher, checkpoint=checkpoint,
    )  # fmt: skip


STAGE = Stage("compress", ("profile", "train"), _settings, _work)
