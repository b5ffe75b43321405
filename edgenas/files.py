"""Files that are whole or absent: written to a temporary name, synced, renamed."""

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import platformdirs

from edgenas import parsing
from edgenas.errors import CorruptFile, UsageError
from edgenas.locks import hold, refuse_link, seized

MARK = ".edgenas"  # in a folder: edgenas made it, and may remove what it made in it

ASIDE = ".aside"  # how the name of what is not whole yet ends

LONGEST_NAME = 255  # bytes, of a part of a path


def cache_folder() -> Path:
    """$EDGENAS_CACHE, or the user's cache folder."""
    return Path(os.environ.get("EDGENAS_CACHE") or platformdirs.user_cache_dir("edgenas"))


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends without an error.

    A link at ``path`` is replaced, not followed. Those that killed processes left are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    owner, temporary = _begun(path)
    with owner:
        try:
            sweep(path.parent, path.name)
            yield temporary
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError as e:
            if e.filename is None or str(e.filename) == str(temporary):
                e.filename = str(path)  # a failed write does not say where, or names what is ours
            raise
        finally:
            temporary.unlink(missing_ok=True)


def _begun(path: Path) -> tuple[BinaryIO, Path]:
    """A temporary file beside ``path``, held by this process."""
    while True:
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=ASIDE, dir=path.parent)
        except OSError as e:
            e.filename = str(path)  # it names the temporary file that was tried last
            raise
        owner = os.fdopen(handle, "rb")
        if hold(owner):
            return owner, Path(name)
        owner.close()


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what ``aside`` of dead processes left in ``folder``; ``name``: of that file alone."""
    of = "*" if name is None else glob.escape(name)
    for left in folder.glob(f".{of}.????????{ASIDE}"):
        with seized(left) as is_left:
            if is_left:
                left.unlink(missing_ok=True)


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
def folder_aside(
    path: Path, mark: str = "edgenas", clear: Callable[[Path], None] = shutil.rmtree
) -> Iterator[Path]:
    """As ``aside``, for a folder.

    ``clear`` removes what stands at ``path``. ``mark`` stands in the file MARK of what is not whole
    yet; nothing else is ever taken for such. Raises UsageError where something else lies there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.part"
    refuse_link(path)
    _clear_part(temporary, mark)
    temporary.mkdir()
    try:
        (temporary / MARK).write_text(mark, encoding="utf-8")
        yield temporary
        if path.exists():
            clear(path)
        (temporary / MARK).unlink()
        temporary.rename(path)
    finally:
        _clear_part(temporary, mark)


def _clear_part(part: Path, mark: str) -> None:
    """Remove a folder that ``folder_aside`` left; its mark last, so that it is known till then."""
    refuse_link(part)
    if not part.exists():
        return
    entries = list(part.iterdir()) if part.is_dir() else [part]
    if entries and not _marked(part / MARK, mark):
        raise UsageError(
            f"{part} lies in the way, and edgenas did not make it here: look at it and move it away"
        )
    for entry in sorted(entries, key=lambda e: e.name == MARK):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    part.rmdir()


def _marked(path: Path, mark: str) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    return path.read_text(encoding="utf-8", errors="replace") in ("", mark)  # "": killed just then


def require_writable(folder: Path) -> None:
    """Raise OSError that names ``folder`` where no file can be made in it; made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"edgenas")
    except OSError as e:
        e.filename = str(folder)
        raise


def own(path: Path) -> None:
    """Make ``path`` a file of its own where it has further names, as in a copy by ``cp -l``."""
    if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
        with aside(path) as temporary:
            shutil.copyfile(path, temporary)


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
