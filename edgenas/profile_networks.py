"""Device x whole networks -> latency table, where timing each operator is slow or impossible."""

from dataclasses import replace
from pathlib import Path

from edgenas import ops, store
from edgenas.device import Device
from edgenas.errors import CapabilityError, ForeignTable, UsageError
from edgenas.fewshot import LEAST, Estimate, fit_rows
from edgenas.latency import LatencyTable, Missing, Timing
from edgenas.predict import fitted
from edgenas.profile import STANDARD
from edgenas.rounds import Campaign, Effort, Progress, Subject
from edgenas.session import probe, require_clock
from edgenas.space import Space
from edgenas.spec import OpSpec

HELD_OUT = 20


def require(device: Device, precision: str, networks: int) -> None:
    """Raise what ``profile_from_networks`` would raise of these before it measures anything."""
    store.require_precision(device, precision)
    require_clock(device)
    if networks < LEAST:
        raise UsageError(f"{networks} networks do not make a table: measure {LEAST} or more")


def profile_from_networks(
    device: Device,
    space: Space,
    precision: str,
    folder: Path = store.FOLDER,
    *,
    networks: int = 20,
    prior: LatencyTable | None = None,
    seed: int = 0,
    fresh: bool = False,
    allow_unstable: bool = False,
    effort: Effort = STANDARD,
    progress: Progress = lambda what, done, total: None,
) -> LatencyTable:
    """A table whose rows are estimated (and say so) from ``networks`` random whole networks.

    Twenty more are timed to check it. ``prior``: another device's table of the same space; without
    one, an operator's multiply-accumulates and the bytes it moves. A table that is there is kept
    unless ``fresh``. Killed at any time and called again, it goes on where it was. Raises what
    ``profile`` raises.
    """
    require(device, precision, networks)
    path = store.table_path(folder, device.name, space.id, precision)
    fingerprint, _ = probe(device)
    old = None if fresh else store.stored(path, device, space, precision, fingerprint)
    if old is not None and store.usable(old, allow_unstable):
        return old
    vocabulary = sorted(space.vocabulary(), key=str)
    priors = [_work(vocabulary)] if prior is None else [_told(prior, space, vocabulary)]
    store.refuse_short(effort, networks + HELD_OUT)
    archs = store.sampled(space, networks + HELD_OUT, seed)
    subjects: dict[str, Subject] = {arch.id: arch for arch in archs}
    campaign = Campaign(device, space, precision, fingerprint, subjects, effort, seed)
    header, results = store.measured(campaign, path, fresh, allow_unstable, progress)
    timed = [
        (arch.id, space.ops(arch), row)
        for arch in archs
        if isinstance(row := results[arch.id], Timing)
    ]
    if len(timed) < networks + 2:
        refused = next(r.reason for r in results.values() if isinstance(r, Missing))
        raise CapabilityError(
            f"only {len(timed)} of {len(archs)} random networks of {space.id} can be timed on "
            f"{device.name}: {refused}"
        )
    few = fit_rows([(used, t.floor_ms) for _, used, t in timed[:networks]], priors)
    rows = {op: _row(few.rows[op], networks) for op in vocabulary}
    told = "work" if prior is None else f"{prior.header.device} {prior.header.precision}"
    protocol = {**header.protocol, "statistic": "fitted", "networks": networks, "prior": told}
    header = replace(header, provenance="estimated", protocol=protocol)
    table = fitted(LatencyTable(header, rows), timed, networks, ops.macs)
    store.keep(table, path)
    return table


def _work(vocabulary: list[OpSpec]) -> dict[OpSpec, float]:
    """Multiply-accumulates and moved values, each 1 in the mean."""
    macs = [ops.macs(op) for op in vocabulary]
    moved = [op.cin * op.size**2 + op.cout * ops.output_size(op) ** 2 for op in vocabulary]
    return {
        op: len(vocabulary) * (m / sum(macs) + v / sum(moved))
        for op, m, v in zip(vocabulary, macs, moved, strict=True)
    }


def _told(prior: LatencyTable, space: Space, vocabulary: list[OpSpec]) -> dict[OpSpec, float]:
    if missing := prior.missing(vocabulary):
        raise ForeignTable(
            f"the prior, a table of {prior.header.device}, lacks {len(missing)} operators of "
            f"{space.id}, e.g. '{missing[0]}': take one of the same space"
        )
    return {op: prior.cost_ms(op) for op in vocabulary}


def _row(estimate: Estimate, networks: int) -> Timing:
    """No operator costs less than nothing, whatever the regression says."""
    ms = max(estimate.ms, 0.0)
    interval = max(ms - estimate.half_ms, 0.0), ms + estimate.half_ms
    return Timing(ms, ms, None, networks, "estimated", interval_ms=interval)
