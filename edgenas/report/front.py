"""The page of a front: what each network costs and is worth, beside all that the search tried."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import edgenas
from edgenas.report import curves, summary
from edgenas.report import quantity as q
from edgenas.report.chart import Chart, Point, Series
from edgenas.report.facts import Candidate
from edgenas.report.record import Record


@dataclass(frozen=True)
class Line:
    """A network on one device; ``page``: its own report."""

    network: str
    page: str
    card: summary.BudgetCard
    accuracy: str
    accuracy_interval: str


def facts(shared: Record) -> dict[str, Any]:
    """What front.html.j2 shows; ``shared``: of the whole front, its search."""
    networks = {name: Record.read(folder) for name, folder in shared.networks.items()}
    lines = [line for name, record in networks.items() for line in _lines(name, record)]
    how = " or ".join(sorted({record.how for record in networks.values()}))
    met = sum(r.verdict is not None and r.verdict.met for r in networks.values())
    return {
        "record": shared,
        "version": shared.manifest.get("edgenas", edgenas.__version__),
        "name": shared.name,
        "verdict": "met" if met == len(networks) else "missed",
        "sentence": f"{met} of {len(networks)} networks keep their budgets and every other gate.",
        "lines": lines,
        "how": how,
        "timed": _timed(networks, how),
        "pareto": curves.pareto(shared),
        "score": curves.search_score(shared),
        "convergence": curves.convergence(shared),
    }


def _lines(name: str, record: Record) -> list[Line]:
    lines = []
    for card in summary.budget_cards(record):
        best = next((c for c in _files(record, card.target.device) if c.delivered), None)
        accuracy = q.percent(best.accuracy) if best else q.ABSENT
        interval = summary.accuracy_interval(record, best) if best else ""
        lines.append(Line(name, f"networks/{name}/report.html", card, accuracy, interval))
    return lines


def _files(record: Record, device: str) -> list[Candidate]:
    files = record.verdict.candidates if record.verdict else ()
    return [c for c in files if c.device == device]


def _timed(networks: Mapping[str, Record], how: str) -> list[Chart]:
    """One picture a device: every file that was timed, and those that are delivered."""
    first = next(iter(networks.values()))
    return [
        chart
        for i, target in enumerate(first.profile.targets)
        if (chart := _device_chart(networks, target.device, i, how)) is not None
    ]


def _device_chart(
    networks: Mapping[str, Record], device: str, index: int, how: str
) -> Chart | None:
    others: list[Point] = []
    best: list[Point] = []
    for name, record in networks.items():
        for c in _files(record, device):
            if c.latency is not None and c.accuracy is not None:
                ms, accuracy = c.latency.p50_ms, 100 * c.accuracy
                said = f"{name}, {c.variant} {c.precision}: {q.ms(ms)}, {accuracy:.2f} %"
                (best if c.delivered else others).append(Point(ms, accuracy, said))
    if not best:
        return None
    best.sort(key=lambda p: p.x)
    return Chart(
        title=f"{device}: {how}",
        summary="; ".join(p.note for p in best) + ".",
        x=f"{how} p50, ms",
        y="accuracy of the file, test, %",
        series=tuple(
            s for s in (
                Series("other files", tuple(others), "muted", "rings"),
                Series("delivered", tuple(best), curves.tone(index), "steps"),
            ) if s.points
        ),
    )  # fmt: skip
