"""What int8 wins and costs, in the runtimes of this CPU: int8-static files beside fp32 ones.

    python benchmarks/compress.py [--networks found-fashion resnet18 ...] [--work runs/compress]

Networks: two that edgenas finds (Fashion-MNIST at 28 px, CIFAR-10 at 32 px), MobileNetV2 at 224 px
and ResNet-18 at 128 px, both trained here on CIFAR-10, enlarged: first small, at last at full size.
Of each, as ONNX and as TFLite, in parts (``--parts``), each measured by itself:
``int8``: int8-static by calibration alone (ptq) and trained on in int8 (qat); mixed, where layers
of ptq are faster in float. ``held``: weights as fp16, int8-weights, int8-dynamic.
All files of a network and a runtime are timed in one measurement, on one thread; accuracy is that
of the files on the test images. ``agreement``: equal top-1 with the fp32 file.

``pruned``: the same network cut to 0.7 times its latency as ``edgenas run`` and
``edgenas compress`` do, and fine-tuned; ``speedup``, ``accuracy_change`` and ``size_ratio`` are
then those of the pruned file to the whole one of the same precision, both measured together.
Networks are found under tables of int8-static, cut under those of the precision that is faster.

What is trained lies in --work: a run that was stopped goes on.
Writes benchmarks/results/compress.json.
"""

import argparse
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import brought
import numpy as np
import torch
from results_file import rows_before, write_results
from torch import nn

from edgenas.artifact import Artifact
from edgenas.checkpoint import Checkpoint
from edgenas.compress.mixed import faster, fastest, mixed, times
from edgenas.compress.qat import qat
from edgenas.compress.quantize import load_quantized, quantize, save_quantized
from edgenas.config import QuantRecipe, parse_config
from edgenas.console import Bars
from edgenas.device import Device, load_device
from edgenas.export import exporter_for
from edgenas.files import read_json, write_json
from edgenas.graph import INPUT, Conv, Graph, Held, Linear, trace
from edgenas.measure import measure, memory_bytes
from edgenas.pipeline import run
from edgenas.pipeline.context import Context, load_weights, save_weights
from edgenas.session import predict
from edgenas.task import Task, load_task
from edgenas.train import Epoch, TrainRecipe, seeded, train

DEVICES = ("cpu-onnxruntime", "cpu-litert")
# Of what the networks of a space take in int8: the middle, without the 7 x 7 that LiteRT takes 50
# times as long for.
BUDGETS = {"cpu-onnxruntime": "<= 50 %", "cpu-litert": "<= 2 %"}
QAT = TrainRecipe(epochs=1, batch=64, lr=0.002, warmup=0.0, smoothing=0.0)
VALIDATION_IMAGES = 512


@dataclass(frozen=True)
class Phase:
    """Training at one resolution, on so many images of the train part."""

    resolution: int
    images: int
    recipe: TrainRecipe


@dataclass(frozen=True)
class Case:
    """A network that is there to be compressed; ``phases``: how it is trained first.

    ``pruning_images``: of the train part, to fine-tune it on once it is cut, ``pruning_epochs`` in
    each of ``pruning_rounds``.
    """

    dataset: str
    resolution: int
    test_images: int
    make: Callable[[], nn.Module] | None = None  # None: found by edgenas
    phases: tuple[Phase, ...] = ()
    pruning_images: int = 8_000
    pruning_epochs: int = 1
    pruning_rounds: int = 1


CASES: Mapping[str, Case] = {
    "found-fashion": Case("fashion-mnist", 28, 10_000, pruning_epochs=3),
    "found-cifar10": Case("cifar10", 32, 10_000, pruning_epochs=6, pruning_rounds=2),
    "resnet18": Case(
        "cifar10", 128, 5_000, brought.resnet18,
        (
            Phase(64, 20_000, TrainRecipe(epochs=4, batch=64, lr=0.05)),
            Phase(128, 4_000, TrainRecipe(epochs=1, batch=64, lr=0.01, warmup=0.0)),
        ),
    ),
    "mobilenet_v2": Case(
        "cifar10", 224, 5_000, brought.mobilenet_v2,
        (
            Phase(64, 20_000, TrainRecipe(epochs=5, batch=64, lr=0.05)),
            Phase(224, 4_000, TrainRecipe(epochs=1, batch=32, lr=0.01, warmup=0.0)),
        ),
        pruning_images=4_000, pruning_epochs=2,
    ),
}  # fmt: skip


