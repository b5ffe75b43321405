"""Structured pruning of hidden channels, to milliseconds read from the table.

Each MBConv may keep a share of its hidden channels. Which share is a multiple-choice knapsack:
the importance that is lost against the milliseconds that the table says are won.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgenas import ops
from edgenas.budgets import Latency, Row
from edgenas.errors import ImpossibleBudget
from edgenas.project import knapsack
from edgenas.space import Space
from edgenas.spec import OpSpec
from edgenas.task import Task

SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2)
ROUND = 8  # kernels work on vectors of eight


@dataclass(frozen=True)
class Plan:
    """What is left: operators, and for each pruned layer the hidden channels that stay."""

    ops: tuple[OpSpec, ...]
    keep: Mapping[int, tuple[int, ...]]


def widths(op: OpSpec) -> tuple[OpSpec, ...]:
    """``op`` itself, then narrower forms of it; only ``op`` where nothing can be cut.

    A squeeze-and-excitation narrows with its block: its key keeps the divisor.
    """
    full = ops.hidden(op) if op.kind == "mbconv" else 0
    if full <= op.cin:
        return (op,)
    narrower = {round(full * s / ROUND) * ROUND for s in SHARES}
    return (
        op,
        *(
            ops.mbconv(
                op.cin, op.cout, op.size,
                k=op.arg("k", 3), s=op.arg("s", 1), hidden=h,
                se=op.arg("se", 0), hs=bool(op.arg("hs", 0)),
            )
            for h in sorted(narrower, reverse=True) if op.cin < h < full
        ),
    )  # fmt: skip


def importance(
    net: nn.Module, layers: Sequence[OpSpec], task: Task, batches: int, size: int, seed: int
) -> dict[int, Tensor]:
    """Of every hidden channel: the squared loss change, to first order, if it were cut.

    Molchanov et al. 2019 (arXiv:1906.10771), sec. 3.1, gates on the depthwise batch norm:
    I_c = (dL/dgamma_c gamma_c + dL/dbeta_c beta_c)^2, summed over batches of the train part.
    """
    norms = {
        i: _depthwise_norm(_layers(net)[i]) for i, op in enumerate(layers) if len(widths(op)) > 1
    }
    scores = {i: torch.zeros(bn.num_features) for i, bn in norms.items()}
    net.eval()
    for number, (x, y) in enumerate(task.batches("train", size, seed, augmented=False)):
        if number == batches:
            break
        params = [p for bn in norms.values() for p in (bn.weight, bn.bias)]
        grads = torch.autograd.grad(task.loss(net(x), y), params)
        for (i, bn), dw, db in zip(norms.items(), grads[::2], grads[1::2], strict=True):
            scores[i] += (dw * bn.weight.detach() + db * bn.bias.detach()) ** 2
    return scores


def plan(
    layers: Sequence[OpSpec], scores: Mapping[int, Tensor], budgets: Sequence[Latency]
) -> Plan:
    """The widths that lose the least importance and fit every budget, exactly, without margin.

    Raises ImpossibleBudget where even the narrowest do not fit.
    """
    if all(b.predictor.p50_ms(layers) <= b.limit_ms for b in budgets):
        return Plan(tuple(layers), {})
    options = [widths(op) for op in layers]
    values = [
        [-_lost(scores[i], ops.hidden(o)) if i in scores else 0.0 for o in row]
        for i, row in enumerate(options)
    ]
    rows = [
        Row(
            [[b.predictor.cost_ms(o) for o in row] for row in options],
            b.limit_ms - b.predictor.fixed_ms,
        )
        for b in budgets
    ]
    picks = knapsack(values, rows)
    if picks is None:
        raise ImpossibleBudget(
            "pruning cannot reach "
            + ", ".join(f"{b.limit_ms:.4g} ms on {b.device}" for b in budgets)
            + ": every block is at its narrowest"
        )
    chosen = tuple(row[k] for row, k in zip(options, picks, strict=True))
    keep = {
        i: tuple(sorted(scores[i].topk(ops.hidden(new)).indices.tolist()))
        for i, (old, new) in enumerate(zip(layers, chosen, strict=True))
        if new != old
    }
    return Plan(chosen, keep)


def cut(net: nn.Module, space: Space, plan: Plan) -> nn.Module:
    """A new network of ``plan.ops`` with the weights that stay."""
    net = copy.deepcopy(net)
    example = torch.zeros(1, *ops.input_shape(plan.ops))
    graph = tp.DependencyGraph().build_dependency(net, example)
    for i, stay in plan.keep.items():
        modules = list(_layers(net)[i].modules())
        expand = next(m for m in modules if isinstance(m, nn.Conv2d))
        drop = sorted(set(range(expand.out_channels)) - set(stay))
        graph.get_pruning_group(expand, tp.prune_conv_out_channels, drop).prune()
        for gate in (m for m in modules if isinstance(m, ops.SqueezeExcitation)):
            surplus = gate.squeeze.out_channels - ops.squeezed(plan.ops[i])
            if drop := sorted(_strength(gate).argsort()[:surplus].tolist()):
                graph.get_pruning_group(gate.squeeze, tp.prune_conv_out_channels, drop).prune()
    smaller = space.assemble(plan.ops)
    smaller.load_state_dict(net.state_dict())
    return smaller


def _layers(net: nn.Module) -> nn.Sequential:
    layers = net.layers
    assert isinstance(layers, nn.Sequential)
    return layers


def _depthwise_norm(layer: nn.Module) -> nn.BatchNorm2d:
    modules = [m for m in layer.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    at = next(i for i, m in enumerate(modules) if isinstance(m, nn.Conv2d) and m.groups > 1)
    norm = modules[at + 1]
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _strength(gate: ops.SqueezeExcitation) -> Tensor:
    """Of every squeezed channel: weights into it times weights out of it, as ReLU keeps a scale."""
    bias = gate.squeeze.bias
    assert bias is not None
    into = torch.cat([gate.squeeze.weight.detach().flatten(1), bias.detach()[:, None]], 1)
    return into.square().sum(1) * gate.excite.weight.detach().flatten(1).square().sum(0)


def _lost(scores: Tensor, width: int) -> float:
    return float(scores.sum() - scores.topk(width).values.sum())
