"""A network that somebody brings: what may change is how many channels it has where."""

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edgenas.channels import Channels, coupled, cut
from edgenas.errors import CapabilityError, UsageError
from edgenas.graph import (
    INPUT,
    Add,
    Conv,
    Graph,
    HardSwish,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Node,
    baked,
    trace,
)
from edgenas.graph.baking import copied
from edgenas.graph.wrappings import wrapping
from edgenas.space import Form, ListedSpace, narrowed
from edgenas.spec import Architecture, Choice, OpSpec
from edgenas.validate import ChannelCount, Classes, Pixels, construct

__all__ = ["Module"]

# How an operator's key says its activation: where nothing is said, a conv has ReLU6, others none.
_PLAIN: Mapping[str, Mapping[str, int]] = {
    "none": {}, "relu": {"relu": 1}, "relu6": {"relu": 6}, "unit": {"unit": 1},
}  # fmt: skip
_CONV = {**_PLAIN, "none": {"linear": 1}, "relu6": {}}
LEAST = 12  # networks of different widths


@dataclass(frozen=True)
class _Part:
    """An operator as it is, and whose channels it reads and makes; None: never cut."""

    op: OpSpec
    reads: str | None
    makes: str | None

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(g for g in (self.reads, self.makes) if g is not None))

    @property
    def form(self) -> Form:
        return Form(self.groups, self.at)

    def at(self, *widths: int) -> OpSpec:
        width = dict(zip(self.groups, widths, strict=True))
        cin = self.op.cin if self.reads is None else width[self.reads]
        cout = self.op.cout if self.makes is None else width[self.makes]
        args = dict(self.op.args)
        if args.get("g", 0) == self.op.cin:  # depthwise stays so
            args["g"] = cin
        return OpSpec.of(self.op.kind, cin, cout, self.op.size, **args)


