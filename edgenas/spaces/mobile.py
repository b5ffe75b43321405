"""The macro space of ProxylessNAS (arXiv:1812.00332, sec. 4.2): chains of MBConv blocks.

A block may also choose squeeze-and-excitation and its activation, a network its width and the
resolution of its images (as in FBNetV2, arXiv:2004.05565). The preset ``mobile-v3`` has the
stem, first block, stages and head of MobileNetV3-Large (arXiv:1905.02244, table 1), whose blocks
are among the options, with two differences: ReLU6 stands for its ReLU, and expansion 3 for the 2.3
and 2.5 of its third stage.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgenas import elastic, ops
from edgenas.alignment import align
from edgenas.chain import Network, Supernet
from edgenas.errors import UsageError
from edgenas.gates import Gates, Mix, mixture, run
from edgenas.registry import nearest
from edgenas.resize import resized
from edgenas.space import ROUND, ChoiceSpace, Context, Form, context_of, narrowed
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
_LATER = ("ses", "edge_activation", "features", "multipliers", "resolutions")  # not in first ids


# More is a slip of the hand, and takes all memory or hours before anything is said.
_MOST_PAIRS, _MOST_OPTIONS, _MOST_WEIGHTS, _MOST_ENTRIES = 1000, 20_000, 2_000_000_000, 1000
_MOST_OPERATORS = 1_000_000
_RANGES: Mapping[str, tuple[int, int]] = {  # of a field, or of what is in its list
    "resolution": (1, 4096), "channels": (1, 100_000), "classes": (2, 1_000_000),
    "stem": (1, 100_000), "stem_stride": (1, 4096), "first": (1, 100_000), "widths": (1, 100_000),
    "depths": (1, _MOST_OPTIONS), "strides": (1, 4096), "head": (1, 100_000), "kernels": (1, 63),
    "expansions": (1, 100_000), "ses": (0, 100_000), "features": (0, 100_000),
    "multipliers": (0, 100), "resolutions": (1, 4096),
}  # fmt: skip


class _Mixed(nn.Module):
    """One choice and its shortcut, if shapes allow one."""

    def __init__(self, mixed: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.mixed = mixed
        self.shortcut = shortcut

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, cin, h, w) -> (n, cout, h / s, w / s)."""
        y: Tensor = self.mixed(x, gates)
        return y if self.shortcut is None else run(self.shortcut, x, gates) + y


