"""The user's own images: a folder a class."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from pydantic import Field

from edgenas.errors import DataError
from edgenas.images import Images, Raw

__all__ = ["Folder"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_GREY = {"1", "L", "LA"}
_DEEP = {"I", "F"}  # and I;16: more than eight bits a pixel


@dataclass(frozen=True)
class Folder:
    """``path``: ``train/<class>/*.jpg`` and, if there is, ``test/<class>/``; or ``<class>/*.jpg``.

    ``resolution``: pixels a side; images are scaled to it by their shorter side and cut to their
    middle. Without it all must be squares of one size. ``channels``: 1 or 3; without it 3, or 1
    where every image is grey. All images are kept in memory as bytes.
    """

    path: Path
    resolution: Annotated[int, Field(gt=0, le=4096)] | None = None
    channels: Literal[1, 3] | None = None

    def load(self) -> Raw:
        """Read every image. Raises DataError that names the folder or the file."""
        root = self.path.expanduser()
        if not root.is_dir():
            raise DataError(f"there is no folder {root}")
        split = (root / "train").is_dir()
        top = root / "train" if split else root
        classes = tuple(folder.name for folder in _folders(top))
        if len(classes) < 2:
            found = f"one class folder ({classes[0]})" if classes else "no class folders"
            raise DataError(f"{top} has {found}; expected two or more, with images in each")
        train = _files(top, classes)
        test = _files(root / "test", classes) if split and (root / "test").is_dir() else []
        labels = [label for _, label in train + test]
        x = self._read([path for path, _ in train + test])
        images = Images(x, torch.tensor(labels))
        whole = torch.arange(len(images))
        return Raw(
            images[whole[: len(train)]], images[whole[len(train) :]] if test else None, classes
        )

    def _read(self, paths: Sequence[Path]) -> torch.Tensor:
        """(n, c, size, size) uint8."""
        pictures: list[npt.NDArray[np.uint8]] = []
        with ThreadPoolExecutor() as pool:
            for path, picture in zip(paths, pool.map(self._one, paths), strict=True):
                pictures.append(picture)
                _check_size(path, picture, paths[0], pictures[0])
        grey = self.channels is None and all(p.ndim == 2 for p in pictures)
        channels = self.channels or (1 if grey else 3)
        x = np.empty((len(pictures), channels, *pictures[0].shape[:2]), np.uint8)
        for k, picture in enumerate(pictures):
            x[k] = picture if picture.ndim == 2 else picture.transpose(2, 0, 1)
        return torch.from_numpy(x)

    def _one(self, path: Path) -> npt.NDArray[np.uint8]:
        """(h, w) where grey, else (h, w, 3)."""
        try:
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file)
                if picture.mode in _DEEP or picture.mode.startswith("I;"):
                    raise DataError(f"{path} has more than 8 bits a pixel; save it with 8")
                keep_grey = self.channels == 1 or (self.channels is None and picture.mode in _GREY)
                picture = picture.convert("L" if keep_grey else "RGB")
                if self.resolution is not None:
                    side = (self.resolution, self.resolution)
                    picture = ImageOps.fit(picture, side, Image.Resampling.BILINEAR)
                return np.array(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
            raise DataError(f"{path} cannot be read as an image: {' '.join(str(e).split())}") from e


def _folders(top: Path) -> list[Path]:
    return sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(top: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Images with their labels, in order of class and name."""
    if strange := [folder.name for folder in _folders(top) if folder.name not in classes]:
        raise DataError(f"{top} has the class {strange[0]!r}, which the training images lack")
    found: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        images = list(_images(top / name))
        if not images:
            raise DataError(f"{top / name} has no images; expected .jpg, .png or the like in it")
        found += [(path, label) for path in images]
    return found


def _images(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            yield path


def _check_size(
    path: Path, picture: npt.NDArray[np.uint8], first: Path, other: npt.NDArray[np.uint8]
) -> None:
    h, w = picture.shape[:2]
    other_h, other_w = other.shape[:2]
    if (h, w) != (other_h, other_w):
        raise DataError(
            f"images differ in size: {first} is {other_w}x{other_h}, {path} is {w}x{h}; "
            f"set 'resolution:', e.g. {min(h, w, other_h, other_w)}"
        )
    if h != w:
        raise DataError(f"{path} is {w}x{h}, not square; set 'resolution:', e.g. {min(h, w)}")
