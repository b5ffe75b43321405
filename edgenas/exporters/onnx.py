"""ONNX: float32, or QDQ with uint8 activations and int8 weights per channel.

ONNX Runtime turns every DequantizeLinear, operator, QuantizeLinear into one integer kernel.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgenas.artifact import Artifact, Inspection
from edgenas.errors import CorruptFile
from edgenas.files import aside
from edgenas.graph import INPUT, Add, Conv, Graph, HardSwish, Linear, MaxPool, Node
from edgenas.onnx_optimiser import optimised
from edgenas.onnx_weights import WRITERS
from edgenas.onnx_writer import OUTPUT, FloatWriter, Writer, told
from edgenas.quantization import HALF, UNIT, Quantized, Scale, sixth

__all__ = ["Onnx"]

_DATA_MOVEMENT = frozenset({
    "QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Flatten", "Squeeze", "Identity",
    "Unsqueeze", "Pad", "ReorderInput", "ReorderOutput",
})  # fmt: skip
# What computes on integers beside QLinear..., and what leaves them as they come.
_INTEGER = frozenset({
    "QGemm", "NhwcMaxPool", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
})  # fmt: skip
_CARRIED = frozenset({"MaxPool", "Transpose", "Reshape", "Flatten", "Identity"})


@dataclass(frozen=True)
class Onnx:
    """Writes and inspects ``.onnx`` files."""

    format: ClassVar[str] = "onnx"

    def network(
        self, graph: Graph, path: Path, metadata: Mapping[str, str], batch: int | None = None
    ) -> Artifact:
        """float32 in and out: (batch, c, h, w) -> (batch, ...)."""
        content = _content(graph, batch or "batch", metadata)
        with aside(path) as temporary:
            temporary.write_bytes(content)
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def operator(self, graph: Graph, path: Path) -> Artifact:
        """Batch 1. int8: uint8 at both ends, maps (1, h, w, c), as integer kernels keep them."""
        # Thrown away once timed: not worth a sync, which costs ten times the writing.
        path.write_bytes(_content(graph, 1, {}) if graph.ranges is None else _integers(graph))
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def inspect(self, path: Path) -> Inspection:
        """Counts what ONNX Runtime executes after its own optimisation. Raises CorruptFile."""
        try:
            return _inspected(path)
        except FileNotFoundError as e:
            raise CorruptFile(f"there is no {e.filename or path}") from e
        except OSError:
            raise
        except Exception as e:  # protobuf and ONNX Runtime share no class of errors
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise CorruptFile(f"{path} cannot be loaded as ONNX: {reason}") from e


def _inspected(path: Path) -> Inspection:
    model = onnx.load(path, load_external_data=False)
    size = path.stat().st_size + sum(_beside(model, path.parent))
    run = onnx.load_from_string(optimised(path, size))
    types = [e.type.tensor_type for e in (model.graph.input[0], model.graph.output[0])]
    kinds = [n.op_type for n in run.graph.node]
    compute = [k for k in kinds if k not in _DATA_MOVEMENT]
    floats = _floats(run.graph.node)
    dtypes = [helper.tensor_dtype_to_np_dtype(t.elem_type).name for t in types]
    metadata = told(model)
    return Inspection(
        len(compute), len(compute) - len(floats), tuple(floats), kinds.count("Transpose"),
        dtypes[0], dtypes[1], metadata,
    )  # fmt: skip


def _beside(model: onnx.ModelProto, folder: Path) -> Iterator[int]:
    """Bytes of each file beside that holds weights of ``model``."""
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in names:
        if (folder / name).is_file() and ".." not in Path(name).parts:
            yield (folder / name).stat().st_size


def _floats(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Kinds of the operators that compute in float, sorted; ``nodes`` in order of execution."""
    rounded: set[str] = set()  # tensors
    floats = []
    for n in nodes:
        kind = n.op_type
        integer = kind.startswith("QLinear") or kind in _INTEGER
        if integer or kind == "QuantizeLinear" or (kind in _CARRIED and n.input[0] in rounded):
            rounded.update(n.output)
        elif kind not in _DATA_MOVEMENT:
            floats.append(kind)
    return sorted(floats)


def _content(graph: Graph, batch: int | str, metadata: Mapping[str, str]) -> bytes:
    if graph.ranges is None:
        w: Writer = WRITERS[graph.held](batch)
    else:  # what takes the input in float reads it as it comes
        w = _Integer(batch, Quantized(replace(graph, floats=graph.floats | {INPUT})))
    w.border(INPUT, TensorProto.FLOAT, graph.input)
    w.enter()
    w.lower(graph)
    w.leave(graph.output)
    w.border(OUTPUT, TensorProto.FLOAT, graph.output.shape)
    return w.file({**metadata, **graph.facts})


