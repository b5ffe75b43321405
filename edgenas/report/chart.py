"""A chart of points and lines, drawn twice: for a wide and for a narrow page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup

from edgenas.report.svg import drawing, element, path

_CHARACTER = 6.7  # px, a digit at 11.5 px


@dataclass(frozen=True)
class Point:
    """Where it is and what its tooltip says."""

    x: float
    y: float
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one kind; ``tone`` is a CSS class that sets its colour."""

    name: str
    points: tuple[Point, ...]
    tone: str
    shape: Literal["line", "steps", "dots", "rings", "diamond"] = "line"


@dataclass(frozen=True)
class Rule:
    """A limit: a dashed line across the chart."""

    name: str
    at: float
    axis: Literal["x", "y"] = "y"


@dataclass(frozen=True)
class Band:
    """A shaded range of an axis; ``tone`` is a CSS class."""

    name: str
    low: float
    high: float
    axis: Literal["x", "y"]
    tone: str = "margin"


@dataclass(frozen=True)
class Chart:
    """``summary`` says in words what the picture shows."""

    title: str
    summary: str
    x: str
    y: str
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    bands: tuple[Band, ...] = ()
    whole_x: bool = False

    @property
    def wide(self) -> Markup:
        """For 560 px."""
        return _draw(self, "wide", 560, 300)

    @property
    def narrow(self) -> Markup:
        """For 340 px."""
        return _draw(self, "narrow", 340, 250)


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """At most ``most`` round values (1, 2, 2.5 or 5 times a power of ten) from low to high."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / max(most, 1)))
    if whole:
        power = max(power, 1.0)
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50, 100):
        step = factor * power
        if whole and step != round(step):
            continue
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [i * step for i in range(first, last + 1)]
    return [low, high]


def tick_labels(values: Sequence[float]) -> list[str]:
    """All with the decimals that their step needs."""
    step = values[1] - values[0] if len(values) > 1 else (abs(values[0]) if values else 1) or 1
    decimals = next((d for d in range(9) if abs(round(step, d) - step) < step * 1e-6), 9)
    return [f"{v:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for v in values]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float  # px of low
    end: float  # px of high

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _range(values: list[float], pad: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    span = high - low
    if span <= 1e-6 * max(abs(low), abs(high)):  # all alike: no scale to show a difference on
        span = abs(high) * 0.1 or 1.0
    start = low - pad * span
    return (max(start, 0.0) if low >= 0 else start), high + pad * span


def _values(chart: Chart, axis: Literal["x", "y"]) -> list[float]:
    own = [getattr(p, axis) for s in chart.series for p in s.points]
    limits = [r.at for r in chart.rules if r.axis == axis]
    edges = [v for b in chart.bands if b.axis == axis for v in (b.low, b.high)]
    return [*own, *limits, *edges] or [0.0, 1.0]


def _draw(chart: Chart, name: str, width: float, height: float) -> Markup:
    top, bottom = 26, height - 42
    low, high = _range(_values(chart, "y"), 0.06)
    y_ticks = ticks(low, high, max(int((bottom - top) / 34), 2))
    y_labels = tick_labels(y_ticks)
    left = max((len(t) for t in y_labels), default=1) * _CHARACTER + 12
    right = width - 10
    y = _Scale(low, high, bottom, top)
    low, high = _range(_values(chart, "x"), 0.04)
    x_ticks = _fitting(low, high, right - left, chart.whole_x)
    x = _Scale(low, high, left, right)
    marks: list[Markup] = []
    for band in chart.bands:
        marks.append(_band(band, x if band.axis == "x" else y, (left, right), (top, bottom)))
    for value, text in zip(y_ticks, y_labels, strict=True):
        marks.append(element("line", class_="grid", x1=left, x2=right, y1=y(value), y2=y(value)))
        marks.append(element("text", text, x=left - 7, y=y(value) + 4, text_anchor="end"))
    for value, text in zip(x_ticks, tick_labels(x_ticks), strict=True):
        marks.append(
            element("line", class_="tick", x1=x(value), x2=x(value), y1=bottom, y2=bottom + 4)
        )
        marks.append(element("text", text, x=x(value), y=bottom + 18, text_anchor="middle"))
    marks.append(element("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom))
    marks.append(element("text", chart.y, class_="name", x=0.0, y=12.0))
    marks.append(element("text", chart.x, class_="name", x=right, y=height - 5, text_anchor="end"))
    for rule in chart.rules:
        ends = (
            {"x1": x(rule.at), "x2": x(rule.at), "y1": top, "y2": bottom}
            if rule.axis == "x"
            else {"x1": left, "x2": right, "y1": y(rule.at), "y2": y(rule.at)}
        )
        marks.append(element("line", element("title", rule.name), class_="rule", **ends))
    for series in chart.series:
        marks.append(element("g", *_marks(series, x, y), class_=f"series {series.tone}"))
    return drawing(name, width, height, f"{chart.title}. {chart.summary}", *marks)


def _fitting(low: float, high: float, length: float, whole: bool) -> list[float]:
    """As many ticks as their labels have room for."""
    for most in range(9, 1, -1):
        values = ticks(low, high, most, whole)
        widest = max(len(t) for t in tick_labels(values)) * _CHARACTER + 16
        if widest * len(values) <= length:
            return values
    return ticks(low, high, 2, whole)


def _band(
    band: Band, scale: _Scale, across: tuple[float, float], down: tuple[float, float]
) -> Markup:
    ends = sorted((scale(band.low), scale(band.high)))
    (x0, x1), (y0, y1) = (ends, down) if band.axis == "x" else (across, ends)
    title = element("title", band.name)
    return element(
        "rect", title, class_=f"band {band.tone}", x=x0, y=y0, width=x1 - x0, height=y1 - y0
    )


def _marks(series: Series, x: _Scale, y: _Scale) -> list[Markup]:
    at = [(x(p.x), y(p.y)) for p in series.points]
    marks: list[Markup] = []
    if series.shape == "steps":
        corners = [c for a, b in pairwise(at) for c in (a, (b[0], a[1]))]
        marks.append(element("path", class_="steps", d=path([*corners, *at[-1:]])))
        return marks
    if series.shape == "line" and len(at) > 1:
        marks.append(element("path", class_="line", d=path(at)))
    radius = {"dots": 3.5, "rings": 3.5, "diamond": 6.0}.get(series.shape, 2.2)
    for point, (px, py) in zip(series.points, at, strict=True):
        title = element("title", point.note)
        if series.shape == "diamond":
            corners = [(px, py - 7.5), (px + 7.5, py), (px, py + 7.5), (px - 7.5, py)]
            marks.append(element("path", title, class_="diamond", d=path(corners, close=True)))
        elif series.shape == "line":
            dot = element("circle", class_="knot", cx=px, cy=py, r=radius)
            hit = element("circle", class_="hit", cx=px, cy=py, r=7.0)
            marks.append(element("g", title, dot, hit))
        else:
            marks.append(element("circle", title, class_=series.shape, cx=px, cy=py, r=radius))
    return marks
