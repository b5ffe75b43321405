"""The macro space of ProxylessNAS (arXiv:1812.00332, sec. 4.2): chains of MBConv blocks."""

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgenas import ops
from edgenas.chain import Network, Supernet
from edgenas.errors import UsageError
from edgenas.gates import Gates, Mix
from edgenas.registry import nearest
from edgenas.space import ChoiceSpace
from edgenas.spec import Architecture, Choice, OpSpec
from edgenas.validate import construct

__all__ = ["Mobile"]

_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {  # 28 to 32 px, trains on two CPU cores in minutes
        "stem": 16, "stem_stride": 2, "first": 16,
        "widths": (24, 40, 64), "depths": (3, 3, 3), "strides": (2, 2, 1), "head": 192,
    },
    "small": {  # 28 to 32 px, for a GPU or a patient CPU
        "stem": 16, "stem_stride": 1, "first": 16,
        "widths": (24, 40, 80), "depths": (3, 3, 3), "strides": (2, 2, 2), "head": 256,
    },
    "proxyless": {  # 224 px, as in the paper
        "stem": 32, "stem_stride": 2, "first": 16,
        "widths": (24, 40, 80, 96, 192, 320), "depths": (4, 4, 4, 4, 4, 1),
        "strides": (2, 2, 2, 1, 2, 1), "head": 1280,
    },
}  # fmt: skip
_CIFAR = {"resolution": 32, "channels": 3, "classes": 10}
_INPUTS: Mapping[str, Mapping[str, int]] = {  # what a preset was made for, where no task says more
    "tiny": _CIFAR,
    "small": _CIFAR,
    "proxyless": {"resolution": 224, "channels": 3, "classes": 1000},
}


QUIET = 0.1  # scale of a new branch beside its shortcut


