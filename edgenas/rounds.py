"""Shuffled rounds of short visits to many small models; resumable, watched by a sentinel."""

import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from edgenas.session import Fingerprint, Pace, Placement, Refusal, Visit, time_models
from edgenas.space import Space
from edgenas.spec import Architecture, OpSpec

Progress = Callable[[str, int, int], None]
Subject = OpSpec | Architecture

SCHEMA = 2  # of the journal
FEW = 4  # models are not worth a pass of their own
WIDTH = 2.3  # standard deviations; a floor is the least of its passes and lies about 0.85 low
PRIOR = 2  # passes that the common variance counts for
SETTLED = 0.05  # width of the interval of a network's p50


@dataclass(frozen=True)
class Effort:
    """How long to measure: in each pass, a process of its own, ``rounds`` over all models with
    ``visit_ms`` of timed calls a visit.

    While the sentinel finds the run not stable, passes are added, ``extensions`` times; then at
    most ``settling`` over the networks whose p50 is not settled, as where noise takes about half of
    their visits. Where ``limit_s`` is given, passes over those models whose interval is widest are
    added instead until about so many seconds are over.
    """

    passes: int = 3
    rounds: int = 7
    visit_ms: float = 4.0
    extensions: int = 2
    settling: int = 8
    sentinel_visits: int = 4
    limit_s: float | None = None

    def __post_init__(self) -> None:
        least = min(self.rounds, self.sentinel_visits, self.passes - 1)
        if least < 1 or min(self.extensions, self.settling) < 0:
            raise UsageError(f"numbers of rounds and visits must be positive, passes 2: {self}")

    @property
    def pace(self) -> Pace:
        """One visit."""
        return Pace(self.visit_ms)

    def seconds(self, models: int) -> float:
        """About how long it takes where a few calls of a model fit into one visit."""
        return self.passes + 1.6 * self.visits(models, self.passes) * self.visit_ms / 1000

    def estimate_seconds(self, operators: int, networks: int) -> tuple[float, float]:
        """About how long it takes, and at most: where a device is so noisy that all is added."""
        models = operators + networks
        usual = self.seconds(models)
        if self.limit_s is not None:
            return (max(usual, self.limit_s),) * 2
        whole = replace(self, passes=self.passes + self.extensions).seconds(models)
        settling = 1.6 * self.visits(networks, self.settling) * self.visit_ms / 1000
        return usual, whole + self.settling + settling

    def visits(self, models: int, passes: int) -> int:
        """How many visits so many passes over so many models are."""
        return (models + self.sentinel_visits) * self.rounds * max(passes, 0)


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

    @property
    def _quantile(self) -> float:
        return sentinel.quantile(self.fingerprint)

    def describe(self) -> Record:
        """First line of the journal: two campaigns with the same one may share their samples."""
        return {
            "schema": SCHEMA,
            "device": self.device.name,
            "fingerprint": dict(self.fingerprint),
            "precision": self.precision,
            "space": self.space.id,
            "rounds": self.effort.rounds,
            "visit_ms": self.effort.visit_ms,
            "sentinel_visits": self.effort.sentinel_visits,
            "seed": self.seed,
            "subjects": {
                id: s.id if isinstance(s, Architecture) else str(s)
                for id, s in self.subjects.items()
            },
        }

    def measure(self, journal: Journal, work: Path, progress: Progress) -> Health:
        """Make every visit that ``journal`` lacks; more while the run is not stable or has time.

        ``work``: a folder for the models. Raises DeviceError; what was measured is kept.
        """
        known_ms = sentinel.known_floor_ms(self.fingerprint, self.precision)
        artifacts: dict[str, Artifact] = {}
        start_s = time.monotonic()
        for number in itertools.count():
            ids = self._planned(number, journal, known_ms, start_s)
            if not ids:
                break
            if todo := self._todo(journal.records, number, ids):
                self._write(todo, artifacts, journal, work, progress)
                later = self.effort.visits(len(self.subjects), self.effort.passes - number - 1)
                self._visit(todo, artifacts, journal, progress, later)
        return self._health(journal.records, known_ms)

    def results(self, records: Sequence[Record]) -> dict[str, Row]:
        """Id -> timing over all its visits, or why it has none."""
        return collected(
            records, self.effort.rounds, self.device.runtime.provenance, self._quantile
        )

    def _planned(
        self, number: int, journal: Journal, known_ms: float | None, start_s: float
    ) -> Sequence[str]:
        """Whom pass ``number`` visits: all, those known least, or nobody: it was enough."""
        effort, everyone = self.effort, list(self.subjects)
        if number < effort.passes:
            return everyone
        for record in journal.records:
            if record.get("pass") == number:
                planned: list[str] = record["ids"]
                return planned
        if effort.limit_s is not None:
            visit_s = 1.6 * effort.rounds * effort.visit_ms / 1000
            left_s = effort.limit_s - (time.monotonic() - start_s) - 1.0
            ids = self._widest(journal.records)[: max(int(left_s / visit_s), 0)]
            if len(ids) < min(FEW, len(everyone)):
                return []
        elif (
            number < effort.passes + effort.extensions
            and self._health(journal.records, known_ms).grade != "stable"
        ):
            ids = everyone
        elif number < effort.passes + effort.extensions + effort.settling:
            widths = self._widths(journal.records)
            ids = [
                id
                for id, subject in self.subjects.items()
                if isinstance(subject, Architecture) and widths.get(id, 0.0) > SETTLED
            ]
        else:
            ids = []
        if not ids:
            return []
        journal.append({"pass": number, "ids": ids})
        return ids

    def _widest(self, records: Sequence[Record]) -> list[str]:
        """Ids whose interval is wider than the median one's, the widest first."""
        widths = self._widths(records)
        middle = float(np.median(list(widths.values()))) if widths else 0.0
        return sorted((i for i in widths if widths[i] > middle), key=lambda i: -widths[i])

    def _widths(self, records: Sequence[Record]) -> dict[str, float]:
        """Relative width of the interval of what is used of a row.

        That is the floor of an operator, and the p50 of a network.
        """
        visits: dict[str, list[float]] = {}
        for record in records:
            if "ns" in record and isinstance(self.subjects.get(record["id"]), Architecture):
                visits.setdefault(record["id"], []).append(float(np.median(record["ns"])))
        return {
            id: _median_width(visits[id])
            if id in visits
            else (row.interval_ms[1] - row.interval_ms[0]) / row.floor_ms
            for id, row in self.results(records).items()
            if isinstance(row, Timing) and row.interval_ms and id in self.subjects
        }

    def _todo(
        self, records: Sequence[Record], number: int, subjects: Sequence[str]
    ) -> list[tuple[int, str]]:
        done = {(r["round"], r["id"]) for r in records if "ns" in r}
        refused = {r["id"] for r in records if "status" in r}
        ids = [id for id in [*self._sentinels, *subjects] if id not in refused]
        todo = []
        for turn in range(number * self.effort.rounds, (number + 1) * self.effort.rounds):
            random.Random(f"{self.seed} {turn}").shuffle(ids)
            todo += [(turn, id) for id in ids if (turn, id) not in done]
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
        if not ids:
            return
        work.mkdir(parents=True, exist_ok=True)
        exporter = exporter_for(self.device.runtime.format)
        for done, id in enumerate(ids):
            progress("writing models", done, len(ids))
            path = work / f"{len(artifacts)}.{self.device.runtime.format}"
            try:
                artifacts[id] = self._artifact(exporter, subjects[id], path)
            except CapabilityError as e:
                _note(journal, Refusal(id, "unsupported", str(e)))
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
        later: int,
    ) -> None:
        visits = [v for v in todo if v[1] in artifacts]
        before = sum("ns" in r for r in journal.records)
        total = before + len(visits) + later
        models = {id: artifacts[id] for id in sorted({id for _, id in visits})}
        number = visits[0][0] if visits else 0
        events = time_models(self.device, models, visits, self.effort.pace)
        with contextlib.closing(events):
            done = before
            for event in events:
                if not isinstance(event, Visit):
                    _note(journal, event)
                    continue
                if event.round != number:
                    journal.sync()
                number = event.round
                spent = {} if event.uj is None else {"uj": event.uj}
                journal.append({"round": event.round, "id": event.id, "ns": event.ns, **spent})
                progress("timing", done, total)
                done += 1
        progress("timing", before + len(visits), total)

    def _health(self, records: Sequence[Record], known_ms: float | None) -> Health:
        results = self.results(records)
        for id in self._sentinels:
            if isinstance(row := results.get(id), Missing):
                raise DeviceError(f"{self.device.name} cannot run the sentinel: {row.reason}")
        quantile = self._quantile
        floors = [
            sentinel.floor(r["ns"], quantile) / 1e6
            for r in records
            if "ns" in r and r["id"] in self._sentinels
        ]
        over = [r.p50_ms / r.floor_ms for r in results.values() if isinstance(r, Timing)]
        return sentinel.assessed(floors, known_ms, float(np.median(over)) - 1, quantile)


