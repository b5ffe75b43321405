"""Stage ``export``: every variant at the precisions and in the format of every target."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edgenas.artifact import Artifact
from edgenas.export import exporter_for
from edgenas.files import write_json
from edgenas.graph import calibrate, trace
from edgenas.pipeline.context import Context
from edgenas.pipeline.stage import Stage

CALIBRATION_BATCH = 64


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {"data": ctx.task.digest("calibration"), "formats": _wanted(ctx)}


def _wanted(ctx: Context) -> list[tuple[str, str]]:
    """Precision and format of the files, sorted."""
    devices = ctx.devices.values()
    return sorted({(p, d.runtime.format) for d in devices for p in d.precisions})


def _work(ctx: Context, folder: Path) -> None:
    variants = list(ctx.read("compress/compress.json")["variants"])
    files = []
    for n, variant in enumerate(variants):
        ctx.progress("export", n, len(variants))
        files += [describe(a) for a in export(ctx, variant, folder)]
    ctx.progress("export", len(variants), len(variants))
    write_json(folder / "export.json", {"variants": variants, "files": files})


def export(ctx: Context, variant: str, folder: Path) -> list[Artifact]:
    """Write ``<variant>.<precision>.<format>`` into ``folder``; the graph is made once for all."""
    _, net = ctx.network(variant, folder)
    fp32 = trace(net, ctx.fitted.input)
    x, _ = ctx.fitted.tensors("calibration")
    graphs = {"fp32": fp32, "int8-static": calibrate(fp32, torch.split(x, CALIBRATION_BATCH))}
    return [
        exporter_for(fmt).network(
            graphs[precision],
            folder / f"{variant}.{precision}.{fmt}",
            _metadata(ctx, variant, precision),
        )
        for precision, fmt in _wanted(ctx)
    ]


def _metadata(ctx: Context, variant: str, precision: str) -> dict[str, str]:
    return {
        "version": version("edgenas"),
        "space": json.dumps(ctx.space.describe()),
        "architecture": json.dumps(ctx.architecture.to_json()),
        "variant": variant,
        "precision": precision,
        "input": json.dumps(ctx.fitted.input),
        "classes": json.dumps(ctx.task.classes),
        "mean": json.dumps(ctx.task.mean),
        "std": json.dumps(ctx.task.std),
        "layout": "images 0..255 divided by 255, less mean, divided by std",
    }


def describe(artifact: Artifact) -> dict[str, Any]:
    """A line of export.json."""
    return {
        "file": artifact.path.name, "format": artifact.format, "precision": artifact.precision,
        "sha256": artifact.sha256, "size_bytes": artifact.size_bytes,
    }  # fmt: skip


STAGE = Stage("export", ("search", "train", "compress"), _settings, _work)
