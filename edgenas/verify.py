"""One gate: parity, accuracy, integer arithmetic, size and latency of each file -> one verdict.

A file is judged in its own runtime on its own device, on real test images. A step (pruning, int8)
that makes a file slower or costs more accuracy than allowed is undone for the delivered file. A
gate goes by the figure that was measured; a preference, by what is more than noise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgenas.artifact import Artifact, Inspection
from edgenas.config import Config
from edgenas.device import Device
from edgenas.errors import CorruptFile
from edgenas.export import exporter_for
from edgenas.measure import Measurement, memory_bytes
from edgenas.noise import Interval, faster, fewer, share_interval
from edgenas.session import predict
from edgenas.task import Task

FP32_AGREEMENT = 0.999  # the same weights in another kernel library: only ties may turn
FP32_DIFFERENCE = 1e-3
FLOATS = ("fp32", "fp16", "int8-weights")  # what activations are
RANGED = ("int8-static", "mixed")
SAME_IMAGES = 256  # an emulated device takes some ten milliseconds each
# Largest difference of two devices, of the largest logit: float error, some steps of an int8 output
SAME = 1e-4
SAME_INTEGERS = 0.02


@dataclass(frozen=True)
class Numbers:
    """What a file computes on the test split, beside the PyTorch network it came from."""

    accuracy: float
    agreement: float  # share of images with the same top-1
    max_abs_diff: float  # of logits
    difference: float  # as of ``difference``
    quantized: float  # share of compute operators that are integer
    least_quantized: float  # that was asked for
    transposes: int
    size_bytes: int
    memory_bytes: int | None  # that loading and calling it takes there; None where nothing tells
    torch_accuracy: float  # of the float network on the same images
    class_drop: float  # of accuracy within the class that lost most to the float network
    worst_class: str
    class_images: int  # of it, in the test part
    right: np.ndarray | None = field(default=None, repr=False, compare=False)  # (n,), bool

    @property
    def interval(self) -> Interval | None:
        """Of ``accuracy``, 95 %; None where it is not known which images are right."""
        return (
            None if self.right is None else share_interval(int(self.right.sum()), len(self.right))
        )

    def less_accurate(self, other: "Numbers") -> bool:
        """By more than noise, on the same images; by any, where these are not known."""
        if self.right is None or other.right is None:
            return self.accuracy < other.accuracy
        return fewer(self.right, other.right)

    @property
    def memory_at_most(self) -> float:
        """Bytes; without end where nothing tells."""
        return math.inf if self.memory_bytes is None else self.memory_bytes


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
        """As of ``edgenas.graph.Graph``."""
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
    device: Device,
    artifact: Artifact,
    task: Task,
    reference: np.ndarray,
    network: np.ndarray | None = None,
) -> Numbers:
    """Run ``artifact`` on its device over the test images of ``task``, as its metadata say.

    ``reference``: logits (n, classes) of what the file should compute. ``network``: those of the
    float network, where that is another: of integers that were trained. Raises CorruptFile.
    """
    inspection = exporter_for(artifact.format).inspect(artifact.path)
    try:
        told = task.as_told(inspection.metadata)
    except CorruptFile as e:
        raise CorruptFile(f"{artifact.path}: {e}") from e
    images, labels = told.tensors("test")
    logits = predict(device, artifact, np.ascontiguousarray(images.numpy()))
    logits = logits[:, [told.classes.index(name) for name in task.classes]]
    off = logits - reference
    y, top, want = labels.numpy(), logits.argmax(1), reference.argmax(1)
    before = want if network is None else network.argmax(1)
    lost = [
        float((before[y == k] == k).mean() - (top[y == k] == k).mean())
        for k in range(len(task.classes))
    ]
    worst = int(np.argmax(lost))
    return Numbers(
        accuracy=float((top == y).mean()),
        agreement=float((top == want).mean()),
        max_abs_diff=float(np.abs(off - off.mean(1, keepdims=True)).max()),
        difference=difference(logits, reference),
        quantized=inspection.quantized / inspection.operators,
        least_quantized=_least_quantized(artifact, inspection),
        transposes=inspection.transposes,
        size_bytes=artifact.size_bytes,
        memory_bytes=memory_bytes(device, artifact),
        torch_accuracy=float((before == y).mean()),
        class_drop=lost[worst],
        worst_class=task.classes[worst],
        class_images=int((y == worst).sum()),
        right=top == y,
    )


def _least_quantized(artifact: Artifact, inspection: Inspection) -> float:
    """Share of integer operators that its precision asks for."""
    if artifact.precision not in RANGED:
        return 0.0
    floats = int(inspection.metadata.get("floats", 0))
    return (inspection.operators - floats) / inspection.operators


def difference(logits: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of what ``logits`` (n, classes) are off, as a share of the reference's.

    Both less their mean in each image, which decides nothing. It tells of a bug that leaves every
    top-1 as it was.
    """
    off, want = (y - y.mean(1, keepdims=True) for y in (logits - reference, reference))
    return float(np.sqrt(np.square(off).mean() / max(np.square(want).mean(), 1e-30)))


