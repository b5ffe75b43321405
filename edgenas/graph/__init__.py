"""A network as a device runs it: BN folded, shapes known, ranges attached when quantized."""

from edgenas.graph.calibration import Calibration, calibrate, calibrations
from edgenas.graph.nodes import (
    INPUT,
    Activation,
    Add,
    Conv,
    Graph,
    HardSwish,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Node,
    Ranges,
)
from edgenas.graph.tracing import trace

__all__ = [
    "INPUT",
    "Activation",
    "Add",
    "Calibration",
    "Conv",
    "Graph",
    "HardSwish",
    "Linear",
    "MaxPool",
    "Mean",
    "Mul",
    "Node",
    "Ranges",
    "calibrate",
    "calibrations",
    "trace",
]
