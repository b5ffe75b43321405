"""The verdict, the files, the candidates and the accuracy of each stage, as the page shows them."""

from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from edgenas.missed import steps
from edgenas.report import quantity as q
from edgenas.report.curves import tone
from edgenas.report.facts import Candidate, Gate, Target, Verdict
from edgenas.report.record import Record
from edgenas.report.svg import element

Status = Literal["met", "missed", "open"]


@dataclass(frozen=True)
class Headline:
    """The answer in one line."""

    status: Status
    word: str
    sentence: str


@dataclass(frozen=True)
class BudgetCard:
    """One budget against what was measured; predicted where nothing was measured yet."""

    target: Target
    tone: str
    status: Status
    word: str
    value: str
    provenance: str
    interval: str | None
    grade: str | None
    limit: str
    room: str
    predicted: str
    precision: str
    span: str | None
    span_precision: str
    gauge: Markup


@dataclass(frozen=True)
class GateRow:
    """One gate with its figure."""

    name: str
    met: bool
    value: str
    comparison: str
    limit: str
    interval: str
    grade: str


@dataclass(frozen=True)
class DeliveredFile:
    """One file that is handed over."""

    file: str
    format: str
    device: str
    variant: str
    precision: str
    p50: str
    accuracy: str
    accuracy_interval: str
    size: str
    sha256: str
    missed: str


def headline(record: Record) -> Headline:
    """Met, not met and what missed, or how far the run came."""
    verdict = record.verdict
    if verdict is None:
        done = [name for name, there in progress(record).items() if there]
        sentence = f"This run has no verdict yet. It finished: {', '.join(done)}."
        return Headline("open", "Unfinished", sentence)
    missed = [g for g in verdict.gates if not g.met]
    if verdict.met:
        kinds = f"{len(verdict.gates)} of {len(verdict.gates)} gates are met"
        return Headline(
            "met", "Met", f"{kinds}, on the files and devices below.{_besides(verdict)}"
        )
    said = "; ".join("{} is {}, not {} {}".format(g.name, *_said(g)) for g in missed)
    why = f"{said or 'the verdict names no gate'}.{_besides(verdict)}"
    return Headline("missed", "Not met", why)


def _besides(verdict: Verdict) -> str:
    """What its accuracies are worth, and its notes."""
    seen = "The test images were seen by the weights: on others the network gets fewer right."
    said = [seen] if verdict.test == "seen by the weights" else []
    said += [f"{note[:1].upper()}{note[1:]}." for note in verdict.notes]
    return "".join(f" {sentence}" for sentence in said)


def _said(gate: Gate) -> tuple[str, str, str]:
    value, limit = q.gate_pair(gate)
    return value, q.relation(gate.comparison), limit


def progress(record: Record) -> dict[str, bool]:
    """Stage -> whether its result is there."""
    return {
        "profile": True,
        "search": record.found is not None,
        "race": (record.folder / "race/architecture.json").is_file(),
        "train": record.trained is not None,
        "compress": record.compressed is not None,
        "export": any((record.folder / "export").glob("*.*.*")),
        "verify": record.verdict is not None,
    }


def budget_cards(record: Record) -> list[BudgetCard]:
    """One a target, in the order of the run's configuration."""
    return [_card(record, t, i) for i, t in enumerate(record.profile.targets)]


def _card(record: Record, target: Target, index: int) -> BudgetCard:
    gate = _latency_gate(record, target)
    source = record.found.predicted.get(target.device) if record.found else None
    predicted = source.p50_ms if source else None
    provenance = "measured"
    if (candidate := _delivered(record, target.format)) and candidate.predicted_p50_ms:
        predicted = candidate.predicted_p50_ms
    if candidate and candidate.latency:
        provenance = candidate.latency.provenance
    measured = gate.value if gate else None
    value, limit = q.gate_pair(gate) if gate else (q.ms(predicted), q.ms(target.limit_ms))
    status: Status = "open" if gate is None else "met" if gate.met else "missed"
    bounds = gate.interval if gate else None
    precision = candidate.precision if candidate else target.precision
    of = precision if target.span_ms(precision) else target.precision
    span = target.span_ms(of)
    return BudgetCard(
        target=target,
        tone=tone(index),
        status=status,
        word={"met": "met", "missed": "not met", "open": "not measured"}[status],
        value=value,
        provenance=f"{provenance} p50" if gate else "predicted p50",
        interval=q.interval(bounds) if bounds else None,
        grade=gate.grade if gate else None,
        limit=limit,
        room=_room(measured if gate else predicted, target.limit_ms),
        predicted=q.ms(predicted),
        precision=precision,
        span=f"{q.ms(span[0])} to {q.ms(span[1])}" if span else None,
        span_precision=of,
        gauge=_gauge(target.limit_ms, measured, predicted, bounds, provenance),
    )


