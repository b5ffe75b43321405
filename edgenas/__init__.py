"""edgenas: search, shrink and ship a network that meets a latency budget measured on the device."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "LatencyTable": "edgenas.latency",
    "OpSpec": "edgenas.spec",
    "Architecture": "edgenas.spec",
    "load_device": "edgenas.device",
    "measure": "edgenas.measure",
    "profile": "edgenas.profile",
    "run": "edgenas.pipeline",
}
__all__ = ["Architecture", "LatencyTable", "OpSpec", "load_device", "measure", "profile", "run"]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: ``import edgenas`` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgenas' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
