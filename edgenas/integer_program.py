"""Integer programs, solved exactly by HiGHS, which is not to be heard."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

SCALE = 1e3  # its tolerances are absolute: against rows of this length they are negligible
_INFEASIBLE = 2  # scipy's status
_EXACTLY: Any = {"mip_rel_gap": 0.0, "presolve": False}  # presolve makes it print even more


def minimum(
    objective: np.ndarray,
    rules: Sequence[LinearConstraint],
    whole: np.ndarray,
    most: np.ndarray | float = 1.0,
) -> np.ndarray | None:
    """The x from 0 to ``most`` of the least ``objective`` under ``rules``; None if none keeps them.

    ``whole``: 1 where x is a whole number.
    """
    with _silent():
        answer: Any = milp(
            objective, integrality=whole, bounds=Bounds(0, most), constraints=rules,
            options=_EXACTLY,
        )  # fmt: skip
    if answer.status not in (0, _INFEASIBLE):
        raise RuntimeError(f"HiGHS: {answer.message}")
    return answer.x if answer.status == 0 else None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What C code prints goes to the null device: standard output is the user's data."""
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C holds back would come out later
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)
