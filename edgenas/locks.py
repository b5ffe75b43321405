"""Files of ours that are opened to be written: never through a link; and held by one process."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgenas.errors import UsageError

Say = Callable[[str], None]

# A file system may have no locks at all; only a lock that another holds is waited for.
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """``path`` to read and write, made if need be, its content as it was, and its own alone.

    Raises UsageError where it is a link, or no file; OSError that names it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    refuse_link(path)
    handle = os.open(path, flags, 0o644)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UsageError(f"{path} is no file: move it away")
    with os.fdopen(handle, "r+b") as file:
        yield file


def refuse_link(path: Path) -> None:
    """Raise UsageError where ``path`` is a link: what it points to is not ours to change."""
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link to {os.readlink(path)}, which edgenas does not write through: "
            "remove the link, or put there what it points to"
        )


def hold(file: BinaryIO) -> bool:
    """Show by a lock, where there are locks, that this process is at work on its new ``file``.

    False where another one took it for left behind before, and removed it.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)
    return os.fstat(file.fileno()).st_nlink > 0


@contextlib.contextmanager
def seized(path: Path) -> Iterator[bool]:
    """Whether ``path`` is a file of this user that no process holds; held meanwhile if so.

    Where there are no locks nothing tells, and it is not.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    with os.fdopen(handle, "rb") as file:
        yield _is_left(file)


def _is_left(file: BinaryIO) -> bool:
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def taken(file: BinaryIO, path: Path, say: Say) -> bool:
    """Whether another process holds ``file``, which is ``path``; else this one does, to its end.

    Where the file system has no locks it goes on without, and says so. Raises OSError.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in _TAKEN:
            return True
        if e.errno not in _NO_LOCKS:
            raise OSError(e.errno, os.strerror(e.errno or 0), str(path)) from e
        say(
            f"warning: the file system of {path} has no locks ({os.strerror(e.errno)}): start no "
            "second edgenas there meanwhile"
        )
    return False
