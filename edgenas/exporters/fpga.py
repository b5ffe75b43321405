"""fpga: the integers of a network, out of which edgenas/fpga compiles for its accelerator."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgenas.artifact import Artifact, Inspection
from edgenas.errors import CapabilityError
from edgenas.fpga.network import Network, Op, Scale, Weights
from edgenas.graph import Add, Conv, Graph, HardSwish, Linear, Mean, Node
from edgenas.quantization import Quantized

__all__ = ["Fpga"]


@dataclass(frozen=True)
class Fpga:
    """Writes and inspects ``.fpga`` files, with the integers of the ONNX and TFLite files."""

    format: ClassVar[str] = "fpga"

    def network(
        self, graph: Graph, path: Path, metadata: Mapping[str, str], batch: int | None = None
    ) -> Artifact:
        """One image at a time: float32 (c, h, w) is rounded by the host. Raises CapabilityError."""
        _integers(graph).save(path, {**metadata, "precision": graph.precision})
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def operator(self, graph: Graph, path: Path) -> Artifact:
        """As ``network``."""
        return self.network(graph, path, {})

    def inspect(self, path: Path) -> Inspection:
        """Counts its operators, all of them on integers. Raises CorruptFile."""
        network, metadata = Network.load(path)
        count = len(network.ops)
        return Inspection(count, count, (), 0, "float32", "float32", metadata)


def _integers(graph: Graph) -> Network:
    if graph.precision != "int8-static":
        raise CapabilityError(f"fpga files are written in int8-static only, not {graph.precision}")
    if graph.input[1] != graph.input[2]:
        raise CapabilityError(f"the accelerator takes square images, not {graph.input[1:]}")
    numbers = Quantized(graph)
    weights = {}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            held = numbers.weights(node)
            four = held.weight.reshape(*held.weight.shape[:2], *held.weight.shape[2:] or (1, 1))
            weights[node.name] = Weights(four, held.bias, held.scales)
    scales = {n: Scale(float(s.scale), s.zero_point - 128) for n, s in numbers.scales.items()}
    return Network(graph.input, tuple(map(_op, graph.nodes)), scales, weights)


def _op(node: Node) -> Op:
    """``node``; its activation is in the range of what it makes."""
    match node:
        case Conv():
            return Op(
                node.name, "conv", node.inputs, node.shape, node.stride, node.padding, node.groups
            )
        case Linear():
            return Op(node.name, "linear", node.inputs, node.shape)
        case Add():
            return Op(node.name, "add", node.inputs, node.shape)
        case Mean():
            return Op(node.name, "mean", node.inputs, node.shape)
        case HardSwish():
            return Op(node.name, "hard-swish", node.inputs, node.shape)
    raise CapabilityError(f"the accelerator has no {type(node).__name__} ({node.name})")
