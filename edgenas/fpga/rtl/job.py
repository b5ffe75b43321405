"""The fields of a command as signals."""

from collections.abc import Mapping

from amaranth.hdl import Signal, Value, signed


def fields_of(word: Value, layout: Mapping[str, int]) -> dict[str, Value]:
    """Each field of ``word``."""
    found: dict[str, Value] = {}
    at = 0
    for name, width in layout.items():
        n = abs(width)
        part = word[at : at + n]
        found[name] = part.as_signed() if width < 0 else part
        at += n
    return found


def registers(layout: Mapping[str, int]) -> dict[str, Signal]:
    """A register for each field."""
    return {
        name: Signal(signed(-width) if width < 0 else width, name=f"job_{name}")
        for name, width in layout.items()
    }
