"""Whether anything still comes of a training, and which of its weights are the best."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from edgenas import noise

GAIN = 0.005  # share by which a loss has to fall


class Watch:
    """Told of each epoch: its loss and, where images judge, which of them are right.

    An epoch brings something where its loss lies ``GAIN`` below that of the last one that did so,
    or more images are right than ever.
    """

    def __init__(self) -> None:
        self._least, self._idle, self._epochs, self._at = np.inf, 0, 0, 0
        self._best: dict[str, Tensor] = {}
        self._right = self._last = torch.zeros(0, dtype=torch.bool)

    @property
    def idle(self) -> int:
        """Epochs that brought nothing, since the last that did."""
        return self._idle

    def tell(self, loss: float, right: np.ndarray | None, net: nn.Module) -> None:
        """``right``: (n,) bool, by the weights that are in ``net`` now."""
        self._epochs += 1
        gained = loss < (1 - GAIN) * self._least
        if gained:  # many small falls are a large one
            self._least = loss
        if right is not None:
            self._last = torch.from_numpy(right)
            if not self._best or self._last.sum() > self._right.sum():
                gained, self._right, self._at = True, self._last, self._epochs
                self._best = {k: v.detach().clone() for k, v in net.state_dict().items()}
        self._idle = 0 if gained else self._idle + 1

    def settle(self, net: nn.Module) -> int:
        """Leave the best weights in ``net`` where those it ended with are worse beyond noise.

        The epoch whose weights stay. The best is picked from all epochs, so the level of the test
        is divided by them.
        """
        worse = self._best and noise.fewer(self._last.numpy(), self._right.numpy(), of=self._epochs)
        if worse:
            net.load_state_dict(self._best)
        return self._at if worse else self._epochs

    def state_dict(self) -> Mapping[str, Tensor]:
        """What a checkpoint has to hold."""
        kept = [self._least, self._idle, self._epochs, self._at]
        numbers = torch.tensor(kept, dtype=torch.float64)
        best = {f"best.{k}": v for k, v in self._best.items()}
        return {"numbers": numbers, "right": self._right, "last": self._last.clone(), **best}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state_dict``. Raises LookupError or ValueError."""
        self._least, *counts = state["numbers"].tolist()
        self._idle, self._epochs, self._at = map(int, counts)
        self._right, self._last = state["right"], state["last"]
        start = "best."
        self._best = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
