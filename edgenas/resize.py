"""Images at another size: the one filter for a supernet and for what is trained on its own."""

from torch import Tensor
from torch.nn import functional as F


def resized(x: Tensor, size: int) -> Tensor:
    """(n, c, h, w) floats -> (n, c, size, size), bilinear, antialiased; ``x`` where it fits."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True)
