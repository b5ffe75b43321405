"""Stage ``race``: finalists train as the found network will; at each rung the worse half leaves.

The weights of the winner are where ``train`` goes on, if both learn from the same images.
"""

import functools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgenas import ops, race
from edgenas.budgets import Latency
from edgenas.checkpoint import Checkpoint
from edgenas.config import Config
from edgenas.errors import TrainingDiverged
from edgenas.files import write_json
from edgenas.noise import fewer, share_interval
from edgenas.pipeline.confirm import Timed, measured
from edgenas.pipeline.context import Context
from edgenas.pipeline.objectives import objectives
from edgenas.pipeline.recipe import judging, raced
from edgenas.pipeline.search import described, method
from edgenas.pipeline.stage import Stage
from edgenas.pipeline.training import (
    beginning,
    keep_epoch,
    pace,
    teacher,
    teacher_digests,
    untrained,
)
from edgenas.project import slack
from edgenas.race import Seat
from edgenas.rundir import RunDir
from edgenas.search import Objective, Problem, Proposal, Trial
from edgenas.space import Relaxable
from edgenas.spec import Architecture
from edgenas.surrogate import LEAST, Surrogate
from edgenas.task import Part
from edgenas.train import Course, Epoch, rights, train
from edgenas.untrained import scored

SEATS = 8
PHASE, ROUND = "race ", 0  # how its phases begin
SIZES = (ops.macs, ops.parameters)
WINNER = "winner.safetensors"


@dataclass(frozen=True)
class Entrant:
    """A seat whose network was measured on every device."""

    seat: Seat
    timed: Mapping[str, Timed]

    def use(self, objective: Objective) -> float:
        """Of the tightest latency."""
        latencies = [b for b in objective.budgets if isinstance(b, Latency)]
        return max(self.timed[b.device].high_ms / b.limit_ms for b in latencies)


def seats(config: Config) -> int:
    """How many race."""
    if config.race.seats != "auto":
        return config.race.seats
    searched = method(config.search).training_epochs(config.levels) > 0
    return SEATS if searched and config.train.weights is None else 1


def phase(ctx: Context) -> str:
    """What the ledger calls this very race: one by other settings is another."""
    return f"{PHASE}{STAGE.key(ctx)[:8]}"


def rungs(ctx: Context) -> list[int]:
    """Epochs in all after each."""
    epochs = _course(ctx).epochs
    return sorted({max(1, round(share * epochs)) for share in ctx.config.race.rungs})


def race_steps(ctx: Context) -> int:
    """That the race takes, all its networks together."""
    count = seats(ctx.config)
    return race.cost_epochs(count, rungs(ctx)) * _course(ctx).epoch if count > 1 else 0


def ahead_epochs(ctx: Context) -> int:
    """That the winner has behind it where ``train`` goes on from it."""
    return race.trainings(seats(ctx.config), rungs(ctx))[-1][1] if goes_on(ctx) else 0


def winner(ctx: Context) -> Checkpoint | None:
    """Where the training of the winner stands; None where it begins anew."""
    path = ctx.root / "race" / WINNER
    return Checkpoint(path, ctx.architecture.id) if path.exists() else None


def goes_on(ctx: Context) -> bool:
    """Whether ``train`` goes on from what the winner of a race has learnt."""
    return seats(ctx.config) > 1 and judging(ctx)


def _course(ctx: Context) -> Course:
    return Course.of(raced(ctx), len(ctx.task.parts["train"]))


def _settings(ctx: Context) -> Mapping[str, Any]:
    count = seats(ctx.config)
    if count == 1:
        return {"seats": 1}
    return {
        "seats": count,
        "rungs": list(ctx.config.race.rungs),
        "scores": list(ctx.config.race.scores),
        "train": asdict(ctx.config.train),
        "begins": beginning(ctx),
        "teacher": teacher_digests(ctx.config),
        "budgets": asdict(ctx.config.budgets),
        "data": [ctx.task.digest(part) for part in ("train", *_held_out(ctx))],
        "augment": ctx.task.augment.key,
        "seed": ctx.config.seed,
        "threads": ctx.config.threads,
        "accelerator": ctx.config.accelerator,
    }


