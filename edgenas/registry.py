"""A shelf: a folder where one file adds one thing.

The file name is the public name and is known without importing the file, so a missing
optional dependency never breaks a listing. Outside packages join by entry point of the group
of the same name (``edgenas.spaces``, ``edgenas.methods`` ...).
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import metadata
from typing import Any

from edgenas.blame import located
from edgenas.contract import held
from edgenas.errors import CapabilityError, UnknownName


class Shelf:
    """Names in ``package`` plus entry points; ``shelf[name]`` imports only what is asked for.

    A file's public name is its stem with ``-`` for ``_``; its one ``__all__`` entry is the thing.
    ``protocol``: what each of them is; a plug-in's is held to it.
    """

    def __init__(self, package: str, protocol: type = object) -> None:
        self.package = package
        self.protocol = protocol

    def __iter__(self) -> Iterator[str]:
        path = importlib.import_module(self.package).__path__
        own = {m.name.replace("_", "-") for m in pkgutil.iter_modules(path)}
        guests = {e.name for e in metadata.entry_points(group=self.package)}
        if clash := own & guests:
            raise UnknownName(f"{self.package}: entry points shadow built-in names {sorted(clash)}")
        return iter(sorted(own | guests))

    def __getitem__(self, name: str) -> Any:
        name = name.replace("_", "-")
        known = list(self)
        if name not in known:
            kind = self.package.rpartition(".")[2].removesuffix("s")
            raise UnknownName(f"no {kind} {name!r}.{nearest(name, known)}")
        for entry in metadata.entry_points(group=self.package):
            if entry.name == name:
                return _guest(entry, self.protocol)
        try:
            module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        except ImportError as e:
            raise CapabilityError(
                f"{name!r} needs the package {e.name!r}, not installed: run 'edgenas doctor'"
            ) from e
        (public,) = module.__all__
        return getattr(module, public)


def _guest(entry: metadata.EntryPoint, protocol: type) -> Any:
    """What a plug-in adds. Raises CapabilityError where it cannot be loaded, or is something else.

    What it does later is checked against ``protocol`` too.
    """
    who = f"plug-in {entry.name!r} ({entry.group}, {entry.value})"
    try:
        thing = entry.load()
    except (Exception, SystemExit) as e:  # importing runs its code
        raise CapabilityError(f"{who} cannot be loaded: {located(e)}") from e
    if not (isinstance(thing, type) and is_dataclass(thing)):
        raise CapabilityError(f"{who} is {thing!r:.80}, not a dataclass: see docs/CONTRIBUTING.md")
    return held(thing, protocol, who)


def nearest(name: str, known: list[str]) -> str:
    """A hint for a message: ``" Did you mean 'x'? Known: ..."``."""
    near = difflib.get_close_matches(name, known, 1)
    return (f" Did you mean {near[0]!r}?" if near else "") + f" Known: {', '.join(known)}"
