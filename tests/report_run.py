"""A run directory as the pipeline leaves it; its numbers are invented, for tests only."""

import json
import math
import random
from pathlib import Path
from typing import Any

from edgenas import ops
from edgenas.files import write_json
from edgenas.latency import Fit, Header, HeldOut, LatencyTable, Timing
from edgenas.predict import Predictor
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture, OpSpec

DEVICES = {"cpu-onnxruntime": "onnx", "cpu-litert": "tflite"}
SPACE = Mobile(resolution=28, channels=1, classes=10, **Mobile.presets["tiny"])
CLASSES = ["T-shirt/top", "Trouser", "<script>alert('class')</script>", "Dress", "Coat"]
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def build_run(
    root: Path, *, met: bool = True, pruned: bool = True, epochs: int = 30, trials: int = 140
) -> Path:
    """A finished run under two budgets; the folder that holds it."""
    rng = random.Random(7)
    run = root / "fashion-two-budgets"
    (run / "profile").mkdir(parents=True)
    (run / "config.yaml").write_text("dataset: fashion-mnist\nlatency: {p50: '<= 50 %'}\nseed: 3\n")
    predictors = {d: _table(run, d, scale) for d, scale in zip(DEVICES, (1.0, 1.45), strict=True)}
    limits = {d: p.p50_ms(SPACE.fixed_ops()) * 5.4 for d, p in predictors.items()}
    _profile(run, predictors, limits)
    arch = _chosen(rng, predictors, limits)
    _search(run, arch, predictors, rng)
    _ledger(run, arch, predictors, limits, rng, epochs=epochs, trials=trials, repaired=pruned)
    write_json(run / "train/train.json", {"accuracy": 0.9184, "epochs": 24, "images": 53488})
    small = [_narrowed(op) for op in SPACE.ops(arch)] if pruned else None
    _compress(run, arch, small)
    _verdict(run, arch, small, predictors, limits, rng, met=met)
    write_json(
        run / "manifest.json",
        {
            "edgenas": "0.1.0",
            "versions": {"torch": "2.9.1", "onnxruntime": "1.23.2", "ai-edge-litert": "2.1.0"},
            "seed": 3,
            "inputs": {"fashion-mnist": HASH, "config.yaml": HASH[::-1]},
            "outputs": {"model.onnx": HASH, "model.tflite": HASH[::-1], "verdict.json": HASH},
        },
    )
    return run


def _table(run: Path, device: str, scale: float) -> Predictor:
    header = Header(
        device=device, runtime=device.split("-")[1], precision="int8-static", space=SPACE.id,
        fingerprint={"cpu": "Neoverse-N1", "cores": 2, "threads": 1}, empty_ms=0.004,
        fit=Fit(0.011, 1.04, 1.03, 0.034 * scale, 8),
        held_out=HeldOut(20, 0.021 * scale, 0.95, 1.0, 0.987, -0.004),
    )  # fmt: skip
    rows = {
        op: Timing(ms := 0.006 + scale * (ops.macs(op) / 3e7 + ops.hidden(op) / 9e3), ms, ms, 100)
        for op in SPACE.vocabulary() | {_narrowed(op) for op in SPACE.vocabulary()}
    }
    table = LatencyTable(header, rows)
    table.save(run / f"profile/{device}.int8-static.jsonl")
    return Predictor(table)


def _profile(run: Path, predictors: dict[str, Predictor], limits: dict[str, float]) -> None:
    targets, tables = [], []
    for device, predictor in predictors.items():
        header = predictor.table.header
        assert header.fit and header.held_out
        targets.append(
            {"device": device, "format": DEVICES[device], "precision": "int8-static",
             "asked": "<= 50 %", "limit_ms": limits[device],
             "fastest_ms": limits[device] * 0.41, "slowest_ms": limits[device] * 2.2}
        )  # fmt: skip
        tables.append(
            {"device": device, "precision": "int8-static", "grade": "stable",
             "file": f"profile/{device}.int8-static.jsonl", "held_out": _facts(header.held_out),
             "fit": vars(header.fit), "fingerprint": dict(header.fingerprint),
             "facts": {"kernel": "6.1.0-37-arm64", "governor": "unknown", "load_average": 1.94}}
        )  # fmt: skip
    write_json(run / "profile/profile.json", {"targets": targets, "tables": tables})


def _facts(held: HeldOut) -> dict[str, float]:
    return {name: getattr(held, name) for name in HeldOut.__slots__}


def _load(arch: Architecture, predictors: dict[str, Predictor], limits: dict[str, float]) -> float:
    loads = (p.p50_ms(SPACE.ops(arch)) * (1 + p.margin) / limits[d] for d, p in predictors.items())
    return max(loads)


def _chosen(
    rng: random.Random, predictors: dict[str, Predictor], limits: dict[str, float]
) -> Architecture:
    fits = (a for a in iter(lambda: SPACE.sample(rng), None) if _load(a, predictors, limits) <= 1)
    many = [next(fits) for _ in range(30)]
    return max(
        many,
        key=lambda a: (
            sum(a[c.name] == 6 for c in SPACE.choices) == 1,
            _load(a, predictors, limits),
        ),
    )