def _held_out(ctx: Context) -> tuple[Part, ...]:
    """What judges a race: all that a network which races does not learn from, but the test part."""
    return ("search",) if judging(ctx) else ("search", "calibration")


def _work(ctx: Context, folder: Path) -> None:
    found = Architecture.from_json(ctx.read("search/architecture.json"))
    if seats(ctx.config) == 1:
        write_json(folder / "architecture.json", found.to_json())
        return
    (objective,) = objectives(ctx.config, ctx.space, ctx.targets, ctx.predictors())
    problem = Problem(
        ctx.space, ctx.task, (objective,), seed=ctx.config.seed, accelerator=ctx.config.accelerator
    )
    entrants, over = _entrants(ctx, problem, found)
    trainer = _Trainer(ctx, problem, len(entrants))
    archs = [e.seat.arch for e in entrants]
    standing = race.race(archs, rungs(ctx), trainer, ctx.ledger(), phase=phase(ctx))
    if not standing[0].metrics["accuracy"]:
        raise TrainingDiverged(
            f"race: none of {len(standing)} networks learnt anything; lower train: lr (it is "
            f"{raced(ctx).lr:g}), or look at the labels"
        )
    best = _best(ctx, objective, trainer, standing, entrants)
    won = next(e.seat for e in entrants if e.seat.arch == best)
    ctx.progress(f"race: {best.id} won ({won.why})", 1, 1)
    if goes_on(ctx):
        saved = trainer.checkpoint(best).load()
        assert saved is not None  # of its last rung
        Checkpoint(folder / WINNER, best.id).save(saved.tensors, saved.facts)
    write_json(folder / "architecture.json", best.to_json())
    write_json(
        folder / "race.json",
        {
            "method": ctx.config.search["method"],
            "search": RunDir(ctx.root).outputs("search")["search.json"],
            "phase": phase(ctx),
            **described(ctx, 0, best),
            "held_out": {"parts": _held_out(ctx), "images": trainer.images},
            "rungs": rungs(ctx),
            "goes_on": goes_on(ctx),
            "slack": slack(ctx.space, objective.budgets),
            "seats": _told(ctx, trainer, standing, entrants),
            "over_budget": [_seat(e) for e in over],
            "worth": _worth(ctx, best),
        },
    )


def _entrants(
    ctx: Context, problem: Problem, found: Architecture
) -> tuple[list[Entrant], list[Entrant]]:
    """Who races, and who would but for what was measured of it; the found network in any case."""
    rng, (objective,) = random.Random(f"{ctx.config.seed}/race"), problem.objectives
    tiers = race.tiers(ctx.space, objective)
    scores = {
        name: functools.partial(scored, name, problem, progress=ctx.progress)
        for name in ctx.config.race.scores
    }
    drawn = race.spread(ctx.space, tiers, [found], seats(ctx.config), SIZES, rng, scores)
    every = measured(ctx, phase(ctx), ROUND, [seat.arch for seat in drawn])
    entrants = [Entrant(seat, timed) for seat, timed in zip(drawn, every, strict=True)]
    racing = [e for e in entrants if e.use(objective) <= 1 or e.seat.arch == found]
    return racing, [e for e in entrants if e not in racing]


def _best(
    ctx: Context,
    objective: Objective,
    trainer: "_Trainer",
    standing: Sequence[Trial],
    entrants: Sequence[Entrant],
) -> Architecture:
    """Of those that trained longest the best; where no budget binds, the fastest alike to it."""
    if not slack(ctx.space, objective.budgets):
        return standing[0].arch
    longest = standing[0].proposal.epochs
    last = [t.arch for t in standing if t.proposal.epochs == longest and t.metrics["accuracy"] > 0]
    right = {arch: trainer.rights(arch, longest) for arch in last}
    uses = {e.seat.arch: e.use(objective) for e in entrants}
    alike = [arch for arch in last if not fewer(right[arch], right[last[0]])]
    return min(alike, key=uses.__getitem__)


