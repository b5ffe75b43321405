"""TFLite (LiteRT): NHWC, float32, or int8 throughout. Written with the schema classes alone."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgenas import parsing
from edgenas.artifact import Artifact, Inspection
from edgenas.errors import CapabilityError, CorruptFile
from edgenas.files import aside
from edgenas.graph import INPUT, Add, Conv, Graph, HardSwish, Linear, MaxPool, Mean, Mul, Node
from edgenas.quantization import (
    HALF,
    SIXTH,
    UNIT,
    Quantized,
    Scale,
    by_channel,
    by_tensor,
    half,
    sixth,
)

__all__ = ["Tflite"]

T = TypeVar("T")
_IDENTIFIER = b"TFL3"
_METADATA = "edgenas"
Written = dict[tuple[int, int], int]  # a zero point and channels -> where its vector was written
_Op = schema.BuiltinOperator
_Options = schema.BuiltinOptions
_DTYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
}
# The first version of an operator that has int8, where that is not 1.
_INT8_VERSION = {
    _Op.CONV_2D: 3,
    _Op.DEPTHWISE_CONV_2D: 3,
    _Op.FULLY_CONNECTED: 4,
    _Op.ADD: 2,
    _Op.MUL: 2,
    _Op.MEAN: 2,
    _Op.PAD: 2,
    _Op.MAX_POOL_2D: 2,
}
_HELD_VERSION = {  # where weights are not float32
    _Op.CONV_2D: 5,
    _Op.DEPTHWISE_CONV_2D: 6,
    _Op.FULLY_CONNECTED: 9,
    _Op.DEQUANTIZE: 5,
}
_Fused = schema.ActivationFunctionType
_ACTIVATIONS = {
    "none": _Fused.NONE, "relu": _Fused.RELU, "relu6": _Fused.RELU6, "unit": _Fused.NONE,
}  # fmt: skip
# Steps of what an operator writes that a step of what it reads may be worth. From 128 on LiteRT's
# ADD wraps around at 2^15 steps, from 256 on XNNPACK takes none of them, or refuses the file.
_WORTH = 64
_DATA_MOVEMENT = frozenset({"PAD", "PADV2", "RESHAPE", "TRANSPOSE", "QUANTIZE", "DEQUANTIZE"})


@dataclass(frozen=True)
class Tflite:
    """Writes and inspects ``.tflite`` files."""

    format: ClassVar[str] = "tflite"

    def network(
        self, graph: Graph, path: Path, metadata: Mapping[str, str], batch: int | None = None
    ) -> Artifact:
        """(batch, h, w, c) float32 or int8 in, (batch, ...) of the same type out; 1 if not said.

        Interpreters resize it. With ranges and the input in ``floats``, both ends are float32.
        """
        content = _Writer(graph, batch or 1).file({**metadata, **graph.facts})
        with aside(path) as temporary:
            temporary.write_bytes(content)
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def operator(self, graph: Graph, path: Path) -> Artifact:
        """As ``network``, whose ends are integers already."""
        # Thrown away once timed: not worth a sync, which costs ten times the writing.
        path.write_bytes(_Writer(graph.inner).file(graph.facts))
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def inspect(self, path: Path) -> Inspection:
        """Counts the operators of the file. Raises CorruptFile."""
        try:
            return _inspect(path.read_bytes())
        except Exception as e:  # an offset that leads nowhere can end as anything
            reason = (str(e).splitlines() or [""])[0]
            reason = reason if type(e) is ValueError else f"{type(e).__name__} {reason}"
            raise CorruptFile(f"{path} cannot be read as TFLite: {reason}") from e


def _inspect(content: bytes) -> Inspection:
    if content[4:8] != _IDENTIFIER:
        raise ValueError(f"bytes 4 to 7 are {content[4:8]!r}, not {_IDENTIFIER!r}")
    model = schema.Model.GetRootAs(content)
    if (graphs := model.SubgraphsLength()) != 1:
        raise ValueError(f"it has {graphs} graphs, not one")
    graph, left = model.Subgraphs(0), _Left(len(content))
    names = {v: k for k, v in vars(_Op).items() if isinstance(v, int)}
    types = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    codes = [
        max(c.BuiltinCode(), c.DeprecatedBuiltinCode())
        for c in left.each(model.OperatorCodesLength(), model.OperatorCodes)
    ]
    tensors = [types[t.Type()] for t in left.each(graph.TensorsLength(), graph.Tensors)]
    kinds, floats = [], []
    for op in left.each(graph.OperatorsLength(), graph.Operators):
        kind = names[codes[op.OpcodeIndex()]]
        used = {
            tensors[i]
            for length, ends in ((op.InputsLength, op.Inputs), (op.OutputsLength, op.Outputs))
            for i in left.each(length(), ends)
            if i >= 0
        }
        kinds.append(kind)
        if kind not in _DATA_MOVEMENT and not used <= {"int8", "uint8", "int32"}:
            floats.append(kind)
    compute = sum(kind not in _DATA_MOVEMENT for kind in kinds)
    ends = ((graph.InputsLength(), graph.Inputs), (graph.OutputsLength(), graph.Outputs))
    dtypes = [tensors[next(left.each(*of))] for of in ends]
    metadata: dict[str, str] = {}
    for entry in left.each(model.MetadataLength(), model.Metadata):
        if left.spend(entry.Name() or b"") == _METADATA.encode():
            said = parsing.json_value(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
            metadata |= {str(key): str(value) for key, value in said.items()}
    return Inspection(
        compute, compute - len(floats), tuple(sorted(floats)), kinds.count("TRANSPOSE"),
        dtypes[0], dtypes[1], metadata,
    )  # fmt: skip


class _Left:
    """How much of a file is left to be read: parts that overlap could be read without end."""

    def __init__(self, size_bytes: int) -> None:
        self.most = self.bytes = 4 * size_bytes

    def each(self, length: int, part: Callable[[int], T]) -> Iterator[T]:
        """The parts of a vector. Raises ValueError."""
        for number in range(length):
            self._less(4)  # a number, or where a part stands
            yield part(number)

    def spend(self, text: bytes) -> bytes:
        """``text``, which was read. Raises ValueError."""
        self._less(len(text))
        return text

    def _less(self, size_bytes: int) -> None:
        self.bytes -= size_bytes
        if self.bytes < 0:
            raise ValueError(
                f"its parts overlap: they are more than the {self.most // 4} bytes that it has"
            )


class _Writer:
    """A graph as the tables of one file."""

    def __init__(self, graph: Graph, batch: int = 1) -> None:
        self.graph, self.batch = graph, batch
        self.integers = None if graph.ranges is None else Quantized(graph)
        self.converted: dict[str, int] = {}  # a tensor that is read as the other of its two kinds
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = "edgenas"
        self.model.buffers = [schema.BufferT()]  # the first is the empty one
        self.model.operatorCodes = []
        self.codes: dict[int, int] = {}
        held = {} if graph.held == "fp32" else _HELD_VERSION
        self.versions: Mapping[int, int] = held if graph.ranges is None else _INT8_VERSION
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.values: dict[str, int] = {}
        self.written: Written = {}

    def file(self, metadata: Mapping[str, str]) -> bytes:
        self.values[INPUT] = self.value(INPUT, self.graph.input)
        for node in self.graph.nodes:
            self.values[node.name] = self.lower(node)
        ends = self.values[INPUT], self.read(self.graph.output.name, INPUT)
        self.tensors[ends[1]].name = "output"
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = [ends[0]], [ends[1]]
        self.model.subgraphs = [graph]
        self.model.signatureDefs = [_signature(*ends)]
        entry = schema.MetadataT()
        entry.name, entry.buffer = _METADATA, self.buffer(json.dumps(dict(metadata)).encode())
        self.model.metadata = [entry]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def lower(self, n: Node) -> int:
        match n:
            case Conv():
                return self.conv(n)
            case Linear():
                options = schema.FullyConnectedOptionsT()
                options.asymmetricQuantizeInputs = self.graph.held == "int8-dynamic"
                inputs = [self.read(n.inputs[0], n.name), *self.weights(n, 0)]
                return self.activated(
                    n, _Op.FULLY_CONNECTED, inputs, _Options.FullyConnectedOptions, options
                )
            case Add():
                x, y = (self.read(i, n.name) for i in n.inputs)
                out = self.value(n.name, n.shape)
                total = self.coarse(out, self.step(x) + self.step(y))
                return self.fine(self.add(x, y, total, self.fused(n)), out)
            case MaxPool():
                return self.max_pool(n)
            case Mul():
                x, y = (self.read(i, n.name) for i in n.inputs)
                out = self.value(n.name, n.shape)
                product = self.coarse(out, self.step(x) * 255 * self.step(y))
                return self.fine(self.mul(x, y, product), out)
            case Mean():
                axes = self.constant(f"{n.name}/axes", np.array([1, 2], np.int32))
                options = schema.ReducerOptionsT()
                options.keepDims = len(n.shape) == 3
                x, out = self.read(n.inputs[0], n.name), self.value(n.name, n.shape)
                mean = self.coarse(out, self.step(x))
                self.op(_Op.MEAN, [x, axes], mean, _Options.ReducerOptions, options)
                return self.fine(mean, out)
            case HardSwish():
                return self.hard_swish(n)
        raise TypeError(f"not an operator of a graph: {type(n).__name__}")

    def conv(self, n: Conv) -> int:
        shape = self.graph.shape(n.inputs[0])
        depthwise = n.groups > 1
        if n.groups not in (1, shape[0]):
            raise CapabilityError(
                f"TFLite has no convolution in {n.groups} groups of {shape[0]} channels (at "
                f"{n.name}); use 1 group or {shape[0]}"
            )
        value, padding = self.padded(n, n.weight.shape[2])
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding = padding
        options.strideH = options.strideW = n.stride
        options.dilationHFactor = options.dilationWFactor = 1
        if depthwise:
            options.depthMultiplier = n.weight.shape[0] // shape[0]
        return self.activated(
            n,
            _Op.DEPTHWISE_CONV_2D if depthwise else _Op.CONV_2D,
            [value, *self.weights(n, 3 if depthwise else 0)],
            _Options.DepthwiseConv2DOptions if depthwise else _Options.Conv2DOptions,
            options,
        )

    def activated(
        self, n: Conv | Linear, code: int, inputs: list[int], kind: int, options: Any
    ) -> int:
        """An operator with its activation."""
        options.fusedActivationFunction = self.fused(n)
        out = self.value(n.name, n.shape)
        if not self.real(n.name):
            worth = self.step(inputs[0]) * self.step(inputs[1])
            y = self.coarse(out, worth, self.room(n))
            return self.fine(self.op(code, inputs, y, kind, options), out)
        if n.act != "unit":
            return self.op(code, inputs, out, kind, options)
        # RELU_0_TO_1 has no kernel in XNNPACK and would split the network.
        options.fusedActivationFunction = _Fused.RELU_N1_TO_1
        y = self.tensor(f"{n.name}/symmetric", self.tensors[out].shape, None)
        return self.op(
            _Op.RELU, [self.op(code, inputs, y, kind, options)], out, _Options.NONE, None
        )

    def fused(self, n: Conv | Linear | Add) -> int:
        """Of float; integers saturate where the activation of ``n`` clips.

        Asked for beside that, 6 overflows an int32 of steps where a tensor is next to nothing.
        """
        act: int = _ACTIVATIONS[n.act] if self.real(n.name) else _Fused.NONE
        return act

    def max_pool(self, n: MaxPool) -> int:
        least = {c.name: c for c in self.graph.nodes}.get(n.inputs[0])
        if n.padding and (not isinstance(least, Conv | Linear | Add) or least.act == "none"):
            raise CapabilityError(
                f"TFLite pads with zeros, so that the max pool {n.name} must follow a ReLU"
            )
        options = schema.Pool2DOptionsT()
        value, options.padding = self.padded(n, n.k)
        options.strideH = options.strideW = n.stride
        options.filterHeight = options.filterWidth = n.k
        out = self.value(n.name, n.shape)
        return self.op(_Op.MAX_POOL_2D, [value], out, _Options.Pool2DOptions, options)

    def padded(self, n: Conv | MaxPool, k: int) -> tuple[int, int]:
        """What ``n`` reads, zeros around it where neither VALID nor SAME pads as PyTorch does."""
        x, shape = self.read(n.inputs[0], n.name), self.graph.shape(n.inputs[0])
        s, p = n.stride, n.padding
        if p == 0:
            return x, schema.Padding.VALID
        sizes = list(zip(shape[1:], n.shape[1:], strict=True))
        after = [(out - 1) * s + k - size - p for size, out in sizes]  # that is read at all
        if set(after) == {p} and all(out == -(-size // s) for size, out in sizes):
            return x, schema.Padding.SAME
        after = [max(a, 0) for a in after]
        pads = np.array([[0, 0], [p, after[0]], [p, after[1]], [0, 0]], np.int32)
        padded = (self.batch, shape[1] + p + after[0], shape[2] + p + after[1], shape[0])
        y = self.tensor(f"{n.name}/padded", padded, self.scale(n.inputs[0], n.name))
        inputs = [x, self.constant(f"{n.name}/pads", pads)]
        options = schema.PadOptionsT()
        return self.op(_Op.PAD, inputs, y, _Options.PadOptions, options), schema.Padding.VALID

    def hard_swish(self, n: HardSwish) -> int:
        x, out = self.read(n.inputs[0], n.name), self.value(n.name, n.shape)
        if self.real(n.name):
            options = schema.HardSwishOptionsT()
            return self.op(_Op.HARD_SWISH, [x], out, _Options.HardSwishOptions, options)
        # HARD_SWISH itself has no int8 kernel in XNNPACK and would split the network.
        shape = self.tensors[x].shape
        scale = self.scale(n.inputs[0], n.name)
        assert scale is not None
        if scale.scale >= 3:  # no step but zero lies where it is not x or 0; and ADD would wrap
            return self.fine(x, out, _Fused.RELU)
        by_six = self.tensor(f"{n.name}/sixth", shape, sixth(scale))
        gate = self.tensor(f"{n.name}/gate", shape, UNIT)
        self.mul(x, self.greatest(f"{n.name}/one_sixth", SIXTH), by_six)
        self.add(by_six, self.greatest(f"{n.name}/one_half", HALF), gate)
        return self.mul(x, gate, out)

    def add(self, x: int, y: int, out: int, act: int = _Fused.NONE) -> int:
        options = schema.AddOptionsT()
        options.fusedActivationFunction = act
        return self.op(_Op.ADD, [x, y], out, _Options.AddOptions, options)

    def mul(self, x: int, y: int, out: int, act: int = _Fused.NONE) -> int:
        options = schema.MulOptionsT()
        options.fusedActivationFunction = act
        return self.op(_Op.MUL, [x, y], out, _Options.MulOptions, options)

    def step(self, tensor: int) -> float:
        """What one more is worth, of its channels the most; 0 in float."""
        parameters = self.tensors[tensor].quantization
        return float(parameters.scale.max()) if parameters is not None else 0.0

    def room(self, n: Conv | Linear) -> float:
        """How often its sum of products fits into the int32 in which LiteRT multiplies it."""
        assert self.integers is not None
        bias = int(np.abs(self.integers.weights(n).bias.astype(np.int64)).max())
        products = 255 * 127 * n.weight[0].size
        return float(min(max(2**30 / (products + bias), 1), _WORTH))

    def coarse(self, out: int, worth: float, most: float = _WORTH) -> int:
        """``out``, or one like it in coarser steps: ``most`` to ``worth``, a step of an operand."""
        if worth < most * self.step(out) or not worth:
            return out
        t = self.tensors[out]
        zero_point = int(t.quantization.zeroPoint[0]) + 128
        return self.tensor(
            f"{t.name}/{len(self.tensors)}", t.shape, Scale(np.float32(worth / most), zero_point)
        )

    def fine(self, y: int, out: int, act: int = _Fused.NONE) -> int:
        """``y`` in the steps of ``out``, where it is another, in as many steps as that takes."""
        while y != out:
            one = self.greatest(f"{self.tensors[y].name}/one", UNIT)
            y = self.mul(y, one, self.coarse(out, self.step(y)), act)
        return out

    def weights(self, n: Conv | Linear, axis: int) -> tuple[int, int]:
        """Weight with output channels at ``axis`` of the file's layout; bias."""
        w, b = f"{n.name}/weight", f"{n.name}/bias"
        layout = (1, 2, 3, 0) if axis == 3 else (0, 2, 3, 1)
        if self.integers is None or self.real(n.name):
            return self.held(n, layout, axis), self.constant(b, n.bias)
        q = self.integers.weights(n)
        return (
            self.constant(w, _moved(q.weight, layout), q.scales, axis),
            self.constant(b, q.bias, q.bias_scales),
        )

    def value(self, name: str, shape: tuple[int, ...]) -> int:
        """A tensor of the graph: maps (batch, h, w, c), vectors (batch, c)."""
        return self.tensor(name, (self.batch, *shape[1:], shape[0]), self.scale(name, name))

    def real(self, name: str) -> bool:
        """Whether the tensor or node ``name`` is float32."""
        return self.integers is None or name in self.graph.floats

    def scale(self, name: str, reader: str) -> Scale | None:
        """Of the tensor ``name``, as ``reader`` takes it."""
        return None if self.integers is None or self.real(reader) else self.integers.scales[name]

    def read(self, name: str, reader: str) -> int:
        """The tensor ``name``, in float or integers as the node ``reader`` computes."""
        x = self.values[name]
        if self.real(name) == self.real(reader):
            return x
        if name not in self.converted:
            to = "real" if self.real(reader) else "q"
            shape, scale = self.tensors[x].shape, self.scale(name, reader)
            y = self.tensor(f"{name}/{to}", shape, scale)
            code = _Op.DEQUANTIZE if scale is None else _Op.QUANTIZE
            self.converted[name] = self.op(code, [x], y, _Options.NONE, None)
        return self.converted[name]

    def held(self, n: Conv | Linear, layout: Sequence[int], axis: int) -> int:
        """The weight of ``n`` as float32, out of what the graph holds weights in."""
        name = f"{n.name}/weight"
        match self.graph.held:
            case "fp16":
                return self.restored(name, self.constant(f"{name}/half", _moved(half(n), layout)))
            case "int8-weights" | "int8-dynamic":
                # with several scales tflite-runtime 2.14 computes a fully connected layer as zero
                one = isinstance(n, Linear) and self.graph.held == "int8-dynamic"
                q, scales = (by_tensor if one else by_channel)(n.weight)
                kept = self.constant(f"{name}/q", _moved(q, layout), scales, axis)
                return kept if self.graph.held == "int8-dynamic" else self.restored(name, kept)
        return self.constant(name, _moved(n.weight, layout))

    def restored(self, name: str, held: int) -> int:
        out = self.tensor(name, self.tensors[held].shape, None)
        return self.op(_Op.DEQUANTIZE, [held], out, _Options.NONE, None)

    def tensor(self, name: str, shape: Sequence[int], scale: Scale | None) -> int:
        t = schema.TensorT()
        t.name, t.shape, t.buffer = name, list(shape), 0
        t.type = schema.TensorType.FLOAT32
        if scale is not None:
            t.type = schema.TensorType.INT8
            t.quantization = _Parameters(
                np.atleast_1d(scale.scale), scale.zero_point - 128, 0, self.written
            )
        self.tensors.append(t)
        return len(self.tensors) - 1

    def greatest(self, name: str, scale: Scale) -> int:
        """A constant: the greatest number that ``scale`` can represent."""
        index = self.tensor(name, (1,), scale)
        self.tensors[index].buffer = self.buffer(b"\x7f")
        return index

    def constant(
        self, name: str, value: np.ndarray, scales: np.ndarray | None = None, axis: int = 0
    ) -> int:
        t = schema.TensorT()
        t.name, t.shape, t.type = name, list(value.shape), _DTYPES[value.dtype]
        t.buffer = self.buffer(np.ascontiguousarray(value).tobytes())
        if scales is not None:
            t.quantization = _Parameters(scales, 0, axis, self.written)
        self.tensors.append(t)
        return len(self.tensors) - 1

    def buffer(self, content: bytes) -> int:
        b = schema.BufferT()
        b.data = np.frombuffer(content, np.uint8)
        self.model.buffers.append(b)
        return len(self.model.buffers) - 1

    def op(self, code: int, inputs: list[int], output: int, kind: int, options: Any) -> int:
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = self.code(code), inputs, [output]
        op.builtinOptionsType, op.builtinOptions = kind, options
        self.operators.append(op)
        return output

    def code(self, code: int) -> int:
        if code not in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
            entry.version = self.versions.get(code, 1)
            self.codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(entry)
        return self.codes[code]


