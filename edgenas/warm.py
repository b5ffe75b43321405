"""A warm start: of weights that were trained before, those whose names and shapes agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgenas import checkpoint_files
from edgenas.errors import CorruptFile, UsageError
from edgenas.state_dicts import COUNT, require_like, taken

SUPERNET, NETWORK = Path("search/supernet.safetensors"), Path("train/found.safetensors")


@dataclass(frozen=True)
class Start:
    """What is there to start from: files, None for one that is not there."""

    supernet: Path | None
    network: Path | None


def start_of(path: Path) -> Start:
    """Of a run, or of a file with the weights of a network. Raises UsageError."""
    path = path.expanduser()
    if path.is_file():
        return Start(None, path)
    files = [path / file if (path / file).is_file() else None for file in (SUPERNET, NETWORK)]
    if not any(files):
        what = "holds no weights of a search or a training" if path.is_dir() else "is not there"
        raise UsageError(f"start: {path} {what}; name a run that has, or a file of weights")
    return Start(*files)


def warmed(net: nn.Module, path: Path) -> float:
    """Give ``net`` the weights of ``path`` that agree; the share of its weights that these are.

    Raises CorruptFile.
    """
    want = net.state_dict()
    alike = {
        name: tensor
        for name, tensor in _held(net, path).items()
        if name in want and not tensor.is_nested and tensor.shape == want[name].shape
    }
    for name, tensor in alike.items():
        require_like(name, tensor, want[name], path)
    agree = {name: tensor.to(want[name].dtype) for name, tensor in alike.items()}
    if wrong := [name for name, tensor in agree.items() if not torch.isfinite(tensor).all()]:
        raise CorruptFile(f"{path} holds NaN or infinity in {wrong[0]!r}")
    net.load_state_dict(want | agree)
    sizes = {name: t.numel() for name, t in want.items() if not name.endswith(COUNT)}
    taken_from_there: int = sum(size for name, size in sizes.items() if name in agree)
    return float(taken_from_there / sum(sizes.values()))


def _held(net: nn.Module, path: Path) -> Mapping[str, Tensor]:
    """By the names of ``net``: as they stand there, or behind what a trainer put before them."""
    held, in_the_way = checkpoint_files.read(path)
    named = isinstance(held, Mapping) and any(isinstance(t, Tensor) for t in held.values())
    if in_the_way or not named or not held.keys() & net.state_dict().keys():
        return taken(net, path).tensors
    return {name: t for name, t in held.items() if isinstance(t, Tensor)}
