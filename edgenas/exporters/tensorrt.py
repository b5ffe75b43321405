"""ONNX as TensorRT wants it: QDQ without zero points, biases and activations in float.

TensorRT fuses a DequantizeLinear, an operator with its activation, and a QuantizeLinear into one
int8 kernel, and takes neither zero points nor integer biases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgenas.artifact import Artifact, Inspection
from edgenas.errors import CapabilityError, CorruptFile
from edgenas.files import aside
from edgenas.graph import INPUT, Conv, Graph, Linear, MaxPool, Node
from edgenas.onnx_writer import OUTPUT, FloatWriter, told
from edgenas.quantization import by_channel

__all__ = ["TensorRt"]

_LIMIT = 127
_LEAST = 1e-12  # of a scale: a tensor that is always zero fits any
_COUNTED = ("Conv", "Gemm", "Add", "Mul", "MaxPool", "GlobalAveragePool", "HardSwish")


@dataclass(frozen=True)
class TensorRt:
    """Writes and inspects ``.tensorrt`` files: ONNX, of which an engine is built on the device."""

    format: ClassVar[str] = "tensorrt"

    def network(
        self, graph: Graph, path: Path, metadata: Mapping[str, str], batch: int | None = None
    ) -> Artifact:
        """float32 in and out: (batch, c, h, w) -> (batch, ...)."""
        content = _file(graph, batch or "batch", {**metadata, **graph.facts})
        with aside(path) as temporary:
            temporary.write_bytes(content)
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def operator(self, graph: Graph, path: Path) -> Artifact:
        """Batch 1; int8 is quantized from float and back at its ends, which is part of a call."""
        path.write_bytes(_file(graph, 1, graph.facts))
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def inspect(self, path: Path) -> Inspection:
        """Counts what the file asks for; only an engine tells what runs. Raises CorruptFile."""
        try:
            return _inspected(path)
        except FileNotFoundError as e:
            raise CorruptFile(f"there is no {e.filename or path}") from e
        except OSError:
            raise
        except Exception as e:  # protobuf and the checker share no class of errors
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise CorruptFile(f"{path} cannot be loaded as ONNX: {reason}") from e


def _inspected(path: Path) -> Inspection:
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    types = [e.type.tensor_type for e in (model.graph.input[0], model.graph.output[0])]
    real = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    nodes = model.graph.node
    real |= {n.output[0] for n in nodes if n.op_type == "Flatten" and n.input[0] in real}
    compute = [n for n in model.graph.node if n.op_type in _COUNTED]
    floats = sorted(n.op_type for n in compute if n.input[0] not in real)
    dtypes = [helper.tensor_dtype_to_np_dtype(t.elem_type).name for t in types]
    metadata = told(model)
    return Inspection(
        len(compute), len(compute) - len(floats), tuple(floats), 0, dtypes[0], dtypes[1],
        metadata,
    )  # fmt: skip


def _file(graph: Graph, batch: int | str, metadata: Mapping[str, str]) -> bytes:
    if graph.held != "fp32":
        raise CapabilityError(
            f"TensorRT takes no {graph.held} from a file: it chooses among its own kernels"
        )
    w = FloatWriter(batch) if graph.ranges is None else _Symmetric(batch, graph)
    w.border(INPUT, TensorProto.FLOAT, graph.input)
    w.enter()
    w.lower(graph)
    w.border(OUTPUT, TensorProto.FLOAT, graph.output.shape)
    return w.file(metadata)


class _Symmetric(FloatWriter):
    """Every tensor as int8, -127 to 127, of one scale; weights by output channel."""

    def __init__(self, batch: int | str, graph: Graph) -> None:
        super().__init__(batch)
        ranges = graph.ranges
        assert ranges is not None
        scales = {INPUT: _scale(*ranges[INPUT])}
        for n in graph.nodes:  # a max pool picks among the integers that it reads
            picks = isinstance(n, MaxPool)
            scales[n.name] = scales[n.inputs[0]] if picks else _scale(*ranges[n.name])
        self.scales = {
            name: self.constant(f"{name}/scale", scale) for name, scale in scales.items()
        }
        self.zero = self.constant("zero", np.int8(0))
        self.floats, self.rounded = graph.floats, dict[str, str]()

    def enter(self) -> None:
        self._store(INPUT, INPUT)

    def store(self, node: Node, y: str) -> None:
        self._store(node.name, y)

    def _store(self, name: str, y: str) -> None:
        self.values[name] = y if name in self.floats else self._rounded(name, y)

    def read(self, name: str, node: Node) -> str:
        if name not in self.floats or node.name in self.floats:
            return self.values[name]
        if name not in self.rounded:
            self.rounded[name] = self._rounded(name, self.values[name])
        return self.rounded[name]

    def weights(self, node: Conv | Linear) -> list[str]:
        if node.name in self.floats:
            return super().weights(node)
        q, scales = by_channel(node.weight)
        inputs = [
            self.constant(f"{node.name}/weight/q", q),
            self.constant(f"{node.name}/weight/scale", scales),
            self.constant(f"{node.name}/weight/zero", np.zeros(len(q), np.int8)),
        ]
        weight = self.op("DequantizeLinear", inputs, f"{node.name}/weight", axis=0)
        return [weight, self.constant(f"{node.name}/bias", node.bias)]

    def _rounded(self, name: str, x: str) -> str:
        held = [self.scales[name], self.zero]
        q = self.op("QuantizeLinear", [x, *held], f"{name}/q")
        return self.op("DequantizeLinear", [q, *held], f"{name}/real")


def _scale(low: float, high: float) -> np.float32:
    return np.float32(max(abs(low), abs(high), _LEAST) / _LIMIT)
