"""What every stage needs: the config and what follows from it, and what earlier stages wrote."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors.torch import save
from torch import nn

from edgenas.compress.mixed import mixed
from edgenas.compress.quantize import load_quantized
from edgenas.config import Config
from edgenas.device import Device, load_device
from edgenas.errors import UsageError
from edgenas.files import aside, read_json
from edgenas.graph import INPUT, Graph, Held, trace
from edgenas.latency import LatencyTable
from edgenas.predict import Predictor
from edgenas.search import Ledger
from edgenas.space import Space, load_space
from edgenas.spec import Architecture, OpSpec
from edgenas.state_dicts import filled, taken
from edgenas.task import Task, load_task

HEADROOM = 0.97  # what is made for a budget aims a little below it, so that once suffices

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Context:
    """One run. ``tables``: the folder of the latency tables that runs share."""

    root: Path
    config: Config
    tables: Path
    progress: Progress

    @cached_property
    def task(self) -> Task:
        """The user's data. Raises UsageError where brought weights may have seen its test part."""
        task = load_task(self.config.task, self.config.seed)
        weights = self.config.train.weights
        if task.drawn and weights is not None and not self.config.train.data_seen:
            data = self.config.task.get("path") or task.name
            raise UsageError(
                f"{data} has no test part, and which of its images {weights} was trained on cannot "
                "be known: give it train/ and test/ (an .npz: x_test, y_test), or name images that "
                "were held out (--test FOLDER, task.test), or say that the weights have seen all "
                "of them, so that accuracy flatters (--data-seen, train.data_seen)"
            )
        return task

    @property
    def test_is(self) -> str:
        """What the test part is to the weights."""
        return "seen by the weights" if self.config.train.data_seen else "held out"

    @cached_property
    def space(self) -> Space:
        """The space, for images and classes of the task."""
        channels, height, _ = self.task.input
        facts = {"channels": channels, "resolution": height, "classes": len(self.task.classes)}
        for key, value in facts.items():
            if self.config.space.get(key, value) != value:
                asked = self.config.space[key]
                advice = f", or write resolutions: [{asked}]" if key == "resolution" else ""
                raise UsageError(
                    f"space: {key} is {asked!r}, but the task has {value}; leave it out{advice}"
                )
        return load_space({**self.config.space, **facts})

    @property
    def fitted(self) -> Task:
        """The user's data at the size that the found network takes."""
        return self.task.at(self.space.input_of(self.architecture)[1])

    @cached_property
    def devices(self) -> Mapping[str, Device]:
        """Of all targets, by name."""
        return {t.name: load_device(t.device) for t in self.config.targets}

    @cached_property
    def same_on(self) -> tuple[Device, ...]:
        """Further devices that delivered files are run on. Raises UsageError."""
        others = tuple(map(load_device, self.config.gates.same_on))
        formats = {d.runtime.format for d in self.devices.values()}
        for other in others:
            if other.runtime.format not in formats:
                raise UsageError(
                    f"gates: same_on: {other.name} runs {other.runtime.format}, and no target does"
                )
        return others

    def precisions(self, device: Device) -> tuple[str, ...]:
        """What is profiled on ``device``."""
        if self.config.precision == "auto":
            return device.precisions
        return (self.config.precision,)

    def predictors(self) -> dict[str, Predictor]:
        """By device, under the precision that the profile stage chose."""
        found = {t["device"]: self.predictor(t["device"], t["precision"]) for t in self.targets}
        return {device: p for device, p in found.items() if p is not None}

    def ledger(self) -> Ledger:
        """The events of this run."""
        return Ledger(self.root / "ledger.jsonl")

    def read(self, name: str) -> Any:
        """A JSON file of an earlier stage, e.g. ``search/search.json``."""
        return read_json(self.root / name)

    @cached_property
    def targets(self) -> list[dict[str, Any]]:
        """Of the profile stage: device, precision, limit_ms ..."""
        targets: list[dict[str, Any]] = self.read("profile/profile.json")["targets"]
        return targets

    def predictor(
        self, device: str, precision: str, unfinished: Path | None = None
    ) -> Predictor | None:
        """From the tables of this run, the newest first; None where none was asked for."""
        finished = [self.root / stage for stage in ("compress", "profile")]
        for folder in [unfinished, *finished] if unfinished else finished:
            path = folder / f"{device}.{precision}.jsonl"
            if path.exists():
                return Predictor(LatencyTable.load(path))
        return None

    @property
    def architecture(self) -> Architecture:
        """What the search found, and of those that raced against it the winner."""
        return Architecture.from_json(self.read("race/architecture.json"))

    @property
    def exported(self) -> list[tuple[str, str]]:
        """Precision and format of the files that are made for the targets, sorted.

        fp32 too where another is asked for, which is compared with it.
        """
        devices, asked = self.devices.values(), self.config.precision
        only = {"fp32", "int8-static"} if asked == "auto" else {"fp32", asked}
        return sorted({(p, d.runtime.format) for d in devices for p in d.runs if p in only})

    @property
    def quantizes(self) -> bool:
        """Whether int8-static files are made."""
        return any(precision == "int8-static" for precision, _ in self.exported)

    def graph(
        self, variant: str, precision: str, format: str = "", unfinished: Path | None = None
    ) -> Graph:
        """Of ``variant``, as it is exported; ``mixed`` is another for each ``format``.

        ``unfinished``: as of ``network``.
        """
        graph = trace(self.network(variant, unfinished)[1], self.fitted.input)
        if precision in get_args(Held):
            return replace(graph, held=cast(Held, precision))
        path = self.quantized(variant, unfinished)
        int8 = load_quantized(graph, path)
        if self.config.export.ends == "float32":
            int8 = replace(int8, floats=frozenset({INPUT}))
        if precision == "mixed":
            floats = self._mixed(variant, format, unfinished)["floats"]
            # Biases that were corrected are right for int8 alone; what was trained fits together.
            return mixed(int8, int8 if was_trained(path) else graph, floats)
        return int8

    def mixed(self, variant: str, unfinished: Path | None = None) -> list[str]:
        """Formats in which some layers of ``variant`` are better left in float."""
        if not self.config.quantize.mixed:
            return []
        formats = sorted({d.runtime.format for d in self.devices.values() if d.mixes})
        return [f for f in formats if self._mixed(variant, f, unfinished)["floats"]]

    def _mixed(self, variant: str, format: str, unfinished: Path | None) -> dict[str, Any]:
        chosen: dict[str, Any] = read_json(
            self._kept(mixed_path, variant, format, unfinished=unfinished)
        )
        return chosen

    def quantized(self, variant: str, unfinished: Path | None = None) -> Path:
        """Where the int8-static of ``variant`` lies, and beside it, as JSON, how it was made."""
        return self._kept(quantized_path, variant, unfinished=unfinished)

    def _kept(self, where: Callable[..., Path], *of: str, unfinished: Path | None) -> Path:
        """The first of ``where(folder, *of)`` that exists."""
        finished = [self.root / stage for stage in ("compress", "verify")]
        folders = [unfinished, *finished] if unfinished else finished
        paths = [where(folder, *of) for folder in folders]
        return next((p for p in paths if p.exists()), paths[-1])

    def network(
        self, variant: str, unfinished: Path | None = None
    ) -> tuple[tuple[OpSpec, ...], nn.Module]:
        """Operators and trained network of ``found``, ``pruned`` or a repaired variant.

        ``unfinished``: the folder of a stage at work, looked into first.
        """
        finished = [self.root / stage for stage in ("train", "compress", "verify")]
        for folder in [unfinished, *finished] if unfinished else finished:
            path = folder / f"{variant}.safetensors"
            if path.exists():
                layers = tuple(map(OpSpec.parse, read_json(path.with_suffix(".json"))["ops"]))
                return layers, load_weights(self.space.assemble(layers), path)
        raise UsageError(f"{self.root} holds no network {variant!r}")


def quantized_path(folder: Path, variant: str) -> Path:
    """Where the int8-static of ``variant`` is kept."""
    return folder / f"{variant}.int8-static.safetensors"


def mixed_path(folder: Path, variant: str, format: str) -> Path:
    """Where it is kept which layers of ``variant`` stay in float in a mixed file."""
    return folder / f"{variant}.mixed.{format}.json"


def was_trained(path: Path) -> bool:
    """Whether the int8-static at ``path`` has weights of its own."""
    trained: Mapping[str, Any] = read_json(path.with_suffix(".json")).get("trained", {})
    return bool(trained.get("kept"))


def save_weights(net: nn.Module, path: Path) -> None:
    """As safetensors, whole or not at all."""
    tensors = {  # each its own, as safetensors wants it: a layer may have two names
        k: v.cpu().clone(memory_format=torch.contiguous_format) for k, v in net.state_dict().items()
    }
    with aside(path) as temporary:
        temporary.write_bytes(save(tensors))


def load_weights(net: nn.Module, path: Path) -> nn.Module:
    """Inverse of ``save_weights``, channels last. Raises UsageError or CorruptFile."""
    if not path.exists():
        raise UsageError(f"there is no {path}")
    return filled(net, taken(net, path).tensors, path)