def trained(name: str, case: Case, work: Path, bars: Bars) -> tuple[nn.Module, Task]:
    """The fp32 network and its task at full resolution."""
    if case.make is None:
        return _found(name, case, work, bars)
    task = load_task({"dataset": case.dataset}, 0)
    with seeded(0):
        net = case.make()
    for i, phase in enumerate(case.phases):
        path = work / f"{name}.{i}.safetensors"
        if path.exists():
            net = load_weights(net, path)
            continue
        part = _few(task.at(phase.resolution), phase.images)
        train(
            net, part, phase.recipe, i, seen(name, bars),
            checkpoint=Checkpoint(path.with_suffix(".checkpoint.safetensors"), str(phase)),
        )  # fmt: skip
        save_weights(net, path)
    return net.eval(), task.at(case.resolution)


def seen(what: str, bars: Bars) -> Callable[[Epoch], None]:
    """Shows each epoch."""
    return lambda e: bars(f"{what} ({e.images_per_second:.0f} images/s)", e.number, e.epochs)


def _few(task: Task, images: int) -> Task:
    every = task.parts["train"]
    return replace(
        task, parts={**task.parts, "train": every[torch.arange(min(images, len(every)))]}
    )


def _found(name: str, case: Case, work: Path, bars: Bars) -> tuple[nn.Module, Task]:
    """Searched and trained as ``edgenas train`` does, in the middle of what the space can do."""
    config = parse_config(_searched(name, case), "benchmark")
    run(config, work, until="train", progress=bars)
    ctx = Context(work / name, config, Path("latency_tables"), bars)
    return ctx.network("found")[1], ctx.fitted


def _searched(name: str, case: Case) -> dict[str, Any]:
    return {
        "name": name,
        "task": {"dataset": case.dataset},
        "targets": [{"device": d, "latency": p50} for d, p50 in BUDGETS.items()],
        "precision": "int8-static",  # what fp32 is fast at need not be what int8 is fast at
        "train": {"epochs": 6},
    }


def _brought(name: str, case: Case, work: Path) -> dict[str, Any]:
    last = len(case.phases) - 1
    return {
        "name": f"{name}-pruned",
        "task": {
            "dataset": case.dataset, "train_images": case.pruning_images,
            "test_images": case.test_images,
        },
        "space": {
            "kind": "module", "source": f"{brought.__file__}:{name}", "resize": case.resolution,
        },
        "targets": [{"device": DEVICES[0], "latency": {"p50": "<= 1 s"}}],
        "precision": "int8-static",
        "search": {"method": "given"},
        "train": {"weights": str(work / f"{name}.{last}.safetensors"), "batch": 64},
        "measure": {"networks": 16},
    }  # fmt: skip


def _found_to_cut(name: str, case: Case, work: Path) -> dict[str, Any]:
    """What was found, as it is: under fp32 where that is faster, which in int8 is all overhead."""
    return {
        "name": f"{name}-pruned",
        "task": {"dataset": case.dataset},
        "targets": [{"device": d, "latency": {"p50": "<= 1 s"}} for d in DEVICES],
        "search": {"method": "fixed", "architecture": str(work / name)},
        "train": {"weights": str(work / name / "train/found.safetensors")},
    }


