"""The pictures of a run: what was tried, how the search converged, how training went."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Literal

from edgenas.report import quantity as q
from edgenas.report.chart import Band, Chart, Point, Rule, Series
from edgenas.report.facts import Epoch, Level, Target, Trial
from edgenas.report.record import Record

MOST_POINTS = 800


def tone(number: int) -> str:
    """CSS class of the colour of device or series ``number``."""
    return f"tone{number % 4}"


def pareto(record: Record) -> list[Chart]:
    """One picture a device: predicted latency against the accuracy that the search saw."""
    charts = (_pareto(record, t, i) for i, t in enumerate(record.profile.targets))
    return [c for c in charts if c is not None]


def search_score(record: Record) -> str:
    """What a trial's accuracy was measured with: a supernet's weights, or its own."""
    return "shared weights" if record.epochs.get("search") else "before full training"


def chosen(record: Record) -> Trial | None:
    """The last trial of the architecture that the search chose, if it was scored."""
    if record.found is None:
        return None
    picks = record.found.architecture.get("picks")
    return next((t for t in reversed(record.trials) if t.picks == picks), None)


def _pareto(record: Record, target: Target, index: int) -> Chart | None:
    key = f"ms:{target.device}"
    scored = [t for t in record.trials if key in t.metrics and "accuracy" in t.metrics]
    tried = list(
        {json.dumps(t.picks, sort_keys=True): t for t in scored}.values()
    )  # the last of each
    if not tried:
        return None

    def point(trial: Trial) -> Point:
        ms, accuracy = trial.metrics[key], trial.metrics["accuracy"]
        note = f"trial {trial.id}: {q.ms(ms)} predicted, {q.percent(accuracy)}"
        return Point(ms, 100 * accuracy, note)

    best = chosen(record)
    fits = [t for t in tried if t.metrics.get("load", t.metrics[key] / target.limit_ms) <= 1]
    over = [t for t in tried if t not in fits]
    front = _front([point(t) for t in tried])
    series = [
        Series("over a budget", _thinned([point(t) for t in over]), "muted", "rings"),
        Series("fits every budget", _thinned([point(t) for t in fits]), tone(index), "dots"),
        Series("best found at that latency", tuple(front), tone(index), "steps"),
    ]
    said = f"{len(tried)} networks tried, {len(fits)} of them fit every budget."
    if best in tried and best is not None:
        mark = point(best)
        series.append(Series(f"chosen: {_at(mark)}", (mark,), "chosen", "diamond"))
        said += f" Chosen: {_at(mark)}."
    if len(over) > MOST_POINTS or len(fits) > MOST_POINTS:
        said += f" Of more than {MOST_POINTS} points an even selection is drawn."
    return Chart(
        title=f"{target.device}, {target.precision}",
        summary=said,
        x="predicted p50, ms",
        y="search accuracy, %",
        series=tuple(s for s in series if s.points),
        rules=_budgets(target, "x"),
        bands=_margin(record, target, "x"),
    )


def _at(point: Point) -> str:
    return f"{q.ms(point.x)}, {point.y:.2f} %"


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    step = max(math.ceil(len(points) / MOST_POINTS), 1)
    return tuple(points[::step])


def _front(points: list[Point]) -> list[Point]:
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def _margin(record: Record, target: Target, axis: str) -> tuple[Band, ...]:
    facts = record.table_facts(target.device, target.precision)
    if facts is None or facts.fit is None or facts.fit.margin <= 0:
        return ()
    name = f"margin of the prediction, {q.percent(facts.fit.margin, 1)}"
    low = target.limit_ms / (1 + facts.fit.margin)
    return (Band(name, low, target.limit_ms, "x" if axis == "x" else "y"),)


def convergence(record: Record) -> list[Chart]:
    """Expected latency against each budget, then loss, entropy and trade-off, by epoch."""
    epochs = record.epochs.get("search", ())
    if not epochs:
        return []
    warm = _warmup(epochs)
    charts = []
    for index, target in enumerate(record.profile.targets):
        lines = [
            _line(_of("expected p50", limit, target), epochs, value, tone(index + i), q.ms)
            for i, (limit, value) in enumerate(
                zip(target.limits, _levels(epochs, _expected_ms(target.device)), strict=False)
            )
        ]
        drawn = tuple(line for line in lines if line.points)
        if drawn:
            said = (f"from {q.ms(s.points[0].y)} to {q.ms(s.points[-1].y)}" for s in drawn)
            budgets = ", ".join(map(q.ms, target.limits))
            charts.append(
                Chart(
                    title=f"Expected latency, {target.device}",
                    summary=f"Predicted, {'; '.join(said)}; budget {budgets}.",
                    x="search epoch", y="expected p50 (predicted), ms", series=drawn,
                    rules=_budgets(target), bands=(*warm, *_margin(record, target, "y")),
                    whole_x=True,
                )
            )  # fmt: skip
    first = record.profile.targets[0]

    def each(name: str, value: _OfLevel) -> list[tuple[str, _OfEpoch]]:
        values = _levels(epochs, value)
        return [
            (_of(name, limit, first), v) for limit, v in zip(first.limits, values, strict=False)
        ]

    charts += [
        _epoch_chart("Loss of the supernet", "loss", epochs, warm, [
            ("train", lambda e: e.loss), *each("search-validation", lambda v: v.val_loss)]),
        _epoch_chart("Entropy of the choices", "entropy, 1 = undecided", epochs, warm,
                     each("entropy", lambda v: v.entropy)),
        _epoch_chart("Load: the tightest of all budgets", "expected cost with margin ÷ budget",
                     epochs, warm, each("load", lambda v: v.load), (Rule("budget", 1.0),)),
        _epoch_chart("Weight of the latency term", "weight in the loss", epochs, warm,
                     each("weight", lambda v: v.weight)),
    ]  # fmt: skip
    return [c for c in charts if c.series]


_OfLevel = Callable[[Level], float | None]
_OfEpoch = Callable[[Epoch], float | None]


def _levels(epochs: Sequence[Epoch], value: _OfLevel) -> list[_OfEpoch]:
    """``value`` of each network that was searched for."""

    def at(level: int) -> _OfEpoch:
        return lambda e: value(e.levels[level]) if level < len(e.levels) else None

    return [at(level) for level in range(max((len(e.levels) for e in epochs), default=0))]


def _expected_ms(device: str) -> _OfLevel:
    return lambda level: level.expected.get(f"ms:{device}")


def _of(name: str, limit: float, target: Target) -> str:
    """``name``, of a front with the budget that tells one network from another."""
    return name if len(target.limits) == 1 else f"{name}, {q.ms(limit)}"


def _budgets(target: Target, axis: Literal["x", "y"] = "y") -> tuple[Rule, ...]:
    return tuple(Rule(f"budget {q.ms(limit)}", limit, axis) for limit in target.limits)


def training(record: Record) -> list[Chart]:
    """Loss and search-validation accuracy of training and of fine-tuning after pruning."""
    charts = []
    for phase, name in (("train", "Training"), ("finetune", "Fine-tuning")):
        epochs = _before(record, phase) + record.epochs.get(phase, ())
        charts += [
            _epoch_chart(f"{name}: loss", "training loss", epochs, (), [
                ("train", lambda e: e.loss)]),
            _epoch_chart(f"{name}: accuracy", "accuracy on search-validation, %", epochs, (), [
                ("search-validation", lambda e: e.accuracy and 100 * e.accuracy)]),
        ]  # fmt: skip
    return [c for c in charts if c.series]


def _before(record: Record, phase: str) -> tuple[Epoch, ...]:
    """Of a training that goes on from a race, the epochs there."""
    own = record.epochs.get(phase, ())
    raced = record.raced
    if phase != "train" or raced is None or record.trained is None or not raced.goes_on:
        return ()
    winner = next((s.id for s in raced.seats if s.architecture == raced.architecture), "")
    first = own[0].epoch if own else math.inf
    return tuple(e for e in record.epochs.get(f"{raced.phase} {winner}", ()) if e.epoch < first)


def _epoch_chart(
    title: str,
    unit: str,
    epochs: Sequence[Epoch],
    bands: tuple[Band, ...],
    lines: list[tuple[str, Callable[[Epoch], float | None]]],
    rules: tuple[Rule, ...] = (),
) -> Chart:
    drawn = [_line(name, epochs, value, tone(i), q.number) for i, (name, value) in enumerate(lines)]
    series = tuple(s for s in drawn if s.points)
    said = "; ".join(
        f"{s.name} from {q.number(s.points[0].y)} to {q.number(s.points[-1].y)}" for s in series
    )
    return Chart(title, f"{said}.", "epoch", unit, series, rules, bands, whole_x=True)


def _line(
    name: str,
    epochs: Sequence[Epoch],
    value: Callable[[Epoch], float | None],
    tone: str,
    text: Callable[[float], str],
) -> Series:
    found = [(e.epoch, value(e)) for e in epochs]
    points = tuple(
        Point(x, y, f"epoch {x}: {name} {text(y)}")
        for x, y in found
        if y is not None and math.isfinite(y)
    )
    return Series(name, points, tone)


def _warmup(epochs: Sequence[Epoch]) -> tuple[Band, ...]:
    warm = [e.epoch for e in epochs if e.warmup]
    if not warm or len(epochs) < 2:
        return ()
    return (Band("warm-up (weights only)", min(warm), max(warm), "x", "warmup"),)
