"""What was found is measured before it is trained: the error of the prediction is taken out.

A prediction that is 3 % high leaves 3 % of the budget unused, and its margin more; one that is low
breaks the budget after hours of training. Latency does not depend on weights: so measure at once,
correct the predictor for the network at hand, and project again.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgenas.budgets import Budget, Latency
from edgenas.errors import ImpossibleBudget
from edgenas.export import exporter_for
from edgenas.graph import calibrate, trace
from edgenas.measure import measure
from edgenas.pipeline.context import Context
from edgenas.project import project
from edgenas.search import Found, Objective
from edgenas.space import Relaxable
from edgenas.spec import Architecture, OpSpec
from edgenas.train import seeded

ROUNDS = 4
MOST, LEAST = 0.975, 0.92  # of the tightest budget, measured: between them nothing is changed
FILL = LEAST / MOST
BLOCKS, BLOCK_SECONDS = 3, 0.2
USUAL_ROUNDS, START_SECONDS = 2, 4.0
CALIBRATION = 64  # images; ranges do not change latency


@dataclass
class _Level:
    """A network of a front under way."""

    objective: Objective
    scores: Mapping[str, Tensor] | None
    arch: Architecture
    tried: list[dict[str, Any]] = field(default_factory=list)
    settled: bool = False
    kept: tuple[tuple[bool, float], Architecture] | None = None  # rank, of those within budgets

    def judge(
        self, measured_ms: Mapping[str, float], space: Relaxable, ops: Sequence[OpSpec]
    ) -> None:
        """Keep ``arch`` if it is within its budgets; propose another unless it uses them well."""
        use = max(measured_ms[b.device] / b.limit_ms for b in self.latencies)
        self.tried.append(
            {"architecture": self.arch.to_json(), "measured_ms": dict(measured_ms), "use": use}
        )
        rank = (use >= LEAST, self._worth())
        if use <= MOST and (self.kept is None or rank > self.kept[0]):
            self.kept = rank, self.arch
        if LEAST <= use <= MOST or self.scores is None:
            self.settled = True
            return
        try:
            found = project(space, self.scores, self._corrected(measured_ms, ops), FILL)
        except ImpossibleBudget:
            self.settled = True
            return
        self.settled = found.to_json() in [t["architecture"] for t in self.tried]
        self.arch = found

    @property
    def latencies(self) -> list[Latency]:
        return [b for b in self.objective.budgets if isinstance(b, Latency)]

    @property
    def answer(self) -> Architecture:
        """The best within its budgets; the nearest to them where none is."""
        if self.kept is not None:
            return self.kept[1]
        return Architecture.from_json(min(self.tried, key=lambda t: t["use"])["architecture"])

    def _corrected(self, measured_ms: Mapping[str, float], ops: Sequence[OpSpec]) -> list[Budget]:
        """Budgets under which ``arch``, of ``ops``, takes what was measured; without margin."""
        budgets: list[Budget] = []
        for b in self.objective.budgets:
            if isinstance(b, Latency):
                exact = b.predictor.corrected(measured_ms[b.device], ops)
                aim = b.limit_ms * MOST * (1 + b.margin)
                budgets.append(replace(b, limit_ms=aim, predictor=exact))
            else:
                budgets.append(b)
        return budgets

    def _worth(self) -> float:
        scores = self.scores or {}
        return sum(float(s[self.arch.index(c)]) for c, s in scores.items())


def confirm_seconds(levels: int) -> float:
    """About what it takes on one device, for so many networks."""
    return USUAL_ROUNDS * (START_SECONDS + levels * BLOCKS * BLOCK_SECONDS)


def confirm(ctx: Context, found: Found, asked: Sequence[Objective]) -> tuple[Found, list[Any]]:
    """``found`` with architectures that were measured, and what was measured of each objective.

    A method that says nothing of other architectures is measured and left as it is.
    """
    space = ctx.space
    if not isinstance(space, Relaxable):
        return found, [[] for _ in asked]
    scores = found.scores or (None,) * len(asked)
    levels = [
        _Level(objective, own, arch)
        for objective, own, arch in zip(asked, scores, found.archs, strict=True)
    ]
    for _ in range(ROUNDS):
        pending = [level for level in levels if not level.settled]
        timed = _measured(ctx, [level.arch for level in pending], found.supernet)
        for level, measured_ms in zip(pending, timed, strict=True):
            level.judge(measured_ms, space, ctx.space.ops(level.arch))
    answers = tuple(level.answer for level in levels)
    return replace(found, archs=answers), [level.tried for level in levels]


def _measured(
    ctx: Context, archs: Sequence[Architecture], supernet: nn.Module | None
) -> list[dict[str, float]]:
    """p50 in ms of every architecture on every target, as files of the searched precision.

    What the ledger knows is not measured again, so that a resumed run decides as it did.
    """
    ledger = ctx.ledger()
    known = {(e["architecture"], e["device"]): e["p50_ms"] for e in ledger.events("confirm")}
    for target in ctx.targets:
        device = target["device"]
        new = [a for a in dict.fromkeys(archs) if (a.id, device) not in known]
        for arch, p50_ms in zip(new, _timed(ctx, target, new, supernet), strict=True):
            ledger.append("confirm", "measured", architecture=arch.id, device=device, p50_ms=p50_ms)
            known[arch.id, device] = p50_ms
    return [{t["device"]: known[a.id, t["device"]] for t in ctx.targets} for a in archs]


def _timed(
    ctx: Context,
    target: Mapping[str, Any],
    archs: Sequence[Architecture],
    supernet: nn.Module | None,
) -> list[float]:
    """On one target."""
    device = ctx.devices[target["device"]]
    exporter = exporter_for(device.runtime.format)
    with tempfile.TemporaryDirectory(prefix="edgenas-") as scratch:
        files = []
        for number, arch in enumerate(archs):
            task = ctx.task.at(ctx.space.input_of(arch)[1])
            graph = trace(_network(ctx, arch, supernet), task.input)
            if target["precision"] != "fp32":
                graph = calibrate(graph, [task.tensors("calibration", CALIBRATION)[0]])
            path = Path(scratch) / f"{number}.{exporter.format}"
            files.append(exporter.network(graph, path, {}))
        timings = measure(
            device, files, blocks=BLOCKS, block_seconds=BLOCK_SECONDS, seed=ctx.config.seed,
            progress=ctx.progress,
        )  # fmt: skip
    return [t.p50_ms for t in timings]


def _network(ctx: Context, arch: Architecture, supernet: nn.Module | None) -> nn.Module:
    """With the weights that there are."""
    if supernet is not None and isinstance(ctx.space, Relaxable):
        return ctx.space.subnet(supernet, arch).eval()
    with seeded(ctx.config.seed):
        return ctx.space.build(arch).eval()
