"""Stage ``export``: every variant at the precisions and in the format of every target."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgenas.artifact import Artifact
from edgenas.export import exporter_for
from edgenas.files import write_json
from edgenas.pipeline.context import Context
from edgenas.pipeline.stage import Stage


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {"formats": ctx.exported, **asdict(ctx.config.export)}


def _work(ctx: Context, folder: Path) -> None:
    variants = list(ctx.read("compress/compress.json")["variants"])
    files = []
    for n, variant in enumerate(variants):
        ctx.progress("export", n, len(variants))
        files += [describe(a) for a in export(ctx, variant, folder)]
    ctx.progress("export", len(variants), len(variants))
    write_json(folder / "export.json", {"variants": variants, "files": files})


def export(ctx: Context, variant: str, folder: Path) -> list[Artifact]:
    """Write ``<variant>.<precision>.<format>`` into ``folder``."""
    mixed = [("mixed", fmt) for fmt in ctx.mixed(variant, folder)]
    return [
        exporter_for(fmt).network(
            ctx.graph(variant, precision, fmt, folder),
            folder / f"{variant}.{precision}.{fmt}",
            _metadata(ctx, variant, precision),
            1 if ctx.config.export.batch == 1 else None,
        )
        for precision, fmt in [*ctx.exported, *mixed]
    ]


def _metadata(ctx: Context, variant: str, precision: str) -> dict[str, str]:
    return {
        "version": version("edgenas"),
        "space": json.dumps(ctx.space.describe()),
        "architecture": json.dumps(ctx.architecture.to_json()),
        "variant": variant,
        "precision": precision,
        **ctx.fitted.metadata,
    }


def describe(artifact: Artifact) -> dict[str, Any]:
    """A line of export.json."""
    return {
        "file": artifact.path.name, "format": artifact.format, "precision": artifact.precision,
        "sha256": artifact.sha256, "size_bytes": artifact.size_bytes,
    }  # fmt: skip


STAGE = Stage("export", ("race/architecture.json", "train", "compress"), _settings, _work)