def choose(candidates: Sequence[Candidate], config: Config, limit_ms: float) -> Choice:
    """The fastest file whose every step paid and kept the accuracy.

    Of files that are as fast, within noise, one that is more accurate by more than noise. A
    repaired variant is delivered only where nothing else is within ``limit_ms``.
    """
    objections = {c.artifact.path.name: _objection(c, candidates, config) for c in candidates}
    fit = [c for c in candidates if objections[c.artifact.path.name] is None] or _most_accurate(
        _allowed(candidates, config)
    )

    def over(c: Candidate) -> bool:
        return c.latency.p50_ms > limit_ms

    def last(c: Candidate) -> tuple[bool, bool]:
        return over(c), c.repaired and not over(c)

    first = min(fit, key=lambda c: (last(c), c.latency.p50_ms))
    alike = [c for c in fit if last(c) == last(first) and not _slower(c, first)]
    better = [c for c in alike if first.numbers.less_accurate(c.numbers)]
    best = min(_most_accurate(better), key=_p50_ms) if better else first
    why = {}
    for c in candidates:
        name = c.artifact.path.name
        if c is best:
            why[name] = objections[name] or (
                "fastest, but over budget" if over(best) else "delivered"
            )
        else:
            why[name] = objections[name] or _passed_over(c, best)
    return Choice(best, why)


def _passed_over(c: Candidate, best: Candidate) -> str:
    """Why ``best`` is delivered and not ``c``, which might be."""
    times = f"{c.latency.p50_ms:.4g} ms against {best.latency.p50_ms:.4g} ms"
    if c.repaired and not best.repaired:
        return "a repair that was not needed"
    if _slower(c, best):
        return f"slower: {times}"
    if c.numbers.less_accurate(best.numbers):
        return f"less accurate, and no faster by more than noise: {times}"
    return f"no more accurate by more than noise, and no faster: {times}"


def _slower(c: Candidate, than: Candidate) -> bool:
    return faster(than.latency.interval_ms, c.latency.interval_ms)


def _p50_ms(c: Candidate) -> float:
    return c.latency.p50_ms


