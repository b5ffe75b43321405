"""Instructions of an emulated device x some operators timed on the real board -> latency table."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import nnls

from edgenas.errors import ForeignTable, UsageError
from edgenas.instructions import Counts, InstructionTable
from edgenas.latency import Fit, Header, LatencyTable, Row, Timing
from edgenas.spec import OpSpec

LEAST = 10  # operators timed on the board
CONFIDENCE = 0.95


def calibrate(
    counts: InstructionTable, measured: LatencyTable, margin: float | None
) -> LatencyTable:
    """The table of the board of ``measured`` for all operators of ``counts``.

    Rows of ``measured`` stay as they are, the others are estimated; so is a table with one of them.

    Milliseconds are a non-negative sum over the classes of instructions, or one price for all of
    them, whichever predicts a measured operator better that was left out. That error is in the
    header (``protocol``), and an estimated row's interval is as wide. Valid for one kernel library
    only: raises ForeignTable where the runtimes differ, UsageError where fewer than ten operators
    are in both. ``margin``: as of an imported table.
    """
    _require_alike(counts, measured)
    kept = {
        op: row
        for op, row in measured.rows.items()
        if op in counts.rows and isinstance(row, Timing)
    }
    known = [op for op in kept if isinstance(counts.rows[op], Counts) and measured.cost_ms(op) > 0]
    if len(known) < LEAST:
        raise UsageError(
            f"{len(known)} operators were both timed on {measured.header.device} and counted on "
            f"{counts.header.device}: time {LEAST} or more there"
        )
    x = np.array([counts.cost(op) for op in known], float)
    y = np.array([measured.cost_ms(op) for op in known])
    errors = {name: _left_out(solve, x, y) for name, solve in SOLVERS.items()}
    best = min(errors, key=lambda name: float(np.mean(errors[name])))
    prices, wide = SOLVERS[best](x, y), _quantile(errors[best])
    empty_ms = measured.header.empty_ms
    rows: dict[OpSpec, Row] = {}
    for op, row in counts.rows.items():
        if isinstance(row, Counts):
            ms = float(np.dot(counts.cost(op), prices))
            low, high = (empty_ms + max(ms * (1 + sign * wide), 0.0) for sign in (-1, 1))
            ms += empty_ms
            rows[op] = Timing(ms, ms, None, len(known), "estimated", interval_ms=(low, high))
        else:
            rows[op] = row
    protocol = {
        "source": f"instructions of {counts.header.device}",
        "calibrated_on": len(known),
        "prices": best,
        "left_out_mape": {name: round(float(np.mean(e)), 4) for name, e in errors.items()},
    }
    whole = {**rows, **kept}
    return LatencyTable(_header(counts, measured, whole, protocol, margin), whole)


def _require_alike(counts: InstructionTable, measured: LatencyTable) -> None:
    ours, theirs = counts.header, measured.header
    if ours.precision != theirs.precision:
        raise ForeignTable(
            f"{ours.device} was counted at {ours.precision}, {theirs.device} timed at "
            f"{theirs.precision}"
        )
    keys = ("runtime", "runtime_version", "arch")
    for key in keys:
        want, have = ours.fingerprint.get(key), theirs.fingerprint.get(key)
        if have is not None and have != want:
            raise ForeignTable(
                f"{theirs.device} was timed with {key} {have}, {ours.device} counted with {want}: "
                "instructions are those of one kernel library on one architecture"
            )


def _header(
    counts: InstructionTable, measured: LatencyTable, rows: Mapping[OpSpec, Row],
    protocol: dict[str, object], margin: float | None,
) -> Header:  # fmt: skip
    old = measured.header
    guessed = any(isinstance(r, Timing) and r.provenance == "estimated" for r in rows.values())
    return Header(
        old.device, old.runtime, old.precision, counts.header.space, old.fingerprint, old.facts,
        protocol, old.batch, "estimated" if guessed else old.provenance, old.grade, old.empty_ms,
        None if margin is None else Fit(0.0, 1.0, 1.0, margin, 0),
    )  # fmt: skip


def _one_price(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    relative = x.sum(1) / y
    return np.full(x.shape[1], relative.sum() / (relative @ relative))


def _a_price_a_class(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    prices: np.ndarray = nnls(x / y[:, None], np.ones(len(y)))[0]
    return prices


Solver = Callable[[np.ndarray, np.ndarray], np.ndarray]
SOLVERS: dict[str, Solver] = {"one": _one_price, "a class": _a_price_a_class}


def _left_out(solve: Solver, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Relative error of each row as predicted from all others."""
    every = np.arange(len(y))
    return np.array([abs(x[i] @ solve(x[every != i], y[every != i]) / y[i] - 1) for i in every])


def _quantile(errors: np.ndarray) -> float:
    """Which a further error stays below with ``CONFIDENCE``; the largest where there are few."""
    rank = min(math.ceil((len(errors) + 1) * CONFIDENCE), len(errors))
    return float(np.sort(errors)[rank - 1])
