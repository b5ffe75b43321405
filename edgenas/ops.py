"""Operators: OpSpec -> nn.Module. What a table measures is what a network is built of.

kinds   conv        k x k convolution, BN, activation            args k, s
        mbconv      expand 1x1, depthwise k x k, project 1x1     args e (expansion) or h (hidden
                    (arXiv:1801.04381), residual where s = 1     channels, of a pruned block), k, s,
                    and cin = cout                               se (squeeze-and-excitation to
                                                                 hidden / se channels)
        fused-mbconv  expand k x k, project 1x1, residual as     args e or h, k, s
                    of mbconv (arXiv:2104.00298)
        classifier  global average pool, fully connected         cout = classes; args h (a fully
                                                                 connected layer of h before)
Parts of networks that were not made of these:
        linear      fully connected, at 1 px
        add         sum of two of the input's shape
        mul         a map times a gate of its channels
        maxpool                                                  args k, s, p
        mean        global average pool
        hswish      hard-swish
A conv may have ``g`` groups, a padding ``p`` other than half of its kernel, and with ``res1`` the
residual of a block, behind its activation. conv, mbconv, fused-mbconv and classifier have ReLU6,
and take ``hs1`` for hard-swish instead; a conv also ``linear1`` for none,
``relu1`` for ReLU or ``unit1`` for a clip to [0, 1]; linear and add have none, and take ``relu1``,
``relu6`` or ``unit1``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas.errors import CapabilityError
from edgenas.spec import OpSpec

BN_EPS, BN_MOMENTUM = 1e-3, 0.1  # ProxylessNAS, reference code
OPEN = 2.0  # bias of a gate that is not trained yet


def mbconv(
    cin: int, cout: int, size: int, *, k: int, s: int, hidden: int, se: int = 0, hs: bool = False
) -> OpSpec:
    """The one name of an MBConv: ``e`` where the hidden width is a multiple of ``cin``.

    ``se`` divides the hidden width, 0 for no squeeze-and-excitation.
    """
    args = {"k": k, "s": s}
    args |= {"e": hidden // cin} if hidden % cin == 0 else {"h": hidden}
    args |= {"se": se} if se else {}
    args |= {"hs": 1} if hs else {}
    return OpSpec.of("mbconv", cin, cout, size, **args)


def has_hidden(op: OpSpec) -> bool:
    """Whether it is a block with hidden channels."""
    return op.kind in ("mbconv", "fused-mbconv")


def hidden(op: OpSpec) -> int:
    """Hidden channels of an ``mbconv`` or ``fused-mbconv``."""
    return op.arg("h", 0) or op.cin * op.arg("e", 1)


def squeezed(op: OpSpec) -> int:
    """Channels between the two convolutions of the gate of an ``mbconv``; 0 where it has none.

    A multiple of 8 that is near ``hidden / se`` and not below nine tenths of it, as in MobileNetV3
    (arXiv:1905.02244, sec. 5.3, and its reference code).
    """
    if not (divisor := op.arg("se", 0)):
        return 0
    want = hidden(op) / divisor
    near = max(8, int(want + 4) // 8 * 8)
    return near if near >= 0.9 * want else near + 8


def has_residual(op: OpSpec) -> bool:
    """Whether a block adds its input to its output."""
    if op.kind == "conv":
        return bool(op.arg("res", 0))
    return op.cin == op.cout and op.arg("s", 1) == 1


def input_shape(ops: Sequence[OpSpec]) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a network of ``ops`` takes."""
    return ops[0].cin, ops[0].size, ops[0].size


def output_size(op: OpSpec) -> int:
    """Height = width of the output, pixels."""
    if op.kind in ("classifier", "linear", "mean"):
        return 1
    k = op.arg("k", 1)
    return (op.size + 2 * op.arg("p", k // 2) - k) // op.arg("s", 1) + 1


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


class SqueezeExcitation(nn.Module):
    """x * gate(mean of x), one gate a channel (arXiv:1709.01507; as in arXiv:1905.02244, sec. 5.3).

    An untrained gate is open, and the same for every channel and image: the batch norm behind the
    projection takes a common factor out, so a block starts as it would without. It is less than
    1, since hard-sigmoid has no gradient there.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        return self.gated(x, self.squeezed(x))

    def squeezed(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> what gates are made of, (n, squeezed, 1, 1)."""
        return F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))

    def gated(self, x: Tensor, narrow: Tensor) -> Tensor:
        """``x`` times the gates that ``narrow`` makes."""
        return x * F.hardsigmoid(self.excite(narrow))


