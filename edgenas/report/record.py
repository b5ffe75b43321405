"""Reading a run directory; a file that is damaged is refused with its name and place."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from edgenas import parsing
from edgenas.artifact import sha256
from edgenas.errors import CorruptFile, UsageError
from edgenas.files import inside, read_json
from edgenas.latency import LatencyTable
from edgenas.report.facts import (
    Candidate,
    Compressed,
    Epoch,
    Found,
    Gate,
    Profile,
    Raced,
    Repair,
    TableFacts,
    Trained,
    Trial,
    Verdict,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """All of a run directory that the report shows."""

    folder: Path
    config: str
    profile: Profile
    manifest: Mapping[str, Any] = field(default_factory=dict)
    found: Found | None = None  # what the search found, or who won against it
    raced: Raced | None = None
    trained: Trained | None = None
    compressed: Compressed | None = None
    verdict: Verdict | None = None
    trials: tuple[Trial, ...] = ()
    epochs: Mapping[str, tuple[Epoch, ...]] = field(default_factory=dict)  # phase -> in order
    repairs: tuple[Repair, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Raises UsageError (not a run directory) or CorruptFile (a file of it is damaged)."""
        for name in ("config.yaml", "profile/profile.json"):
            if not (folder / name).is_file():
                raise UsageError(
                    f"{folder} is not a run directory that can be reported: there is no {name}. "
                    "Start or resume the run: edgenas run <config.yaml>"
                )
        events = list(_events(folder / "ledger.jsonl"))
        found = _optional(Found, folder / "search/search.json")
        raced = _raced(folder, found)
        return cls(
            folder=folder,
            config=(folder / "config.yaml").read_text(encoding="utf-8", errors="replace"),
            profile=_parsed(Profile, folder / "profile/profile.json"),
            manifest=_optional(dict[str, Any], folder / "manifest.json") or {},
            found=raced or found,
            raced=raced,
            trained=_optional(Trained, folder / "train/train.json"),
            compressed=_optional(Compressed, folder / "compress/compress.json"),
            verdict=_verdict(folder),
            trials=_trials(events),
            epochs=_epochs(events),
            repairs=_repairs(events),
        )

    @property
    def networks(self) -> Mapping[str, Path]:
        """Of a front: the run directory of each network."""
        found = self.verdict.networks if self.verdict else {}
        where = self.folder / "verdict.json"
        return {
            name: inside(self.folder, network.verdict, where).parent
            for name, network in found.items()
        }

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.folder.resolve().name

    def images(self, part: str) -> int | None:
        """How many there are in ``part`` of the task, where the run says so."""
        task = (
            self.verdict.task if self.verdict else (self.manifest.get("inputs") or {}).get("task")
        )
        match task:
            case {"parts": Mapping() as parts}:
                match parts.get(part):
                    case {"images": int(number)}:
                        return number
        return None

    def missed(self, format: str) -> tuple[Gate, ...]:
        """The gates that the file of ``format`` does not meet."""
        gates = self.verdict.gates if self.verdict else ()
        return tuple(g for g in gates if not g.met and g.concerns(format))

    @property
    def how(self) -> str:
        """What its latencies are: ``measured``, ``estimated`` ...; of several devices, all."""
        files = self.verdict.candidates if self.verdict else ()
        said = {c.latency.provenance for c in files if c.latency}
        return " or ".join(sorted(said)) or "measured"

    def table_facts(self, device: str, precision: str) -> TableFacts | None:
        """Facts of the table of ``device`` for ``precision``."""
        return next(
            (t for t in self.profile.tables if (t.device, t.precision) == (device, precision)), None
        )

    def table(self, device: str, precision: str) -> LatencyTable | None:
        """The table itself, where the run directory still holds it; with pruned blocks if any."""
        facts = self.table_facts(device, precision)
        if facts is None:
            return None
        paths = [self.folder / s / Path(facts.file).name for s in ("compress", "profile")]
        return next((LatencyTable.load(p) for p in paths if p.is_file()), None)


_Event = tuple[str, Mapping[str, Any]]  # where it stands, what it says


