"""Device x operators -> latency table, with the error of its predictions on whole networks.

Protocol: all models loaded in one process, shuffled rounds of short visits, the fastest call of
each as its floor, an empty call subtracted, a sentinel against its remembered floor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from edgenas import sentinel, specimen, store
from edgenas.device import Device
from edgenas.errors import CapabilityError, DeviceError, UsageError
from edgenas.latency import LatencyTable, Missing, Row, Timing
from edgenas.ops import macs
from edgenas.predict import fitted
from edgenas.rounds import Campaign, Effort, Progress, Subject
from edgenas.session import probe, require_clock
from edgenas.space import Space
from edgenas.spec import Architecture, OpSpec

EMPTY_ID = "empty"
CALIBRATION, HELD_OUT_AT_LEAST = 8, 4  # networks
NETWORKS = 48  # by default: 8 to calibrate, 40 held out
STANDARD = Effort()
PRECISE = Effort(passes=8, rounds=10)


def within(minutes: float) -> Effort:
    """An effort that takes about so long: the least that gives a table, then the widest rows."""
    return Effort(passes=2, rounds=5, limit_s=60 * minutes)


def estimate_seconds(space: Space, *, networks: int = NETWORKS, effort: Effort = STANDARD) -> float:
    """About how long ``profile`` takes where a few calls of a model fit into one visit."""
    return effort.estimate_seconds(len(space.vocabulary()) + 1, networks)[0]


def require(device: Device, precision: str, networks: int) -> None:
    """Raise what ``profile`` would raise of these before it measures anything."""
    store.require_precision(device, precision)
    require_clock(device)
    if networks < CALIBRATION + HELD_OUT_AT_LEAST:
        raise UsageError(
            f"{networks} networks are too few: {CALIBRATION} calibrate, and {HELD_OUT_AT_LEAST} "
            "or more are held out"
        )


def profile(
    device: Device,
    space: Space,
    precision: str,
    folder: Path = store.FOLDER,
    *,
    extra: Iterable[OpSpec] = (),
    networks: int = NETWORKS,
    seed: int = 0,
    fresh: bool = False,
    allow_unstable: bool = False,
    effort: Effort = STANDARD,
    progress: Progress = lambda what, done, total: None,
) -> LatencyTable:
    """The table of ``device`` for ``space`` at ``precision``; only what it lacks is measured.

    ``extra``: operators outside the vocabulary, e.g. pruned blocks. ``networks``: random whole
    ones, 8 to calibrate, the others held out. ``fresh`` measures all anew. Killed at any time and
    called again, it goes on where it was. What spoils timings there is in the header's facts, as
    ``warnings``. Raises ForeignTable where the stored table is another device's,
    UnstableMeasurement, DeviceError, UsageError where ``effort.limit_s`` is too little.
    """
    require(device, precision, networks)
    path = store.table_path(folder, device.name, space.id, precision)
    fingerprint, _ = probe(device)
    old = None if fresh else store.stored(path, device, space, precision, fingerprint)
    if old is not None and not store.usable(old, allow_unstable):
        old = None
    wanted = sorted({*space.vocabulary(), *extra}, key=str)
    if old is not None:
        wanted = old.missing(wanted)
        if not wanted:
            return old
    store.refuse_short(effort, len(wanted) + networks + 1)
    archs = _sampled(space, networks, seed) if old is None else []
    subjects: dict[str, Subject] = {EMPTY_ID: specimen.EMPTY, **{str(op): op for op in wanted}}
    subjects |= {_network_id(i): arch for i, arch in enumerate(archs)}
    campaign = Campaign(device, space, precision, fingerprint, subjects, effort, seed)
    header, results = store.measured(campaign, path, fresh, allow_unstable, progress)
    rows = {op: results[str(op)] for op in wanted}
    if old is None:
        header = replace(header, empty_ms=_empty_ms(results[EMPTY_ID], device))
        table = _checked(LatencyTable(header, rows), space, archs, results)
    else:
        grade = sentinel.worst(old.header.grade, header.grade)
        table = replace(old.with_rows(rows), header=replace(old.header, grade=grade))
    store.keep(table, path, grown=old is not None)
    return LatencyTable.load(path)  # as everybody finds it, its rows rounded


def _sampled(space: Space, networks: int, seed: int) -> list[Architecture]:
    archs = store.sampled(space, networks, seed)
    if len(archs) < CALIBRATION + HELD_OUT_AT_LEAST:
        raise CapabilityError(
            f"{space.id} has {len(archs)} networks, and a table is checked on at least "
            f"{CALIBRATION + HELD_OUT_AT_LEAST}: give space more options, such as kernels or depths"
        )
    return archs


def _network_id(number: int) -> str:
    return f"network {number}"


def _empty_ms(row: Row, device: Device) -> float:
    if isinstance(row, Missing):
        raise DeviceError(f"{device.name} cannot run an empty model: {row.reason}")
    return row.floor_ms


def _checked(
    table: LatencyTable, space: Space, archs: list[Architecture], results: Mapping[str, Row]
) -> LatencyTable:
    """``table`` with fit and error on whole networks; those that do not run are left out."""
    networks, refused = [], ""
    for number, arch in enumerate(archs):
        row, ops = results[_network_id(number)], space.ops(arch)
        lame = [r for op in ops if isinstance(r := table.rows[op], Missing)]
        if isinstance(row, Timing) and not lame:
            networks.append((arch.id, ops, row))
        else:
            refused = (row if isinstance(row, Missing) else lame[0]).reason
    if len(networks) < CALIBRATION + HELD_OUT_AT_LEAST:
        raise CapabilityError(
            f"only {len(networks)} of {len(archs)} random networks of {space.id} can be timed on "
            f"{table.header.device}, too few to check the table"
            + (f": {refused}" if refused else "")
        )
    return fitted(table, networks, CALIBRATION, macs)
