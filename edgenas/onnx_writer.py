"""A graph as the nodes of an ONNX file; how tensors are held is the subclass's business."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgenas.graph import INPUT, Add, Conv, Graph, HardSwish, Linear, MaxPool, Mean, Mul, Node
from edgenas.quantization import TOP

OUTPUT = "output"
PREFIX = "edgenas."  # of metadata
_OPSET, _IR_VERSION = 17, 8  # read by ONNX Runtime since 1.13


def told(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a file. Raises ValueError where they are no text."""
    pairs = [(entry.key, entry.value) for entry in model.metadata_props]
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        raise ValueError("its metadata are not UTF-8")
    return {key.removeprefix(PREFIX): value for key, value in pairs}


class Writer(abc.ABC):
    """Nodes and constants of one file. ``values``: tensor of the graph -> name of what holds it."""

    def __init__(self, batch: int | str) -> None:
        self.batch = batch
        self.values = {INPUT: INPUT}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.ends: list[onnx.ValueInfoProto] = []

    @abc.abstractmethod
    def enter(self) -> None:
        """Store a float32 input."""

    @abc.abstractmethod
    def leave(self, node: Node) -> None:
        """Give the output as float32."""

    @abc.abstractmethod
    def read(self, name: str, node: Node) -> str:
        """The tensor ``name`` of the graph, for ``node``."""

    @abc.abstractmethod
    def store(self, node: Node, y: str) -> None:
        """``y`` is what ``node`` computes."""

    @abc.abstractmethod
    def weights(self, node: Conv | Linear) -> list[str]:
        """Weight and bias."""

    @abc.abstractmethod
    def activated(self, node: Conv | Linear | Add, y: str) -> str:
        """``y`` after the activation of ``node``."""

    @abc.abstractmethod
    def hard_swish(self, node: HardSwish) -> str:
        """Of the input of ``node``."""

    def lower(self, graph: Graph) -> None:
        for node in graph.nodes:
            self.store(node, self._computed(node))
            if isinstance(node, Mean) and len(node.shape) == 1:
                pooled = self.values[node.name]
                self.values[node.name] = self.op("Flatten", [pooled], f"{node.name}/flat", axis=1)

    def _computed(self, n: Node) -> str:
        match n:
            case Conv() | Linear():
                return self.activated(n, self.product(n))
            case Add():
                y = self.op("Add", [self.read(x, n) for x in n.inputs], f"{n.name}/add")
                return self.activated(n, y)
            case MaxPool():
                x = self.read(n.inputs[0], n)
                return self.op("MaxPool", [x], f"{n.name}/max", **self.pooling(n))
            case Mul():
                return self.op("Mul", [self.read(x, n) for x in n.inputs], f"{n.name}/mul")
            case Mean():
                return self.op("GlobalAveragePool", [self.read(n.inputs[0], n)], f"{n.name}/mean")
            case HardSwish():
                return self.hard_swish(n)
        raise TypeError(f"not an operator of a graph: {type(n).__name__}")

    def product(self, n: Conv | Linear) -> str:
        """Convolution or matrix product, with its bias."""
        inputs = [self.read(n.inputs[0], n), *self.weights(n)]
        if isinstance(n, Linear):
            return self.op("Gemm", inputs, f"{n.name}/gemm", transB=1)
        return self.op("Conv", inputs, f"{n.name}/conv", **self.window(n))

    def window(self, n: Conv) -> dict[str, Any]:
        return {
            "kernel_shape": n.weight.shape[2:], "strides": [n.stride] * 2, "pads": [n.padding] * 4,
            "group": n.groups,
        }  # fmt: skip

    def pooling(self, n: MaxPool) -> dict[str, Any]:
        return {"kernel_shape": [n.k] * 2, "strides": [n.stride] * 2, "pads": [n.padding] * 4}

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def border(self, name: str, dtype: int, shape: Sequence[int]) -> None:
        self.ends.append(helper.make_tensor_value_info(name, dtype, [self.batch, *shape]))

    def file(self, metadata: Mapping[str, str]) -> bytes:
        self.nodes[-1].output[0] = OUTPUT
        graph = helper.make_graph(
            self.nodes, "edgenas", self.ends[:1], self.ends[1:], self.constants
        )
        domains = {n.domain for n in self.nodes} - {""}
        opsets = [("", _OPSET), *((domain, 1) for domain in sorted(domains))]
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*o) for o in opsets],
            ir_version=_IR_VERSION,
            producer_name="edgenas",
        )
        helper.set_model_props(model, {PREFIX + k: v for k, v in metadata.items()})
        content: bytes = model.SerializeToString()
        return content


class FloatWriter(Writer):
    """All of it as float32."""

    def enter(self) -> None:
        pass

    def leave(self, node: Node) -> None:
        pass

    def read(self, name: str, node: Node) -> str:
        return self.values[name]

    def store(self, node: Node, y: str) -> None:
        self.values[node.name] = y

    def weights(self, node: Conv | Linear) -> list[str]:
        return [
            self.constant(f"{node.name}/weight", node.weight),
            self.constant(f"{node.name}/bias", node.bias),
        ]

    def activated(self, node: Conv | Linear | Add, y: str) -> str:
        if node.act == "none":
            return y
        if node.act == "relu":
            return self.op("Relu", [y], f"{node.name}/relu")
        low = self.constant(f"{node.name}/low", np.float32(0))
        high = self.constant(f"{node.name}/high", np.float32(TOP[node.act]))
        return self.op("Clip", [y, low, high], f"{node.name}/{node.act}")

    def hard_swish(self, node: HardSwish) -> str:
        return self.op("HardSwish", [self.read(node.inputs[0], node)], f"{node.name}/hardswish")