def _accuracy(arch: Architecture, rng: random.Random) -> float:
    work = sum(ops.macs(op) for op in SPACE.ops(arch))
    return 0.905 - 0.09 * math.exp(-work / 1.2e6) + rng.gauss(0, 0.004)


def _search(
    run: Path, arch: Architecture, predictors: dict[str, Predictor], rng: random.Random
) -> None:
    stem, first, head, classifier = (str(op) for op in SPACE.fixed_ops())
    blocks: list[dict[str, Any]] = [{"choice": None, "op": stem, "label": "stem"}]
    blocks.append({"choice": None, "op": first, "label": "first"})
    labels, odds = {}, {}
    for choice in SPACE.choices:
        pick = arch.index(choice.name)
        label = labels[choice.name] = choice.options[pick]
        op = next((str(o) for o in SPACE.option_ops(choice.name)[pick]), None)
        blocks.append({"choice": choice.name, "op": op, "label": label})
        raw = {o: rng.random() * (6 if o == label else 1) + (o == label) for o in choice.options}
        odds[choice.name] = {o: v / sum(raw.values()) for o, v in raw.items()}
    options = {
        c.name: {
            label: [str(o) for o in executed]
            for label, executed in zip(c.options, SPACE.option_ops(c.name), strict=True)
        }
        for c in SPACE.choices
    }
    blocks.append({"choice": None, "op": head, "label": "head"})
    blocks.append({"choice": None, "op": classifier, "label": "classifier"})
    predicted = {}
    for device, predictor in predictors.items():
        p50_ms = predictor.p50_ms(SPACE.ops(arch))
        predicted[device] = {"p50_ms": p50_ms, "bound_ms": p50_ms * (1 + predictor.margin)}
    write_json(
        run / "search/search.json",
        {"method": "proxyless", "architecture": arch.to_json(), "labels": labels,
         "ops": [str(o) for o in SPACE.ops(arch)], "blocks": blocks, "predicted": predicted,
         "probabilities": odds, "options": options},
    )  # fmt: skip


def _ledger(
    run: Path,
    arch: Architecture,
    predictors: dict[str, Predictor],
    limits: dict[str, float],
    rng: random.Random,
    *,
    epochs: int,
    trials: int,
    repaired: bool,
) -> None:
    events: list[dict[str, Any]] = []
    warm = epochs // 3
    for e in range(1, epochs + 1):
        t = max(e - warm, 0) / max(epochs - warm, 1)
        pull = 1.42 * math.exp(-4 * t) + 0.98 * (1 - math.exp(-4 * t)) + rng.gauss(0, 0.008)
        ms = {
            f"ms:{d}": limits[d] * pull * k for d, k in zip(predictors, (0.99, 0.93), strict=True)
        }
        events.append(
            {"phase": "search", "event": "epoch", "epoch": e, "epochs": epochs, "warmup": e <= warm,
             "loss": 0.42 + 1.7 * math.exp(-e / 6) + rng.gauss(0, 0.01),
             "levels": [
                 {"val_loss": 0.46 + 1.6 * math.exp(-e / 6) + rng.gauss(0, 0.02), "expected": ms,
                  "load": pull, "weight": min(0.9, 0.1 + t),
                  "entropy": 1.93 * (1 - t) ** 1.4 + 0.12}]}
        )  # fmt: skip
    archs = [SPACE.sample(rng) for _ in range(max(trials - 1, 0))] + [arch][: min(trials, 1)]
    for number, tried in enumerate(archs):
        metrics = {"accuracy": _accuracy(tried, rng), "load": _load(tried, predictors, limits)}
        metrics |= {f"ms:{d}": p.p50_ms(SPACE.ops(tried)) for d, p in predictors.items()}
        trial = {"id": number, "proposal": {"arch": tried.to_json()}, "metrics": metrics}
        events.append({"phase": "search", "event": "ask", "id": number})
        events.append({"phase": "search", "event": "tell", "trial": trial})
    for phase, length, start in (("train", 24, 0.80), ("finetune", 6 * repaired, 0.90)):
        for e in range(1, length + 1):
            accuracy = 0.921 - (0.921 - start) * math.exp(-e / 5) + rng.gauss(0, 0.002)
            loss = 0.61 + 0.9 * (1 - start) * 4 * math.exp(-e / 4)
            events.append({"phase": phase, "event": "epoch", "epoch": e, "epochs": length,
                           "loss": loss, "accuracy": accuracy})  # fmt: skip
    if repaired:
        events.append(
            {"phase": "repair", "event": "round", "round": 1, "variant": "pruned",
             "measured_ms": {d: limits[d] * 1.06 for d in limits},
             "predicted_ms": {d: limits[d] * 0.97 for d in limits}, "limit_ms": limits}
        )  # fmt: skip
    text = "".join(json.dumps(e) + "\n" for e in events)
    (run / "ledger.jsonl").write_text(text + '{"phase": "search", "eve')


