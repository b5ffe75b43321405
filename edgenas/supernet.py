"""The one supernet loop: weight steps and architecture steps in turn, for every policy."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgenas.checkpoint import Checkpoint, Every, flattened, joined, restore
from edgenas.descent import cosine, set_lr, sgd
from edgenas.gates import Gates, Mixed
from edgenas.pressure import Pressure, pressure
from edgenas.relax import Loads, Policy, Schedule, Step
from edgenas.search import Ledger, Problem, Progress, silent
from edgenas.space import Relaxable
from edgenas.task import Task
from edgenas.train import finite, moved, seeded
from edgenas.warm import warmed

SAVE_SECONDS = 60.0


@dataclass
class _Level:
    """One objective under way: who learns for it, and what load costs it now."""

    policy: Policy
    loads: Loads
    pressure: Pressure
    losses: list[float] = field(default_factory=list)  # of this epoch's architecture steps

    def expected(self) -> Tensor:
        return self.loads.expected({c: s.exp() for c, s in self.policy.scores().items()})


@dataclass
class _Progress:
    """Where the loop is: enough, with the weights, to go on from there."""

    epoch: int = 0
    step: int = 0
    arch_steps: int = 0
    total: float = 0.0
    seconds: float = 0.0


def train_supernet(
    problem: Problem,
    space: Relaxable,
    policies: Sequence[Policy],
    schedule: Schedule,
    ledger: Ledger,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """Alternate weight and architecture steps (arXiv:1812.00332, sec. 3.2).

    One policy an objective: weight steps take their paths in turn, an architecture step is taken by
    each. All that is random is a function of seed and step, so that a killed search goes on from
    ``checkpoint`` to the same supernet, on a CPU bit for bit. The ledger gets an event an epoch.
    Raises TrainingDiverged.
    """
    loop = _Loop(problem, space, policies, schedule)
    if checkpoint is not None:
        loop.resume(checkpoint)
    pause = Every(SAVE_SECONDS)
    at, steps, length = loop.at, loop.steps, loop.length
    while at.epoch < length.epochs:
        start, before = time.perf_counter(), at.seconds
        for x, y in loop.batches():
            loop.weight_step(x, y)
            if at.epoch >= length.warmup and at.step % schedule.arch_every == 0:
                loop.arch_step()
            at.step += 1
            at.seconds = before + time.perf_counter() - start
            progress("search", at.epoch * steps + at.step, length.epochs * steps)
            if checkpoint is not None and pause.due():
                loop.save(checkpoint)
        pace = {"seconds": at.seconds, "images_per_second": steps * loop.size / at.seconds}
        ledger.read("search", "epoch", epoch=at.epoch + 1, **pace)
        ledger.append("search", "epoch", **loop.ended_epoch())
        if checkpoint is not None:
            loop.save(checkpoint)
    return loop.net.eval()


class _Loop:
    def __init__(
        self, problem: Problem, space: Relaxable, policies: Sequence[Policy], schedule: Schedule
    ) -> None:
        self.where = torch.device(problem.accelerator)
        self.problem, self.task, self.schedule = problem, problem.task.on(self.where), schedule
        self.levels = [
            _Level(policy, Loads.of(space, objective), pressure(schedule.pressure))
            for policy, objective in zip(policies, problem.objectives, strict=True)
        ]
        with seeded(problem.seed):
            net = space.supernet(Mixed)
        if problem.start is not None:
            warmed(net, problem.start)
        # torch's stubs know memory_format only together with a tensor
        net.to(self.where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net = net.train()
        self.optimiser = sgd(net, schedule.momentum, schedule.weight_decay)
        images = len(self.task.parts["train"].y)
        self.length = schedule.length(images)
        self.size = self.length.batch
        self.steps = images // self.size
        self.at = _Progress()
        self.validation: Iterator[tuple[Tensor, Tensor]] | None = None

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of this epoch."""
        seed = self.problem.seed * 1009 + self.at.epoch
        for x, y in self.task.batches("train", self.size, seed, augmented=True, start=self.at.step):
            yield moved(x, self.where), moved(y, self.where)

    def weight_step(self, x: Tensor, y: Tensor) -> None:
        """One path, of each policy in turn."""
        at, schedule = self.at, self.schedule
        policy = self.levels[at.step % len(self.levels)].policy
        rate = cosine(at.epoch + at.step / self.steps, self.length.epochs, 0)
        set_lr(self.optimiser, schedule.lr * rate)
        gates = policy.weight_gates(self.problem.rng(f"weights/{at.epoch}/{at.step}"))
        loss = self.task.loss(self._logits(x, gates), y, schedule.smoothing)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        at.total += finite(loss, "search", at.epoch, schedule.lr)

    def arch_step(self) -> None:
        """The same images for every policy."""
        x, y = self._validation_batch()

        def ce(gates: Gates) -> Tensor:
            return self.task.loss(self._logits(x, gates), y)

        def accuracy(gates: Gates) -> float:
            with torch.no_grad():
                return self.task.correct(self._logits(x, gates), y) / len(y)

        for number, level in enumerate(self.levels):
            expected = level.expected()
            level.pressure.adapt(float(expected.max()))
            rng = self.problem.rng(f"architecture/{self.at.arch_steps}/{number}")
            step = Step(ce, accuracy, level.loads, int(expected.argmax()), level.pressure, rng)
            level.losses.append(level.policy.arch_step(step))
        self.at.arch_steps += 1

    def ended_epoch(self) -> dict[str, Any]:
        """The event of this epoch; the next begins."""
        at = self.at
        event = {
            "epoch": at.epoch + 1,
            "epochs": self.length.epochs,
            "warmup": at.epoch < self.length.warmup,
            "loss": at.total / self.steps,
            "levels": [_described(level) for level in self.levels],
        }
        for level in self.levels:
            level.losses.clear()
        at.epoch, at.step, at.total, at.seconds = at.epoch + 1, 0, 0.0, 0.0
        return event

    def save(self, checkpoint: Checkpoint) -> None:
        """All that the rest of the search depends on."""
        tensors = joined(
            net=self.net.state_dict(),
            optimiser=flattened(self.optimiser.state_dict()),
            **{f"policy{i}": level.policy.state() for i, level in enumerate(self.levels)},
        )
        levels = [{"pressure": v.pressure.state(), "losses": v.losses} for v in self.levels]
        checkpoint.save(tensors, {"at": asdict(self.at), "levels": levels})

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from what was saved, if anything was."""
        saved = checkpoint.load()
        if saved is None:
            return
        try:
            self.net.load_state_dict(saved.part("net"))
            restore(self.optimiser, saved.part("optimiser"))
            for number, (level, facts) in enumerate(
                zip(self.levels, saved.facts["levels"], strict=True)
            ):
                level.policy.restore(saved.part(f"policy{number}"))
                level.pressure.restore(facts["pressure"])
                level.losses = list(facts["losses"])
            self.at = _Progress(**saved.facts["at"])
        except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as e:
            raise checkpoint.corrupt(e) from e

    def _logits(self, x: Tensor, gates: Gates) -> Tensor:
        low = self.schedule.precision == "bf16"
        with torch.autocast(self.where.type, torch.bfloat16, enabled=low):
            logits: Tensor = self.net(x, gates)
        return logits.float()

    def _validation_batch(self) -> tuple[Tensor, Tensor]:
        """Of the search part, shuffled anew each time round."""
        if self.validation is None:
            self.validation = _endless(self.task, self.size, self.problem.seed, self.at.arch_steps)
        x, y = next(self.validation)
        return moved(x, self.where), moved(y, self.where)


def _described(level: _Level) -> dict[str, Any]:
    """Where an architecture stands, in JSON types."""
    probs = {c: s.exp() for c, s in level.policy.scores().items()}
    loads = level.loads.expected(probs)
    entropy = [
        float(torch.special.entr(p).sum()) / torch.tensor(len(p)).log().item()
        for p in probs.values()
    ]
    return {
        "val_loss": sum(level.losses) / len(level.losses) if level.losses else None,
        "weight": level.pressure.value,
        "load": float(loads.max()),
        "expected": {
            b.name: b.amount(load)
            for b, load in zip(level.loads.budgets, loads.tolist(), strict=True)
        },
        "entropy": sum(entropy) / len(entropy),  # of log(options): 1 undecided, 0 decided
        "probabilities": {c: [round(v, 5) for v in p.tolist()] for c, p in probs.items()},
    }


def _endless(task: Task, size: int, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the search part from number ``start`` on, every round in another order."""
    each = -(-len(task.parts["search"].y) // size)
    round, first = divmod(start, each)
    while True:
        round += 1
        yield from task.batches("search", size, seed + round, augmented=False, start=first)
        first = 0
