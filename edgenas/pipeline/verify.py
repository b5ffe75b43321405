"""Stage ``verify``: every file measured on its device, repaired while over budget, one verdict."""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgenas import samples
from edgenas.artifact import Artifact
from edgenas.budgets import Latency
from edgenas.compress.fake_quant import FakeQuantized
from edgenas.errors import EdgenasError, ImpossibleBudget
from edgenas.files import inside, read_json, write_json
from edgenas.graph import centred
from edgenas.layer_errors import explained, layer_errors
from edgenas.measure import measure
from edgenas.missed import outcome
from edgenas.pipeline.blocks import blocks
from edgenas.pipeline.compress import extend_tables, prune
from edgenas.pipeline.context import HEADROOM, Context, was_trained
from edgenas.pipeline.export import export
from edgenas.pipeline.mix import mix_variant
from edgenas.pipeline.quantize import quantize_variant
from edgenas.pipeline.spans import slack
from edgenas.pipeline.stage import Stage
from edgenas.scratch import scratch_folder
from edgenas.train import SCORING_BATCH, evaluating
from edgenas.verify import (
    RANGED,
    Candidate,
    Choice,
    Numbers,
    choose,
    described,
    doubts,
    gates,
    numbers,
    same_gate,
)

LAYER_IMAGES = 64

Files = list[tuple[str, Artifact]]  # variant, file


@dataclass
class _Known:
    """What repairs leave as it is: figures of files, and what networks compute in PyTorch."""

    numbers: dict[Path, Numbers] = field(default_factory=dict)
    logits: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def outputs(self, variant: str, file: str, net: nn.Module, x: Tensor) -> np.ndarray:
        """Of ``net``: that of ``variant``, or what it is with its trained integers in ``file``."""
        what = variant, file
        if what not in self.logits:
            self.logits[what] = _logits(net, x)
        return self.logits[what]


def _settings(ctx: Context) -> Mapping[str, Any]:
    return {
        "gates": asdict(ctx.config.gates),
        "prune": asdict(ctx.config.prune),
        "quantize": asdict(ctx.config.quantize),
        "measure": asdict(ctx.config.measure),
        "precision": ctx.config.precision,
        "repairs": ctx.config.repairs,
        "data": [ctx.task.digest("test"), ctx.test_is],
        "samples": [samples.MOST, samples.MOST_BYTES],
    }


def _work(ctx: Context, folder: Path) -> None:
    files = _exported(ctx)
    known = _Known()
    repairs: list[dict[str, Any]] = []
    while True:
        candidates = _judged(ctx, folder, files, known)
        choices = {
            t["device"]: choose(candidates[t["device"]], ctx.config, t["limit_ms"])
            for t in ctx.targets
        }
        missed = [t for t in ctx.targets if _p50(choices, t) > t["limit_ms"]]
        if not missed or len(repairs) == ctx.config.repairs:
            break
        repairs.append(_missed(ctx, choices, len(repairs) + 1))
        variant = repairs[-1]["variant"]
        try:
            _repair(ctx, folder, choices, variant)
        except ImpossibleBudget as e:
            repairs[-1]["gave_up"] = str(e)
            break
        files += [(variant, a) for a in export(ctx, variant, folder)]
    _write(ctx, folder, candidates, choices, repairs)


def _p50(choices: Mapping[str, Choice], target: Mapping[str, Any]) -> float:
    return choices[target["device"]].delivered.latency.p50_ms


def _exported(ctx: Context) -> Files:
    said = ctx.root / "export" / "export.json"
    return [
        (
            f["file"].partition(".")[0],
            Artifact.of(
                inside(said.parent, f["file"], said), f["format"], f["precision"], ctx.fitted.input
            ),
        )
        for f in ctx.read("export/export.json")["files"]
    ]


