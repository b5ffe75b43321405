"""Instruction tables: how many instructions an operator executes on an emulated device.

They are no milliseconds. Operators measured on the real board calibrate them (edgenas.lut).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgenas import tablefile
from edgenas.errors import UsageError
from edgenas.files import write_text
from edgenas.latency import LatencyTable, Missing, Provenance
from edgenas.spec import OpSpec
from edgenas.validate import construct

SCHEMA, BEFORE = 2, 1  # the one before is read too
UNIT = "instructions"


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions of one call by class. ``simd``: arithmetic on vectors and floats."""

    load: int
    store: int
    simd: int
    branch: int
    integer: int

    def __post_init__(self) -> None:
        if any(type(v) is not int or v < 0 for v in self.each):
            raise ValueError(f"numbers of instructions must be whole and not negative: {self.each}")

    @property
    def each(self) -> tuple[int, ...]:
        """In the order of the fields."""
        return tuple(getattr(self, f.name) for f in fields(self))

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.each)


Row = Counts | Missing


@dataclass(frozen=True)
class Header:
    """What was counted where. ``empty``: a call of an empty model, part of every row."""

    device: str
    runtime: str
    precision: str
    space: str
    fingerprint: Mapping[str, str | int]
    empty: Counts = Counts(0, 0, 0, 0, 0)
    facts: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance = "estimated"


@dataclass(frozen=True)
class InstructionTable:
    """Operator -> instructions for one emulated device, runtime, precision and space."""

    header: Header
    rows: Mapping[OpSpec, Row]

    def cost(self, op: OpSpec) -> tuple[int, ...]:
        """What ``op`` adds to a network, by class: its row less the empty call."""
        row = self.rows[op]
        if isinstance(row, Missing):
            raise UsageError(f"'{op}' is {row.status} on {self.header.device}: {row.reason}")
        both = zip(row.each, self.header.empty.each, strict=True)
        return tuple(max(own - empty, 0) for own, empty in both)

    def with_rows(self, rows: Mapping[OpSpec, Row]) -> "InstructionTable":
        """This table and further rows."""
        return replace(self, rows={**self.rows, **rows})

    def require(self, **want: Any) -> None:
        """Refuse the table unless header fields equal ``want``. Raises ForeignTable."""
        device = want.get("device", self.header.device)
        advice = f"Count anew: edgenas count {device} --fresh"
        tablefile.require(self.header, want, advice)

    def dumps(self) -> str:
        """The text of the file."""
        head = {"unit": UNIT, "schema": SCHEMA, **asdict(self.header)}
        return tablefile.dumps(head, {op: asdict(row) for op, row in self.rows.items()})

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_text(path, self.dumps())

    @classmethod
    def load(cls, path: Path) -> "InstructionTable":
        """Inverse of ``save``. Raises UsageError (absent) or CorruptFile with the line."""
        return cls.loads(tablefile.read(path, "Count: see edgenas count --help"), str(path))

    @classmethod
    def loads(cls, text: str, where: str) -> "InstructionTable":
        """Parse the text of a table; ``where`` names it in messages."""
        return cls(*tablefile.loads(text, where, "table of instructions", _header, _row, BEFORE))


def load_table(path: Path) -> LatencyTable | InstructionTable:
    """The table at ``path``, of instructions where its header says so. Raises as their ``load``."""
    text = tablefile.read(path, "Measure one: see edgenas profile --help")
    kind = InstructionTable if tablefile.unit(text) == UNIT else LatencyTable
    return kind.loads(text, str(path))


def _header(data: dict[str, Any]) -> Header:
    if data.pop("unit", None) != UNIT:
        raise ValueError("it does not say that it holds instructions")
    if (schema := data.pop("schema", None)) not in (SCHEMA, BEFORE):
        raise ValueError(f"schema {schema!r}; this edgenas reads {SCHEMA}: count again")
    return construct(Header, data, "header")


def _row(data: dict[str, Any]) -> Row:
    return Missing(**data) if "status" in data else Counts(**data)
