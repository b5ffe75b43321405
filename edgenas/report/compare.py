"""Every exported file side by side, and what each stage did to the accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from edgenas.report import quantity as q
from edgenas.report.chart import ticks
from edgenas.report.curves import chosen, search_score
from edgenas.report.facts import Candidate, Latency
from edgenas.report.record import Record
from edgenas.report.summary import accuracy_interval
from edgenas.report.svg import element


@dataclass(frozen=True)
class CandidateRow:
    """One candidate of the comparison."""

    file: str
    format: str
    device: str
    variant: str
    precision: str
    delivered: bool
    missed: str
    why: str
    p50: str
    interval: str
    grade: str
    provenance: str
    tail: str
    predicted: str
    accuracy: str
    accuracy_interval: str
    size: str
    memory: str
    integer: str
    agreement: str
    difference: str
    transposes: str
    bar: Markup


@dataclass(frozen=True)
class Stage:
    """Accuracy after one stage; ``dot`` is None where it is not on the common scale."""

    name: str
    where: str
    accuracy: str
    interval: str
    change: str
    dot: Markup | None
    delivered: bool = False
    missed: str = ""


@dataclass(frozen=True)
class Stages:
    """All stages; ``scale`` says both ends of the line that their dots stand on."""

    rows: tuple[Stage, ...]
    scale: tuple[str, str] | None


def _candidates(record: Record) -> list[Candidate]:
    found = list(record.verdict.candidates) if record.verdict else []
    return sorted(found, key=lambda c: (c.format, c.device, c.variant, c.precision))


def candidates(record: Record) -> list[CandidateRow]:
    """Every file that was made, with what spoke for or against it."""
    limits = {(t.format, t.device): t.limit_ms for t in record.profile.targets}
    return [_row(record, c, limits) for c in _candidates(record)]


def _row(record: Record, c: Candidate, limits: Mapping[tuple[str, str], float]) -> CandidateRow:
    limit = limits.get((c.format, c.device))
    every = _candidates(record)
    rivals = [o.latency.p50_ms for o in every if o.latency and o.device == c.device]
    full = 1.05 * max([*rivals, limit or 0.0, 1e-9])
    latency = c.latency or Latency(0.0)
    timed = c.latency is not None
    tail = (latency.p90_ms, latency.p99_ms)
    return CandidateRow(
        file=c.file, format=c.format, device=c.device, variant=c.variant, precision=c.precision,
        delivered=c.delivered, missed=_missed(record, c), why=c.why,
        p50=q.ms(latency.p50_ms) if timed else q.ABSENT,
        interval=q.interval(latency.interval_ms),
        grade=latency.grade or "",
        provenance=latency.provenance,
        tail=" / ".join(q.number(t) for t in tail) + " ms" if any(tail) else q.ABSENT,
        predicted=q.ms(c.predicted_p50_ms),
        accuracy=q.percent(c.accuracy),
        accuracy_interval=accuracy_interval(record, c),
        size=q.size(c.size_bytes),
        memory=q.size(c.memory_bytes),
        integer=q.percent(c.quantized, 0),
        agreement=q.percent(c.agreement),
        difference=q.tiny(c.max_abs_diff),
        transposes=q.count(c.transposes),
        bar=_budget_bar(latency.p50_ms / full, limit / full if limit else None),
    )  # fmt: skip


def _missed(record: Record, c: Candidate) -> str:
    """Gates that it does not meet, of a file that is handed over."""
    return ", ".join(g.name for g in record.missed(c.format)) if c.delivered else ""


def _budget_bar(share: float, limit: float | None) -> Markup:
    over = limit is not None and share > limit
    marks = [
        element("rect", class_="over" if over else "value", x="0", y=1.5, height=5, rx=1.5,
                width=f"{100 * share:.2f}%")
    ]  # fmt: skip
    if limit is not None:
        at = f"{100 * limit:.2f}%"
        marks.append(element("line", class_="limit", x1=at, x2=at, y1=0, y2=8))
    return element("svg", *marks, class_="mini", height=8, aria_hidden="true")


def stages(record: Record) -> Stages | None:
    """Accuracy from the search to each exported file; changes are against the trained network."""
    torch = record.verdict.torch if record.verdict else {}
    variants = record.compressed.variants if record.compressed else {}
    trained = record.trained.accuracy if record.trained else torch.get("found")
    pruned = variants["pruned"].accuracy if "pruned" in variants else torch.get("pruned")
    every = _candidates(record)
    found = [
        ("trained", "PyTorch", trained, None),
        *[_file(c) for c in every if c.variant != "pruned"],
        ("pruned, fine-tuned", "PyTorch", pruned, None),
        *[_file(c) for c in every if c.variant == "pruned"],
    ]
    scored = [(n, w, a, c) for n, w, a, c in found if a is not None]
    best = chosen(record)
    searched = best.metrics.get("accuracy") if best else None
    rows = []
    if searched is not None:
        name = f"searched, {search_score(record)}"
        bounds = q.between(q.share_interval(searched, record.images("search")))
        where = "PyTorch, search-validation"
        rows.append(Stage(name, where, q.percent(searched), bounds, q.ABSENT, None))
    if not scored:
        return Stages(tuple(rows), None) if rows else None
    low, high = _domain([a for _, _, a, _ in scored])
    rows += [_stage(record, row, trained, (low, high)) for row in scored]
    return Stages(tuple(rows), (q.percent(low, 1), q.percent(high, 1)))


def _file(c: Candidate) -> tuple[str, str, float | None, Candidate]:
    return f"{c.variant}, {c.precision}", c.format, c.accuracy, c


def _domain(accuracies: list[float]) -> tuple[float, float]:
    low, high = min(accuracies), max(accuracies)
    pad = max(0.25 * (high - low), 0.002)
    marks = ticks(max(low - 2 * pad, 0.0), min(high + 2 * pad, 1.0), 8)
    least = max([m for m in marks if m < low], default=0.0)
    return least, min([m for m in marks if m >= high and m > least], default=1.0)


def _stage(
    record: Record,
    row: tuple[str, str, float, Candidate | None],
    trained: float | None,
    domain: tuple[float, float],
) -> Stage:
    name, where, accuracy, file = row
    low, high = domain
    at = f"{100 * (accuracy - low) / (high - low):.2f}%"
    marks = [element("line", class_="rail", x1="0", x2="100%", y1=8, y2=8)]
    if trained is not None:
        base = f"{100 * (trained - low) / (high - low):.2f}%"
        marks.append(element("line", class_="base", x1=base, x2=base, y1=0, y2=16))
        marks.append(element("line", class_="drop", x1=base, x2=at, y1=8, y2=8))
    marks.append(element("circle", class_="dot", cx=at, cy=8, r=5))
    change = q.ABSENT if trained is None else q.points(accuracy - trained)
    bounds = q.between(q.share_interval(accuracy, record.images("test")))
    return Stage(
        name, where, q.percent(accuracy), accuracy_interval(record, file) if file else bounds,
        change if (name != "trained") else q.ABSENT,
        element("svg", *marks, class_="strip", height=16, aria_hidden="true"),
        file is not None and file.delivered, _missed(record, file) if file else "",
    )  # fmt: skip
