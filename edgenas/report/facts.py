"""The files of a run directory as facts; what a run did not reach or do is None or empty."""

import re
from dataclasses import dataclass, field
from typing import Any

from edgenas.latency import Fit, HeldOut


@dataclass(frozen=True)
class Target:
    """One device with its budget, in predicted and measured p50."""

    device: str
    format: str
    precision: str
    limit_ms: float  # the widest, of a front
    asked: str = ""
    limits_ms: tuple[float, ...] = ()
    fastest_ms: float | None = None
    slowest_ms: float | None = None
    spans_ms: dict[str, tuple[float, float]] = field(default_factory=dict)

    def span_ms(self, precision: str) -> tuple[float, float] | None:
        """Predicted p50 of the fastest and of the slowest network of the space in ``precision``."""
        if precision == self.precision and self.fastest_ms is not None and self.slowest_ms:
            return self.fastest_ms, self.slowest_ms
        return self.spans_ms.get(precision)

    @property
    def limits(self) -> tuple[float, ...]:
        """One for each network that is wanted."""
        return self.limits_ms or (self.limit_ms,)


@dataclass(frozen=True)
class TableFacts:
    """A latency table that the run used, and how far its predictions are off."""

    device: str
    precision: str
    file: str
    grade: str
    held_out: HeldOut | None = None
    fit: Fit | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """profile/profile.json."""

    targets: tuple[Target, ...]
    tables: tuple[TableFacts, ...]


@dataclass(frozen=True)
class Block:
    """One place of the network: a choice or a fixed part; ``op`` is None where it is skipped."""

    label: str
    op: str | None = None
    choice: str | None = None


@dataclass(frozen=True)
class Prediction:
    """p50 that the table predicts, and with the margin that 9 in 10 networks keep."""

    p50_ms: float
    bound_ms: float | None = None


@dataclass(frozen=True)
class Found:
    """search/search.json. ``options``: choice -> label of an option -> what it executes.

    ``labels``: choice -> the option that was picked, those of the whole network too.
    """

    method: str
    architecture: dict[str, Any]
    blocks: tuple[Block, ...]
    predicted: dict[str, Prediction] = field(default_factory=dict)
    probabilities: dict[str, dict[str, float]] | None = None
    options: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timed:
    """Of a network that raced, on one device."""

    p50_ms: float
    high_ms: float


@dataclass(frozen=True)
class Rung:
    """What a network got right of the held-out images after ``epochs``; 95 % interval."""

    epochs: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class RaceSeat:
    """A network that raced, or would have but for its latency."""

    id: str
    architecture: dict[str, Any]
    why: str
    measured: dict[str, Timed]
    rungs: tuple[Rung, ...] = ()


@dataclass(frozen=True)
class Worth:
    """Points that an option would add; 95 % interval."""

    points: float
    low: float
    high: float


@dataclass(frozen=True)
class Judges:
    """What judged a race."""

    parts: tuple[str, ...]
    images: int


@dataclass(frozen=True)
class Raced(Found):
    """race/race.json; ``seats`` as they stood in the end, ``worth``: choice -> option.

    ``goes_on``: the training of the found network began where the race of the winner ended.
    ``phase``: what the ledger calls it. ``search``: hash of the search.json that it is of.
    """

    held_out: Judges = Judges((), 0)
    rungs: tuple[int, ...] = ()
    slack: bool = False
    goes_on: bool = False
    phase: str = ""
    search: str = ""
    seats: tuple[RaceSeat, ...] = ()
    over_budget: tuple[RaceSeat, ...] = ()
    worth: dict[str, dict[str, Worth]] | None = None


@dataclass(frozen=True)
class Trained:
    """train/train.json; accuracy on the test part in PyTorch.

    ``kept``: the epoch whose weights stay. ``search_images``: whether search-validation ended the
    training (``judge``) or was learnt from (``learn``).
    """

    accuracy: float
    epochs: int | None = None
    images: int | None = None
    steps: int | None = None
    kept: int | None = None
    search_images: str | None = None


@dataclass(frozen=True)
class TrainedInt8:
    """Accuracy on search-validation before and after training with int8 in it."""

    epochs: int
    before: float
    after: float
    kept: bool


@dataclass(frozen=True)
class Int8:
    """How the integers of a variant were found. ``divergence``: nats an image."""

    calibration: str
    correct_bias: bool
    divergence: float
    tried: tuple[dict[str, Any], ...] = ()
    trained: TrainedInt8 | None = None


