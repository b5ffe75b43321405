"""Operators: OpSpec -> nn.Module. What a table measures is what a network is built of.

kinds   conv        k x k convolution, BN, activation            args k, s
        mbconv      expand 1x1, depthwise k x k, project 1x1     args e (expansion) or h (hidden
                    (arXiv:1801.04381), residual where s = 1     channels, of a pruned block), k, s
                    and cin = cout
        classifier  global average pool, fully connected         cout = classes
Every kind with an activation takes ``hs1`` for hard-swish instead of ReLU6; ``linear1`` leaves that
of a conv out.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from edgenas.errors import CapabilityError
from edgenas.spec import OpSpec

BN_EPS, BN_MOMENTUM = 1e-3, 0.1  # ProxylessNAS, reference code


def mbconv(cin: int, cout: int, size: int, *, k: int, s: int, hidden: int, hs: bool) -> OpSpec:
    """The one name of an MBConv: ``e`` where the hidden width is a multiple of ``cin``."""
    width = {"e": hidden // cin} if hidden % cin == 0 else {"h": hidden}
    return OpSpec.of("mbconv", cin, cout, size, k=k, s=s, **width, **({"hs": 1} if hs else {}))


def hidden(op: OpSpec) -> int:
    """Hidden channels of an ``mbconv``."""
    return op.arg("h", 0) or op.cin * op.arg("e", 1)


def has_residual(op: OpSpec) -> bool:
    """Whether an ``mbconv`` adds its input to its output."""
    return op.cin == op.cout and op.arg("s", 1) == 1


def output_size(op: OpSpec) -> int:
    """Height = width of the output, pixels; 1 for a classifier."""
    return 1 if op.kind == "classifier" else -(-op.size // op.arg("s", 1))


class Zero(nn.Module):
    """The absent branch beside a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> zeros of the same shape."""
        return torch.zeros_like(x)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        y: Tensor = x + self.body(x)
        return y


def _activation(op: OpSpec) -> nn.Module:
    return nn.Hardswish() if op.arg("hs", 0) else nn.ReLU6()


def _conv_bn(cin: int, cout: int, k: int = 1, s: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(cin, cout, k, s, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout, BN_EPS, BN_MOMENTUM),
    ]


def _conv(op: OpSpec) -> nn.Module:
    layers = _conv_bn(op.cin, op.cout, op.arg("k", 1), op.arg("s", 1))
    return nn.Sequential(*layers, *([] if op.arg("linear", 0) else [_activation(op)]))


def mbconv_body(op: OpSpec) -> nn.Sequential:
    """An ``mbconv`` without its residual: what a supernet's choice puts beside its shortcut."""
    mid = hidden(op)
    expand = [] if mid == op.cin else [*_conv_bn(op.cin, mid), _activation(op)]
    return nn.Sequential(
        *expand,
        *_conv_bn(mid, mid, op.arg("k", 3), op.arg("s", 1), groups=mid),
        _activation(op),
        *_conv_bn(mid, op.cout),
    )


def _mbconv(op: OpSpec) -> nn.Module:
    return Residual(mbconv_body(op)) if has_residual(op) else mbconv_body(op)


def _classifier(op: OpSpec) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(op.cin, op.cout))


_BUILDERS: Mapping[str, Callable[[OpSpec], nn.Module]] = {
    "conv": _conv,
    "mbconv": _mbconv,
    "classifier": _classifier,
}


def initialised(module: nn.Module) -> nn.Module:
    """``module``, its convolutions drawn anew (He, fan out)."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
    return module


def build(op: OpSpec) -> nn.Module:
    """The module of ``op``, fresh weights; (n, cin, size, size) -> (n, cout, ...).

    Raises CapabilityError for a kind that is a part of whole networks only.
    """
    if op.kind not in _BUILDERS:
        raise CapabilityError(f"'{op}' cannot be built alone; kinds: {', '.join(_BUILDERS)}")
    return initialised(_BUILDERS[op.kind](op))


def macs(op: OpSpec) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image.

    0 for a kind that is not built here, of an imported table.
    """
    if op.kind not in _BUILDERS:
        return 0
    inside, outside = op.size**2, output_size(op) ** 2
    k2 = op.arg("k", 1) ** 2
    if op.kind == "conv":
        return outside * k2 * op.cin * op.cout
    if op.kind == "classifier":
        return op.cin * op.cout
    mid = hidden(op)
    expand = 0 if mid == op.cin else inside * op.cin * mid
    return expand + outside * mid * (op.arg("k", 3) ** 2 + op.cout)