def pruned_rows(name: str, work: Path, bars: Bars) -> list[dict[str, Any]]:
    """One row a format and precision."""
    case = CASES[name]
    trained(name, case, work, bars)
    asked = (_found_to_cut if case.make is None else _brought)(name, case, work)
    pruning = {
        "latency": "30 %", "epochs": case.pruning_epochs, "rounds": case.pruning_rounds,
        "max_drop": "100 points",
    }  # fmt: skip
    loose = {"drop": "100 points", "class_drop": "100 points", "agreement": ">= 50 %"}
    asked |= {"prune": pruning, "gates": loose, "quantize": {"calibration": "mse"}}
    config = parse_config(asked, "benchmark")
    run(config, work, until="export", progress=bars)
    ctx = Context(work / config.name, config, Path("latency_tables"), bars)
    images, labels = ctx.fitted.tensors("test", case.test_images)
    x, y = np.ascontiguousarray(images.numpy()), labels.numpy()
    files = ctx.read("export/export.json")["files"]
    under = {target["device"]: target["precision"] for target in ctx.targets}
    rows = []
    for device in ctx.devices.values():
        mine = [f for f in files if f["format"] == device.runtime.format]
        artifacts = [
            Artifact.of(
                ctx.root / "export" / f["file"], f["format"], f["precision"], ctx.fitted.input
            )
            for f in mine
        ]
        timings = measure(device, artifacts, progress=bars)
        known = {
            (f["precision"], f["file"].partition(".")[0]): (a, t, predict(device, a, x).argmax(1))
            for f, a, t in zip(mine, artifacts, timings, strict=True)
        }
        for precision in device.precisions:
            (whole, t, top), (cut, u, top_cut) = (
                known[precision, variant] for variant in ("found", "pruned")
            )
            right = float((top == y).mean())
            rows.append({
                "network": name, "format": whole.format, "precision": precision, "by": "pruned",
                "resolution": case.resolution, "speedup": t.p50_ms / u.p50_ms,
                "latency_ratio": u.p50_ms / t.p50_ms,
                "accuracy_change": 100 * (float((top_cut == y).mean()) - right),
                "size_ratio": whole.size_bytes / cut.size_bytes, "whole_accuracy": right,
                "grades": [t.grade, u.grade], "cut_under": under,
            })  # fmt: skip
    return rows


def compressed(
    name: str, net: nn.Module, task: Task, work: Path, bars: Bars
) -> dict[str, tuple[Graph, Any]]:
    """Graphs by how they were made, and what is to be told of it."""
    graph = trace(net, task.input)
    of = hashlib.sha256(b"".join(n.weight.tobytes() for n in _layers(graph))).hexdigest()[:8]
    kept = work / f"{name}-{of}.ptq.safetensors"
    if not kept.exists():
        bars(f"{name}: calibrating", 0, 1)
        made, tried = quantize(
            graph, task.tensors("calibration")[0], task.tensors("search", VALIDATION_IMAGES)[0],
            QuantRecipe(),
        )  # fmt: skip
        write_json(kept.with_suffix(".json"), [asdict(t) for t in tried])
        save_quantized(made, kept)
    ptq, told = load_quantized(graph, kept), read_json(kept.with_suffix(".json"))
    path = work / f"{name}-{of}.qat.safetensors"
    if not path.exists():
        part = _few(
            task,
            CASES[name].phases[-1].images if CASES[name].phases else len(task.parts["train"].y),
        )
        made = qat(ptq, part, QAT, 0, net, lambda e, _: seen(f"{name} in int8", bars)(e))
        save_quantized(made, path)
    return {
        "fp32": (graph, {}),
        "ptq": (ptq, {"tried": told}),
        "qat": (load_quantized(graph, path), asdict(QAT)),
    }


def _layers(graph: Graph) -> list[Conv | Linear]:
    return [n for n in graph.nodes if isinstance(n, Conv | Linear)]


def int8_rows(name: str, work: Path, bars: Bars) -> list[dict[str, Any]]:
    """A row a format and way of computing on integers."""
    net, task = trained(name, CASES[name], work, bars)
    graphs = compressed(name, net, task, work, bars)
    rows = []
    for device in map(load_device, DEVICES):
        costs = times(device, graphs["ptq"][0], bars)
        mine = {how: graphs[how] for how in ("fp32", "ptq", "qat")}
        ptq, real = graphs["ptq"][0], graphs["fp32"][0]
        if kept := fastest([device], ptq, real, faster([costs]), bars):
            told = {"floats": sorted(kept), "layers": {n: asdict(c) for n, c in costs.items()}}
            mine["mixed"] = mixed(ptq, real, {INPUT, *kept}), told
        rows += _measured(name, device, mine, task, work, bars)
    return rows


