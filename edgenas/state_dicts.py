"""Which weights of a file are those of a network: by names and shapes, whatever wraps them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgenas import checkpoint_files
from edgenas.checkpoint_files import Left
from edgenas.errors import CorruptFile

_DEPTH = 5  # of mappings in mappings
_AVERAGE = re.compile(r"(^|[\W_])(ema|swa|avg|averaged?|teacher|shadow|target)([\W_]|$)")
_WRAPPERS = ((), ("_orig_mod",), ("module",), ("_orig_mod", "module"))  # anywhere in a name
COUNT = "num_batches_tracked"  # computes nothing; what is older than PyTorch 0.4.1 has none


@dataclass(frozen=True)
class Taken:
    """The weights of a network, by its own names, and what there is to say of where they lay."""

    tensors: Mapping[str, Tensor]
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    """A mapping of names to tensors in a file. ``at``: as Python, ``["model"]``."""

    at: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Fit:
    """``names``: of the network -> of the part; ``prefix`` is before each of these."""

    part: _Part
    prefix: str
    names: Mapping[str, str]

    @property
    def place(self) -> str:
        """For a person."""
        inside = f"names that begin with {self.prefix!r}" if self.prefix else ""
        return " ".join(filter(None, (self.part.at, inside))) or "those at the top"

    @property
    def average(self) -> bool:
        """Whether it is called a moving average or a teacher of the weights."""
        return bool(_AVERAGE.search(f"{self.part.at} {self.prefix}".lower()))

    def has_shapes_of(self, want: Mapping[str, Tensor]) -> bool:
        """Whether they are of the network ``want`` by more than their names."""
        return all(
            want[name].shape == self.part.tensors[source].shape
            for name, source in self.names.items()
        )


def taken(net: nn.Module, path: Path) -> Taken:
    """The weights of ``net`` from ``path``: a safetensors, or whatever a trainer saved.

    They may lie within mappings, and behind prefixes that wrappers put before names. Raises
    CorruptFile, in one line that says what stands in the way.
    """
    held, in_the_way = checkpoint_files.read(path)
    parts = list(_parts(held, "", _DEPTH))
    want = net.state_dict()
    named = [fit for part in parts for fit in _fits(want, part)]
    found = [fit for fit in named if fit.has_shapes_of(want)] or named
    found.sort(key=lambda fit: fit.average)  # else as in the file
    if in_the_way:
        raise CorruptFile(checkpoint_files.refusal(path, in_the_way, _worth(held, found)))
    if not found:
        raise CorruptFile(_misfit(path, want, parts))
    best, *others = found
    return Taken(
        {name: best.part.tensors[source] for name, source in best.names.items()},
        tuple(_said(path, best, others)),
    )


def filled(net: nn.Module, held: Mapping[str, Tensor], path: Path) -> nn.Module:
    """``net`` with the weights ``held`` of ``path``, in its own types; channels last, for use.

    Raises CorruptFile where one has another shape, or values that are no numbers.
    """
    want = net.state_dict()
    if missing := _lacking(want, held):
        raise CorruptFile(
            f"{path} does not hold this network: it lacks {len(missing)} of {len(want)} tensors, "
            f"e.g. {missing[0]!r}"
        )
    for name in sorted(want.keys() & held.keys()):
        require_like(name, held[name], want[name], path)
    for name in want.keys() & held.keys():  # ``want`` says too in which version each module saves
        want[name] = held[name].to(want[name].dtype)
    if wrong := [k for k, t in want.items() if not torch.isfinite(t).all()]:
        raise CorruptFile(f"{path} holds NaN or infinity in {wrong[0]!r}")
    net.load_state_dict(want)
    # torch's stubs know memory_format only together with a tensor
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval()


def require_like(name: str, have: Tensor, need: Tensor, path: Path) -> None:
    """Raise CorruptFile where ``have``, of ``path``, is no tensor to take for ``need``."""
    if have.shape != need.shape:
        raise CorruptFile(
            f"{path} does not hold this network: {name!r} is {tuple(have.shape)} there, and "
            f"{tuple(need.shape)} here"
        )
    if have.is_meta or have.layout != torch.strided:
        kind = "has no values" if have.is_meta else f"is {have.layout}"
        raise CorruptFile(f"{path}: {name!r} {kind} there; save it as a plain tensor")
    floats = need.is_floating_point() == have.is_floating_point() or name.endswith(COUNT)
    if have.is_quantized or not floats:
        raise CorruptFile(
            f"{path}: {name!r} is {have.dtype} there, and {need.dtype} here; weights that are "
            "rounded already are not taken: bring those in float"
        )


def _parts(held: Any, at: str, depth: int) -> Iterator[_Part]:
    """Every mapping with tensors in it, in the order of the file."""
    if isinstance(held, list | tuple):
        held = dict(enumerate(held[:8]))
    if not isinstance(held, Mapping):
        return
    if tensors := {k: t for k, t in held.items() if isinstance(k, str) and isinstance(t, Tensor)}:
        yield _Part(at, tensors)
    if depth:
        for key, value in held.items():
            if isinstance(value, Mapping | list | tuple):
                yield from _parts(value, f"{at}[{_key(key)}]", depth - 1)


def _key(key: Any) -> str:
    return json.dumps(key, ensure_ascii=False) if isinstance(key, str) else repr(key)


def _fits(want: Mapping[str, Tensor], part: _Part) -> list[_Fit]:
    """Under every prefix where ``part`` has all that is wanted, and nothing else."""
    found: dict[frozenset[str], _Fit] = {}
    for held in _unwrapped(part.tensors):
        for needed in _stripped(want):
            for prefix in _prefixes(needed, held):
                inside = {
                    k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)
                }
                names = {own: inside[bare] for bare, own in needed.items() if bare in inside}
                sources = {name: part.tensors[source] for name, source in names.items()}
                extra = [k for k in inside if k not in needed and not k.endswith(COUNT)]
                if not _lacking(want, sources) and not extra:
                    fit = _Fit(part, _before(next(iter(names.items()))), names)
                    found.setdefault(frozenset(names.values()), fit)
    return list(found.values())


def _before(pair: tuple[str, str]) -> str:
    """What stands before the first name in the file, as far as it can be told."""
    own, source = pair
    tail = own
    while tail and not source.endswith(tail):
        tail = tail.partition(".")[2]
    return source[: len(source) - len(tail)]


def _unwrapped(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Names without those of wrappers -> names."""
    for wrappers in _WRAPPERS:
        bare = {".".join(p for p in name.split(".") if p not in wrappers): name for name in tensors}
        if len(bare) == len(tensors):
            yield bare


