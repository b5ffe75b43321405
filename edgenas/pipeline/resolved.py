"""A run's config with all that its dataset, space and method took by default."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from edgenas.config import Config
from edgenas.pipeline.context import Context
from edgenas.pipeline.search import method
from edgenas.pressure import pressure
from edgenas.task import completed


def resolved(ctx: Context) -> Config:
    """Read back, it is the same run: what the config says itself stays as it is written."""
    config = ctx.config
    return replace(
        config,
        task=completed(config.task, ctx.task.augment),
        space=_space(ctx),
        search=_search(config.search),
    )


def _search(said: Mapping[str, Any]) -> dict[str, Any]:
    made: Any = method(said)
    whole = {"method": said["method"], **asdict(made), **said}
    if isinstance(whole.get("pressure"), Mapping):
        weighed: Any = pressure(whole["pressure"])
        own = {f.name: getattr(weighed, f.name) for f in fields(weighed) if f.init}
        whole["pressure"] = {"kind": "adaptive", **own, **whole["pressure"]}
    return whole


def _space(ctx: Context) -> dict[str, Any]:
    """Its preset filled in; what the task decides is left to the task."""
    space: Any = ctx.space
    task = ("resolution", "channels", "classes")
    whole = {k: v for k, v in asdict(space).items() if k not in task}
    said = {k: v for k, v in ctx.config.space.items() if k not in ("preset", "activation")}
    return {"kind": said["kind"], **whole, **said}
