"""What a stage is, and where it keeps how far it got."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.checkpoint import Checkpoint
from edgenas.pipeline.context import Context
from edgenas.rundir import RunDir, key_of


@dataclass(frozen=True)
class Stage:
    """``after``: stages whose files it reads. ``settings``: all else that decides its result."""

    name: str
    after: tuple[str, ...]
    settings: Callable[[Context], Mapping[str, Any]]
    work: Callable[[Context, Path], None]

    def key(self, ctx: Context) -> str:
        """Hash of all that its result depends on. Raises UsageError before ``after`` are whole."""
        rundir = RunDir(ctx.root)
        after = {name: rundir.outputs(name) for name in self.after}
        return key_of(self.name, {"settings": self.settings(ctx), "after": after})

    def checkpoint(self, ctx: Context, name: str, **more: Any) -> Checkpoint:
        """Where ``work`` may keep how far it got with ``name``, over a kill.

        ``more``: JSON types; what that depends on beside the key of the stage.
        """
        key = key_of(self.name, {"key": self.key(ctx), "more": more})
        return Checkpoint(self._checkpoints(ctx) / f"{name}.safetensors", key)

    def forget(self, ctx: Context) -> None:
        """Delete all its checkpoints: it is whole."""
        shutil.rmtree(self._checkpoints(ctx), ignore_errors=True)

    def _checkpoints(self, ctx: Context) -> Path:
        return ctx.root / ".checkpoints" / self.name
