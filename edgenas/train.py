"""One network, one recipe: the loop for training, fine-tuning and repair."""

import contextlib
import itertools
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
from edgenas.checkpoint import Checkpoint, Every, Saved, flattened, joined, restore
from edgenas.descent import Kind, cosine, optimiser, set_lr
from edgenas.dropout import dropping
from edgenas.errors import TrainingDiverged
from edgenas.mixing import Blend, Mixing, any_of, cutmix, mixup
from edgenas.stopping import Watch
from edgenas.task import Part, Task

SCORING_BATCH = 256
SAVE_EVERY_S = 60.0
MOST_IDLE = 3  # epochs that may bring nothing, at least
FALL = 0.1  # of all steps, in which the rate falls to nothing where a training ends early

Judge = Callable[[nn.Module], np.ndarray]


@dataclass(frozen=True)
class TrainRecipe:
    """``optimizer``, cosine learning rate after a linear ``warmup`` (epochs).

    ``steps``: so many instead of ``epochs``. ``momentum``: of SGD, Nesterov's. ``smoothing``: of
    labels. ``dropout``: before the last fully connected layer. ``balance``: classes count by their
    number of images to this power, turned over: 0 counts images alike, 1 classes. ``patience``:
    share of all epochs that may bring nothing before the rate falls at once; 0 trains to the end.
    ``teacher_weight``: share of the teacher in the loss, if there is one.
    ``ema``: decay a step of the average of weights that is kept; 0 keeps the last weights.
    ``mixup``, ``cutmix``: their alpha; 0 for none, with both on one of them a batch.
    ``precision``: of what is computed forward and back; weights and loss are fp32 in any case.
    ``dead_after``: share of the epochs after which a network no better than guessing is given up;
    0 never does.
    """

    epochs: int = 10
    steps: int | None = None
    batch: int = 128
    optimizer: Kind = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    smoothing: float = 0.1
    warmup: float = 0.5
    dropout: float = 0.0
    balance: float = 0.0
    patience: float = 0.0
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
class Course:
    """How a training goes: ``epoch`` steps each epoch, ``total`` in all."""

    recipe: TrainRecipe
    epoch: int
    total: int

    @classmethod
    def of(cls, recipe: TrainRecipe, images: int) -> "Course":
        """Of so many images; a last short batch is left out."""
        each = images // min(recipe.batch, images)
        return cls(recipe, each, recipe.epochs * each if recipe.steps is None else recipe.steps)

    @property
    def epochs(self) -> int:
        """The last may be a part of one."""
        return -(-self.total // self.epoch)

    def ends(self, fall: int | None) -> int:
        """Steps in all where the rate falls early, from step ``fall`` on."""
        if fall is None:
            return self.total
        return min(self.total, fall + math.ceil(FALL * self.total))

    def lr(self, step: int, fall: int | None) -> float:
        """Of ``step``, from 0."""
        at, left = step, 1.0
        if fall is not None:
            at, ends = min(step, fall), self.ends(fall)
            left = (ends - step) / (ends - at) if ends > at else 1.0
        now = at // self.epoch + at % self.epoch / self.epoch
        share = cosine(now, self.total / self.epoch, self.recipe.warmup)
        return self.recipe.lr * share * min(left, 1.0)

    def idle_too_long(self, epochs: int) -> bool:
        """Whether after so many epochs without a gain it is time to end."""
        patience = self.recipe.patience
        return epochs >= max(MOST_IDLE, patience * self.epochs) if patience else False


@dataclass(frozen=True)
class Epoch:
    """What an epoch did: mean loss and accuracy on the augmented training images.

    ``judged``: share that is right of the images that judge, where there are any.
    """

    number: int  # from 1
    epochs: int
    loss: float
    accuracy: float
    images: int
    seconds: float
    judged: float | None = None

    @property
    def images_per_second(self) -> float:
        """Throughput of training, scoring left out."""
        return self.images / self.seconds

    @property
    def left_s(self) -> float:
        """About how long the other epochs take, scoring left out."""
        return (self.epochs - self.number) * self.seconds


@dataclass(frozen=True)
class Ended:
    """A training: ``epochs`` and ``steps`` that it took, ``kept``: the epoch whose weights stay."""

    epochs: int
    steps: int
    kept: int


@dataclass
class _At:
    """Where a training stands: the step to take next, and sums over its epoch so far.

    ``fall``: of all steps the one from which the rate falls early.
    """

    epoch: int = 0
    step: int = 0
    fall: int | None = None
    loss: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Changing:
    """All tensors that steps change, kept in ``checkpoint`` if there is one."""

    net: nn.Module
    optimiser: torch.optim.Optimizer
    average: Average
    watch: Watch
    checkpoint: Checkpoint | None
    start: Checkpoint | None

    def save(self, at: _At) -> None:
        if self.checkpoint is None:
            return
        tensors = joined(
            net=self.net.state_dict(),
            optimiser=flattened(self.optimiser.state_dict()),
            average=self.average.state_dict(),
            watch=self.watch.state_dict(),
        )
        self.checkpoint.save(tensors, asdict(at))

    def load(self) -> _At:
        for kept in (self.checkpoint, self.start):
            if kept is not None and (saved := kept.load()) is not None:
                return self._restored(kept, saved)
        return _At()

    def _restored(self, kept: Checkpoint, saved: Saved) -> _At:
        try:
            self.net.load_state_dict(saved.part("net"))
            restore(self.optimiser, saved.part("optimiser"))
            self.average.load_state_dict(saved.part("average"))
            self.watch.load_state_dict(saved.part("watch"))
            return _At(**saved.facts)
        except (RuntimeError, LookupError, TypeError, ValueError) as e:
            raise kept.corrupt(e) from e


def train(
    net: nn.Module,
    task: Task,
    recipe: TrainRecipe,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    teacher: nn.Module | None = None,
    judge: Judge | None = None,
    checkpoint: Checkpoint | None = None,
    save_every_s: float = SAVE_EVERY_S,
    start: Checkpoint | None = None,
    until: int | None = None,
) -> Ended:
    """Train ``net`` in place, on the device where it is; left in eval mode.

    With a ``teacher`` the loss is shared between labels and its output (Hinton et al. 2015,
    arXiv:1503.02531, temperature 1). A ``judge`` says after each epoch which images, held out, are
    right, (n,) bool, always the same n: what was best by it is kept, where the end is worse by more
    than noise. With a ``checkpoint`` it goes on from what that holds, and ends with the weights of
    a training that nothing interrupted: whatever is random depends on ``seed`` and the number of
    the step alone. ``start``: where it begins, where ``checkpoint`` holds nothing. ``until``: the
    epoch after which it pauses, to go on from its ``checkpoint``. While ``on_epoch`` runs, ``net``
    holds the weights that would be kept. What is frozen whole is left as it is. Raises
    TrainingDiverged, CorruptFile.
    """
    if not learns(net):
        net.eval()
        return Ended(0, 0, 0)
    net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    where = place(net)
    task = task.on(where)
    labels = task.parts["train"].y
    size, course = min(recipe.batch, len(labels)), Course.of(recipe, len(labels))
    moves = optimiser(net, recipe.optimizer, recipe.momentum, recipe.weight_decay)
    averaged, mixing, timer = average(net, recipe.ema), recipe.mixing, Every(save_every_s)
    watch = Watch()
    loss_of = _Loss(task, recipe, teacher, task.class_weights("train", recipe.balance))
    changing = _Changing(net, moves, averaged, watch, checkpoint, start)
    at = changing.load()
    with torch.random.fork_rng(devices=[]), dropping(net, recipe.dropout):
        last = course.epochs if until is None else until
        while (left := course.ends(at.fall) - at.epoch * course.epoch) > 0 and at.epoch < last:
            order, began = seed * 1009 + at.epoch, time.perf_counter() - at.seconds
            batches = task.batches("train", size, order, augmented=True, start=at.step)
            for x, y in itertools.islice(batches, max(left - at.step, 0)):
                rng = random.Random(f"{order}/{at.step}/step")
                torch.manual_seed(rng.getrandbits(63))  # for what a network draws, as in dropout
                set_lr(moves, course.lr(at.epoch * course.epoch + at.step, at.fall))
                blend = mixing(moved(x, where), moved(y, where), rng)
                loss, correct = loss_of(net, blend)
                moves.zero_grad()
                torch.autograd.backward(loss)
                moves.step()
                averaged.update()
                at.step += 1
                at.loss += finite(loss, "training", at.epoch, recipe.lr)
                at.correct += correct
                at.seconds = time.perf_counter() - began
                if timer.due():
                    changing.save(at)
            with averaged.shown():
                right = None if judge is None else judge(net)
                done = _epoch(at, course, size, right)
                on_epoch(done)
                watch.tell(done.loss, right, net)
            _alive(done, labels, recipe, loss_of.weights)
            at = _At(at.epoch + 1, fall=_fall(at, watch, course))
            changing.save(at)
    averaged.settle()
    kept = watch.settle(net)
    net.eval()
    return Ended(at.epoch, course.ends(at.fall), kept)


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


def finite(loss: Tensor, what: str, epoch: int, lr: float) -> float:
    """The value of ``loss``. Raises TrainingDiverged if it is NaN or infinite."""
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"{what}: the loss became {value} in epoch {epoch + 1}; lower lr (it is {lr:g})"
        )
    return value