@dataclass(frozen=True)
class Mixed:
    """Which operators stay in float in a format, of all ``layers`` that might; ``aim``: why.

    ``integer_time``: by device, the share of the layers' time that is spent on integers.
    """

    floats: tuple[str, ...]
    layers: dict[str, dict[str, Any]]
    aim: str
    integer_time: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A network that was exported: ``found`` or ``pruned``."""

    ops: tuple[str, ...]
    accuracy: float | None = None
    target_ms: dict[str, float] = field(default_factory=dict)
    int8: Int8 | None = None
    mixed: dict[str, Mixed] = field(default_factory=dict)


@dataclass(frozen=True)
class Compressed:
    """compress/compress.json."""

    variants: dict[str, Variant]
    skipped: str | None = None


@dataclass(frozen=True)
class Gate:
    """One condition of the verdict."""

    name: str
    met: bool
    value: float | None
    limit: float | None
    unit: str = ""
    interval: tuple[float, float] | None = None
    grade: str | None = None
    comparison: str = "<="
    worst: str | None = None  # the class that a gate is about

    def concerns(self, format: str) -> bool:
        """Whether it judges the file of ``format``."""
        return self.name.partition(":")[2].replace(" ", ":").partition(":")[0] == format

    @property
    def of_accuracy(self) -> bool:
        """Whether its value is a share of the test images."""
        return re.fullmatch("accuracy:[^:]+", self.name) is not None


@dataclass(frozen=True)
class Latency:
    """A whole file measured on its device."""

    p50_ms: float
    p90_ms: float | None = None
    p99_ms: float | None = None
    floor_ms: float | None = None
    interval_ms: tuple[float, float] | None = None
    blocks: int | None = None
    n: int | None = None
    grade: str | None = None
    provenance: str = "measured"


@dataclass(frozen=True)
class Candidate:
    """One exported file and why it was delivered or not."""

    file: str
    format: str
    device: str
    variant: str
    precision: str
    delivered: bool
    why: str = ""
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None  # 95 %, by the number of test images
    agreement: float | None = None
    max_abs_diff: float | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    quantized: float | None = None
    transposes: int | None = None
    predicted_p50_ms: float | None = None
    latency: Latency | None = None


@dataclass(frozen=True)
class Delivered:
    """A file that the run hands over, and which candidate it is."""

    file: str
    source: str
    variant: str
    precision: str
    device: str
    met: bool = True  # every gate that is about it
    missed: tuple[str, ...] = ()  # names of gates
    next: tuple[str, ...] = ()  # what to do about these


@dataclass(frozen=True)
class BlockTime:
    """One block of a network, predicted by the table and measured inside the network."""

    label: str
    op: str | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None


@dataclass(frozen=True)
class LayerErrors:
    """What is known of a file whose parity was missed; its operators are in the JSON."""

    said: str


@dataclass(frozen=True)
class Network:
    """Of a front: one of its networks, whose own verdict is in that file."""

    met: bool
    verdict: str


@dataclass(frozen=True)
class Verdict:
    """verdict.json."""

    met: bool
    name: str
    gates: tuple[Gate, ...]
    candidates: tuple[Candidate, ...]
    networks: dict[str, Network] = field(default_factory=dict)  # of a front
    task: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what to know of brought weights, and of what was delivered
    test: str | None = None  # what the test part is to the weights: held out, or seen by them
    torch: dict[str, float | None] = field(default_factory=dict)
    delivered: dict[str, Delivered] = field(default_factory=dict)
    blocks: dict[str, tuple[BlockTime, ...]] = field(default_factory=dict)
    repairs: tuple[dict[str, Any], ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)
    layer_errors: dict[str, LayerErrors] = field(default_factory=dict)  # by device


@dataclass(frozen=True)
class Trial:
    """One architecture that the search scored."""

    id: str
    picks: dict[str, Any]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Level:
    """Where the search for one network of a front stood after an epoch; else of the only one."""

    val_loss: float | None = None
    expected: dict[str, float] = field(default_factory=dict)
    load: float | None = None
    weight: float | None = None
    entropy: float | None = None


@dataclass(frozen=True)
class Epoch:
    """One epoch of a search or a training."""

    epoch: int
    loss: float | None = None
    accuracy: float | None = None
    levels: tuple[Level, ...] = ()
    warmup: bool = False


@dataclass(frozen=True)
class Repair:
    """One round in which a measured miss corrected the prediction."""

    round: int
    variant: str
    measured_ms: dict[str, float]
    predicted_ms: dict[str, float] = field(default_factory=dict)
    limit_ms: dict[str, float] = field(default_factory=dict)
