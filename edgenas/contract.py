"""A plug-in's class is held to the protocol of its shelf: what it has, takes and gives."""

import dataclasses
import functools
import inspect
import numbers
import re
import reprlib
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

import pydantic

from edgenas.errors import CapabilityError


@functools.cache  # a class is wrapped once
def held(cls: type, to: type, who: str) -> type:
    """``cls``, whose methods check what they give, as annotated in the protocol ``to``.

    Raises CapabilityError, at once or when called, that begins with ``who``.
    """
    try:
        pydantic.TypeAdapter(cls).rebuild(raise_errors=True)
    except (Exception, SystemExit) as e:  # its annotations are evaluated
        first = (str(e).splitlines() or [""])[0]
        raise CapabilityError(
            f"{who}: its fields cannot be configured: {type(e).__name__}: {first}"
        ) from e
    asked = [name for name in {**get_type_hints(to), **_members(to)} if not name.startswith("_")]
    if lacks := [name for name in asked if not _has(cls, to, name)]:
        raise CapabilityError(
            f"{who}: lacks {', '.join(sorted(lacks))}, which {to.__name__} in {to.__module__} asks "
            "for: see docs/CONTRIBUTING.md"
        )
    for name in asked:
        own, told = inspect.getattr_static(cls, name, None), f"{who}: {name}"
        if name in _fields(cls) or _owner(cls, name).__module__.startswith("edgenas."):
            continue
        if name in _members(to):
            _hold(cls, name, own, _members(to)[name], told)
        elif not isinstance(own, property | functools.cached_property):
            _require(own, _plain(get_type_hints(to)[name], cls), told)
    return cls


def _members(to: type) -> dict[str, Any]:
    """Methods and properties of a protocol, or of an abstract class."""
    return {
        name: member
        for base in reversed(to.__mro__)
        if base.__module__.startswith("edgenas.")
        for name, member in vars(base).items()
        if isinstance(member, types.FunctionType | classmethod | property)
        and not name.startswith("_")
    }


def _owner(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in vars(base))


def _fields(cls: type) -> set[str]:
    """What is a setting, checked as it is read."""
    return {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()


def _has(cls: type, to: type, name: str) -> bool:
    own = inspect.getattr_static(cls, name, None)
    if own is None:
        return name in _fields(cls)
    promised = _owner(cls, name) is to and getattr(to, "_is_protocol", False)
    return not promised and not getattr(own, "__isabstractmethod__", False)


def _hold(cls: type, name: str, own: Any, asked: Any, told: str) -> None:
    """Put a checking one in the place of the method or property ``own``."""
    part: Any = asked.fget if isinstance(asked, property) else asked
    function: Callable[..., Any] = getattr(part, "__func__", part)
    hint = _plain(get_type_hints(function).get("return", Any), cls)
    if isinstance(asked, property):
        if isinstance(own, property) and own.fget is not None:
            setattr(cls, name, property(_checked(own.fget, hint, told), doc=own.__doc__))
        elif isinstance(own, functools.cached_property):
            kept = functools.cached_property(_checked(own.func, hint, told))
            kept.__set_name__(cls, name)
            setattr(cls, name, kept)
        else:
            _require(own, hint, told)
        return
    if not callable(getattr(cls, name)):
        raise CapabilityError(f"{told} is {_shown(own)}, not a method")
    bound = isinstance(own, classmethod | staticmethod)
    if isinstance(asked, classmethod) and not bound:
        raise CapabilityError(f"{told} is called on the class: make it a classmethod")
    _takes(getattr(cls, name), bound, function, told)
    checked = _checked(getattr(own, "__func__", own), hint, told)
    setattr(cls, name, type(own)(checked) if bound else checked)


def _takes(method: Callable[..., Any], bound: bool, asked: Callable[..., Any], told: str) -> None:
    """Raise CapabilityError unless ``method`` may be called as ``asked`` is."""
    _, *wanted = inspect.signature(asked).parameters.values()
    must = [p.name for p in wanted if p.default is p.empty]
    may = {p.name: None for p in wanted if p.default is not p.empty}
    try:
        signature = inspect.signature(method)
        first = [] if bound else [None]
        signature.bind(*first, *must)
        signature.bind(*first, *must, **may)
    except (TypeError, ValueError) as e:
        raise CapabilityError(
            f"{told} takes other arguments: {e}; it is called as {told.rpartition(' ')[2]}"
            f"({', '.join([*must, *(f'{name}=...' for name in may)])})"
        ) from e


def _checked(function: Callable[..., Any], hint: Any, told: str) -> Callable[..., Any]:
    if hint in (None, types.NoneType):  # what it gives is not looked at
        return function

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        _require(value, hint, told)
        return value

    return checked


def _require(value: Any, hint: Any, told: str) -> None:
    if not fits(value, hint):
        raise CapabilityError(f"{told} is {_shown(value)}; expected {_named(hint)}")


def _plain(hint: Any, cls: type) -> Any:
    """``hint`` as of a value of ``cls``."""
    if get_origin(hint) is ClassVar:
        (hint,) = get_args(hint)
    return cls if hint is Self else hint


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is what ``hint`` says; numbers and sequences of any make are taken."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or getattr(hint, "_is_protocol", False):
        return True
    if hint in (None, types.NoneType):
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    if not isinstance(value, origin or hint):
        return False
    return all(fits(part, of) for part, of in _parts(value, origin, inner))


def _parts(value: Any, origin: Any, inner: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """What ``value`` holds, and what each is to be; a text is no sequence of texts."""
    if not inner or not issubclass(origin, Collection):
        return
    if issubclass(origin, Mapping):
        for key, held_there in value.items():
            yield from ((key, inner[0]), (held_there, inner[1]))
    elif isinstance(value, str | bytes) or (
        origin is tuple and inner[-1] is not ... and len(inner) != len(value)
    ):
        yield None, bool
    else:
        hints = inner if origin is tuple and inner[-1] is not ... else inner[:1] * len(value)
        yield from zip(value, hints, strict=True)


def _shown(value: Any) -> str:
    said = "None" if value is None else f"{reprlib.repr(value)}, a {type(value).__name__}"
    return " ".join(said.split())


def _named(hint: Any) -> str:
    """Without the modules."""
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", inspect.formatannotation(hint))
