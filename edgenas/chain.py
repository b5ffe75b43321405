"""Networks that are a chain: stem, blocks, head, one after the other."""

from collections.abc import Sequence

from torch import Tensor, nn

from edgenas.gates import Gates


class Network(nn.Module):
    """One layer an operator; (n, c, h, w) -> (n, classes)."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> logits (n, classes)."""
        y: Tensor = self.layers(x)
        return y


class Supernet(nn.Module):
    """As ``Network``, each searched block a choice; called as ``supernet(x, gates)``.

    ``mixed``: one module a choice, called as ``module(x, gates)``.
    """

    def __init__(self, before: nn.Module, mixed: Sequence[nn.Module], after: nn.Module) -> None:
        super().__init__()
        self.before, self.mixed, self.after = before, nn.ModuleList(mixed), after

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, c, h, w) -> logits (n, classes)."""
        x = self.before(x)
        for layer in self.mixed:
            x = layer(x, gates)
        y: Tensor = self.after(x)
        return y
