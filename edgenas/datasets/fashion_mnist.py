"""Fashion-MNIST (arXiv:1708.07747): 60,000 + 10,000 grey images of 28x28, ten classes; MIT."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgenas import fetch
from edgenas.augment import Augment
from edgenas.images import Images, Raw

__all__ = ["FashionMnist"]

# Of what is inside the .gz files, which are compressed differently by each source.
_MD5: Mapping[str, str] = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
_URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
_PACKAGE = "dataset-fashion-mnist"
_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class FashionMnist:
    """``path``: a folder with the four idx files, plain or .gz; else they are fetched once."""

    path: Path | None = None

    def load(self) -> Raw:
        """The official splits. Raises DataError."""
        if self.path is not None:
            contents = fetch.read_verified(self.path.expanduser(), _MD5)
        else:
            contents = fetch.obtain("fashion-mnist", _MD5, _SOURCES)
        return Raw(
            _images(contents, "train"), _images(contents, "t10k"), _CLASSES, Augment(shift=2)
        )


def _images(contents: fetch.Contents, part: str) -> Images:
    """Headers of 16 and 8 bytes; the digest has vouched for them."""
    y = np.frombuffer(contents[f"{part}-labels-idx1-ubyte"], np.uint8, offset=8)
    pixels = bytearray(contents[f"{part}-images-idx3-ubyte"])
    x = torch.frombuffer(pixels, dtype=torch.uint8, offset=16).view(len(y), 1, 28, 28)
    return Images(x, torch.from_numpy(y.astype(np.int64)))


def _official(scratch: Path) -> fetch.Contents:
    return {name: fetch.gunzip(fetch.download(f"{_URL}{name}.gz"), name) for name in _MD5}


def _package(scratch: Path) -> fetch.Contents:
    unpacked = fetch.debian_package(_PACKAGE, scratch)
    return fetch.read_verified(unpacked / "usr/share/datasets/fashion-mnist", _MD5)


_SOURCES = (
    fetch.Source(fetch.host(_URL), _official),
    fetch.Source("Debian package", _package),
)
