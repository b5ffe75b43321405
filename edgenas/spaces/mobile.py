"""The macro space of ProxylessNAS (arXiv:1812.00332, sec. 4.2): chains of MBConv blocks.

A block may also choose squeeze-and-excitation and its activation. The preset ``mobile-v3`` has the
stem, first block, stages and head of MobileNetV3-Large (arXiv:1905.02244, table 1), whose blocks
are among the options, with two differences: ReLU6 stands for its ReLU, and expansion 3 for the 2.3
and 2.5 of its third stage.
"""

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
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

_V3: Mapping[str, Any] = {
    "kernels": (3, 5), "ses": (0, 4), "activations": ("relu6", "hard-swish"),
    "edge_activation": "hard-swish",
}  # fmt: skip
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
    "tiny-v3": {  # tiny, with more to choose from
        "stem": 16, "stem_stride": 2, "first": 16,
        "widths": (24, 40, 64), "depths": (3, 3, 3), "strides": (2, 2, 1), "head": 192,
        "expansions": (3, 6), **_V3,
    },
    "mobile-v3": {  # 224 px, after MobileNetV3-Large
        "stem": 16, "stem_stride": 2, "first": 16,
        "widths": (24, 40, 80, 112, 160), "depths": (2, 3, 4, 2, 3), "strides": (2, 2, 2, 1, 2),
        "head": 960, "features": 1280, "expansions": (3, 4, 6), **_V3,
    },
}  # fmt: skip
_CIFAR = {"resolution": 32, "channels": 3, "classes": 10}
_IMAGENET = {"resolution": 224, "channels": 3, "classes": 1000}
_INPUTS: Mapping[str, Mapping[str, int]] = {  # what a preset was made for, where no task says more
    "tiny": _CIFAR,
    "small": _CIFAR,
    "proxyless": _IMAGENET,
    "tiny-v3": _CIFAR,
    "mobile-v3": _IMAGENET,
}


_ACTIVATIONS = {"relu6": "", "hard-swish": "hs"}  # as a label of an option says it
_AXES = ("kernels", "expansions", "ses", "activations")  # what a block chooses
_LATER = ("ses", "edge_activation", "features")  # no part of the first ids
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


