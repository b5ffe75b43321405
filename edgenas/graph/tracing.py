"""torch.nn.Module -> graph, by torch.fx: shapes inferred, batch normalisation folded."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgenas.errors import CapabilityError, UsageError
from edgenas.graph.baking import baked
from edgenas.graph.comparing import compare, made_up, told
from edgenas.graph.nodes import (
    INPUT,
    Activation,
    Add,
    Conv,
    Graph,
    HardSwish,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Node,
)


def trace(module: nn.Module, input: tuple[int, int, int]) -> Graph:
    """``module`` in eval mode as a graph; a node is named after the module that it came from.

    It computes what ``module`` does (``compare``). Raises CapabilityError that names the first
    operator outside the graph's vocabulary, or what differs.
    """
    graph = trace_unchecked(module, input)
    compare(graph, module, made_up(input))
    return graph


def trace_unchecked(module: nn.Module, input: tuple[int, int, int]) -> Graph:
    """As ``trace``, of a module that is known to compute nothing but what it seems to."""
    module = baked(module).eval()
    tracer = _Tracer()
    if tracer.is_leaf_module(module, ""):
        module = nn.Sequential(module)
    try:
        traced = tracer.trace(module)
    except CapabilityError:
        raise
    except Exception as e:  # whatever a module does that torch.fx cannot follow
        raise CapabilityError(f"{type(module).__name__} cannot be exported: {told(e)}") from e
    lowering = _Lowering(dict(module.named_modules()), input)
    for node in traced.nodes:
        lowering.add(node)
    return lowering.graph()


_POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_FUNCTIONS: Mapping[Any, str] = {
    operator.add: "add", operator.iadd: "add", torch.add: "add", "add": "add",
    operator.mul: "mul", operator.imul: "mul", torch.mul: "mul", "mul": "mul",
    F.relu: "relu", torch.relu: "relu", "relu": "relu",
    F.relu6: "relu6", F.hardswish: "hardswish", F.hardsigmoid: "hardsigmoid",
    F.max_pool2d: "max_pool", F.adaptive_avg_pool2d: "pool", torch.mean: "mean", "mean": "mean",
    torch.flatten: "flatten", "flatten": "flatten", "view": "view", "reshape": "view",
    F.dropout: "dropout", "contiguous": "identity",
}  # fmt: skip
_OVER = (operator.iadd, operator.imul)
# Where ``inplace`` stands among what follows the tensor.
_INPLACE: Mapping[Any, int] = {
    F.relu: 0, F.relu6: 0, F.hardswish: 0, F.hardsigmoid: 0, F.dropout: 2,
}  # fmt: skip
# What may give its very operand, or a view of it: whether it does can hang on the memory's layout.
_SAME_MEMORY = frozenset({"identity", "dropout", "flatten", "view"})
_ACTIVATIONS: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Identity: "identity", nn.Dropout: "identity", nn.Dropout2d: "identity",
}  # fmt: skip


class _Proxy(fx.Proxy):
    """Of which ``x += y`` is seen as what it is: for fx it is ``x = x + y``."""

    def __iadd__(self, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __imul__(self, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except CapabilityError:
            raise
        except Exception as e:  # whatever it does that torch.fx cannot follow
            mode = "; it stays in training mode when the network is put into eval mode"
            raise CapabilityError(
                f"cannot export {type(m).__name__} (at {self.path_of_module(m)}): {told(e)}"
                f"{mode if m.training else ''}"
            ) from e


class _Lowering:
    """torch.fx nodes, one after the other, into graph nodes."""

    def __init__(self, modules: Mapping[str, nn.Module], input: tuple[int, int, int]) -> None:
        self.modules = modules
        self.input = input
        self.nodes: dict[str, Node] = {}
        self.value: dict[fx.Node, str] = {}  # where the value of an fx node is computed
        self.batch: set[fx.Node] = set()  # numbers of images, and shapes that begin with one
        self.shared: set[str] = set()  # read more than once, so nothing may be fused into it
        self.memory: dict[fx.Node, fx.Node] = {}  # the first whose memory it may lie in

    def graph(self) -> Graph:
        if self.end == INPUT:
            raise CapabilityError("a network that returns its input holds nothing to export")
        return Graph(self.input, tuple(self.nodes.values())).prefix(self.end)

    def add(self, n: fx.Node) -> None:
        if n.op == "placeholder":
            if self.value:
                raise self._refusal(n, "a second input")
            self.value[n] = INPUT
        elif n.op == "output":
            if not isinstance(n.args[0], fx.Node):
                raise self._refusal(n, "an output that is not one tensor")
            self.end = self.value[n.args[0]]
        elif self._is_batch(n):
            self.batch.add(n)
            return
        elif n.op == "call_module":
            self.value[n] = self._module(n, self.modules[str(n.target)])
        elif n.op in ("call_function", "call_method") and n.target in _FUNCTIONS:
            self.value[n] = self._function(n, _FUNCTIONS[n.target])
        else:
            raise self._refusal(n, str(getattr(n.target, "__name__", n.target)))
        self.memory[n] = self._memory_of(n)
        if sum(not self._is_batch(user) for user in n.users) > 1:
            self.shared.add(self.value[n])

    def _module(self, n: fx.Node, m: nn.Module) -> str:
        if kind := _ACTIVATIONS.get(type(m)):
            return self._function(n, kind)
        x = self._source(n)
        match m:
            case nn.Conv2d():
                return self._conv(n, m, x)
            case nn.BatchNorm2d():
                return self._batch_norm(n, m, x)
            case nn.Linear() if len(self._shape(x)) == 1:
                self._same(n, m.in_features, self._shape(x)[0])
                w, b = _array(m.weight), _bias(m.bias, m.out_features)
                return self._emit(Linear(self._name(n), (x,), (m.out_features,), w, b))
            case nn.MaxPool2d():
                return self._max_pool(n, m, x)
            case nn.AdaptiveAvgPool2d() if m.output_size in (1, (1, 1)):
                return self._mean(n, x, keep=True)
            case nn.Flatten() if (m.start_dim, m.end_dim) == (1, -1):
                return self._flatten(n, x)
        raise self._refusal(n, repr(m))

    def _function(self, n: fx.Node, kind: str) -> str:
        x, extra = self._source(n), n.args[1:]
        if kind not in _SAME_MEMORY and self._in_place(n) and self._read_elsewhere(n):
            raise self._refusal(n, f"{kind} that overwrites what is read elsewhere")
        match kind:
            case "identity":
                return x
            case "dropout":
                said = {**dict(zip(("p", "training"), extra, strict=False)), **n.kwargs}
                if said.get("training", True) and said.get("p", 0.5):
                    raise CapabilityError(
                        f"dropout stays on in eval mode (at {self._scope(n) or n.name}): give it "
                        "training=self.training"
                    )
                return x
            case "relu" | "relu6":
                return self._fused_activation(n, x, "relu" if kind == "relu" else "relu6")
            case "hardsigmoid":
                return self._hard_sigmoid(n, x)
            case "hardswish":
                return self._emit(HardSwish(self._name(n, kind), (x,), self._shape(x)))
            case "add" if len(n.args) == 2 and not n.kwargs:
                y = self._source(n, 1)
                if self._shape(x) == self._shape(y):
                    return self._emit(Add(self._name(n, kind), (x, y), self._shape(x)))
            case "mul" if len(n.args) == 2 and not n.kwargs:
                return self._mul(n, x, self._source(n, 1))
            case "pool" if (extra or (n.kwargs.get("output_size"),))[0] in (1, (1, 1), [1, 1]):
                return self._mean(n, x, keep=True)
            case "mean" if _axes(n) in ((2, 3), (-2, -1)):
                return self._mean(n, x, keep=bool(n.kwargs.get("keepdim", extra[1:] == (True,))))
            case "max_pool":
                given: dict[str, Any] = {**dict(zip(_POOLING, extra, strict=False)), **n.kwargs}
                return self._max_pool(n, nn.MaxPool2d(**given), x)
            case "view" if len(extra) == 2 and extra[0] in self.batch and extra[1] == -1:
                return self._flatten(n, x)
            case "flatten" if (*extra, *n.kwargs.values()) in ((1,), (1, -1)):
                return self._flatten(n, x)
        raise self._refusal(n, f"this form of {kind}")

    def _is_batch(self, n: fx.Node) -> bool:
        """``x.shape``, ``x.size()``, and the first number of them."""
        if n.op == "call_method" and n.target == "size":
            return n.args[1:] in ((), (0,))
        if n.op == "call_function" and n.target is getattr:
            return n.args[1] == "shape"
        return bool(n.target is operator.getitem and n.args[0] in self.batch and n.args[1] == 0)

    def _conv(self, n: fx.Node, m: nn.Conv2d, x: str) -> str:
        padding = m.padding
        if padding == "same" and m.stride == (1, 1):
            padding = (m.kernel_size[0] // 2, m.kernel_size[1] // 2)
        square = all(len(set(p)) == 1 for p in (m.kernel_size, m.stride, padding))
        if (
            isinstance(padding, str) or not square or m.padding_mode != "zeros"
            or set(m.dilation) != {1} or (m.padding == "same" and m.kernel_size[0] % 2 == 0)
        ):  # fmt: skip
            raise self._refusal(n, repr(m))
        shape = self._shape(x)
        self._same(n, m.in_channels, shape[0])
        size = [(s + 2 * padding[0] - m.kernel_size[0]) // m.stride[0] + 1 for s in shape[1:]]
        if len(size) != 2 or min(size) < 1:
            raise self._refusal(n, f"{m!r} of {shape}")
        return self._emit(
            Conv(
                self._name(n), (x,), (m.out_channels, *size), _array(m.weight),
                _bias(m.bias, m.out_channels), m.stride[0], padding[0], m.groups,
            )
        )  # fmt: skip

    def _batch_norm(self, n: fx.Node, m: nn.BatchNorm2d, x: str) -> str:
        conv = self._fusable(n, x, "batch normalisation")
        if not isinstance(conv, Conv):
            raise self._refusal(n, "batch normalisation of a vector")
        if m.running_mean is None or m.running_var is None:
            raise self._refusal(n, "batch normalisation without running statistics")
        mean, var = m.running_mean.double().cpu(), m.running_var.double().cpu()
        gain = torch.ones_like(var) if m.weight is None else m.weight.detach().double().cpu()
        shift = torch.zeros_like(mean) if m.bias is None else m.bias.detach().double().cpu()
        scale = (gain / torch.sqrt(var + m.eps)).numpy()
        self._same(n, m.num_features, len(conv.bias))
        self.nodes[x] = replace(
            conv,
            weight=(conv.weight * scale[:, None, None, None]).astype(np.float32),
            bias=((conv.bias - mean.numpy()) * scale + shift.numpy()).astype(np.float32),
        )
        return x

    def _max_pool(self, n: fx.Node, m: nn.MaxPool2d, x: str) -> str:
        shape = self._shape(x)
        sides = [_side(v) for v in (m.kernel_size, m.stride, m.padding, m.dilation)]
        if None in sides or sides[3] != 1 or len(shape) != 3 or m.ceil_mode or m.return_indices:
            raise self._refusal(n, f"{m!r} of {shape}")
        k, stride, padding = (side or 0 for side in sides[:3])
        size = [(edge + 2 * padding - k) // stride + 1 for edge in shape[1:]]
        if min(size) < 1:
            raise self._refusal(n, f"{m!r} of {shape}")
        return self._emit(MaxPool(self._name(n), (x,), (shape[0], *size), k, stride, padding))

    def _fused_activation(self, n: fx.Node, x: str, act: Activation) -> str:
        before = self.nodes.get(x)
        if not isinstance(before, Add) or before.act != "none" or x in self.shared:
            before = self._fusable(n, x, act)
        self.nodes[x] = replace(before, act=act)
        return x

    def _hard_sigmoid(self, n: fx.Node, x: str) -> str:
        """relu6(x + 3) / 6 is x / 6 + 1/2 clipped to [0, 1]: the first half goes into weights."""
        before = self._fusable(n, x, "hard-sigmoid")
        weight, bias = before.weight / np.float32(6), before.bias / np.float32(6)
        self.nodes[x] = replace(before, weight=weight, bias=bias + np.float32(0.5), act="unit")
        return x

    def _mul(self, n: fx.Node, x: str, y: str) -> str:
        for a, b in ((x, y), (y, x)):
            shape = self._shape(a)
            if len(shape) == 3 and self._shape(b) == (shape[0], 1, 1):
                return self._emit(Mul(self._name(n, "mul"), (a, b), shape))
        raise self._refusal(n, f"a product of {self._shape(x)} and {self._shape(y)}")

    def _fusable(self, n: fx.Node, x: str, what: str) -> Conv | Linear:
        before = self.nodes.get(x)
        if not isinstance(before, Conv | Linear) or before.act != "none" or x in self.shared:
            raise self._refusal(
                n,
                f"{what} that does not follow a convolution or fully connected layer of its own"
                + (", or an addition" if what.startswith("relu") else ""),
            )
        return before

    def _mean(self, n: fx.Node, x: str, keep: bool) -> str:
        shape = self._shape(x)
        if len(shape) != 3:
            raise self._refusal(n, f"a global average of {shape}")
        shape = (shape[0], 1, 1) if keep else shape[:1]
        return self._emit(Mean(self._name(n, "mean"), (x,), shape))

    def _flatten(self, n: fx.Node, x: str) -> str:
        pool = self.nodes.get(x)
        if isinstance(pool, Mean) and x not in self.shared:
            self.nodes[x] = replace(pool, shape=pool.shape[:1])
        elif len(self._shape(x)) != 1:
            raise self._refusal(n, f"flattening {self._shape(x)}; pool it globally just before")
        return x

    def _source(self, n: fx.Node, k: int = 0) -> str:
        source = n.args[k] if k < len(n.args) else None
        if not isinstance(source, fx.Node):
            raise self._refusal(n, "an operand that is not a tensor")
        return self.value[source]

    def _in_place(self, n: fx.Node) -> bool:
        """Whether it writes over its first operand, and gives that."""
        if n.op == "call_module":
            return bool(getattr(self.modules[str(n.target)], "inplace", False))
        at = _INPLACE.get(n.target, len(n.args))
        positional = n.args[1 + at : 2 + at]
        return bool(n.kwargs.get("inplace", positional == (True,))) or n.target in _OVER

    def _memory_of(self, n: fx.Node) -> fx.Node:
        kind = _FUNCTIONS.get(n.target) if n.op != "call_module" else self._module_kind(n)
        if n.all_input_nodes and (kind in _SAME_MEMORY or self._in_place(n)):
            return self.memory[n.all_input_nodes[0]]
        return n

    def _module_kind(self, n: fx.Node) -> str | None:
        m = self.modules[str(n.target)]
        return "flatten" if isinstance(m, nn.Flatten) else _ACTIVATIONS.get(type(m))

    def _read_elsewhere(self, n: fx.Node) -> bool:
        """Whether anything but ``n`` reads the memory that ``n`` writes over, under any name."""
        memory = self.memory[n.all_input_nodes[0]]
        names = {other for other, first in self.memory.items() if first is memory}
        readers = {user for name in names for user in name.users if not self._is_batch(user)}
        return bool(readers - names - {n})

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.input if name == INPUT else self.nodes[name].shape

    def _emit(self, node: Node) -> str:
        self.nodes[node.name] = node
        return node.name

    def _name(self, n: fx.Node, kind: str = "") -> str:
        scoped = ".".join(filter(None, (self._scope(n), kind)))
        name = str(n.target) if n.op == "call_module" else scoped
        taken = {INPUT, "output", *self.nodes}
        names = (name, *(f"{name}_{i}" for i in range(1, len(taken) + 1)))
        return next(x for x in names if x not in taken)

    def _scope(self, n: fx.Node) -> str:
        """The module in whose forward ``n`` stands; the network itself: none."""
        stack = list(n.meta.get("nn_module_stack", {}).values())
        return str(stack[-1][0]) if stack else ""

    def _same(self, n: fx.Node, want: int, have: int) -> None:
        if want != have:
            raise UsageError(f"{self._where(n)} takes {want} channels and is given {have}")

    def _where(self, n: fx.Node) -> str:
        return str(n.target) if n.op == "call_module" else n.name

    def _refusal(self, n: fx.Node, what: str) -> CapabilityError:
        return CapabilityError(
            f"cannot export {what} (at {self._where(n)}); a network may hold: convolution, batch "
            "normalisation, ReLU, ReLU6, hard-swish, hard-sigmoid, addition, product of a map and "
            "a gate, max pool, global average pool, fully connected"
        )


def _side(value: int | tuple[int, ...]) -> int | None:
    """That of a square; None of another rectangle."""
    sides = {value} if isinstance(value, int) else {*value}
    return sides.pop() if len(sides) == 1 else None


def _axes(n: fx.Node) -> tuple[object, ...]:
    axes = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", ())
    return tuple(axes) if isinstance(axes, list | tuple) else ()


def _array(t: Tensor) -> np.ndarray:
    out: np.ndarray = t.detach().float().cpu().contiguous().numpy().copy()
    return out


def _bias(t: Tensor | None, channels: int) -> np.ndarray:
    return np.zeros(channels, np.float32) if t is None else _array(t)