def _integers(graph: Graph) -> bytes:
    """With integers at both ends, channels last."""
    w = _Integer(1, Quantized(graph.inner))
    if isinstance(pool := graph.nodes[0], MaxPool) and len(graph.nodes) == 1:
        # ONNX Runtime takes its channels-last kernel only behind a convolution: asked for here.
        w.border(INPUT, TensorProto.UINT8, _channels_last(graph.input))
        w.op("NhwcMaxPool", [INPUT], OUTPUT, **w.pooling(pool), domain="com.microsoft")
        w.border(OUTPUT, TensorProto.UINT8, _channels_last(graph.output.shape))
    else:
        w.border(INPUT, TensorProto.UINT8, _channels_last(graph.input))
        w.values[INPUT] = w.op("Transpose", [INPUT], f"{INPUT}/nchw", perm=[0, 3, 1, 2])
        w.lower(graph)
        y = w.integer(graph.output.name)
        if len(graph.output.shape) == 3:
            w.op("Transpose", [y], f"{OUTPUT}/nhwc", perm=[0, 2, 3, 1])
        w.border(OUTPUT, TensorProto.UINT8, _channels_last(graph.output.shape))
    return w.file(graph.facts)


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[1:], shape[0])


class _Integer(FloatWriter):
    """``values`` holds the integers of a tensor, or what it is in float where the graph says so."""

    def __init__(self, batch: int | str, integers: Quantized) -> None:
        super().__init__(batch)
        self.integers = integers
        self.floats = integers.graph.floats
        self.constants_of: dict[Scale, list[str]] = {}
        self.rounded, self.spread = dict[str, str](), dict[str, str]()

    def leave(self, node: Node) -> None:
        if node.name not in self.floats:
            self._dequantize(self.values[node.name], self.integers.scales[node.name])

    def read(self, name: str, node: Node) -> str:
        if {name, node.name} <= self.floats:
            return self.values[name]
        if node.name in self.floats and isinstance(node, Conv | Linear):
            return self._spread(name)
        return self._dequantize(self.integer(name), self.integers.scales[name])

    def integer(self, name: str) -> str:
        """Of the tensor ``name``."""
        if name not in self.floats:
            return self.values[name]
        if name not in self.rounded:
            scale = self.integers.scales[name]
            self.rounded[name] = self._quantize(self.values[name], scale, f"{name}/q")
        return self.rounded[name]

    def store(self, node: Node, y: str) -> None:
        if node.name not in self.floats:
            y = self._quantize(y, self.integers.scales[node.name], f"{node.name}/q")
        self.values[node.name] = y

    def weights(self, node: Conv | Linear) -> list[str]:
        if node.name in self.floats:
            return super().weights(node)
        w = self.integers.weights(node)
        return [
            self._channels(f"{node.name}/weight", w.weight, w.scales, zeros=True),
            self._channels(f"{node.name}/bias", w.bias, w.bias_scales, zeros=False),
        ]

    def activated(self, node: Conv | Linear | Add, y: str) -> str:
        return super().activated(node, y) if node.name in self.floats else y

    def hard_swish(self, node: HardSwish) -> str:
        if node.name in self.floats:
            return super().hard_swish(node)
        x = node.inputs[0]
        by_six = self._dequantize(self.integer(x), sixth(self.integers.scales[x]))
        half = self._dequantize(self.constant(f"{node.name}/half", np.uint8(255)), HALF)
        gate = self.op("Add", [by_six, half], f"{node.name}/add")
        gate = self._dequantize(self._quantize(gate, UNIT, f"{node.name}/gate"), UNIT)
        return self.op("Mul", [self.read(x, node), gate], f"{node.name}/mul")

    def _quantize(self, x: str, scale: Scale, output: str) -> str:
        return self.op("QuantizeLinear", [x, *self._scale(scale)], output)

    def _dequantize(self, q: str, scale: Scale) -> str:
        return self.op("DequantizeLinear", [q, *self._scale(scale)], f"real/{len(self.nodes)}")

    def _spread(self, name: str) -> str:
        """In float, by as many scales as channels, all alike.

        Behind a single one, ONNX Runtime rounds the float weights of a convolution to 8 bits.
        """
        if name not in self.spread:
            scale, channels = self.integers.scales[name], self.integers.graph.shape(name)[0]
            inputs = [
                self.values[name],
                self.constant(f"{name}/scales", np.full(channels, scale.scale)),
                self.constant(f"{name}/zero_points", np.full(channels, scale.zero_point, np.uint8)),
            ]
            self.spread[name] = self.op("DequantizeLinear", inputs, f"{name}/real", axis=1)
        return self.spread[name]

    def _channels(self, name: str, q: np.ndarray, scales: np.ndarray, zeros: bool) -> str:
        inputs = [self.constant(f"{name}/q", q), self.constant(f"{name}/scale", scales)]
        if zeros:
            inputs.append(self.constant(f"{name}/zero_point", np.zeros(len(q), q.dtype)))
        return self.op("DequantizeLinear", inputs, name, axis=0)

    def _scale(self, scale: Scale) -> list[str]:
        if scale not in self.constants_of:
            k = len(self.constants_of)
            self.constants_of[scale] = [
                self.constant(f"scale/{k}", scale.scale),
                self.constant(f"zero_point/{k}", np.uint8(scale.zero_point)),
            ]
        return self.constants_of[scale]
