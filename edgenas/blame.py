"""Whose code raised an error: a plug-in's, or a file of the user's own, is named with its line."""

import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

OURS = Path(__file__).resolve().parent
INSTALLED = tuple(Path(p).resolve() for p in {*sysconfig.get_paths().values(), sys.base_prefix})
SHELVES = ("spaces", "methods", "runtimes", "transports", "exporters", "datasets")
LOADED = "_edgenas_"  # begins the names of modules that were loaded from a file of the user's


def blamed(e: BaseException) -> str | None:
    """``plug-in 'x' (edgenas.spaces): KeyError: 'y' (x.py, line 3)``; None where none took part."""
    guests = _guests()
    for module, file, line in reversed([*_frames(e)]):
        who = guests.get(module.partition(".")[0])
        if who or module.startswith(LOADED) or module == file:
            return f"{who or 'your own code'}: {_said(e, file, line)}"
    told = e.obj if isinstance(e, AttributeError) else e  # the one that lacks what it must have
    lacks = told if isinstance(told, type) else type(told)
    if who := guests.get(lacks.__module__.partition(".")[0]):
        return f"{who}: {_said(e, getattr(sys.modules[lacks.__module__], '__file__', None), 1)}"
    return None


def took_part() -> str | None:
    """The plug-ins that were loaded: what they gave may be why code of ours fails."""
    loaded = {module.partition(".")[0] for module in sys.modules}
    return " and ".join(who for module, who in _guests().items() if module in loaded) or None


def _guests() -> dict[str, str]:
    """Of each package that adds to a shelf, what it adds."""
    return {
        entry.module.partition(".")[0]: f"plug-in {entry.name!r} ({entry.group})"
        for shelf in SHELVES
        for entry in metadata.entry_points(group=f"edgenas.{shelf}")
    }


def located(e: BaseException) -> str:
    """``KeyError: 'y' (x.py, line 3)``, of code that is known not to be ours."""
    for _, file, line in reversed([*_frames(e)]):
        if not any(Path(file).resolve().is_relative_to(f) for f in (OURS, *INSTALLED)):
            return _said(e, file, line)
    return _said(e, None, None)


def _frames(e: BaseException) -> Iterator[tuple[str, str, int]]:
    """Module, file and line of each call, the innermost last."""
    at = e.__traceback__
    while at is not None:
        frame = at.tb_frame
        yield str(frame.f_globals.get("__name__")), frame.f_code.co_filename, at.tb_lineno
        at = at.tb_next


def _said(e: BaseException, file: str | None, line: int | None) -> str:
    if isinstance(e, SyntaxError) and e.filename:
        file, line, text = e.filename, e.lineno, e.msg
    else:
        text = str(e)
    where = f" ({file}, line {line})" if file else ""
    return " ".join(f"{type(e).__name__}: {text}".removesuffix(": ").split()) + where
