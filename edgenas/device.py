"""A device = how to reach it (Transport) x what runs there (Runtime) + facts (a YAML file)."""

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from edgenas import consent
from edgenas.errors import UnknownName, UsageError
from edgenas.latency import Provenance
from edgenas.registry import Shelf, nearest
from edgenas.validate import construct, read_yaml

# What to do where a command ends so: a shell's codes for what it could not run.
NOT_RUN = {
    126: "It is there and cannot be executed: is it a program for that processor, marked as one "
    "(chmod +x), on a disk that is not mounted noexec?",
    127: "There is no such program, or none on its PATH: install it, or give the whole path of a "
    "Python as `python` of the transport in the device file",
}


class Transport(Protocol):
    """Moves files and runs commands somewhere; knows nothing of models.

    Every failure to reach the board or to run there is a DeviceError that says what to check.
    Where it is ``emulated`` on this machine, results are true and times are not.
    """

    emulated: ClassVar[bool]

    @property
    def python(self) -> str:
        """The Python interpreter there."""
        ...

    def push(self, files: Sequence[Path]) -> list[str]:
        """Bring files there; their paths there. What is there already is not sent again."""
        ...

    def pull(self, remote: str, local: Path) -> None:
        """Bring a file from there."""
        ...

    def place(self, files: Mapping[str, Path], folder: str) -> str:
        """Bring files to stay in ``folder`` there, named by their keys; where that is, absolute."""
        ...

    def scratch(self) -> AbstractContextManager[str]:
        """A folder there for what a run writes, removed at the end."""
        ...

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        """Run a command there; its standard output, a line as soon as it is printed.

        Closing the generator ends the command.
        """
        ...


class Runtime(Protocol):
    """Says how an artifact is run and timed; knows nothing of where.

    ``precisions``: what it runs; ``further``: what it runs besides, where that is asked for.
    ``weighs``: whether its payload tells how much memory a model takes.
    """

    format: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    further: ClassVar[tuple[str, ...]]
    provenance: ClassVar[Provenance]

    @property
    def name(self) -> str:
        """As on the shelf; also names the back end to the runner."""
        ...

    @property
    def weighs(self) -> bool: ...

    @property
    def options(self) -> Mapping[str, Any]:
        """What a job must say, e.g. threads; part of the fingerprint."""
        ...

    @property
    def payload(self) -> Path:
        """The self-contained runner that is pushed to the board."""
        ...

    def encode(self, job: Mapping[str, Any]) -> bytes:
        """``job`` (edgenas/runner.py) as a file that the payload reads."""
        ...

    def command(self, python: str, payload: str, job: str) -> Sequence[str]:
        """The command that runs the file ``job`` there and prints JSON lines."""
        ...


TRANSPORTS = Shelf("edgenas.transports", Transport)
RUNTIMES = Shelf("edgenas.runtimes", Runtime)


@dataclass(frozen=True)
class Device:
    """One board. New boards are data, not code.

    ``precisions``: what it is asked to run; what its runtime does by itself, where nothing is said.
    ``runs``: all that it may be asked for.
    """

    name: str
    transport: Transport
    runtime: Runtime
    precisions: tuple[str, ...] = ()
    runs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        can = (*self.runtime.precisions, *self.runtime.further)
        if unable := set(self.precisions) - set(can):
            raise UsageError(
                f"{self.name}: runtime {self.runtime.name} runs {', '.join(can)}, not "
                f"{', '.join(sorted(unable))}"
            )
        object.__setattr__(self, "runs", self.precisions or can)
        object.__setattr__(self, "precisions", self.precisions or self.runtime.precisions)

    @property
    def starts_here(self) -> tuple[str, ...]:
        """Programs of this machine that its file names, as the user would know them."""
        return tuple(getattr(self.transport, "starts_here", ()))

    @property
    def mixes(self) -> bool:
        """Whether it may be given files of which a part is int8-static, and the rest fp32."""
        return {"fp32", "int8-static"} <= {*self.runs}


@dataclass(frozen=True)
class _File:
    transport: dict[str, Any]
    runtime: dict[str, Any]
    precisions: tuple[str, ...] = ()
    description: str = ""


def device_folders() -> list[Path]:
    """Where device files are looked for: ./devices, then those that come with edgenas."""
    package = Path(__file__).parent
    return [Path("devices"), package / "_data" / "devices", package.parent / "devices"]


def device_files() -> dict[str, Path]:
    """Every known device: name -> file; nearer folders win."""
    found: dict[str, Path] = {}
    for folder in device_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def shipped(path: Path) -> bool:
    """Whether the device file ``path`` came with edgenas."""
    return path.resolve().parent in {folder.resolve() for folder in device_folders()[1:]}


def shadows(path: Path) -> bool:
    """Whether ``path`` stands in the place of a device that comes with edgenas."""
    ours = (folder / path.name for folder in device_folders()[1:])
    return not shipped(path) and any(file.exists() for file in ours)


@cache
def _told_of(path: Path, place: Path) -> None:
    """Once of each ``place``."""
    sys.stderr.write(
        f"edgenas: {path} is used as {path.stem}, not the device of that name that comes with "
        "edgenas\n"
    )


def load_device(name: str) -> Device:
    """The device called ``name``, or of the file ``name``.

    Where a file that is not ours starts programs on this machine, its user has to allow that
    (``edgenas/consent.py``). Raises UsageError.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else device_files().get(name)
    if path is None:
        raise UnknownName(
            f"no device {name!r}.{nearest(name, list(device_files()))}. "
            f"A new board is a file devices/{Path(name).name}.yaml, e.g. transport: {{kind: ssh, "
            "host: pi.local}, runtime: {kind: onnxruntime}"
        )
    device = read_device(path)
    if name == path.stem and shadows(path):
        _told_of(path, path.resolve())
    if not shipped(path):
        consent.require(path, device.starts_here)
    return device


def read_device(path: Path) -> Device:
    """The device of the file ``path``; nothing is asked or started. Raises UsageError."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no regular file")  # a pipe would be waited for
    facts = construct(_File, read_yaml(path), str(path))
    return Device(
        path.stem,
        _part(TRANSPORTS, facts.transport, f"{path}: transport"),
        _part(RUNTIMES, facts.runtime, f"{path}: runtime"),
        facts.precisions,
    )


def _part(shelf: Shelf, facts: Mapping[str, Any], where: str) -> Any:
    fields = dict(facts)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str):
        wrong = "is missing" if kind is None else f"cannot be {kind!r:.80}"
        raise UsageError(f"{where}: kind {wrong}. Known: {', '.join(shelf)}")
    try:
        return construct(shelf[kind], fields, where)
    except UsageError as e:  # a value that makes no sense says which, not of what file
        raise e if str(e).startswith(where) else type(e)(f"{where}: {e}") from None
