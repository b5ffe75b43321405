"""Spaces: what may be built. A method asks for the capabilities it needs, never for a name.

Space        sample, mutate, check, ops, vocabulary, build     every space
Relaxable    choices, supernet, gates, decode, contexts        weight sharing
Prunable     cuts, forms                                       leaving channels out
"""

import abc
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from edgenas.errors import CapabilityError, InvalidArchitecture
from edgenas.gates import Gate, Gates, Mix
from edgenas.registry import Shelf
from edgenas.spec import Architecture, Choice, OpSpec


class Space(abc.ABC):
    """A set of architectures. ``classes`` is the length of the output."""

    classes: int

    @property
    @abc.abstractmethod
    def id(self) -> str:
        """Names the space with all its fields; equal ids build equal networks."""

    @property
    @abc.abstractmethod
    def input(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""

    def input_of(self, arch: Architecture) -> tuple[int, int, int]:
        """(channels, height, width) that ``arch`` takes, where images are resized for it."""
        return self.input

    @abc.abstractmethod
    def sample(self, rng: random.Random) -> Architecture:
        """A random valid architecture."""

    @abc.abstractmethod
    def mutate(self, arch: Architecture, rng: random.Random) -> Architecture:
        """A valid neighbour of ``arch``, never ``arch`` itself."""

    @abc.abstractmethod
    def check(self, arch: Architecture) -> None:
        """Raise InvalidArchitecture unless ``arch`` is in the space."""

    @abc.abstractmethod
    def ops(self, arch: Architecture) -> tuple[OpSpec, ...]:
        """What a device executes for ``arch``, in order."""

    @abc.abstractmethod
    def vocabulary(self) -> frozenset[OpSpec]:
        """Every operator that some architecture contains: what a table must cover."""

    @abc.abstractmethod
    def build(self, arch: Architecture) -> nn.Module:
        """A stand-alone network with fresh weights; its children execute ``ops(arch)`` in order."""

    @abc.abstractmethod
    def assemble(self, ops: Sequence[OpSpec]) -> nn.Module:
        """As ``build``, from operators: what a pruned network, outside the space, is made of."""

    def operator_of(self, node: str, number: int) -> int:
        """Which of ``ops`` node ``number`` of the exported graph belongs to, by its name."""
        return int(node.split(".")[1])  # a chain: "layers.<i>..."

    @classmethod
    @abc.abstractmethod
    def configured(cls, settings: Mapping[str, Any]) -> Self:
        """From the settings of a config; ``preset`` fills what is not given. Raises UsageError."""

    @abc.abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Every field with its value, JSON types, including ``kind``: rebuilds the space."""


SPACES = Shelf("edgenas.spaces", Space)


@dataclass(frozen=True)
class Context:
    """What a device executes under ``picks`` of the choices that decide what all others cost.

    ``fixed``: whatever else is picked; ``options``: for each option of every choice, nothing for
    those of ``picks``. Given the context, choices cost independently of each other.
    """

    picks: Mapping[str, int]
    fixed: tuple[OpSpec, ...]
    options: Mapping[str, tuple[tuple[OpSpec, ...], ...]]


@runtime_checkable
class Relaxable(Protocol):
    """Offers a supernet. ``contexts``: every joint pick of the choices that make them."""

    @property
    def id(self) -> str: ...
    @property
    def choices(self) -> tuple[Choice, ...]: ...
    @property
    def contexts(self) -> tuple[Context, ...]: ...
    def supernet(self, mix: Mix) -> nn.Module: ...
    def subnet(self, supernet: nn.Module, arch: Architecture) -> nn.Module: ...
    def gates(self, arch: Architecture) -> Gates: ...
    def decode(self, scores: Mapping[str, Tensor]) -> Architecture: ...


@dataclass(frozen=True)
class Form:
    """An operator whose width may change. ``at``: what it is, given the widths of ``groups``."""

    groups: tuple[str, ...]
    at: Callable[..., OpSpec]


@runtime_checkable
class Prunable(Protocol):
    """Networks that work with fewer channels too.

    ``cuts``: of channels that can only be cut together, under the name of a layer that makes
    them, the numbers that may stay, all of them first. ``forms``: ``ops``, one after the other.
    """

    def cuts(self, ops: Sequence[OpSpec]) -> Mapping[str, tuple[int, ...]]: ...
    def forms(self, ops: Sequence[OpSpec]) -> tuple[Form, ...]: ...


@runtime_checkable
class Written(Protocol):
    """Networks that somebody wrote: what weights are made from may be other tensors (baked)."""

    def written(self) -> nn.Module: ...


SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2)
ROUND = 8  # kernels work on vectors of eight


def narrowed(count: int, above: int = 0) -> tuple[int, ...]:
    """``count`` channels, then shares of them down to half, multiples of 8 over ``above``."""
    fewer = {round(count * share / ROUND) * ROUND for share in SHARES}
    return (count, *sorted((n for n in fewer if above < n < count), reverse=True))


def context_of(space: Relaxable, arch: Architecture) -> Context:
    """That which ``arch`` picks."""
    return next(
        c for c in space.contexts if all(arch.index(name) == k for name, k in c.picks.items())
    )


class ListedSpace(Space):
    """A space that is a fixed list of choices, of which any options go together."""

    @property
    @abc.abstractmethod
    def choices(self) -> tuple[Choice, ...]:
        """The decisions, in the order of execution."""

    @property
    def all_first(self) -> Architecture:
        """The first option of every choice."""
        return Architecture.of(self.id, {c.name: 0 for c in self.choices})

    @property
    def all_last(self) -> Architecture:
        """The last option of every choice."""
        return Architecture.of(self.id, {c.name: len(c.options) - 1 for c in self.choices})

    def check(self, arch: Architecture) -> None:
        """Raise InvalidArchitecture that names the first pick that does not fit."""
        if arch.space != self.id:
            raise InvalidArchitecture(
                f"architecture {arch.id} is of space {arch.space!r}, not {self.id!r}"
            )
        want = {c.name: len(c.options) for c in self.choices}
        have = dict(arch.picks)
        if want.keys() != have.keys():
            odd = ", ".join(sorted(want.keys() ^ have.keys()))
            raise InvalidArchitecture(f"{self.id}: missing or unknown choices: {odd}")
        for name, pick in have.items():
            if not isinstance(pick, int) or not 0 <= pick < want[name]:
                raise InvalidArchitecture(
                    f"{self.id}: {name} is {pick!r}, allowed 0 to {want[name] - 1}"
                )

    def sample(self, rng: random.Random) -> Architecture:
        """Every option of every choice equally likely."""
        return Architecture.of(
            self.id, {c.name: rng.randrange(len(c.options)) for c in self.choices}
        )

    def mutate(self, arch: Architecture, rng: random.Random) -> Architecture:
        """Another option of one choice."""
        c = rng.choice(self.choices)
        others = [k for k in range(len(c.options)) if k != arch[c.name]]
        return arch.but(**{c.name: rng.choice(others)})


class ChoiceSpace(ListedSpace):
    """Each option executes the same, whatever else is picked."""

    @abc.abstractmethod
    def option_ops(self, choice: str) -> tuple[tuple[OpSpec, ...], ...]:
        """What each option of ``choice`` executes."""

    @abc.abstractmethod
    def fixed_ops(self) -> tuple[OpSpec, ...]:
        """What every architecture executes."""

    @property
    def contexts(self) -> tuple[Context, ...]:
        """One, where no choice changes what the others cost."""
        options = {c.name: self.option_ops(c.name) for c in self.choices}
        return (Context({}, self.fixed_ops(), options),)

    def gates(self, arch: Architecture) -> Gates:
        """One live path."""
        return {c.name: Gate.one(arch.index(c.name)) for c in self.choices}

    def decode(self, scores: Mapping[str, Tensor]) -> Architecture:
        """Best option of each choice; ``scores``: shape (options,) per choice."""
        return Architecture.of(
            self.id, {c.name: int(scores[c.name].argmax()) for c in self.choices}
        )


def load_space(settings: Mapping[str, Any]) -> Space:
    """The space that ``{"kind": "mobile", "preset": "tiny", ...}`` describes."""
    fields = dict(settings)
    space: Space = SPACES[str(fields.pop("kind"))].configured(fields)
    return space


def require_true(space: Space) -> None:
    """Raise CapabilityError where a network of ``space`` is not what the space says of it."""
    arch = space.sample(random.Random(0))
    space.check(arch)
    ops, name = space.ops(arch), f"space {type(space).__name__} ({type(space).__module__})"
    if not ops:
        raise CapabilityError(f"{name}: a network of no operators: ops of {arch.id}")
    if odd := [op for op in ops if op not in space.vocabulary()]:
        raise CapabilityError(f"{name}: its vocabulary lacks {odd[0]}, which a network executes")
    shape = (1, *space.input_of(arch))
    if min(shape) < 1:
        raise CapabilityError(f"{name}: its networks take images of {shape[1:]}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        y = space.build(arch).eval()(torch.zeros(shape))
    if not isinstance(y, Tensor) or y.shape != (1, space.classes):
        gave = f"of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise CapabilityError(
            f"{name}: of one image a network gives {gave}; expected (1, {space.classes})"
        )


def require(space: object, capability: type, method: str) -> None:
    """Stop early, with advice, if ``space`` cannot host ``method``."""
    if not isinstance(space, capability):
        raise CapabilityError(
            f"method {method!r} needs a space that is {capability.__name__}; "
            f"{type(space).__name__} is not. Method 'random' works with every space"
        )
