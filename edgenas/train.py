"""One network, one recipe: the loop for training, fine-tuning and repair."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgenas.errors import TrainingDiverged
from edgenas.task import Part, Task

SCORING_BATCH = 256


@dataclass(frozen=True)
class TrainRecipe:
    """SGD with Nesterov momentum, cosine learning rate after a linear ``warmup`` (epochs).

    ``smoothing``: of labels. ``teacher_weight``: share of the teacher in the loss, if there is one.
    """

    epochs: int = 10
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    smoothing: float = 0.1
    warmup: float = 0.5
    teacher_weight: float = 0.5


@dataclass(frozen=True)
class Epoch:
    """What an epoch did: mean loss and accuracy on the augmented training images."""

    number: int  # from 1
    epochs: int
    loss: float
    accuracy: float
    seconds: float


def train(
    net: nn.Module,
    task: Task,
    recipe: TrainRecipe,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    teacher: nn.Module | None = None,
) -> None:
    """Train ``net`` in place, on the device where it is; left in eval mode.

    With a ``teacher`` the loss is shared between labels and its output (Hinton et al. 2015,
    arXiv:1503.02531, temperature 1). Raises TrainingDiverged.
    """
    net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    size = min(recipe.batch, len(task.parts["train"].y))
    steps = len(task.parts["train"].y) // size
    optimiser = sgd(net, recipe.momentum, recipe.weight_decay)
    where = place(net)
    for epoch in range(recipe.epochs):
        start, total, correct = time.perf_counter(), 0.0, 0
        batches = task.batches("train", size, seed * 1009 + epoch, augmented=True)
        for step, (x, y) in enumerate(batches):
            x, y = x.to(where), y.to(where)
            set_lr(
                optimiser, recipe.lr * cosine(epoch + step / steps, recipe.epochs, recipe.warmup)
            )
            logits = net(x)
            loss = task.loss(logits, y, recipe.smoothing)
            if teacher is not None:
                loss = torch.lerp(loss, _distance(logits, teacher, x), recipe.teacher_weight)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            total += finite(loss, "training", epoch, recipe.lr)
            correct += task.correct(logits.detach(), y)
        seconds = time.perf_counter() - start
        on_epoch(Epoch(epoch + 1, recipe.epochs, total / steps, correct / (steps * size), seconds))
    net.eval()


def accuracy(net: nn.Module, task: Task, part: Part, limit: int | None = None) -> float:
    """Share of ``part`` that ``net`` gets right, in eval mode; at most ``limit`` of it."""
    left = len(task.parts[part].y) if limit is None else min(limit, len(task.parts[part].y))
    total, correct, where = left, 0, place(net)
    with evaluating(net), torch.inference_mode():
        for x, y in task.batches(part, SCORING_BATCH, 0, augmented=False):
            correct += task.correct(net(x[:left].to(where)), y[:left].to(where))
            left -= len(x[:left])
            if left == 0:
                break
    return correct / total


def sgd(net: nn.Module, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum; biases and batch norms are not decayed. Set its lr per step."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)


def cosine(epoch: float, epochs: float, warmup: float) -> float:
    """Share of the peak learning rate: up linearly over ``warmup`` epochs, then half a cosine."""
    if epoch < warmup:
        return (epoch + 0.01) / (warmup + 0.01)
    return (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1e-9))) / 2


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """The same learning rate for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def finite(loss: Tensor, what: str, epoch: int, lr: float) -> float:
    """The value of ``loss``. Raises TrainingDiverged if it is NaN or infinite."""
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"{what}: the loss became {value} in epoch {epoch + 1}; lower lr (it is {lr:g})"
        )
    return value


def place(net: nn.Module) -> torch.device:
    """Where the weights of ``net`` are."""
    return next(net.parameters()).device


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """``net`` in eval mode, then as it was."""
    before = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(before)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Fresh weights drawn inside depend on ``seed`` only; the outer random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _distance(logits: Tensor, teacher: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        want = teacher(x).log_softmax(1)
    return nn.functional.kl_div(logits.log_softmax(1), want, reduction="batchmean", log_target=True)
