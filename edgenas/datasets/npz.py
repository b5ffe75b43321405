"""The user's own images in one NumPy file."""

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.errors import DataError
from edgenas.images import KEYS, Raw, check_memory, from_arrays

__all__ = ["Npz"]

_HEADERS: Mapping[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_BOMB_BYTES, _BOMB_RATIO = 2**28, 200  # what unpacks to so much, and so many times, is no photos


@dataclass(frozen=True)
class Npz:
    """``path``: an .npz with x_train, y_train and, where there are, x_val, x_test ..., classes."""

    path: Path

    def load(self) -> Raw:
        """Arrays as in ``images.from_arrays``. Raises DataError."""
        path = self.path.expanduser()
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(f"{path} is no regular file")  # a pipe would be waited for
        try:
            with path.open("rb") as file:
                if not zipfile.is_zipfile(file):
                    raise DataError(f"{path} is no .npz; write one with numpy.savez")
                with zipfile.ZipFile(file) as archive:
                    contents = _contents(archive, str(path))
        except FileNotFoundError:
            raise DataError(f"there is no {path}") from None
        except DataError:
            raise
        except Exception as e:  # whatever zip, its packers and NumPy find wrong with a damaged file
            raise DataError(
                f"{path} cannot be read as an .npz of plain arrays: {' '.join(str(e).split())}"
            ) from e
        return from_arrays(contents, str(path))


def _contents(archive: zipfile.ZipFile, where: str) -> dict[str, npt.NDArray[Any] | None]:
    """The arrays that are asked for, and the names of others; checked before any is read."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise DataError(f"{where}: it holds {name} twice")
        members[name] = member
    asked = {name: member for name, member in members.items() if name in KEYS}
    for name, member in asked.items():
        _check(archive, member, f"{where}: {name}")
    check_memory(2 * sum(m.file_size for m in asked.values()), f"{where}: its arrays")
    contents: dict[str, npt.NDArray[Any] | None] = dict.fromkeys(members)
    for name, member in asked.items():
        with archive.open(member) as file:
            contents[name] = np.lib.format.read_array(file, allow_pickle=False)
    return contents


def _check(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> None:
    """Raise DataError where an array says to be what the file does not hold."""
    with archive.open(member) as file:
        read = _HEADERS.get(np.lib.format.read_magic(file))
        if read is None:
            raise DataError(f"{what} is no plain array")
        shape, _, dtype = read(file)
        held_bytes = member.file_size - file.tell()
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects; expected plain arrays")
    told_bytes = math.prod(shape) * dtype.itemsize
    if told_bytes != held_bytes:
        raise DataError(
            f"{what} says to be {dtype} of shape {shape}, {told_bytes} bytes, and the file has "
            f"{held_bytes}: it is damaged"
        )
    if member.file_size > max(_BOMB_BYTES, _BOMB_RATIO * member.compress_size):
        raise DataError(
            f"{what} unpacks from {member.compress_size} bytes to {member.file_size}: no images do"
        )
