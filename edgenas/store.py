"""Latency tables on disk, and the measurements they are made from: found, resumed, kept."""

import gzip
import math
import os
import random
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from edgenas import sentinel
from edgenas.conditions import warnings
from edgenas.device import Device
from edgenas.errors import CapabilityError, UnstableMeasurement, UsageError
from edgenas.files import aside, require_writable
from edgenas.journal import open_journal
from edgenas.latency import Header, LatencyTable, Row
from edgenas.rounds import Campaign, Effort, Progress, outside
from edgenas.scratch import scratch_folder
from edgenas.session import Fingerprint, probe
from edgenas.space import Space
from edgenas.spec import Architecture

FOLDER = Path("latency_tables")
LONGEST_BYTES = 200  # of a table's name: what is kept beside it has a longer one, 255 at most


def table_path(folder: Path, device: str, space: str, precision: str) -> Path:
    """Where the table of a device for a space at a precision is kept.

    Raises UsageError where one of them, which may come out of somebody's table, makes no file name.
    """
    for what, name in (("device", device), ("space", space), ("precision", precision)):
        if not re.fullmatch(r"[^./\\\s][^/\\]*", name) or not name.isprintable():
            raise UsageError(f"the name of the {what}, {name[:80]!r}, makes no file name")
    table = f"{device}.{space}.{precision}.jsonl"
    if len(os.fsencode(table)) > LONGEST_BYTES:
        raise UsageError(
            f"the names of device, space and precision are too long for a file: {table[:80]!r}..."
        )
    return folder / table


def samples_path(table: Path) -> Path:
    """Where the raw samples of ``table`` are kept: the journal it was made from, gzipped."""
    return table.with_suffix(".samples.jsonl.gz")


def journal_path(table: Path) -> Path:
    """Where samples are kept while ``table`` is being measured."""
    return table.with_name(f".{table.name}.journal.jsonl")


def require_precision(device: Device, precision: str) -> None:
    """Raise CapabilityError unless ``device`` is asked to run files of ``precision``."""
    if precision not in device.runs:
        raise CapabilityError(
            f"{device.name} is set up for {', '.join(device.runs)}, not {precision!r}"
        )


def stored(
    path: Path, device: Device, space: Space, precision: str, fingerprint: Fingerprint
) -> LatencyTable | None:
    """The table at ``path``; None where there is none. Raises ForeignTable."""
    if not path.exists():
        return None
    table = LatencyTable.load(path)
    table.require(
        device=device.name,
        runtime=device.runtime.name,
        precision=precision,
        space=space.id,
        batch=_batch(device),
        fingerprint=dict(fingerprint),
    )
    return table


def _batch(device: Device) -> int:
    return int(device.runtime.options.get("timed_batch", 1))


def usable(table: LatencyTable, allow_unstable: bool) -> bool:
    """Whether ``table`` was checked against networks and can be trusted."""
    return table.header.fit is not None and (allow_unstable or table.header.grade != "unstable")


def sampled(space: Space, count: int, seed: int) -> list[Architecture]:
    """Different random architectures; fewer where the space has not so many."""
    rng, found = random.Random(seed), dict[Architecture, None]()
    for _ in range(50 * count):
        if len(found) == count:
            break
        found[space.sample(rng)] = None
    return list(found)


def refuse_short(effort: Effort, models: int) -> None:
    """Raise UsageError where the limit of ``effort`` is less than the least that it takes."""
    least_s = effort.seconds(models)
    if effort.limit_s is not None and effort.limit_s < least_s:
        raise UsageError(
            f"{effort.limit_s / 60:g} minutes are too few for {models} models: ask for at least "
            f"{math.ceil(least_s / 6) / 10:g}"
        )


def measured(
    campaign: Campaign, path: Path, fresh: bool, allow_unstable: bool, progress: Progress
) -> tuple[Header, Mapping[str, Row]]:
    """All timings of ``campaign`` by id, and what is to be said of them.

    The journal stays until ``keep``. Raises UnstableMeasurement, DeviceError.
    """
    raw = journal_path(path)
    device, fingerprint, precision = campaign.device, campaign.fingerprint, campaign.precision
    for folder in (path.parent, sentinel.floor_path(fingerprint, precision).parent):
        require_writable(folder)  # both are written to when all is measured
    before = probe(device)[1]

    def said(text: str) -> None:
        progress(text, 0, 0)

    with open_journal(raw, campaign.describe(), said, keep=not fresh) as journal:
        if journal.discarded and not fresh:
            said("discarding the journal of another measurement")
        with scratch_folder() as work:
            health = campaign.measure(journal, work, progress)
        results = campaign.results(journal.records)
        placed = outside(journal.records)
    if health.grade == "unstable" and not allow_unstable:
        raw.unlink()  # its samples would spoil the next run's
        raise UnstableMeasurement(
            f"{device.name} ran a fixed operator {health.drift:.0%} slower than it can: quieten or "
            "cool it and profile again. If the machine has changed for good, delete "
            f"{sentinel.floor_path(fingerprint, precision)}"
        )
    sentinel.remember(fingerprint, precision, health.floor_ms)
    spoilt = warnings(int(fingerprint.get("cores", 1)), before, probe(device)[1])
    header = Header(
        device=device.name,
        runtime=device.runtime.name,
        precision=precision,
        space=campaign.space.id,
        fingerprint=fingerprint,
        facts={
            **before,
            "sentinel": asdict(health),
            **({"delegated": placed} if placed else {}),
            "warnings": spoilt,
        },
        protocol={
            "statistic": "floor",
            "quantile": sentinel.quantile(fingerprint),
            "seed": campaign.seed,
            **asdict(campaign.effort),
        },
        batch=_batch(device),
        provenance=device.runtime.provenance,
        grade=health.grade,
    )
    return header, results


def keep(table: LatencyTable, path: Path, grown: bool = False) -> None:
    """Write ``table`` and the samples it was made from; ``grown``: added to those it had."""
    kept, journal = samples_path(path), journal_path(path)
    before = kept.read_bytes() if grown and kept.exists() else b""
    with aside(kept) as temporary:  # gzip members may follow each other
        temporary.write_bytes(before + gzip.compress(journal.read_bytes(), mtime=0))
    table.save(path)
    journal.unlink(missing_ok=True)
