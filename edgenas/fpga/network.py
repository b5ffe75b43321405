"""A network on integers, as a file holds it: what the accelerator's compiler reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgenas import parsing
from edgenas.errors import CorruptFile, UsageError
from edgenas.files import aside
from edgenas.ordered import ordered
from edgenas.validate import construct

INPUT = "input"
Kind = Literal["conv", "linear", "add", "mean", "hard-swish"]
_INPUTS: dict[Kind, int] = {"conv": 1, "linear": 1, "mean": 1, "hard-swish": 1, "add": 2}
_KEY = "network"  # in the file's metadata, beside what it tells of itself


@dataclass(frozen=True)
class Scale:
    """real = ``scale`` * (q - ``zero``), q int8."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Op:
    """One operator: reads ``inputs``, makes the tensor ``name`` of ``shape``, (c, h, w) or (c,)."""

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Weights:
    """int8 ``weight`` (cout, cin / groups, k, k), its ``scales``, int32 ``bias`` (cout,) each."""

    weight: np.ndarray
    bias: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True, eq=False)
class Network:
    """``ops`` in order, the last is the output; ``scales`` of every tensor, ``input`` too."""

    input: tuple[int, int, int]
    ops: tuple[Op, ...]
    scales: Mapping[str, Scale]
    weights: Mapping[str, Weights]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the tensor ``name``."""
        return self.input if name == INPUT else next(o.shape for o in self.ops if o.name == name)

    def check(self) -> None:
        """Raise ValueError where its parts do not go together."""
        if not self.ops:
            raise ValueError("it has no operators")
        shapes: dict[str, tuple[int, ...]] = {INPUT: self.input}
        for op in self.ops:
            given = [shapes.get(name, ()) for name in op.inputs]
            if op.name in shapes or not all(given) or len(given) != _INPUTS[op.kind]:
                raise ValueError(f"{op.name} reads {list(op.inputs)}")
            if missing := {op.name, *op.inputs} - self.scales.keys():
                raise ValueError(f"there is no scale of {sorted(missing)}")
            if (made := self._made(op, given[0])) != op.shape or set(given) != {given[0]}:
                raise ValueError(f"{op.name} is {op.shape}, out of {given} it would be {made}")
            shapes[op.name] = op.shape

    def _made(self, op: Op, given: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that ``op`` makes of ``given``, or nothing."""
        if op.kind in ("add", "hard-swish"):
            return given
        if op.kind == "mean":
            return given[:1]
        held = self.weights[op.name]
        cout, cin, *kernel = held.weight.shape
        if len(held.bias) != cout or len(held.scales) != cout or min(op.stride, op.groups) < 1:
            return ()
        if op.kind == "linear" or len(given) != 3:
            return (cout,) if cin == given[0] else ()
        (k, other), (channels, *size) = kernel, given
        if k != other or cin * op.groups != channels or op.padding < 0:
            return ()
        return (cout, *((n + 2 * op.padding - k) // op.stride + 1 for n in size))

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Integers as safetensors, all else as JSON in their metadata."""
        said = {
            "input": self.input, "ops": [vars(op) for op in self.ops],
            "scales": {name: vars(scale) for name, scale in self.scales.items()},
        }  # fmt: skip
        arrays = {
            f"{name}.{part}": np.ascontiguousarray(array)
            for name, held in self.weights.items() for part, array in vars(held).items()
        }  # fmt: skip
        with aside(path) as temporary:
            temporary.write_bytes(ordered(save(arrays, {**metadata, _KEY: json.dumps(said)})))

    @classmethod
    def load(cls, path: Path) -> tuple["Network", dict[str, str]]:
        """What ``save`` wrote, and the metadata. Raises CorruptFile."""
        try:
            with safe_open(path, "np") as file:
                metadata = dict(file.metadata() or {})
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            said: dict[str, Any] = parsing.json_value(metadata.pop(_KEY))
            ops = tuple(construct(Op, op, f"{path}: op") for op in said["ops"])
            weights = {
                op.name: Weights(*(arrays[f"{op.name}.{p}"] for p in ("weight", "bias", "scales")))
                for op in ops if op.kind in ("conv", "linear")
            }  # fmt: skip
            scales = {n: construct(Scale, s, f"{path}: {n}") for n, s in said["scales"].items()}
            c, h, w = said["input"]
            network = cls((int(c), int(h), int(w)), ops, scales, weights)
            network.check()
            return network, metadata
        except (
            SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError,
            OverflowError, UsageError,
        ) as e:  # fmt: skip
            raise CorruptFile(f"{path} cannot be read as a network of the accelerator: {e}") from e
