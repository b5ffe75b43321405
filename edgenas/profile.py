"""Device x operators -> latency table, with the error of its predictions on whole networks.

Protocol: all models loaded in one process, shuffled rounds of short visits, the fastest call of
each as its floor, an empty call subtracted, a sentinel against its remembered floor.
"""

import gzip
import math
import random
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from edgenas import sentinel
from edgenas.conditions import warnings
from edgenas.device import Device
from edgenas.errors import CapabilityError, DeviceError, UnstableMeasurement, UsageError
from edgenas.files import aside
from edgenas.journal import open_journal
from edgenas.latency import Header, LatencyTable, Missing, Row, Timing
from edgenas.ops import macs
from edgenas.predict import fitted
from edgenas.rounds import Campaign, Effort, Progress, Subject
from edgenas.sentinel import Health
from edgenas.session import Fingerprint, probe
from edgenas.space import Space
from edgenas.spec import Architecture, OpSpec

EMPTY = OpSpec.of("conv", 1, 1, 1, k=1, s=1)
EMPTY_ID = "empty"
CALIBRATION, HELD_OUT_AT_LEAST = 8, 4  # networks
FOLDER = Path("latency_tables")
NETWORKS = 48  # by default: 8 to calibrate, 40 held out
STANDARD = Effort()
PRECISE = Effort(passes=8, rounds=10)


def within(minutes: float) -> Effort:
    """An effort that takes about so long: the least that gives a table, then the widest rows."""
    return Effort(passes=2, rounds=5, limit_s=60 * minutes)


def table_path(folder: Path, device: str, space: str, precision: str) -> Path:
    """Where the table of a device for a space at a precision is kept."""
    return folder / f"{device}.{space}.{precision}.jsonl"


def samples_path(table: Path) -> Path:
    """Where the raw samples of ``table`` are kept: the journal it was made from, gzipped."""
    return table.with_suffix(".samples.jsonl.gz")


def estimate_seconds(space: Space, *, networks: int = NETWORKS, effort: Effort = STANDARD) -> float:
    """About how long ``profile`` takes where a few calls of a model fit into one visit."""
    least = effort.seconds(len(space.vocabulary()) + networks + 1)
    return least if effort.limit_s is None else max(least, effort.limit_s)


def profile(
    device: Device,
    space: Space,
    precision: str,
    folder: Path = FOLDER,
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
    if precision not in device.precisions:
        raise CapabilityError(
            f"{device.name} is set up for {', '.join(device.precisions)}, not {precision!r}"
        )
    if networks < CALIBRATION + HELD_OUT_AT_LEAST:
        raise UsageError(
            f"{networks} networks are too few: {CALIBRATION} calibrate, and {HELD_OUT_AT_LEAST} "
            "or more are held out"
        )
    path = table_path(folder, device.name, space.id, precision)
    fingerprint, facts = probe(device)
    stored = None if fresh else _stored(path, device, space, precision, fingerprint)
    if stored is not None and not _usable(stored, allow_unstable):
        stored = None
    wanted = sorted({*space.vocabulary(), *extra}, key=str)
    if stored is not None:
        wanted = stored.missing(wanted)
        if not wanted:
            return stored
    _refuse_short(effort, len(wanted) + networks + 1)
    archs = _sampled(space, networks, seed) if stored is None else []
    subjects: dict[str, Subject] = {EMPTY_ID: EMPTY, **{str(op): op for op in wanted}}
    subjects |= {_network_id(i): arch for i, arch in enumerate(archs)}
    campaign = Campaign(device, space, precision, fingerprint, subjects, effort, seed)
    health, results = _measured(campaign, path, fresh, allow_unstable, progress)
    rows = {op: results[str(op)] for op in wanted}
    spoilt = warnings(int(fingerprint.get("cores", 1)), facts, probe(device)[1])
    if stored is None:
        header = Header(
            device=device.name,
            runtime=device.runtime.name,
            precision=precision,
            space=space.id,
            fingerprint=fingerprint,
            facts={**facts, "sentinel": asdict(health), "warnings": spoilt},
            protocol={"statistic": "floor", "seed": seed, **asdict(effort)},
            provenance=device.runtime.provenance,
            grade=health.grade,
            empty_ms=_empty_ms(results[EMPTY_ID], device),
        )
        table = _checked(LatencyTable(header, rows), space, archs, results)
    else:
        grade = sentinel.worst(stored.header.grade, health.grade)
        header = replace(stored.header, grade=grade)
        table = replace(stored.with_rows(rows), header=header)
    _keep_samples(path, after=stored is not None)
    table.save(path)
    _journal_path(path).unlink(missing_ok=True)
    return table


def _refuse_short(effort: Effort, models: int) -> None:
    least_s = effort.seconds(models)
    if effort.limit_s is not None and effort.limit_s < least_s:
        raise UsageError(
            f"{effort.limit_s / 60:g} minutes are too few for {models} models: ask for at least "
            f"{math.ceil(least_s / 6) / 10:g}"
        )


def _keep_samples(path: Path, after: bool) -> None:
    """Gzip members may follow each other: what a table grew by is added to what it had."""
    kept = samples_path(path)
    before = kept.read_bytes() if after and kept.exists() else b""
    with aside(kept) as temporary:
        temporary.write_bytes(before + gzip.compress(_journal_path(path).read_bytes(), mtime=0))


def _stored(
    path: Path, device: Device, space: Space, precision: str, fingerprint: Fingerprint
) -> LatencyTable | None:
    if not path.exists():
        return None
    table = LatencyTable.load(path)
    table.require(
        device=device.name,
        runtime=device.runtime.name,
        precision=precision,
        space=space.id,
        batch=1,
        fingerprint=dict(fingerprint),
    )
    return table


def _usable(table: LatencyTable, allow_unstable: bool) -> bool:
    return table.header.fit is not None and (allow_unstable or table.header.grade != "unstable")


def _measured(
    campaign: Campaign, path: Path, fresh: bool, allow_unstable: bool, progress: Progress
) -> tuple[Health, Mapping[str, Row]]:
    """All timings of ``campaign`` by id; its journal stays until the table is written."""
    raw = _journal_path(path)
    work = path.with_name(f".{path.name}.work")
    device, fingerprint, precision = campaign.device, campaign.fingerprint, campaign.precision
    with open_journal(raw, campaign.describe(), keep=not fresh) as journal:
        if journal.discarded and not fresh:
            progress("discarding the journal of another measurement", 0, 0)
        try:
            health = campaign.measure(journal, work, progress)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        results = campaign.results(journal.records)
    if health.grade == "unstable" and not allow_unstable:
        raw.unlink()  # its samples would spoil the next run's
        raise UnstableMeasurement(
            f"{device.name} ran a fixed operator {health.drift:.0%} slower than it can: quieten or "
            "cool it and profile again. If the machine has changed for good, delete "
            f"{sentinel.floor_path(fingerprint, precision)}"
        )
    sentinel.remember(fingerprint, precision, health.floor_ms)
    return health, results


def _journal_path(table: Path) -> Path:
    return table.with_name(f".{table.name}.journal.jsonl")


def _network_id(number: int) -> str:
    return f"network {number}"


def _sampled(space: Space, count: int, seed: int) -> list[Architecture]:
    """Different random architectures; fewer where the space has not so many."""
    rng, found = random.Random(seed), dict[Architecture, None]()
    for _ in range(50 * count):
        if len(found) == count:
            break
        found[space.sample(rng)] = None
    return list(found)


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
