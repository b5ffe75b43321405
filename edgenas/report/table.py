"""A latency table as a page: what it predicts against whole networks, and what costs what."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from edgenas.latency import Checked, LatencyTable, Missing, Timing
from edgenas.report import quantity as q
from edgenas.report.chart import Chart, Point, Series
from edgenas.report.svg import bars
from edgenas.spec import OpSpec

Work = Callable[[OpSpec], float]


@dataclass(frozen=True)
class Line:
    """A row of the table, in words; ``bar`` is its cost as a share of the greatest."""

    op: str
    cost: str
    interval: str
    p50: str
    share: str
    bar: Markup


@dataclass(frozen=True)
class Described:
    """What the page says beside its pictures."""

    name: str
    grade: str
    provenance: str
    sentence: str
    errors: tuple[tuple[str, str, str, str, str], ...]
    lines: tuple[Line, ...]
    gaps: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]


def described(table: LatencyTable) -> Described:
    """All that is said of ``table`` in words and numbers."""
    h = table.header
    return Described(
        name=f"{h.device}, {h.precision}",
        grade=h.grade,
        provenance=h.provenance,
        sentence=_sentence(table),
        errors=_errors(table),
        lines=_lines(table),
        gaps=tuple((str(op), r.reason) for op, r in table.rows.items() if isinstance(r, Missing)),
        warnings=tuple(h.facts.get("warnings", ())),
        conditions=tuple(q.flat({**h.fingerprint, **h.facts, "space": h.space})),
    )


def _sentence(table: LatencyTable) -> str:
    h, rows = table.header, _timed(table)
    said = f"{len(rows)} operators, {h.provenance}."
    if h.held_out is None:
        return f"{said} It was never checked against whole networks."
    e = h.held_out
    return (
        f"{said} Of {e.networks} networks that it had not seen, {e.within_10:.0%} were predicted "
        f"within 10 %; the error is {e.mape:.1%} on average."
    )


def _errors(table: LatencyTable) -> tuple[tuple[str, str, str, str, str], ...]:
    found = {"this table": table.header.held_out, **table.header.baselines}
    return tuple(
        (
            name,
            q.percent(e.mape, 1),
            q.percent(e.within_10, 0),
            f"{e.spearman:.3f}",
            q.signed(e.bias),
        )
        for name, e in found.items()
        if e is not None
    )  # fmt: skip


def _timed(table: LatencyTable) -> dict[OpSpec, Timing]:
    return {op: row for op, row in table.rows.items() if isinstance(row, Timing)}


def _lines(table: LatencyTable) -> tuple[Line, ...]:
    cost = {op: table.cost_ms(op) for op in _timed(table)}
    most, total = max(cost.values(), default=0.0) or 1.0, sum(cost.values()) or 1.0
    return tuple(
        Line(
            op=str(op),
            cost=q.ms(ms),
            interval=q.interval(table[op].interval_ms),
            p50=q.ms(table[op].p50_ms),
            share=q.percent(ms / total, 1),
            bar=bars(("measured", ms / most)),
        )
        for op, ms in sorted(cost.items(), key=lambda item: -item[1])
    )


def charts(table: LatencyTable, work: Work) -> list[Chart]:
    """Predicted against measured networks, and cost against work by kind of operator."""
    return [c for c in (_predicted(table), _costs(table, work)) if c is not None]


def _predicted(table: LatencyTable) -> Chart | None:
    h = table.header
    if h.fit is None or not h.networks:
        return None
    fit = h.fit

    def point(c: Checked) -> Point:
        ms = fit.p50_per_floor * (fit.intercept_ms + fit.slope * c.cost_ms)
        note = f"{q.ms(c.p50_ms)} as a whole, {q.ms(ms)} predicted ({ms / c.p50_ms - 1:+.1%})"
        return Point(c.p50_ms, ms, note)

    known = tuple(map(point, h.networks[: fit.networks]))
    held = tuple(map(point, h.networks[fit.networks :]))
    ends = [p.x for p in (*known, *held)]
    diagonal = tuple(Point(v, v, "exact") for v in (min(ends), max(ends)))
    return Chart(
        title="Whole networks",
        summary="Each point is a random network; on the line the prediction is exact.",
        x="p50 of the whole network, ms",
        y="predicted p50, ms",
        series=(
            Series("exact", diagonal, "muted", "line"),
            Series("calibrated with", known, "muted", "rings"),
            Series("held out", held, "tone0", "dots"),
        ),
    )


def _costs(table: LatencyTable, work: Work) -> Chart | None:
    rows = _timed(table)
    kinds: dict[str, list[Point]] = {}
    for op in (op for op in rows if work(op)):
        kernel = op.arg("k", 0)
        name = f"{op.kind} {kernel}x{kernel}" if kernel else op.kind
        ms = table.cost_ms(op)
        kinds.setdefault(name, []).append(Point(work(op) / 1e6, 1000 * ms, f"{op}: {q.ms(ms)}"))
    if not kinds:
        return None
    biggest = sorted(kinds, key=lambda name: -len(kinds[name]))
    rest = [p for name in biggest[4:] for p in kinds[name]]
    series = [
        Series(name, tuple(kinds[name]), f"tone{i}", "dots") for i, name in enumerate(biggest[:4])
    ]
    if rest:
        series.append(Series("others", tuple(rest), "muted", "rings"))
    return Chart(
        title="What an operator costs",
        summary="Were work all that counts, the points would lie on one line.",
        x="million multiply-accumulates",
        y="cost, microseconds",
        series=tuple(series),
    )
