"""Folders for the moment; what a killed process left of them, the next one removes."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgenas.locks import hold, seized

_PREFIX, _OWNER = "edgenas-", ".owner"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder within the temporary one of this machine, gone when the block ends."""
    _sweep(Path(tempfile.gettempdir()))
    whole = Path(tempfile.mkdtemp(prefix=_PREFIX))
    work = whole / "work"
    try:
        with (whole / ".new").open("wb") as owner:
            hold(owner)
            (whole / ".new").rename(whole / _OWNER)  # seen by others only once it is held
            work.mkdir()
            try:
                yield work
            except OSError as e:
                if e.filename is None and e.errno in (errno.ENOSPC, errno.EDQUOT):
                    e.filename = str(work)  # a failed write does not say where
                raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def require_room(folder: Path, size_bytes: int) -> None:
    """Raise OSError that names ``folder`` where so much cannot be written there."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(size_bytes))
            file.flush()
    except OSError as e:
        e.filename = str(folder)
        raise


def _sweep(folder: Path) -> None:
    """Remove those of ``folder`` that are this user's and whose process is no more."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*"):
            mine = not path.is_symlink() and path.is_dir() and path.stat().st_uid == os.geteuid()
            with seized(path / _OWNER) as is_left:
                if mine and is_left:
                    shutil.rmtree(path / "work", ignore_errors=True)  # without owner it stays
                    shutil.rmtree(path, ignore_errors=True)
