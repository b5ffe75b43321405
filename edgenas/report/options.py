"""Why this network on this device: what each option of each choice costs there, by its table."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgenas import ops
from edgenas.errors import UsageError
from edgenas.latency import Timing
from edgenas.predict import Predictor
from edgenas.report import quantity as q
from edgenas.report.curves import tone
from edgenas.report.facts import Found, Target
from edgenas.report.record import Record
from edgenas.spec import OpSpec

Options = Mapping[str, Mapping[str, Sequence[OpSpec]]]  # choice -> label -> what it executes
Cost = Callable[[OpSpec], float | None]  # milliseconds; None where they are not known

_AXES = {
    "kind": "block",
    "k": "kernel",
    "e": "expansion",
    "se": "squeeze-and-excitation",
    "hs": "hard-swish",
}


@dataclass(frozen=True)
class Step:
    """An axis at ``value`` against its first value, all else equal: means over all places.

    Of ``kind`` that is MBConv, of others the smallest.

    ``time`` and ``macs`` are ratios (geometric means); ``chosen``: places that picked ``value``.
    """

    axis: str
    value: int | str
    time: float
    macs: float
    chosen: int = 0

    @property
    def rate(self) -> float:
        """Multiply-accumulates a millisecond, relative to the smallest value."""
        return self.macs / self.time


def steps(options: Options, cost: Cost, picked: Mapping[str, str] | None = None) -> list[Step]:
    """What a larger kernel, expansion ... costs; nothing for options without such axes.

    ``picked``: choice -> label. Pairs of which a cost is not known or zero are left out.
    """
    places = {
        choice: {label: executed[0] for label, executed in labels.items() if len(executed) == 1}
        for choice, labels in options.items()
    }
    every = [op for labels in places.values() for op in labels.values()]
    chosen = [labels[p] for c, labels in places.items() if (p := (picked or {}).get(c)) in labels]
    found = []
    for axis in _AXES:
        values = sorted({f[axis] for f in map(_facts, every) if axis in f}, key=_order)
        for value in values if len(values) > 1 else ():
            pairs = [
                pair
                for of in places.values()
                for pair in _pairs(of.values(), axis, values[0], value)
            ]
            known = [
                (ms / base_ms, ops.macs(op) / ops.macs(base))
                for base, op in pairs
                if (ms := cost(op)) and (base_ms := cost(base)) and ops.macs(base)
            ]
            if known:
                times, works = zip(*known, strict=True)
                count = sum(_facts(op).get(axis) == value for op in chosen)
                found.append(Step(axis, value, _mean(times), _mean(works), count))
    return found


def _facts(op: OpSpec) -> dict[str, int | str]:
    """What tells options of one place apart. A plain convolution has no expansion."""
    return {"kind": op.kind, "se": 0, "hs": 0, **dict(op.args)}


def _order(value: int | str) -> tuple[bool, str, int]:
    number = value if isinstance(value, int) else 0
    return value != "mbconv", "" if isinstance(value, int) else value, number


def _pairs(
    place: Iterable[OpSpec], axis: str, first: int | str, value: int | str
) -> list[tuple[OpSpec, OpSpec]]:
    """Options of one place that differ in ``axis`` alone: at ``first``, at ``value``."""
    alike: dict[tuple[object, ...], dict[int | str, OpSpec]] = {}
    for op in place:
        facts = _facts(op)
        if axis in facts:
            at = facts.pop(axis)
            rest = (op.cin, op.cout, op.size, *sorted(facts.items()))
            alike.setdefault(rest, {})[at] = op
    return [(of[first], of[value]) for of in alike.values() if first in of and value in of]


def _mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


@dataclass(frozen=True)
class StepRow:
    """One value of an axis as the page shows it."""

    axis: str
    value: str
    time: str
    macs: str
    rate: str
    chosen: int


@dataclass(frozen=True)
class Cell:
    """One option at one place; ``heat``: 0 for the cheapest, 1 for the dearest of the page."""

    text: str
    small: str
    note: str
    heat: float | None
    chosen: bool


@dataclass(frozen=True)
class Place:
    """One choice with a cell for each option, None where it has none such.

    ``macs``, millions, and ``rate``, of the best of all options, are those of what was chosen.
    """

    choice: str
    shape: str
    macs: str
    rate: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class DeviceOptions:
    """What the table of one device says; ``why`` where it cannot say all."""

    device: str
    tone: str
    how: str
    sentence: str
    steps: tuple[StepRow, ...]
    places: tuple[Place, ...]
    why: str


@dataclass(frozen=True)
class OptionCosts:
    """All devices side by side, with the same options in the same order."""

    labels: tuple[str, ...]
    devices: tuple[DeviceOptions, ...]


@dataclass
class _Priced:
    """Milliseconds and rates by the table of one device."""

    target: Target
    options: Options
    predictor: Predictor | None
    why: str = ""
    ms: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.predictor is None:
            self.why = (
                f"the table of {self.target.device} for {self.target.precision} is not in the run "
                "directory"
            )
        self.ms = {
            choice: {label: self.total(executed) for label, executed in labels.items()}
            for choice, labels in self.options.items()
        }

    def cost(self, op: OpSpec) -> float | None:
        try:
            return None if self.predictor is None else self.predictor.cost_ms(op)
        except UsageError as e:
            self.why = self.why or str(e)
            return None

    def total(self, executed: Sequence[OpSpec]) -> float | None:
        costs = [self.cost(op) for op in executed]
        known = [c for c in costs if c is not None]
        return math.fsum(known) if len(known) == len(costs) else None

    def least(self, choice: str) -> float | None:
        """Of the options that compute something."""
        return min((ms for ms in self.ms[choice].values() if ms), default=None)

    def ratio(self, choice: str, label: str) -> float | None:
        ms, least = self.ms[choice].get(label), self.least(choice)
        return ms / least if ms and least else None

    def rate(self, choice: str, label: str) -> float | None:
        """Multiply-accumulates a millisecond."""
        ms = self.ms[choice].get(label)
        return sum(map(ops.macs, self.options[choice][label])) / ms if ms else None

    @property
    def how(self) -> str:
        """``measured``, ``simulated`` ...; of several kinds of rows, all."""
        rows = self.predictor.table.rows if self.predictor else {}
        used = {op for labels in self.options.values() for of in labels.values() for op in of}
        timed = [row for op in used if isinstance(row := rows.get(op), Timing)]
        return " or ".join(sorted({row.provenance for row in timed}))


def option_costs(record: Record) -> OptionCosts | None:
    """None before a search has chosen between options, and where nothing is known of them."""
    found = record.found
    if found is None or not found.options:
        return None
    options = _parsed(found)
    if options is None:
        return None
    labels = tuple(dict.fromkeys(label for of in options.values() for label in of))
    picked = {b.choice: b.label for b in found.blocks if b.choice is not None}
    priced = [_Priced(t, options, _predictor(record, t)) for t in record.profile.targets]
    ratios = [r for p in priced for c in options for label in labels if (r := p.ratio(c, label))]
    most = max(ratios, default=1.0)
    return OptionCosts(
        labels, tuple(_device(p, i, labels, picked, most) for i, p in enumerate(priced))
    )


def _parsed(found: Found) -> Options | None:
    """The operators of ``options``; None where one is not understood."""
    try:
        return {
            choice: {label: [OpSpec.parse(op) for op in of] for label, of in labels.items()}
            for choice, labels in found.options.items()
        }
    except ValueError:
        return None


def _predictor(record: Record, target: Target) -> Predictor | None:
    table = record.table(target.device, target.precision)
    return None if table is None else Predictor(table)


def _device(
    priced: _Priced, index: int, labels: Sequence[str], picked: Mapping[str, str], most: float
) -> DeviceOptions:
    best = max(
        (r for c in priced.options for label in labels if (r := priced.rate(c, label))),
        default=None,
    )
    known = [ms for of in priced.ms.values() for ms in of.values() if ms]
    places = q.places(max(known, default=0.0))

    def cell(choice: str, label: str) -> Cell | None:
        if label not in priced.options[choice]:
            return None
        ms, ratio = priced.ms[choice][label], priced.ratio(choice, label)
        rate, chosen = priced.rate(choice, label), picked.get(choice) == label
        macs = sum(map(ops.macs, priced.options[choice][label]))
        small = "" if ratio is None else f"{ratio:.2f}×"
        note = (
            f"{label} at {choice}: {q.ms(ms)}, {q.number(macs / 1e6)} million multiply-accumulates"
        )
        if rate and best:
            note += f", {q.percent(rate / best, 0)} of the best rate"
        heat = None if ratio is None else (ratio - 1) / (most - 1) if most > 1 else 0.0
        return Cell(q.column(ms, places) if ms != 0 else "0", small, note, heat, chosen)

    rows = []
    for choice, of in priced.options.items():
        executed = of.get(picked.get(choice, ""), ())
        macs = sum(map(ops.macs, executed))
        rate = priced.rate(choice, picked.get(choice, ""))
        rows.append(
            Place(
                choice=choice,
                shape=_shape(of),
                macs=q.number(macs / 1e6),
                rate=q.percent(rate / best, 0) if rate and best else q.ABSENT,
                cells=tuple(cell(choice, label) for label in labels),
            )
        )
    return DeviceOptions(
        device=priced.target.device,
        tone=tone(index),
        how=priced.how,
        sentence=_sentence(priced, picked),
        steps=tuple(
            StepRow(
                _AXES[s.axis], _value(s), f"{s.time:.2f}×", f"{s.macs:.2f}×", f"{s.rate:.2f}×",
                s.chosen,
            )
            for s in steps(priced.options, priced.cost, picked)
        ),
        places=tuple(rows),
        why=priced.why,
    )  # fmt: skip


def _value(step: Step) -> str:
    match step.axis:
        case "k":
            return f"{step.value}×{step.value}"
        case "se":
            return f"1/{step.value}" if step.value else "none"
        case "hs":
            return "yes" if step.value else "no"
        case "kind":
            return {"mbconv": "MBConv", "fused-mbconv": "Fused-MBConv"}[str(step.value)]
    return str(step.value)


def _shape(labels: Mapping[str, Sequence[OpSpec]]) -> str:
    """Of the place: what all options that compute something take and give."""
    executed = next((of for of in labels.values() if of), None)
    if executed is None:
        return ""
    first, last = executed[0], executed[-1]
    out = ops.output_size(last)
    size = f"{first.size}" if out == first.size else f"{first.size}→{out}"
    return f"{first.cin}→{last.cout}, {size} px"


def _sentence(priced: _Priced, picked: Mapping[str, str]) -> str:
    """What the choices cost together; empty where an option has no cost."""
    known = [[ms for ms in of.values() if ms is not None] for of in priced.ms.values()]
    chosen = [ms for c, of in priced.ms.items() if (ms := of.get(picked.get(c, ""))) is not None]
    if len(chosen) < len(priced.ms) or list(map(len, known)) != list(map(len, priced.ms.values())):
        return ""
    dearer = sum(ms > (priced.least(c) or ms) for c, ms in zip(priced.ms, chosen, strict=True))
    return (
        f"The options that were chosen take {q.ms(math.fsum(chosen))} together. The cheapest, "
        f"skips included, would take {q.ms(math.fsum(map(min, known)))}, the dearest "
        f"{q.ms(math.fsum(map(max, known)))}. At {dearer} of {len(chosen)} places a dearer block "
        "than the cheapest was chosen."
    )