def _most_accurate(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that are not less accurate than the most accurate one by more than noise."""
    top = max(candidates, key=lambda c: c.numbers.accuracy)
    return [c for c in candidates if not c.numbers.less_accurate(top.numbers)]


def _allowed(candidates: Sequence[Candidate], config: Config) -> list[Candidate]:
    return [c for c in candidates if config.precision in ("auto", c.precision)]


def _objection(c: Candidate, candidates: Sequence[Candidate], config: Config) -> str | None:
    """Why ``c`` may not be delivered, or None."""
    if config.precision not in ("auto", c.precision):
        return f"precision {config.precision} was asked for"
    if c.numbers.agreement < _min_agreement(c, config):
        return f"parity: equal top-1 on {c.numbers.agreement:.2%} of the test images only"
    if c.numbers.difference > max_difference(c, config):
        return f"parity: its outputs are {c.numbers.difference:.1%} off those of PyTorch"
    if c.numbers.quantized < c.numbers.least_quantized:
        return f"only {c.numbers.quantized:.0%} of its operators are integer"
    if c.numbers.accuracy < (floor := _least_accuracy(c, candidates, config)):
        return f"accuracy {c.numbers.accuracy:.2%} is below {floor:.2%}"
    if c.numbers.class_drop > _max_class_drop(c, config):
        return f"class {c.numbers.worst_class!r} lost {100 * c.numbers.class_drop:.3g} points"
    if config.max_bytes is not None and c.numbers.size_bytes > config.max_bytes:
        return f"it has {c.numbers.size_bytes} bytes, more than {config.max_bytes}"
    memory = config.gates.max_memory_bytes
    if memory is not None and c.numbers.memory_at_most > memory:
        return f"it takes {c.numbers.memory_bytes} bytes of memory, more than {memory}"
    return None


def _min_agreement(c: Candidate, config: Config) -> float:
    return FP32_AGREEMENT if c.precision == "fp32" else config.gates.min_agreement


def max_difference(c: Candidate, config: Config) -> float:
    """From the network's outputs that ``c`` may have."""
    return FP32_DIFFERENCE if c.precision == "fp32" else config.gates.max_difference


def _max_class_drop(c: Candidate, config: Config) -> float:
    """As the config asks, but an image may always turn."""
    return max(config.gates.max_class_drop, 1 / c.numbers.class_images)


def _least_accuracy(c: Candidate, candidates: Sequence[Candidate], config: Config) -> float:
    """What is left after the drops that config allows: a file below the network it was made of,
    int8 below fp32, pruned below found; that where it is more than noise below each uncut file
    that would be delivered instead.

    A repair pays what the budget costs; only ``gates: accuracy`` bounds it.
    """
    of = {(k.variant, k.precision): k.numbers for k in candidates}
    least = c.numbers.torch_accuracy - config.gates.max_drop
    least = max(least, config.gates.min_accuracy or 0.0)
    if c.precision != "fp32" and (c.variant, "fp32") in of:
        least = max(least, of[c.variant, "fp32"].accuracy - config.gates.max_drop)
    cut = c.variant != "found" and not c.repaired
    if cut and all(c.numbers.less_accurate(k.numbers) for k in _uncut(candidates, config)):
        least = max(least, _before_cut(c, candidates).accuracy - config.prune.drop)
    return least


def doubts(choice: Choice, candidates: Sequence[Candidate], config: Config) -> list[str]:
    """What the test images cannot tell of the delivered file: a loss that is within their noise."""
    c = choice.delivered
    if c.variant == "found" or c.repaired:
        return []
    uncut = _before_cut(c, candidates)
    lost = uncut.accuracy - c.numbers.accuracy
    if lost <= config.prune.drop or c.numbers.right is None:
        return []
    why = (
        "no more than another file of the uncut one loses"
        if c.numbers.less_accurate(uncut)
        else "which so few cannot tell from chance: give more test images to be sure"
    )
    return [
        f"{c.artifact.format}: of the {len(c.numbers.right)} test images the cut network has "
        f"{100 * lost:.1f} points fewer right than the uncut one, {why}"
    ]


def _before_cut(c: Candidate, candidates: Sequence[Candidate]) -> Numbers:
    """Of the uncut network in the precision of ``c``; a mixed file is not there where int8 is as
    fast.
    """
    of = {k.precision: k.numbers for k in candidates if k.variant == "found"}
    return of[c.precision if c.precision in of else "int8-static"]


def _uncut(candidates: Sequence[Candidate], config: Config) -> list[Candidate]:
    """The files of the uncut network that may be delivered."""
    return [
        k for k in candidates
        if k.variant == "found" and _objection(k, candidates, config) is None
    ]  # fmt: skip


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
        )
        | ({} if n.interval is None else {"interval": list(n.interval)}),
        _gate(
            f"accuracy:{fmt}:worst-class", n.class_drop, "<=", _max_class_drop(c, config),
            "fraction",
        )
        | {"worst": n.worst_class},
        _gate(f"parity:{fmt}", n.agreement, ">=", _min_agreement(c, config), "fraction"),
        _gate(f"parity:{fmt}:outputs", n.difference, "<=", max_difference(c, config), "fraction"),
    ]  # fmt: skip
    if c.precision in RANGED:
        out.append(_gate(f"int8:{fmt}", n.quantized, ">=", n.least_quantized, "fraction"))
    if config.max_bytes is not None:
        out.append(_gate(f"size:{fmt}", n.size_bytes, "<=", config.max_bytes, "bytes"))
    if (limit := config.gates.max_memory_bytes) is not None:
        out.append(_gate(f"memory:{fmt}", n.memory_at_most, "<=", limit, "bytes"))
        if n.memory_bytes is None:
            out[-1] |= {"value": None, "worst": "the device does not tell"}
    return out


def same_gate(device: Device, other: Device, artifact: Artifact, x: np.ndarray) -> dict[str, Any]:
    """Whether ``other`` computes of images ``x``, the first few of them, what ``device`` does."""
    here, there = (predict(d, artifact, x[:SAME_IMAGES]) for d in (device, other))
    apart = float(np.abs(here - there).max() / np.abs(here).max())
    return _gate(
        f"same:{artifact.format} on {other.name}", float(f"{apart:.2g}"), "<=",
        SAME if artifact.precision in FLOATS else SAME_INTEGERS, "of the largest logit",
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
        "accuracy_interval": None if n.interval is None else list(n.interval),
        "agreement": n.agreement,
        "worst_class": n.worst_class,
        "class_drop": n.class_drop,
        "max_abs_diff": n.max_abs_diff,
        "difference": n.difference,
        "size_bytes": n.size_bytes,
        "quantized": n.quantized,
        "transposes": n.transposes,
        "predicted_p50_ms": c.predicted_p50_ms,
        "latency": c.latency.to_json(),
        "delivered": c is choice.delivered,
        "why": choice.why[c.artifact.path.name],
    }
