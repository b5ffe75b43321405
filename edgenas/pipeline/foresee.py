"""What would end a run later, said before anything of it is done: weights, boards, budgets."""

from collections.abc import Callable, Collection

import torch

from edgenas.device import Device
from edgenas.latency import LatencyTable
from edgenas.pipeline.brought import brought, is_brought
from edgenas.pipeline.context import Context
from edgenas.pipeline.objectives import everywhere
from edgenas.pipeline.profile import refuse_impossible, target
from edgenas.pipeline.spans import slack, spans
from edgenas.pipeline.training import refuse_start
from edgenas.project import project
from edgenas.session import Fingerprint, probe, require_clock
from edgenas.space import ListedSpace, Relaxable
from edgenas.store import stored, table_path, usable

_TIMED = {"profile", "search", "race", "compress", "verify"}  # stages that ask a device


def foresee(ctx: Context, pending: Collection[str]) -> None:
    """Raise what the stages ``pending`` would raise, as far as it can be known now.

    UsageError, CorruptFile or DataError of what is given, DeviceError of a board that does not
    answer, ImpossibleBudget where tables that are there, or bounds that need none, tell.
    """
    if not pending:
        return
    _ = ctx.task
    if "train" in pending:
        _refuse_weights(ctx)
        refuse_start(ctx)
    if _TIMED & set(pending):
        fingerprints = {d.name: probe(d)[0] for d in (*ctx.devices.values(), *ctx.same_on)}
        for device in ctx.devices.values():
            require_clock(device)
        if "search" in pending:
            _refuse_budgets(ctx, lambda d, p: _known(ctx, d, p, fingerprints[d.name]))


def _refuse_weights(ctx: Context) -> None:
    """Those of the network that is known; of one that is still to be found, what can be read."""
    if ctx.config.train.weights is None:
        return
    if isinstance(ctx.space, ListedSpace) and is_brought(ctx.config):
        brought(ctx, ctx.space.all_first)
    elif (ctx.root / "race" / "architecture.json").is_file():
        brought(ctx, ctx.architecture)


def _refuse_budgets(ctx: Context, known: Callable[[Device, str], LatencyTable | None]) -> None:
    tables = {
        (name, precision): known(device, precision)
        for name, device in ctx.devices.items()
        for precision in ctx.precisions(device)
    }
    there = {key: table for key, table in tables.items() if table is not None}
    if len(there) == len(tables):
        targets = [target(ctx, t, there) for t in ctx.config.targets]
        refuse_impossible(ctx, targets, there)
        for line in (*spans(ctx, targets), *slack(ctx, targets)):
            ctx.progress(line, 1, 1)
    elif isinstance(ctx.space, Relaxable):
        least = everywhere(ctx.config.budgets, 1)  # a byte an activation: more are never fewer
        even = {c.name: torch.zeros(len(c.options)) for c in ctx.space.choices}
        if least:
            project(ctx.space, even, least)


def _known(
    ctx: Context, device: Device, precision: str, fingerprint: Fingerprint
) -> LatencyTable | None:
    """The table that the stage profile would take as it is."""
    path = table_path(ctx.tables, device.name, ctx.space.id, precision)
    table = stored(path, device, ctx.space, precision, fingerprint)
    lacks = table is None or not usable(table, False) or table.missing(ctx.space.vocabulary())
    return None if lacks else table
