"""What was found is measured before it is trained: the error of the prediction is taken out.

A prediction that is low breaks the budget after hours of training; one that is 3 % high refuses
what would fit, and its margin more. Latency does not depend on weights: so measure at once, and of
a network over its budget, or of the best that seemed to fit, correct the predictor for the network
at hand and project again. Where a machine has slow minutes,
a p50 just within its budget is over it the next time: the upper end of its interval counts, an
answer is measured in two rounds, and the worse stands.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from edgenas.budgets import Budget, Latency
from edgenas.errors import ImpossibleBudget
from edgenas.export import exporter_for
from edgenas.graph import lowered, trace
from edgenas.measure import measure
from edgenas.pipeline.context import Context
from edgenas.project import nearest, project
from edgenas.scratch import scratch_folder
from edgenas.search import Found, Objective
from edgenas.space import Relaxable
from edgenas.spec import Architecture, OpSpec
from edgenas.train import seeded

ROUNDS, REPEATS = 4, 2  # at most; of every answer
MOST, LEAST = 0.99, 0.94  # of the tightest budget, measured: between them nothing is changed
BLOCKS, BLOCK_SECONDS = 3, 0.2
USUAL_ROUNDS, START_SECONDS = 3, 4.0
CALIBRATION = 64  # images; ranges do not change latency


@dataclass(frozen=True)
class Timed:
    """A network on a device; ``high_ms``: upper end of the 95 % interval of ``p50_ms``."""

    p50_ms: float
    high_ms: float


@dataclass
class _Level:
    """A network of a front under way."""

    objective: Objective
    scores: Mapping[str, Tensor] | None
    arch: Architecture
    bound: bool  # only what is predicted keeps it from another
    tried: list[dict[str, Any]] = field(default_factory=list)
    worst_ms: dict[Architecture, dict[str, float]] = field(default_factory=dict)
    times: Counter[Architecture] = field(default_factory=Counter)

    def judge(self, timed: Mapping[str, Timed], space: Relaxable, ops: Sequence[OpSpec]) -> None:
        """Stay with ``arch`` if it keeps its budgets and they allow no better; else another."""
        before = self.worst_ms.get(self.arch, {})
        self.worst_ms[self.arch] = {d: max(t.high_ms, before.get(d, 0)) for d, t in timed.items()}
        self.times[self.arch] += 1
        use = self._use(self.arch)
        devices = {name: asdict(t) for name, t in timed.items()}
        self.tried.append({"architecture": self.arch.to_json(), "measured": devices, "use": use})
        if self.scores is not None and (use > MOST or (use < LEAST and self.bound)):
            corrected = self._corrected(ops)
            try:
                self.arch = project(space, self.scores, corrected)
            except ImpossibleBudget:  # says a correction that is right for this network alone
                self.arch = nearest(space, corrected)
            if self.arch in self.worst_ms:
                self.arch = self.answer

    @property
    def settled(self) -> bool:
        """Whether what would be measured next is known well enough."""
        return self._sure(self.arch)

    @property
    def latencies(self) -> list[Latency]:
        return [b for b in self.objective.budgets if isinstance(b, Latency)]

    @property
    def answer(self) -> Architecture:
        """The best within its budgets; the nearest to them where none is."""
        uses = {arch: self._use(arch) for arch in self.worst_ms}
        within = [arch for arch, use in uses.items() if use <= 1]
        if within:
            return max(
                within,
                key=lambda a: (self._sure(a), uses[a] <= MOST, self._worth(a)),
            )
        return min(uses, key=uses.__getitem__)

    def _sure(self, arch: Architecture) -> bool:
        return self.times[arch] >= REPEATS

    def _use(self, arch: Architecture) -> float:
        """Of the tightest budget."""
        return max(self.worst_ms[arch][b.device] / b.limit_ms for b in self.latencies)

    def _corrected(self, ops: Sequence[OpSpec]) -> list[Budget]:
        """Budgets under which ``arch``, of ``ops``, takes what was measured; without margin."""
        budgets: list[Budget] = []
        for b in self.objective.budgets:
            if isinstance(b, Latency):
                exact = b.predictor.corrected(self.worst_ms[self.arch][b.device], ops)
                aim = b.limit_ms * MOST * (1 + b.margin)
                budgets.append(replace(b, limit_ms=aim, predictor=exact))
            else:
                budgets.append(b)
        return budgets

    def _worth(self, arch: Architecture) -> float:
        return sum(float(s[arch.index(c)]) for c, s in (self.scores or {}).items())


def confirm_seconds(levels: int) -> float:
    """About what it takes on one device, for so many networks."""
    return USUAL_ROUNDS * measured_seconds(levels)


def measured_seconds(networks: int) -> float:
    """About what ``measured`` takes on one device."""
    return START_SECONDS + networks * BLOCKS * BLOCK_SECONDS


def confirm(ctx: Context, found: Found, asked: Sequence[Objective]) -> tuple[Found, list[Any]]:
    """``found`` with architectures that were measured, and what was measured of each objective.

    A method that says nothing of other architectures is measured and left as it is.
    """
    space = ctx.space
    if not isinstance(space, Relaxable):
        return found, [[] for _ in asked]
    scores = found.scores or (None,) * len(asked)
    levels = [
        _Level(objective, own, arch, own is not None and arch == _best(space, own, objective))
        for objective, own, arch in zip(asked, scores, found.archs, strict=True)
    ]
    for number in range(ROUNDS):
        pending = [level for level in levels if not level.settled]
        archs = [level.arch for level in pending]
        every = measured(ctx, "confirm", number, archs, found.supernet)
        for level, timed in zip(pending, every, strict=True):
            level.judge(timed, space, ctx.space.ops(level.arch))
    answers = tuple(level.answer for level in levels)
    return replace(found, archs=answers), [level.tried for level in levels]


def _best(space: Relaxable, scores: Mapping[str, Tensor], objective: Objective) -> Architecture:
    return project(space, scores, objective.budgets)


def measured(
    ctx: Context,
    phase: str,
    number: int,
    archs: Sequence[Architecture],
    supernet: nn.Module | None = None,
) -> list[dict[str, Timed]]:
    """Every architecture on every target, as files of the searched precision.

    What the ledger knows of round ``number`` of ``phase`` is not measured again, so that a resumed
    run decides as it did.
    """
    ledger = ctx.ledger()
    known = {
        (e["architecture"], e["device"]): Timed(e["p50_ms"], e["high_ms"])
        for e in ledger.events(phase)
        if e["event"] == "measured" and e.get("round") == number
    }
    for target in ctx.targets:
        device = target["device"]
        new = [a for a in dict.fromkeys(archs) if (a.id, device) not in known]
        for arch, timed in zip(new, _timed(ctx, target, new, supernet), strict=True):
            facts = {"round": number, "architecture": arch.id, "device": device, **asdict(timed)}
            ledger.append(phase, "measured", **facts)
            known[arch.id, device] = timed
    return [{t["device"]: known[a.id, t["device"]] for t in ctx.targets} for a in archs]


def _timed(
    ctx: Context,
    target: Mapping[str, Any],
    archs: Sequence[Architecture],
    supernet: nn.Module | None,
) -> list[Timed]:
    """On one target."""
    device = ctx.devices[target["device"]]
    exporter = exporter_for(device.runtime.format)
    with scratch_folder() as scratch:
        files = []
        for number, arch in enumerate(archs):
            task = ctx.task.at(ctx.space.input_of(arch)[1])
            graph = trace(_network(ctx, arch, supernet), task.input)
            seen = [task.tensors("calibration", CALIBRATION)[0]]
            graph = lowered(graph, target["precision"], seen)
            path = scratch / f"{number}.{exporter.format}"
            files.append(exporter.network(graph, path, {}))
        timings = measure(
            device, files, blocks=BLOCKS, block_seconds=BLOCK_SECONDS, seed=ctx.config.seed,
            progress=ctx.progress,
        )  # fmt: skip
    return [Timed(t.p50_ms, t.interval_ms[1]) for t in timings]


def _network(ctx: Context, arch: Architecture, supernet: nn.Module | None) -> nn.Module:
    """With the weights that there are."""
    if supernet is not None and isinstance(ctx.space, Relaxable):
        return ctx.space.subnet(supernet, arch).eval()
    with seeded(ctx.config.seed):
        return ctx.space.build(arch).eval()
