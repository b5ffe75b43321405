"""The user's own images: a folder a class."""

import contextlib
import os
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor, UnidentifiedImageError
from pydantic import Field

from edgenas import classify
from edgenas.errors import DataError
from edgenas.images import Framing, Images, Raw, check_memory
from edgenas.listing import check_filled, listed, shown

__all__ = ["Folder"]

_GREY = {"1", "L", "LA"}
_LARGE = 25_000_000  # pixels: of so many, one image after the other is decoded
_PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".avif": "pillow-avif-plugin"}

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Folder:
    """``path``: ``<class>/*.jpg``; or ``train/<class>/`` and, where there are, ``val``, ``test``.

    ``resolution``: pixels a side; without it all must be squares of one size. ``fit``: how an image
    that is no square becomes one, as of ``classify.framed``. ``background``: what transparent
    pixels show, and what ``pad`` fills with. ``channels``: 1 or 3; without it 3, or 1 where every
    image is grey. Read are the first image in each file, turned as its camera says. All images are
    kept in memory as bytes.
    """

    path: Path
    resolution: Annotated[int, Field(gt=0, le=4096)] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    background: str = "white"
    channels: Literal[1, 3] | None = None

    def load(self) -> Raw:
        """Read every image. Raises DataError that names the folder or the file."""
        root = self.path.expanduser()
        if not root.is_dir():
            raise DataError(f"there is no folder {root}")
        self._check_background()
        try:
            found = listed(root, _promises_an_image)
        except OSError as e:
            raise DataError(f"{e.filename or root} cannot be read: {e.strerror or e}") from e
        files = [(part, *file) for part, some in found.parts.items() for file in some]
        pictures = self._read([path for _, path, _ in files])
        skipped = [path for (_, path, _), p in zip(files, pictures, strict=True) if p is None]
        kept = [(*f, p) for f, p in zip(files, pictures, strict=True) if p is not None]
        sizes = []
        for part in found.parts:
            of = [(path, label) for name, path, label, _ in kept if name == part]
            check_filled(of, found.classes, found.tops[part])
            sizes.append(len(of))
        x = self._together([picture for *_, picture in kept])
        y = torch.tensor([label for _, _, label, _ in kept])
        parts = dict(
            zip(found.parts, map(Images, torch.split(x, sizes), torch.split(y, sizes)), strict=True)
        )
        return Raw(
            parts["train"], parts.get("test"), found.classes, val=parts.get("val"),
            framing=Framing(self.fit, self.background),
            notes=found.notes + _left_out(root, skipped, len(files)),
        )  # fmt: skip

    def _check_background(self) -> None:
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise DataError(
                f"task: background: {self.background!r} is no colour, such as white or '#ff8000'"
            ) from None

    def _read(self, paths: Sequence[Path]) -> list[Picture | None]:
        """Of each (h, w) where grey, else (h, w, 3), all of one size; None for what is no image."""
        large = threading.Lock()
        pictures: list[Picture | None] = []
        first: tuple[Path, Picture] | None = None
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter("ignore")  # of what is odd in a file that can be read
            try:
                read = pool.map(lambda path: self._one(path, large), paths)
                for path, picture in zip(paths, read, strict=True):
                    pictures.append(picture)
                    if picture is not None and first is None:
                        first = (path, picture)
                        check_memory(2 * len(paths) * picture.nbytes, f"{len(paths)} images")
                    if picture is not None and first is not None:
                        _check_size(path, picture, *first)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # it would read all the others first
                raise
        return pictures

    def _one(self, path: Path, large: threading.Lock) -> Picture | None:
        try:
            with classify.opened(str(path)) as image:
                width, height = image.size
                with large if width * height > _LARGE else contextlib.nullcontext():
                    return self._prepared(image)
        except UnidentifiedImageError as e:
            if not _promises_an_image(path):
                return None
            raise _unreadable(path, e) from e
        except Exception as e:  # whatever a decoder finds wrong with a damaged file
            raise _unreadable(path, e) from e

    def _prepared(self, image: Image.Image) -> Picture:
        upright = classify.upright(image)
        red, green, blue = ImageColor.getrgb(self.background)[:3]
        grey = upright.mode in _GREY and red == green == blue
        keep = self.channels == 1 or (self.channels is None and grey)
        picture = classify.opaque(upright, "L" if keep else "RGB", self.background)
        if self.resolution is not None:
            side = self.resolution
            picture = classify.framed(picture, side, side, self.fit, self.background)
        return np.array(picture)

    def _together(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """(n, c, size, size) uint8."""
        grey = self.channels is None and all(p.ndim == 2 for p in pictures)
        channels = self.channels or (1 if grey else 3)
        x = np.empty((len(pictures), channels, *pictures[0].shape[:2]), np.uint8)
        for k, picture in enumerate(pictures):
            x[k] = picture if picture.ndim == 2 else picture.transpose(2, 0, 1)
        return torch.from_numpy(x)


def _promises_an_image(path: Path) -> bool:
    return bool(classify.format_of(str(path)))


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{shown(path)} cannot be read as an image: {classify.line(error)}")


def _left_out(root: Path, skipped: Sequence[Path], count: int) -> tuple[str, ...]:
    """What is to be said of files that are no images."""
    if not skipped:
        return ()
    formats = ", ".join(classify.formats())
    said = f"{len(skipped)} of {count} files in {root} are no images of {formats}: not read, e.g. "
    packages = {_PLUGINS[s] for p in skipped if (s := p.suffix.lower()) in _PLUGINS}
    return (
        f"{said}{shown(skipped[0].relative_to(root))}",
        *(f"{name} would read some of them: pip install {name}" for name in sorted(packages)),
    )


def _check_size(path: Path, picture: Picture, first: Path, other: Picture) -> None:
    h, w = picture.shape[:2]
    other_h, other_w = other.shape[:2]
    if (h, w) != (other_h, other_w):
        raise DataError(
            f"images differ in size: {first} is {other_w}x{other_h}, {path} is {w}x{h}; "
            f"set 'resolution:', e.g. {min(h, w, other_h, other_w)} (compress: --resolution)"
        )
    if h != w:
        raise DataError(
            f"{path} is {w}x{h}, not square; set 'resolution:', e.g. {min(h, w)} (compress: "
            "--resolution)"
        )
