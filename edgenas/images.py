"""Labelled images as bytes, and what every dataset hands over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgenas.augment import Augment
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
class Raw:
    """What a dataset holds. ``test``: the official test split, where there is one."""

    train: Images
    test: Images | None
    classes: tuple[str, ...]
    augment: Augment = field(default_factory=Augment)


class Dataset(Protocol):
    """One file of the shelf: a frozen dataclass whose fields are its settings."""

    def load(self) -> Raw:
        """The images. Raises DataError."""
        ...


def from_arrays(arrays: Mapping[str, Any], where: str) -> Raw:
    """``x_train``, ``y_train`` and, where there are, ``x_test``, ``y_test``, ``classes``.

    x: uint8, (n, h, w), (n, h, w, c) or (n, c, h, w) with h = w; y: (n,) whole numbers from 0.
    Raises DataError that begins with ``where``.
    """
    if missing := [key for key in ("x_train", "y_train") if key not in arrays]:
        has = ", ".join(sorted(map(str, arrays))) or "nothing"
        raise DataError(
            f"{where}: no {' and no '.join(missing)}; it has {has}. Expected x_train, y_train "
            "and, if there are, x_test, y_test, classes"
        )
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(f"{where}: x_test and y_test go together; give both or neither")
    train = _images(arrays, "train", where)
    test = _images(arrays, "test", where) if "x_test" in arrays else None
    if test is not None and test.x.shape[1:] != train.x.shape[1:]:
        raise DataError(
            f"{where}: x_test has images of {_size(test.x)} and x_train of {_size(train.x)}; "
            "make them equal"
        )
    highest = max(int(part.y.max()) for part in (train, test) if part is not None)
    classes = arrays.get("classes")
    if classes is None:
        names = tuple(str(k) for k in range(highest + 1))
    else:
        names = tuple(str(name) for name in np.asarray(classes).ravel())
    if highest >= len(names):
        raise DataError(f"{where}: a label is {highest}, but there are {len(names)} classes")
    return Raw(train, test, names)


def _images(arrays: Mapping[str, Any], part: str, where: str) -> Images:
    x, y = np.asarray(arrays[f"x_{part}"]), np.asarray(arrays[f"y_{part}"])
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
    if y.min() < 0:
        raise DataError(f"{where}: y_{part} holds {y.min()}; classes are counted from 0")
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