class _Resizing(Supernet):
    """Takes its images at the live one of ``sizes``; of each that is live, logits are summed."""

    def __init__(
        self, before: nn.Module, mixed: Sequence[_Mixed], after: nn.Module, sizes: Sequence[int]
    ) -> None:
        super().__init__(before, mixed, after)
        self.sizes = tuple(sizes)

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """(n, c, h, w) -> logits (n, classes)."""
        paths = [partial(self._at, size, gates=gates) for size in self.sizes]
        return paths[0](x) if len(paths) == 1 else mixture("resolution", paths, x, gates)

    def _at(self, size: int, x: Tensor, gates: Gates) -> Tensor:
        return super().forward(resized(x, size), gates)


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

    ``resolution`` px of the images, ``channels`` in, ``classes`` out; ``widths``, ``depths``,
    ``strides``: one entry a stage. ``multipliers`` of ``widths``, rounded to multiples of 8, and
    ``resolutions`` that images are resized to (none: as they are): several are a choice of the
    whole network. ``ses``: what squeeze-and-excitation divides the hidden width by, 0 for none.
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
    multipliers: tuple[float, ...] = (1.0,)
    resolutions: tuple[int, ...] = ()

    presets: ClassVar = _PRESETS

    def __post_init__(self) -> None:
        self._check_ranges()
        if not len(self.widths) == len(self.depths) == len(self.strides) > 0:
            raise UsageError(
                f"space mobile: widths, depths and strides need one entry a stage, not "
                f"{len(self.widths)}, {len(self.depths)} and {len(self.strides)}"
            )
        for name in (*_AXES, "resolutions"):
            values = getattr(self, name)
            if len(set(values)) != len(values) or not (values or name == "resolutions"):
                raise UsageError(
                    f"space mobile: {name} are {values!r:.200}; each once, at least one"
                )
        for activation in (*self.activations, self._edge):
            if activation not in _ACTIVATIONS:
                raise UsageError(
                    f"space mobile: an activation is {' or '.join(map(repr, _ACTIVATIONS))}, not "
                    f"{activation!r:.80}"
                )
        if even := [k for k in self.kernels if k % 2 == 0]:
            raise UsageError(f"space mobile: kernels: {even[0]} is even, and kernels are odd")
        forms = math.prod(len(getattr(self, name)) for name in _AXES)
        if (options := sum(self.depths) * forms) > _MOST_OPTIONS:
            raise UsageError(
                f"space mobile: depths: {sum(self.depths)} blocks of {forms} options each "
                f"({', '.join(_AXES)}); at most {_MOST_OPTIONS} options in all, not {options}"
            )
        if (pairs := len(self.multipliers) * len(self._sizes)) > _MOST_PAIRS:
            raise UsageError(
                f"space mobile: {pairs} pairs of multipliers and resolutions; at most {_MOST_PAIRS}"
            )
        if pairs * options > _MOST_OPERATORS:
            raise UsageError(
                f"space mobile: {options} options at {pairs} pairs of multipliers and resolutions; "
                f"at most {_MOST_OPERATORS} in all"
            )
        self._check_multipliers()
        if (weights := self._most_weights()) > _MOST_WEIGHTS:
            raise UsageError(
                f"space mobile: all options together have {weights / 1e9:.3g} thousand million "
                f"weights; at most {_MOST_WEIGHTS / 1e9:g}: take less of widths, head, expansions, "
                "kernels or depths"
            )
        if forms < 2:
            raise UsageError(
                f"space mobile: one value of each of {', '.join(_AXES)} leaves nothing to search"
            )

    def _check_ranges(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if len(values) > _MOST_ENTRIES:
                raise UsageError(
                    f"space mobile: {name}: {len(values)} entries; at most {_MOST_ENTRIES}"
                )
            if odd := [v for v in values if not least <= v <= most]:  # NaN too
                raise UsageError(
                    f"space mobile: {name}: {odd[0]!r:.80} is not between {least} and {most}"
                )

    def _most_weights(self) -> int:
        """Of all options in all blocks, at the widest; stem, head and classifier too."""
        widest = max(self._stage_widths, default=self.widths)
        total = self.channels * self.stem * 9 + self.stem * self.first
        total += widest[-1] * self.head + self.head * max(self.features, self.classes)
        total += self.features * self.classes
        cin = self.first
        for cout, depth in zip(widest, self.depths, strict=True):
            for kernel, expansion, *_ in self._forms:
                for before, blocks in ((cin, 1), (cout, depth - 1)):
                    total += blocks * before * expansion * (before + kernel**2 + cout)
            cin = cout
        return total

    def _check_multipliers(self) -> None:
        if not self.multipliers or min(self.multipliers) == 0:
            raise UsageError(
                f"space mobile: multipliers are {self.multipliers!r:.200}; at least one, over 0"
            )
        if (widest := max(map(max, self._stage_widths))) > _RANGES["widths"][1]:
            raise UsageError(
                f"space mobile: multipliers make a width of {widest}; at most "
                f"{_RANGES['widths'][1]}"
            )
        ordered = sorted(zip(self.multipliers, self._stage_widths, strict=True))
        for (a, narrow), (b, wide) in itertools.pairwise(ordered):
            if narrow == wide or any(n > w for n, w in zip(narrow, wide, strict=True)):
                raise UsageError(
                    f"space mobile: multipliers {a:g} and {b:g} make widths of {narrow!r:.200} and "
                    f"{wide!r:.200}; take them further apart"
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
        facts = {**asdict(self), "multipliers": [float(m) for m in self.multipliers]}
        return {"kind": "mobile", **json.loads(json.dumps(facts))}

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
        """(channels, resolution, resolution) of an image, before it is resized."""
        return (self.channels, self.resolution, self.resolution)

    def input_of(self, arch: Architecture) -> tuple[int, int, int]:
        """At the resolution that ``arch`` picks."""
        return ops.input_shape(context_of(self, arch).fixed)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.resolutions or (self.resolution,)

    @property
    def _stage_widths(self) -> tuple[tuple[int, ...], ...]:
        """Of each multiplier."""
        return tuple(tuple(_scaled(w, m) for w in self.widths) for m in self.multipliers)

    @cached_property
    def contexts(self) -> tuple[Context, ...]:
        """Every pair of width and resolution."""
        pairs = itertools.product(range(len(self.multipliers)), range(len(self._sizes)))
        return tuple(self._context(width, size) for width, size in pairs)

    def _context(self, width: int, size: int) -> Context:
        """Of one multiplier and one resolution, by index."""
        plain, picks = self._plain(width, size), {"width": width, "resolution": size}
        blocks = {
            c.name: plain._options(p)[: len(c.options)]
            for c, p in zip(self._blocks, plain._positions, strict=True)
        }
        return Context(
            {c.name: picks[c.name] for c in self._whole},
            plain._before + plain._after,
            {c.name: ((),) * len(c.options) for c in self._whole} | blocks,
        )

    def _plain(self, width: int, size: int) -> "Mobile":
        """The space of the networks of one multiplier and one resolution, by index."""
        return replace(
            self, widths=self._stage_widths[width], resolution=self._sizes[size],
            multipliers=(1.0,), resolutions=(),
        )  # fmt: skip

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
    def _whole(self) -> tuple[Choice, ...]:
        """Choices of the whole network."""
        labels = {
            "width": tuple(f"w{str(m).removesuffix('.0')}" for m in self.multipliers),
            "resolution": tuple(f"r{size}" for size in self._sizes),
        }
        return tuple(Choice(name, of) for name, of in labels.items() if len(of) > 1)

    @cached_property
    def _blocks(self) -> tuple[Choice, ...]:
        labels = tuple(
            f"k{k}e{e}" + (f"se{se}" if se else "") + _ACTIVATIONS[act]
            for k, e, se, act in self._forms
        )
        plain = [self._plain(width, 0)._positions for width in range(len(self.multipliers))]
        return tuple(
            Choice(at[0].choice, (*labels, "skip") if all(p.shortcut for p in at) else labels)
            for at in zip(*plain, strict=True)
        )

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """``width`` (options as ``w0.75``) and ``resolution`` (``r24``), each if there are several.

        Then ``s<stage>b<block>``: options as ``k3e6``, ``k5e3se4hs``, and ``skip`` where it fits.
        """
        return self._whole + self._blocks

    def _options(self, p: _Position) -> tuple[tuple[OpSpec, ...], ...]:
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

    @cached_property
    def _greatest(self) -> Context:
        width, size = (
            max(range(len(of)), key=of.__getitem__) for of in (self._stage_widths, self._sizes)
        )
        return self._context(width, size)

    def option_ops(self, choice: str) -> tuple[tuple[OpSpec, ...], ...]:
        """What each option of ``choice`` executes, nothing for skip; at the greatest context."""
        return self._greatest.options[choice]

    def fixed_ops(self) -> tuple[OpSpec, ...]:
        """Stem, first block, head; at the greatest context."""
        return self._greatest.fixed

    def ops(self, arch: Architecture) -> tuple[OpSpec, ...]:
        """Stem, first block, picked blocks, head convolution, classifier."""
        self.check(arch)
        context = context_of(self, arch)
        picked = (context.options[c.name][arch.index(c.name)] for c in self._blocks)
        stem, first, *after = context.fixed
        return (stem, first, *itertools.chain.from_iterable(picked), *after)

    def vocabulary(self) -> frozenset[OpSpec]:
        """All of every context."""
        options = (o for c in self.contexts for of in c.options.values() for o in of)
        return frozenset(itertools.chain(*(c.fixed for c in self.contexts), *options))

    def build(self, arch: Architecture) -> nn.Module:
        """A ``Network`` with fresh weights, one layer an operator."""
        return self.assemble(self.ops(arch))

    def assemble(self, ops_: Sequence[OpSpec]) -> nn.Module:
        """A ``Network`` of ``ops_``, fresh weights."""
        return Network([ops.build(o) for o in ops_])

    def cuts(self, ops_: Sequence[OpSpec]) -> dict[str, tuple[int, ...]]:
        """Hidden channels of blocks that expand, under the name of the expanding convolution."""
        return {_expanding(op, i): of for i, op in enumerate(ops_) if len(of := _narrower(op)) > 1}

    def forms(self, ops_: Sequence[OpSpec]) -> tuple[Form, ...]:
        """A squeeze-and-excitation narrows with its block: its key keeps the divisor."""
        return tuple(
            Form((_expanding(op, i),), partial(_of_hidden, op))
            if len(_narrower(op)) > 1
            else Form((), partial(_itself, op))
            for i, op in enumerate(ops_)
        )

    def supernet(self, mix: Mix) -> nn.Module:
        """All options of all blocks; ``mix`` puts those of one block together."""
        mixed = [self._layer(c, mix) for c in self._blocks]
        fixed = [ops.build(o) for o in self.fixed_ops()]
        before, after = (nn.Sequential(*part) for part in (fixed[:2], fixed[2:]))
        if not self.resolutions:
            return Supernet(before, mixed, after)
        return _Resizing(before, mixed, after, self.resolutions)

    def _layer(self, choice: Choice, mix: Mix) -> _Mixed:
        """A block: every option at every width, beside a shortcut where that fits."""
        each_width = (c.options[choice.name] for c in self.contexts[:: len(self._sizes)])
        forms = [[op for (op,) in at] for at in zip(*each_width, strict=True) if at[0]]
        bodies = [ops.mbconv_body(max(at, key=lambda op: (op.cin, op.cout))) for at in forms]
        skippable = choice.options[-1] == "skip"
        align(bodies, quiet=skippable)
        options = [
            body if len(at) == 1 else elastic.Block("width", at, body)
            for at, body in zip(forms, bodies, strict=True)
        ]
        fits = [ops.has_residual(op) for op in forms[0]]
        shortcut: nn.Module | None = nn.Identity() if all(fits) else None
        if any(fits) and shortcut is None:
            shortcut = elastic.Shortcut("width", forms[0])
        return _Mixed(mix(choice.name, [*options, *[ops.Zero()] * skippable]), shortcut)

    def subnet(self, supernet: nn.Module, arch: Architecture) -> nn.Module:
        """``build(arch)`` with a copy of the supernet's weights, each tensor's first part."""
        if not isinstance(supernet, Supernet):
            raise TypeError(f"not a supernet of {self.id}: {type(supernet).__name__}")
        options, blocks = context_of(self, arch).options, list[nn.Module]()
        for c, layer in zip(self._blocks, supernet.mixed, strict=True):
            k = arch.index(c.name)
            for op in options[c.name][k]:
                option = layer.mixed.options[k]  # type: ignore[union-attr, index]
                body = option.body if isinstance(option, elastic.Block) else option
                blocks.append(ops.Residual(body) if ops.has_residual(op) else body)  # type: ignore[arg-type]
        large = Network([*supernet.before, *blocks, *supernet.after])  # type: ignore[misc]
        with torch.device("meta"):  # draws no weights
            net = self.build(arch)
        net.load_state_dict(elastic.leading(large.state_dict(), net.state_dict()), assign=True)
        return net.train(supernet.training)


def _narrower(op: OpSpec) -> tuple[int, ...]:
    """Hidden channels that may stay, all first; where nothing can be cut, only those."""
    full = ops.hidden(op) if op.kind == "mbconv" else 0
    return narrowed(full, above=op.cin) if full > op.cin else (full,)


def _of_hidden(op: OpSpec, hidden: int) -> OpSpec:
    return ops.mbconv(
        op.cin, op.cout, op.size,
        k=op.arg("k", 3), s=op.arg("s", 1), hidden=hidden, se=op.arg("se", 0),
        hs=bool(op.arg("hs", 0)),
    )  # fmt: skip


def _itself(op: OpSpec) -> OpSpec:
    return op


def _expanding(op: OpSpec, position: int) -> str:
    """The name of its first convolution in a ``Network``."""
    return f"layers.{position}.{'body.' if ops.has_residual(op) else ''}0"


def _scaled(width: int, multiplier: float) -> int:
    return width if multiplier == 1 else max(1, int(width * multiplier / ROUND + 0.5)) * ROUND