def held_rows(name: str, work: Path, bars: Bars) -> list[dict[str, Any]]:
    """A row a format and what weights are held as."""
    net, task = trained(name, CASES[name], work, bars)
    real = trace(net, task.input)
    mine = {how: (replace(real, held=how), {}) for how in get_args(Held)}
    rows = []
    for device in map(load_device, DEVICES):
        rows += _measured(name, device, mine, task, work, bars)
    return rows


def _measured(
    name: str,
    device: Device,
    mine: Mapping[str, tuple[Graph, Any]],
    task: Task,
    work: Path,
    bars: Bars,
) -> list[dict[str, Any]]:
    """A row for each of ``mine`` but fp32, which it is compared with."""
    case, fmt = CASES[name], device.runtime.format
    images, labels = task.tensors("test", case.test_images)
    x, y = np.ascontiguousarray(images.numpy()), labels.numpy()
    exporter = exporter_for(fmt)
    files: dict[str, Artifact] = {
        how: exporter.network(graph, work / f"{name}.{how}.{fmt}", {})
        for how, (graph, _) in mine.items()
    }
    timings = dict(zip(files, measure(device, list(files.values()), progress=bars), strict=True))
    top = {how: predict(device, file, x).argmax(1) for how, file in files.items()}
    memory = {how: memory_bytes(device, file) or 0 for how, file in files.items()}
    rows = []
    base, right = files["fp32"], float((top["fp32"] == y).mean())
    for how in [h for h in mine if h != "fp32"]:
        found = exporter.inspect(files[how].path)
        rows.append({
            "network": name, "format": fmt, "precision": files[how].precision, "by": how,
            "resolution": case.resolution,
            "speedup": timings["fp32"].p50_ms / timings[how].p50_ms,
            "accuracy_change": 100 * (float((top[how] == y).mean()) - right),
            "size_ratio": base.size_bytes / files[how].size_bytes,
            "fp32_accuracy": right, "agreement": float((top[how] == top["fp32"]).mean()),
            "test_images": len(y), "quantized": found.quantized / found.operators,
            "float_operators": found.float_operators, "transposes": found.transposes,
            "input_dtype": found.input_dtype,
            "fp32_p50_ms": timings["fp32"].p50_ms, "p50_ms": timings[how].p50_ms,
            "memory_ratio": memory["fp32"] / memory[how], "fp32_memory_bytes": memory["fp32"],
            "grades": [timings["fp32"].grade, timings[how].grade], "made": mine[how][1],
        })  # fmt: skip
    return rows


PARTS: Mapping[str, Callable[[str, Path, Bars], list[dict[str, Any]]]] = {
    "int8": int8_rows,
    "held": held_rows,
    "pruned": pruned_rows,
}


def show(rows: list[dict[str, Any]]) -> None:
    """For the terminal."""
    print("network        px   format precision   by            speedup  points  size  accuracy")
    for r in rows:
        before = r.get("fp32_accuracy", r.get("whole_accuracy"))
        print(
            f"{r['network']:<14} {r['resolution']:<4} {r['format']:<6} {r['precision']:<11} "
            f"{r['by']:<13}{r['speedup']:>7.2f}{r['accuracy_change']:>+9.2f}{r['size_ratio']:>6.2f}"
            f"{before:>9.2%}"
        )


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path, default=Path("runs/compress"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with Bars() as bars:
        for part in args.parts:
            for name in args.networks:
                found = [{"part": part, **row} for row in PARTS[part](name, args.work, bars)]
                show(found)
                before = rows_before("compress")
                kept = [r for r in before if (r["part"], r["network"]) != (part, name)]
                path = write_results("compress", rows=[*kept, *found])
    print(path)


if __name__ == "__main__":
    main()
