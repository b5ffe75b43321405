"""What edgenas put into a folder to stay there: a file of hashes and names beside it says which.

Only what it names, and what is still as it was put there, is replaced.
"""

from collections.abc import Mapping
from pathlib import Path

from edgenas.artifact import sha256
from edgenas.errors import UsageError
from edgenas.files import MARK


def told(files: Mapping[str, Path]) -> str:
    """The content of that file for ``files``, by their names there: a line each."""
    return "".join(f"{sha256(path)} {name}\n" for name, path in files.items())


def is_ours(path: Path) -> bool:
    """Whether the file at ``path``, on this machine, was put there by edgenas as it is now."""
    mark = path.parent / MARK
    if path.is_symlink() or not mark.is_file():
        return False
    lines = mark.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{sha256(path)} {path.name}" in lines


def not_ours(where: str) -> UsageError:
    """Of a file that is in the way."""
    return UsageError(
        f"{where} is there, and edgenas did not put it there, or not as it is: it is left alone. "
        "Move it elsewhere, or name another folder"
    )
