"""The lines that a runner prints, taken for what they have to be: a board may say anything."""

import json
import math
from collections.abc import Container, Mapping
from typing import Any, TypeVar

from edgenas import parsing
from edgenas.errors import DeviceError
from edgenas.runner import CLASSES

Event = Mapping[str, Any]
T = TypeVar("T")

_MOST = 2**63 - 1  # that a runner of a board counts to
_SHOWN = 120
_NAMES: dict[type, str] = {dict: "an object", str: "text", list: "a list"}


class Odd(DeviceError):
    """An answer that is not what it has to be."""


def parsed(line: str) -> Event:
    """The event that ``line`` holds. Raises DeviceError unless it is a JSON object."""
    try:
        event = parsing.json_value(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise DeviceError(
            f"the runner said {line.strip()[:80]!r}, which is not a JSON object: "
            "whatever else is printed there, by a login or a python of its own, has to go"
        )
    return event


def odd(event: Event, what: str) -> Odd:
    """What to raise of an ``event`` of which ``what`` is wrong."""
    said = json.dumps(event)
    shown = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
    return Odd(
        f"the runner there answers {shown}, of which {what}: is it of another version of edgenas, "
        "or not the runner at all?"
    )


def field(event: Event, key: str, kind: type[T]) -> T:
    """What ``event`` says as ``key``. Raises DeviceError where that is missing or no ``kind``."""
    if key not in event:
        raise odd(event, f"{key!r} is missing")
    value = event[key]
    if not isinstance(value, kind):
        raise odd(event, f"{key!r} is not {_NAMES[kind]}")
    return value


def text(event: Event, key: str) -> str:
    """Text for people: one line, whatever it holds."""
    said = field(event, key, str).encode("utf-8", "replace").decode("utf-8")
    return " ".join(said.split()) or "for no reason that it gives"


def number(event: Event, key: str, least: int | None = 0) -> int:
    """A whole number, ``least`` or more."""
    if key not in event:
        raise odd(event, f"{key!r} is missing")
    if not _whole(value := event[key], least):
        raise odd(event, f"{key!r} is not a number" + (f" from {least} on" if least == 0 else ""))
    return int(value)


def numbers(event: Event, key: str) -> tuple[int, ...]:
    """One whole number or more."""
    values = field(event, key, list)
    if not values or not all(_whole(v, 0) for v in values):
        raise odd(event, f"{key!r} is not a list of numbers")
    return tuple(values)


def _whole(value: Any, least: int | None) -> bool:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MOST:
        return False
    return least is None or value >= least


def known(event: Event, ids: Container[str]) -> str:
    """Its ``id``, which has to be one of ``ids``."""
    if (id := field(event, "id", str)) not in ids:
        raise odd(event, "'id' is none that was asked for")
    return id


def counts(event: Event) -> dict[str, int]:
    """Instructions of every class."""
    found = field(event, "counts", dict)
    if set(found) != set(CLASSES) or not all(_whole(n, 0) for n in found.values()):
        raise odd(event, f"'counts' is not a number each of {', '.join(CLASSES)}")
    return dict(found)


def fingerprint(event: Event) -> dict[str, str | int]:
    """What a device is known by: names with texts and numbers."""
    found = field(event, "fingerprint", dict)
    for key, value in found.items():
        if not isinstance(value, str | int | float) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise odd(event, f"{key!r} of 'fingerprint' is neither text nor a number")
    if not found:
        raise odd(event, "'fingerprint' is empty")
    if "cores" in found:
        number(found, "cores", 1)
    return dict(found)