def _hs(activation: str) -> dict[str, int]:
    return {"hs": 1} if activation == "hard-swish" else {}


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
    """MBConv of kernel x expansion x gate x activation in every block, and skip where shapes fit.

    ``resolution`` px, ``channels`` in, ``classes`` out; ``widths``, ``depths``, ``strides``: one
    entry a stage. ``ses``: what squeeze-and-excitation divides the hidden width by, 0 for none.
    ``edge_activation``: of stem and head, by default the first of ``activations``, which the first
    block has. ``features``: of a fully connected layer before the last one, 0 for none. ``preset``
    fills what is not given.
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
    ses: tuple[int, ...] = (0,)
    activations: tuple[str, ...] = ("relu6",)
    edge_activation: str | None = None
    features: int = 0

    presets: ClassVar = _PRESETS

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.strides) > 0:
            raise UsageError(
                f"space mobile: widths, depths and strides need one entry a stage, not "
                f"{len(self.widths)}, {len(self.depths)} and {len(self.strides)}"
            )
        for name in _AXES:
            values = getattr(self, name)
            if len(set(values)) != len(values) or not values:
                raise UsageError(f"space mobile: {name} are {values}; each once, at least one")
        for activation in (*self.activations, self._edge):
            if activation not in _ACTIVATIONS:
                raise UsageError(
                    f"space mobile: an activation is {' or '.join(map(repr, _ACTIVATIONS))}, not "
                    f"{activation!r}"
                )
        numbers = (
            *(self.resolution, self.channels, self.stem, self.stem_stride, self.first, self.head),
            *(*self.widths, *self.depths, *self.strides, *self.expansions),
        )
        if min(numbers) < 1 or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise UsageError("space mobile: sizes must be positive, kernels odd")
        if min(*self.ses, self.features) < 0:
            raise UsageError("space mobile: ses and features are 0 (none) or positive")
        if (
            max(*numbers, self.features) > 100_000
            or self.resolution > 4096
            or self.classes > 1_000_000
        ):
            raise UsageError("space mobile: at most 4096 px, 100000 channels, 1000000 classes")
        if self.classes < 2:
            raise UsageError(f"space mobile: {self.classes} class; a classifier needs two")
        if len(self._forms) < 2:
            raise UsageError(
                f"space mobile: one value of each of {', '.join(_AXES)} leaves nothing to search"
            )

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> "Mobile":
        """Raises UsageError that names the key. ``activation: x`` is ``activations: [x]``."""
        given = dict(settings)
        if "activation" in given:
            if "activations" in given:
                raise UsageError("space mobile: give activation or activations, not both")
            given["activations"] = (given.pop("activation"),)
        preset = given.pop("preset", "tiny")
        if preset not in _PRESETS:
            known = list(_PRESETS)
            raise UsageError(f"space mobile: no preset {preset!r}.{nearest(str(preset), known)}")
        return construct(cls, {**_INPUTS[preset], **_PRESETS[preset], **given}, "space mobile")

    def describe(self) -> dict[str, Any]:
        """Every field, and ``kind``."""
        return {"kind": "mobile", **json.loads(json.dumps(asdict(self)))}

    @cached_property
    def id(self) -> str:
        """``mobile-28x1-<hash of the fields>``; tables and runs are named after it.

        A field that came later counts only where it is used, so that older ids stay what they are.
        """
        facts = self.describe()
        if len(self.activations) == 1:
            (facts["activation"],) = facts.pop("activations")
        for field in fields(self):
            if field.name in _LATER and getattr(self, field.name) == field.default:
                del facts[field.name]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
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
        stem = OpSpec.of(
            "conv", self.channels, self.stem, self.resolution, k=3, s=self.stem_stride,
            **_hs(self._edge),
        )  # fmt: skip
        size, first = ops.output_size(stem), self.activations[0]
        return stem, OpSpec.of("mbconv", self.stem, self.first, size, k=3, s=1, e=1, **_hs(first))

    @cached_property
    def _after(self) -> tuple[OpSpec, OpSpec]:
        last = self._positions[-1]
        size = -(-last.size // last.stride)
        act = _hs(self._edge)
        features = {"h": self.features, **act} if self.features else {}
        return (
            OpSpec.of("conv", last.cout, self.head, size, k=1, s=1, **act),
            OpSpec.of("classifier", self.head, self.classes, size, **features),
        )

    @property
    def _edge(self) -> str:
        return self.activations[0] if self.edge_activation is None else self.edge_activation

    @property
    def _forms(self) -> tuple[tuple[int, int, int, str], ...]:
        return tuple(itertools.product(*(getattr(self, name) for name in _AXES)))

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """``s<stage>b<block>``: options as ``k3e6``, ``k5e3se4hs``, and ``skip`` where it fits."""
        labels = tuple(
            f"k{k}e{e}" + (f"se{se}" if se else "") + _ACTIVATIONS[act]
            for k, e, se, act in self._forms
        )
        return tuple(
            Choice(p.choice, (*labels, "skip") if p.shortcut else labels) for p in self._positions
        )

    def option_ops(self, choice: str) -> tuple[tuple[OpSpec, ...], ...]:
        """What each option of ``choice`` executes; nothing for skip."""
        p = next(p for p in self._positions if p.choice == choice)
        blocks = tuple(
            (
                ops.mbconv(
                    p.cin, p.cout, p.size,
                    k=k, s=p.stride, hidden=e * p.cin, se=se, hs=bool(_hs(act)),
                ),
            )
            for k, e, se, act in self._forms
        )  # fmt: skip
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
    _align_gates([m for b in bodies for m in b if isinstance(m, ops.SqueezeExcitation)])
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


def _align_gates(gates: Sequence[ops.SqueezeExcitation]) -> None:
    """Shared channels are squeezed alike; open gates then leave every option as its sibling."""
    for gate in gates:
        ops.initialised(gate)
    if gates:
        largest = max(gates, key=lambda g: g.squeeze.weight.shape)
        weight, bias = (p.detach().clone() for p in largest.squeeze.parameters())
        for gate in gates:
            narrow, channels = gate.squeeze.weight.shape[:2]
            gate.squeeze.weight.data.copy_(weight[:narrow, :channels])
            gate.squeeze.bias.data.copy_(bias[:narrow])  # type: ignore[union-attr]
