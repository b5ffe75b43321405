"""Networks that were measured on other FPGAs, as modules with random weights: time does not depend on them.

Where TensorFlow's SAME pads one side of a stride of two, these pad both: shapes are the same.
"""

import tempfile
from collections.abc import Callable, Sequence
from math import ceil, prod
from pathlib import Path

import torch
from torch import Tensor, nn

from edgenas.export import exporter_for
from edgenas.fpga.network import Network
from edgenas.graph import calibrate, trace

CLASSES = 1001  # of the zoo's networks from TensorFlow
Build = Callable[[], nn.Module]


def conv(cin: int, cout: int, k: int = 1, stride: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, with a ReLU behind it or nothing; batch norms are folded in any case."""
    layer = nn.Conv2d(cin, cout, k, stride, k // 2)
    return nn.Sequential(layer, *([nn.ReLU()] if act else []))


def depthwise(channels: int, k: int, stride: int, act: bool = True) -> nn.Sequential:
    """As ``conv``."""
    layer = nn.Conv2d(channels, channels, k, stride, k // 2, groups=channels)
    return nn.Sequential(layer, *([nn.ReLU()] if act else []))


class Residual(nn.Module):
    """What ``body`` and ``shortcut`` make, added; with a ReLU behind it or nothing."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: bool = False):
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w)."""
        y: Tensor = self.act(self.body(x) + self.shortcut(x))
        return y


def classifier(parts: Sequence[nn.Module], channels: int, classes: int = CLASSES) -> nn.Module:
    """``parts``, a mean, and a fully connected layer."""
    return nn.Sequential(
        *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def divisible(n: float) -> int:
    """The multiple of 8 nearby, at least 0.9 of it."""
    least = max(8, int(n + 4) // 8 * 8)
    return least + 8 if least < 0.9 * n else least


def mobilenet_v1(width: float) -> nn.Module:
    """arXiv:1704.04861, table 1."""
    cin = int(32 * width)
    parts = [conv(3, cin, 3, 2)]
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for cout, stride in (*plan, (1024, 2), (1024, 1)):
        parts += [depthwise(cin, 3, stride), conv(cin, cin := int(cout * width))]
    return classifier(parts, cin)


def bottleneck(cin: int, cout: int, hidden: int, k: int, stride: int, skip: bool = True) -> nn.Module:
    """Expand, depthwise, project (arXiv:1801.04381, figure 3)."""
    expand = [conv(cin, hidden)] if hidden != cin else []
    body = nn.Sequential(*expand, depthwise(hidden, k, stride), conv(hidden, cout, act=False))
    return Residual(body) if skip and stride == 1 and cin == cout else body


def mobilenet_v2(width: float) -> nn.Module:
    """arXiv:1801.04381, table 2."""
    cin = divisible(32 * width)
    parts: list[nn.Module] = [conv(3, cin, 3, 2)]
    for t, c, n, s in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(n):
            cout = divisible(c * width)
            parts.append(bottleneck(cin, cout, cin * t, 3, 1 if i else s))
            cin = cout
    head = divisible(1280 * max(1, width))
    return classifier([*parts, conv(cin, head)], head)


def mobilenet_edgetpu(width: float) -> nn.Module:
    """V3_EDGETPU of tensorflow/models, research/slim/nets/mobilenet/mobilenet_v3.py.

    Where nothing is expanded, its fused block is the projection alone.
    """
    cin, cout = divisible(32 * width), divisible(16 * width)
    parts = [conv(3, cin, 3, 2), conv(cin, cout, act=False)]
    fused = [(8, 32, 2), *[(4, 32, 1)] * 3, (8, 48, 2), *[(4, 48, 1)] * 3]
    for t, c, stride in fused:
        cin, cout = cout, divisible(c * width)
        hidden = divisible(cin * t)
        body = nn.Sequential(conv(cin, hidden, 3, stride), conv(hidden, cout, act=False))
        parts.append(Residual(body) if stride == 1 and cin == cout else body)
    for k, t, c, stride, skip in (
        (3, 8, 96, 2, True), *[(3, 4, 96, 1, True)] * 3,
        (3, 8, 96, 1, False), *[(3, 4, 96, 1, True)] * 3,
        (5, 8, 160, 2, True), *[(5, 4, 160, 1, True)] * 3, (3, 8, 192, 1, True),
    ):  # fmt: skip
        cin, cout = cout, divisible(c * width)
        parts.append(bottleneck(cin, cout, divisible(cin * t), k, stride, skip))
    return classifier([*parts, conv(cout, 1280)], 1280)


def efficientnet_edgetpu(width: float, depth: float) -> nn.Module:
    """tensorflow/tpu, models/official/efficientnet/edgetpu/efficientnet_edgetpu_builder.py.

    The stride of a block without depthwise is that of its projection (efficientnet_model.py).
    """
    cin = divisible(32 * width)
    parts: list[nn.Module] = [conv(3, cin, 3, 2)]
    for n, k, s, t, c, fused in (
        (1, 3, 1, 4, 24, True), (2, 3, 2, 8, 32, True), (4, 3, 2, 8, 48, True),
        (5, 5, 2, 8, 96, False), (4, 5, 1, 8, 144, False), (2, 5, 2, 8, 192, False),
    ):  # fmt: skip
        for i in range(ceil(n * depth)):
            stride, cout = 1 if i else s, divisible(c * width)
            # The first block expands as if it read as many channels as it makes.
            hidden = t * (cout if c == 24 else cin)
            if fused:
                body = nn.Sequential(conv(cin, hidden, 3), conv(hidden, cout, 1, stride, act=False))
                parts.append(Residual(body) if stride == 1 and cin == cout else body)
            else:
                parts.append(bottleneck(cin, cout, hidden, k, stride))
            cin = cout
    head = divisible(1280 * width)
    return classifier([*parts, conv(cin, head)], head)


def resnet(depths: Sequence[int], strided: str, classes: int = CLASSES) -> nn.Module:
    """arXiv:1512.03385, table 1; its max pool is replaced by a depthwise convolution of that size.

    ``strided``: the stride of a stage is that of the first "1x1" of its first block, of the "3x3"
    (both as published), or of the 3x3 of its last block ("last", tensorflow/models slim). What
    takes each second pixel there is replaced by a depthwise convolution too.
    """
    parts: list[nn.Module] = [conv(3, 64, 7, 2), depthwise(64, 3, 2, act=False)]
    cin = 64
    for stage, n in enumerate(depths):
        c = 64 << stage
        ends = stage + 1 == len(depths)
        for i in range(n):
            if strided == "last":
                stride = 2 if i == n - 1 and not ends else 1
            else:
                stride = 2 if i == 0 and stage else 1
            first = stride if strided == "1x1" else 1
            body = nn.Sequential(
                conv(cin, c, 1, first), conv(c, c, 3, stride // first), conv(c, 4 * c, act=False)
            )
            shortcut: nn.Module | None = None
            if cin != 4 * c:
                shortcut = conv(cin, 4 * c, 1, stride, act=False)
            elif stride > 1:
                shortcut = depthwise(cin, 1, stride, act=False)
            parts.append(Residual(body, shortcut, act=True))
            cin = 4 * c
    return classifier(parts, cin, classes)


def resnet18(classes: int) -> nn.Module:
    """As ``resnet``, of blocks of two convolutions."""
    parts: list[nn.Module] = [conv(3, 64, 7, 2), depthwise(64, 3, 2, act=False)]
    cin = 64
    for stage in range(4):
        for i in range(2):
            c, stride = 64 << stage, 2 if i == 0 and stage else 1
            shortcut = conv(cin, c, 1, stride, act=False) if cin != c else None
            body = nn.Sequential(conv(cin, c, 3, stride), conv(c, c, 3, act=False))
            parts.append(Residual(body, shortcut, act=True))
            cin = c
    return classifier(parts, cin, classes)


def integers(build: Build, shape: tuple[int, int, int], seed: int = 0) -> Network:
    """``build()`` with random weights of ``seed``, in int8, by way of a ``.fpga`` file."""
    torch.manual_seed(seed)
    module = build().eval()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    graph = calibrate(trace(module, shape), [torch.randn(1, *shape)])
    with tempfile.TemporaryDirectory() as folder:
        path = exporter_for("fpga").network(graph, Path(folder) / "net.fpga", {}).path
        return Network.load(path)[0]


def macs(network: Network) -> int:
    """Multiply-accumulates of its convolutions and fully connected layers, for one image."""
    found = 0
    for op in network.ops:
        if op.name in network.weights:
            found += network.weights[op.name].weight.size * prod(op.shape[1:])
    return found