def _narrowed(op: OpSpec) -> OpSpec:
    if op.kind != "mbconv" or op.arg("e", 1) == 1:
        return op
    hidden = int(op.cin * op.arg("e", 1) * 0.72)
    return ops.mbconv(
        op.cin, op.cout, op.size, k=op.arg("k", 3), s=op.arg("s", 1), hidden=hidden, hs=False
    )


def _compress(run: Path, arch: Architecture, small: list[OpSpec] | None) -> None:
    variants: dict[str, Any] = {
        "found": {"ops": [str(o) for o in SPACE.ops(arch)], "accuracy": 0.9184}
    }
    if small:
        ops_text = [str(o) for o in small]
        variants["pruned"] = {"ops": ops_text, "accuracy": 0.9169, "target_ms": {}}
    reason = None if small else "the found network is within every budget"
    write_json(run / "compress/compress.json", {"variants": variants, "skipped": reason})


def _verdict(
    run: Path,
    arch: Architecture,
    small: list[OpSpec] | None,
    predictors: dict[str, Predictor],
    limits: dict[str, float],
    rng: random.Random,
    *,
    met: bool,
) -> None:
    best = "pruned" if small else "found"
    gates: list[dict[str, Any]] = []
    candidates, delivered, blocks = [], {}, {}
    for device, format in DEVICES.items():
        predictor, limit = predictors[device], limits[device]
        predicted = predictor.p50_ms(SPACE.ops(arch))
        for variant in ("found", "pruned") if small else ("found",):
            for precision in ("fp32", "int8-static"):
                int8, is_pruned = precision != "fp32", variant == "pruned"
                factor = (0.94 if variant == best else 1.07) * (1.0 if int8 else 1.9)
                factor *= 1 if met or format == "onnx" else 1.13
                p50 = limit * factor
                over = f"{100 * (factor - 1):.0f} % over the budget of {limit:.3f} ms"
                latency = {
                    "p50_ms": p50, "p90_ms": p50 * 1.04, "p99_ms": p50 * 1.31,
                    "floor_ms": p50 * 0.97, "interval_ms": [p50 * 0.985, p50 * 1.02],
                    "blocks": 5, "n": 4210, "provenance": "measured",
                    "grade": "stable" if format == "onnx" else "noisy",
                }  # fmt: skip
                is_best = variant == best and int8
                candidates.append(
                    {"file": f"export/{variant}.{precision}.{format}", "format": format,
                     "device": device, "variant": variant, "precision": precision,
                     "accuracy": 0.9184 - 0.0015 * is_pruned - 0.0021 * int8,
                     "agreement": 0.9991 if int8 else 1.0, "transposes": 0,
                     "max_abs_diff": 0.412 if int8 else 3.1e-6, "quantized": float(int8),
                     "size_bytes": (128_900 if int8 else 412_344) - 30_000 * is_pruned,
                     "predicted_p50_ms": predicted if int8 else None, "latency": latency,
                     "delivered": is_best, "why": "the most accurate that meets the budget"
                     if is_best else over}
                )  # fmt: skip
        entry = next(c for c in candidates if c["delivered"] and c["format"] == format)
        latency = entry["latency"]
        gates.append(
            {"name": f"latency:{format}", "met": latency["p50_ms"] <= limit, "value":
             latency["p50_ms"], "limit": limit, "unit": "ms", "interval": latency["interval_ms"],
             "grade": latency["grade"], "comparison": "<="}
        )  # fmt: skip
        for name, value, least in (("accuracy", entry["accuracy"], 0.9), ("parity", 0.9991, 0.99),
                                   ("int8", 1.0, 0.9)):  # fmt: skip
            gates.append({"name": f"{name}:{format}", "met": True, "value": value, "limit": least,
                          "unit": "", "comparison": ">="})  # fmt: skip
        gates.append({"name": f"size:{format}", "met": True, "value": 128900, "limit": 500000,
                      "unit": "bytes", "comparison": "<="})  # fmt: skip
        delivered[format] = {"file": f"model.{format}", "source": entry["file"], "variant": best,
                             "precision": "int8-static", "device": device}  # fmt: skip
        blocks[device] = [
            {"label": f"{i} {op.kind}", "op": str(op), "predicted_ms": predictor.cost_ms(op),
             "measured_ms": predictor.cost_ms(op) * rng.uniform(0.86, 1.12)}
            for i, op in enumerate(SPACE.ops(arch))
        ]  # fmt: skip
    write_json(
        run / "verdict.json",
        {"schema": 1, "met": met, "name": "fashion-two-budgets",
         "task": {"name": "fashion-mnist", "classes": CLASSES, "parts": {
             part: {"images": number, "sha256": HASH} for part, number in
             {"train": 53488, "search": 6000, "calibration": 512, "test": 10000}.items()}},
         "torch": {"found": 0.9184, "pruned": 0.9169 if small else None}, "gates": gates,
         "delivered": delivered, "candidates": candidates, "blocks": blocks, "repairs": [],
         "conditions": {d: {"load_average": 1.2, "canary_before_ms": 0.41, "canary_after_ms": 0.42}
                        for d in DEVICES}},
    )  # fmt: skip