def learnt_nothing(
    epoch: Epoch, y: Tensor, smoothing: float, weights: Tensor | None = None
) -> bool:
    """Whether it was no better than guessing by the shares of the classes among labels ``y``.

    Neither in accuracy, three standard errors allowed, nor in loss: the rarer the others, the
    less accuracy alone says. ``weights``: of the classes in the loss.
    """
    shares = y.bincount() / len(y)
    most = float(shares.max())
    if weights is not None:
        shares = shares * weights[: len(shares)] / (shares * weights[: len(shares)]).sum()
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


@dataclass(frozen=True)
class _Loss:
    """What is minimised. ``weights``: (classes,)."""

    task: Task
    recipe: TrainRecipe
    teacher: nn.Module | None
    weights: Tensor | None

    def __call__(self, net: nn.Module, blend: Blend) -> tuple[Tensor, float]:
        """The loss, and how many images are right."""
        logits, task = _forward(net, blend.x, self.recipe), self.task
        loss = blend.mean(lambda y: task.loss(logits, y, self.recipe.smoothing, self.weights))
        if self.teacher is not None:
            distance = _distance(logits, self.teacher, blend.x, self.recipe)
            loss = torch.lerp(loss, distance, self.recipe.teacher_weight)
        return loss, blend.mean(lambda y: float(task.correct(logits.detach(), y)))


