"""What a stage is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.pipeline.context import Context


@dataclass(frozen=True)
class Stage:
    """``after``: stages whose files it reads. ``settings``: all else that decides its result."""

    name: str
    after: tuple[str, ...]
    settings: Callable[[Context], Mapping[str, Any]]
    work: Callable[[Context, Path], None]