def _stripped(want: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Names of a network without what all of them begin with -> names."""
    bare = {name: name for name in want}
    yield bare
    while len(first := {name.partition(".")[0] for name in bare}) == 1 and "." in min(bare):
        start = f"{first.pop()}."
        if not all(name.startswith(start) for name in bare):
            return
        bare = {name.removeprefix(start): own for name, own in bare.items()}
        yield bare


def _prefixes(needed: Mapping[str, str], held: Mapping[str, str]) -> list[str]:
    """What may stand before all of ``needed``: what stands before one that must be there."""
    first = next((name for name in needed if not name.endswith(COUNT)), None)
    if first is None:
        return []
    ends = [name for name in held if name == first or name.endswith(f".{first}")]
    return sorted({name.removesuffix(first) for name in ends}, key=len)


def _lacking(want: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
    return sorted(k for k in want.keys() - held.keys() if not k.endswith(COUNT))


def _worth(held: Any, found: Sequence[_Fit]) -> str | None:
    """What should be saved of a file with objects in it, as Python behind the file; None: guess."""
    if found:
        return found[0].part.at
    if isinstance(held, Left):
        return ".state_dict()" if held.is_module else None
    if isinstance(held, Mapping):
        for key, value in held.items():
            if isinstance(value, Left) and value.is_module:
                return f"[{_key(key)}].state_dict()"
    return None


def _misfit(path: Path, want: Mapping[str, Tensor], parts: Sequence[_Part]) -> str:
    """Of the part that is nearest."""
    if not parts:
        return f"{path} holds no state dict; save one: torch.save(net.state_dict(), 'weights.pt')"
    part = max(parts, key=lambda p: (len(want.keys() & p.tensors.keys()), len(p.tensors)))
    missing, extra = _lacking(want, part.tensors), sorted(part.tensors.keys() - want.keys())
    at = f" in {part.at}" if part.at else ""
    return (
        f"{path} does not hold this network: it lacks {len(missing)} of {len(want)} tensors{at}"
        + (f", e.g. {missing[0]!r}" if missing else "")
        + (f", and holds others, e.g. {extra[0]!r}" if extra else "")
    )


def _said(path: Path, best: _Fit, others: Sequence[_Fit]) -> Iterator[str]:
    used = {name for fit in (best, *others) if fit.part is best.part for name in fit.names.values()}
    if left := [k for k in best.part.tensors if k not in used and not k.endswith(COUNT)]:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        yield f"{path}: {left[0]!r}{more} is no part of this network and is left out"
    if differ := [other for other in others if not _same(best, other)]:
        places = "; ".join(dict.fromkeys(other.place for other in differ))
        yield (
            f"{path}: several weights fit: {best.place} are taken, not {places}; to take those, "
            "save them alone" + _how(path, best, differ[0])
        )


def _how(path: Path, best: _Fit, other: _Fit) -> str:
    if other.part.at == best.part.at:  # told by names, not by a key
        return ""
    return f": {checkpoint_files.saves(path, other.part.at)}"


def _same(one: _Fit, other: _Fit) -> bool:
    return all(
        torch.equal(one.part.tensors[a], other.part.tensors[b])
        for a, b in ((one.names[n], other.names[n]) for n in one.names.keys() & other.names.keys())
    )
