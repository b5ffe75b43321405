"""Stage ``profile``: tables of every target, the precision to search under, budgets in ms."""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from edgenas.config import Target
from edgenas.errors import CorruptFile, ImpossibleBudget
from edgenas.files import write_json
from edgenas.latency import LatencyTable
from edgenas.pipeline.brought import is_brought, refuse_unfit
from edgenas.pipeline.context import Context
from edgenas.pipeline.objectives import objectives
from edgenas.pipeline.stage import Stage
from edgenas.predict import Predictor, require_trusted
from edgenas.profile import profile
from edgenas.project import project
from edgenas.space import ListedSpace, Relaxable, Space
from edgenas.spec import OpSpec
from edgenas.store import table_path

SAMPLES = 64


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        "space": ctx.space.id,  # says all of it but where its code lies
        "targets": [asdict(t) for t in ctx.config.targets],
        "devices": {
            name: [repr(d.transport), repr(d.runtime), ctx.precisions(d)]
            for name, d in ctx.devices.items()
        },
        "networks": ctx.config.measure.networks,
        "seed": ctx.config.seed,
        "tables": {
            f"{name} {precision}": _digest(ctx, name, precision)
            for name, device in ctx.devices.items()
            for precision in ctx.precisions(device)
        },
    }


def _digest(ctx: Context, device: str, precision: str) -> str | None:
    """Hash of the table that is there, what later stages added to it left out.

    Of the run's own copy where the table itself is gone; None where there is neither.
    """
    copy = ctx.root / "profile" / f"{device}.{precision}.jsonl"
    paths = [table_path(ctx.tables, device, ctx.space.id, precision), copy]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        return None
    try:
        table = LatencyTable.load(path).only(ctx.space.vocabulary())
    except CorruptFile:
        if path == copy:
            return None
        raise
    graded = replace(table, header=replace(table.header, grade="stable"))  # rows may lower it
    return hashlib.sha256(graded.dumps().encode()).hexdigest()


def _work(ctx: Context, folder: Path) -> None:
    if isinstance(ctx.space, ListedSpace) and is_brought(ctx.config):
        refuse_unfit(ctx, ctx.space.all_first)
    tables = {
        (name, precision): profile(
            device,
            ctx.space,
            precision,
            ctx.tables,
            networks=ctx.config.measure.networks,
            seed=ctx.config.seed,
            progress=ctx.progress,
        ).only(ctx.space.vocabulary())
        for name, device in ctx.devices.items()
        for precision in ctx.precisions(device)
    }
    for (name, precision), table in tables.items():
        table.save(folder / f"{name}.{precision}.jsonl")
    targets = [target(ctx, t, tables) for t in ctx.config.targets]
    refuse_impossible(ctx, targets, tables)
    write_json(
        folder / "profile.json",
        {
            "targets": targets,
            "tables": [_described(t) for t in tables.values()],
        },
    )


def target(
    ctx: Context, asked: Target, tables: Mapping[tuple[str, str], LatencyTable]
) -> dict[str, Any]:
    """The precision that the search goes by on the device, and the limit in ms."""
    rng = random.Random(ctx.config.seed)
    sample = [ctx.space.ops(ctx.space.sample(rng)) for _ in range(SAMPLES)]
    predictors = {p: Predictor(t) for (name, p), t in tables.items() if name == asked.name}
    precision = surely_faster(predictors, sample)
    predictor = predictors[precision]
    require_trusted(predictor.table)
    fastest, slowest = extremes_ms(ctx.space, predictor)
    limits = [b.resolve(fastest * (1 + predictor.margin), slowest) for b in asked.budgets]
    return {
        "device": asked.name,
        "format": ctx.devices[asked.name].runtime.format,
        "precision": precision,
        "asked": ", ".join(b.text for b in asked.budgets),
        "limits_ms": limits * (ctx.config.levels // len(limits)),
        "limit_ms": max(limits),
        "fastest_ms": fastest,
        "slowest_ms": slowest,
        "spans_ms": {p: extremes_ms(ctx.space, known) for p, known in predictors.items()},
    }


def surely_faster(predictors: Mapping[str, Predictor], networks: Sequence[Sequence[OpSpec]]) -> str:
    """The precision under which ``networks`` are fastest; of those that are as fast, the first.

    What a table says of many networks is as sure as the networks that it was fitted to make it:
    its margin, which is of one, over the root of their number. What differs by less is alike.
    """
    means = {p: fmean(map(of.p50_ms, networks)) for p, of in predictors.items()}
    best = min(means, key=means.__getitem__)
    doubt = {p: _doubt(of) for p, of in predictors.items()}
    return next(p for p in means if means[p] <= means[best] * (1 + max(doubt[p], doubt[best])))


def _doubt(predictor: Predictor) -> float:
    fit = predictor.table.header.fit
    return predictor.margin / math.sqrt(max(1, fit.networks if fit else 1))


def refuse_impossible(
    ctx: Context,
    targets: Sequence[Mapping[str, Any]],
    tables: Mapping[tuple[str, str], LatencyTable],
) -> None:
    """Raise ImpossibleBudget before any training."""
    if isinstance(ctx.space, Relaxable):
        predictors = {t["device"]: Predictor(tables[t["device"], t["precision"]]) for t in targets}
        for objective in objectives(ctx.config, ctx.space, targets, predictors):
            even = {c.name: torch.zeros(len(c.options)) for c in ctx.space.choices}
            project(ctx.space, even, objective.budgets)
        return
    for t in targets:
        if t["limit_ms"] < t["fastest_ms"]:
            raise ImpossibleBudget(
                f"no network fits {t['limit_ms']:.4g} ms on {t['device']}: the least that this "
                f"space can do is about {t['fastest_ms']:.4g} ms; ask for at least that"
            )


def extremes_ms(space: Space, predictor: Predictor) -> tuple[float, float]:
    """Predicted p50 of the fastest and of the slowest network of ``space``."""
    if not isinstance(space, Relaxable):
        rng = random.Random(0)
        archs = [space.sample(rng) for _ in range(SAMPLES)]
        archs += [space.all_first, space.all_last] if isinstance(space, ListedSpace) else []
        drawn = [predictor.p50_ms(space.ops(arch)) for arch in archs]
        return min(drawn), max(drawn)
    fastest, slowest = [], []
    for context in space.contexts:
        fixed = predictor.p50_ms(context.fixed)
        costs = [[sum(map(predictor.cost_ms, o)) for o in of] for of in context.options.values()]
        fastest.append(fixed + sum(map(min, costs)))
        slowest.append(fixed + sum(map(max, costs)))
    return min(fastest), max(slowest)


def _described(table: LatencyTable) -> dict[str, Any]:
    h = table.header
    return {
        "device": h.device,
        "precision": h.precision,
        "file": f"{h.device}.{h.precision}.jsonl",
        "grade": h.grade,
        "held_out": h.held_out and asdict(h.held_out),
        "fit": h.fit and asdict(h.fit),
        "fingerprint": dict(h.fingerprint),
        "facts": dict(h.facts),
    }


STAGE = Stage("profile", (), _settings, _work)
