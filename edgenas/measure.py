"""Whole files on a device, timed so that the answer repeats: blocks, not more calls.

Each block is a new process with all files interleaved; the estimate is the median of block
medians, since what varies from block to block does not average out within one.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgenas import sentinel, session, specimen
from edgenas.artifact import Artifact
from edgenas.device import Device
from edgenas.errors import DeviceError, UsageError
from edgenas.export import exporter_for
from edgenas.latency import Grade, Provenance
from edgenas.scratch import scratch_folder
from edgenas.session import Pace, Refusal, Visit, probe, time_models

Progress = Callable[[str, int, int], None]
Samples = Sequence[np.ndarray]  # ms of one model, an array a block

VISITS = 20  # of each file in a block
WARM_MS = 200.0
RESAMPLES = 2000
CANARY_MOVE = 0.03, 0.10  # of its median, last block against first: noisy, unstable above
CANARY = "canary"


@dataclass(frozen=True)
class Measurement:
    """Latency of one file. ``interval_ms``: 95 % bootstrap over blocks, of the p50.

    ``canary_ms``: p50 of a fixed operator in the first and the last block.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    floor_ms: float
    interval_ms: tuple[float, float]
    blocks: int
    n: int
    grade: Grade
    provenance: Provenance
    canary_ms: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """The fields, JSON types."""
        return asdict(self) | {"interval_ms": [*self.interval_ms], "canary_ms": [*self.canary_ms]}


def measure(
    device: Device,
    artifacts: Sequence[Artifact],
    *,
    blocks: int = 5,
    block_seconds: float = 0.5,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> list[Measurement]:
    """One measurement an artifact, in order; ``block_seconds`` of timed calls each in each block.

    Raises DeviceError where a file cannot be loaded or run; grading is left to the caller.
    """
    if blocks < 2 or block_seconds <= 0:
        raise UsageError(
            f"{blocks} blocks of {block_seconds} s: an interval needs 2 blocks, and time"
        )
    if not artifacts:
        return []
    precision = artifacts[0].precision
    precision = "int8-static" if precision == "mixed" else precision  # of the canary
    fingerprint = probe(device)[0]
    known_ms = sentinel.known_floor_ms(fingerprint, precision)
    quantile = sentinel.quantile(fingerprint)
    samples: dict[str, list[np.ndarray]] = {}
    with scratch_folder() as work:
        path = work / f"canary.{device.runtime.format}"
        exporter = exporter_for(device.runtime.format)
        canary = specimen.operator(exporter, sentinel.SENTINEL, precision, path)
        models = {str(i): a for i, a in enumerate(artifacts)} | {CANARY: canary}
        for block in range(blocks):
            progress("measuring", block, blocks)
            rng = random.Random(f"{seed} {block}")
            for id, ms in _block(device, models, block_seconds, rng).items():
                samples.setdefault(id, []).append(ms)
        progress("measuring", blocks, blocks)
    canary_ms = samples.pop(CANARY)
    return [
        summary(samples[str(i)], canary_ms, known_ms, device.runtime.provenance, seed, quantile)
        for i in range(len(artifacts))
    ]


def memory_bytes(device: Device, artifact: Artifact) -> int | None:
    """What loading ``artifact`` and calling it takes on ``device`` at most, beside the runtime.

    None where the device cannot tell.
    """
    exporter = exporter_for(device.runtime.format)
    with scratch_folder() as work:
        path = work / f"empty.{exporter.format}"
        empty = specimen.operator(exporter, specimen.EMPTY, device.precisions[0], path)
        return session.memory_bytes(device, artifact, empty)


def _block(
    device: Device, models: Mapping[str, Artifact], seconds: float, rng: random.Random
) -> dict[str, np.ndarray]:
    """Milliseconds of every call of every model in one process, visits shuffled."""
    visits = []
    for number in range(VISITS):
        ids = list(models)
        rng.shuffle(ids)
        visits += [(number, id) for id in ids]
    pace = Pace(visit_ms=1000 * seconds / VISITS, warm_ms=WARM_MS, max_calls=100_000)
    ns: dict[str, list[int]] = {id: [] for id in models}
    for event in time_models(device, models, visits, pace):
        match event:
            case Visit(_, id, samples):
                ns[id].extend(samples)
            case Refusal(id, _, reason):
                raise DeviceError(f"{device.name} cannot run {models[id].path}: {reason}")
    return {id: np.array(samples) / 1e6 for id, samples in ns.items()}


def summary(
    ms: Samples,
    canary_ms: Samples,
    known_ms: float | None = None,
    provenance: Provenance = "measured",
    seed: int = 0,
    quantile: float = 0.0,
) -> Measurement:
    """The measurement that ``ms``, an array of calls for each block, amounts to.

    ``known_ms``: the best floor of the canary in earlier runs, which is that ``quantile`` of it.
    """
    medians = np.array([np.median(block) for block in ms])
    together = np.concatenate(ms)
    p90, p99 = np.percentile(together, (90, 99))
    drawn = np.random.default_rng(seed).choice(medians, (RESAMPLES, len(medians)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    canary_floor_ms = sentinel.floor(np.concatenate(canary_ms), quantile)
    drift = canary_floor_ms / known_ms - 1 if known_ms else 0.0
    before, after = (float(np.median(canary_ms[i])) for i in (0, -1))
    return Measurement(
        p50_ms=float(np.median(medians)),
        p90_ms=float(p90),
        p99_ms=float(p99),
        floor_ms=float(together.min()),
        interval_ms=(float(low), float(high)),
        blocks=len(ms),
        n=len(together),
        grade=sentinel.worst(_spread(ms, medians), _moved(before, after), sentinel.graded(drift)),
        provenance=provenance,
        canary_ms=(before, after),
    )


def _spread(ms: Samples, medians: np.ndarray) -> Grade:
    """From the robust variation within a block and the distance between block medians."""
    middle = float(np.median(medians))
    between = float(medians.max() - medians.min()) / middle
    within = float(np.median([_robust_sd(block) / np.median(block) for block in ms]))
    if within <= 0.025 and between <= 0.05:
        return "stable"
    return "noisy" if within <= 0.10 and between <= 0.10 else "unstable"


def _robust_sd(block: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(block - np.median(block))))


def _moved(before: float, after: float) -> Grade:
    move, (small, large) = abs(after / before - 1), CANARY_MOVE
    return "stable" if move <= small else "noisy" if move <= large else "unstable"
