"""Emulated device x operators -> instruction table."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgenas import specimen, store
from edgenas.artifact import Artifact
from edgenas.device import Device
from edgenas.errors import CapabilityError, DeviceError
from edgenas.export import exporter_for
from edgenas.files import require_writable
from edgenas.instructions import Counts, Header, InstructionTable, Row
from edgenas.latency import Missing
from edgenas.ops import macs
from edgenas.rounds import Progress
from edgenas.scratch import scratch_folder
from edgenas.session import Counted, probe
from edgenas.session import count as counted
from edgenas.space import Space
from edgenas.spec import OpSpec

CALLS = 6  # the fewest of so many repeats within some 0.03 %; a single one does not
TOGETHER = 16  # operators in a process; the file is written after each, so that a run can go on
PROCESS_S, MMAC_S = 5.0, 0.1  # a process, a million multiply-accumulates; about, on one Xeon core


def table_path(folder: Path, device: str, space: str, precision: str) -> Path:
    """Where the instruction table of a device for a space at a precision is kept."""
    return store.table_path(folder, device, space, precision).with_suffix(".instructions.jsonl")


def estimate_seconds(space: Space) -> float:
    """About how long ``count`` takes where nothing is counted yet."""
    vocabulary = space.vocabulary()
    processes = math.ceil(len(vocabulary) / TOGETHER)
    return PROCESS_S * processes + MMAC_S * sum(map(macs, vocabulary)) / 1e6


def require(device: Device, precision: str) -> None:
    """Raise what ``count`` would raise of these before it counts anything."""
    store.require_precision(device, precision)
    if not device.transport.emulated:
        raise CapabilityError(
            f"{device.name} is a real machine, where nothing counts instructions. Measure "
            f"milliseconds: edgenas profile {device.name}"
        )


def count(
    device: Device,
    space: Space,
    precision: str,
    folder: Path = store.FOLDER,
    *,
    fresh: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> InstructionTable:
    """The instruction table of ``device`` for ``space``; only what it lacks is counted.

    Killed at any time and called again, it goes on where it was; ``fresh`` counts all anew. Raises
    ForeignTable where the stored one is of another device or runtime, CapabilityError where the
    device is not emulated.
    """
    require(device, precision)
    path = table_path(folder, device.name, space.id, precision)
    require_writable(path.parent)
    fingerprint, facts = probe(device)
    header = Header(
        device.name, device.runtime.name, precision, space.id, fingerprint,
        facts=facts, protocol={"calls": CALLS, "statistic": "fewest"},
    )  # fmt: skip
    table = InstructionTable(header, {})
    if path.exists() and not fresh:
        table = InstructionTable.load(path)
        table.require(
            device=device.name, runtime=device.runtime.name, precision=precision,
            space=space.id, fingerprint=fingerprint,
        )  # fmt: skip
    vocabulary = sorted(space.vocabulary(), key=str)
    todo = [op for op in vocabulary if op not in table.rows]
    for start in range(0, len(todo), TOGETHER):
        progress("counting", len(vocabulary) - len(todo) + start, len(vocabulary))
        found = _counted(device, [specimen.EMPTY, *todo[start : start + TOGETHER]], precision)
        empty = found.pop(specimen.EMPTY)
        if isinstance(empty, Missing):
            raise DeviceError(f"{device.name} cannot run an empty model: {empty.reason}")
        if not table.rows:
            table = replace(table, header=replace(header, empty=empty))
        table = table.with_rows(found)
        table.save(path)
    progress("counting", len(vocabulary), len(vocabulary))
    return table


def _counted(device: Device, ops: list[OpSpec], precision: str) -> dict[OpSpec, Row]:
    rows: dict[OpSpec, Row] = {}
    names: Mapping[str, OpSpec] = {str(op): op for op in ops}
    exporter = exporter_for(device.runtime.format)
    with scratch_folder() as scratch:
        models: dict[str, Artifact] = {}
        for number, (name, op) in enumerate(names.items()):
            path = scratch / f"{number}.{exporter.format}"
            try:
                models[name] = specimen.operator(exporter, op, precision, path)
            except CapabilityError as e:
                rows[op] = Missing("unsupported", str(e))
        for event in counted(device, models, CALLS):
            rows[names[event.id]] = (
                Counts(**event.instructions)
                if isinstance(event, Counted)
                else Missing(event.status, event.reason)
            )
    return rows