class _Trainer:
    """Evaluates by the final recipe, up to the epoch that is asked for; each goes on where it was.

    Of one that was trained so far already, nothing is trained again.
    """

    def __init__(self, ctx: Context, problem: Problem, count: int) -> None:
        self._ctx, self._problem, self._phase = ctx, problem, phase(ctx)
        self._teacher = teacher(ctx)
        self._before = [0]
        steps = race.trainings(count, rungs(ctx))
        for (number, epochs), last in zip(steps, [0, *rungs(ctx)], strict=False):
            self._before += [self._before[-1] + (epochs - last) * (k + 1) for k in range(number)]
        self._last = dict(zip(rungs(ctx), [0, *rungs(ctx)], strict=False))

    @property
    def images(self) -> int:
        """That judge."""
        return sum(len(self._ctx.task.parts[part]) for part in _held_out(self._ctx))

    def checkpoint(self, arch: Architecture) -> Checkpoint:
        """Where its training stands."""
        return STAGE.checkpoint(self._ctx, arch.id)

    def rights(self, arch: Architecture, epochs: int, done: int = 0) -> np.ndarray:
        """Which of the images that judge it gets right after so many, bool."""
        ctx = self._ctx
        net = untrained(ctx, arch).to(ctx.config.accelerator)
        task, before = ctx.task.at(ctx.space.input_of(arch)[1]), done - self._last[epochs]

        def on_epoch(e: Epoch) -> None:
            keep_epoch(ctx, f"{self._phase} {arch.id}", e, net)
            ctx.progress(f"race ({pace(e)})", before + e.number, self._before[-1])

        def judge(net: nn.Module) -> np.ndarray:
            return rights(net, task, "search")

        train(
            net, task, raced(ctx), ctx.config.seed, on_epoch, self._teacher,
            judge=judge if judging(ctx) else None, checkpoint=self.checkpoint(arch), until=epochs,
        )  # fmt: skip
        return np.concatenate([rights(net, task, part) for part in _held_out(ctx)])

    def __call__(self, proposal: Proposal, id: int) -> Trial:
        """The trial of ``proposal``."""
        start = time.perf_counter()
        try:
            right = self.rights(proposal.arch, proposal.epochs, self._before[id])
        except TrainingDiverged as e:
            self._ctx.progress(f"race: {proposal.arch.id} leaves it: {e}", 1, 1)
            right = np.zeros(1)
        metrics = {"accuracy": float(right.mean()), **self._problem.predicted(proposal.arch)}
        return Trial(id, proposal, metrics, time.perf_counter() - start)


def _worth(ctx: Context, arch: Architecture) -> dict[str, dict[str, Any]] | None:
    """What each option would add to ``arch``, by all that was evaluated; None of too little."""
    ledger = ctx.ledger()
    phases = {e["phase"] for e in ledger.events() if e["event"] == "tell"}
    own = sorted(p for p in phases if p == phase(ctx) or not p.startswith(PHASE))
    trials = [t for p in own for t in ledger.trials(p) if t.metrics.get("accuracy")]
    if not isinstance(ctx.space, Relaxable) or len(trials) < LEAST:
        return None
    worth = Surrogate.fit(ctx.space, trials).worth(arch)
    return {
        c.name: {label: asdict(w) for label, w in zip(c.options, worth[c.name], strict=True)}
        for c in ctx.space.choices
    }


def _seat(entrant: Entrant) -> dict[str, Any]:
    return {
        "architecture": entrant.seat.arch.to_json(),
        "id": entrant.seat.arch.id,
        "why": entrant.seat.why,
        "measured": {name: asdict(timed) for name, timed in entrant.timed.items()},
    }


def _told(
    ctx: Context, trainer: _Trainer, standing: Sequence[Trial], entrants: Sequence[Entrant]
) -> list[dict[str, Any]]:
    """Every seat with the accuracy at each of its rungs, as they stand in the end."""
    of = {e.seat.arch: e for e in entrants}
    trials = ctx.ledger().trials(phase(ctx))
    return [
        {
            **_seat(of[last.arch]),
            "rungs": [_rung(t, trainer.images) for t in trials if t.arch == last.arch],
        }
        for last in standing
    ]


def _rung(trial: Trial, images: int) -> dict[str, Any]:
    share = trial.metrics["accuracy"]
    interval = share_interval(round(share * images), images)
    return {"epochs": trial.proposal.epochs, "accuracy": share, "interval": interval}


STAGE = Stage("race", ("profile", "search"), _settings, _work)
