"""Networks that were measured on other FPGAs, as modules, and as programs of the accelerator.

Weights are random: no time depends on them. Where TensorFlow's SAME pads one side at a stride of
two, these pad both sides: shapes are the same.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgenas.device import load_device
from edgenas.errors import DeviceError
from edgenas.export import exporter_for
from edgenas.fpga.compile import Compiled, Compiler
from edgenas.fpga.lower import Step, steps, values
from edgenas.fpga.network import INPUT, Network
from edgenas.fpga.simulator import Counted, build, simulate
from edgenas.graph import calibrate, trace
from edgenas.runtimes.rtl import Rtl
from edgenas.sentinel import cache_folder

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


def mobilenet_v1(width: float, classes: int = CLASSES) -> nn.Module:
    """arXiv:1704.04861, table 1."""
    cin = int(32 * width)
    parts = [conv(3, cin, 3, 2)]
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for cout, stride in (*plan, (1024, 2), (1024, 1)):
        parts += [depthwise(cin, 3, stride), conv(cin, cin := int(cout * width))]
    return classifier(parts, cin, classes)


def bottleneck(
    cin: int, cout: int, hidden: int, k: int, stride: int, skip: bool = True
) -> nn.Module:
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
    parts: list[nn.Module] = [conv(3, cin, 3, 2), conv(cin, cout, act=False)]
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


ZOO = {
    "repository": "Xilinx/Vitis-AI", "commit": "00cfb6f8d86eef3ef199a342b3521ad6a2eacdd9",
    "file": "model_zoo/README.md",
    "operations": "Classification, column OPS",
    "kv260": "Performance on Kria KV260 SOM, 1 * B4096F @ 300 MHz, E2E throughput, single thread",
    "zcu104": "Performance on ZCU104, 2 * B4096 @ 300 MHz, E2E throughput, single thread",
}  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A network of the zoo: what it says of it, and ``build`` for images of ``size``.

    ``operations`` are two a multiply-accumulate, of mobilenetEdge one.
    ``replaced``: what of it the accelerator does not have, and ``build`` has something else for.
    """

    name: str
    size: int
    operations: str
    kv260_fps: float
    zcu104_fps: float
    build: Build
    replaced: str = ""


