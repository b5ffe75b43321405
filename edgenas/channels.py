"""Channels that can only be cut together, wherever in a network they are made and read."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import nn


@dataclass(frozen=True)
class Channels:
    """Layers by their names: ``makers`` have these ``count`` as outputs, ``readers`` as inputs.

    ``root`` is one of the makers; ``norms`` are the batch norms between. A depthwise convolution
    is a maker and a reader.
    """

    root: str
    count: int
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...]


def coupled(net: nn.Module, input: tuple[int, int, int]) -> list[Channels]:
    """All of ``net`` in order of execution, those of its outputs too.

    Torch-Pruning's dependency graph (Fang et al. 2023, arXiv:2301.12900, sec. 3.2) says what is
    coupled.
    """
    net = copy.deepcopy(net).requires_grad_(True)  # what is frozen is coupled too
    graph, names = _dependencies(net, input), {m: name for name, m in net.named_modules()}
    found = []
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        makers, readers, norms = dict[str, None](), dict[str, None](), dict[str, None]()
        for dependency, _ in group:
            module, cuts = dependency.target.module, dependency.handler
            if isinstance(module, nn.BatchNorm2d):
                norms[names[module]] = None
            elif isinstance(module, nn.Conv2d | nn.Linear):
                depthwise = isinstance(module, nn.Conv2d) and (
                    1 < module.groups == module.in_channels == module.out_channels
                )
                if depthwise or graph.is_out_channel_pruning_fn(cuts):
                    makers[names[module]] = None
                if depthwise or graph.is_in_channel_pruning_fn(cuts):
                    readers[names[module]] = None
        root = group[0][0].target.module
        count = graph.get_out_channels(root)
        found.append(Channels(names[root], count, tuple(makers), tuple(readers), tuple(norms)))
    return found


def cut(
    net: nn.Module, input: tuple[int, int, int], keep: Mapping[str, Sequence[int]]
) -> nn.Module:
    """A copy of ``net`` that has only these channels; ``keep`` by the root of what is coupled."""
    net = copy.deepcopy(net)
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    net.requires_grad_(True)
    graph, modules = _dependencies(net, input), dict(net.named_modules())
    for root, stay in keep.items():
        layer = modules[root]
        prune = (
            tp.prune_conv_out_channels
            if isinstance(layer, nn.Conv2d)
            else tp.prune_linear_out_channels
        )
        drop = sorted(set(range(graph.get_out_channels(layer))) - set(stay))
        if drop:
            graph.get_pruning_group(layer, prune, drop).prune()
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
    return net


def _dependencies(net: nn.Module, input: tuple[int, int, int]) -> tp.DependencyGraph:
    with torch.inference_mode(False), torch.enable_grad():  # it follows what autograd saw
        return tp.DependencyGraph().build_dependency(net, torch.zeros(1, *input))
