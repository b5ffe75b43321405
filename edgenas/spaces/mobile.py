"""The macro space of ProxylessNAS (arXiv:1812.00332, sec. 4.2): chains of MBConv blocks.

A block may also be what wide vectors are fast at, a Fused-MBConv or a plain convolution (as in
EfficientNetV2, arXiv:2104.00298), and choose squeeze-and-excitation and its activation; a network
its width and the resolution of its images (as in FBNetV2, arXiv:2004.05565). The preset
``mobile-v3`` has the stem, first block, stages and head of MobileNetV3-Large (arXiv:1905.02244,
table 1), whose blocks are among the options, with two differences: ReLU6 stands for its ReLU, and
expansion 3 for the 2.3 and 2.5 of its third stage.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgenas import elastic, ops
from edgenas.alignment import align
from edgenas.blocks import (
    ACTIVATIONS,
    KINDS,
    Block,
    all_blocks,
    hard_swish,
    most_blocks,
    narrower,
    of_hidden,
)
from edgenas.chain import Network, Supernet
from edgenas.errors import UsageError
from edgenas.gates import Gates, Mix, mixture, run
from edgenas.presets import INPUTS, PRESETS, of_size
from edgenas.registry import nearest
from edgenas.resize import resized
from edgenas.space import ROUND, ChoiceSpace, Context, Form, context_of
from edgenas.spec import Architecture, Choice, OpSpec
from edgenas.validate import construct

__all__ = ["Mobile"]

_AXES = ("blocks", "kernels", "dense_kernels", "expansions", "ses", "activations")  # of a choice
_LATER = (  # not in first ids
    "ses", "edge_activation", "features", "multipliers", "resolutions", "blocks", "dense_kernels",
)  # fmt: skip


# More is a slip of the hand, and takes all memory or hours before anything is said.
_MOST_PAIRS, _MOST_OPTIONS, _MOST_WEIGHTS, _MOST_ENTRIES = 1000, 20_000, 2_000_000_000, 1000
_MOST_OPERATORS = 1_000_000
_RANGES: Mapping[str, tuple[int, int]] = {  # of a field, or of what is in its list
    "resolution": (1, 4096), "channels": (1, 100_000), "classes": (2, 1_000_000),
    "stem": (1, 100_000), "stem_stride": (1, 4096), "first": (0, 100_000), "widths": (1, 100_000),
    "depths": (1, _MOST_OPTIONS), "strides": (1, 4096), "head": (0, 100_000), "kernels": (1, 63),
    "dense_kernels": (1, 63), "expansions": (1, 100_000), "ses": (0, 100_000),
    "features": (0, 100_000), "multipliers": (0, 100), "resolutions": (1, 4096),
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
    """Blocks of kernel x expansion x gate x activation, and skip where shapes fit.

    ``resolution`` px of the images, ``channels`` in, ``classes`` out; ``widths``, ``depths``,
    ``strides``: one entry a stage. ``multipliers`` of ``widths``, rounded to multiples of 8, and
    ``resolutions`` that images are resized to (none: as they are): several are a choice of the
    whole network. ``blocks``: what one may be, ``mbconv``, ``fused-mbconv`` (of ``dense_kernels``,
    without gate) or ``conv`` (without expansion, too). ``ses``: what squeeze-and-excitation divides
    the hidden width by, 0 for none. ``first``: channels of a block behind the stem that is not
    searched, ``head``: of a convolution behind all blocks; 0 for none. ``edge_activation``: of stem
    and head, by default the first of ``activations``, which the first block has. ``features``: of a
    fully connected layer before the last one, 0 for none. ``preset`` fills what is not given.
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
    blocks: tuple[str, ...] = ("mbconv",)
    dense_kernels: tuple[int, ...] = (3,)

    presets: ClassVar = PRESETS

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
            if activation not in ACTIVATIONS:
                raise UsageError(
                    f"space mobile: an activation is {' or '.join(map(repr, ACTIVATIONS))}, "
                    f"not {activation!r:.80}"
                )
        if unknown := [kind for kind in self.blocks if kind not in KINDS]:
            raise UsageError(
                f"space mobile: a block is {' or '.join(map(repr, KINDS))}, not "
                f"{unknown[0]!r:.80}.{nearest(unknown[0], list(KINDS))}"
            )
        for name in ("kernels", "dense_kernels"):
            if even := [k for k in getattr(self, name) if k % 2 == 0]:
                raise UsageError(f"space mobile: {name}: {even[0]} is even, and kernels are odd")
        forms = most_blocks(self.blocks, *(len(getattr(self, name)) for name in _AXES[1:]))
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
        if len(self._forms) < 2:
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
        last = self.head or widest[-1]
        total += widest[-1] * self.head + last * max(self.features, self.classes)
        total += self.features * self.classes
        cin = self.first or self.stem
        for cout, depth in zip(widest, self.depths, strict=True):
            for form in self._forms:
                for before, number in ((cin, 1), (cout, depth - 1)):
                    total += number * ops.parameters(form.op(before, cout, 1, 1))
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
        preset = given.pop("preset", None)
        if preset is None and all(f.name in given for f in fields(cls) if f.default is MISSING):
            return construct(cls, given, "space mobile")
        preset = preset or of_size(given.get("resolution"))
        if preset not in PRESETS:
            known = list(PRESETS)
            raise UsageError(f"space mobile: no preset {preset!r}.{nearest(str(preset), known)}")
        return construct(cls, {**INPUTS[preset], **PRESETS[preset], **given}, "space mobile")

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
        options = {
            c.name: plain._options(p)[: len(c.options)]
            for c, p in zip(self._blocks, plain._positions, strict=True)
        }
        return Context(
            {c.name: picks[c.name] for c in self._whole},
            plain._before + plain._after,
            {c.name: ((),) * len(c.options) for c in self._whole} | options,
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
        cin, out = self._before[-1].cout, []
        stages = zip(self.widths, self.depths, self.strides, strict=True)
        for stage, (width, depth, stride) in enumerate(stages, 1):
            for block in range(1, depth + 1):
                s = stride if block == 1 else 1
                out.append(_Position(f"s{stage}b{block}", cin, width, size, s))
                cin, size = width, -(-size // s)
        return tuple(out)

    @cached_property
    def _before(self) -> tuple[OpSpec, ...]:
        stem = OpSpec.of(
            "conv", self.channels, self.stem, self.resolution, k=3, s=self.stem_stride,
            **hard_swish(self._edge),
        )  # fmt: skip
        first = Block("mbconv", 3, 1, 0, self.activations[0])
        shape = self.stem, self.first, ops.output_size(stem)
        return (stem, first.op(*shape, 1)) if self.first else (stem,)

    @cached_property
    def _after(self) -> tuple[OpSpec, ...]:
        last = self._positions[-1]
        size = -(-last.size // last.stride)
        act = hard_swish(self._edge)
        features = {"h": self.features, **act} if self.features else {}
        head = [OpSpec.of("conv", last.cout, self.head, size, k=1, s=1, **act)] if self.head else []
        width = self.head or last.cout
        return (*head, OpSpec.of("classifier", width, self.classes, size, **features))

    @property
    def _edge(self) -> str:
        return self.activations[0] if self.edge_activation is None else self.edge_activation

    @cached_property
    def _forms(self) -> tuple[Block, ...]:
        return all_blocks(*(getattr(self, name) for name in _AXES))

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
        labels = tuple(form.label for form in self._forms)
        plain = [self._plain(width, 0)._positions for width in range(len(self.multipliers))]
        return tuple(
            Choice(at[0].choice, (*labels, "skip") if all(p.shortcut for p in at) else labels)
            for at in zip(*plain, strict=True)
        )

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """``width`` (options as ``w0.75``) and ``resolution`` (``r24``), each if there are several.

        Then ``s<stage>b<block>``: options as ``k3e6``, ``k5e3se4hs``, ``fused-k3e6``,
        ``conv-k3``, and ``skip`` where it fits.
        """
        return self._whole + self._blocks

    def _options(self, p: _Position) -> tuple[tuple[OpSpec, ...], ...]:
        forms = tuple((form.op(p.cin, p.cout, p.size, p.stride),) for form in self._forms)
        return (*forms, ()) if p.shortcut else forms

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
        before, after = self._ends(context.fixed)
        return (*before, *itertools.chain.from_iterable(picked), *after)

    def _ends(self, fixed: tuple[OpSpec, ...]) -> tuple[tuple[OpSpec, ...], tuple[OpSpec, ...]]:
        """What lies before all blocks, and what behind them."""
        number = len(self._before)
        return fixed[:number], fixed[number:]

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
        each = [narrower(op) for op in ops_]
        return {
            _expanding(op, i): of
            for i, (op, of) in enumerate(zip(ops_, each, strict=True)) if len(of) > 1
        }  # fmt: skip

    def forms(self, ops_: Sequence[OpSpec]) -> tuple[Form, ...]:
        """A squeeze-and-excitation narrows with its block: its key keeps the divisor."""
        return tuple(
            Form((_expanding(op, i),), partial(of_hidden, op))
            if len(narrower(op)) > 1
            else Form((), partial(_itself, op))
            for i, op in enumerate(ops_)
        )

    def supernet(self, mix: Mix) -> nn.Module:
        """All options of all blocks; ``mix`` puts those of one block together."""
        mixed = [self._layer(c, mix) for c in self._blocks]
        before, after = (
            nn.Sequential(*map(ops.build, part)) for part in self._ends(self.fixed_ops())
        )
        if not self.resolutions:
            return Supernet(before, mixed, after)
        return _Resizing(before, mixed, after, self.resolutions)

    def _layer(self, choice: Choice, mix: Mix) -> _Mixed:
        """A block: every option at every width, beside a shortcut where that fits."""
        each_width = (c.options[choice.name] for c in self.contexts[:: len(self._sizes)])
        forms = [[op for (op,) in at] for at in zip(*each_width, strict=True) if at[0]]
        bodies = [ops.body(max(at, key=lambda op: (op.cin, op.cout))) for at in forms]
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
        options, picked = context_of(self, arch).options, list[nn.Module]()
        for c, layer in zip(self._blocks, supernet.mixed, strict=True):
            k = arch.index(c.name)
            for op in options[c.name][k]:
                option = layer.mixed.options[k]  # type: ignore[union-attr, index]
                body = option.body if isinstance(option, elastic.Block) else option
                picked.append(ops.Residual(body) if ops.has_residual(op) else body)  # type: ignore[arg-type]
        large = Network([*supernet.before, *picked, *supernet.after])  # type: ignore[misc]
        with torch.device("meta"):  # draws no weights
            net = self.build(arch)
        net.load_state_dict(elastic.leading(large.state_dict(), net.state_dict()), assign=True)
        return net.train(supernet.training)


def _itself(op: OpSpec) -> OpSpec:
    return op


def _expanding(op: OpSpec, position: int) -> str:
    """The name of its first convolution in a ``Network``."""
    return f"layers.{position}.{'body.' if ops.has_residual(op) else ''}0"


def _scaled(width: int, multiplier: float) -> int:
    return width if multiplier == 1 else max(1, int(width * multiplier / ROUND + 0.5)) * ROUND
