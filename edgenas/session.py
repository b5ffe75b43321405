"""What is asked of a device: who are you, time these, run this. One job, one process there."""

import contextlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgenas import answers
from edgenas.answers import Event
from edgenas.artifact import Artifact
from edgenas.device import Device
from edgenas.errors import CapabilityError, DeviceError, UsageError
from edgenas.scratch import scratch_folder

Fingerprint = Mapping[str, str | int]


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
        with _answering(device):
            if event.get("event") != "end":
                continue
            return answers.fingerprint(event), answers.field(event, "facts", dict)
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
    awaited = Counter(visits)
    with _answering(device), contextlib.closing(_events(device, job)) as events:
        for event in events:
            match event:
                case {"ns": _}:
                    visit = _visit(event)
                    if awaited[visit.round, visit.id] < 1:
                        raise answers.odd(event, "nothing was asked for")
                    awaited[visit.round, visit.id] -= 1
                    yield visit
                case {"status": _}:
                    refusal = _refusal(event, models)
                    awaited = Counter({v: n for v, n in awaited.items() if v[1] != refusal.id})
                    yield refusal
                case {"event": "placed"}:
                    id, nodes = answers.known(event, models), answers.number(event, "nodes")
                    yield Placement(id, nodes, answers.number(event, "outside"))
                case {"event": "end"}:
                    timed_ns = answers.number(event, "timed_ns")
    if left := +awaited:
        raise DeviceError(
            f"{device.name}: the runner ended and left out {left.total()} of {len(visits)} timings"
        )
    return timed_ns


def count(
    device: Device, models: Mapping[str, Artifact], calls: int
) -> Generator[Counted | Refusal, None, None]:
    """Count the instructions of ``models`` (by id) on an emulated device, the fewest of ``calls``.

    The first should be a small one: it also warms the loop. Raises DeviceError where nothing counts
    them. Closing the generator ends the process.
    """
    job = _job("count", device, models, calls=calls)
    with _answering(device), contextlib.closing(_events(device, job)) as events:
        for event in events:
            match event:
                case {"counts": _}:
                    yield Counted(answers.known(event, models), answers.counts(event))
                case {"status": _}:
                    yield _refusal(event, models)


def _visit(event: Event) -> Visit:
    uj = answers.number(event, "uj") if "uj" in event else None
    ns = answers.numbers(event, "ns")
    return Visit(answers.number(event, "round"), answers.field(event, "id", str), ns, uj)


def _refusal(event: Event, models: Mapping[str, Artifact]) -> Refusal:
    status = answers.field(event, "status", str)
    if status not in ("unsupported", "failed"):
        raise answers.odd(event, "'status' is neither 'unsupported' nor 'failed'")
    return Refusal(
        answers.known(event, models),
        "unsupported" if status == "unsupported" else "failed",
        answers.text(event, "reason"),
    )


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
    with transport.scratch() as there, scratch_folder() as here:
        given, made = here / "inputs.npy", here / "output.npy"
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
        return _outputs(device, made, len(inputs))


def _outputs(device: Device, path: Path, images: int) -> np.ndarray:
    """Logits (images, classes) as the runner wrote them; what its header promises has to be there.

    Raises DeviceError.
    """
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as e:
        raise DeviceError(f"{device.name}: its answers are no array of numbers: {e}") from e
    if not isinstance(mapped, np.ndarray) or mapped.dtype != np.float32 or mapped.ndim < 2:
        raise DeviceError(
            f"{device.name}: its answers are not float32 of (images, classes) but "
            f"{getattr(mapped, 'dtype', 'something else')} of {getattr(mapped, 'shape', '')}"
        )
    if len(mapped) != images:
        raise DeviceError(f"{device.name} answered for {len(mapped)} of {images} images")
    return np.array(mapped)


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
        with _answering(device):
            if event.get("event") != "end":
                continue
            return None if event.get("bytes", 0) is None else answers.number(event, "bytes", None)
    raise AssertionError("unreachable: _events ends with 'end'")


def check(device: Device, artifact: Artifact) -> None:
    """Raise CapabilityError unless the device runs files of this format."""
    if artifact.format != device.runtime.format:
        raise CapabilityError(
            f"{device.name} runs {device.runtime.format}, {artifact.path} is {artifact.format}"
        )


@contextlib.contextmanager
def _answering(device: Device) -> Iterator[None]:
    """An answer that makes no sense is told with the name of the device."""
    try:
        yield
    except answers.Odd as e:
        raise DeviceError(f"{device.name}: {e}") from e


def _events(device: Device, job: Mapping[str, Any]) -> Generator[Event, None, None]:
    """Everything the device says about ``job``, ``end`` last."""
    transport, runtime = device.transport, device.runtime
    whole = {**job, "backend": runtime.name, **runtime.options}
    with scratch_folder() as here:
        path = here / "job.json"
        path.write_bytes(runtime.encode(whole))
        command = runtime.command(transport.python, *transport.push([runtime.payload, path]))
        with contextlib.closing(transport.lines(command)) as lines:
            event: Event = {}
            during = ""
            try:
                for line in lines:
                    event = answers.parsed(line)
                    match event:
                        case {"event": "refused"}:
                            raise DeviceError(answers.text(event, "reason"))
                        case {"event": "loading"}:
                            during = f" (while loading {answers.field(event, 'id', str)!r})"
                        case {"event": "loaded"}:
                            during = ""
                    yield event
            except DeviceError as e:
                raise DeviceError(f"{device.name}{during}: {e}") from e
    if event.get("event") != "end":
        advice = "" if event else f": is {transport.python!r} there a Python that starts?"
        raise DeviceError(f"{device.name}{during}: the runner stopped before its end{advice}")