def _moved(weight: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    return weight.transpose(axes) if weight.ndim == 4 else weight


class _Parameters(schema.QuantizationParametersT):  # type: ignore[misc]  # it says no types
    """Zero points, 8 bytes a channel, are written once for all tensors of as many channels."""

    def __init__(self, scales: np.ndarray, zero_point: int, axis: int, written: Written) -> None:
        super().__init__()
        self.scale = scales.astype(np.float32)
        self.zeroPoint = np.full(len(scales), zero_point, np.int64)
        self.quantizedDimension = axis
        self.written = written

    def Pack(self, builder: flatbuffers.Builder) -> int:
        key = int(self.zeroPoint[0]), len(self.zeroPoint)
        if key not in self.written:
            self.written[key] = builder.CreateNumpyVector(self.zeroPoint)
        scale = builder.CreateNumpyVector(self.scale)
        schema.QuantizationParametersStart(builder)
        schema.QuantizationParametersAddScale(builder, scale)
        schema.QuantizationParametersAddZeroPoint(builder, self.written[key])
        schema.QuantizationParametersAddQuantizedDimension(builder, self.quantizedDimension)
        end: int = schema.QuantizationParametersEnd(builder)
        return end


def _signature(x: int, y: int) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    signature.inputs[0].name, signature.inputs[0].tensorIndex = INPUT, x
    signature.outputs[0].name, signature.outputs[0].tensorIndex = "output", y
    return signature
