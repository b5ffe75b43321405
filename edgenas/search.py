"""Searching: proposals out, trials in, everything in a ledger.

Sampler    ask() -> Proposal | None,  tell(Trial)     decides what to try
Evaluate   (Proposal, trial id) -> Trial              decides what it is worth
ask_tell   the only loop; a resumed run replays the ledger through it
Method     run(Problem, Ledger, Progress) -> Found    one file in edgenas/methods
"""

import contextlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from edgenas import parsing
from edgenas.budgets import Budget
from edgenas.errors import CorruptFile, LedgerMismatch
from edgenas.locks import opened
from edgenas.registry import Shelf
from edgenas.space import Space
from edgenas.spec import Architecture, OpSpec
from edgenas.task import Task
from edgenas.train import TrainRecipe

Progress = Callable[[str, int, int], None]  # what, done, total


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Objective:
    """Best accuracy within all ``budgets``."""

    budgets: tuple[Budget, ...]

    def load(self, ops: Sequence[OpSpec]) -> float:
        """Of the tightest budget."""
        return max(b.load(ops) for b in self.budgets)

    def fits(self, ops: Sequence[OpSpec]) -> bool:
        """Whether every budget is kept."""
        return self.load(ops) <= 1


@dataclass(frozen=True)
class Problem:
    """All that a method may know.

    ``objectives``: one for each network that is wanted, a front; ``accelerator``: the torch device
    that trains; ``start``: a file of the weights of a supernet, to begin with those that agree.
    """

    space: Space
    task: Task
    objectives: tuple[Objective, ...]
    recipe: TrainRecipe = field(default_factory=TrainRecipe)
    seed: int = 0
    accelerator: str = "cpu"
    start: Path | None = None

    def predicted(self, arch: Architecture) -> dict[str, float]:
        """What the tables say of ``arch``, as metrics of a trial.

        ``load`` under the objective that asks least of it, and the amount of each budget by its
        name, e.g. ``ms:pi4``, the p50 without margin.
        """
        ops = self.space.ops(arch)
        amounts = {b.name: b.amount(b.load(ops)) for o in self.objectives for b in o.budgets}
        return {"load": min(o.load(ops) for o in self.objectives), **amounts}

    def rng(self, purpose: str) -> random.Random:
        """An independent stream a purpose."""
        return random.Random(f"{self.seed}/{purpose}")


