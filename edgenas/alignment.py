"""Weights that the options of one choice start with."""

from collections.abc import Sequence

import torch
from torch import nn

from edgenas import ops

QUIET = 0.1  # scale of a new branch beside its shortcut


def align(bodies: Sequence[nn.Sequential], quiet: bool) -> None:
    """Draw the weights of one choice: every option starts as a part of the largest.

    What follows then sees much the same features whichever option is live; ``quiet`` beside a
    shortcut. With independent weights, three epochs teach subnets half as much.
    """
    convolutions = [[m for m in b if isinstance(m, nn.Conv2d)] for b in bodies]
    largest = max(convolutions, key=lambda c: (c[-1].in_channels, c[-2].kernel_size))
    ops.initialised(nn.ModuleList(largest))
    _align_gates([m for b in bodies for m in b if isinstance(m, ops.SqueezeExcitation)])
    source = [c.weight.detach().clone() for c in largest]
    with torch.no_grad():
        for body, own in zip(bodies, convolutions, strict=True):
            hidden, kernel = own[-1].in_channels, own[-2].kernel_size[0]
            rim = (source[-2].shape[-1] - kernel) // 2
            middle = slice(rim, rim + kernel)
            own[-1].weight.copy_(source[-1][:, :hidden])
            own[-2].weight.copy_(source[-2][:hidden, :, middle, middle])
            if len(own) == len(source) == 3:
                own[0].weight.copy_(source[0][:hidden])
            if quiet:
                # torch types what a module holds as a tensor or a module
                nn.init.constant_(body[-1].weight, QUIET)  # type: ignore[arg-type]


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
