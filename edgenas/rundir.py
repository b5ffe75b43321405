"""A run directory: a folder a stage, written aside, renamed when whole, skipped if unchanged."""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.artifact import sha256
from edgenas.errors import CorruptFile, UsageError
from edgenas.files import folder_aside, read_json, write_json

_STAMP = "stage.json"


@dataclass(frozen=True)
class RunDir:
    """``root/<stage>/stage.json`` holds the key of its inputs and the hash of each output."""

    root: Path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No second process may work in this folder meanwhile. Raises UsageError."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    f"another edgenas works in {self.root}; wait for it, or give this run a name"
                ) from None
            yield

    def is_whole(self, stage: str, key: str) -> bool:
        """Whether ``stage`` was finished from the inputs of ``key``, its files as written."""
        stamp = self._stamp(stage)
        if stamp is None or stamp.get("key") != key:
            return False
        folder = self.root / stage
        return all(
            (folder / name).is_file() and sha256(folder / name) == digest
            for name, digest in stamp["outputs"].items()
        )

    def outputs(self, stage: str) -> dict[str, str]:
        """File name -> sha256 of a finished stage. Raises UsageError where it was not run."""
        stamp = self._stamp(stage)
        if stamp is None:
            raise UsageError(
                f"{self.root} has no finished stage {stage!r}. Run it: edgenas {stage} {self.root}"
            )
        outputs: dict[str, str] = stamp["outputs"]
        return outputs

    def make(self, stage: str, key: str, work: Callable[[Path], None]) -> None:
        """Let ``work`` fill the folder of ``stage``; it appears whole or not at all."""
        with folder_aside(self.root / stage) as folder:
            work(folder)
            names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
            outputs = {str(n): sha256(folder / n) for n in names}
            write_json(folder / _STAMP, {"key": key, "outputs": outputs})

    def _stamp(self, stage: str) -> dict[str, Any] | None:
        path = self.root / stage / _STAMP
        if not path.is_file():
            return None
        data = read_json(path)
        if not isinstance(data, dict) or not isinstance(data.get("outputs"), dict):
            raise CorruptFile(f"{path} is not a stage record; delete the folder to run it again")
        return data


def key_of(stage: str, inputs: Mapping[str, Any]) -> str:
    """Hash of all that a stage depends on."""
    return hashlib.sha256(json.dumps([stage, inputs], sort_keys=True).encode()).hexdigest()