def collected(
    records: Sequence[Record],
    rounds: int,
    provenance: Provenance = "measured",
    quantile: float = 0.0,
) -> dict[str, Row]:
    """Id -> timing over all its visits, or why it has none; ``rounds`` of them make a pass.

    The floor is the ``quantile`` of all calls.

    The interval comes from how a model's floor varies from pass to pass, each a process of its
    own: partly its own variance, partly that of the median model, since passes are few.
    """
    passes: dict[str, dict[int, list[int]]] = {}
    energy: dict[str, list[tuple[int, int]]] = {}
    rows: dict[str, Row] = {}
    for record in records:
        if "ns" in record:
            of_pass = passes.setdefault(record["id"], {})
            of_pass.setdefault(record["round"] // rounds, []).extend(record["ns"])
            if "uj" in record:
                energy.setdefault(record["id"], []).append((record["uj"], len(record["ns"]) + 1))
        elif "status" in record:
            rows[record["id"]] = Missing(record["status"], record["reason"])
    spread = _Spread.of(
        {id: [sentinel.floor(ns, quantile) for ns in p.values()] for id, p in passes.items()}
    )
    for id, of_pass in passes.items():
        if id in rows:
            continue
        ms = np.concatenate([np.array(ns) for ns in of_pass.values()]) / 1e6
        floor = sentinel.floor(ms, quantile)
        p50, p90, p99 = (float(v) for v in np.percentile(ms, (50, 90, 99)))
        wide = math.exp(WIDTH * spread.deviation(id))
        interval = floor / wide, floor * wide
        uj, calls = (sum(part) for part in zip(*energy.get(id, [(0, 0)]), strict=True))
        energy_mj = uj / calls / 1000 if calls else None
        rows[id] = Timing(floor, p50, p90, len(ms), provenance, p99, interval, energy_mj)
    return rows


@dataclass(frozen=True)
class _Spread:
    """Variance of the logarithm of a model's floor from pass to pass."""

    own: Mapping[str, tuple[int, float]]  # degrees of freedom, variance
    common: float

    @classmethod
    def of(cls, floors: Mapping[str, Sequence[float]]) -> "_Spread":
        own = {
            id: (len(f) - 1, float(np.var(np.log(f), ddof=1)))
            for id, f in floors.items()
            if len(f) > 1
        }
        return cls(own, float(np.median([v for _, v in own.values()])) if own else 0.0)

    def deviation(self, id: str) -> float:
        """Standard deviation; the common variance counts as many passes as the model's own."""
        freedom, variance = self.own.get(id, (0, 0.0))
        return math.sqrt((freedom * variance + PRIOR * self.common) / (freedom + PRIOR))


def outside(records: Sequence[Record]) -> dict[str, int]:
    """Of all nodes of all models, how many the delegate or provider did not take; {} if unknown."""
    placed = {r["id"]: (r["nodes"], r["outside"]) for r in records if "outside" in r}
    nodes, rest = (sum(p[i] for p in placed.values()) for i in (0, 1))
    return {"nodes": nodes, "outside": rest} if placed else {}


def _median_width(values: Sequence[float]) -> float:
    """Relative width of the 95 % interval of the median, from ranks: no shape is assumed."""
    ordered, reach = np.sort(values), 0.98 * math.sqrt(len(values))
    low = max(math.floor(len(values) / 2 - reach), 0)
    high = min(math.ceil(len(values) / 2 + reach), len(values)) - 1
    return float(ordered[high] / ordered[low] - 1)


def _note(journal: Journal, event: Refusal | Placement) -> None:
    journal.append(asdict(event))
