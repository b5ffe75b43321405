"""Blocks of several widths in one: modules of the greatest, channels beyond the live one masked.

FBNetV2 (arXiv:2004.05565, sec. 3.1): the mask is the weighted sum of those of the live widths, so
gates get their gradient, and a pass costs the same however many widths there are. Under one width
of weight 1 every tensor does what its leading part does alone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas import ops
from edgenas.gates import Gated, Gates
from edgenas.spec import OpSpec


class Mask(Gated):
    """``x * sum over live k of value_k * 1[channel < widths[k]]``, k an option of ``choice``."""

    def __init__(self, choice: str, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.choice = choice
        within = torch.arange(channels) < torch.tensor(widths)[:, None]
        self.within: Tensor
        self.register_buffer("within", within, persistent=False)

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        gate = gates[self.choice]
        mask = (gate.value.to(x)[:, None] * self.within[list(gate.live)]).sum(0)
        return x * mask[:, None, None]


class Block(Gated):
    """``body``, a block without its residual, masked to ``forms``: one an option."""

    def __init__(self, choice: str, forms: Sequence[OpSpec], body: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.hidden, self.squeezed, self.out = (
            Mask(choice, widths, max(widths))
            for widths in (
                [ops.hidden(o) for o in forms],
                [ops.squeezed(o) for o in forms],
                [o.cout for o in forms],
            )
        )

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, cin, h, w) -> (n, cout, h / s, w / s), both of the greatest width."""
        last = max(i for i, m in enumerate(self.body) if isinstance(m, nn.Conv2d))
        spread = [*self.body.children()][:last]  # nothing in a plain convolution
        gate = spread.pop() if spread and isinstance(spread[-1], ops.SqueezeExcitation) else None
        for layer in spread:
            x = layer(x)
        x = self.hidden(x, gates) if spread else x
        if isinstance(gate, ops.SqueezeExcitation):
            x = gate.gated(x, self.squeezed(gate.squeezed(x), gates))
        # nn.Module.__call__ returns Any
        return self.out(self.body[last:](x), gates)  # type: ignore[no-any-return]


class Shortcut(Gated):
    """The residual of a block that only some of its ``forms`` have."""

    def __init__(self, choice: str, forms: Sequence[OpSpec]) -> None:
        super().__init__()
        self.cout = max(o.cout for o in forms)
        passed = [o.cin if ops.has_residual(o) else 0 for o in forms]
        self.mask = Mask(choice, passed, max(o.cin for o in forms))

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, cin, h, w) -> (n, cout, h, w), both of the greatest width."""
        y: Tensor = self.mask(x, gates)
        return F.pad(y, (0, 0, 0, 0, 0, self.cout - y.shape[1]))


def leading(large: Mapping[str, Tensor], small: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of each tensor of ``large`` a copy of the first part, as long as that of ``small``."""
    return {
        name: large[name][tuple(slice(n) for n in like.shape)].clone()
        for name, like in small.items()
    }
