"""Labelled images as bytes, and what every dataset hands over."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, get_type_hints

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from edgenas.augment import Augment
from edgenas.contract import fits
from edgenas.errors import DataError


@dataclass(frozen=True)
class Images:
    """``x``: (n, c, h, w) uint8; ``y``: (n,) int64, an index into the classes."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor) -> "Images":
        return Images(self.x[index], self.y[index])


@dataclass(frozen=True)
class Framing:
    """How a photo becomes an image of the data set: as of ``classify.framed`` and ``opaque``."""

    fit: str = "crop"
    background: str = "white"


@dataclass(frozen=True)
class Raw:
    """What a dataset holds. ``test``, ``val``: parts of its own for that, where it has them.

    ``notes``: what a user should know of what was left out.
    """

    train: Images
    test: Images | None
    classes: tuple[str, ...]
    augment: Augment = field(default_factory=Augment)
    val: Images | None = None
    framing: Framing = field(default_factory=Framing)
    notes: tuple[str, ...] = ()


class Dataset(Protocol):
    """One file of the shelf: a frozen dataclass whose fields are its settings."""

    def load(self) -> Raw:
        """The images. Raises DataError."""
        ...


PARTS = ("train", "val", "test")
KEYS = (*(f"{kind}_{part}" for part in PARTS for kind in "xy"), "classes")


def from_arrays(arrays: Mapping[str, Any], where: str) -> Raw:
    """``x_train``, ``y_train`` and, where there are, ``x_val``, ``x_test`` ..., ``classes``.

    x: uint8, (n, h, w), (n, h, w, c) or (n, c, h, w) with h = w; y: (n,) whole numbers from 0.
    Raises DataError that begins with ``where``.
    """
    if missing := [key for key in ("x_train", "y_train") if key not in arrays]:
        keys = sorted(map(str, arrays))
        has = ", ".join(f"{name:.40}" if name.isprintable() else ascii(name)[:40] for name in keys)
        has = f"{has:.300}" or "nothing"
        raise DataError(
            f"{where}: no {' and no '.join(missing)}; it has {has}. Expected x_train, y_train "
            "and, if there are, x_val, y_val, x_test, y_test, classes"
        )
    parts: dict[str, Images] = {}
    for part in PARTS:
        if (f"x_{part}" in arrays) != (f"y_{part}" in arrays):
            raise DataError(f"{where}: x_{part} and y_{part} go together; give both or neither")
        if f"x_{part}" in arrays:
            parts[part] = _images(arrays, part, where)
    train = parts["train"]
    for part, images in parts.items():
        if images.x.shape[1:] != train.x.shape[1:]:
            raise DataError(
                f"{where}: x_{part} has images of {_size(images.x)} and x_train of "
                f"{_size(train.x)}; make them equal"
            )
    names = _classes(arrays, parts, where)
    strange = sorted({str(key) for key in arrays} - {*KEYS})
    notes = (f"{where}: {', '.join(strange)}: not read",) if strange else ()
    return Raw(train, parts.get("test"), names, val=parts.get("val"), notes=notes)


def check_whole(raw: Raw, where: str) -> None:
    """Raise DataError where ``raw``, whoever made it, is not as it says of itself."""
    for name, hint in get_type_hints(Raw).items():
        if not fits(held := getattr(raw, name), hint):
            raise DataError(f"{where}: its {name} is a {type(held).__name__}; expected {hint}")
    shape = getattr(raw.train.x, "shape", (0,))[1:]
    for part in PARTS:
        images: Images | None = getattr(raw, part)
        if images is None:
            continue
        x, y = images.x, images.y
        for name, array, dtype, axes in (("x", x, torch.uint8, 4), ("y", y, torch.int64, 1)):
            if not isinstance(array, Tensor) or array.dtype != dtype or array.ndim != axes:
                raise DataError(
                    f"{where}: {name} of {part} is {_told(array)}; expected a torch.Tensor of "
                    f"{dtype} and {axes} axes"
                )
        if x.shape[1:] != shape or x.shape[2] != x.shape[3] or not x.numel():
            raise DataError(
                f"{where}: x of {part} has shape {tuple(x.shape)}; expected square images, "
                "(n, channels, size, size), alike in all parts"
            )
        if len(x) != len(y):
            raise DataError(f"{where}: {part} has {len(x)} images and {len(y)} labels")
        if int(y.min()) < 0 or int(y.max()) >= len(raw.classes):
            raise DataError(
                f"{where}: labels of {part} lie between {int(y.min())} and {int(y.max())}, and "
                f"there are {len(raw.classes)} classes"
            )


