"""What a block may be: MBConv, Fused-MBConv or a plain convolution, before it has a shape."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from edgenas import ops
from edgenas.space import narrowed
from edgenas.spec import OpSpec

ACTIVATIONS = {"relu6": "", "hard-swish": "hs"}  # as a label says it
KINDS = {"mbconv": "", "fused-mbconv": "fused-", "conv": "conv-"}


def hard_swish(activation: str) -> dict[str, int]:
    """The argument of an operator that has ``activation``."""
    return {"hs": 1} if activation == "hard-swish" else {}


@dataclass(frozen=True)
class Block:
    """An option of a choice. A convolution has ``expansion`` 1, ``se`` is 0 for no gate."""

    kind: str
    kernel: int
    expansion: int
    se: int
    activation: str

    @property
    def label(self) -> str:
        """``k3e6``, ``k5e3se4hs``, ``fused-k3e6``, ``conv-k3hs``."""
        expansion = "" if self.kind == "conv" else f"e{self.expansion}"
        gate = f"se{self.se}" if self.se else ""
        kind, activation = KINDS[self.kind], ACTIVATIONS[self.activation]
        return f"{kind}k{self.kernel}{expansion}{gate}{activation}"

    def op(self, cin: int, cout: int, size: int, stride: int) -> OpSpec:
        """What it executes at this place."""
        hs = hard_swish(self.activation)
        if self.kind == "conv":
            residual = {"res": 1} if stride == 1 and cin == cout else {}
            return OpSpec.of("conv", cin, cout, size, k=self.kernel, s=stride, **residual, **hs)
        gate = {"se": self.se} if self.se else {}
        e, k = self.expansion, self.kernel
        return OpSpec.of(self.kind, cin, cout, size, e=e, k=k, s=stride, **gate, **hs)


def most_blocks(
    kinds: Sequence[str], kernels: int, dense_kernels: int, expansions: int, ses: int,
    activations: int,
) -> int:  # fmt: skip
    """At most so many blocks does ``all_blocks`` give of so many values."""
    each = {
        "mbconv": kernels * expansions * ses,
        "fused-mbconv": dense_kernels * expansions,
        "conv": dense_kernels,
    }
    return activations * sum(each[kind] for kind in kinds)


def all_blocks(
    kinds: Sequence[str], kernels: Sequence[int], dense_kernels: Sequence[int],
    expansions: Sequence[int], ses: Sequence[int], activations: Sequence[str],
) -> tuple[Block, ...]:  # fmt: skip
    """All that ``kinds`` can be, each once.

    A Fused-MBConv of expansion 1 is a plain convolution (EfficientNetV2, arXiv:2104.00298, and
    its reference code). Neither has a gate, as there.
    """
    found: list[Block] = []
    for kind in kinds:
        if kind == "mbconv":
            axes = itertools.product(kernels, expansions, ses, activations)
            found += [Block(kind, *values) for values in axes]
            continue
        wide = expansions if kind == "fused-mbconv" else (1,)
        for k, e, act in itertools.product(dense_kernels, wide, activations):
            found.append(Block("conv" if e == 1 else kind, k, e, 0, act))
    return tuple(dict.fromkeys(found))


def narrower(op: OpSpec) -> tuple[int, ...]:
    """Hidden channels of ``op`` that may stay, all first; where nothing can be cut, only those."""
    full = ops.hidden(op) if ops.has_hidden(op) else 0
    return narrowed(full, above=op.cin) if full > op.cin else (full,)


def of_hidden(op: OpSpec, hidden: int) -> OpSpec:
    """``op``, narrower inside."""
    args = {name: value for name, value in op.args if name not in ("e", "h")}
    width = {"e": hidden // op.cin} if hidden % op.cin == 0 else {"h": hidden}
    return OpSpec.of(op.kind, op.cin, op.cout, op.size, **args, **width)
