"""The stages in order, each from files to files: run, resume, skip what is unchanged."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch

from edgenas.config import Config
from edgenas.errors import CapabilityError, UnknownName, UsageError
from edgenas.files import read_json, write_text
from edgenas.pipeline import brought, compress, export, front, profile, race, search, train, verify
from edgenas.pipeline.context import Context, Progress
from edgenas.pipeline.cost import Cost, costs
from edgenas.pipeline.deliver import deliver, withdraw
from edgenas.pipeline.foresee import foresee
from edgenas.pipeline.made import require_made
from edgenas.pipeline.resolved import resolved
from edgenas.pipeline.stage import Stage
from edgenas.pipeline.training import start_digests, teacher_digests
from edgenas.registry import nearest
from edgenas.report import write_report
from edgenas.rundir import RunDir
from edgenas.space import require_true
from edgenas.store import require_precision

STAGES: tuple[Stage, ...] = (
    profile.STAGE,
    search.STAGE,
    race.STAGE,
    train.STAGE,
    compress.STAGE,
    export.STAGE,
    verify.STAGE,
)
_SHARED = (profile.STAGE, search.STAGE)  # by the networks of a front


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


def run(
    config: Config,
    runs: Path = Path("runs"),
    *,
    until: str = "verify",
    tables: Path = Path("latency_tables"),
    progress: Progress = silent,
) -> dict[str, Any]:
    """The stages up to ``until``, into ``runs/<name>``; the content of verdict.json.

    A stage whose inputs are unchanged is not run again. ``{}`` where ``verify`` was not asked for.
    Where targets ask for several latencies, one search finds a network for each, and
    ``runs/<name>/networks/`` holds a run of each. Raises EdgenasError; what was whole stays.
    """
    wanted = up_to(until)
    RunDir(runs / config.name).require_ours()
    ctx = _context(config, runs, tables, progress)
    rundir = RunDir(ctx.root)
    with rundir.locked(lambda text: progress(text, 0, 0)), _threads(config):
        for stage in _pending(ctx, _own(config, wanted)):
            rundir.require_replaceable(stage.name)
        _require_made(ctx)
        write_text(ctx.root / "config.yaml", resolved(ctx).dumps)
        for stage in _own(config, wanted):
            _bring_up(stage, ctx, rundir)
        if config.levels > 1 and wanted[-1] not in _SHARED:
            _each(ctx, until)
        every = _own(config, STAGES)
        pending = _pending(ctx, every)
        verdict = {} if pending else _judged(ctx)
        networks = front.names(config) if config.levels > 1 and not pending else []
        deliver(ctx, verdict, [s.name for s in every if s not in pending], networks)
        if verdict:
            write_report(ctx.root)
    return verdict if wanted == STAGES else {}


def _each(ctx: Context, until: str) -> None:
    """A run of every network of a front."""
    for network in front.networks(ctx.config, ctx.root):
        within = f"{ctx.config.name} {network.name}: "

        def progress(what: str, done: int, total: int, within: str = within) -> None:
            ctx.progress(within + what, done, total)

        root = (ctx.root / front.folder(network.name)).parent
        run(network, root, until=until, tables=ctx.tables, progress=progress)


def survey(
    config: Config,
    runs: Path = Path("runs"),
    *,
    until: str = "verify",
    tables: Path = Path("latency_tables"),
    progress: Progress = silent,
) -> list[Cost]:
    """What ``run`` would do and about what it takes, from a short measured training.

    Raises what ``run`` would raise, as far as that can be known before.
    """
    RunDir(runs / config.name).require_ours()
    ctx, wanted = _context(config, runs, tables, progress), up_to(until)
    _require_made(ctx)
    require_true(ctx.space)
    pending = Counter(s.name for s in _pending(ctx, _own(config, wanted)))
    if config.levels > 1 and pending:
        pending.update({s.name: config.levels for s in wanted if s not in _SHARED})
    elif config.levels > 1:
        for network in front.networks(config, ctx.root):
            own = Context((ctx.root / front.folder(network.name)), network, tables, progress)
            pending.update(s.name for s in _pending(own, wanted) if s not in _SHARED)
    with _threads(config):
        foresee(ctx, pending)
        return costs(ctx, [s.name for s in wanted], pending)


def _require_made(ctx: Context) -> None:
    """Raise UsageError for a file of somebody else where one is to be delivered."""
    formats = {device.runtime.format for device in ctx.devices.values()}
    if ctx.config.levels == 1:
        require_made(ctx.root, formats)
        return
    require_made(ctx.root, ())
    for name in front.names(ctx.config):
        require_made(ctx.root / front.folder(name), formats)


def _own(config: Config, wanted: Sequence[Stage]) -> list[Stage]:
    """Those that the run itself does; of a front, each network does the others."""
    return [s for s in wanted if config.levels == 1 or s in _SHARED]


def _pending(ctx: Context, wanted: Sequence[Stage]) -> list[Stage]:
    """From the first that is not whole on."""
    rundir, pending = RunDir(ctx.root), list(wanted)
    while pending and rundir.is_whole(pending[0].name, pending[0].key(ctx)):
        pending.pop(0)
    return pending


def _context(config: Config, runs: Path, tables: Path, progress: Progress) -> Context:
    """A run; a wrong key or device is refused before anything is loaded."""
    search.method(config.search)
    brought.weights_digest(config)
    ctx = Context(runs / config.name, config, tables, progress)
    _refuse_itself(ctx)
    start_digests(config)
    teacher_digests(config)
    for device in ctx.same_on:
        _ = device.transport.python  # says it where that is not built yet
    for device in ctx.devices.values():
        if config.precision != "auto":
            require_precision(device, config.precision)
    if config.quantize.mixed and not any(d.mixes for d in ctx.devices.values()):
        raise CapabilityError(
            "quantize: mixed: no target runs both fp32 and int8-static, of which a mixed file is "
            "made; leave it out"
        )
    if config.gates.memory is not None:
        for device in ctx.devices.values():
            if not device.runtime.weighs:
                raise CapabilityError(
                    f"gates: memory: {device.name} does not tell what a model takes; leave it out"
                )
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise CapabilityError(
            "accelerator: torch finds no CUDA device here; set it to cpu, or install a torch that "
            "is built for CUDA"
        )
    return ctx


@contextmanager
def _threads(config: Config) -> Iterator[None]:
    """As many as are asked for; then as many as before, for whoever called."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_itself(ctx: Context) -> None:
    """A run that began with what it made would never be whole."""
    named = (("start", ctx.config.start), ("train: teacher", ctx.config.train.teacher))
    for key, value in named:
        if value is not None and Path(value).expanduser().resolve().is_relative_to(
            ctx.root.resolve()
        ):
            raise UsageError(
                f"{key}: {value} is of this very run, {ctx.root}: name another run, or copy it"
            )