class Twice(nn.Module):
    """x + x: an addition alone."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        return x + x


class Gate(nn.Module):
    """x * mean of x: a product alone, but for its gate."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        return x * x.mean((2, 3), keepdim=True)


def _activation(op: OpSpec) -> nn.Module:
    return nn.Hardswish() if op.arg("hs", 0) else nn.ReLU6()


def _plain_activation(op: OpSpec) -> list[nn.Module]:
    """Of what has none, where nothing is said."""
    if op.arg("unit", 0):
        return [nn.Hardsigmoid()]
    top = op.arg("relu", 0)
    return [nn.ReLU6() if top == 6 else nn.ReLU()] if top else []


def _conv_bn(cin: int, cout: int, k: int = 1, s: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(cin, cout, k, s, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout, BN_EPS, BN_MOMENTUM),
    ]


def _conv(op: OpSpec) -> nn.Sequential:
    k = op.arg("k", 1)
    conv = nn.Conv2d(
        op.cin, op.cout, k, op.arg("s", 1), op.arg("p", k // 2), groups=op.arg("g", 1), bias=False
    )
    act = _plain_activation(op) or ([] if op.arg("linear", 0) else [_activation(op)])
    return nn.Sequential(conv, nn.BatchNorm2d(op.cout, BN_EPS, BN_MOMENTUM), *act)


def _mbconv(op: OpSpec) -> nn.Sequential:
    mid, narrow = hidden(op), squeezed(op)
    expand = [] if mid == op.cin else [*_conv_bn(op.cin, mid), _activation(op)]
    return nn.Sequential(
        *expand,
        *_conv_bn(mid, mid, op.arg("k", 3), op.arg("s", 1), groups=mid),
        _activation(op),
        *([SqueezeExcitation(mid, narrow)] if narrow else []),
        *_conv_bn(mid, op.cout),
    )


def _fused_mbconv(op: OpSpec) -> nn.Sequential:
    mid = hidden(op)
    expand = _conv_bn(op.cin, mid, op.arg("k", 3), op.arg("s", 1))
    return nn.Sequential(*expand, _activation(op), *_conv_bn(mid, op.cout))


_BODIES: Mapping[str, Callable[[OpSpec], nn.Sequential]] = {
    "conv": _conv,
    "mbconv": _mbconv,
    "fused-mbconv": _fused_mbconv,
}


def body(op: OpSpec) -> nn.Sequential:
    """A block without its residual: what a supernet's choice puts beside its shortcut."""
    return _BODIES[op.kind](op)


def _block(op: OpSpec) -> nn.Module:
    return Residual(body(op)) if has_residual(op) else body(op)


def _classifier(op: OpSpec) -> nn.Module:
    pool, last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)], op.arg("h", 0)
    if not last:
        return nn.Sequential(*pool, nn.Linear(op.cin, op.cout))
    features = nn.Linear(op.cin, last)
    nn.init.kaiming_normal_(features.weight)  # no batch norm behind it makes up for small weights
    return nn.Sequential(*pool, features, _activation(op), nn.Linear(last, op.cout))


def _linear(op: OpSpec) -> nn.Module:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
    return nn.Sequential(*pool, nn.Linear(op.cin, op.cout), *_plain_activation(op))


def _add(op: OpSpec) -> nn.Module:
    return nn.Sequential(Twice(), *_plain_activation(op))


def _max_pool(op: OpSpec) -> nn.Module:
    """Not padded, so up to a row less: TFLite pads with zeros, right only behind a ReLU."""
    return nn.MaxPool2d(op.arg("k", 1), op.arg("s", 1))


_BUILDERS: Mapping[str, Callable[[OpSpec], nn.Module]] = {
    **dict.fromkeys(_BODIES, _block),
    "classifier": _classifier,
    "linear": _linear,
    "add": _add,
    "mul": lambda op: Gate(),
    "maxpool": _max_pool,
    "mean": lambda op: nn.AdaptiveAvgPool2d(1),
    "hswish": lambda op: nn.Hardswish(),
}


