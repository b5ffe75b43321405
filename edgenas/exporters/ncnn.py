"""ncnn: its text graph and its weights in one file, float32.

Text, a zero byte, zeros to a multiple of four, the weights as ncnn's own ``.bin`` has them, then
metadata: JSON, its length (4 bytes, little-endian), ``EDGENAS``. What precedes the zero byte is a
``.param`` file, what follows to the metadata a ``.bin`` file, for who wants to use ncnn alone.
"""

import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgenas import parsing
from edgenas.artifact import Artifact, Inspection
from edgenas.errors import CapabilityError, CorruptFile
from edgenas.files import aside
from edgenas.graph import INPUT, Add, Conv, Graph, HardSwish, Linear, MaxPool, Mean, Mul, Node

__all__ = ["Ncnn"]

_MAGIC = "7767517"
_END = b"EDGENAS"
_RAW = struct.pack("<I", 0)  # the flag before weights that are plain float32
_ACTIVATIONS = {
    "none": "", "relu": " 9=1", "relu6": " 9=3 -23310=2,0.0,6.0", "unit": " 9=3 -23310=2,0.0,1.0",
}  # fmt: skip
# The same behind an addition, which has none of its own.
_AFTER = {
    "relu": ("ReLU", "0=0.0"), "relu6": ("Clip", "0=0.0 1=6.0"), "unit": ("Clip", "0=0.0 1=1.0"),
}  # fmt: skip
_MOVES = frozenset({"Input", "Split"})


@dataclass(frozen=True)
class Ncnn:
    """Writes and inspects ``.ncnn`` files."""

    format: ClassVar[str] = "ncnn"

    def network(
        self, graph: Graph, path: Path, metadata: Mapping[str, str], batch: int | None = None
    ) -> Artifact:
        """One image at a time: (c, h, w) float32 in, (...) out. Raises CapabilityError for int8."""
        content = _content(graph, {**metadata, "precision": graph.precision})
        with aside(path) as temporary:
            temporary.write_bytes(content)
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def operator(self, graph: Graph, path: Path) -> Artifact:
        """As ``network``."""
        path.write_bytes(_content(graph, {"precision": graph.precision}))
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def inspect(self, path: Path) -> Inspection:
        """Counts the operators of the file. Raises CorruptFile."""
        try:
            content = path.read_bytes()
            if not content.endswith(_END):
                raise ValueError("its end is missing: it was cut short")
            (length,) = struct.unpack("<I", content[-len(_END) - 4 : -len(_END)])
            metadata = parsing.json_value(content[-len(_END) - 4 - length : -len(_END) - 4])
            magic, _, *rows = content[: content.index(b"\0")].decode().splitlines()
            if magic != _MAGIC:
                raise ValueError(f"it begins with {magic[:20]!r}, not {_MAGIC}")
            kinds = [row.split()[0] for row in rows]
        except (ValueError, IndexError, struct.error) as e:
            raise CorruptFile(f"{path} cannot be read as ncnn: {e!s:.200}") from e
        floats = sorted(kind for kind in kinds if kind not in _MOVES)
        return Inspection(len(floats), 0, tuple(floats), 0, "float32", "float32", metadata)


def _content(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    if graph.precision != "fp32":
        raise CapabilityError(f"ncnn files are written in fp32 only, not {graph.precision}")
    writer = _Writer(graph)
    text = writer.text().encode()
    said = json.dumps(dict(metadata)).encode()
    pad = b"\0" * (4 - len(text) % 4)
    return text + pad + b"".join(writer.weights) + said + struct.pack("<I", len(said)) + _END


class _Writer:
    """A graph as lines of text and weights. A tensor read twice is split, as ncnn wants it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.rows: list[str] = []
        self.weights: list[bytes] = []
        self.blobs = 0
        self.readers = Counter(name for node in graph.nodes for name in node.inputs)
        self.free: dict[str, list[str]] = {}

    def text(self) -> str:
        c, h, w = self.graph.input
        shape = f"0={w} 1={h} 2={c} -23330=4,3,{w},{h},{c}"
        self._layer("Input", [], INPUT, shape)
        for node in self.graph.nodes:
            inputs = [self.free[name].pop() for name in node.inputs]
            if isinstance(node, Add) and node.act != "none":
                total = f"{node.name}.sum"
                self._layer(_kind(node), inputs, total, self._arguments(node))
                kind, arguments = _AFTER[node.act]
                self._layer(kind, [total], node.name, arguments)
            else:
                self._layer(_kind(node), inputs, node.name, self._arguments(node))
        return "\n".join([_MAGIC, f"{len(self.rows)} {self.blobs}", *self.rows]) + "\n"

    def _arguments(self, node: Node) -> str:
        match node:
            case Conv():
                self._keep(node.weight, node.bias)
                cout, _, k, _ = node.weight.shape
                groups = "" if node.groups == 1 else f" 7={node.groups}"
                return (
                    f"0={cout} 1={k} 3={node.stride} 4={node.padding} 5=1 6={node.weight.size}"
                    f"{groups}{_ACTIVATIONS[node.act]}"
                )
            case Linear():
                self._keep(node.weight, node.bias)
                return f"0={len(node.bias)} 1=1 2={node.weight.size}{_ACTIVATIONS[node.act]}"
            case Mul():
                return "0=2"
            case Mean():
                return "0=1 4=1"
            case MaxPool():
                return f"0=0 1={node.k} 2={node.stride} 3={node.padding} 5=1"
            case HardSwish():
                return f"0={1 / 6:.9g} 1=0.5"
        return "0=0"

    def _keep(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.weights += [_RAW, weight.astype("<f4").tobytes(), bias.astype("<f4").tobytes()]

    def _layer(self, kind: str, inputs: list[str], output: str, arguments: str) -> None:
        parts = [kind, output, str(len(inputs)), "1", *inputs, output, arguments]
        self.rows.append(" ".join(parts))
        self.blobs += 1
        readers = self.readers[output]
        if readers < 2:
            self.free[output] = [output]
            return
        copies = [f"{output}.{i}" for i in range(readers)]
        self.rows.append(" ".join(["Split", f"{output}.split", "1", str(readers), output, *copies]))
        self.blobs += readers
        self.free[output] = copies


def _kind(node: Node) -> str:
    match node:
        case Conv():
            return "Convolution" if node.groups == 1 else "ConvolutionDepthWise"
        case Linear():
            return "InnerProduct"
        case Add() | Mul():  # what is (c,) there is broadcast over a map (c, h, w)
            return "BinaryOp"
        case Mean() | MaxPool():
            return "Pooling"
        case HardSwish():
            return "HardSwish"
    raise CapabilityError(f"ncnn has no operator for {type(node).__name__}")
