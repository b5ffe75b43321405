"""``edgenas run config.yaml``: strict YAML -> frozen settings, every default written out."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgenas import parsing, units
from edgenas.errors import UsageError
from edgenas.registry import Shelf, nearest
from edgenas.validate import Auto, construct, read_yaml

MOST_NAME_BYTES = 200  # file systems take 255, and names beside it are longer
Quantity = str | int | float  # as written; units.py refuses what has no unit
Precision = Literal["auto", "fp32", "int8-static", "fp16", "int8-weights", "int8-dynamic"]
Importance = Literal["taylor", "magnitude", "bn-scale"]
Calibration = Literal["auto", "min-max", "percentile", "mse", "entropy"]


@dataclass(frozen=True)
class Target:
    """A device and what a network may cost there; several latencies ask for a front.

    ``energy``: of one call, where the device counts it.
    """

    device: str
    latency: dict[str, Any]
    energy: Quantity | None = None

    @property
    def name(self) -> str:
        """Of the device, where ``device`` is the path of its file too."""
        file = Path(self.device)
        return file.stem if file.suffix in (".yaml", ".yml") else self.device

    @property
    def budgets(self) -> tuple[units.Budget, ...]:
        """The limits on p50."""
        asked = self.latency["p50"]
        where = f"targets: {self.device}: latency: p50"
        if isinstance(asked, list) and not asked:
            raise UsageError(f"{where}: an empty list")
        return tuple(
            units.budget(text, where) for text in (asked if isinstance(asked, list) else [asked])
        )

    @property
    def max_mj(self) -> float | None:
        """Limit on millijoules."""
        where = f"targets: {self.device}: energy"
        return None if self.energy is None else units.energy_mj(self.energy, where)


@dataclass(frozen=True)
class Race:
    """Finalists that train as the found network does, of whom the worse half leaves at each rung.

    ``seats``: how many, the found network among them; 1: none races. ``auto``: 8 where a search
    trained something, else 1, as for a network that is named, drawn, or has its weights.
    ``rungs``: shares of the epochs of ``train``. ``scores``: of ``edgenas/scores``, whose best
    untrained networks race too.
    """

    seats: Auto | int = "auto"
    rungs: tuple[float, ...] = (0.1, 0.25, 0.5)
    scores: tuple[str, ...] = ()


@dataclass(frozen=True)
class Train:
    """How the found network is trained: as of ``edgenas.train.TrainRecipe``.

    ``auto`` follows the data: ``edgenas.pipeline.recipe.planned``; ``recipe``: how long that is.
    ``search_images``: those of search-validation and calibration end a training (``judge``) or are
    trained on too (``learn``). ``from_supernet`` continues from the search's weights. ``weights``:
    a file as of ``edgenas.state_dicts.taken``, whose weights are taken instead of training;
    ``teacher``: a run, whose found network's answers are learnt from beside the labels;
    ``data_seen``: they were trained on all images of the task, so that its test part is not held
    out.
    """

    recipe: Literal["quick", "full"] = "full"
    epochs: Auto | int = "auto"
    steps: int | None = None
    batch: Auto | int = "auto"
    optimizer: Auto | Literal["adamw", "sgd"] = "auto"
    lr: Auto | float = "auto"
    warmup: Auto | float = "auto"
    weight_decay: Auto | float = "auto"
    smoothing: float = 0.1
    dropout: Auto | float = "auto"
    class_weights: Literal["auto", "none"] = "auto"
    patience: Auto | float = "auto"
    search_images: Auto | Literal["judge", "learn"] = "auto"
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    dead_after: float = 0.0
    from_supernet: bool = False
    teacher: str | None = None
    weights: str | None = None
    data_seen: bool = False


@dataclass(frozen=True)
class Prune:
    """Channel pruning to a further latency step, or to a budget that is not met without.

    ``importance``: as of ``edgenas.compress.importance``. ``rounds``: of cutting and fine-tuning,
    each by as large a factor. ``epochs``, of each round: 0 leaves it out.
    """

    latency: Quantity = "10 %"
    importance: Importance = "taylor"
    rounds: int = 1
    epochs: int = 1
    lr: float = 0.02
    max_drop: Quantity = "<= 0.5 points"

    @property
    def step(self) -> float:
        """Share of the latency that pruning is to save."""
        return units.fraction(self.latency, "prune: latency", "<=")

    @property
    def drop(self) -> float:
        """Accuracy that it may cost."""
        return units.fraction(self.max_drop, "prune: max_drop", "<=")


@dataclass(frozen=True)
class QuantRecipe:
    """How the integers of int8-static files are found; ``auto`` compares and keeps the best.

    ``calibration``: as of ``edgenas.graph.calibrate``. ``correct_bias``: take out what rounding of
    the weights shifts. ``epochs``: of training with int8 in it, at ``lr``; 0 leaves it out.
    ``mixed``: a further file, in which some operators stay in float.
    """

    calibration: Calibration = "auto"
    correct_bias: Literal["auto"] | bool = "auto"
    epochs: int = 0
    lr: float = 0.005
    mixed: bool = False


@dataclass(frozen=True)
class Export:
    """What files look like from outside.

    ``batch``: 1 fixes it, as compilers of accelerators want it. ``ends``: what int8 TFLite files
    take and give; ONNX files take and give float32.
    """

    batch: Literal["any", 1] = "any"
    ends: Literal["int8", "float32"] = "int8"


@dataclass(frozen=True)
class Gates:
    """What a delivered file must keep beside its latency budget.

    ``drop``: int8-static below fp32. ``agreement``: equal top-1 with the PyTorch network.
    ``difference``: of outputs from that network's, root mean square. ``class_drop``: what the class
    that loses most may lose to it. ``memory``: that loading and calling the file takes on the
    device. ``same_on``: further devices, e.g. an emulated one, on which it
    must compute the same.
    """

    drop: Quantity = "<= 1 point"
    agreement: Quantity = ">= 97 %"
    difference: Quantity = "<= 10 %"
    class_drop: Quantity = "<= 5 points"
    accuracy: Quantity | None = None
    size: Quantity | None = None
    memory: Quantity | None = None
    same_on: tuple[str, ...] = ()

    @property
    def max_drop(self) -> float:
        """As a fraction."""
        return units.fraction(self.drop, "gates: drop", "<=")

    @property
    def max_difference(self) -> float:
        """As a fraction."""
        return units.fraction(self.difference, "gates: difference", "<=")

    @property
    def max_class_drop(self) -> float:
        """As a fraction."""
        return units.fraction(self.class_drop, "gates: class_drop", "<=")

    @property
    def min_agreement(self) -> float:
        """As a fraction."""
        return units.fraction(self.agreement, "gates: agreement", ">=")

    @property
    def min_accuracy(self) -> float | None:
        """As a fraction."""
        if self.accuracy is None:
            return None
        return units.fraction(self.accuracy, "gates: accuracy", ">=")

    @property
    def max_bytes(self) -> int | None:
        """Limit of a delivered file."""
        return None if self.size is None else units.size_bytes(self.size, "gates: size")

    @property
    def max_memory_bytes(self) -> int | None:
        """Limit of what loading it and calling it takes on the device."""
        return None if self.memory is None else units.size_bytes(self.memory, "gates: memory")


@dataclass(frozen=True)
class Limits:
    """What a network may cost anywhere: budgets of the search beside the latencies."""

    parameters: Quantity | None = None
    macs: Quantity | None = None
    size: Quantity | None = None
    activations: Quantity | None = None

    @property
    def max_parameters(self) -> float | None:
        """Weights and biases, batch norms folded."""
        return _limit(self.parameters, units.count, "budgets: parameters")

    @property
    def max_macs(self) -> float | None:
        """Multiply-accumulates of one image."""
        return _limit(self.macs, units.count, "budgets: macs")

    @property
    def max_bytes(self) -> float | None:
        """Of the file, predicted from those of its operators; the gate ``size`` verifies it."""
        return _limit(self.size, units.size_bytes, "budgets: size")

    @property
    def max_activation_bytes(self) -> float | None:
        """Alive at once, estimated for one image."""
        return _limit(self.activations, units.size_bytes, "budgets: activations")


def _limit(text: Quantity | None, read: Callable[[object, str], float], where: str) -> float | None:
    return None if text is None else read(text, where)


@dataclass(frozen=True)
class Measure:
    """How long a file is timed: ``blocks`` processes, ``block_seconds`` a file in each."""

    blocks: int = 5
    block_seconds: float = 0.4
    networks: int = 48


@dataclass(frozen=True)
class Config:
    """A whole run.

    ``start``: a run, or a file of weights of a network, from which the supernet, and every network
    that is trained, takes what agrees in name and shape.
    """

    name: str
    task: dict[str, Any]
    targets: tuple[Target, ...]
    space: dict[str, Any] = field(default_factory=lambda: {"kind": "mobile"})
    precision: Precision = "auto"
    search: dict[str, Any] = field(default_factory=lambda: {"method": "proxyless"})
    budgets: Limits = Limits()
    start: str | None = None
    race: Race = Race()
    train: Train = Train()
    prune: Prune = Prune()
    quantize: QuantRecipe = QuantRecipe()
    export: Export = Export()
    gates: Gates = Gates()
    measure: Measure = Measure()
    repairs: int = 2
    seed: int = 0
    threads: int = 0
    accelerator: Literal["cpu", "cuda"] = "cpu"
    schema_version: int = 1

    @property
    def levels(self) -> int:
        """How many networks are wanted, each within its own latencies."""
        return max(len(t.budgets) for t in self.targets)

    @property
    def max_bytes(self) -> float | None:
        """Of a delivered file: what its gate and the search's budget ask for, the less."""
        asked = [b for b in (self.gates.max_bytes, self.budgets.max_bytes) if b is not None]
        return min(asked, default=None)

    def level(self, number: int) -> tuple[Target, ...]:
        """The targets of one of them."""
        return tuple(
            replace(t, latency={"p50": (t.budgets * self.levels)[number].text})
            for t in self.targets
        )

    @property
    def dumps(self) -> str:
        """YAML with every default written out."""
        return parsing.yaml_text(_plain(asdict(self)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def load_config(path: Path | str, overrides: Sequence[str] = (), name: str | None = None) -> Config:
    """Read and check a file; ``overrides`` are ``key.key=value`` texts. Raises UsageError.

    ``name``: of the run, in place of the one in the file, where that was copied or moved with it.
    """
    path = Path(path)
    data = read_yaml(path)
    data = overridden(data if name is None else {**data, "name": name}, overrides)
    return parse_config(data, str(path), default_name=path.stem)


def overridden(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``data``, changed by ``key.key=value`` texts. Raises UsageError."""
    for text in overrides:
        _override(data, text)
    return data


def parse_config(data: Mapping[str, Any], where: str, default_name: str = "run") -> Config:
    """Check a mapping, units included, before anything costs time. Raises UsageError."""
    if data.get("schema_version", 1) != 1:
        raise UsageError(
            f"{where}: schema_version {data['schema_version']!r:.80}; this edgenas reads 1"
        )
    data = {"name": default_name, **data}
    for key, cls in _SECTIONS.items():
        if key in data:
            if not isinstance(data[key], Mapping):
                raise UsageError(f"{where}: {key}: expected keys and values, not {data[key]!r}")
            data[key] = construct(cls, data[key], f"{where}: {key}")
    targets = data.get("targets")
    if not isinstance(targets, list) or not targets:
        raise UsageError(
            f"{where}: targets: expected a list such as "
            '[{device: cpu-onnxruntime, latency: {p50: "<= 5 ms"}}]'
        )
    data["targets"] = tuple(_target(t, f"{where}: targets") for t in targets)
    config = construct(Config, data, where)
    _check(config, where)
    return config


_SECTIONS: Mapping[str, type] = {
    "budgets": Limits, "race": Race, "train": Train, "prune": Prune, "quantize": QuantRecipe,
    "export": Export, "gates": Gates, "measure": Measure,
}  # fmt: skip


def _target(data: Any, where: str) -> Target:
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: expected device and latency, not {data!r}")
    if isinstance(data.get("latency"), str | int | float | list):
        data = {**data, "latency": {"p50": data["latency"]}}
    target = construct(Target, data, where)
    if set(target.latency) != {"p50"}:
        raise UsageError(
            f'{where}: latency: expected {{p50: "<= 5 ms"}}, not {dict(target.latency)!r}'
        )
    return target


def _check(config: Config, where: str) -> None:
    devices = [t.name for t in config.targets]
    if len(set(devices)) < len(devices):
        raise UsageError(f"{where}: targets: a device is named twice: {', '.join(devices)}")
    for part in (
        config.budgets,
        config.prune,
        config.gates,
        *config.targets,
    ):  # units are read when first asked
        for name in _properties(type(part)):
            try:
                getattr(part, name)
            except UsageError as e:
                raise UsageError(f"{where}: {e}") from None
    if wrong := [t for t in config.targets if len(t.budgets) not in (1, config.levels)]:
        raise UsageError(
            f"{where}: targets: {wrong[0].device} has {len(wrong[0].budgets)} latencies, another "
            f"target {config.levels}; write as many for each, or one for all"
        )
    if config.quantize.mixed and config.precision != "auto":
        raise UsageError(
            f"{where}: quantize: mixed is compared with fp32 and int8-static: write precision: "
            f"auto, not {config.precision}"
        )
    if config.train.data_seen:
        if config.train.weights is None:
            raise UsageError(f"{where}: train: data_seen is of weights, and none are given")
        if config.task.get("test") is not None:
            raise UsageError(
                f"{where}: train: data_seen says that no image is held out, and task: test names "
                "some that are; leave one of them out"
            )
    if config.train.weights is not None and config.race.seats not in ("auto", 1):
        raise UsageError(
            f"{where}: race: seats is {config.race.seats}, but with train: weights nothing is "
            "trained; leave one of them out"
        )
    rungs = config.race.rungs
    if not rungs or list(rungs) != sorted({*rungs}) or not 0 < rungs[0] <= rungs[-1] <= 1:
        raise UsageError(
            f"{where}: race: rungs are {list(rungs)!r:.60}: write growing shares of the "
            "epochs of train, such as [0.1, 0.25, 0.5]"
        )
    shelf_of_scores = list(Shelf("edgenas.scores"))
    for name in config.race.scores:
        if name not in shelf_of_scores:
            raise UsageError(
                f"{where}: race: scores: no score {name!r:.80}.{nearest(name, shelf_of_scores)}"
            )
    for key, named in (("start", config.start), ("train: teacher", config.train.teacher)):
        if named is not None and config.train.weights is not None:
            raise UsageError(
                f"{where}: {key} is for training, and with train: weights nothing is trained; "
                "leave one of them out"
            )
    if config.train.steps is not None and config.train.epochs != "auto":
        raise UsageError(f"{where}: train: steps and epochs both say how long; leave one out")
    for key, (value, low, high) in _ranges(config).items():
        if not isinstance(value, str) and not low <= value <= high:  # false for NaN too
            raise UsageError(f"{where}: {key} is {value}; it lies between {low:g} and {high:g}")
    for key, shelf in (("space", "kind"), ("task", "dataset"), ("search", "method")):
        part = getattr(config, key)
        if shelf not in part:
            known = ", ".join(Shelf(_SHELVES[key]))
            raise UsageError(f"{where}: {key}: {shelf} is missing. Known: {known}")
    if not _makes_a_folder(config.name):
        raise UsageError(
            f"{where}: name {config.name!r:.200} does not make a folder: write one of letters, "
            f"digits and dashes, at most {MOST_NAME_BYTES} bytes"
        )


def _ranges(config: Config) -> Mapping[str, tuple[Auto | float, float, float]]:
    """Key -> value, least, greatest: what makes sense, and what does not hang the machine."""
    train, prune, measure = config.train, config.prune, config.measure
    longest = 100_000 if train.epochs == "auto" else train.epochs
    return {
        "race: seats": (config.race.seats, 1, 1000),
        "train: epochs": (train.epochs, 1, 100_000),
        "train: steps": (1 if train.steps is None else train.steps, 1, 1_000_000_000),
        "train: batch": (train.batch, 2, 65_536),  # a batch norm needs two images
        "train: lr": (train.lr, 1e-9, 1e3),
        "train: warmup": (train.warmup, 0, longest),
        "train: weight_decay": (train.weight_decay, 0, 1),
        "train: smoothing": (train.smoothing, 0, 0.9),
        "train: dropout": (train.dropout, 0, 0.9),
        "train: patience": (train.patience, 0, 1),
        "train: ema": (train.ema, 0, 0.999999),
        "train: mixup": (train.mixup, 0, 100),
        "train: cutmix": (train.cutmix, 0, 100),
        "train: dead_after": (train.dead_after, 0, 1),
        "prune: rounds": (prune.rounds, 1, 100),
        "prune: epochs": (prune.epochs, 0, 100_000),
        "prune: lr": (prune.lr, 1e-9, 1e3),
        "quantize: epochs": (config.quantize.epochs, 0, 100_000),
        "quantize: lr": (config.quantize.lr, 1e-9, 1e3),
        "measure: blocks": (measure.blocks, 2, 1000),
        "measure: block_seconds": (measure.block_seconds, 0.001, 3600),
        "measure: networks": (measure.networks, 12, 10_000),
        "repairs": (config.repairs, 0, 100),
        "seed": (config.seed, 0, 2**31 - 1),
        "threads": (config.threads, 0, os.cpu_count() or 1),
    }


def _makes_a_folder(name: str) -> bool:
    plain = name.isprintable() and "/" not in name and not name.startswith(".")
    return bool(name.strip()) and plain and len(name.encode()) <= MOST_NAME_BYTES


_SHELVES = {"space": "edgenas.spaces", "task": "edgenas.datasets", "search": "edgenas.methods"}


def _properties(cls: type) -> list[str]:
    return [k for k, v in vars(cls).items() if isinstance(v, property)]


def _override(data: dict[str, Any], text: str) -> None:
    path, sep, value = text.partition("=")
    keys = path.split(".")
    if not sep or not all(keys) or len(keys) > parsing.MOST_NESTED:
        raise UsageError(f"--set {text!r:.200}: write it as key.key=value")
    for key in keys[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {text!r}: {key!r} holds no keys")
    if keys == ["space", "preset"] and "preset" not in data and data.keys() - {"kind"}:
        raise UsageError(
            f"--set {text!r}: all is written out there, and a preset fills in what is not; set it "
            f"whole: --set 'space={{kind: {data.get('kind')}, preset: {value}}}'"
        )
    try:
        data[keys[-1]] = parsing.yaml_value(value)
    except parsing.Refused as e:
        raise UsageError(f"--set {text!r:.200}: {e.said}") from e
    except parsing.NotYaml:  # ">= 88 %" is text, but YAML reads a block scalar
        data[keys[-1]] = value
