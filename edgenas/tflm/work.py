"""What a TFLite file asks of a microcontroller: the work of its operators, by the file alone."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgenas.errors import CapabilityError, CorruptFile

_KINDS = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
_TYPES = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
_MULTIPLY = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# A few instructions a value, whatever they do to it.
_MOVE = frozenset({
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "DEQUANTIZE", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC",
    "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "PAD", "PADV2", "PRELU", "QUANTIZE", "RELU",
    "RELU6", "RESIZE_NEAREST_NEIGHBOR", "SOFTMAX", "SPLIT", "STRIDED_SLICE", "SUB", "SUM", "TANH",
    "TRANSPOSE",
})  # fmt: skip
_NOTHING = frozenset({"EXPAND_DIMS", "RESHAPE", "SQUEEZE"})  # the same bytes by another shape


@dataclass(frozen=True)
class Work:
    """Of one inference. ``values``: written by what multiplies, moved by what does not.

    ``weights``: bytes of weights that are read.
    """

    macs: int = 0
    values: int = 0
    weights: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.macs + other.macs, self.values + other.values, self.weights + other.weights
        )


@dataclass(frozen=True)
class Model:
    """A file that was read. ``tensor_bytes``: of all tensors that it does not hold itself."""

    content: bytes
    work: Work
    operators: int
    tensor_bytes: int


def read(path: Path) -> Model:
    """What the file at ``path`` asks for.

    Raises CorruptFile, and CapabilityError that names operators for which there is no estimate.
    """
    content = path.read_bytes()
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        (graph,) = model.subgraphs
        operators = list(_operators(model, graph))
        held = [b.data is not None and len(b.data) > 0 for b in model.buffers]
        sizes = [_elements(t) * 8 for t in graph.tensors if not held[t.buffer]]  # int64 at the most
    except Exception as e:  # an offset that leads nowhere can end as anything
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise CorruptFile(f"{path} cannot be read as TFLite: {reason}") from e
    unknown = Counter(why for kind, ins, outs in operators if (why := _unknown(kind, ins, outs)))
    if unknown:
        which = ", ".join(f"{count} {why}" for why, count in sorted(unknown.items()))
        raise CapabilityError(
            f"{unknown.total()} of {len(operators)} operators have no estimate on a "
            f"microcontroller: {which}"
        )
    try:
        work = sum((_work(*operator) for operator in operators), Work())
    except (IndexError, TypeError) as e:
        raise CorruptFile(f"{path}: an operator lacks a tensor: {e}") from e
    return Model(content, work, len(operators), sum(sizes))


def _operators(model: Any, graph: Any) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Each with its inputs and outputs; the absent ones left out."""
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        kind = (
            f"CUSTOM {code.customCode.decode(errors='replace')}"
            if code.customCode
            else _KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)]
        )
        ends = ([graph.tensors[i] for i in side if i >= 0] for side in (op.inputs, op.outputs))
        ins, outs = ends
        yield kind, ins, outs


def _unknown(kind: str, ins: list[Any], outs: list[Any]) -> str:
    """How an operator is called for which there is no estimate; empty where there is one."""
    if kind not in (*_MULTIPLY, *_MOVE, *_NOTHING):
        return kind
    types = {_TYPES[t.type] for t in (*ins[:2], *outs)}
    if kind in _MULTIPLY and types != {"int8"}:
        return f"{kind} of {', '.join(sorted(types - {'int8'}))}"
    return ""


def _work(kind: str, ins: list[Any], outs: list[Any]) -> Work:
    if kind in _NOTHING:
        return Work()
    written = sum(map(_elements, outs))
    if kind not in _MULTIPLY:
        return Work(values=max(written, _elements(ins[0])))
    weights = _elements(ins[1])
    # a filter is applied once an output; depthwise, each channel has one of its own
    filters = ins[1].shape[3] if kind == "DEPTHWISE_CONV_2D" else ins[1].shape[0]
    return Work(written * weights // max(int(filters), 1), written, weights)


def _elements(tensor: Any) -> int:
    return math.prod(abs(int(n)) for n in ([] if tensor.shape is None else tensor.shape))
