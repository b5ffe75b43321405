"""A graph as a file in the format that a device reads."""

import functools
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import ClassVar, Protocol

from edgenas.artifact import Artifact, Inspection
from edgenas.errors import CapabilityError, UsageError
from edgenas.graph import Graph
from edgenas.registry import Shelf


class Exporter(Protocol):
    """Writes one format; ``format`` is also the file's suffix.

    A graph that the format cannot hold is a CapabilityError.
    """

    format: ClassVar[str]

    def network(
        self, graph: Graph, path: Path, metadata: Mapping[str, str], batch: int | None = None
    ) -> Artifact:
        """A network to deploy, with ``metadata`` and its precision inside.

        ``batch``: how many images a call takes; any number where the format allows it, if None.
        """
        ...

    def operator(self, graph: Graph, path: Path) -> Artifact:
        """A part of a network, to be timed: batch 1, and int8 has no float at its ends."""
        ...

    def inspect(self, path: Path) -> Inspection:
        """What a file of this format holds. Raises CorruptFile."""
        ...


EXPORTERS = Shelf("edgenas.exporters", Exporter)


@functools.cache  # looking through entry points takes longer than writing an operator
def exporter_for(format: str) -> Exporter:
    """The exporter of ``format``. Raises UnknownName."""
    cls = EXPORTERS[format]
    needs = [f.name for f in fields(cls) if f.default is f.default_factory is MISSING]
    if needs or cls.format != format:
        why = f"needs {', '.join(needs)}" if needs else f"writes {cls.format!r}"
        raise CapabilityError(
            f"exporter {format!r} ({cls.__module__}:{cls.__name__}) {why}; an exporter is made "
            "without settings, and has the name of its format"
        )
    exporter: Exporter = cls()
    return exporter


def opened(path: Path) -> Artifact:
    """A model file that somebody has, as a device takes it; what it holds decides its precision.

    Its input shape is left open. Raises UsageError or CorruptFile.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}")
    formats = list(EXPORTERS)
    if (format := path.suffix.removeprefix(".")) not in formats:
        raise UsageError(f"{path} ends in none of .{', .'.join(formats)}")
    whole = exporter_for(format).inspect(path).precision == "int8-static"
    return Artifact.of(path, format, "int8-static" if whole else "fp32", ())
