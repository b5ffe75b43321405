"""How a found network is trained, in the stages race and train alike."""

import random
from pathlib import Path

import torch
from torch import nn

from edgenas.artifact import sha256
from edgenas.config import Config
from edgenas.errors import CapabilityError, UsageError
from edgenas.files import read_json
from edgenas.gates import Mixed
from edgenas.pipeline.context import Context, load_weights
from edgenas.pipeline.recipe import judging
from edgenas.rundir import RunDir
from edgenas.space import Relaxable
from edgenas.spec import Architecture, OpSpec
from edgenas.train import Epoch, accuracy
from edgenas.warm import NETWORK, SUPERNET, start_of, warmed

SCORED = 2000  # images after each epoch


def beginning(ctx: Context) -> dict[str, str] | None:
    """Hashes of the weights that training begins with, where these are not drawn."""
    if ctx.config.train.from_supernet:
        found = RunDir(ctx.root).outputs("search").get("supernet.safetensors")
        return None if found is None else {"supernet": found}
    return start_digests(ctx.config)


def teacher_digests(config: Config) -> dict[str, str] | None:
    """Of the files of the teacher. Raises UsageError."""
    if config.train.teacher is None:
        return None
    return {path.name: sha256(path) for path in _teacher_files(config.train.teacher)}


def teacher(ctx: Context) -> nn.Module | None:
    """What is learnt from beside the labels. Raises UsageError."""
    if ctx.config.train.teacher is None:
        return None
    layers, weights = _teacher_files(ctx.config.train.teacher)
    ops = [OpSpec.parse(op) for op in read_json(layers)["ops"]]
    net = load_weights(ctx.space.assemble(ops), weights).requires_grad_(False)
    x, _ = ctx.task.tensors("calibration", 2)
    try:
        with torch.no_grad():
            answers = tuple(net(x).shape)
    except RuntimeError as e:
        raise UsageError(f"train: teacher: {weights} takes other images: {e}") from e
    if answers != (len(x), len(ctx.task.classes)):
        raise UsageError(
            f"train: teacher: {weights} tells {answers[-1]} classes apart, and the task has "
            f"{len(ctx.task.classes)}"
        )
    return net.to(ctx.config.accelerator)


def _teacher_files(run: str) -> tuple[Path, Path]:
    root = Path(run).expanduser()
    files = root / "train/found.json", root / NETWORK
    for file in files:
        if not file.is_file():
            raise UsageError(f"train: teacher: there is no {file}; name a run that has trained")
    return files


def start_digests(config: Config) -> dict[str, str] | None:
    """Of the files that are started from. Raises UsageError."""
    if config.start is None:
        return None
    files = vars(start_of(Path(config.start)))
    return {name: sha256(path) for name, path in files.items() if path is not None}


def keep_epoch(ctx: Context, phase: str, e: Epoch, net: nn.Module, **of: str) -> None:
    """An epoch as the ledger keeps it; accuracy is of search-validation, not of training.

    None where the found network learns from search-validation too. ``of``: what is trained, where
    a phase trains several.
    """
    ledger = ctx.ledger()
    pace = {"seconds": e.seconds, "images_per_second": e.images_per_second}
    ledger.read(phase, "epoch", **of, epoch=e.number, **pace)
    right = e.judged
    if right is None and judging(ctx):
        right = accuracy(net, ctx.fitted, "search", SCORED)
    told = {"epoch": e.number, "epochs": e.epochs, "loss": e.loss, "accuracy": right}
    ledger.append(phase, "epoch", **of, **told)


def pace(e: Epoch) -> str:
    """How fast it goes, for a person who waits."""
    return f"{e.images_per_second:,.0f} images/s, {e.left_s / 60:.1f} min left"


def untrained(ctx: Context, arch: Architecture) -> nn.Module:
    """``arch`` with the weights that its training begins with."""
    torch.manual_seed(ctx.config.seed)
    if ctx.config.train.from_supernet:
        return _within_supernet(ctx, arch)
    if ctx.config.start is None:
        return ctx.space.build(arch)
    net, share = _warm(ctx, ctx.config.start, arch)
    ctx.progress(f"start: {100 * share:.1f} % of the weights of {arch.id} are from there", 1, 1)
    return net


def _warm(ctx: Context, source: str, arch: Architecture) -> tuple[nn.Module, float]:
    """With the share of its weights, or of the supernet's, that are those of ``source``."""
    start, net = start_of(Path(source)), ctx.space.build(arch)
    share = 0.0 if start.network is None else warmed(net, start.network)
    if start.supernet is not None and isinstance(ctx.space, Relaxable):
        supernet = ctx.space.supernet(Mixed)
        if (of_all := warmed(supernet, start.supernet)) > share:
            net, share = ctx.space.subnet(supernet, arch), of_all
    if not share:
        raise UsageError(
            f"start: {source} holds nothing with the names and shapes of network "
            f"{arch.id}: it is of another space"
        )
    return net, share


def refuse_start(ctx: Context) -> None:
    """Raise UsageError or CorruptFile where nothing, or nothing of use, is to start from."""
    if ctx.config.start is not None:
        _warm(ctx, ctx.config.start, ctx.space.sample(random.Random(ctx.config.seed)))


def _within_supernet(ctx: Context, arch: Architecture) -> nn.Module:
    weights = ctx.root / SUPERNET
    if not isinstance(ctx.space, Relaxable) or not weights.exists():
        raise CapabilityError(
            "train: from_supernet: the search left no supernet; set it to false or "
            "search with method 'proxyless'"
        )
    return ctx.space.subnet(load_weights(ctx.space.supernet(Mixed), weights), arch)
