"""Networks that people drew or published, most as operators of our space, for small images.

They were made for 224 px and halve the size five times; here only so often as ``strides`` says,
the usual change for CIFAR. Channels are multiples of 8 that are never below nine tenths.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgenas import ops
from edgenas.spec import OpSpec

# MobileNetV2 (arXiv:1801.04381, table 2): expansion, channels, blocks
_V2 = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
V2_SMALL, V2_STRIDES = (1, 1, 2, 2, 1, 1, 1), (1, 2, 2, 2, 1, 2, 1)
# MobileNetV3-Small (arXiv:1905.02244, table 2): kernel, hidden, out, SE, hard-swish, stride
_V3 = (
    (3, 16, 16, 1, 0, 1), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1),
)  # fmt: skip
_PUBLISHED_STRIDES = (1, 2, 2, 1, 1)  # of the five blocks that halve the size at 224 px


def rounded(channels: float) -> int:
    """The multiple of 8 that stands for ``channels``."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


def mobilenet_v2(
    width: float, size: int, channels: int, classes: int, strides: Sequence[int] = V2_SMALL
) -> tuple[OpSpec, ...]:
    """MobileNetV2 times ``width``; the first convolution halves ``size``."""
    cin = rounded(32 * width)
    layers = [OpSpec.of("conv", channels, cin, size, k=3, s=2)]
    size = -(-size // 2)
    for (e, out, blocks), stride in zip(_V2, strides, strict=True):
        for block in range(blocks):
            s, cout = stride if block == 0 else 1, rounded(out * width)
            layers.append(ops.mbconv(cin, cout, size, k=3, s=s, hidden=cin * e))
            cin, size = cout, -(-size // s)
    head = rounded(1280 * max(width, 1.0)) if width >= 1 else rounded(1280 * width)
    return (*layers, *_end(cin, head, size, classes))


def mobilenet_v3_small(width: float, size: int, channels: int, classes: int) -> tuple[OpSpec, ...]:
    """MobileNetV3-Small times ``width``; the first convolution halves ``size``."""
    cin = rounded(16 * width)
    layers = [OpSpec.of("conv", channels, cin, size, k=3, s=2, hs=1)]
    size = -(-size // 2)
    for k, hidden, out, se, hs, s in _V3:
        cout = rounded(out * width)
        layers.append(
            ops.mbconv(
                cin, cout, size, k=k, s=s, hidden=rounded(hidden * width), se=4 * se, hs=bool(hs)
            )
        )
        cin, size = cout, -(-size // s)
    return (
        *layers,
        OpSpec.of("conv", cin, rounded(576 * width), size, k=1, s=1, hs=1),
        OpSpec.of("classifier", rounded(576 * width), classes, size, h=rounded(1024 * width), hs=1),
    )


def published(path: Path, size: int, channels: int, classes: int) -> tuple[OpSpec, ...]:
    """A network of the authors of ProxylessNAS, from its JSON."""
    net: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    cin = net["first_conv"]["out_channels"]
    layers = [OpSpec.of("conv", channels, cin, size, k=3, s=2)]
    size, halvings = -(-size // 2), iter(_PUBLISHED_STRIDES)
    for block in _blocks(net):
        s = next(halvings) if block["stride"] == 2 else 1
        cout = block["out_channels"]
        hidden = cin * block["expand_ratio"]
        layers.append(ops.mbconv(cin, cout, size, k=block["kernel_size"], s=s, hidden=hidden))
        cin, size = cout, -(-size // s)
    return (*layers, *_end(cin, net["feature_mix_layer"]["out_channels"], size, classes))


def _blocks(net: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Those that compute."""
    inner = (b["mobile_inverted_conv"] for b in net["blocks"])
    return [b for b in inner if b["name"] == "MBInvertedConvLayer"]


def _end(cin: int, head: int, size: int, classes: int) -> tuple[OpSpec, OpSpec]:
    return (
        OpSpec.of("conv", cin, head, size, k=1, s=1),
        OpSpec.of("classifier", head, classes, size),
    )


class ResNet18(nn.Module):
    """As of arXiv:1512.03385, table 1: (n, 3, h, w) -> (n, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = (64, 64, 128, 256, 512)
        self.blocks = nn.Sequential(*(
            _Block(widths[i if k == 0 else i + 1], widths[i + 1], 2 if i and k == 0 else 1)
            for i in range(4) for k in range(2)
        ))  # fmt: skip
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.end(self.blocks(self.stem(x)))
        return y


class _Block(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv_bn(cin, cout, 3, stride), nn.ReLU(), *_conv_bn(cout, cout, 3, 1)
        )
        same = cin == cout and stride == 1
        self.short = nn.Identity() if same else nn.Sequential(*_conv_bn(cin, cout, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.body(x) + self.short(x))
        return y


def _conv_bn(cin: int, cout: int, k: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(cin, cout, k, stride, k // 2, bias=False), nn.BatchNorm2d(cout)
