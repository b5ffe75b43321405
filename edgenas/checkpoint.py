"""Where a long training stands, in one file: whole or absent, found again by what it belongs to."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from edgenas import parsing
from edgenas.errors import CorruptFile
from edgenas.files import aside
from edgenas.ordered import ordered


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: ``tensors`` by name, and ``facts``, JSON types."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors that ``joined`` put under ``name``."""
        start = f"{name}."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


@dataclass(frozen=True)
class Checkpoint:
    """``path``: a safetensors file. ``key``: of all that decides what is saved, e.g. a hash.

    What was saved under another key is as good as absent.
    """

    path: Path
    key: str

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the file. Raises OSError that names it; what was saved before is kept then."""
        held = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        text = json.dumps(facts, allow_nan=False)
        said = {"key": self.key, "facts": text, "sha256": _digest(held, text)}
        with aside(self.path) as temporary:
            temporary.write_bytes(ordered(save(held, metadata=said)))

    def load(self) -> Saved | None:
        """What was saved last, on the CPU; None where there is nothing of this key.

        Raises CorruptFile.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as f:
                said = f.metadata() or {}
                if said["key"] != self.key:
                    return None
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            if _digest(tensors, said["facts"]) != said["sha256"]:
                raise ValueError("its content has changed")
            return Saved(tensors, parsing.json_value(said["facts"]))
        except (SafetensorError, KeyError, ValueError) as e:
            raise self.corrupt(e) from e

    def corrupt(self, why: Exception) -> CorruptFile:
        """The error of a file that cannot be gone on from."""
        first = (str(why).splitlines() or [""])[0]
        return CorruptFile(
            f"{self.path} is no checkpoint to go on from ({first}); delete it to start afresh"
        )


@dataclass
class Every:
    """``due()`` once ``seconds`` have passed since it was made, and since it last said so."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def due(self) -> bool:
        """Whether it is time again."""
        now = self.clock()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


def joined(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``net=..., optimiser=...`` as one mapping; ``Saved.part`` takes them apart again."""
    return {f"{name}.{k}": v for name, tensors in parts.items() for k, v in tensors.items()}


def flattened(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What an optimiser has learnt, of its ``state_dict()``: ``<parameter>.<name>`` -> tensor.

    Plain numbers become tensors of no dimension. Settings, such as lr, are left out.
    """
    flat: dict[str, Tensor] = {}
    for index, own in state["state"].items():
        for name, value in own.items():
            if isinstance(value, Tensor):
                flat[f"{index}.{name}"] = value
            elif value is not None:
                exact = torch.float64 if isinstance(value, float) else torch.int64
                flat[f"{index}.number.{name}"] = torch.tensor(value, dtype=exact)
    return flat


def restore(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of ``flattened``, for an optimiser of the same parameters and settings.

    What belongs to a parameter gets its place and its order in memory too: arithmetic on another
    order may round otherwise. Raises KeyError, ValueError, IndexError or RuntimeError.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        own = state.setdefault(int(index), {})
        if name.startswith("number."):
            own[name.removeprefix("number.")] = value.item()
        elif value.shape == parameters[int(index)].shape:
            own[name] = torch.empty_like(parameters[int(index)], dtype=value.dtype).copy_(value)
        else:
            own[name] = value.clone()
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    content = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
