"""Who raced, what decided, and what the options are worth in the eyes of all that was evaluated."""

from dataclasses import dataclass
from typing import Any

from edgenas.report import quantity as q
from edgenas.report.facts import RaceSeat, Rung, Worth
from edgenas.report.record import Record


@dataclass(frozen=True)
class Lap:
    """Accuracy at a rung with its interval; empty where the network had left."""

    accuracy: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Runner:
    """One row: who it is, what it takes on every device, how it did."""

    id: str
    picks: str
    why: str
    times: tuple[str, ...]
    laps: tuple[Lap, ...]
    won: bool


@dataclass(frozen=True)
class Race:
    """The table of the race. ``over``: who was too slow to start."""

    devices: tuple[str, ...]
    epochs: tuple[int, ...]
    runners: tuple[Runner, ...]
    over: tuple[Runner, ...]
    sentence: str


@dataclass(frozen=True)
class Option:
    """What an option would add where it stands; ``clear``: its interval does not hold 0."""

    label: str
    points: str
    between: str
    picked: bool
    clear: bool


@dataclass(frozen=True)
class WorthPlace:
    """One choice with its options; None where it has none such."""

    choice: str
    options: tuple[Option | None, ...]


@dataclass(frozen=True)
class OptionWorth:
    """All choices, with the same options in the same order."""

    labels: tuple[str, ...]
    places: tuple[WorthPlace, ...]
    trials: int


def race(record: Record) -> Race | None:
    """None where none raced."""
    raced = record.raced
    if raced is None or not raced.seats:
        return None
    devices = tuple(raced.seats[0].measured)

    def runner(seat: RaceSeat) -> Runner:
        at = {rung.epochs: rung for rung in seat.rungs}
        return Runner(
            id=seat.id,
            picks=", ".join(f"{k} {v}" for k, v in _picks(seat).items()),
            why=seat.why,
            times=tuple(q.ms(seat.measured[d].p50_ms) for d in devices if d in seat.measured),
            laps=tuple(_lap(at[n]) if n in at else Lap() for n in raced.rungs),
            won=seat.architecture == raced.architecture,
        )

    return Race(
        devices, raced.rungs, tuple(map(runner, raced.seats)),
        tuple(map(runner, raced.over_budget)), _sentence(record),
    )  # fmt: skip


def _picks(seat: RaceSeat) -> dict[str, Any]:
    picks = seat.architecture.get("picks")
    return picks if isinstance(picks, dict) else {}


def _lap(rung: Rung) -> Lap:
    """Nothing right at all is what a training that diverged has."""
    if not rung.accuracy:
        return Lap("diverged")
    return Lap(q.percent(rung.accuracy, 1), q.between(rung.interval))


def _sentence(record: Record) -> str:
    """What decided."""
    raced = record.raced
    assert raced is not None
    best = raced.seats[0]
    if len(raced.seats) == 1 and raced.over_budget:
        return "None but the found network kept its budgets when it was measured."
    if len(raced.seats) == 1 or not best.rungs:
        return "Nothing else was there to race against the found network."
    if best.architecture != raced.architecture:
        return (
            "No budget binds: of those that are no worse than the best by more than chance, the "
            "fastest was taken."
        )
    return (
        f"Of {len(raced.seats)} networks the best after {best.rungs[-1].epochs} epochs was taken."
    )


def option_worth(record: Record) -> OptionWorth | None:
    """None where too little was evaluated."""
    raced = record.raced
    if raced is None or not raced.worth:
        return None
    labels = tuple(dict.fromkeys(label for of in raced.worth.values() for label in of))
    picked = {b.choice: b.label for b in raced.blocks if b.choice is not None}
    labelled = {**raced.labels, **picked}

    def option(choice: str, label: str, worth: Worth) -> Option:
        return Option(
            label=label,
            points=f"{worth.points:+z.2f}",
            between=f"{worth.low:+z.2f} to {worth.high:+z.2f}",
            picked=labelled.get(choice) == label,
            clear=not worth.low <= 0 <= worth.high,
        )

    places = tuple(
        WorthPlace(choice, tuple(option(choice, n, of[n]) if n in of else None for n in labels))
        for choice, of in raced.worth.items()
    )
    searched = [t for t in record.trials if t.metrics.get("accuracy")]
    laps = [r for s in raced.seats for r in s.rungs if r.accuracy]
    return OptionWorth(labels, places, len(searched) + len(laps))
