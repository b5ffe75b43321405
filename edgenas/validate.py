"""Mapping -> frozen dataclass, strictly: unknown keys, wrong types and units get one clear line."""

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin

import pydantic
from pydantic import TypeAdapter, ValidationError

from edgenas import parsing
from edgenas.errors import UsageError
from edgenas.registry import nearest

# Ranges of settings, checked where a mapping becomes a dataclass; ``strict``: true is not 1.
MOST = 1_000_000_000  # more of anything that is counted is a slip of the hand
Auto = Literal["auto"]
Count = Annotated[int, pydantic.Field(strict=True, gt=0, le=MOST)]
Whole = Annotated[int, pydantic.Field(strict=True, ge=0, le=MOST)]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Share = Annotated[float, pydantic.Field(gt=0, le=1)]
Degrees = Annotated[float, pydantic.Field(ge=0, le=180)]
UnderOne = Annotated[float, pydantic.Field(ge=0, lt=1)]
Epochs = Annotated[int, pydantic.Field(strict=True, gt=0, le=100_000)]
Batch = Annotated[int, pydantic.Field(strict=True, gt=0, le=65_536)]
Rate = Annotated[float, pydantic.Field(gt=0, le=1000)]  # of learning
Patience = Annotated[float, pydantic.Field(ge=0, le=86_400, allow_inf_nan=False)]  # seconds
Port = Annotated[int, pydantic.Field(ge=1, le=65_535)]
Pixels = Annotated[int, pydantic.Field(ge=1, le=4096)]  # a side of an image
ChannelCount = Annotated[int, pydantic.Field(ge=1, le=100_000)]
Classes = Annotated[int, pydantic.Field(ge=2, le=1_000_000)]
Threads = Annotated[int, pydantic.Field(ge=1, le=1024)]


class _Dataclass(Protocol):
    """What ``dataclasses.fields`` takes."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


T = TypeVar("T", bound=_Dataclass)


def construct(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """An instance of dataclass ``cls``; ``where`` starts the message, e.g. ``run.yaml: space``.

    Raises UsageError that names the key, what it holds and what would be right.
    """
    _known(cls, data, where)
    try:
        made: T = _adapter(cls).validate_python(dict(data))
        return made
    except ValidationError as e:
        first, *others = e.errors()
        place, wrong = first["loc"], first["msg"].removeprefix("Value error, ")
        if str(place[-1]).startswith("literal["):  # a word such as auto, or another kind of value
            place = place[:-1]
            kinds = [o["msg"] for o in others if o["loc"][:-1] == place]
            wrong = ", or ".join([wrong, *(k.removeprefix("Input should be ") for k in kinds)])
        key = ".".join(str(p) for p in place)
        got = "" if first["type"] == "missing" else f", not {first['input']!r:.200}"
        said = f"{where}: {key}: {wrong}{got}{_right(first)}"
        raise UsageError(" ".join(said.split())) from e  # a key may hold anything, a new line too


@cache  # making one takes longer than using it a hundred times
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _right(error: Any) -> str:
    """How a list is written, where something else stands in its place."""
    if error["type"] not in ("tuple_type", "list_type"):
        return ""
    match error["input"]:
        case Mapping() as pairs:
            items = [f"{key}={value}" for key, value in pairs.items()]
        case str() | int() | float() as one:
            items = [str(one)]
        case _:
            items = ["one", "two"]
    return f"; write a list: {error['loc'][-1]}: [{', '.join(items)}]"[:200]


def _known(cls: type[_Dataclass], data: Mapping[str, Any], where: str) -> None:
    """Raise UsageError for a key that no field has, in dataclasses within it too."""
    known = {f.name: f.type for f in fields(cls) if f.init}
    for key, value in data.items():
        if key not in known:
            raise UsageError(
                f"{where}: unknown key {key!r:.200}.{nearest(str(key)[:200], list(known))}"
            )
        inner = known[key]
        if _truth(value) and not _kinds(inner) & {bool, Any, object}:
            raise UsageError(f"{where}: {key}: expected no true or false, but it is {value!r:.200}")
        if isinstance(inner, type) and is_dataclass(inner) and isinstance(value, Mapping):
            _known(inner, value, f"{where}: {key}")


def _truth(value: Any) -> bool:
    """Whether it is true or false, or a list of such: pydantic takes them for 1 and 0."""
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_truth, value)))


def _kinds(hint: Any) -> set[Any]:
    """The types that ``hint`` is made of."""
    return {hint}.union(*map(_kinds, get_args(hint))) if get_origin(hint) else {hint}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, through the safe loader. Raises UsageError with file and line."""
    try:
        data = parsing.yaml_value(parsing.text(path, parsing.MOST_YAML_BYTES))
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except parsing.Refused as e:
        raise UsageError(f"{path}, {e}") from e
    except (ValueError, OSError) as e:
        raise UsageError(f"{path} is not YAML: {getattr(e, 'strerror', None) or e}") from e
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected keys and values, found {type(data).__name__}")
    if odd := [key for key in data if not isinstance(key, str)]:
        raise UsageError(f"{path}: expected names as keys, not {odd[0]!r:.80}")
    return data
