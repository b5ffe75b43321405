"""The delivered file of a run on its board, with all that is needed to use it, and a first use."""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edgenas import classify, parsing
from edgenas.artifact import sha256
from edgenas.config import load_config
from edgenas.device import Device
from edgenas.errors import CapabilityError, CorruptFile, UsageError
from edgenas.export import exporter_for
from edgenas.files import read_json
from edgenas.resize import resized
from edgenas.task import Task, load_task

KEYS = ("classes", "mean", "std", "input")
FORMATS = ("onnx", "tflite")  # that classify.py runs


@dataclass(frozen=True)
class Answer:
    """What the board says of an image. ``best``: classes with their share, the likeliest first.

    ``truth``: its class, where it is an image of the test part.
    """

    image: str
    best: tuple[tuple[str, float], ...]
    truth: str | None = None


@dataclass(frozen=True)
class Deployed:
    """What is there now. ``met``: of the verdict of the run."""

    folder: str
    files: tuple[str, ...]
    met: bool
    answers: tuple[Answer, ...]


def deploy(
    run: Path,
    device: Device,
    folder: str = "edgenas-model",
    samples: int = 8,
    images: Sequence[Path] = (),
) -> Deployed:
    """Put the file that ``run`` delivered for the format of ``device`` into ``folder`` there.

    Beside it model.json and classify.py, which is then run there on ``images``, or on so many
    ``samples`` of the test part. Raises UsageError (no verdict, no such file), CapabilityError,
    CorruptFile, DeviceError.
    """
    if not folder or folder.startswith("-") or any(c in folder for c in "\n\0"):
        raise UsageError(f"--to: {folder!r} does not make a folder")
    verdict, model = _delivered(run, device)
    told = _told(model, device)
    with tempfile.TemporaryDirectory(prefix="edgenas-") as here:
        description = Path(here) / "model.json"
        text = json.dumps({"model": model.name, **told}, indent=1) + "\n"
        description.write_text(text, encoding="utf-8")
        files = {
            model.name: model,
            "model.json": description,
            "classify.py": Path(classify.__file__),
        }
        shown = [(path, None) for path in map(_checked, images)] or _samples(
            run, told["input"], samples, Path(here)
        )
        folder = device.transport.place(files, folder)
        answers = _asked(device, folder, [path for path, _ in shown])
    return Deployed(
        folder, tuple(files), bool(verdict["met"]),
        tuple(
            Answer(path.name if truth else str(path), best, truth)
            for (path, truth), best in zip(shown, answers, strict=True)
        ),
    )  # fmt: skip


def _delivered(run: Path, device: Device) -> tuple[dict[str, Any], Path]:
    """The verdict, and the file that it delivers in the format of ``device``, as it was judged."""
    if not (run / "config.yaml").is_file():
        raise UsageError(f"{run} is not a run directory; a run leaves runs/<name>")
    fmt = device.runtime.format
    if fmt not in FORMATS:
        raise CapabilityError(
            f"{device.name} runs {fmt}, and the small classifier only {' and '.join(FORMATS)}"
        )
    if not (run / "verdict.json").is_file():
        raise UsageError(
            f"{run} has no verdict, and nothing is delivered without one: edgenas run {run}"
        )
    try:
        return _judged(run, device, read_json(run / "verdict.json"))
    except (KeyError, TypeError, AttributeError) as e:
        raise CorruptFile(
            f"{run}: verdict.json or manifest.json is damaged ({e!r}); make them again: edgenas "
            f"run {run}"
        ) from e


def _judged(run: Path, device: Device, verdict: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    fmt = device.runtime.format
    if "networks" in verdict:
        inside = ", ".join(str(run / n["verdict"]).removesuffix("/verdict.json")
                           for n in verdict["networks"].values())  # fmt: skip
        raise UsageError(f"{run} holds several networks; deploy one of them: {inside}")
    if fmt not in verdict["delivered"]:
        raise CapabilityError(
            f"{device.name} runs {fmt}, and {run} delivers {', '.join(verdict['delivered'])}; add "
            "a device of that format to its targets"
        )
    model = run / verdict["delivered"][fmt]["file"]
    judged = read_json(run / "manifest.json")["outputs"].get(model.name)
    if not model.is_file() or sha256(model) != judged:
        raise CorruptFile(
            f"{model} is not the file that was judged; make it again: edgenas run {run}"
        )
    return verdict, model


def _checked(path: Path) -> Path:
    """An image that can be read. Raises UsageError."""
    try:
        if path.suffix.lower() != ".npy":
            with Image.open(path) as image:
                image.load()
    except (OSError, SyntaxError, ValueError) as e:
        raise UsageError(f"--image: {path} cannot be read as an image: {e}") from e
    return path


def _told(model: Path, device: Device) -> dict[str, Any]:
    """What the file says of its images and classes."""
    metadata = exporter_for(device.runtime.format).inspect(model).metadata
    try:
        return {key: parsing.json_value(metadata[key]) for key in KEYS}
    except (KeyError, ValueError) as e:
        raise CorruptFile(
            f"{model}: its metadata do not say how images are given to it: {e!r}"
        ) from e


def _samples(
    run: Path, shape: Sequence[int], count: int, folder: Path
) -> list[tuple[Path, str | None]]:
    """Images of the test part as files, each with its class."""
    config = load_config(run / "config.yaml")
    task: Task = load_task(config.task, config.seed)
    test = task.parts["test"]
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(config.seed)).tolist()
    nth: Counter[int] = Counter()
    ranked = []
    for index in order:  # the first of each class, then the second ...
        ranked.append((nth[label := int(test.y[index])], index))
        nth[label] += 1
    numbers = [index for _, index in sorted(ranked, key=lambda pair: pair[0])[:count]]
    chosen = test[torch.tensor(numbers)]
    x = resized(chosen.x.float(), shape[-1]).round().clamp(0, 255).byte()
    found: list[tuple[Path, str | None]] = []
    for number, image, label in zip(numbers, x, chosen.y.tolist(), strict=True):
        path = folder / f"test-{number}.npy"
        np.save(path, image.permute(1, 2, 0).contiguous().numpy())
        found.append((path, task.classes[label]))
    return found


def _asked(
    device: Device, folder: str, images: Sequence[Path]
) -> list[tuple[tuple[str, float], ...]]:
    """What classify.py says there."""
    transport = device.transport
    there = transport.push(images)
    lines = transport.lines([transport.python, f"{folder}/classify.py", *there])
    said = [json.loads(line) for line in lines if line.strip()]
    return [tuple((b["class"], b["share"]) for b in answer["best"]) for answer in said]
