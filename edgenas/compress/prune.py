"""Structured pruning: a network with the channels of a plan, and the weights that stay."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edgenas import channels, ops
from edgenas.channels import Channels, coupled
from edgenas.compress.plan import Plan
from edgenas.space import Prunable, Space
from edgenas.spec import OpSpec


def cuttable(space: Prunable, net: nn.Module, layers: Sequence[OpSpec]) -> dict[str, Channels]:
    """What ``space`` lets be cut in ``net``, of ``layers``, by the name that it has there."""
    every = coupled(net, ops.input_shape(layers))
    return {name: next(c for c in every if name in c.makers) for name in space.cuts(layers)}


def cut(net: nn.Module, space: Space, plan: Plan) -> nn.Module:
    """A new network of ``plan.ops`` with the weights that stay.

    A squeeze-and-excitation is narrowed as ``plan.ops`` say, to its strongest channels.
    """
    smaller, input = space.assemble(plan.ops), ops.input_shape(plan.ops)
    net = channels.cut(net, input, plan.keep)
    if narrower := dict(_gates(net, smaller)):
        net = channels.cut(net, input, narrower)
    smaller.load_state_dict(net.state_dict())
    return smaller


def _gates(net: nn.Module, smaller: nn.Module) -> Mapping[str, Sequence[int]]:
    """Squeezed channels that stay, where ``smaller`` has fewer."""
    wanted = {n: m for n, m in smaller.named_modules() if isinstance(m, ops.SqueezeExcitation)}
    return {
        f"{name}.squeeze": sorted(_strength(m).topk(count).indices.tolist())
        for name, m in net.named_modules()
        if isinstance(m, ops.SqueezeExcitation)
        and (count := wanted[name].squeeze.out_channels) < m.squeeze.out_channels
    }


def _strength(gate: ops.SqueezeExcitation) -> torch.Tensor:
    """Of every squeezed channel: weights into it times weights out of it, as ReLU keeps a scale."""
    bias = gate.squeeze.bias
    assert bias is not None
    into = torch.cat([gate.squeeze.weight.detach().flatten(1), bias.detach()[:, None]], 1)
    return into.square().sum(1) * gate.excite.weight.detach().flatten(1).square().sum(0)
