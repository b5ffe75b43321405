"""What is asked of a device: who are you, time these, run this. One job, one process there."""

import contextlib
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgenas import parsing
from edgenas.artifact import Artifact
from edgenas.device import Device
from edgenas.errors import CapabilityError, DeviceError, UsageError

Fingerprint = Mapping[str, str | int]
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Visit:
    """One visit of one model: nanoseconds of each timed call, in order.

    ``uj``: microjoules of the whole visit, one untimed call more, where the device counts them.
    """

    round: int
    id: str
    ns: tuple[int, ...]
    uj: int | None = None


@dataclass(frozen=True)
class Refusal:
    """A model that the device cannot run."""

    id: str
    status: Literal["unsupported", "failed"]
    reason: str


@dataclass(frozen=True)
class Placement:
    """Of the ``nodes`` of a model, how many run outside of the delegate or provider asked for."""

    id: str
    nodes: int
    outside: int


@dataclass(frozen=True)
class Counted:
    """How many instructions of each class one call of a model executes."""

    id: str
    instructions: Mapping[str, int]


@dataclass(frozen=True)
class Pace:
    """How a visit goes: ``warm_ms`` once when loaded, then timed calls for ``visit_ms``.

    One untimed call comes before each visit. At least ``min_calls``, at most ``max_calls`` are
    timed.
    """

    visit_ms: float
    warm_ms: float = 0.0
    min_calls: int = 5
    max_calls: int = 2000

    def __post_init__(self) -> None:
        if not 0 < self.min_calls <= self.max_calls or self.visit_ms <= 0 or self.warm_ms < 0:
            raise UsageError(f"times and numbers of calls must be positive: {self}")


def probe(device: Device) -> tuple[Fingerprint, Mapping[str, Any]]:
    """What the device is, for good (fingerprint), and how it stands now (facts)."""
    for event in _events(device, {"verb": "probe"}):
        if event.get("event") == "end":
            return event["fingerprint"], event["facts"]
    raise AssertionError("unreachable: _events ends with 'end'")


def time_models(
    device: Device,
    models: Mapping[str, Artifact],
    visits: Sequence[tuple[int, str]],
    pace: Pace,
) -> Generator[Visit | Refusal | Placement, None, int]:
    """Time ``models`` (by id) in one process there, in the order of ``visits`` (round, id).

    All are loaded before the first visit. Returns the nanoseconds spent inside timed calls.
    Closing the generator ends the process.
    """
    require_clock(device)
    job = _job("time", device, models, visits=visits, **asdict(pace))
    timed_ns = 0
    with contextlib.closing(_events(device, job)) as events:
        for event in events:
            match event:
                case {"id": str(id), "round": int(number), "ns": list(ns)}:
                    yield Visit(number, id, tuple(ns), event.get("uj"))
                case {"id": str(id), "status": "unsupported" | "failed" as status}:
                    yield Refusal(id, status, event["reason"])
                case {"event": "placed", "id": str(id)}:
                    yield Placement(id, event["nodes"], event["outside"])
                case {"event": "end"}:
                    timed_ns = event["timed_ns"]
    return timed_ns


def count(
    device: Device, models: Mapping[str, Artifact], calls: int
) -> Generator[Counted | Refusal, None, None]:
    """Count the instructions of ``models`` (by id) on an emulated device, the fewest of ``calls``.

    The first should be a small one: it also warms the loop. Raises DeviceError where nothing counts
    them. Closing the generator ends the process.
    """
    with contextlib.closing(_events(device, _job("count", device, models, calls=calls))) as events:
        for event in events:
            match event:
                case {"id": str(id), "counts": dict(instructions)}:
                    yield Counted(id, instructions)
                case {"id": str(id), "status": "unsupported" | "failed" as status}:
                    yield Refusal(id, status, event["reason"])


def require_clock(device: Device) -> None:
    """Raise CapabilityError where time on ``device`` is not that of a real machine."""
    if device.transport.emulated:
        raise CapabilityError(
            f"{device.name} is emulated, its milliseconds mean nothing. Count instructions: "
            f"edgenas count {device.name}"
        )


