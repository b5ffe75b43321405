"""What ``auto`` means in a config's ``train``: a recipe that follows the data, and on what."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from edgenas.config import Train
from edgenas.descent import LARGEST_BATCH, Kind, fitting_batch
from edgenas.pipeline.context import Context
from edgenas.task import Task
from edgenas.train import TrainRecipe

WARMUP_STEPS = 50
JUDGES = 1000  # images whose accuracy is known to within two points; fewer judge nothing
UNEVEN, BALANCE = 5.0, 0.5  # largest class by smallest; power of the weights of their images
FEW, DROPOUT = 20_000, 0.2  # images, of which a network can learn each by heart
PATIENCE = 0.2  # share of the epochs


@dataclass(frozen=True)
class Length:
    """Of a preset: at least so many steps, and epochs."""

    steps: int
    epochs: int


@dataclass(frozen=True)
class Rates:
    """Of an optimiser: its peak at batches of ``LARGEST_BATCH``, ``power`` of those of others."""

    lr: float
    power: float
    weight_decay: float


LENGTHS: Mapping[str, Length] = {"quick": Length(600, 6), "full": Length(2000, 15)}
RATES: Mapping[Kind, Rates] = {
    "sgd": Rates(lr=0.4, power=1.0, weight_decay=1e-4),
    "adamw": Rates(lr=0.004, power=0.5, weight_decay=0.05),
}


def planned(ctx: Context) -> TrainRecipe:
    """Of the found network."""
    return recipe(ctx.config.train, learning(ctx, ctx.task))


def raced(ctx: Context) -> TrainRecipe:
    """Of a network that races: the recipe of the found one, on what is never a judge."""
    return recipe(ctx.config.train, ctx.task)


def judging(ctx: Context) -> bool:
    """Whether search-validation ends the training of the found network; else it learns from it.

    Too few images do not tell one epoch from another, and to learn from them is worth more. They
    are kept apart in any case where something later turns on which of them are right.
    """
    train, quantize = ctx.config.train, ctx.config.quantize
    if train.search_images != "auto":
        return train.search_images == "judge"
    return len(ctx.task.parts["search"]) >= JUDGES or quantize.epochs > 0 or quantize.mixed


def learning(ctx: Context, task: Task) -> Task:
    """``task``, whose part ``train`` is all that the found network learns from."""
    return task if judging(ctx) else task.joined("search", "calibration")


def recipe(train: Train, task: Task) -> TrainRecipe:
    """As ``train`` asks for, on the images that ``task`` learns from."""
    labels = task.parts["train"].y
    images, length = len(labels), LENGTHS[train.recipe]
    batch = min(fitting_batch(images) if train.batch == "auto" else train.batch, images)
    each = images // batch
    epochs = (
        max(length.epochs, -(-length.steps // each)) if train.epochs == "auto" else train.epochs
    )
    total = epochs * each if train.steps is None else train.steps
    kind = _optimizer(train)
    rates, open_ended = RATES[kind], train.epochs == "auto" and train.steps is None
    return TrainRecipe(
        epochs=-(-total // each),
        steps=train.steps,
        batch=batch,
        optimizer=kind,
        lr=_lr(rates, batch) if train.lr == "auto" else train.lr,
        weight_decay=rates.weight_decay if train.weight_decay == "auto" else train.weight_decay,
        warmup=_warmup(total) / each if train.warmup == "auto" else train.warmup,
        smoothing=train.smoothing,
        dropout=_dropout(images) if train.dropout == "auto" else train.dropout,
        balance=_balance(labels) if train.class_weights == "auto" else 0.0,
        patience=PATIENCE * open_ended if train.patience == "auto" else train.patience,
        ema=train.ema,
        mixup=train.mixup,
        cutmix=train.cutmix,
        precision=train.precision,
        dead_after=train.dead_after,
    )


def tuning(ctx: Context, epochs: int, lr: float) -> TrainRecipe:
    """Of a network that is trained already: SGD at a rate that ends it where it is."""
    train, images = ctx.config.train, len(learning(ctx, ctx.task).parts["train"])
    given = train.weight_decay
    kept = given != "auto" and _optimizer(train) == "sgd"
    return TrainRecipe(
        epochs=epochs,
        batch=fitting_batch(images) if train.batch == "auto" else train.batch,
        lr=lr,
        weight_decay=float(given) if kept else TrainRecipe.weight_decay,
        smoothing=train.smoothing,
        precision=train.precision,
    )


def _optimizer(train: Train) -> Kind:
    """A rate that is given is one of SGD, which is what was there first."""
    if train.optimizer != "auto":
        return train.optimizer
    return "adamw" if train.lr == "auto" else "sgd"


def _lr(rates: Rates, batch: int) -> float:
    """By the square root of the batch for AdamW (arXiv:2205.10287), by the batch for SGD."""
    return rates.lr * math.pow(batch / LARGEST_BATCH, rates.power)


def _warmup(steps: int) -> float:
    """Steps: a twentieth of all, or ``WARMUP_STEPS``, but never more than a fifth."""
    return min(max(WARMUP_STEPS, steps / 20), steps / 5)


def _dropout(images: int) -> float:
    return DROPOUT if images < FEW else 0.0


def _balance(labels: Tensor) -> float:
    """Half way from images alike to classes alike, where classes are uneven."""
    counts = labels.bincount()
    counts = counts[counts > 0]
    return BALANCE if float(counts.max() / counts.min()) > UNEVEN else 0.0
