"""Presets of the space ``mobile``: what one fills in, and the images that it was made for."""

import math
from collections.abc import Mapping
from typing import Any

# Of a size of images. The fastest network is a handful of plain convolutions; at 64 px the slowest
# takes 19 (ONNX Runtime) and 28 (LiteRT) times as long, by tables of one busy machine. A few
# thousand images train one, and no depthwise block is fixed.
_SIZES: Mapping[int, Mapping[str, Any]] = {
    32: {
        "stem": 16, "stem_stride": 1,
        "widths": (32, 64, 128), "depths": (3, 4, 4), "strides": (2, 2, 2), "head": 192,
    },
    64: {
        "stem": 24, "stem_stride": 2,
        "widths": (48, 96, 192), "depths": (3, 4, 4), "strides": (2, 2, 2), "head": 192,
    },
    96: {
        "stem": 24, "stem_stride": 2,
        "widths": (32, 64, 128, 192), "depths": (2, 3, 3, 2), "strides": (2, 2, 2, 1), "head": 256,
    },
    128: {
        "stem": 24, "stem_stride": 2,
        "widths": (32, 64, 128, 192), "depths": (2, 3, 4, 3), "strides": (2, 2, 2, 2), "head": 256,
    },
    224: {
        "stem": 24, "stem_stride": 2,
        "widths": (32, 48, 96, 160, 256), "depths": (2, 3, 3, 3, 2), "strides": (2, 2, 2, 2, 1),
        "head": 512,
    },
}  # fmt: skip
_OF_SIZE: Mapping[str, Any] = {
    "first": 0, "kernels": (3, 5), "expansions": (3, 6),
    "blocks": ("mbconv", "fused-mbconv", "conv"),
}  # fmt: skip
_V3: Mapping[str, Any] = {
    "kernels": (3, 5), "ses": (0, 4), "activations": ("relu6", "hard-swish"),
    "edge_activation": "hard-swish",
}  # fmt: skip
PRESETS: Mapping[str, Mapping[str, Any]] = {
    **{f"{pixels}px": {**own, **_OF_SIZE} for pixels, own in _SIZES.items()},
    "tiny": {  # 28 to 32 px, trains on two CPU cores in minutes
        "stem": 16, "stem_stride": 2, "first": 16,
        "widths": (24, 40, 64), "depths": (3, 3, 3), "strides": (2, 2, 1), "head": 192,
    },
    "small": {  # 28 to 32 px, for a GPU or a patient CPU
        "stem": 16, "stem_stride": 1, "first": 16,
        "widths": (24, 40, 80), "depths": (3, 3, 3), "strides": (2, 2, 2), "head": 256,
    },
    "proxyless": {  # 224 px, as in the paper
        "stem": 32, "stem_stride": 2, "first": 16,
        "widths": (24, 40, 80, 96, 192, 320), "depths": (4, 4, 4, 4, 4, 1),
        "strides": (2, 2, 2, 1, 2, 1), "head": 1280,
    },
    "tiny-v3": {  # tiny, with more to choose from
        "stem": 16, "stem_stride": 2, "first": 16,
        "widths": (24, 40, 64), "depths": (3, 3, 3), "strides": (2, 2, 1), "head": 192,
        "expansions": (3, 6), **_V3,
    },
    "mobile-v3": {  # 224 px, after MobileNetV3-Large
        "stem": 16, "stem_stride": 2, "first": 16,
        "widths": (24, 40, 80, 112, 160), "depths": (2, 3, 4, 2, 3), "strides": (2, 2, 2, 1, 2),
        "head": 960, "features": 1280, "expansions": (3, 4, 6), **_V3,
    },
}  # fmt: skip
_CIFAR = {"resolution": 32, "channels": 3, "classes": 10}
_IMAGENET = {"resolution": 224, "channels": 3, "classes": 1000}
INPUTS: Mapping[str, Mapping[str, int]] = {  # what a preset was made for, where no task says more
    **{f"{pixels}px": {**_CIFAR, "resolution": pixels} for pixels in _SIZES},
    "tiny": _CIFAR,
    "small": _CIFAR,
    "proxyless": _IMAGENET,
    "tiny-v3": _CIFAR,
    "mobile-v3": _IMAGENET,
}


def of_size(pixels: object) -> str:
    """The preset for images nearest to ``pixels`` a side, by their ratio; ``32px`` of none."""
    if not isinstance(pixels, int) or pixels < 1:
        return "32px"
    return f"{min(_SIZES, key=lambda size: abs(math.log(size) - math.log(pixels)))}px"
