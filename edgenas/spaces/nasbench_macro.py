"""NAS-Bench-Macro (Su et al., CVPR 2021, arXiv:2103.11922): 6,561 chains, all of them trained.

Stem, eight layers in three stages, head; the first layer of a stage halves the image and doubles
the channels. Operators are those of the published network, but for ReLU6 where it has ReLU.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from edgenas import ops
from edgenas.chain import Network, Supernet
from edgenas.errors import InvalidArchitecture
from edgenas.gates import Mix
from edgenas.space import ChoiceSpace
from edgenas.spec import Architecture, Choice, OpSpec
from edgenas.validate import ChannelCount, Classes, Pixels, construct

__all__ = ["NasBenchMacro"]

STEM, STAGES, HEAD = 32, (2, 3, 3), 1280
OPTIONS = ("identity", "MB3k3", "MB6k5")


@dataclass(frozen=True)
class NasBenchMacro(ChoiceSpace):
    """Identity, MBConv of expansion 3 and kernel 3, or of 6 and 5, in each of eight layers.

    ``resolution`` px, ``channels`` in, ``classes`` out; the published accuracies are of CIFAR-10,
    which is what these are unless told otherwise.
    """

    resolution: Pixels = 32
    channels: ChannelCount = 3
    classes: Classes = 10

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> "NasBenchMacro":
        """Raises UsageError that names the key."""
        return construct(cls, settings, "space nasbench-macro")

    def describe(self) -> dict[str, Any]:
        """Every field, and ``kind``."""
        sizes = {"resolution": self.resolution, "channels": self.channels, "classes": self.classes}
        return {"kind": "nasbench-macro", **sizes}

    @property
    def id(self) -> str:
        """``nasbench-macro-32x3-10``."""
        return f"nasbench-macro-{self.resolution}x{self.channels}-{self.classes}"

    @property
    def input(self) -> tuple[int, int, int]:
        """(channels, resolution, resolution)."""
        return (self.channels, self.resolution, self.resolution)

    def published(self, name: str) -> Architecture:
        """The network that the published table calls ``name``: a digit a layer, 0 for identity.

        Raises InvalidArchitecture.
        """
        if len(name) != sum(STAGES) or not set(name) <= set("012"):
            raise InvalidArchitecture(f"{name!r} is not eight digits of 0, 1 and 2")
        return Architecture.of(
            self.id, {c.name: int(digit) for c, digit in zip(self.choices, name, strict=True)}
        )

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """``layer1`` to ``layer8``."""
        return tuple(Choice(name, OPTIONS) for name in self._options)

    @cached_property
    def _options(self) -> Mapping[str, tuple[tuple[OpSpec, ...], ...]]:
        channels, size = STEM, self.resolution
        found: dict[str, tuple[tuple[OpSpec, ...], ...]] = {}
        for depth in STAGES:
            for stride in (2, *[1] * (depth - 1)):
                out = channels * stride
                shape = (channels, out, size)
                shrink = OpSpec.of("conv", *shape, k=1, s=2, linear=1)
                small, large = (
                    OpSpec.of("mbconv", *shape, e=e, k=k, s=stride) for e, k in ((3, 3), (6, 5))
                )
                identity = () if stride == 1 else (shrink,)
                found[f"layer{len(found) + 1}"] = (identity, (small,), (large,))
                channels, size = out, -(-size // stride)
        return found

    @cached_property
    def _stem(self) -> OpSpec:
        return OpSpec.of("conv", self.channels, STEM, self.resolution, k=3, s=1)

    @cached_property
    def _head(self) -> tuple[OpSpec, OpSpec]:
        (last,) = self._options[self.choices[-1].name][-1]
        return (
            OpSpec.of("conv", last.cout, HEAD, ops.output_size(last), k=1, s=1),
            OpSpec.of("classifier", HEAD, self.classes, ops.output_size(last)),
        )

    def option_ops(self, choice: str) -> tuple[tuple[OpSpec, ...], ...]:
        """What each option of ``choice`` executes; identity at stride 2 is a convolution."""
        return self._options[choice]

    def fixed_ops(self) -> tuple[OpSpec, ...]:
        """Stem, head convolution, classifier."""
        return (self._stem, *self._head)

    def ops(self, arch: Architecture) -> tuple[OpSpec, ...]:
        """Stem, picked layers, head convolution, classifier."""
        self.check(arch)
        picked = (options[arch.index(name)] for name, options in self._options.items())
        return (self._stem, *itertools.chain.from_iterable(picked), *self._head)

    def vocabulary(self) -> frozenset[OpSpec]:
        """All of ``fixed_ops`` and ``option_ops``."""
        found = itertools.chain.from_iterable(self._options.values())
        return frozenset(self.fixed_ops()) | frozenset(itertools.chain.from_iterable(found))

    def build(self, arch: Architecture) -> nn.Module:
        """A ``Network`` with fresh weights, one layer an operator."""
        return self.assemble(self.ops(arch))

    def assemble(self, ops_: Sequence[OpSpec]) -> nn.Module:
        """A ``Network`` of ``ops_``, fresh weights."""
        return Network([ops.build(o) for o in ops_])

    def supernet(self, mix: Mix) -> nn.Module:
        """All options of all layers; ``mix`` puts those of one layer together."""
        mixed = [
            mix(name, [ops.build(*o) if o else nn.Identity() for o in options])
            for name, options in self._options.items()
        ]
        after = nn.Sequential(*[ops.build(o) for o in self._head])
        return Supernet(nn.Sequential(ops.build(self._stem)), mixed, after)

    def subnet(self, supernet: nn.Module, arch: Architecture) -> nn.Module:
        """``build(arch)`` with a copy of the supernet's weights."""
        if not isinstance(supernet, Supernet):
            raise TypeError(f"not a supernet of {self.id}: {type(supernet).__name__}")
        net = copy.deepcopy(supernet)
        picked = [
            layer.options[arch.index(name)]  # type: ignore[index]
            for (name, options), layer in zip(self._options.items(), net.mixed, strict=True)
            if options[arch.index(name)]
        ]
        return Network([*net.before, *picked, *net.after])  # type: ignore[misc, list-item]
