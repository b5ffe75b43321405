"""torch: weights as safetensors, and the graph as JSON in their metadata; nothing is pickled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgenas import parsing
from edgenas.artifact import Artifact, Inspection
from edgenas.errors import CapabilityError, CorruptFile
from edgenas.files import aside
from edgenas.graph import Add, Conv, Graph, Linear, MaxPool, Mean, Node
from edgenas.ordered import ordered

__all__ = ["Torch"]


@dataclass(frozen=True)
class Torch:
    """Writes and inspects ``.torch`` files, which the runtime ``torch`` runs."""

    format: ClassVar[str] = "torch"

    def network(
        self, graph: Graph, path: Path, metadata: Mapping[str, str], batch: int | None = None
    ) -> Artifact:
        """float32: (batch, c, h, w) -> (batch, ...). Raises CapabilityError for less."""
        if graph.precision != "fp32":
            raise CapabilityError(f"torch files are written in fp32 only, not {graph.precision}")
        weights: dict[str, np.ndarray] = {}
        for node in graph.nodes:
            if isinstance(node, Conv | Linear):
                weights[f"{node.name}.weight"] = np.ascontiguousarray(node.weight, np.float32)
                weights[f"{node.name}.bias"] = np.ascontiguousarray(node.bias, np.float32)
        said = {"input": graph.input, "nodes": [_described(node) for node in graph.nodes]}
        facts = {**metadata, "precision": graph.precision, "graph": json.dumps(said)}
        with aside(path) as temporary:
            temporary.write_bytes(ordered(save(weights, facts)))
        return Artifact.of(path, self.format, graph.precision, graph.input)

    def operator(self, graph: Graph, path: Path) -> Artifact:
        """As ``network``."""
        return self.network(graph, path, {})

    def inspect(self, path: Path) -> Inspection:
        """Counts the operators of the file. Raises CorruptFile."""
        try:
            with safe_open(path, "np") as file:
                metadata = dict(file.metadata() or {})
            kinds = [node["kind"] for node in parsing.json_value(metadata.pop("graph"))["nodes"]]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
            raise CorruptFile(f"{path} cannot be read as a torch file: {e!s:.200}") from e
        return Inspection(len(kinds), 0, tuple(sorted(kinds)), 0, "float32", "float32", metadata)


def _described(node: Node) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": node.name, "kind": type(node).__name__, "inputs": node.inputs}
    match node:
        case Conv():
            plain |= {k: getattr(node, k) for k in ("stride", "padding", "groups", "act")}
        case Linear() | Add():
            plain["act"] = node.act
        case MaxPool():
            plain |= {key: getattr(node, key) for key in ("k", "stride", "padding")}
        case Mean():
            plain["keepdim"] = len(node.shape) == 3
    return plain
