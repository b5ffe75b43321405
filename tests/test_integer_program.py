"""Beside what test_project.py and test_module.py ask of it."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import LinearConstraint

from edgenas.integer_program import minimum

LOUD = """
import ctypes
import numpy as np
from edgenas import integer_program
solve = integer_program.milp
def loud(*arguments, **more):
    ctypes.CDLL(None).puts(b"HiGHS says so")
    return solve(*arguments, **more)
integer_program.milp = loud
print("before")
x = integer_program.minimum(np.array([-1.0, -2.0]), [], np.ones(2))
print("after", x.tolist())
"""


def test_what_the_solver_prints_is_not_heard() -> None:
    done = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter [1.0, 1.0]\n"


@pytest.mark.parametrize(("limit", "best"), [(3.0, [1, 1]), (2.0, [0, 1]), (-1.0, None)])
def test_the_least_that_keeps_the_rules(limit: float, best: list[int] | None) -> None:
    rule = LinearConstraint(np.array([[1.0, 2.0]]), -np.inf, limit)
    x = minimum(np.array([-1.0, -2.0]), [rule], np.ones(2))
    assert (x if x is None else x.round().tolist()) == best
