"""What a device file makes run on this machine is run once its user has said so, and no sooner.

A file that came with a folder from elsewhere would otherwise start what it likes on a mere look.
What was said is remembered for that content at that place, in the user's cache folder.
"""

import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edgenas.errors import UsageError
from edgenas.files import cache_folder, write_text

ALWAYS = "EDGENAS_TRUST_DEVICES"


def require(path: Path, starts: Sequence[str]) -> None:
    """Raise UsageError unless the user lets the device file at ``path`` start what it ``starts``.

    Asks on a terminal. $EDGENAS_TRUST_DEVICES=1 allows all, where nobody can be asked.
    """
    if not starts or given(path):
        return None
    what = f"{path} starts programs on this machine: {', '.join(map(_shown, starts))}"
    if sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write(f"edgenas: {what}. Allow it, now and later? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return allow(path)
    command = f"edgenas devices --trust {shlex.quote(str(path))}"
    raise UsageError(
        f"{what}. If you trust it: {command}, once; or, where nobody can be asked, {ALWAYS}=1"
    )


def given(path: Path) -> bool:
    """Whether its user lets the device file at ``path`` start what it names."""
    return os.environ.get(ALWAYS) == "1" or _record(path).is_file()


def allow(path: Path) -> None:
    """Remember that the file at ``path``, as it is now, may start what it names."""
    write_text(_record(path), f"{path.resolve()}\n")


def _record(path: Path) -> Path:
    """The same text in another folder names other programs, where it names them by their place."""
    known = hashlib.sha256(os.fsencode(path.resolve()) + b"\0" + path.read_bytes())
    return cache_folder() / "trusted" / known.hexdigest()


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)