class _Mixed(nn.Module):
    """One choice and its shortcut, if shapes allow one."""

    def __init__(self, mixed: nn.Module, shortcut: bool) -> None:
        super().__init__()
        self.mixed = mixed
        self.shortcut = shortcut

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, cin, h, w) -> (n, cout, h / s, w / s)."""
        y: Tensor = self.mixed(x, gates)
        return x + y if self.shortcut else y


@dataclass(frozen=True)
class _Position:
    """Where a choice stands: the shapes that every option shares."""

    choice: str
    cin: int
    cout: int
    size: int
    stride: int

    @property
    def shortcut(self) -> bool:
        return self.stride == 1 and self.cin == self.cout


@dataclass(frozen=True)
class Mobile(ChoiceSpace):
    """MBConv of kernel x expansion in every block, and skip where shapes allow one.

    ``resolution`` px, ``channels`` in, ``classes`` out; ``widths``, ``depths``, ``strides``: one
    entry a stage. ``preset`` fills what is not given.
    """

    resolution: int
    channels: int
    classes: int
    stem: int
    stem_stride: int
    first: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...]
    head: int
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (3, 6)
    activation: str = "relu6"

    presets: ClassVar = _PRESETS

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.strides) > 0:
            raise UsageError(
                f"space mobile: widths, depths and strides need one entry a stage, not "
                f"{len(self.widths)}, {len(self.depths)} and {len(self.strides)}"
            )
        if self.activation not in ("relu6", "hard-swish"):
            raise UsageError(
                f"space mobile: activation is 'relu6' or 'hard-swish', not {self.activation!r}"
            )
        numbers = (
            *(self.resolution, self.channels, self.stem, self.stem_stride, self.first, self.head),
            *(*self.widths, *self.depths, *self.strides, *self.expansions),
        )
        if min(numbers) < 1 or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise UsageError("space mobile: sizes must be positive, kernels odd")
        if max(numbers) > 100_000 or self.resolution > 4096 or self.classes > 1_000_000:
            raise UsageError("space mobile: at most 4096 px, 100000 channels, 1000000 classes")
        if self.classes < 2:
            raise UsageError(f"space mobile: {self.classes} class; a classifier needs two")
        if len(set(itertools.product(self.kernels, self.expansions))) < 2:
            raise UsageError("space mobile: one kernel and one expansion leave nothing to search")

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> "Mobile":
        """Raises UsageError that names the key."""
        fields = dict(settings)
        preset = fields.pop("preset", "tiny")
        if preset not in _PRESETS:
            known = list(_PRESETS)
            raise UsageError(f"space mobile: no preset {preset!r}.{nearest(str(preset), known)}")
        return construct(cls, {**_INPUTS[preset], **_PRESETS[preset], **fields}, "space mobile")

    def describe(self) -> dict[str, Any]:
        """Every field, and ``kind``."""
        return {"kind": "mobile", **json.loads(json.dumps(asdict(self)))}

    @cached_property
    def id(self) -> str:
        """``mobile-28x1-<hash of the fields>``."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()
        return f"mobile-{self.resolution}x{self.channels}-{digest[:6]}"

    @property
    def input(self) -> tuple[int, int, int]:
        """(channels, resolution, resolution)."""
        return (self.channels, self.resolution, self.resolution)

    @cached_property
    def _positions(self) -> tuple[_Position, ...]:
        size = ops.output_size(self._before[-1])
        cin, out = self.first, []
        stages = zip(self.widths, self.depths, self.strides, strict=True)
        for stage, (width, depth, stride) in enumerate(stages, 1):
            for block in range(1, depth + 1):
                s = stride if block == 1 else 1
                out.append(_Position(f"s{stage}b{block}", cin, width, size, s))
                cin, size = width, -(-size // s)
        return tuple(out)

    @cached_property
    def _before(self) -> tuple[OpSpec, OpSpec]:
        act = self._act
        stem = OpSpec.of(
            "conv", self.channels, self.stem, self.resolution, k=3, s=self.stem_stride, **act
        )
        size = ops.output_size(stem)
        return stem, OpSpec.of("mbconv", self.stem, self.first, size, k=3, s=1, e=1, **act)

    @cached_property
    def _after(self) -> tuple[OpSpec, OpSpec]:
        last = self._positions[-1]
        size = -(-last.size // last.stride)
        return (
            OpSpec.of("conv", last.cout, self.head, size, k=1, s=1, **self._act),
            OpSpec.of("classifier", self.head, self.classes, size),
        )

    @property
    def _act(self) -> dict[str, int]:
        return {"hs": 1} if self.activation == "hard-swish" else {}

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """``s<stage>b<block>``: options ``k<kernel>e<expansion>``, and ``skip`` where it fits."""
        labels = tuple(f"k{k}e{e}" for k, e in itertools.product(self.kernels, self.expansions))
        return tuple(
            Choice(p.choice, (*labels, "skip") if p.shortcut else labels) for p in self._positions
        )

    def option_ops(self, choice: str) -> tuple[tuple[OpSpec, ...], ...]:
        """What each option of ``choice`` executes; nothing for skip."""
        p = next(p for p in self._positions if p.choice == choice)
        blocks = tuple(
            (OpSpec.of("mbconv", p.cin, p.cout, p.size, k=k, e=e, s=p.stride, **self._act),)
            for k, e in itertools.product(self.kernels, self.expansions)
        )
        return (*blocks, ()) if p.shortcut else blocks

    def fixed_ops(self) -> tuple[OpSpec, ...]:
        """What every architecture executes: stem, first block, head."""
        return self._before + self._after

    def ops(self, arch: Architecture) -> tuple[OpSpec, ...]:
        """Stem, first block, picked blocks, head convolution, classifier."""
        self.check(arch)
        picked = (self.option_ops(c.name)[arch.index(c.name)] for c in self.choices)
        return (*self._before, *itertools.chain.from_iterable(picked), *self._after)

    def vocabulary(self) -> frozenset[OpSpec]:
        """All of ``fixed_ops`` and ``option_ops``."""
        options = (o for c in self.choices for o in self.option_ops(c.name))
        return frozenset(self.fixed_ops()) | frozenset(itertools.chain.from_iterable(options))

    def build(self, arch: Architecture) -> nn.Module:
        """A ``Network`` with fresh weights, one layer an operator."""
        return self.assemble(self.ops(arch))

    def assemble(self, ops_: Sequence[OpSpec]) -> nn.Module:
        """A ``Network`` of ``ops_``, fresh weights."""
        return Network([ops.build(o) for o in ops_])

    def supernet(self, mix: Mix) -> nn.Module:
        """All options of all choices; ``mix`` puts those of one choice together."""
        mixed = [
            _Mixed(mix(c.name, self._branches(c.name, p.shortcut)), p.shortcut)
            for c, p in zip(self.choices, self._positions, strict=True)
        ]
        before, after = (
            nn.Sequential(*[ops.build(o) for o in part]) for part in (self._before, self._after)
        )
        return Supernet(before, mixed, after)

    def subnet(self, supernet: nn.Module, arch: Architecture) -> nn.Module:
        """``build(arch)`` with a copy of the supernet's weights."""
        if not isinstance(supernet, Supernet):
            raise TypeError(f"not a supernet of {self.id}: {type(supernet).__name__}")
        blocks: list[nn.Module] = []
        for c, p, layer in zip(self.choices, self._positions, supernet.mixed, strict=True):
            k = arch.index(c.name)
            if self.option_ops(c.name)[k]:
                body = copy.deepcopy(layer.mixed.options[k])  # type: ignore[union-attr, index]
                blocks.append(ops.Residual(body) if p.shortcut else body)  # type: ignore[arg-type]
        before, after = copy.deepcopy(supernet.before), copy.deepcopy(supernet.after)
        return Network([*before, *blocks, *after])  # type: ignore[misc]

    def _branches(self, choice: str, shortcut: bool) -> list[nn.Module]:
        options = self.option_ops(choice)
        bodies = [ops.mbconv_body(*o) for o in options if o]
        _align(bodies, quiet=shortcut)
        return [*bodies, *(ops.Zero() for o in options if not o)]


def _align(bodies: Sequence[nn.Sequential], quiet: bool) -> None:
    """Draw the weights of one choice: every option starts as a part of the largest.

    What follows then sees much the same features whichever option is live; ``quiet`` beside a
    shortcut. With independent weights, three epochs teach subnets half as much.
    """
    convolutions = [[m for m in b if isinstance(m, nn.Conv2d)] for b in bodies]
    largest = max(convolutions, key=lambda c: (c[-1].in_channels, c[-2].kernel_size))
    ops.initialised(nn.ModuleList(largest))
    source = [c.weight.detach().clone() for c in largest]
    with torch.no_grad():
        for body, own in zip(bodies, convolutions, strict=True):
            hidden, kernel = own[-1].in_channels, own[-2].kernel_size[0]
            rim = (source[-2].shape[-1] - kernel) // 2
            middle = slice(rim, rim + kernel)
            own[-1].weight.copy_(source[-1][:, :hidden])
            own[-2].weight.copy_(source[-2][:hidden, :, middle, middle])
            if len(own) == len(source) == 3:
                own[0].weight.copy_(source[0][:hidden])
            if quiet:
                nn.init.constant_(body[-1].weight, QUIET)  # type: ignore[arg-type]