def _told(array: object) -> str:
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    return f"a {type(array).__name__}" + (f" of {dtype}, {tuple(shape)}" if shape else "")


def check_names(names: Sequence[str], where: str) -> None:
    """Raise DataError for names of classes that no file or report can hold, or two that agree."""
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip():
            raise DataError(f"{where}: the name of a class is {name!r}; give it one")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{where}: the name of the class {name!r} is not UTF-8; rename it"
            ) from None
        composed = unicodedata.normalize("NFC", name)
        if composed in seen:
            raise DataError(f"{where}: two classes are called {seen[composed]!r}; rename one")
        seen[composed] = name


def check_memory(needed_bytes: int, what: str) -> None:
    """Raise DataError where ``what`` takes more memory than is free."""
    free_bytes = psutil.virtual_memory().available
    if needed_bytes > free_bytes:
        raise DataError(
            f"{what} take {needed_bytes / 1e9:.3g} GB of memory while they are read, and "
            f"{free_bytes / 1e9:.3g} GB are free; take smaller images, or fewer"
        )


def _classes(arrays: Mapping[str, Any], parts: Mapping[str, Images], where: str) -> tuple[str, ...]:
    """Their names, as many as the images can tell apart."""
    count = sum(map(len, parts.values()))
    highest = max(int(part.y.max()) for part in parts.values())
    if arrays.get("classes") is None:
        if highest >= count:
            raise DataError(
                f"{where}: a label is {highest}, and there are {count} images; classes are counted "
                "from 0, and each has images"
            )
        return tuple(str(k) for k in range(highest + 1))
    given = _array(arrays, "classes", where).ravel()
    if highest >= len(given):
        raise DataError(f"{where}: a label is {highest}, but there are {len(given)} classes")
    if len(given) > count:
        raise DataError(f"{where}: {len(given)} classes are named, and there are {count} images")
    try:
        return tuple(k.decode() if isinstance(k, bytes) else str(k) for k in given.tolist())
    except UnicodeDecodeError as e:
        raise DataError(f"{where}: the class {e.object!r} is not UTF-8; rename it") from e


def _array(arrays: Mapping[str, Any], key: str, where: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(arrays[key])
    except Exception as e:  # whatever an object says that is no array
        raise DataError(f"{where}: {key} is no array: {' '.join(str(e).split())}") from e


def _images(arrays: Mapping[str, Any], part: str, where: str) -> Images:
    x, y = (_array(arrays, f"{kind}_{part}", where) for kind in "xy")
    if x.dtype != np.uint8:
        raise DataError(f"{where}: x_{part} is {x.dtype}; expected uint8, 0 to 255")
    x = _channels_first(x, f"{where}: x_{part}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(
            f"{where}: y_{part} is {y.dtype} of shape {y.shape}; expected one whole number an image"
        )
    if len(x) != len(y) or not len(y):
        raise DataError(f"{where}: x_{part} has {len(x)} images and y_{part} {len(y)} labels")
    if not x.size:
        raise DataError(f"{where}: x_{part} has shape {x.shape}: images without a pixel")
    if y.min() < 0:
        raise DataError(f"{where}: y_{part} holds {y.min()}; classes are counted from 0")
    if y.max() > np.iinfo(np.int64).max:
        raise DataError(f"{where}: y_{part} holds {y.max()}; classes are counted from 0")
    return Images(torch.from_numpy(np.array(x, order="C")), torch.from_numpy(y.astype(np.int64)))


def _channels_first(x: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    match x.shape:
        case (_, h, w) if h == w:
            return x[:, None]
        case (_, h, w, _) if h == w:
            return x.transpose(0, 3, 1, 2)
        case (_, _, h, w) if h == w:
            return x
    raise DataError(
        f"{where} has shape {x.shape}; expected square images, (n, size, size), "
        "(n, size, size, channels) or (n, channels, size, size)"
    )


def _size(x: Tensor) -> str:
    return "x".join(str(side) for side in x.shape[1:])
