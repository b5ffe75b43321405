"""A network as a device runs it: BN folded, shapes known, ranges attached when quantized."""

from edgenas.graph.baking import baked
from edgenas.graph.calibration import Calibration, calibrate, calibrations, coarse, lowered
from edgenas.graph.centring import centred
from edgenas.graph.comparing import compare
from edgenas.graph.nodes import (
    INPUT,
    Activation,
    Add,
    Conv,
    Graph,
    HardSwish,
    Held,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Node,
    Ranges,
    run,
)
from edgenas.graph.tracing import trace, trace_unchecked

__all__ = [
    "INPUT",
    "Activation",
    "Add",
    "Calibration",
    "Conv",
    "Graph",
    "HardSwish",
    "Held",
    "Linear",
    "MaxPool",
    "Mean",
    "Mul",
    "Node",
    "Ranges",
    "baked",
    "calibrate",
    "calibrations",
    "centred",
    "coarse",
    "compare",
    "lowered",
    "run",
    "trace",
    "trace_unchecked",
]
