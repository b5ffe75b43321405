"""What is asked of latency tables beside measuring and using them; one file a question."""

from edgenas.lut.calibrate import calibrate
from edgenas.lut.check import Finding, check
from edgenas.lut.diff import Difference, Moved, diff
from edgenas.lut.imports import import_table
from edgenas.lut.merge import merge

__all__ = [
    "Difference",
    "Finding",
    "Moved",
    "calibrate",
    "check",
    "diff",
    "import_table",
    "merge",
]
