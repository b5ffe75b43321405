"""Tables of one device made at different times, or for different spaces, as one."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from edgenas.errors import ForeignTable
from edgenas.latency import LatencyTable, Row, Timing
from edgenas.lut.diff import diff
from edgenas.sentinel import worst
from edgenas.spec import OpSpec

SAME = ("runtime", "precision", "batch", "fingerprint", "provenance")
AGREE = 0.8  # of the rows in both, within their intervals: else they are of two states


def merge(tables: Sequence[LatencyTable]) -> LatencyTable:
    """The first of ``tables``, with its check on whole networks, and the rows of all others.

    Of a row that two have, the one with the narrower interval counts. Raises ForeignTable where
    they were not measured on the same thing, or do not agree.
    """
    return reduce(_joined, tables)


def _joined(first: LatencyTable, second: LatencyTable) -> LatencyTable:
    first.require(device=second.header.device, **{k: getattr(second.header, k) for k in SAME})
    if {op for op, row in first.rows.items() if isinstance(row, Timing)} & set(second.rows):
        found = diff(first, second)
        if found.agree < AGREE:
            raise ForeignTable(
                f"only {found.agree:.0%} of {found.rows} rows in both tables of "
                f"{first.header.device} agree within their intervals: the machine was not in the "
                "same state. Profile it again and merge what agrees: edgenas lut diff"
            )
    rows = {**second.rows, **first.rows}
    for op, row in second.rows.items():
        if _width(row) < _width(rows[op]):
            rows[op] = row
    header = replace(first.header, grade=worst(first.header.grade, second.header.grade))
    return LatencyTable(header, {op: rows[op] for op in sorted(rows, key=_text)})


def _width(row: Row) -> float:
    if not isinstance(row, Timing):
        return float("inf")
    low, high = row.interval_ms or (0.0, row.floor_ms)
    return (high - low) / max(row.floor_ms, 1e-9)


def _text(op: OpSpec) -> str:
    return str(op)
