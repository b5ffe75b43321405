"""The user's own images in one NumPy file."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenas.errors import DataError
from edgenas.images import Raw, from_arrays

__all__ = ["Npz"]


@dataclass(frozen=True)
class Npz:
    """``path``: an .npz with x_train, y_train and, where there are, x_test, y_test, classes."""

    path: Path

    def load(self) -> Raw:
        """Arrays as in ``images.from_arrays``. Raises DataError."""
        path = self.path.expanduser()
        try:
            with path.open("rb") as file:  # np.load itself leaves a torn file open
                if not zipfile.is_zipfile(file):
                    raise DataError(f"{path} is no .npz; write one with numpy.savez")
                file.seek(0)
                contents = dict(np.load(file, allow_pickle=False))
        except FileNotFoundError:
            raise DataError(f"there is no {path}") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
            raise DataError(f"{path} cannot be read as an .npz of plain arrays: {e}") from e
        return from_arrays(contents, str(path))