def initialised(module: nn.Module) -> nn.Module:
    """``module``, its convolutions drawn anew (He, fan out), its gates open."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
    for m in module.modules():
        if isinstance(m, SqueezeExcitation):
            nn.init.zeros_(m.excite.weight)
            # a convolution may lack a bias; this one has it
            nn.init.constant_(m.excite.bias, OPEN)  # type: ignore[arg-type]
    return module


def build(op: OpSpec) -> nn.Module:
    """The module of ``op``, fresh weights; (n, cin, size, size) -> (n, cout, ...).

    Raises CapabilityError for a kind that is a part of whole networks only.
    """
    if op.kind not in _BUILDERS:
        raise CapabilityError(f"'{op}' cannot be built alone; kinds: {', '.join(_BUILDERS)}")
    return initialised(_BUILDERS[op.kind](op))


@dataclass(frozen=True)
class _Product:
    """A convolution or matrix product inside an operator, ``out`` pixels a side behind it."""

    reads: int  # channels that one output is made of
    cout: int
    k: int = 1
    out: int = 1


def _products(op: OpSpec) -> list[_Product]:
    out = output_size(op)
    match op.kind:
        case "conv":
            return [_Product(op.cin // op.arg("g", 1), op.cout, op.arg("k", 1), out)]
        case "linear":
            return [_Product(op.cin, op.cout)]
        case "classifier":
            last = op.arg("h", 0)
            before = [_Product(op.cin, last)] if last else []
            return [*before, _Product(last or op.cin, op.cout)]
        case "mbconv":
            mid, narrow = hidden(op), squeezed(op)
            expand = [] if mid == op.cin else [_Product(op.cin, mid, 1, op.size)]
            gate = [_Product(mid, narrow), _Product(narrow, mid)] if narrow else []
            depthwise = _Product(1, mid, op.arg("k", 3), out)
            return [*expand, depthwise, *gate, _Product(mid, op.cout, 1, out)]
        case "fused-mbconv":
            mid = hidden(op)
            return [_Product(op.cin, mid, op.arg("k", 3), out), _Product(mid, op.cout, 1, out)]
    return []


def macs(op: OpSpec) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image.

    0 for a kind that is not built here, of an imported table.
    """
    return sum(p.out**2 * p.k**2 * p.reads * p.cout for p in _products(op))


def parameters(op: OpSpec) -> int:
    """Weights and biases that a device holds: batch norms are folded. 0 for a kind as of ``macs``.

    Bytes are 4 times as many in fp32; in int8 a bias still has 4.
    """
    return sum((p.k**2 * p.reads + 1) * p.cout for p in _products(op))


def biases(op: OpSpec) -> int:
    """Those among ``parameters``: one an output channel of each product."""
    return sum(p.cout for p in _products(op))


def activation_elements(op: OpSpec) -> int:
    """Numbers that one image needs at once: what a step reads, writes, or a later one still reads.

    A step is a node of the graph that is exported, so nothing is computed in place and ReLU6
    belongs to its convolution. The input counts, weights do not. 0 for a kind as of ``macs``.
    """
    before, after = op.cin * op.size**2, op.cout * output_size(op) ** 2
    hs = op.arg("hs", 0)
    match op.kind:
        case "conv":
            kept = before if has_residual(op) else 0
            return max(before + after, kept + 2 * after if kept or hs else 0)
        case "add":
            return 2 * before + after
        case "linear" | "mul" | "maxpool" | "mean" | "hswish":
            return before + after
        case "classifier":
            last = op.arg("h", 0)
            ends = [op.cin + last, 2 * last * hs, last + after] if last else [op.cin + after]
            return max(before + op.cin, *ends)
        case "mbconv":
            return _mbconv_elements(op, before, after)
        case "fused-mbconv":
            kept, wide = before if has_residual(op) else 0, hidden(op) * output_size(op) ** 2
            steps = [before + wide, kept + 2 * wide * hs, kept + wide + after]
            return max(*steps, kept + 2 * after if kept else 0)
    return 0


def _mbconv_elements(op: OpSpec, before: int, after: int) -> int:
    mid, narrow, hs = hidden(op), squeezed(op), op.arg("hs", 0)
    wide, deep = mid * op.size**2, mid * output_size(op) ** 2
    kept = before if has_residual(op) else 0
    steps = [kept + 2 * deep * hs, kept + deep + after]
    if mid == op.cin:
        steps += [before + deep]
    else:
        steps += [before + wide, kept + 2 * wide * hs, kept + wide + deep]
    if narrow:
        steps += [kept + deep + mid + narrow, kept + deep + mid + deep]
    if kept:
        steps += [kept + 2 * after]
    return max(steps)
