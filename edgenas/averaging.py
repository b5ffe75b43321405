"""What a training ends with: its last weights, or an average over its steps."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(Protocol):
    """Follows a network that is being trained."""

    def update(self) -> None:
        """Take in the weights after a step."""
        ...

    def shown(self) -> AbstractContextManager[None]:
        """The average stands in the network meanwhile; then what is being trained again."""
        ...

    def settle(self) -> None:
        """Leave the average in the network: training is over."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """What a checkpoint has to hold."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> object:
        """Inverse of ``state_dict``."""
        ...


class Last:
    """No average: the weights as they are."""

    def update(self) -> None:
        """Nothing to do."""

    def shown(self) -> AbstractContextManager[None]:
        """As it is."""
        return contextlib.nullcontext()

    def settle(self) -> None:
        """Nothing to do."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to do."""


class Exponential:
    """Exponential moving average: a step's weights fade by ``decay`` with every step after it.

    Early steps fade faster, by (1 + n) / (10 + n) after n of them, so that the first weights,
    which are random, do not stay. Batch norm statistics are averaged along: they are running
    means already, and the weights that they are averaged over lie close together; taking them
    anew would cost passes over the data for the same accuracy.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self._net = net
        self._average = AveragedModel(net, multi_avg_fn=_ramped(decay), use_buffers=True)

    def update(self) -> None:
        """One step further."""
        self._average.update_parameters(self._net)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The average in the network."""
        own = {k: v.clone() for k, v in self._net.state_dict().items()}
        self.settle()
        try:
            yield
        finally:
            self._net.load_state_dict(own)

    def settle(self) -> None:
        """The average in the network, for good."""
        self._net.load_state_dict(self._average.module.state_dict())

    def state_dict(self) -> Mapping[str, Tensor]:
        """The average, and of how many steps it is."""
        state: Mapping[str, Tensor] = self._average.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state_dict``. Raises RuntimeError for another network."""
        self._average.load_state_dict(state)


def average(net: nn.Module, decay: float) -> Average:
    """Of the weights of ``net``; a ``decay`` of 0 is none."""
    return Exponential(net, decay) if decay else Last()


Tensors = tuple[Tensor, ...] | list[Tensor]


def _ramped(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    def update(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            share = min(decay, (1 + int(steps)) / (10 + int(steps)))
            # torch leaves what it returns untyped
            get_ema_multi_avg_fn(share)(averaged, current, steps)  # type: ignore[no-untyped-call]
        else:  # counters
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    return update
