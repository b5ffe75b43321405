"""Stage ``search``: the best-scoring architecture that fits every budget."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgenas.files import write_json
from edgenas.pipeline.blocks import label
from edgenas.pipeline.context import Context, save_weights
from edgenas.pipeline.stage import Stage
from edgenas.search import METHODS, Method, Objective, Problem
from edgenas.space import Relaxable, Space
from edgenas.spec import Architecture
from edgenas.validate import construct


def method(settings: Mapping[str, Any]) -> Method:
    """``{"method": "proxyless", "epochs": 5 ...}``. Raises UsageError."""
    fields = dict(settings)
    name = str(fields.pop("method"))
    made: Method = construct(METHODS[name], fields, f"search {name}")
    return made


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        "search": dict(ctx.config.search),
        "data": [ctx.task.digest("train"), ctx.task.digest("search")],
        "seed": ctx.config.seed,
        "threads": ctx.config.threads,
    }


def _work(ctx: Context, folder: Path) -> None:
    budgets = ctx.budgets()
    problem = Problem(ctx.space, ctx.task, Objective(budgets), seed=ctx.config.seed)
    found = method(ctx.config.search).run(problem, ctx.ledger(), ctx.progress)
    layers, blocks = ctx.space.ops(found.arch), _blocks(ctx.space, found.arch)
    write_json(folder / "architecture.json", found.arch.to_json())
    if found.supernet is not None:
        save_weights(found.supernet, folder / "supernet.safetensors")
    write_json(
        folder / "search.json",
        {
            "method": ctx.config.search["method"],
            "architecture": found.arch.to_json(),
            "ops": [str(o) for o in layers],
            "labels": {b["choice"]: b["label"] for b in blocks if b["choice"]},
            "blocks": blocks,
            "predicted": {
                b.device: {
                    "p50_ms": b.predictor.p50_ms(layers),
                    "bound_ms": b.predictor.p50_ms(layers) * (1 + b.predictor.margin),
                }
                for b in budgets
            },
            "probabilities": _probabilities(ctx),
        },
    )


def _probabilities(ctx: Context) -> dict[str, dict[str, float]] | None:
    """What the method had learnt of every option at the end; None where it learns none."""
    epochs = ctx.ledger().epochs("search")
    if not epochs or not isinstance(ctx.space, Relaxable):
        return None
    last = epochs[-1]["probabilities"]
    return {c.name: dict(zip(c.options, last[c.name], strict=True)) for c in ctx.space.choices}


def _blocks(space: Space, arch: Architecture) -> list[dict[str, str | None]]:
    """The network in order: every choice with its pick, skipped ones too, and what is fixed."""
    layers = space.ops(arch)
    if not isinstance(space, Relaxable):
        return [{"choice": None, "op": str(o), "label": label(o, i)} for i, o in enumerate(layers)]
    picked = [(c, space.option_ops(c.name)[arch.index(c.name)]) for c in space.choices]
    searched = [o for _, option in picked for o in option]
    start = next(
        i for i in range(len(layers) + 1) if list(layers[i : i + len(searched)]) == searched
    )

    def fixed(numbers: range) -> list[dict[str, str | None]]:
        return [
            {"choice": None, "op": str(layers[i]), "label": label(layers[i], i)} for i in numbers
        ]

    middle: list[dict[str, str | None]] = [
        {
            "choice": c.name,
            "op": " + ".join(map(str, option)) or None,
            "label": c.options[arch.index(c.name)],
        }
        for c, option in picked
    ]
    return fixed(range(start)) + middle + fixed(range(start + len(searched), len(layers)))


STAGE = Stage("search", ("profile",), _settings, _work)
