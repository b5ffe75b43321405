"""Quantities as users write them: ``"<= 5 ms"``, ``"1 point"``. A bare number is refused."""

import re
from dataclasses import dataclass
from typing import Literal

from edgenas.errors import UsageError

_QUANTITY = re.compile(r"\s*(<=|>=|≤|≥)?\s*([-+]?\d{1,30}(?:\.\d{1,30})?)\s*([A-Za-zµ%]+)?\s*")
_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024, "MiB": 1024**2}
_COUNT = {"k": 1e3, "M": 1e6, "G": 1e9}
_MJ = {"uJ": 1e-3, "µJ": 1e-3, "mJ": 1.0, "J": 1e3}
_FRACTION = {"%": 0.01, "point": 0.01, "points": 0.01}


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on latency: in milliseconds, or as a share of the space's range.

    A share of 0 is the fastest network of the space on the device, 1 the slowest.
    """

    text: str
    limit_ms: float | None
    share: float | None

    def resolve(self, fastest_ms: float, slowest_ms: float) -> float:
        """The limit in milliseconds."""
        if self.limit_ms is not None:
            return self.limit_ms
        assert self.share is not None
        return fastest_ms + self.share * (slowest_ms - fastest_ms)


def _split(text: object, where: str, example: str) -> tuple[str, float, str]:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise UsageError(f"{where}: expected a quantity such as {example!r}, not {text!r:.80}")
    m = _QUANTITY.fullmatch(str(text))
    if m is None:
        raise UsageError(f"{where}: cannot read {text!r:.80}; write it as {example!r}")
    if m[3] is None:
        raise UsageError(f"{where}: {text!r:.80} has no unit; write it as {example!r}")
    sign = {"≤": "<=", "≥": ">=", None: ""}.get(m[1], m[1])
    return sign, float(m[2]), m[3]


def _scale(unit: str, units: dict[str, float], where: str) -> float:
    if unit not in units:
        raise UsageError(f"{where}: unknown unit {unit!r}; known: {', '.join(units)}")
    return units[unit]


def budget(text: object, where: str) -> Budget:
    """``"<= 5 ms"`` or ``"<= 50 %"`` (of the way from the fastest to the slowest network)."""
    sign, value, unit = _split(text, where, "<= 5 ms")
    if sign == ">=":
        raise UsageError(f"{where}: a budget is an upper limit: '<= {value:g} {unit}'")
    if unit == "%":
        if not 0 <= value <= 100:
            raise UsageError(
                f"{where}: {text!r:.80} is not between 0 % and 100 % of the space's range"
            )
        return Budget(str(text), None, value / 100)
    limit_ms = value * _scale(unit, _MS, where)
    if limit_ms <= 0:
        raise UsageError(f"{where}: {text!r:.80} is not more than nothing")
    return Budget(str(text), limit_ms, None)


def fraction(text: object, where: str, sense: Literal["<=", ">="]) -> float:
    """``"88 %"`` or ``"1 point"`` as 0.88 or 0.01; ``sense`` is the comparison that is meant."""
    sign, value, unit = _split(text, where, "<= 1 point" if sense == "<=" else ">= 90 %")
    if sign not in ("", sense):
        raise UsageError(f"{where}: {text!r:.80} should be '{sense} {value:g} {unit}'")
    result = value * _scale(unit, _FRACTION, where)
    if not 0 <= result <= 1:
        raise UsageError(f"{where}: {text!r:.80} is not between 0 and 100 %")
    return result


def count(text: object, where: str) -> float:
    """``"<= 1.2 M"`` as 1,200,000."""
    return _upper(text, where, "<= 1.2 M", _COUNT)


def energy_mj(text: object, where: str) -> float:
    """``"<= 3 mJ"`` as 3."""
    return _upper(text, where, "<= 3 mJ", _MJ)


def size_bytes(text: object, where: str) -> int:
    """``"<= 500 kB"`` as 500000."""
    return int(_upper(text, where, "<= 500 kB", _BYTES))


def _upper(text: object, where: str, example: str, units: dict[str, float]) -> float:
    sign, value, unit = _split(text, where, example)
    result = value * _scale(unit, units, where)
    if sign == ">=" or result <= 0:
        raise UsageError(f"{where}: an upper limit is meant, such as {example!r}, not {text!r:.80}")
    return result
