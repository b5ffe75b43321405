"""What a run will cost, said before it starts: from a few training steps timed here."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from edgenas.compress.quantize import ways
from edgenas.ops import parameters
from edgenas.pipeline.confirm import confirm_seconds, measured_seconds
from edgenas.pipeline.context import Context
from edgenas.pipeline.quantize import VALIDATION_IMAGES
from edgenas.pipeline.race import ahead_epochs, race_steps, seats
from edgenas.pipeline.recipe import learning, planned, raced
from edgenas.pipeline.search import sized
from edgenas.profile import estimate_seconds
from edgenas.resident import peak_bytes
from edgenas.task import Task
from edgenas.train import Course, TrainRecipe, seeded, train

STEPS = 6
FILES = 4  # found and pruned, at two precisions
MIXING_SECONDS = 90  # of one network on one device
INT8_EPOCH = 2.0  # of one without int8 in it
EXPORT_SECONDS, PREDICT_SECONDS = 5.0, 4.0
DRAWN = 8  # networks, the largest of which is what a network takes
ROW_BYTES, SAMPLES_BYTES = 300, 700  # of a table, and of what it was made from
CHECKPOINT = 2  # weights and momenta
TRAINING = 4  # weights, two moments and the best weights
_TRAINS = ("search", "race", "train", "compress")


@dataclass(frozen=True)
class Work:
    """What a stage trains on: ``images`` of ``classes``, ``resolution`` pixels a side of the task;
    ``steps`` of ``batch`` images, at most where a training may end early."""

    images: int
    classes: int
    resolution: int
    steps: int
    batch: int


@dataclass(frozen=True)
class Cost:
    """About what a stage takes; 0 where it is whole already.

    ``disk_bytes``: that it leaves, its checkpoints at their largest included. ``memory_bytes``: of
    this process so far, a few training steps included; None where it trains nothing. ``work``: of
    search and train, where they train something.
    """

    stage: str
    seconds: float
    unchanged: bool
    disk_bytes: int = 0
    memory_bytes: int | None = None
    work: Work | None = None


def costs(ctx: Context, stages: Sequence[str], pending: Mapping[str, int]) -> list[Cost]:
    """One entry a stage; ``pending``: how often it has to be done, for each network of a front."""
    if not pending:
        return [Cost(s, 0.0, True) for s in stages]
    trains = set(_TRAINS) & set(pending)
    config, images = ctx.config, len(ctx.task.parts["train"])
    image = _image_seconds(ctx) if trains else 0.0
    learnt = len(learning(ctx, ctx.task).parts["train"])
    epoch, trained, racing = image * images, _training(ctx), _racing(ctx)
    tables = sum(len(ctx.precisions(d)) for d in ctx.devices.values())
    timing = config.measure.blocks * config.measure.block_seconds
    seconds = {
        "profile": tables * estimate_seconds(ctx.space, networks=config.measure.networks),
        "search": epoch * sized(ctx).training_epochs(config.levels)
        + len(ctx.devices) * confirm_seconds(config.levels),
        "race": 0.0
        if racing is None
        else image * racing.steps * racing.batch
        + len(ctx.devices) * measured_seconds(seats(config)),
        "train": 0.0 if trained is None else image * trained.steps * trained.batch,
        "compress": image * learnt * (_pruning_epochs(ctx) + _int8_epochs(ctx))
        + _mixing_seconds(ctx),
        "export": EXPORT_SECONDS,
        "verify": len(ctx.devices) * FILES * (timing + PREDICT_SECONDS),
    }
    often = {s: pending.get(s, 0) for s in stages}
    disk = _disk_bytes(ctx)
    resident, work = (
        peak_bytes(),
        {"search": _searching(ctx), "race": racing, "train": trained},
    )
    return [
        Cost(
            s, seconds[s] * often[s], not often[s], disk[s] * often[s],
            resident if often[s] and s in _TRAINS else None,
            work.get(s) if often[s] else None,
        )
        for s in stages
    ]  # fmt: skip


def _training(ctx: Context) -> Work | None:
    """Of the found network."""
    if ctx.config.train.weights is not None:
        return None
    task, how = learning(ctx, ctx.task), planned(ctx)
    images = len(task.parts["train"])
    course = Course.of(how, images)
    steps = course.total - ahead_epochs(ctx) * course.epoch
    return Work(images, len(task.classes), task.input[1], steps, how.batch)


def _racing(ctx: Context) -> Work | None:
    """Of all networks that race together."""
    if not (steps := race_steps(ctx)):
        return None
    task, how = ctx.task, raced(ctx)
    images = len(task.parts["train"])
    return Work(images, len(task.classes), task.input[1], steps, how.batch)


def _searching(ctx: Context) -> Work | None:
    """Of the supernet, or of the networks that are compared."""
    made: Any = sized(ctx)
    epochs = made.training_epochs(ctx.config.levels)
    if not epochs:
        return None
    task = ctx.task
    images = len(task.parts["train"])
    batch = min(getattr(made, "batch", TrainRecipe.batch), images)
    return Work(images, len(task.classes), task.input[1], round(epochs * (images // batch)), batch)


def _disk_bytes(ctx: Context) -> dict[str, int]:
    """Of each stage, once: weights of four bytes as often as they are kept, rows of tables."""
    config, space = ctx.config, ctx.space
    vocabulary = space.vocabulary()
    rows = len(vocabulary) + config.measure.networks
    tables = sum(len(ctx.precisions(d)) for d in ctx.devices.values())
    rng = random.Random(config.seed)
    drawn = [sum(map(parameters, space.ops(space.sample(rng)))) for _ in range(DRAWN)]
    network = 4 * round(max(drawn))
    supernet = 4 * round(sum(map(parameters, vocabulary)))
    searches = sized(ctx).training_epochs(config.levels) > 0
    variants = 1 + (config.prune.epochs > 0)
    files = variants * network * len(ctx.exported)
    return {
        "profile": tables * rows * (ROW_BYTES + SAMPLES_BYTES),
        "search": searches * supernet * (1 + CHECKPOINT),
        "race": network * TRAINING * (seats(config) if race_steps(ctx) else 0),
        "train": network * (1 + TRAINING * (config.train.weights is None)),
        "compress": variants * network * (2 + CHECKPOINT),
        "export": files,
        "verify": network * len(ctx.devices) + config.repairs * files,
    }


def _pruning_epochs(ctx: Context) -> float:
    settings = ctx.config.prune
    return settings.rounds * (1.5 * settings.epochs + 0.5)


def _int8_epochs(ctx: Context) -> float:
    """Of all variants; to compute an image with int8 in it is about as dear as to train on it."""
    if not ctx.quantizes:
        return 0.0
    images = VALIDATION_IMAGES * (len(ways(ctx.config.quantize)) + 4)
    each = INT8_EPOCH * ctx.config.quantize.epochs + images / len(ctx.task.parts["train"])
    return (1 + (ctx.config.prune.epochs > 0)) * each


def _mixing_seconds(ctx: Context) -> float:
    """To time every layer of all variants in two precisions, and some networks."""
    variants = 1 + (ctx.config.prune.epochs > 0)
    return ctx.config.quantize.mixed * variants * len(ctx.devices) * MIXING_SECONDS


def _image_seconds(ctx: Context) -> float:
    """Of plainly training a random network of the space on one image, from ``STEPS`` steps."""
    recipe = replace(planned(ctx), epochs=1, steps=None, patience=0.0)
    with seeded(ctx.config.seed):
        net = ctx.space.build(ctx.space.sample(random.Random(ctx.config.seed)))
        net.to(ctx.config.accelerator)
        train(net, _first(ctx.task, recipe.batch), recipe, 0)  # kernels are chosen once
        few = _first(ctx.task, STEPS * recipe.batch)
        start = time.perf_counter()
        train(net, few, recipe, 0)
    return (time.perf_counter() - start) / len(few.parts["train"].y)


def _first(task: Task, images: int) -> Task:
    train = task.parts["train"]
    return replace(
        task, parts={**task.parts, "train": train[torch.arange(min(images, len(train)))]}
    )
