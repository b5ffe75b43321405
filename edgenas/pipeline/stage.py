"""What a stage is, and where it keeps how far it got."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.checkpoint import Checkpoint
from edgenas.files import sweep
from edgenas.pipeline.context import Context
from edgenas.rundir import CHECKPOINTS, RunDir, key_of


@dataclass(frozen=True)
class Stage:
    """``after``: stages whose files it reads, or one such file. ``settings``: all else that
    decides its result."""

    name: str
    after: tuple[str, ...]
    settings: Callable[[Context], Mapping[str, Any]]
    work: Callable[[Context, Path], None]

    def key(self, ctx: Context) -> str:
        """Hash of all that its result depends on. Raises UsageError before ``after`` are whole."""
        rundir = RunDir(ctx.root)
        after: dict[str, Any] = {}
        for name in self.after:
            stage, _, file = name.partition("/")
            outputs = rundir.outputs(stage)
            after[name] = outputs[file] if file else outputs
        return key_of(self.name, {"settings": self.settings(ctx), "after": after})

    def checkpoint(self, ctx: Context, name: str, **more: Any) -> Checkpoint:
        """Where ``work`` may keep how far it got with ``name``, over a kill.

        ``more``: JSON types; what that depends on beside the key of the stage.
        """
        key = key_of(self.name, {"key": self.key(ctx), "more": more})
        return Checkpoint(self._checkpoints(ctx) / f"{name}.safetensors", key)

    def forget(self, ctx: Context) -> None:
        """Delete all its checkpoints: it is whole."""
        folder = self._checkpoints(ctx)
        for path in folder.glob("*.safetensors"):
            path.unlink()
        sweep(folder)
        with contextlib.suppress(OSError):  # something else lies in it, or it is not there
            folder.rmdir()

    def _checkpoints(self, ctx: Context) -> Path:
        return ctx.root / CHECKPOINTS / self.name
