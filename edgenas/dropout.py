"""Dropout before the last layer of whatever network, which is not changed for it."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def dropping(net: nn.Module, share: float) -> Iterator[None]:
    """What the last fully connected layer of ``net`` takes is dropped in training, meanwhile.

    arXiv:1207.0580; a ``share`` of 0, or a network without such a layer, drops nothing.
    """
    heads = [m for m in net.modules() if isinstance(m, nn.Linear)]
    if not share or not heads:
        yield
        return

    def drop(layer: nn.Module, taken: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (nn.functional.dropout(taken[0], share, layer.training), *taken[1:])

    hook = heads[-1].register_forward_pre_hook(drop)
    try:
        yield
    finally:
        hook.remove()
