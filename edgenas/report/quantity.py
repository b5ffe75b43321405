"""Numbers as a reader wants them: three digits, a unit, the same everywhere."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from edgenas import noise
from edgenas.report.facts import Gate

ABSENT = "–"
_GAP = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits, never in exponent form."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return fixed(value, places(value, digits))


def places(value: float, digits: int = 3) -> int:
    """Decimals that show ``value`` to ``digits`` significant digits."""
    if not value or not math.isfinite(value):
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 8)


def fixed(value: float, decimals: int) -> str:
    """``value`` with ``decimals`` decimals, thousands apart."""
    text = f"{value:,.{decimals}f}"
    return text.replace(",", "\N{THIN SPACE}").replace("-", _MINUS)


def tiny(value: float | None) -> str:
    """Two significant digits, with a power of ten below a thousandth."""
    if not value or abs(value) >= 1e-3:
        return number(value, 2)
    mantissa, power = f"{value:.1e}".split("e")
    superscript = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}×10{superscript}"


def ms(value: float | None, digits: int = 3) -> str:
    """Milliseconds with their unit."""
    return ABSENT if value is None else f"{number(value, digits)}{_GAP}ms"


def column(value: float | None, decimals: int) -> str:
    """A number with the decimals that its column shares."""
    return ABSENT if value is None else fixed(value, decimals)


def relation(text: str) -> str:
    """``<=`` and ``>=`` as one sign."""
    return text.replace("<=", "≤").replace(">=", "≥")


def percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction as percent."""
    return ABSENT if fraction is None else f"{fixed(100 * fraction, decimals)}{_GAP}%"


def share_interval(share: float | None, images: int | None) -> tuple[float, float] | None:
    """Where the share of all such images lies in 95 of 100 cases (Wilson), from so many of them."""
    if share is None or not images or not 0 <= share <= 1:
        return None
    return noise.share_interval(round(share * images), images)


def between(bounds: tuple[float, float] | None) -> str:
    """``lo to hi`` in percent; nothing where it is not known."""
    return f"{fixed(100 * bounds[0], 1)} to {percent(bounds[1], 1)}" if bounds else ""


def signed(fraction: float | None, decimals: int = 1) -> str:
    """A relative difference as percent with its sign."""
    if fraction is None:
        return ABSENT
    return f"{100 * fraction:+.{decimals}f}{_GAP}%".replace("-", _MINUS)


def points(difference: float | None) -> str:
    """A difference of two fractions, in percentage points."""
    if difference is None:
        return ABSENT
    text = f"{100 * difference:+.2f}"
    return ("0.00" if text[1:] == "0.00" else text.replace("-", _MINUS)) + f"{_GAP}pp"


def size(count: float | None) -> str:
    """Bytes as B, KiB or MiB."""
    if count is None:
        return ABSENT
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{number(count / scale)}{_GAP}{unit}"
    return f"{count:.0f}{_GAP}B"


def count(value: int | None) -> str:
    """A whole number, thousands apart."""
    return ABSENT if value is None else f"{value:,}".replace(",", "\N{THIN SPACE}")


def ratio(value: float | None, reference: float | None) -> float | None:
    """``value`` relative to ``reference``, minus one."""
    return None if value is None or not reference else value / reference - 1


def interval(bounds: tuple[float, float] | None, digits: int = 3) -> str:
    """``lo to hi`` in milliseconds."""
    return ABSENT if bounds is None else f"{number(bounds[0], digits)} to {ms(bounds[1], digits)}"


def gate_text(gate: Gate, value: float | None, digits: int = 3) -> str:
    """``value`` of ``gate`` in its unit."""
    if value is None:
        return ABSENT
    unit = gate.unit.strip()
    if unit == "ms":
        return ms(value, digits)
    if unit.lower() in ("bytes", "byte", "b"):
        return size(value)
    share = gate.limit is not None and gate.limit <= 1 and gate.comparison == ">="
    if unit in ("fraction", "share") or (not unit and share):
        return percent(value)
    return f"{number(value, digits)}{_GAP}{unit}".rstrip()


def gate_pair(gate: Gate) -> tuple[str, str]:
    """Value and limit with as many digits as tell them apart."""
    for digits in (3, 4, 5):
        value, limit = gate_text(gate, gate.value, digits), gate_text(gate, gate.limit, digits)
        if value != limit:
            break
    return value, limit


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as (path, text)."""
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(_plain(v) for v in value) or ABSENT
        else:
            yield name, _plain(value)


def _plain(value: Any) -> str:
    match value:
        case None:
            return ABSENT
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
    return str(value)