def _judged(ctx: Context, folder: Path, files: Files, known: _Known) -> dict[str, list[Candidate]]:
    """All files of a device timed in one session, so that they can be compared."""
    judged: dict[str, list[Candidate]] = {}
    for t in ctx.targets:
        device = ctx.devices[t["device"]]
        mine = [
            (v, a) for v, a in files
            if a.format == t["format"]
            and (device.mixes if a.precision == "mixed" else a.precision in device.runs)
        ]  # fmt: skip
        timings = measure(
            device, [a for _, a in mine], blocks=ctx.config.measure.blocks,
            block_seconds=ctx.config.measure.block_seconds, seed=ctx.config.seed,
            progress=ctx.progress,
        )  # fmt: skip
        judged[device.name] = []
        for (variant, artifact), timing in zip(mine, timings, strict=True):
            layers, net = ctx.network(variant, folder)
            if artifact.path not in known.numbers:
                source = _source(ctx, variant, artifact, net, folder)
                integers = artifact.path.name if source is not net else ""
                x, _ = ctx.fitted.tensors("test")
                network = known.outputs(variant, "", net, x)
                reference = known.outputs(variant, integers, source, x)
                known.numbers[artifact.path] = numbers(
                    device, artifact, ctx.fitted, reference, network
                )
            predictor = ctx.predictor(device.name, artifact.precision, folder)
            predicted = predictor.p50_ms(layers) if predictor else None
            judged[device.name].append(
                Candidate(
                    variant, artifact, device.name, predicted, known.numbers[artifact.path], timing
                )
            )
    return judged


def _source(
    ctx: Context, variant: str, artifact: Artifact, net: nn.Module, folder: Path
) -> nn.Module:
    """What a file came from: ``net``, unless its integers were trained and are a network too."""
    if not _trained(ctx, variant, artifact.precision, folder):
        return net
    return FakeQuantized(ctx.graph(variant, artifact.precision, artifact.format, folder))


def _trained(ctx: Context, variant: str, precision: str, folder: Path) -> bool:
    """Whether the weights of a file were trained further than those of its network."""
    return precision in RANGED and was_trained(ctx.quantized(variant, folder))


def _logits(net: nn.Module, x: Tensor) -> np.ndarray:
    with evaluating(net), torch.inference_mode():
        return torch.cat([net(part) for part in torch.split(x, SCORING_BATCH)]).numpy()


def _missed(ctx: Context, choices: Mapping[str, Choice], number: int) -> dict[str, Any]:
    """Say in the ledger what was measured and what is tried next."""
    best = {name: c.delivered for name, c in choices.items()}
    record = {
        "round": number,
        "variant": f"repaired-{number}",
        "measured_ms": {name: c.latency.p50_ms for name, c in best.items()},
        "predicted_ms": {name: c.predicted_p50_ms for name, c in best.items()},
        "limit_ms": {t["device"]: t["limit_ms"] for t in ctx.targets},
    }
    ctx.ledger().append("repair", "round", **record)
    ctx.progress(f"over budget: making {record['variant']}", 1, 1)
    return record


def _repair(ctx: Context, folder: Path, choices: Mapping[str, Choice], variant: str) -> None:
    """Prune ``found`` under predictors corrected by what was just measured."""
    found, _ = ctx.network("found")
    extend_tables(ctx, found, folder)
    budgets = []
    for t in ctx.targets:
        best = choices[t["device"]].delivered
        layers, _ = ctx.network(best.variant, folder)
        table = "int8-static" if best.precision == "mixed" else best.precision
        predictor = ctx.predictor(t["device"], table, folder)
        assert predictor is not None
        corrected = predictor.corrected(best.latency.p50_ms, layers)
        budgets.append(Latency(t["device"], t["limit_ms"] * HEADROOM, corrected))
    prune(ctx, STAGE, "found", variant, budgets, folder)
    if ctx.quantizes:
        quantize_variant(ctx, STAGE, variant, folder)
        if ctx.config.quantize.mixed:
            mix_variant(ctx, variant, folder)


