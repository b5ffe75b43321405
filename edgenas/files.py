"""Files that are whole or absent: written to a temporary name, synced, renamed."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from edgenas import parsing
from edgenas.errors import CorruptFile, UsageError

LONGEST_NAME = 255  # bytes, of a part of a path


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as e:
        e.filename = str(path)  # it names the temporary file that was tried last
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as e:
        if e.filename is None or str(e.filename) == name:
            e.filename = str(path)  # a failed write does not say where, or names what is ours
        raise
    finally:
        temporary.unlink(missing_ok=True)


def inside(folder: Path, name: str, where: object) -> Path:
    """The file of ``folder`` that ``where``, itself a file, names. Raises CorruptFile.

    A name out of a file that somebody else may have written leads nowhere else.
    """
    parts = PurePosixPath(name).parts
    plain = parts and name.isprintable() and not {"/", ".."} & {*parts} and "\\" not in name
    if not plain or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        raise CorruptFile(f"{where} names {name[:80]!r}, which is no file within {folder}")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CorruptFile(f"{where} names {name!r}, which leads out of {folder}")
    return path


@contextlib.contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """As ``aside``, for a folder; what stood at ``path`` is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``."""
    with aside(path) as temporary:
        try:
            temporary.write_text(text, encoding="utf-8")
        except UnicodeEncodeError as e:
            near = text[max(e.start - 20, 0) : e.end + 20]
            raise UsageError(f"{path} cannot hold {near!r}, which is no UTF-8: rename it") from e


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` by ``data`` as indented JSON. NaN and infinity are refused."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Inverse of ``write_json``. Raises UsageError (absent) or CorruptFile."""
    try:
        return parsing.json_value(parsing.text(path))
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except (ValueError, OSError) as e:
        said = getattr(e, "strerror", None) or " ".join(str(e).split())[:300]
        raise CorruptFile(f"{path} cannot be read as JSON: {said}") from e
