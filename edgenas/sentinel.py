"""A fixed operator timed beside everything else: it shows when the machine, not a model, is slow.

Its floor is remembered for each device fingerprint and precision in the user's cache folder
($EDGENAS_CACHE overrides), so that a run which is slow throughout shows too.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenas.errors import CorruptFile, UsageError
from edgenas.files import cache_folder, read_json, write_json
from edgenas.latency import Grade
from edgenas.session import Fingerprint
from edgenas.spec import OpSpec

SENTINEL = OpSpec.of("mbconv", 24, 24, 14, e=3, k=3, s=1)
CLOSE, FAR = 0.05, 0.10  # deviation from the known floor: stable below, unstable above
CLEAN = 0.10  # share of visits that must reach the floor for it to count as one
OF_SEVERAL = 0.25  # threads: now and then they meet without a wait, as in no whole network
CALM = 0.05  # p50 over floor, less 1, of a machine with nothing else to do


@dataclass(frozen=True)
class Health:
    """How the sentinel fared in one run.

    ``drift``: its floor over the best one known, less 1. ``clean``: share of its visits within
    5 % of that floor. ``spread``: p50 over floor, less 1, of the median model of the run.
    """

    floor_ms: float
    drift: float
    clean: float
    spread: float

    @property
    def grade(self) -> Grade:
        """``unstable``: slow throughout. ``noisy``: nearly so, or much else was running."""
        calm = self.clean >= CLEAN and self.spread <= CALM
        return worst(graded(self.drift), "stable" if calm else "noisy")


def graded(drift: float) -> Grade:
    """Grade of a run whose sentinel's floor is ``drift`` (a fraction) above the best one known."""
    return "stable" if drift <= CLOSE else "noisy" if drift <= FAR else "unstable"


def quantile(fingerprint: Fingerprint) -> float:
    """Which of a model's calls on such a device is its floor: the fastest, of one thread."""
    return 0.0 if fingerprint.get("threads", 1) == 1 else OF_SEVERAL


def floor(values: Sequence[float] | np.ndarray, quantile: float) -> float:
    """The ``quantile`` of ``values``, one of them."""
    return float(np.quantile(values, quantile, method="lower"))


def assessed(
    visit_floors_ms: Sequence[float],
    known_ms: float | None,
    spread: float = 0.0,
    quantile: float = 0.0,
) -> Health:
    """Health of a run from the floor of each visit and the floor of earlier runs, if any."""
    reached = floor(visit_floors_ms, quantile)
    best = reached if known_ms is None else min(reached, known_ms)
    near = sum(v <= reached * (1 + CLOSE) for v in visit_floors_ms)
    return Health(reached, reached / best - 1, near / len(visit_floors_ms), spread)


def worst(*grades: Grade) -> Grade:
    """The least trustworthy of ``grades``."""
    order: tuple[Grade, ...] = ("stable", "noisy", "unstable")
    return max(grades, key=order.index)


def floor_path(fingerprint: Fingerprint, precision: str) -> Path:
    """Where the sentinel's floor on this device is remembered."""
    known = dict(fingerprint)
    if known.get("usable_cores") == known.get("cores"):  # as before fingerprints held it
        known.pop("usable_cores", None)
    what = [known, precision, str(SENTINEL), quantile(fingerprint)]
    key = json.dumps(what, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_folder() / "sentinel" / f"{digest}.json"


def known_floor_ms(fingerprint: Fingerprint, precision: str) -> float | None:
    """The best floor so far; None on a device never measured, or where the file is unreadable."""
    try:
        data = read_json(floor_path(fingerprint, precision))
    except (UsageError, CorruptFile):
        return None
    known = data.get("floor_ms") if isinstance(data, dict) else None
    return float(known) if isinstance(known, int | float) and known > 0 else None


def remember(fingerprint: Fingerprint, precision: str, floor_ms: float) -> None:
    """Keep ``floor_ms`` if it is the best so far."""
    known = known_floor_ms(fingerprint, precision)
    if known is None or floor_ms < known:
        facts = {"op": str(SENTINEL), "precision": precision, "fingerprint": dict(fingerprint)}
        write_json(floor_path(fingerprint, precision), {"floor_ms": floor_ms, **facts})
