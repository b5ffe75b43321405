"""edgenas: search, shrink and ship a network that meets a latency budget measured on the device."""

import importlib
import os
from typing import Any

# ONNX Runtime reports to its makers and writes into the user's folders unless it finds this when it
# is loaded; what we start here inherits it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"

_PUBLIC = {
    "LatencyTable": "edgenas.latency",
    "OpSpec": "edgenas.spec",
    "Architecture": "edgenas.spec",
    "load_config": "edgenas.config",
    "load_device": "edgenas.device",
    "run": "edgenas.pipeline",
}
__all__ = ["Architecture", "LatencyTable", "OpSpec", "load_config", "load_device", "run"]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: ``import edgenas`` costs nothing.

    None is called as a module is: ``edgenas.profile`` and ``edgenas.measure`` are modules.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgenas' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
