"""Networks as somebody brings them to ``edgenas compress``: functions that take nothing."""

import handmade
from torch import nn

from edgenas import ops
from edgenas.chain import Network


def resnet18() -> nn.Module:
    """For ten classes."""
    return handmade.ResNet18(10)


def mobilenet_v2() -> nn.Module:
    """As published, for ten classes of images of 224 px."""
    return Network(
        [ops.build(o) for o in handmade.mobilenet_v2(1.0, 224, 3, 10, handmade.V2_STRIDES)]
    )