@dataclass(frozen=True)
class Proposal:
    """Try ``arch``, trained for ``epochs`` (0: with weights that are there)."""

    arch: Architecture
    epochs: int = 0

    def to_json(self) -> dict[str, Any]:
        """``{"arch": {...}, "epochs": 0}``."""
        return {"arch": self.arch.to_json(), "epochs": self.epochs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Proposal":
        """Inverse of ``to_json``."""
        return cls(Architecture.from_json(data["arch"]), int(data["epochs"]))


@dataclass(frozen=True)
class Trial:
    """What came of a proposal. ``metrics``: accuracy (fraction, search part), what is predicted."""

    id: int
    proposal: Proposal
    metrics: Mapping[str, float]
    seconds: float

    @property
    def arch(self) -> Architecture:
        """Short for ``proposal.arch``."""
        return self.proposal.arch

    def to_json(self) -> dict[str, Any]:
        """One event's worth of JSON."""
        return {
            "id": self.id,
            "proposal": self.proposal.to_json(),
            "metrics": dict(self.metrics),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """Inverse of ``to_json``."""
        proposal = Proposal.from_json(data["proposal"])
        metrics = {name: float(value) for name, value in data["metrics"].items()}
        return cls(int(data["id"]), proposal, metrics, float(data.get("seconds", 0.0)))


class Sampler(Protocol):
    """Decides what to try next."""

    def ask(self) -> Proposal | None:
        """The next proposal; None when there is nothing left to try."""
        ...

    def tell(self, trial: Trial) -> None:
        """Learn from a result."""
        ...


Evaluate = Callable[[Proposal, int], Trial]


class Ledger:
    """Append-only events of a run, one JSON object a line: the only state of a search.

    ``readings``: a file beside it for what differs between two runs that do the same, times and
    memory, each named by what it was read of.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.readings = path.with_name(f"{path.stem}.readings.jsonl")

    def append(self, phase: str, event: str, **data: Any) -> None:
        """Write one line and sync it. NaN and infinity are refused."""
        _append(self.path, phase, event, data)

    def read(self, phase: str, event: str, **data: Any) -> None:
        """As ``append``, of a reading: ``data`` names what it is of, and holds it."""
        _append(self.readings, phase, event, data)

    def events(self, phase: str | None = None) -> Iterator[dict[str, Any]]:
        """All events, or those of ``phase``; a last line that a kill cut short is left out.

        Raises CorruptFile that names the line.
        """
        return _events(self.path, phase)

    def epochs(self, phase: str) -> list[dict[str, Any]]:
        """Epoch events with what was read of them, in order; of an epoch that was run again, the
        last. Raises CorruptFile."""
        with self._whole("epoch"):
            read = {e["epoch"]: e for e in self._read(phase, "epoch")}
            latest = {e["epoch"]: e for e in self.events(phase) if e["event"] == "epoch"}
            return [read.get(k, {}) | latest[k] for k in sorted(latest)]

    def trials(self, phase: str) -> list[Trial]:
        """Finished trials in order. Raises CorruptFile."""
        with self._whole("tell"):
            read = {e["id"]: {"seconds": e["seconds"]} for e in self._read(phase, "tell")}
            told = [e["trial"] for e in self.events(phase) if e["event"] == "tell"]
            return [Trial.from_json(read.get(t["id"], {}) | t) for t in told]

    def _read(self, phase: str, event: str) -> list[dict[str, Any]]:
        return [e for e in _events(self.readings, phase) if e["event"] == event]

    @contextlib.contextmanager
    def _whole(self, event: str) -> Iterator[None]:
        """What an event lacks is said as of the file."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise CorruptFile(
                f"{self.path}: an event {event!r} is not whole: {e!r}. Remove the folder to start "
                "afresh"
            ) from e


def _append(path: Path, phase: str, event: str, data: Mapping[str, Any]) -> None:
    line = json.dumps({"phase": phase, "event": event, **data}, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path) as f:
        _drop_torn_line(f)
        f.seek(0, os.SEEK_END)
        f.write(line.encode() + b"\n")
        f.flush()
        os.fsync(f.fileno())


def _events(path: Path, phase: str | None) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            event = parsing.json_value(line)
            if not isinstance(event, dict) or not {"phase", "event"} <= event.keys():
                raise ValueError("not an event")
        except ValueError as e:
            raise CorruptFile(
                f"{path}, line {number}: {e}. Remove the folder to start afresh"
            ) from e
        if phase in (None, event["phase"]):
            yield event


def _drop_torn_line(f: Any) -> None:
    """Cut ``f`` after its last newline."""
    end = f.seek(0, os.SEEK_END)
    if end == 0:
        return
    f.seek(end - 1)
    if f.read(1) == b"\n":
        return
    f.seek(0)
    f.truncate(f.read().rfind(b"\n") + 1)


def ask_tell(
    sampler: Sampler,
    evaluate: Evaluate,
    ledger: Ledger,
    *,
    phase: str,
    trials: int,
    progress: Progress = silent,
) -> list[Trial]:
    """Ask, evaluate, tell, until ``trials`` are done or the sampler has no more.

    What the ledger holds of ``phase`` is replayed, not evaluated again. Raises LedgerMismatch
    where the replay proposes something else than was recorded.
    """
    recorded = list(ledger.events(phase))
    asked = [Proposal.from_json(e["proposal"]) for e in recorded if e["event"] == "ask"]
    known = ledger.trials(phase)
    told: list[Trial] = []
    for i in range(trials):
        proposal = sampler.ask()
        if i < len(asked):
            _same(proposal, asked[i], phase, i, ledger)
        if proposal is None:
            break
        if i < len(known):
            trial = known[i]
        else:
            if i >= len(asked):
                ledger.append(phase, "ask", proposal=proposal.to_json())
            trial = evaluate(proposal, i)
            told_of = trial.to_json()
            ledger.read(phase, "tell", id=trial.id, seconds=told_of.pop("seconds"))
            ledger.append(phase, "tell", trial=told_of)
        sampler.tell(trial)
        told.append(trial)
        progress(phase, i + 1, trials)
    return told


def _same(got: Proposal | None, want: Proposal, phase: str, i: int, ledger: Ledger) -> None:
    if got != want:
        raise LedgerMismatch(
            f"{ledger.path}: {phase} {i} was {want.arch.id} for {want.epochs} epochs, now it would "
            f"be {f'{got.arch.id} for {got.epochs}' if got else 'none'}: settings or code changed. "
            "Start afresh in another folder"
        )


@dataclass(frozen=True)
class Found:
    """The answer of a method: an architecture for each objective.

    ``supernet`` where it trained one that holds their weights; ``scores`` where it can say of
    every option how good it is, whatever it costs: (options,) per choice, to be summed.
    """

    archs: tuple[Architecture, ...]
    supernet: nn.Module | None = None
    scores: tuple[Mapping[str, Tensor], ...] | None = None


class Method(Protocol):
    """A search method: a frozen dataclass whose fields are its configuration."""

    def training_epochs(self, objectives: int) -> float:
        """Cost of a front of so many objectives, in epochs of plainly training one path."""
        ...

    def run(self, problem: Problem, ledger: Ledger, progress: Progress = silent) -> Found:
        """Search; every event goes to ``ledger``. Raises ImpossibleBudget, TrainingDiverged."""
        ...


@runtime_checkable
class Sized(Protocol):
    """A method whose length follows the images."""

    def sized(self, images: int) -> Method:
        """The same on so many training images."""
        ...


METHODS = Shelf("edgenas.methods", Method)