def _write(
    ctx: Context,
    folder: Path,
    candidates: Mapping[str, Sequence[Candidate]],
    choices: Mapping[str, Choice],
    repairs: Sequence[Mapping[str, Any]],
) -> None:
    delivered, rows, checks = {}, [], []
    notes = [*ctx.read("train/train.json").get("notes", []), *slack(ctx, ctx.targets)]
    off: dict[str, Any] = {}
    for t in ctx.targets:
        choice, mine = choices[t["device"]], candidates[t["device"]]
        best = choice.delivered.artifact
        shutil.copyfile(best.path, folder / f"model.{best.format}")
        delivered[best.format] = {
            "file": f"model.{best.format}",
            "source": str(_relative(best.path, ctx, folder)),
            "variant": choice.delivered.variant,
            "precision": best.precision,
            "device": t["device"],
        }
        notes += doubts(choice, mine, ctx.config)
        own = gates(choice, mine, ctx.config, t["limit_ms"])
        if any(g["name"].startswith("parity") and not g["met"] for g in own):
            off[t["device"]] = _layer_errors(ctx, choice.delivered, folder)
        if others := [d for d in ctx.same_on if d.runtime.format == best.format]:
            images = np.ascontiguousarray(ctx.fitted.tensors("test")[0].numpy())
            here = ctx.devices[t["device"]]
            own += [same_gate(here, other, best, images) for other in others]
        checks += own
        delivered[best.format] |= outcome(own)
        for c in mine:
            row = described(c, choice)
            if row["why"] == "delivered" and (missed := delivered[best.format]["missed"]):
                row["why"] = f"the best there is, but it misses {', '.join(missed)}"
            rows.append({**row, "file": str(_relative(c.artifact.path, ctx, folder))})
    for c in itertools.chain.from_iterable(candidates.values()):
        file = str(_relative(c.artifact.path, ctx, folder))
        ctx.ledger().read("verify", "memory", file=file, memory_bytes=c.numbers.memory_bytes)
    variants = {c.variant for mine in candidates.values() for c in mine}
    samples.keep(ctx.fitted, folder)
    write_json(
        folder / "verdict.json",
        {
            "schema": 1,
            "met": all(g["met"] for g in checks),
            "task": ctx.task.describe(),
            "test": ctx.test_is,
            "notes": notes,
            "torch": {v: _accuracy(ctx, v, folder) for v in sorted(variants)},
            "gates": checks,
            "delivered": delivered,
            "candidates": rows,
            "blocks": {
                t["device"]: blocks(ctx, choices[t["device"]].delivered, folder)
                for t in ctx.targets
            },
            "repairs": repairs,
            "layer_errors": off,
        },
    )


def _layer_errors(ctx: Context, c: Candidate, folder: Path) -> dict[str, Any]:
    """Of a file that computes something else than its network: where that begins."""
    graph = ctx.graph(c.variant, c.precision, c.artifact.format, folder)
    reference = ctx.graph(c.variant, "fp32", unfinished=folder)
    if _trained(ctx, c.variant, c.precision, folder):
        reference = replace(graph, ranges=None, floats=frozenset())
    reference = centred(reference) if graph.centred else reference
    x, _ = ctx.fitted.tensors("test", LAYER_IMAGES)
    with scratch_folder() as work:
        try:
            errors = layer_errors(ctx.devices[c.device], graph, reference, x, work, ctx.progress)
        except EdgenasError as e:  # the verdict does not wait for its explanation
            return {"said": f"its operators could not be looked at: {e}", "operators": []}
    return {"said": explained(errors, c.precision), "operators": [asdict(e) for e in errors]}


def _relative(path: Path, ctx: Context, folder: Path) -> Path:
    if path.is_relative_to(folder):
        return Path("verify") / path.relative_to(folder)
    return path.relative_to(ctx.root)


def _accuracy(ctx: Context, variant: str, folder: Path) -> float:
    known = ctx.read("compress/compress.json")["variants"]
    if variant in known:
        return float(known[variant]["accuracy"])
    return float(read_json(folder / f"{variant}.json")["accuracy"])


_AFTER = ("profile", "race/architecture.json", "train", "compress", "export")

STAGE = Stage("verify", _AFTER, _settings, _work)