def _epoch(at: _At, course: Course, size: int, right: np.ndarray | None) -> Epoch:
    images = at.step * size
    judged = None if right is None else float(right.mean())
    return Epoch(
        at.epoch + 1, -(-course.ends(at.fall) // course.epoch), at.loss / at.step,
        at.correct / images, images, at.seconds, judged,
    )  # fmt: skip


def _fall(at: _At, watch: Watch, course: Course) -> int | None:
    """From which step the rate falls early, known after an epoch."""
    if at.fall is not None or not course.idle_too_long(watch.idle):
        return at.fall
    return (at.epoch + 1) * course.epoch


def _distance(logits: Tensor, teacher: nn.Module, x: Tensor, recipe: TrainRecipe) -> Tensor:
    with torch.no_grad():
        want = _forward(teacher, x, recipe).log_softmax(1)
    return nn.functional.kl_div(logits.log_softmax(1), want, reduction="batchmean", log_target=True)


def _alive(epoch: Epoch, y: Tensor, recipe: TrainRecipe, weights: Tensor | None) -> None:
    """Raise TrainingDiverged where going on is a waste."""
    due = recipe.dead_after and recipe.dead_after * epoch.epochs <= epoch.number < epoch.epochs
    if due and learnt_nothing(epoch, y, recipe.smoothing, weights):
        raise TrainingDiverged(
            f"training: after {epoch.number} of {epoch.epochs} epochs the network is no better "
            f"than guessing (accuracy {epoch.accuracy:.1%}, loss {epoch.loss:.3g}); change lr (it "
            f"is {recipe.lr:g}) or look at the labels. dead_after: 0 trains on"
        )