def _job(
    verb: str, device: Device, models: Mapping[str, Artifact], **more: Any
) -> Mapping[str, Any]:
    """A job on ``models``, which are brought there."""
    for artifact in models.values():
        check(device, artifact)
    paths = device.transport.push([artifact.path for artifact in models.values()])
    listed = [{"id": id, "path": path} for id, path in zip(models, paths, strict=True)]
    return {"verb": verb, "models": listed, **more}


def predict(device: Device, artifact: Artifact, inputs: np.ndarray, batch: int = 64) -> np.ndarray:
    """Outputs, float32 (n, classes), of normalised NCHW float32 ``inputs`` on the device."""
    check(device, artifact)
    if inputs.ndim != 4 or inputs.shape[1:] != tuple(artifact.input) or not len(inputs):
        raise UsageError(
            f"{artifact.path} takes images of shape {tuple(artifact.input)}, "
            f"not an array of shape {inputs.shape}"
        )
    if artifact.precision == "int8-dynamic":
        batch = 1  # it rounds by the range of a whole call, and is used an image at a time
    transport = device.transport
    with transport.scratch() as there, tempfile.TemporaryDirectory(prefix="edgenas-") as here:
        given, made = Path(here) / "inputs.npy", Path(here) / "output.npy"
        output = f"{there}/output.npy"
        np.save(given, np.ascontiguousarray(inputs, np.float32))
        model, pushed = transport.push([artifact.path, given])
        job = {
            "verb": "predict",
            "model": model,
            "inputs": pushed,
            "output": output,
            "batch": batch,
        }
        for _ in _events(device, job):
            pass
        transport.pull(output, made)
        logits: np.ndarray = np.load(made, allow_pickle=False)
    return logits


def memory_bytes(device: Device, artifact: Artifact, empty: Artifact) -> int | None:
    """What loading ``artifact`` and calling it takes there at most, beside that of ``empty``.

    None where the device cannot tell.
    """
    for file in (artifact, empty):
        check(device, file)
    if device.transport.emulated or not device.runtime.weighs:
        return None
    model, nothing = device.transport.push([artifact.path, empty.path])
    for event in _events(device, {"verb": "memory", "model": model, "empty": nothing}):
        taken: int | None = event["bytes"]
    return taken


def check(device: Device, artifact: Artifact) -> None:
    """Raise CapabilityError unless the device runs files of this format."""
    if artifact.format != device.runtime.format:
        raise CapabilityError(
            f"{device.name} runs {device.runtime.format}, {artifact.path} is {artifact.format}"
        )


def _events(device: Device, job: Mapping[str, Any]) -> Generator[Event, None, None]:
    """Everything the device says about ``job``, ``end`` last."""
    transport, runtime = device.transport, device.runtime
    whole = {**job, "backend": runtime.name, **runtime.options}
    with tempfile.TemporaryDirectory(prefix="edgenas-") as here:
        path = Path(here) / "job.json"
        path.write_bytes(runtime.encode(whole))
        command = runtime.command(transport.python, *transport.push([runtime.payload, path]))
        with contextlib.closing(transport.lines(command)) as lines:
            event: Event = {}
            during = ""
            try:
                for line in lines:
                    event = _parsed(line)
                    match event:
                        case {"event": "refused"}:
                            raise DeviceError(event["reason"])
                        case {"event": "loading"}:
                            during = f" (while loading '{event['id']}')"
                        case {"event": "loaded"}:
                            during = ""
                    yield event
            except DeviceError as e:
                raise DeviceError(f"{device.name}{during}: {e}") from e
    if event.get("event") != "end":
        raise DeviceError(f"{device.name}{during}: the runner stopped before its end")


def _parsed(line: str) -> Event:
    try:
        event = parsing.json_value(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise DeviceError(f"the runner said {line.strip()[:80]!r}, which is not a JSON object")
    return event