def _events(path: Path) -> Iterator[_Event]:
    """The whole lines of a ledger: what a killed run left half-written is dropped."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = parsing.json_value(line)
        except ValueError as e:
            if number == len(lines):
                return
            raise CorruptFile(f"{path}, line {number}: not JSON: {e}; take the line out") from e
        if not isinstance(event, dict):
            raise CorruptFile(
                f"{path}, line {number}: expected an object, found {line[:40]!r}; take the line out"
            )
        yield f"{path}, line {number}", event


def _raced(folder: Path, found: Found | None) -> Raced | None:
    """The race after the search that is there; None where none was, or after another search."""
    path, won = folder / "race/race.json", folder / "race/architecture.json"
    if path.is_file():
        raced = _parsed(Raced, path)
        search = folder / "search/search.json"
        return raced if search.is_file() and raced.search == sha256(search) else None
    if found is not None and won.is_file() and read_json(won) != found.architecture:
        raise CorruptFile(
            f"{folder} holds who won a race, and not the race: there is no {path}. Start the run "
            f"again, and it is made anew: edgenas run {folder}"
        )
    return None


def _verdict(folder: Path) -> Verdict | None:
    """With what was read of its files, which is kept beside it."""
    verdict = _optional(Verdict, folder / "verdict.json")
    if verdict is None:
        return None
    read = {
        event["file"]: event.get("memory_bytes")
        for _, event in _events(folder / "ledger.readings.jsonl")
        if event.get("event") == "memory" and isinstance(event.get("file"), str)
    }
    told = (
        c
        if c.memory_bytes is not None
        else _checked(Candidate, asdict(c) | {"memory_bytes": read.get(c.file)}, c.file)
        for c in verdict.candidates
    )
    return replace(verdict, candidates=tuple(told))


def _epochs(events: list[_Event]) -> Mapping[str, tuple[Epoch, ...]]:
    found: dict[str, dict[int, Epoch]] = {}
    for where, event in events:
        if event.get("event") == "epoch":
            epoch = _checked(Epoch, event, where)
            found.setdefault(str(event.get("phase")), {})[epoch.epoch] = epoch
    return {phase: tuple(e for _, e in sorted(es.items())) for phase, es in found.items()}


def _trials(events: list[_Event]) -> tuple[Trial, ...]:
    """Of the search; who raced stands in race.json."""
    found: dict[str, Trial] = {}
    for where, event in events:
        if event.get("event") == "tell" and not (phase := str(event.get("phase"))).startswith(
            "race "
        ):
            match event.get("trial"):
                case {"id": id, "proposal": {"arch": {"picks": dict(picks)}}, "metrics": metrics}:
                    numbers = _checked(dict[str, float | None], metrics, f"{where}: metrics")
                    finite = {
                        k: v for k, v in numbers.items() if v is not None and math.isfinite(v)
                    }
                    found[f"{phase} {id}"] = Trial(str(id), picks, finite)
                case _:
                    raise CorruptFile(f"{where}: a tell without id, proposal and metrics")
    return tuple(found.values())


def _repairs(events: list[_Event]) -> tuple[Repair, ...]:
    found: dict[tuple[int, str], Repair] = {}
    for where, event in events:
        if event.get("phase") == "repair":
            repair = _checked(Repair, event, where)
            found[repair.round, repair.variant] = repair
    return tuple(r for _, r in sorted(found.items()))


def _optional(cls: type[T], path: Path) -> T | None:
    return _parsed(cls, path) if path.is_file() else None


def _parsed(cls: type[T], path: Path) -> T:
    try:
        return _checked(cls, read_json(path), str(path))
    except CorruptFile as e:
        raise CorruptFile(f"{e}; move it away, and edgenas run makes it again") from e


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _checked(cls: type[T], data: Any, where: str) -> T:
    """An instance of ``cls``; keys that it does not know are left out."""
    try:
        return cast(T, _adapter(cast(Any, cls)).validate_python(data))
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        raise CorruptFile(f"{where}: {key + ': ' if key else ''}{first['msg']}") from e
