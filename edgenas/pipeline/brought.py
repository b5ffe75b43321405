"""A run for a network that somebody brings: its own channels are the space, pruning the search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from edgenas.artifact import sha256
from edgenas.config import Config, overridden, parse_config
from edgenas.errors import UsageError
from edgenas.export import exporter_for
from edgenas.graph import baked, compare, lowered, trace
from edgenas.pipeline.context import Context
from edgenas.scratch import scratch_folder
from edgenas.space import ListedSpace, Written
from edgenas.spec import Architecture
from edgenas.state_dicts import filled, taken
from edgenas.task import DATASETS
from edgenas.train import accuracy

SCORED = 2000  # test images
NETWORKS = 16  # to check a table by: those of others are large, and differ in width alone


def brought_config(
    source: str,
    weights: Path,
    data: str,
    devices: Sequence[str],
    latency: str,
    resolution: int | None = None,
    overrides: Sequence[str] = (),
    fit: str | None = None,
    test: str | None = None,
    data_seen: bool = False,
) -> Config:
    """``source``: ``model.py:name``; ``weights`` of it; ``latency`` of it on each of ``devices``.

    ``data``: a folder with one of images a class, a .npz, or the name of a dataset;
    ``resolution``: of the images that the network takes, where that is another than theirs; those
    of a folder are read at it. ``fit``: how they become square, as of the data set ``folder``.
    ``overrides`` as of ``load_config``. ``test``: images held out, where ``data`` have no test
    part; ``data_seen``: none were. Raises UsageError.
    """
    space = {"kind": "module", "source": source}
    settings: dict[str, Any] = {
        "name": Path(source.rpartition(":")[0]).stem or "network",
        "task": _task(data, resolution, fit) | ({} if test is None else {"test": test}),
        "space": space | ({} if resolution is None else {"resize": resolution}),
        "targets": [{"device": name, "latency": latency} for name in devices],
        "search": {"method": "given"},
        "train": {"weights": str(weights), "data_seen": data_seen},
        "measure": {"networks": NETWORKS},
    }
    return parse_config(overridden(settings, overrides), "compress")


def is_brought(config: Config) -> bool:
    """Whether the network and its weights are known before a search."""
    return config.search["method"] == "given" and config.train.weights is not None


def brought(ctx: Context, arch: Architecture) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with the weights of ``train.weights``, as all later stages take it: baked.

    And what there is to say of where its file holds them. Raises UsageError or CorruptFile where
    they are not its own.
    """
    net, said = _loaded(ctx, arch)
    return baked(net), said


def _loaded(ctx: Context, arch: Architecture) -> tuple[nn.Module, tuple[str, ...]]:
    """As it was written, hooks and all; and what is to say of where its file holds the weights."""
    assert ctx.config.train.weights is not None
    path, space = Path(ctx.config.train.weights), ctx.space
    whole = isinstance(space, ListedSpace) and arch == space.all_first
    net = space.written() if whole and isinstance(space, Written) else space.build(arch)
    found = taken(net, path)
    return filled(net, found.tensors, path), found.said


def weights_digest(config: Config) -> str | None:
    """Of the file ``train.weights``. Raises UsageError where there is none."""
    if (weights := config.train.weights) is None:
        return None
    if Path(weights).is_dir():
        raise UsageError(f"train: weights: {weights} is a folder; name the file in it")
    if not Path(weights).is_file():
        raise UsageError(f"train: weights: there is no {weights}")
    return sha256(Path(weights))


def refuse_unfit(ctx: Context, arch: Architecture) -> None:
    """Fail in seconds where a brought network would fail after minutes of measuring.

    Raises UsageError where it classifies no better than chance, CapabilityError where its graph
    computes something else than it does or a target's format cannot hold it, CorruptFile.
    """
    (net, said), task = _loaded(ctx, arch), ctx.task.at(ctx.space.input_of(arch)[1])
    for line in said:
        ctx.progress(line, 1, 1)
    seen = task.tensors("calibration", 2)[0]
    graph = trace(net, task.input)
    compare(graph, net, seen)
    right = accuracy(net, task, "test", SCORED)
    ctx.progress(f"{ctx.config.train.weights}: {right:.1%} of the test images right", 1, 1)
    _, labels = task.tensors("test", SCORED)
    if right <= float(labels.bincount().max()) / len(labels):
        raise UsageError(
            f"{ctx.config.train.weights} gets {right:.1%} of the test images right, no more than "
            "one class alone would: are pixels normalised as in its training (--set "
            "task.mean=[...], task.std), are classes in its order, is it of this task?"
        )
    with scratch_folder() as scratch:
        for precision, format in ctx.exported:
            path = scratch / f"whole.{format}"
            exporter_for(format).network(lowered(graph, precision, [seen]), path, {})


def _task(data: str, resolution: int | None, fit: str | None) -> dict[str, Any]:
    task = _dataset(data)
    asked = {"resolution": resolution, "fit": fit} if task["dataset"] == "folder" else {}
    if fit is not None and not asked:
        raise UsageError(f"--fit: it says how files of a folder are read, and {data} is none")
    return task | {key: value for key, value in asked.items() if value is not None}


def _dataset(data: str) -> dict[str, Any]:
    path, named = Path(data), sorted({*DATASETS} - {"folder", "function", "npz"})
    if path.suffix == ".npz":
        return {"dataset": "npz", "path": data}
    if path.is_dir():
        return {"dataset": "folder", "path": data}
    if data not in named:
        raise UsageError(
            f"--data: {data} is no folder, no .npz, and none of the data sets {', '.join(named)}"
        )
    return {"dataset": data}
