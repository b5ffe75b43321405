"""One network, one recipe: the loop for training, fine-tuning and repair."""

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgenas.averaging import Average, average
from edgenas.checkpoint import Checkpoint, Every, flattened, joined, restore
from edgenas.errors import TrainingDiverged
from edgenas.mixing import Blend, Mixing, any_of, cutmix, mixup
from edgenas.task import Part, Task

SCORING_BATCH = 256
SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class TrainRecipe:
    """SGD with Nesterov momentum, cosine learning rate after a linear ``warmup`` (epochs).

    ``smoothing``: of labels. ``teacher_weight``: share of the teacher in the loss, if there is one.
    ``ema``: decay a step of the average of weights that is kept; 0 keeps the last weights.
    ``mixup``, ``cutmix``: their alpha; 0 for none, with both on one of them a batch.
    ``precision``: of what is computed forward and back; weights and loss are fp32 in any case.
    ``dead_after``: share of the epochs after which a network no better than guessing is given up;
    0 never does.
    """

    epochs: int = 10
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    smoothing: float = 0.1
    warmup: float = 0.5
    teacher_weight: float = 0.5
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    dead_after: float = 0.0

    @property
    def mixing(self) -> Mixing:
        """How the images of a batch are put together."""
        ways = ((mixup, self.mixup), (cutmix, self.cutmix))
        return any_of(*(way(alpha) for way, alpha in ways if alpha))


@dataclass(frozen=True)
class Epoch:
    """What an epoch did: mean loss and accuracy on the augmented training images."""

    number: int  # from 1
    epochs: int
    loss: float
    accuracy: float
    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Throughput of training, scoring left out."""
        return self.images / self.seconds

    @property
    def left_s(self) -> float:
        """About how long the other epochs take, scoring left out."""
        return (self.epochs - self.number) * self.seconds


@dataclass
class _At:
    """Where a training stands: the step to take next, and sums over its epoch so far."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Changing:
    """All tensors that steps change, kept in ``checkpoint`` if there is one."""

    net: nn.Module
    optimiser: torch.optim.Optimizer
    average: Average
    checkpoint: Checkpoint | None

    def save(self, at: _At) -> None:
        if self.checkpoint is None:
            return
        tensors = joined(
            net=self.net.state_dict(),
            optimiser=flattened(self.optimiser.state_dict()),
            average=self.average.state_dict(),
        )
        self.checkpoint.save(tensors, asdict(at))

    def load(self) -> _At:
        if self.checkpoint is None or (saved := self.checkpoint.load()) is None:
            return _At()
        try:
            self.net.load_state_dict(saved.part("net"))
            restore(self.optimiser, saved.part("optimiser"))
            self.average.load_state_dict(saved.part("average"))
            return _At(**saved.facts)
        except (RuntimeError, LookupError, TypeError, ValueError) as e:
            raise self.checkpoint.corrupt(e) from e