@dataclass(frozen=True)
class Module(ListedSpace):
    """``source``: ``model.py:name``, a function or class that takes nothing and gives the network.

    The network takes images of ``channels`` x ``resolution`` x ``resolution``, resized to
    ``resize`` pixels a side where that is given, and gives ``classes`` logits. A choice is a set of
    channels that can only be cut together, named after a layer that makes them; an operator is a
    node of the exported graph.
    """

    source: str
    resolution: Pixels
    channels: ChannelCount
    classes: Classes
    resize: Pixels | None = None

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> "Module":
        """Raises UsageError that names the key or the line of ``source``, or CapabilityError."""
        space = construct(cls, settings, "space module")
        try:
            shape = space._graph.output.shape
        except CapabilityError as e:
            sizes = f"resolution: {space.resolution}, resize: {space.resize or 'none'}"
            raise CapabilityError(f"{e}; its images: {sizes}") from e
        if shape != (space.classes,):
            raise UsageError(
                f"{space.source} gives an output of {shape}, and the task has {space.classes} "
                "classes"
            )
        networks = math.prod(len(of) for of in space._widths.values())
        if networks < LEAST:
            raise CapabilityError(
                f"{space.source}: its channels can be cut in {networks - 1} ways, and a table is "
                f"checked against {LEAST} networks: a set of channels keeps 8 or more, and those "
                "of the output and of grouped convolutions stay; a network with more of them, or "
                "wider ones (three of 32 channels), has enough"
            )
        return space

    def describe(self) -> dict[str, Any]:
        """Every field, and ``kind``."""
        return {"kind": "module", **asdict(self)}

    @cached_property
    def id(self) -> str:
        """``module-32x3-<hash of the graph, of what is cut together, and of all settings>``."""
        facts = [
            *([str(p.op), p.reads, p.makes] for p in self._parts),
            *([n.name, n.inputs] for n in self._graph.nodes),
            repr(self._whole),  # what is folded into weights: the epsilon of a batch norm
        ]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return f"module-{self._input[1]}x{self.channels}-{digest[:6]}"

    @property
    def input(self) -> tuple[int, int, int]:
        """(channels, resolution, resolution), before an image is resized."""
        return (self.channels, self.resolution, self.resolution)

    def input_of(self, arch: Architecture) -> tuple[int, int, int]:
        """What the network takes."""
        return self._input

    @property
    def _input(self) -> tuple[int, int, int]:
        size = self.resize or self.resolution
        return (self.channels, size, size)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """How many channels stay, all of them first."""
        return tuple(Choice(name, tuple(map(str, of))) for name, of in self._widths.items())

    def ops(self, arch: Architecture) -> tuple[OpSpec, ...]:
        """Node by node."""
        self.check(arch)
        width = {name: of[arch.index(name)] for name, of in self._widths.items()}
        return tuple(p.at(*(width[g] for g in p.groups)) for p in self._parts)

    def vocabulary(self) -> frozenset[OpSpec]:
        """Every node at all widths of what it reads and makes."""
        return frozenset(
            p.at(*widths)
            for p in self._parts
            for widths in itertools.product(*(self._widths[g] for g in p.groups))
        )

    def cuts(self, ops: Sequence[OpSpec]) -> dict[str, tuple[int, ...]]:
        """Shares of the channels that ``ops`` have."""
        counts = self._counts(ops)
        return {name: of for name, n in counts.items() if len(of := narrowed(n)) > 1}

    def forms(self, ops: Sequence[OpSpec]) -> tuple[Form, ...]:
        """Of each node."""
        cuttable = self.cuts(ops)
        return tuple(
            replace(
                p,
                op=op,
                reads=p.reads if p.reads in cuttable else None,
                makes=p.makes if p.makes in cuttable else None,
            ).form
            for p, op in zip(self._parts, ops, strict=True)
        )

    def operator_of(self, node: str, number: int) -> int:
        """Each node is one."""
        return number

    def build(self, arch: Architecture) -> nn.Module:
        """As ``source`` makes it, cut to the widths of ``arch``: of each set, the first stay."""
        return self.assemble(self.ops(arch))

    def assemble(self, ops: Sequence[OpSpec]) -> nn.Module:
        """As ``build``, to the widths of ``ops``."""
        keep = {name: range(count) for name, count in self._counts(ops).items()}
        return cut(baked(made(self.source)), self._input, keep)

    def written(self) -> nn.Module:
        """As ``source`` makes it, all channels, with the weights that its files hold."""
        return made(self.source)

    def _counts(self, ops: Sequence[OpSpec]) -> dict[str, int]:
        """Of each set, the channels in a network of ``ops``."""
        counts: dict[str | None, int] = {}
        for p, op in zip(self._parts, ops, strict=True):
            counts |= {p.reads: op.cin, p.makes: op.cout}
        return {name: counts[name] for name in self._widths}

    @cached_property
    def _graph(self) -> Graph:
        with torch.random.fork_rng(devices=[]):
            try:
                return trace(made(self.source), self._input)
            except CapabilityError as e:  # a module in it may have many lines
                raise CapabilityError(f"{self.source}: {' '.join(str(e).split())}") from e

    @cached_property
    def _whole(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return baked(made(self.source)).eval()

    @cached_property
    def _free(self) -> tuple[Channels, ...]:
        """What may be cut: not what the network gives, nor what is convolved in groups."""
        nodes = {n.name: n for n in self._graph.nodes}
        layers = {n.name for n in nodes.values() if isinstance(n, Conv | Linear)}
        if again := layers - {name for name, _ in self._whole.named_modules()}:
            raise CapabilityError(
                f"{self.source}: {min(again).rpartition('_')[0]} is used twice: cut for one use, "
                "it does not fit the other"
            )
        grouped = {
            n.name
            for n in nodes.values()
            if isinstance(n, Conv) and n.groups > 1 and not _depthwise(self._graph, n)
        }
        given = _makers(nodes, self._graph.output.name)
        return tuple(
            c
            for c in coupled(self._whole, self._input)
            if (touched := {*c.makers, *c.readers}) <= layers
            and not touched & grouped and not given & {*c.makers}
            and len(narrowed(c.count)) > 1
        )  # fmt: skip

    @cached_property
    def _widths(self) -> dict[str, tuple[int, ...]]:
        return {c.root: narrowed(c.count) for c in self._free}

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        made_by = {layer: c.root for c in self._free for layer in c.makers}
        read_by = {layer: c.root for c in self._free for layer in c.readers}
        makes: dict[str, str | None] = {INPUT: None}
        parts = []
        for node in self._graph.nodes:
            source = node.inputs[0]
            if isinstance(node, Conv | Linear):
                reads, makes[node.name] = read_by.get(node.name), made_by.get(node.name)
            else:
                reads = makes[node.name] = makes[source]
            op = _spec(node, self._graph.shape(source))
            parts.append(_Part(op, reads, makes[node.name]))
        return tuple(parts)


def made(source: str) -> nn.Module:
    """What ``model.py:name`` gives, in float32. Raises UsageError that says where it fails."""
    file, _, name = source.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not name:
        raise UsageError(f"{source!r} is not a network: write it as model.py:name")
    if not path.is_file():
        raise UsageError(f"there is no {path}")
    with _as_a_program(path):
        try:
            module = _imported(path.resolve(), path.stat().st_mtime_ns)
            build = getattr(module, name, None)
            net = build if isinstance(build, nn.Module) else build and build()
        except (Exception, SystemExit) as e:  # whatever the user's code raises
            frames = traceback.extract_tb(e.__traceback__)
            lines = [f.lineno for f in frames if Path(f.filename) == path.resolve()]
            at = f":{lines[-1]}" if lines else ""
            said = " ".join(str(e).split())
            raise UsageError(f"{path}{at}: {name} fails: {type(e).__name__}: {said}") from e
    if build is None:
        raise UsageError(f"{path} has no function, class or module {name!r}")
    if not isinstance(net, nn.Module):
        raise UsageError(f"{source} gives a {type(net).__name__}, not a torch.nn.Module")
    if (reason := wrapping(net)) is not None:
        raise UsageError(f"{source}: {reason}")
    if any(t.is_meta for t in itertools.chain(net.parameters(), net.buffers())):
        raise UsageError(f"{source} gives a network on the device 'meta', without its weights")
    return (copied(net) if net is build else net).float()


@contextlib.contextmanager
def _as_a_program(path: Path) -> Iterator[None]:
    """Its neighbours are modules to it, arguments and standard output are not its own."""
    arguments, sys.argv = sys.argv, [str(path)]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv = arguments
        sys.path.pop(0)


@functools.cache  # once for each content
def _imported(path: Path, changed_ns: int) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_edgenas_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def _spec(node: Node, shape: tuple[int, ...]) -> OpSpec:
    """``node``, which reads a map or vector of ``shape``."""
    size = shape[1] if len(shape) == 3 else 1
    if len(shape) == 3 and shape[1] != shape[2]:
        raise CapabilityError(f"{node.name} reads a map of {shape}: only squares can be profiled")
    cin, cout = shape[0], node.shape[0]
    match node:
        case Conv():
            k = node.weight.shape[2]
            args = {"k": k, "s": node.stride, **_CONV[node.act]}
            args |= {"p": node.padding} if node.padding != k // 2 else {}
            args |= {"g": node.groups} if node.groups > 1 else {}
            return OpSpec.of("conv", cin, cout, size, **args)
        case Linear():
            return OpSpec.of("linear", cin, cout, 1, **_PLAIN[node.act])
        case Add():
            return OpSpec.of("add", cin, cout, size, **_PLAIN[node.act])
        case MaxPool():
            args = {"k": node.k, "s": node.stride}
            args |= {"p": node.padding} if node.padding != node.k // 2 else {}
            return OpSpec.of("maxpool", cin, cout, size, **args)
        case Mul():
            return OpSpec.of("mul", cin, cout, size)
        case Mean():
            return OpSpec.of("mean", cin, cout, size)
        case HardSwish():
            return OpSpec.of("hswish", cin, cout, size)
    raise TypeError(f"not an operator of a graph: {type(node).__name__}")


def _depthwise(graph: Graph, n: Conv) -> bool:
    return n.groups == len(n.bias) == graph.shape(n.inputs[0])[0]


def _makers(nodes: Mapping[str, Node], name: str) -> set[str]:
    """The layers that make the channels of the tensor ``name``."""
    if name == INPUT:
        return set()
    if isinstance(node := nodes[name], Conv | Linear):
        return {name}
    return set().union(*(_makers(nodes, source) for source in node.inputs))