_POOL = "max pool by a depthwise convolution of 3 x 3"
_POOLS = f"{_POOL}, and each pool of 1 x 1 by one of 1 x 1"
KNOWN = (
    Known("tf_mobilenetv1_0.25", 128, "27.15M", 1470.42, 1375.03, partial(mobilenet_v1, 0.25)),
    Known("tf_mobilenetv1_0.5", 160, "150M", 1002.62, 950.02, partial(mobilenet_v1, 0.5)),
    Known("tf_mobilenetv1_1.0", 224, "1.14G", 354.19, 344.85, partial(mobilenet_v1, 1.0)),
    Known("tf2_mobilenetv1", 224, "1.15G", 347.97, 339.56, partial(mobilenet_v1, 1.0, 1000)),
    Known("tf_mobilenetv2_1.0", 224, "602M", 290.62, 284.18, partial(mobilenet_v2, 1.0)),
    Known("tf_mobilenetv2_1.4", 224, "1.16G", 206.04, 203.20, partial(mobilenet_v2, 1.4)),
    Known("tf_mobilenetEdge0.75", 224, "624M", 282.1, 278.38, partial(mobilenet_edgetpu, 0.75)),
    Known("tf_mobilenetEdge1.0", 224, "990M", 232.17, 228.03, partial(mobilenet_edgetpu, 1.0)),
    Known("tf_efficientnet-edgetpu-S", 224, "4.72G", 124.06, 122.86,
          partial(efficientnet_edgetpu, 1.0, 1.0)),
    Known("tf_efficientnet-edgetpu-M", 240, "7.34G", 86.03, 85.42,
          partial(efficientnet_edgetpu, 1.0, 1.1)),
    Known("tf_efficientnet-edgetpu-L", 300, "19.36G", 37.52, 37.33,
          partial(efficientnet_edgetpu, 1.2, 1.4)),
    Known("tf_resnetv1_50", 224, "6.97G", 94.21, 93.84,
          partial(resnet, (3, 4, 6, 3), "last", 1000), _POOLS),
    Known("tf_resnetv1_101", 224, "14.4G", 49.86, 49.54,
          partial(resnet, (3, 4, 23, 3), "last", 1000), _POOLS),
    Known("tf_resnetv1_152", 224, "21.83G", 33.98, 33.81,
          partial(resnet, (3, 8, 36, 3), "last", 1000), _POOLS),
    Known("tf_mlperf_resnet50", 224, "8.19G", 84.83, 84.21,
          partial(resnet, (3, 4, 6, 3), "3x3"), _POOL),
    Known("tf2_resnet50", 224, "7.76G", 93.80, 93.23,
          partial(resnet, (3, 4, 6, 3), "1x1", 1000), _POOL),
    Known("pt_resnet50", 224, "8.2G", 84.44, 83.56,
          partial(resnet, (3, 4, 6, 3), "3x3", 1000), _POOL),
)  # fmt: skip
LEFT_OUT = {
    "max pools and concatenations":
        "tf_inceptionresnetv2, tf_inceptionv1, tf_inceptionv2, tf_inceptionv3 (3), tf_inceptionv4, "
        "tf2_inceptionv3, pt_inceptionv3 (5), pt_squeezenet",
    "five max pools, and 25088 inputs of a fully connected layer": "tf_vgg16 (3), tf_vgg19",
    "max pools, and batch norms before convolutions": "tf_resnetv2_50, 101, 152",
    "max pool, and not said how many classes": "pt_vehicle-type, make, color (ResNet-18)",
    "swish and gates": "tf2_efficientnet-b0",
    "hard-swish and gates": "tf2_mobilenetv3",
    "attention": "tf_ViT",
    "not said which channels are left":
        "tf_mobilenetv1_1.0 pruned (2), tf_resnetv1_50 pruned (2), pt_resnet50 pruned (5)",
    "not said which subnetwork": "pt_OFA-resnet50 (5), pt_OFA-depthwise-res50",
}  # fmt: skip


def integers(build: Build, shape: tuple[int, int, int], seed: int = 0) -> Network:
    """``build()`` with random weights of ``seed``, in int8, by way of a ``.fpga`` file."""
    torch.manual_seed(seed)
    module = build().eval()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
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


def accelerator(name: str = "ecp5-85f") -> Rtl:
    """The accelerator of the device ``name``: its shape, clock and memory."""
    runtime = load_device(name).runtime
    assert isinstance(runtime, Rtl)
    return runtime


@dataclass(frozen=True, eq=False)
class Accelerated:
    """A network as a program of the accelerator ``on``."""

    network: Network
    found: Sequence[Step]
    program: Compiled
    on: Rtl

    @classmethod
    def of(cls, network: Network, on: Rtl) -> "Accelerated":
        """Raises CapabilityError where the accelerator does not compute ``network``."""
        found = steps(network, on.shape)
        channels, size, _ = network.input
        return cls(
            network, found, Compiler(on.shape, on.dram).program(found, INPUT, channels, size), on
        )

    @property
    def ms(self) -> float:
        """Of an image, by the model."""
        return self.program.cycles / self.on.fmax_mhz / 1e3

    def simulated(self, seed: int = 0) -> Counted:
        """What its RTL counts on one random image.

        Raises DeviceError where an output is not the reference's or cycles not the model's.
        """
        x = np.random.default_rng(seed).integers(-128, 128, self.network.input).astype(np.int8)
        program, last = self.program, self.found[-1].name
        after, counted = simulate(
            build(self.on.shape, cache_folder()), program.given(INPUT, x), self.on.dram,
            2 * program.cycles,
        )  # fmt: skip
        if wrong := int((program.taken(last, after) != values(self.found, x)[last]).sum()):
            raise DeviceError(f"{wrong} outputs are not those of the reference")
        if counted.cycles != program.cycles:
            raise DeviceError(f"{counted.cycles} cycles, and {program.cycles} by the model")
        return counted