def _latency_gate(record: Record, target: Target) -> Gate | None:
    gates = {g.name: g for g in record.verdict.gates} if record.verdict else {}
    names = (f"latency:{target.format}", f"latency:{target.device}")
    return next((gates[n] for n in names if n in gates), None)


def _room(value: float | None, limit: float) -> str:
    if value is None:
        return ""
    off = value / limit - 1
    return f"{abs(100 * off):.1f} % {'over' if off > 0 else 'under'} budget"


def _gauge(
    limit: float,
    measured: float | None,
    predicted: float | None,
    bounds: tuple[float, float] | None,
    provenance: str,
) -> Markup:
    """A bar to the measured value with its interval, the budget as a line, predicted as a ring."""
    known = [v for v in (limit, measured, predicted, *(bounds or ())) if v is not None]
    full = 1.12 * max(known)

    def at(value: float) -> str:
        return f"{100 * value / full:.2f}%"

    marks = [element("rect", class_="track", x="0", y=8, width="100%", height=12, rx=2)]
    if measured is not None:
        marks.append(
            element("rect", class_="value", x="0", y=8, width=at(measured), height=12, rx=2)
        )
    if bounds is not None:
        marks.append(
            element("line", class_="spread", x1=at(bounds[0]), x2=at(bounds[1]), y1=14, y2=14)
        )
        marks += [
            element("line", class_="spread", x1=at(b), x2=at(b), y1=10.5, y2=17.5) for b in bounds
        ]
    marks.append(element("line", class_="limit", x1=at(limit), x2=at(limit), y1=2, y2=26))
    if predicted is not None:
        marks.append(element("circle", class_="guess", cx=at(predicted), cy=14, r=4.5))
    said = f"{provenance} {q.ms(measured)}, predicted {q.ms(predicted)}, budget {q.ms(limit)}"
    return element("svg", *marks, class_="gauge", height=28, role="img", aria_label=said)


def gates(record: Record) -> list[GateRow]:
    """Every gate of the verdict."""
    rows = []
    for gate in record.verdict.gates if record.verdict else ():
        value, limit = q.gate_pair(gate)
        interval = gate.interval
        if interval is None and gate.of_accuracy:
            interval = q.share_interval(gate.value, record.images("test"))
        bounds = interval and [q.gate_text(gate, b) for b in interval]
        rows.append(
            GateRow(
                gate.name, gate.met, value, q.relation(gate.comparison), limit,
                " to ".join(bounds) if bounds else q.ABSENT, gate.grade or gate.worst or q.ABSENT,
            )
        )  # fmt: skip
    return rows


def _delivered(record: Record, format: str) -> Candidate | None:
    return next(
        (
            c
            for c in (record.verdict.candidates if record.verdict else ())
            if c.delivered and c.format == format
        ),
        None,
    )


def accuracy_interval(record: Record, candidate: Candidate) -> str:
    """Of its accuracy on the test part; nothing where it is not known."""
    known = candidate.accuracy_interval
    return q.between(known or q.share_interval(candidate.accuracy, record.images("test")))


def advice(record: Record) -> list[str]:
    """What to do about each kind of gate that was not met, then how to go on."""
    gates = record.verdict.gates if record.verdict else ()
    return [f"{kind}: {step}" for kind, step in steps(g.name for g in gates if not g.met).items()]


def delivered_files(record: Record) -> list[DeliveredFile]:
    """What is handed over; the hash as the manifest has it."""
    if record.verdict is None:
        return []
    hashes = record.manifest.get("outputs", {})
    rows = []
    for format, file in sorted(record.verdict.delivered.items()):
        source = next((c for c in record.verdict.candidates if c.file == file.source), None)
        source = source or _delivered(record, format)
        latency = source.latency if source else None
        rows.append(
            DeliveredFile(
                file=file.file, format=format, device=file.device, variant=file.variant,
                precision=file.precision, p50=q.ms(latency.p50_ms if latency else None),
                accuracy=q.percent(source.accuracy if source else None),
                accuracy_interval=accuracy_interval(record, source) if source else "",
                size=q.size(source.size_bytes if source else None),
                sha256=str(hashes.get(file.file, "")),
                missed=", ".join(g.name for g in record.missed(format)),
            )
        )  # fmt: skip
    return rows
