"""Latency tables: what an operator costs on a device, measured and with provenance.

A table is JSON lines: a header, then one sorted row an operator, so that re-measuring reads as a
diff. Units are in the keys.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from edgenas import tablefile
from edgenas.errors import MissingLatency
from edgenas.files import write_text
from edgenas.spec import OpSpec
from edgenas.validate import construct

SCHEMA, BEFORE = 3, 2  # the one before is read too
Provenance = Literal["measured", "simulated", "estimated"]
Grade = Literal["stable", "noisy", "unstable"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one operator or network over ``n`` timed calls; None is not known.

    ``floor_ms`` is the fastest call: on a shared machine it repeats where the median does not.
    ``interval_ms`` holds the floor with 95 % confidence, as another run would find it.
    ``energy_mj``: millijoules of one call, of the whole processor, where it counts them.
    """

    floor_ms: float
    p50_ms: float
    p90_ms: float | None
    n: int
    provenance: Provenance = "measured"
    p99_ms: float | None = None
    interval_ms: tuple[float, float] | None = None
    energy_mj: float | None = None

    def __post_init__(self) -> None:
        known = (self.p90_ms, self.p99_ms, self.energy_mj, *(self.interval_ms or ()))
        values = (self.floor_ms, self.p50_ms, *(v for v in known if v is not None))
        if not all(math.isfinite(v) and v >= 0 for v in values):
            raise ValueError(
                f"milliseconds and millijoules must be finite and not negative: {values}"
            )
        if type(self.n) is not int or self.n < 1 or self.provenance not in get_args(Provenance):
            raise ValueError(f"n is {self.n}, provenance {self.provenance!r}")
        if self.interval_ms is not None:
            low, high = self.interval_ms
            if not low <= self.floor_ms <= high:
                raise ValueError(f"the interval {self.interval_ms} is not around {self.floor_ms}")


@dataclass(frozen=True, slots=True)
class Missing:
    """Why an operator has no timing: the device cannot run it, or timing it failed."""

    status: Literal["unsupported", "failed"]
    reason: str

    def __post_init__(self) -> None:
        if self.status not in ("unsupported", "failed"):
            raise ValueError(f"status {self.status!r} is neither 'unsupported' nor 'failed'")
        if not isinstance(self.reason, str):
            raise ValueError(f"the reason is {self.reason!r}, not a text")


Row = Timing | Missing


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Error of predicted p50 on whole networks that the prediction was not fitted on; fractions."""

    networks: int
    mape: float
    within_5: float
    within_10: float
    spearman: float
    bias: float


@dataclass(frozen=True)
class Fit:
    """From rows to a whole network: p50 = p50_per_floor * (intercept_ms + slope * sum of rows).

    ``margin`` is the fraction that a prediction is raised by so that 9 in 10 networks keep it.
    """

    intercept_ms: float
    slope: float
    p50_per_floor: float
    margin: float
    networks: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A whole network that was timed: ``rows_ms`` its rows summed as they stand, ``cost_ms`` what
    they add less the cost of empty calls."""

    arch: str
    rows_ms: float
    cost_ms: float
    floor_ms: float
    p50_ms: float


@dataclass(frozen=True)
class Header:
    """What a table was measured on and how. ``fingerprint`` decides whether it fits a device.

    ``networks``: those that checked it, the first ``fit.networks`` of them by calibrating.
    ``baselines``: how simpler predictions (plain sum, FLOPs) do on the same held-out networks.
    """

    device: str
    runtime: str
    precision: str
    space: str
    fingerprint: Mapping[str, str | int]
    facts: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 1
    provenance: Provenance = "measured"
    grade: Grade = "stable"
    empty_ms: float = 0.0
    fit: Fit | None = None
    held_out: HeldOut | None = None
    networks: tuple[Checked, ...] = ()
    baselines: Mapping[str, HeldOut] = field(default_factory=dict)


@dataclass(frozen=True)
class LatencyTable:
    """Operator -> timing for one device, runtime, precision and space."""

    header: Header
    rows: Mapping[OpSpec, Row]

    def __getitem__(self, op: OpSpec) -> Timing:
        row = self.rows.get(op)
        if isinstance(row, Timing):
            return row
        h = self.header
        name = f"table {h.device} {h.precision}"
        if isinstance(row, Missing):
            raise MissingLatency(f"{name}: '{op}' is {row.status} on this device: {row.reason}")
        near = difflib.get_close_matches(str(op), [str(o) for o in self.rows], 1)
        raise MissingLatency(
            f"{name} has no row for '{op}'"
            + (f" (nearest: '{near[0]}')" if near else "")
            + f". Measure it: edgenas profile {h.device}"
        )

    def cost_ms(self, op: OpSpec) -> float:
        """What ``op`` adds to a network: its floor less the cost of an empty call."""
        return max(self[op].floor_ms - self.header.empty_ms, 0.0)

    def with_rows(self, rows: Mapping[OpSpec, Row]) -> "LatencyTable":
        """This table and further rows of the same device."""
        return replace(self, rows={**self.rows, **rows})

    def only(self, ops: Iterable[OpSpec]) -> "LatencyTable":
        """This table without the rows of others than ``ops``."""
        wanted = set(ops)
        return replace(self, rows={op: row for op, row in self.rows.items() if op in wanted})

    def missing(self, ops: Iterable[OpSpec]) -> list[OpSpec]:
        """Those of ``ops`` that were never timed, sorted."""
        return sorted(set(ops) - set(self.rows), key=str)

    def require(self, **want: Any) -> None:
        """Refuse the table unless header fields equal ``want``. Raises ForeignTable."""
        device = want.get("device", self.header.device)
        advice = f"Measure one that fits: edgenas profile {device} --fresh"
        tablefile.require(self.header, want, advice)

    def dumps(self) -> str:
        """The text of the file."""
        rows = {
            op: {k: v for k, v in asdict(row).items() if v is not None}
            for op, row in self.rows.items()
        }
        return tablefile.dumps({"schema": SCHEMA, **asdict(self.header)}, rows)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_text(path, self.dumps())

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Inverse of ``save``. Raises UsageError (absent) or CorruptFile with the line."""
        # <device>.<space>.<precision>.jsonl: only the first of them may hold dots
        device = path.name.rsplit(".", 3)[0] if path.suffix == ".jsonl" else "<device>"
        text = tablefile.read(path, f"Measure one: edgenas profile {device}")
        return cls.loads(text, str(path))

    @classmethod
    def loads(cls, text: str, where: str) -> "LatencyTable":
        """Parse the text of a table; ``where`` names it in messages."""
        return cls(*tablefile.loads(text, where, "latency table", _header, _row, BEFORE))


def _header(data: dict[str, Any]) -> Header:
    if "unit" in data:
        raise ValueError(
            f"it holds {data['unit']!r}, no milliseconds: see edgenas lut calibrate --help"
        )
    if (schema := data.pop("schema", None)) not in (SCHEMA, BEFORE):
        raise ValueError(f"schema {schema!r}; this edgenas reads {SCHEMA}: profile --fresh")
    return construct(Header, data, "header")


def _row(data: dict[str, Any]) -> Row:
    if "status" in data:
        return Missing(**data)
    if "interval_ms" in data:
        low, high = data.pop("interval_ms")
        data["interval_ms"] = (low, high)
    return Timing(**{"p90_ms": None, **data})
