"""Shuffled rounds of short visits to many small models; resumable, watched by a sentinel."""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgenas import sentinel, specimen
from edgenas.artifact import Artifact
from edgenas.device import Device
from edgenas.errors import CapabilityError, DeviceError, UsageError
from edgenas.export import Exporter, exporter_for
from edgenas.journal import Journal, Record
from edgenas.latency import Missing, Provenance, Row, Timing
from edgenas.sentinel import Health
from edgenas.session import Fingerprint, Pace, Refusal, time_models
from edgenas.space import Space
from edgenas.spec import Architecture, OpSpec

Progress = Callable[[str, int, int], None]
Subject = OpSpec | Architecture

SCHEMA = 1  # of the journal


@dataclass(frozen=True)
class Effort:
    """How long to measure: ``rounds`` over all models, ``visit_ms`` of timed calls in each.

    While the sentinel finds the run not stable, ``more_rounds`` are added, ``extensions`` times.
    """

    rounds: int = 20
    visit_ms: float = 4.0
    more_rounds: int = 10
    extensions: int = 2
    sentinel_visits: int = 4

    def __post_init__(self) -> None:
        if min(self.rounds, self.more_rounds, self.sentinel_visits) < 1 or self.extensions < 0:
            raise UsageError(f"numbers of rounds and visits must be positive: {self}")

    @property
    def pace(self) -> Pace:
        """One visit."""
        return Pace(self.visit_ms)


@dataclass(frozen=True)
class Campaign:
    """What is to be timed where: ``subjects`` by id, operators or whole networks of ``space``."""

    device: Device
    space: Space
    precision: str
    fingerprint: Fingerprint
    subjects: Mapping[str, Subject]
    effort: Effort
    seed: int

    @property
    def _sentinels(self) -> dict[str, Subject]:
        """As many copies as it has visits in a round."""
        visits = range(1, self.effort.sentinel_visits + 1)
        return {f"sentinel {i}": sentinel.SENTINEL for i in visits}

    def describe(self) -> Record:
        """First line of the journal: two campaigns with the same one may share their samples."""
        return {
            "schema": SCHEMA,
            "device": self.device.name,
            "fingerprint": dict(self.fingerprint),
            "precision": self.precision,
            "space": self.space.id,
            "visit_ms": self.effort.visit_ms,
            "sentinel_visits": self.effort.sentinel_visits,
            "seed": self.seed,
            "subjects": {
                id: s.id if isinstance(s, Architecture) else str(s)
                for id, s in self.subjects.items()
            },
        }

    def measure(self, journal: Journal, work: Path, progress: Progress) -> Health:
        """Make every visit that ``journal`` lacks; more rounds while the run is not stable.

        ``work``: a folder for the models. Raises DeviceError; what was measured is kept.
        """
        known = sentinel.known_floor_ms(self.fingerprint, self.precision)
        rounds = max(self.effort.rounds, 1 + max(_rounds(journal.records), default=0))
        artifacts: dict[str, Artifact] = {}
        for _ in range(self.effort.extensions + 1):
            if todo := self._todo(journal.records, rounds):
                self._write(todo, artifacts, journal, work, progress)
                self._visit(todo, artifacts, journal, progress)
            health = self._health(journal.records, known)
            if health.grade == "stable":
                break
            rounds += self.effort.more_rounds
        return health

    def _todo(self, records: Sequence[Record], rounds: int) -> list[tuple[int, str]]:
        done = {(r["round"], r["id"]) for r in records if "ns" in r}
        refused = {r["id"] for r in records if "status" in r}
        ids = [id for id in {**self._sentinels, **self.subjects} if id not in refused]
        todo = []
        for number in range(rounds):
            random.Random(f"{self.seed} {number}").shuffle(ids)
            todo += [(number, id) for id in ids if (number, id) not in done]
        return todo

    def _write(
        self,
        todo: Sequence[tuple[int, str]],
        artifacts: dict[str, Artifact],
        journal: Journal,
        work: Path,
        progress: Progress,
    ) -> None:
        """Add to ``artifacts`` a model for each id of ``todo``; one that cannot be is a refusal."""
        subjects = {**self._sentinels, **self.subjects}
        ids = sorted({id for _, id in todo} - artifacts.keys())
        work.mkdir(parents=True, exist_ok=True)
        exporter = exporter_for(self.device.runtime.format)
        for done, id in enumerate(ids):
            progress("writing models", done, len(ids))
            path = work / f"{len(artifacts)}.{self.device.runtime.format}"
            try:
                artifacts[id] = self._artifact(exporter, subjects[id], path)
            except CapabilityError as e:
                _refuse(journal, Refusal(id, "unsupported", str(e)))
        progress("writing models", len(ids), len(ids))

    def _artifact(self, exporter: Exporter, subject: Subject, path: Path) -> Artifact:
        if isinstance(subject, Architecture):
            return specimen.network(exporter, self.space, subject, self.precision, path)
        return specimen.operator(exporter, subject, self.precision, path)

    def _visit(
        self,
        todo: Sequence[tuple[int, str]],
        artifacts: Mapping[str, Artifact],
        journal: Journal,
        progress: Progress,
    ) -> None:
        visits = [v for v in todo if v[1] in artifacts]
        models = {id: artifacts[id] for id in sorted({id for _, id in visits})}
        number = visits[0][0] if visits else 0
        events = time_models(self.device, models, visits, self.effort.pace)
        with contextlib.closing(events):
            for done, event in enumerate(events):
                progress("timing", min(done, len(visits)), len(visits))
                if isinstance(event, Refusal):
                    _refuse(journal, event)
                    continue
                if event.round != number:
                    journal.sync()
                number = event.round
                journal.append({"round": event.round, "id": event.id, "ns": event.ns})
        progress("timing", len(visits), len(visits))

    def _health(self, records: Sequence[Record], known_ms: float | None) -> Health:
        results = collected(records)
        for id in self._sentinels:
            if isinstance(row := results.get(id), Missing):
                raise DeviceError(f"{self.device.name} cannot run the sentinel: {row.reason}")
        floors = [min(r["ns"]) / 1e6 for r in records if "ns" in r and r["id"] in self._sentinels]
        over = [r.p50_ms / r.floor_ms for r in results.values() if isinstance(r, Timing)]
        return sentinel.assessed(floors, known_ms, float(np.median(over)) - 1)


def collected(records: Sequence[Record], provenance: Provenance = "measured") -> dict[str, Row]:
    """Id -> timing over all its visits, or why it has none."""
    samples: dict[str, list[int]] = {}
    rows: dict[str, Row] = {}
    for record in records:
        if "ns" in record:
            samples.setdefault(record["id"], []).extend(record["ns"])
        elif "status" in record:
            rows[record["id"]] = Missing(record["status"], record["reason"])
    for id in samples.keys() - rows.keys():
        ms = np.array(samples[id]) / 1e6
        p50, p90 = np.percentile(ms, (50, 90))
        rows[id] = Timing(float(ms.min()), float(p50), float(p90), len(ms), provenance)
    return rows


def _rounds(records: Sequence[Record]) -> Iterator[int]:
    return (r["round"] for r in records if "ns" in r)


def _refuse(journal: Journal, refusal: Refusal) -> None:
    journal.append(asdict(refusal))
