"""SVG as escaped text; colours come from the page's CSS classes."""

from markupsafe import Markup, escape


def element(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """``<tag ...>children</tag>``; ``class_`` and ``text_anchor`` become class, text-anchor."""
    parts = [
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _number(value))
        for name, value in attributes.items()
        if value is not None
    ]
    inner = Markup("").join(escape(c) for c in children)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, Markup("").join(parts), inner)


def drawing(name: str, width: float, height: float, label: str, *children: str) -> Markup:
    """A picture ``width`` x ``height`` px with CSS class ``name`` that says ``label`` aloud."""
    return element(
        "svg", *children, class_=name, viewBox=f"0 0 {width:g} {height:g}", role="img",
        aria_label=label,
    )  # fmt: skip


def path(points: list[tuple[float, float]], close: bool = False) -> str:
    """The ``d`` of straight lines through ``points``."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + ("Z" if close else "")


def bars(*shares: tuple[str, float], marks: tuple[tuple[str, float], ...] = ()) -> Markup:
    """Bars below each other, as wide as their share of the cell; ``marks`` are upright lines.

    Each is (CSS class, share 0 to 1). The numbers stand beside it, so it is hidden from readers.
    """
    height = 9
    rects = [
        element(
            "rect", class_=name, x="0", y=i * (height + 3) + 0.5, rx=1.5, height=height - 1,
            width=f"{100 * min(max(share, 0), 1):.2f}%",
        )
        for i, (name, share) in enumerate(shares)
    ]  # fmt: skip
    total = len(shares) * (height + 3) - 3
    lines = [
        element("line", class_=name, x1=f"{100 * at:.2f}%", x2=f"{100 * at:.2f}%", y1="0", y2=total)
        for name, at in marks
    ]
    return element("svg", *rects, *lines, class_="bars", height=total, aria_hidden="true")


def _number(value: str | float | None) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
