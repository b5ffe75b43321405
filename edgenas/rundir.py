"""A run directory: a folder a stage, written aside, renamed when whole, skipped if unchanged.

Only what edgenas made is ever changed or removed: a run is known by the file MARK in it, a stage by
the record of its files, and nothing is followed through a link.
"""

import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas import parsing
from edgenas.artifact import sha256
from edgenas.errors import CorruptFile, UsageError
from edgenas.files import MARK, folder_aside, inside, own, read_json, write_json
from edgenas.locks import Say, opened, refuse_link, taken

STAGES = ("profile", "search", "race", "train", "compress", "export", "verify")
CHECKPOINTS, NETWORKS = ".checkpoints", "networks"
_STAMP, _LOCK = "stage.json", ".lock"
_FOLDERS = (*STAGES, CHECKPOINTS, NETWORKS)
_FILES = ("config.yaml", "verdict.json", "manifest.json", "report.html", _LOCK, MARK)
_GROWN = ("ledger.jsonl", "ledger.readings.jsonl")
_ID = re.compile(r"edgenas run [0-9a-f]{32}\n")


@dataclass(frozen=True)
class RunDir:
    """``root/<stage>/stage.json`` holds the key of its inputs and the hash of each output."""

    root: Path

    @contextlib.contextmanager
    def locked(self, say: Say) -> Iterator[None]:
        """No second process may work in this folder meanwhile; made if need be.

        Raises UsageError where one does, and where the folder is not a run.
        """
        self.require_ours()
        self.root.mkdir(parents=True, exist_ok=True)
        with opened(self.root / _LOCK) as lock:
            if taken(lock, self.root / _LOCK, say):
                raise UsageError(
                    f"another edgenas works in {self.root}; wait for it, or give this run a name"
                )
            if not self._id():
                self._mark()
            for name in _GROWN:
                own(self.root / name)
            yield

    def require_ours(self) -> None:
        """Raise UsageError where this is neither a run of ours nor free; nothing is written."""
        if not self.root.is_dir():
            if self.root.exists() or self.root.is_symlink():
                raise UsageError(f"{self.root} is no folder: move it away, or name the run anew")
            return
        refuse_link(self.root / MARK)
        if not (self.is_ours or self._is_new()):
            raise UsageError(
                f"{self.root} is there, and no run of edgenas made it: nothing in it is touched. "
                "Name another folder for runs, --runs FOLDER, or the run, --set name=NAME"
            )
        for path in sorted(self.root.iterdir()):
            if _is_name_of_ours(path.name):
                _refuse_links(path)
        for stage in STAGES:
            folder = self.root / stage
            if folder.exists() and self._stamp(stage) is None and _filled(folder):
                raise UsageError(
                    f"{folder} was not made by edgenas, and is where this run keeps a stage: move "
                    "it elsewhere, or name another folder for runs, --runs FOLDER"
                )

    @property
    def is_ours(self) -> bool:
        """Whether edgenas made it, by its mark or, of an edgenas that left none, by its content."""
        return bool(self._id()) or self._is_unmarked_run()

    def require_replaceable(self, stage: str) -> None:
        """Raise UsageError where the folder of ``stage`` holds what edgenas did not put there."""
        folder = self.root / stage
        known = {_STAMP, *(self._record(stage) or {"outputs": {}})["outputs"]}
        for path in sorted(folder.rglob("*")):
            if not path.is_dir() and str(path.relative_to(folder)) not in known:
                raise UsageError(
                    f"{path} was not made by edgenas, and {folder} is about to be made anew: move "
                    "it elsewhere"
                )

    def _id(self) -> str:
        """What the folders that are made in this run are marked with; "" where it is not one."""
        path = self.root / MARK
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return text if _ID.fullmatch(text) else ""

    def _mark(self) -> None:
        with opened(self.root / MARK) as file:
            file.write(f"edgenas run {uuid.uuid4().hex}\n".encode())

    def _is_new(self) -> bool:
        """Whether it is empty, or was just made by a process that was killed."""
        return all(
            p.name in (_LOCK, MARK) and p.is_file() and not p.stat().st_size
            for p in self.root.iterdir()
        )

    def _is_unmarked_run(self) -> bool:
        """Whether it is a run of an edgenas that left no mark: its config, and what it did."""
        if (self.root / MARK).exists():
            return False
        return self._holds_config() and (
            self._began() or any(self._record(stage) is not None for stage in STAGES)
        )

    def _holds_config(self) -> bool:
        try:
            written = parsing.text(self.root / "config.yaml", parsing.MOST_YAML_BYTES)
            config = parsing.yaml_value(written)
        except (OSError, ValueError):
            return False
        keys = {"name", "task", "targets", "space", "search", "train", "schema_version"}
        return isinstance(config, dict) and keys <= config.keys()

    def _began(self) -> bool:
        try:
            with (self.root / "ledger.jsonl").open(encoding="utf-8") as file:
                first = json.loads(file.readline())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(first, dict) and (first.get("phase"), first.get("event")) == (
            "stage", "start",
        )  # fmt: skip

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

    def compared(self) -> dict[str, str]:
        """File -> sha256 of what two runs of the same seed and measurements have alike.

        Raises UsageError or CorruptFile where there is no manifest.
        """
        path = self.root / "manifest.json"
        names = [*read_json(path)["outputs"], path.name]
        return {name: sha256(inside(self.root, name, path)) for name in names}

    def outputs(self, stage: str) -> dict[str, str]:
        """File name -> sha256 of a finished stage. Raises UsageError where it was not run."""
        stamp = self._stamp(stage)
        if stamp is None:
            raise UsageError(
                f"{self.root} has no finished stage {stage!r}. Run it: edgenas {stage} {self.root}"
            )
        outputs: dict[str, str] = stamp["outputs"]
        return outputs

    def make(self, stage: str, key: Callable[[], str], work: Callable[[Path], None]) -> None:
        """Let ``work`` fill the folder of ``stage``; it appears whole or not at all.

        ``key``: asked when that is done. Raises UsageError where something that edgenas did not
        make stands there.
        """
        self.require_replaceable(stage)

        with folder_aside(self.root / stage, self._id(), self._remove) as folder:
            work(folder)
            names = sorted(
                p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name != MARK
            )
            outputs = {str(n): sha256(folder / n) for n in names}
            write_json(folder / _STAMP, {"key": key(), "outputs": outputs})

    def _remove(self, folder: Path) -> None:
        """A stage's; its record last, so that what a kill leaves is known."""
        self.require_replaceable(folder.name)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path != folder / _STAMP:
                path.unlink()
        (folder / _STAMP).unlink(missing_ok=True)
        folder.rmdir()

    def _record(self, stage: str) -> dict[str, Any] | None:
        """As ``_stamp``; None where the record is damaged, or another's."""
        try:
            return self._stamp(stage)
        except UsageError:
            return None

    def _stamp(self, stage: str) -> dict[str, Any] | None:
        path = self.root / stage / _STAMP
        if not path.is_file():
            return None
        advice = f"move {path.parent} away to run the stage again"
        try:
            data = read_json(path)
        except CorruptFile as e:
            raise CorruptFile(f"{e}; {advice}") from e
        if not isinstance(data, dict) or not _is_record(data):
            raise CorruptFile(f"{path} is not a stage record; {advice}")
        return data


def key_of(stage: str, inputs: Mapping[str, Any]) -> str:
    """Hash of all that a stage depends on."""
    return hashlib.sha256(json.dumps([stage, inputs], sort_keys=True).encode()).hexdigest()


def _is_record(data: Mapping[str, Any]) -> bool:
    outputs = data.get("outputs")
    return (
        isinstance(data.get("key"), str)
        and isinstance(outputs, dict)
        and all(isinstance(digest, str) for digest in outputs.values())
    )


def _filled(folder: Path) -> bool:
    return not folder.is_dir() or any(folder.iterdir())


def _is_name_of_ours(name: str) -> bool:
    """Whether a run writes or removes something of this name in its folder."""
    grown = name.endswith(".jsonl") and name.split(".")[0] in ("ledger", "readings")
    part = name.startswith(".") and name.endswith(".part")
    return name in (*_FOLDERS, *_FILES) or grown or part or name.startswith("model.")


def _refuse_links(path: Path) -> None:
    """Raise UsageError for a link at ``path``, or within it."""
    for each in (path, *path.rglob("*")) if not path.is_symlink() else (path,):
        refuse_link(each)
