"""Stage ``search``: the best-scoring architecture that fits every budget."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from edgenas.artifact import sha256
from edgenas.errors import CapabilityError, InvalidArchitecture
from edgenas.files import write_json
from edgenas.pipeline.blocks import label
from edgenas.pipeline.confirm import confirm
from edgenas.pipeline.context import Context, save_weights
from edgenas.pipeline.objectives import objectives
from edgenas.pipeline.spans import slack
from edgenas.pipeline.stage import Stage
from edgenas.pressure import pressure
from edgenas.search import METHODS, Found, Method, Problem, Sized
from edgenas.space import Relaxable, Space, context_of
from edgenas.spec import Architecture
from edgenas.validate import construct
from edgenas.warm import start_of


def method(settings: Mapping[str, Any]) -> Method:
    """``{"method": "proxyless", "epochs": 5 ...}``. Raises UsageError."""
    fields = dict(settings)
    name = str(fields.pop("method"))
    made: Method = construct(METHODS[name], fields, f"search {name}")
    return made


def sized(ctx: Context) -> Method:
    """That of the run, as long as its images ask for."""
    made = method(ctx.config.search)
    return made.sized(len(ctx.task.parts["train"])) if isinstance(made, Sized) else made


def stated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is no default of ``settings``, as it is written: to write out a default changes nothing.

    Raises UsageError.
    """
    said = _unusual(method(settings), settings)
    weighed = said.pop("pressure", {})
    weighed = {"kind": "adaptive", **_unusual(pressure(weighed), weighed)}
    return said if weighed == {"kind": "adaptive"} else {**said, "pressure": weighed}


def _unusual(made: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``settings``, those that differ from the defaults of what was made of them."""
    usual = {f.name: f.default for f in fields(made) if f.default_factory is MISSING}
    return {k: v for k, v in settings.items() if k not in usual or getattr(made, k) != usual[k]}


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        **({} if (start := _start(ctx)) is None else {"start": sha256(start)}),
        "search": stated(ctx.config.search),
        "budgets": asdict(ctx.config.budgets),
        "data": [ctx.task.digest("train"), ctx.task.digest("search")],
        "augment": ctx.task.augment.key,
        "seed": ctx.config.seed,
        "threads": ctx.config.threads,
        "accelerator": ctx.config.accelerator,
    }


def _start(ctx: Context) -> Path | None:
    """The supernet to start from. Raises UsageError where there is nothing at all."""
    return None if ctx.config.start is None else start_of(Path(ctx.config.start)).supernet


def _work(ctx: Context, folder: Path) -> None:
    asked = objectives(ctx.config, ctx.space, ctx.targets, ctx.predictors())
    problem = Problem(
        ctx.space, ctx.task, asked, seed=ctx.config.seed, accelerator=ctx.config.accelerator,
        start=_start(ctx),
    )  # fmt: skip
    for line in slack(ctx, ctx.targets):
        ctx.progress(line, 1, 1)
    found = method(stated(ctx.config.search)).run(problem, ctx.ledger(), ctx.progress)
    require_answers(found, len(asked), ctx.space, ctx.config.search["method"])
    if found.supernet is not None:
        found.supernet.cpu()
    found, confirmed = confirm(ctx, found, asked)
    if found.supernet is not None:
        save_weights(found.supernet, folder / "supernet.safetensors")
    for level, arch in enumerate(found.archs):
        write_json(folder / architecture_file(level), arch.to_json())
    write_json(folder / "confirmed.json", confirmed)
    levels = [described(ctx, level, arch) for level, arch in enumerate(found.archs)]
    write_json(
        folder / "search.json",
        {"method": ctx.config.search["method"], **levels[0], "levels": levels},
    )


def require_answers(found: Found, asked: int, space: Space, name: str) -> None:
    """Raise CapabilityError unless method ``name`` gave a network of ``space`` for each budget."""
    if odd := [a for a in found.archs if not isinstance(a, Architecture)]:
        raise CapabilityError(f"method {name} found a {type(odd[0]).__name__}, no Architecture")
    if len(found.archs) != asked:
        raise CapabilityError(f"method {name} found {len(found.archs)} networks of {asked}")
    for arch in found.archs:
        try:
            space.check(arch)
        except InvalidArchitecture as e:
            raise CapabilityError(f"method {name} found what the space lacks: {e}") from e


def architecture_file(level: int) -> str:
    """Name of the file of one network of a front."""
    return f"architecture-{level + 1}.json" if level else "architecture.json"


def described(ctx: Context, level: int, arch: Architecture) -> dict[str, Any]:
    """A found network in full; of a front, one of several."""
    layers = ctx.space.ops(arch)
    return {
        "architecture": arch.to_json(),
        "ops": [str(o) for o in layers],
        "labels": _labels(ctx.space, arch),
        "blocks": _blocks(ctx.space, arch),
        "options": _options(ctx.space, arch),
        "predicted": {
            device: {
                "p50_ms": predictor.p50_ms(layers),
                "bound_ms": predictor.p50_ms(layers) * (1 + predictor.margin),
            }
            for device, predictor in ctx.predictors().items()
        },
        "probabilities": _probabilities(ctx, level),
    }


def _probabilities(ctx: Context, level: int) -> dict[str, dict[str, float]] | None:
    """What the method had learnt of every option at the end; None where it learns none."""
    epochs = ctx.ledger().epochs("search")
    if not epochs or not isinstance(ctx.space, Relaxable):
        return None
    last = epochs[-1]["levels"][level]["probabilities"]
    return {c.name: dict(zip(c.options, last[c.name], strict=True)) for c in ctx.space.choices}


def _labels(space: Space, arch: Architecture) -> dict[str, str]:
    """What was picked of every choice, those of the whole network too."""
    if not isinstance(space, Relaxable):
        return {}
    return {c.name: c.options[arch.index(c.name)] for c in space.choices}


def _blocks(space: Space, arch: Architecture) -> list[dict[str, str | None]]:
    """The network in order: every block with its pick, skipped ones too, and what is fixed."""
    layers = space.ops(arch)
    if not isinstance(space, Relaxable):
        return [
            {"choice": None, "op": str(o), "label": label(layers, i)} for i, o in enumerate(layers)
        ]
    context = context_of(space, arch)
    picked = [
        (c, context.options[c.name][arch.index(c.name)])
        for c in space.choices if c.name not in context.picks
    ]  # fmt: skip
    searched = [o for _, option in picked for o in option]
    start = next(
        i for i in range(len(layers) + 1) if list(layers[i : i + len(searched)]) == searched
    )

    def fixed(numbers: range) -> list[dict[str, str | None]]:
        return [{"choice": None, "op": str(layers[i]), "label": label(layers, i)} for i in numbers]

    middle: list[dict[str, str | None]] = [
        {
            "choice": c.name,
            "op": " + ".join(map(str, option)) or None,
            "label": c.options[arch.index(c.name)],
        }
        for c, option in picked
    ]
    return fixed(range(start)) + middle + fixed(range(start + len(searched), len(layers)))


def _options(space: Space, arch: Architecture) -> dict[str, dict[str, list[str]]]:
    """What each option of each choice would execute at its place, the rest as in ``arch``."""
    if not isinstance(space, Relaxable):
        return {}
    context = context_of(space, arch)
    return {
        c.name: {
            label: [str(o) for o in executed]
            for label, executed in zip(c.options, context.options[c.name], strict=True)
        }
        for c in space.choices if c.name not in context.picks
    }  # fmt: skip


STAGE = Stage("search", ("profile",), _settings, _work)
