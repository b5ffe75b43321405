"""One gate: parity, accuracy, integer arithmetic, size and latency of each file -> one verdict.

A file is judged in its own runtime on its own device, on real test images. A step (pruning, int8)
that makes a file slower or costs more accuracy than allowed is undone for the delivered file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenas.artifact import Artifact
from edgenas.config import Config
from edgenas.device import Device
from edgenas.export import exporter_for
from edgenas.measure import Measurement
from edgenas.session import predict

FP32_AGREEMENT = 0.999  # the same weights in another kernel library: only ties may turn
INTEGER_SHARE = 1.0
SAME_IMAGES = 256  # an emulated device takes some ten milliseconds each
# Largest difference of two devices, of the largest logit: float error, some steps of an int8 output
SAME = {"fp32": 1e-4, "int8-static": 0.02}


@dataclass(frozen=True)
class Numbers:
    """What a file computes on the test split, beside the PyTorch network it came from."""

    accuracy: float
    agreement: float  # share of images with the same top-1
    max_abs_diff: float  # of logits
    quantized: float  # share of compute operators that are integer
    transposes: int
    size_bytes: int
    torch_accuracy: float  # of the PyTorch network on the same images


@dataclass(frozen=True)
class Candidate:
    """A file that could be delivered, and all that is known of it."""

    variant: str
    artifact: Artifact
    device: str
    predicted_p50_ms: float | None
    numbers: Numbers
    latency: Measurement

    @property
    def precision(self) -> str:
        """fp32 or int8-static."""
        return self.artifact.precision

    @property
    def repaired(self) -> bool:
        """Made smaller than was asked for because the budget was missed."""
        return self.variant.startswith("repaired")


@dataclass(frozen=True)
class Choice:
    """The delivered candidate of one device, and for every other one what undid it."""

    delivered: Candidate
    why: Mapping[str, str]  # file name -> reason


def numbers(
    device: Device, artifact: Artifact, x: np.ndarray, y: np.ndarray, reference: np.ndarray
) -> Numbers:
    """Run ``artifact`` on its device over images ``x`` (n, c, h, w), normalised.

    ``reference``: logits (n, classes) of the PyTorch network.
    """
    logits = predict(device, artifact, x)
    top, want = logits.argmax(1), reference.argmax(1)
    inspection = exporter_for(artifact.format).inspect(artifact.path)
    return Numbers(
        accuracy=float((top == y).mean()),
        agreement=float((top == want).mean()),
        max_abs_diff=float(np.abs(logits - reference).max()),
        quantized=inspection.quantized / inspection.operators,
        transposes=inspection.transposes,
        size_bytes=artifact.size_bytes,
        torch_accuracy=float((want == y).mean()),
    )


def choose(candidates: Sequence[Candidate], config: Config, limit_ms: float) -> Choice:
    """The fastest file whose every step paid and kept the accuracy.

    A repaired variant is delivered only where nothing else is within ``limit_ms``.
    """
    objections = {c.artifact.path.name: _objection(c, candidates, config) for c in candidates}
    fit = [c for c in candidates if objections[c.artifact.path.name] is None] or [
        max(_allowed(candidates, config), key=lambda c: c.numbers.accuracy)
    ]

    def rank(c: Candidate) -> tuple[bool, bool, float]:
        over = c.latency.p50_ms > limit_ms
        return over, c.repaired and not over, c.latency.p50_ms

    best = min(fit, key=rank)
    why = {}
    for c in candidates:
        name = c.artifact.path.name
        if c is best:
            over = best.latency.p50_ms > limit_ms
            why[name] = objections[name] or ("fastest, but over budget" if over else "delivered")
        else:
            faster = c.latency.p50_ms < best.latency.p50_ms
            why[name] = objections[name] or (
                "a repair that was not needed"
                if faster
                else f"slower: {c.latency.p50_ms:.4g} ms against {best.latency.p50_ms:.4g} ms"
            )
    return Choice(best, why)


def _allowed(candidates: Sequence[Candidate], config: Config) -> list[Candidate]:
    return [c for c in candidates if config.precision in ("auto", c.precision)]


def _objection(c: Candidate, candidates: Sequence[Candidate], config: Config) -> str | None:
    """Why ``c`` may not be delivered, or None."""
    if config.precision not in ("auto", c.precision):
        return f"precision {config.precision} was asked for"
    if c.numbers.agreement < _min_agreement(c, config):
        return f"parity: equal top-1 on {c.numbers.agreement:.2%} of the test images only"
    if c.precision != "fp32" and c.numbers.quantized < INTEGER_SHARE:
        return f"only {c.numbers.quantized:.0%} of its operators are integer"
    if c.numbers.accuracy < (floor := _least_accuracy(c, candidates, config)):
        return f"accuracy {c.numbers.accuracy:.2%} is below {floor:.2%}"
    return None


def _min_agreement(c: Candidate, config: Config) -> float:
    return FP32_AGREEMENT if c.precision == "fp32" else config.gates.min_agreement


def _least_accuracy(c: Candidate, candidates: Sequence[Candidate], config: Config) -> float:
    """What is left after the drops that config allows: a file below the network it was made of,
    int8 below fp32, pruned below found.

    A repair pays what the budget costs; only ``gates: accuracy`` bounds it.
    """
    by = {(k.variant, k.precision): k.numbers.accuracy for k in candidates}
    least = c.numbers.torch_accuracy - config.gates.max_drop
    least = max(least, config.gates.min_accuracy or 0.0)
    if c.precision != "fp32" and (c.variant, "fp32") in by:
        least = max(least, by[c.variant, "fp32"] - config.gates.max_drop)
    if c.variant != "found" and not c.repaired:
        least = max(least, by["found", c.precision] - config.prune.drop)
    return least


def gates(
    choice: Choice, candidates: Sequence[Candidate], config: Config, limit_ms: float
) -> list[dict[str, Any]]:
    """Every figure of the delivered file with its limit, as in verdict.json."""
    c = choice.delivered
    n, fmt = c.numbers, c.artifact.format
    out = [
        _gate(f"latency:{fmt}", c.latency.p50_ms, "<=", limit_ms, "ms")
        | {"interval": list(c.latency.interval_ms), "grade": c.latency.grade},
        _gate(
            f"accuracy:{fmt}", n.accuracy, ">=", _least_accuracy(c, candidates, config), "fraction"
        ),
        _gate(f"parity:{fmt}", n.agreement, ">=", _min_agreement(c, config), "fraction"),
    ]
    if c.precision != "fp32":
        out.append(_gate(f"int8:{fmt}", n.quantized, ">=", INTEGER_SHARE, "fraction"))
    if config.max_bytes is not None:
        out.append(_gate(f"size:{fmt}", n.size_bytes, "<=", config.max_bytes, "bytes"))
    return out


def same_gate(device: Device, other: Device, artifact: Artifact, x: np.ndarray) -> dict[str, Any]:
    """Whether ``other`` computes of images ``x``, the first few of them, what ``device`` does."""
    here, there = (predict(d, artifact, x[:SAME_IMAGES]) for d in (device, other))
    apart = float(np.abs(here - there).max() / np.abs(here).max())
    return _gate(
        f"same:{artifact.format} on {other.name}", float(f"{apart:.2g}"), "<=",
        SAME[artifact.precision], "of the largest logit",
    )  # fmt: skip


def _gate(name: str, value: float, comparison: str, limit: float, unit: str) -> dict[str, Any]:
    met = value <= limit if comparison == "<=" else value >= limit
    return {
        "name": name, "met": bool(met), "value": value, "comparison": comparison,
        "limit": limit, "unit": unit,
    }  # fmt: skip


def described(c: Candidate, choice: Choice) -> dict[str, Any]:
    """A row of verdict.json: candidates."""
    n = c.numbers
    return {
        "file": c.artifact.path.name,
        "format": c.artifact.format,
        "device": c.device,
        "variant": c.variant,
        "precision": c.precision,
        "accuracy": n.accuracy,
        "agreement": n.agreement,
        "max_abs_diff": n.max_abs_diff,
        "size_bytes": n.size_bytes,
        "quantized": n.quantized,
        "transposes": n.transposes,
        "predicted_p50_ms": c.predicted_p50_ms,
        "latency": c.latency.to_json(),
        "delivered": c is choice.delivered,
        "why": choice.why[c.artifact.path.name],
    }
