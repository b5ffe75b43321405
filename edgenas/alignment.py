"""Weights that the options of one choice start with."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas import ops

QUIET = 0.1  # scale of a new branch beside its shortcut


def align(bodies: Sequence[nn.Sequential], quiet: bool) -> None:
    """Draw the weights of one choice: every option starts as a part of the largest.

    What follows then sees much the same features whichever option is live; ``quiet`` beside a
    shortcut. With independent weights, three epochs teach subnets half as much. A dense convolution
    starts as the product of those of the largest MBConv that stand in its place.
    """
    convolutions = [[m for m in b if isinstance(m, nn.Conv2d)] for b in bodies]
    largest = max(convolutions, key=_extent)
    ops.initialised(nn.ModuleList(largest))
    _align_gates([m for b in bodies for m in b if isinstance(m, ops.SqueezeExcitation)])
    source = [c.weight.detach().clone() for c in largest]
    dense = _product(source) if _separable(largest) else source
    with torch.no_grad():
        for body, own in zip(bodies, convolutions, strict=True):
            if _separable(own):
                _start_separable(own, source)
            else:
                _start_dense(own, dense)
            if quiet:
                last = [m for m in body if isinstance(m, nn.BatchNorm2d)][-1]
                nn.init.constant_(last.weight, QUIET)


def _separable(convolutions: Sequence[nn.Conv2d]) -> bool:
    """Whether they are those of an MBConv."""
    return len(convolutions) > 1 and convolutions[-2].groups == convolutions[-1].in_channels


def _extent(convolutions: Sequence[nn.Conv2d]) -> tuple[int, ...]:
    """An MBConv before what is dense, which can be made of it, but not the other way round."""
    spatial, last = convolutions[-2:][0], convolutions[-1]
    return _separable(convolutions), len(convolutions), last.in_channels, spatial.kernel_size[0]


def _start_separable(own: Sequence[nn.Conv2d], source: Sequence[Tensor]) -> None:
    """``source``: weights of the largest MBConv, three, or two where nothing expands."""
    hidden = own[-1].in_channels
    own[-1].weight.copy_(source[-1][:, :hidden])
    own[-2].weight.copy_(_middle(source[-2][:hidden], own[-2].kernel_size[0]))
    if len(own) == len(source) == 3:
        own[0].weight.copy_(source[0][:hidden])


def _product(source: Sequence[Tensor]) -> list[Tensor]:
    """Of an MBConv, what does the same with a dense convolution (h, c, k, k) and a projection."""
    *expand, spatial, project = source
    spread = expand[0] if expand else torch.eye(len(spatial))[:, :, None, None]
    return [spread * spatial, project]


def _start_dense(own: Sequence[nn.Conv2d], source: Sequence[Tensor]) -> None:
    """``source``: dense weights and a projection, or dense ones alone; scaled as if drawn."""
    if len(own) < len(source):
        source = [torch.einsum("oh,hcij->ocij", source[1][:, :, 0, 0], source[0])]
    for conv, weight in zip(own, source, strict=True):
        part = _middle(weight[: conv.out_channels, : conv.in_channels], conv.kernel_size[0])
        drawn = math.sqrt(2 / conv.weight[:, 0].numel())  # He, fan out
        conv.weight.copy_(part * drawn / part.square().mean().sqrt())


def _middle(weight: Tensor, kernel: int) -> Tensor:
    """``weight`` (..., k, k) as one of ``kernel``: its middle, or zeros around it."""
    rim = (kernel - weight.shape[-1]) // 2
    return F.pad(weight, (rim, rim, rim, rim))


def _align_gates(gates: Sequence[ops.SqueezeExcitation]) -> None:
    """Shared channels are squeezed alike; open gates then leave every option as its sibling."""
    for gate in gates:
        ops.initialised(gate)
    if gates:
        largest = max(gates, key=lambda g: g.squeeze.weight.shape)
        weight, bias = (p.detach().clone() for p in largest.squeeze.parameters())
        for gate in gates:
            narrow, channels = gate.squeeze.weight.shape[:2]
            gate.squeeze.weight.data.copy_(weight[:narrow, :channels])
            # a convolution may lack a bias; this one has it
            gate.squeeze.bias.data.copy_(bias[:narrow])  # type: ignore[union-attr]
