"""Forms of a module that nothing here reads, though the network in it may be: told beforehand."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

MOST_NESTED = 64  # modules in modules: Python ends at some 120
_WRAPPED: Mapping[str, str] = {
    "OptimizedModule": "torch.compile",
    "DataParallel": "DataParallel",
    "DistributedDataParallel": "DistributedDataParallel",
}


def wrapping(net: nn.Module) -> str | None:
    """Why ``net`` cannot be read as it is, and what to give instead; None where it can."""
    if not _ends(net):
        return (
            f"cannot export modules nested more than {MOST_NESTED} deep, or one that lies within "
            "itself; put layers side by side"
        )
    for name, m in net.named_modules():
        at = f" (at {name})" if name else ""
        if kind := _WRAPPED.get(type(m).__name__):
            return f"cannot export {kind}{at}; give the module itself, without it"
        if isinstance(m, torch.jit.ScriptModule):
            return f"cannot export a TorchScript program{at}; give the module that it was made of"
        own = (*m._parameters.values(), *m._buffers.values())
        if any(isinstance(t, UninitializedParameter | UninitializedBuffer) for t in own):
            return (
                f"cannot export a lazy {type(m).__name__}{at} without weights; call the network "
                "once with images, or say how many channels it reads"
            )
    return None


def _ends(net: nn.Module) -> bool:
    level = {id(net): net}
    for _ in range(MOST_NESTED):
        level = {id(child): child for m in level.values() for child in m.children()}
        if not level:
            return True
    return False
