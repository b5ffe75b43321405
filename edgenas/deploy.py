"""The delivered file of a run on its board, with all that is needed to use it, and a first use.

A run may come from somebody else: nothing that its config names is loaded here.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from PIL import ImageColor
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from edgenas import classify, parsing
from edgenas.artifact import sha256
from edgenas.device import Device
from edgenas.errors import CapabilityError, CorruptFile, DeviceError, UsageError
from edgenas.export import exporter_for
from edgenas.files import inside
from edgenas.samples import IMAGES, kept
from edgenas.scratch import scratch_folder

T = TypeVar("T")

FORMATS = ("onnx", "tflite")  # that classify.py runs
Side = Annotated[int, Field(gt=0, le=1 << 16)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class _Delivered:
    file: str


@dataclass(frozen=True)
class _Network:
    verdict: str


@dataclass(frozen=True)
class _Gate:
    met: bool


@dataclass(frozen=True)
class _Verdict:
    """What of verdict.json decides."""

    met: bool
    gates: tuple[_Gate, ...]
    delivered: dict[str, _Delivered] = field(default_factory=dict)
    networks: dict[str, _Network] = field(default_factory=dict)


@dataclass(frozen=True)
class _Manifest:
    outputs: dict[str, str]


def _colour(name: str) -> str:
    ImageColor.getrgb(name)
    return name


@dataclass(frozen=True)
class _Told:
    """What a file says of its images and classes."""

    classes: tuple[str, ...]
    mean: tuple[Finite, ...]
    std: tuple[Deviation, ...]
    input: tuple[Side, Side, Side]
    fit: Literal["crop", "pad", "stretch"] = "crop"  # these two older files do not say
    background: Annotated[str, AfterValidator(_colour)] = "white"


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
    with scratch_folder() as here:
        description = here / "model.json"
        description.write_text(
            json.dumps({"model": model.name, **asdict(told)}, indent=1) + "\n", encoding="utf-8"
        )
        files = {
            model.name: model,
            "model.json": description,
            "classify.py": Path(classify.__file__),
        }
        for path in images:
            _check(path, told)
        shown = [(path, None) for path in images] or _samples(run, told, samples, here)
        folder = device.transport.place(files, folder)
        answers = _asked(device, folder, [path for path, _ in shown])
    return Deployed(
        folder, tuple(files), verdict.met and all(gate.met for gate in verdict.gates),
        tuple(
            Answer(path.name if truth else str(path), best, truth)
            for (path, truth), best in zip(shown, answers, strict=True)
        ),
    )  # fmt: skip


def _delivered(run: Path, device: Device) -> tuple[_Verdict, Path]:
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
    verdict = _read(_Verdict, run, "verdict.json")
    if verdict.networks:
        inner = ", ".join(str(inside(run, n.verdict, run / "verdict.json").parent)
                          for n in verdict.networks.values())  # fmt: skip
        raise UsageError(f"{run} holds several networks; deploy one of them: {inner}")
    if fmt not in verdict.delivered:
        raise CapabilityError(
            f"{device.name} runs {fmt}, and {run} delivers "
            f"{', '.join(verdict.delivered) or 'nothing'}; add a device of that format to its "
            "targets"
        )
    return verdict, _judged(run, fmt, verdict.delivered[fmt].file)


def _judged(run: Path, fmt: str, name: str) -> Path:
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,99}}\.{fmt}", name):
        raise CorruptFile(
            f"{run}: verdict.json or manifest.json is damaged (verdict.json: {name[:80]!r} is no "
            f"name of a delivered .{fmt}); move them away and make them again: edgenas run {run}"
        )
    model = inside(run, name, run / "verdict.json")
    judged = _read(_Manifest, run, "manifest.json").outputs.get(name)
    if not model.is_file() or sha256(model) != judged:
        raise CorruptFile(
            f"{model} is not the file that was judged; move it away and make it again: "
            f"edgenas run {run}"
        )
    return model


def _read(cls: type[T], run: Path, name: str) -> T:
    """A file of ``run``; keys that nobody asks for are left out."""
    try:
        return cast(T, _strictly(cls, parsing.text(run / name)))
    except (OSError, ValueError) as e:
        raise CorruptFile(
            f"{run}: verdict.json or manifest.json is damaged ({name}: {_why(e)}); move "
            f"them away and make them again: edgenas run {run}"
        ) from e


def _strictly(kind: Any, text: str) -> Any:
    """What a JSON text says as ``kind``; text is no number and no truth. Raises ValueError."""
    value = parsing.json_value(text)
    return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)


def _why(e: Exception) -> str:
    said, key = str(e), ""
    if isinstance(e, OSError):
        said = e.strerror or said
    elif isinstance(e, ValidationError):
        first = e.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part)[:40] for part in first["loc"])
        said = first["msg"]
    return " ".join(f"{key}: {said[:200]}".removeprefix(": ").split())


def _check(path: Path, told: _Told) -> None:
    """Raise UsageError for an image that the classifier there would refuse."""
    try:
        classify.pixels(str(path), *told.input, told.fit, told.background)
    except ValueError as e:
        raise UsageError(f"--image: {path} cannot be read as an image: {e}") from e


def _told(model: Path, device: Device) -> _Told:
    """What the file says of its images and classes."""
    metadata = exporter_for(device.runtime.format).inspect(model).metadata
    try:
        asked = [f for f in fields(_Told) if f.name in metadata or f.default is MISSING]
        told = _Told(**{f.name: _strictly(f.type, metadata[f.name]) for f in asked})
        if not len(told.mean) == len(told.std) == told.input[0]:
            raise ValueError(f"{len(told.mean)} means for {told.input[0]} channels")
    except (KeyError, ValueError) as e:
        reason = f"no {e}" if isinstance(e, KeyError) else _why(e)
        raise CorruptFile(
            f"{model}: its metadata do not say how images are given to it: {reason}"
        ) from e
    return told


def _samples(run: Path, told: _Told, count: int, folder: Path) -> list[tuple[Path, str | None]]:
    """Images of the test part that ``run`` kept as files, each with its class."""
    held = kept(run / "verify", len(told.classes))
    if held is None:
        raise UsageError(
            f"{run} kept no images of its test part: name some with --image, or let it judge "
            f"again: edgenas run {run}"
        )
    images, labels = held
    channels, height, width = told.input
    if images.shape[1:] != (height, width, channels):
        raise CorruptFile(
            f"{run / 'verify' / IMAGES} holds images of shape {images.shape[1:]}, and the network "
            f"takes {(height, width, channels)}; name some with --image"
        )
    found: list[tuple[Path, str | None]] = []
    for number, (image, label) in enumerate(zip(images[:count], labels, strict=False)):
        path = folder / f"test-{number}.npy"
        np.save(path, image)
        found.append((path, told.classes[label]))
    return found


@dataclass(frozen=True)
class _Likely:
    share: float
    label: Annotated[str, Field(alias="class")]


@dataclass(frozen=True)
class _Said:
    best: tuple[_Likely, ...]


def _asked(
    device: Device, folder: str, images: Sequence[Path]
) -> list[tuple[tuple[str, float], ...]]:
    """What classify.py says there."""
    transport = device.transport
    there = transport.push(images)
    lines = transport.lines([transport.python, f"{folder}/classify.py", *there])
    answers = []
    for line in lines:
        try:
            said = TypeAdapter(_Said).validate_json(line, strict=True)
        except ValidationError:
            raise DeviceError(
                f"{device.name}: {folder}/classify.py said {line.strip()[:80]!r}: no answer"
            ) from None
        answers.append(tuple((b.label, b.share) for b in said.best))
    if len(answers) != len(images):
        raise DeviceError(f"{device.name}: {len(answers)} answers for {len(images)} images")
    return answers
