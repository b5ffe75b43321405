"""Raw events of one long measurement, kept while it runs: killed half-way, it goes on."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from edgenas import parsing
from edgenas.errors import UsageError
from edgenas.files import own
from edgenas.locks import Say, opened, taken

Record = Mapping[str, Any]


class Journal:
    """An open journal: its ``records``, read when it was opened and appended since.

    A record is in the file when ``append`` returns; ``sync`` makes it survive a power cut too.
    """

    def __init__(self, file: BinaryIO, records: list[Record], discarded: bool) -> None:
        self._file = file
        self.records = records
        self.discarded = discarded

    def append(self, record: Record) -> None:
        """Add one line."""
        line = _line(record)
        self._file.write(line)
        self._file.flush()
        self.records.append(json.loads(line))

    def sync(self) -> None:
        """Wait until all is on the disk."""
        os.fsync(self._file.fileno())


@contextmanager
def open_journal(
    path: Path, header: Record, say: Say = lambda text: None, *, keep: bool = True
) -> Iterator[Journal]:
    """The journal at ``path``, for a measurement described by ``header``.

    What another header wrote is discarded (and ``discarded`` says so), as is a torn end, and all
    unless ``keep``. Raises UsageError while another process has it open, or where it is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own(path)
    with opened(path) as file:
        if taken(file, path, say):
            raise UsageError(f"another process is measuring into {path}; wait for it or stop it")
        file.seek(0)
        lines, whole_bytes = _readable(file.read())
        mine = keep and bool(lines) and lines[0] == json.loads(_line(header))
        file.truncate(whole_bytes if mine else 0)
        file.seek(0, os.SEEK_END)
        if not mine:
            file.write(_line(header))
            file.flush()
        journal = Journal(file, lines[1:] if mine else [], discarded=bool(lines) and not mine)
        try:
            yield journal
        finally:
            journal.sync()


def _line(record: Record) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _readable(data: bytes) -> tuple[list[Record], int]:
    """Records up to the first line that is cut short or no object, and their length in bytes."""
    records: list[Record] = []
    size = 0
    for line in data.splitlines(keepends=True):
        try:
            record = parsing.json_value(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict):
            break
        records.append(record)
        size += len(line)
    return records, size