def train(
    net: nn.Module,
    task: Task,
    recipe: TrainRecipe,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    teacher: nn.Module | None = None,
    checkpoint: Checkpoint | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> None:
    """Train ``net`` in place, on the device where it is; left in eval mode.

    With a ``teacher`` the loss is shared between labels and its output (Hinton et al. 2015,
    arXiv:1503.02531, temperature 1). With a ``checkpoint`` it goes on from what that holds, and
    ends with the weights of a training that nothing interrupted: whatever is random depends on
    ``seed`` and the number of the step alone. While ``on_epoch`` runs, ``net`` holds the weights
    that would be kept. What is frozen whole is left as it is. Raises TrainingDiverged, CorruptFile.
    """
    if not learns(net):
        net.eval()
        return
    net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    where = place(net)
    task = task.on(where)
    labels = task.parts["train"].y
    size = min(recipe.batch, len(labels))
    steps = len(labels) // size
    optimiser = sgd(net, recipe.momentum, recipe.weight_decay)
    averaged, mixing, timer = average(net, recipe.ema), recipe.mixing, Every(save_every_s)
    changing = _Changing(net, optimiser, averaged, checkpoint)
    at = changing.load()
    with torch.random.fork_rng(devices=[]):
        while at.epoch < recipe.epochs:
            order, began = seed * 1009 + at.epoch, time.perf_counter() - at.seconds
            for x, y in task.batches("train", size, order, augmented=True, start=at.step):
                rng = random.Random(f"{order}/{at.step}/step")
                torch.manual_seed(rng.getrandbits(63))  # for what a network draws, as in dropout
                now = at.epoch + at.step / steps
                set_lr(optimiser, recipe.lr * cosine(now, recipe.epochs, recipe.warmup))
                blend = mixing(moved(x, where), moved(y, where), rng)
                loss, correct = _judged(net, blend, task, recipe, teacher)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                averaged.update()
                at.step += 1
                at.loss += finite(loss, "training", at.epoch, recipe.lr)
                at.correct += correct
                at.seconds = time.perf_counter() - began
                if timer.due():
                    changing.save(at)
            done = _epoch(at, recipe.epochs, steps, steps * size)
            with averaged.shown():
                on_epoch(done)
            _alive(done, labels, recipe)
            at = _At(at.epoch + 1)
            changing.save(at)
    averaged.settle()
    net.eval()


def learns(net: nn.Module) -> bool:
    """Whether ``net`` has any parameter that is not frozen."""
    return any(p.requires_grad for p in net.parameters())


def accuracy(net: nn.Module, task: Task, part: Part, limit: int | None = None) -> float:
    """Share of ``part`` that ``net`` gets right, in eval mode; at most ``limit`` of it."""
    return float(rights(net, task, part, limit).mean())


def rights(net: nn.Module, task: Task, part: Part, limit: int | None = None) -> np.ndarray:
    """Of which images of ``part`` it gets right, bool; in an order that is always the same."""
    left = len(task.parts[part].y) if limit is None else min(limit, len(task.parts[part].y))
    found, where = [], place(net)
    with evaluating(net), torch.inference_mode():
        for x, y in task.batches(part, SCORING_BATCH, 0, augmented=False):
            logits = net(moved(x[:left], where))
            found.append((logits.argmax(1) == moved(y[:left], where)).cpu().numpy())
            left -= len(x[:left])
            if left == 0:
                break
    return np.concatenate(found)


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


def learnt_nothing(epoch: Epoch, y: Tensor, smoothing: float) -> bool:
    """Whether it was no better than guessing by the shares of the classes among labels ``y``.

    Neither in accuracy, three standard errors allowed, nor in loss: the rarer the others, the
    less accuracy alone says.
    """
    shares = y.bincount() / len(y)
    most = float(shares.max())
    guess = (1 - smoothing) * shares + smoothing / len(shares)
    chance = most + 3 * math.sqrt(most * (1 - most) / len(y))
    return epoch.accuracy <= chance and epoch.loss >= 0.99 * float(torch.special.entr(guess).sum())


def moved(tensor: Tensor, where: torch.device) -> Tensor:
    """``tensor`` on a device, without waiting for it."""
    return tensor.to(where, non_blocking=True)


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


def _forward(net: nn.Module, x: Tensor, recipe: TrainRecipe) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits: Tensor = net(x)
    return logits.float()


def _judged(
    net: nn.Module, blend: Blend, task: Task, recipe: TrainRecipe, teacher: nn.Module | None
) -> tuple[Tensor, float]:
    """The loss, and how many images are right."""
    logits = _forward(net, blend.x, recipe)
    loss = blend.mean(lambda y: task.loss(logits, y, recipe.smoothing))
    if teacher is not None:
        distance = _distance(logits, teacher, blend.x, recipe)
        loss = torch.lerp(loss, distance, recipe.teacher_weight)
    return loss, blend.mean(lambda y: float(task.correct(logits.detach(), y)))


def _epoch(at: _At, epochs: int, steps: int, images: int) -> Epoch:
    return Epoch(at.epoch + 1, epochs, at.loss / steps, at.correct / images, images, at.seconds)


def _distance(logits: Tensor, teacher: nn.Module, x: Tensor, recipe: TrainRecipe) -> Tensor:
    with torch.no_grad():
        want = _forward(teacher, x, recipe).log_softmax(1)
    return nn.functional.kl_div(logits.log_softmax(1), want, reduction="batchmean", log_target=True)


def _alive(epoch: Epoch, y: Tensor, recipe: TrainRecipe) -> None:
    """Raise TrainingDiverged where going on is a waste."""
    due = recipe.dead_after and recipe.dead_after * epoch.epochs <= epoch.number < epoch.epochs
    if due and learnt_nothing(epoch, y, recipe.smoothing):
        raise TrainingDiverged(
            f"training: after {epoch.number} of {epoch.epochs} epochs the network is no better "
            f"than guessing (accuracy {epoch.accuracy:.1%}, loss {epoch.loss:.3g}); change lr (it "
            f"is {recipe.lr:g}) or look at the labels. dead_after: 0 trains on"
        )
