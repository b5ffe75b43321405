"""Cycles of a network on a board, of its operators' work: fitted to four published networks.

A board's cycles are a sum over operators of a price a multiply-accumulate, a value and a byte of
weights. Three prices and four networks: the fit is drawn to the simplest one, multiply-accumulates
alone, which decides where the networks do not.
"""

import json
from dataclasses import astuple, dataclass, fields

import numpy as np
from scipy.optimize import lsq_linear

from edgenas.tflm.boards import PUBLISHED, Board
from edgenas.tflm.work import Work

# Of the simplest prices, against one of the networks. Chosen among 0.001 to 0.3 by the error on
# networks that are left out, over all boards: it is that error's best case.
_PULL = 0.03
_LEAST = np.array([0.0, 1.0, 0.0])  # no core writes a value in less than a cycle


@dataclass(frozen=True)
class Prices:
    """Cycles: of a multiply-accumulate, of a value, of a byte of weights."""

    mac: float
    value: float
    weight: float

    def cycles(self, work: Work) -> float:
        """Of one inference."""
        return self.mac * work.macs + self.value * work.values + self.weight * work.weights

    def __str__(self) -> str:
        return (
            f"{self.mac:.3g} a multiply-accumulate, {self.value:.3g} a value, "
            f"{self.weight:.3g} a byte of weights"
        )


def networks() -> dict[str, Work]:
    """The published networks, by the name of their task; as ``work.read`` counts their files."""
    told = json.loads(PUBLISHED.read_text(encoding="utf-8"))["networks"]
    return {
        task: Work(**{f.name: facts[f.name] for f in fields(Work)}) for task, facts in told.items()
    }


def fitted(board: Board, without: str = "") -> Prices:
    """Of ``board``, by relative error; ``without``: a network that is left out."""
    known = networks()
    tasks = [task for task in board.inferences_per_s if task != without]
    amounts = np.array([astuple(known[task]) for task in tasks], float)
    cycles = np.array([published(board, task) for task in tasks])
    # prices in units of which each is, in a usual network, as much as all the cycles
    usual = np.mean([np.array(astuple(w)) / w.macs for w in known.values()], axis=0)
    unit = np.mean(cycles / amounts[:, 0]) / usual
    weight, simplest = np.sqrt(_PULL), np.array([1.0, 0.0, 0.0])
    rows = np.vstack([amounts * unit / cycles[:, None], weight * np.eye(3)])
    wanted = np.concatenate([np.ones(len(tasks)), weight * simplest])
    prices = lsq_linear(rows, wanted, (_LEAST / unit, np.inf), method="bvls").x
    return Prices(*map(float, prices * unit))


def published(board: Board, task: str) -> float:
    """Cycles that ``board`` took for the network of ``task``."""
    return 1e6 * board.clock_mhz / board.inferences_per_s[task]


def left_out(board: Board) -> dict[str, float]:
    """Of each published network: the error of prices that were fitted to the others, a fraction."""
    return {
        task: fitted(board, without=task).cycles(work) / published(board, task) - 1
        for task, work in networks().items()
    }