def up_to(name: str) -> tuple[Stage, ...]:
    """The stages up to and including ``name``. Raises UnknownName."""
    names = [s.name for s in STAGES]
    if name not in names:
        raise UnknownName(f"no stage {name!r}.{nearest(name, names)}")
    return STAGES[: names.index(name) + 1]


def _bring_up(stage: Stage, ctx: Context, rundir: RunDir) -> None:
    key = stage.key(ctx)
    if rundir.is_whole(stage.name, key):
        ctx.progress(f"{stage.name}: unchanged", 1, 1)
    else:
        ctx.progress(f"stage {stage.name}", 0, 1)
        _start(stage, key, ctx)

        def work(folder: Path) -> None:
            stage.work(ctx, folder)
            withdraw(ctx.root)  # it was judged of what is replaced now

        rundir.make(stage.name, lambda: stage.key(ctx), work)
        ctx.ledger().append("stage", "end", stage=stage.name, key=stage.key(ctx))
        ctx.progress(f"stage {stage.name}", 1, 1)
    stage.forget(ctx)


def _start(stage: Stage, key: str, ctx: Context) -> None:
    """Note the start. A search from other inputs begins a ledger: an old one cannot be replayed."""
    ledger = ctx.ledger()
    begun = [
        e for e in ledger.events("stage") if e["stage"] == stage.name and e["event"] == "start"
    ]
    if stage.name == "search" and begun and begun[-1]["key"] != key:
        number = next(n for n in count(1) if not (ctx.root / f"ledger.{n}.jsonl").exists())
        if ledger.readings.exists():
            ledger.readings.rename(ctx.root / f"ledger.{number}.readings.jsonl")
        ledger.path.rename(ctx.root / f"ledger.{number}.jsonl")
    ctx.ledger().append("stage", "start", stage=stage.name, key=key)


def _judged(ctx: Context) -> dict[str, Any]:
    """The verdict on what is whole; ``{}`` of a front before every network has one.

    It is named as the run: a copy of a run has a name of its own.
    """
    if ctx.config.levels > 1:
        networks = front.networks(ctx.config, ctx.root)
        verdicts = {network.name: _stands(ctx, network) for network in networks}
        return front.verdict_of(ctx.config, verdicts) if all(verdicts.values()) else {}
    verdict: dict[str, Any] = read_json(ctx.root / "verify" / "verdict.json")
    return verdict | {"name": ctx.config.name}


def _stands(ctx: Context, network: Config) -> dict[str, Any]:
    """The verdict on a network of a front, ``{}`` where its run has none that holds now."""
    own = Context(ctx.root / front.folder(network.name), network, ctx.tables, ctx.progress)
    if not _pending(own, STAGES):
        return _judged(own)
    if RunDir(own.root).is_ours:
        withdraw(own.root)
    return {}
