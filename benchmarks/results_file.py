"""What every benchmark leaves behind: its rows, with machine, versions and seeds."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edgenas.device import load_device
from edgenas.files import read_json, write_json
from edgenas.session import probe

RESULTS = Path(__file__).parent / "results"


def rows_before(name: str) -> list[dict[str, Any]]:
    """Of an earlier run: what is not measured again is kept."""
    path = RESULTS / f"{name}.json"
    rows: list[dict[str, Any]] = read_json(path)["rows"] if path.exists() else []
    return rows


def write_results(name: str, **content: Any) -> Path:
    """``benchmarks/results/<name>.json``."""
    fingerprint, _ = probe(load_device("cpu-onnxruntime"))
    path = RESULTS / f"{name}.json"
    machine = {
        **fingerprint,
        "system": platform.platform(),
        "threads_torch": torch.get_num_threads(),
    }
    machine["load"] = round(os.getloadavg()[0], 2)
    write_json(
        path, {"benchmark": name, "edgenas": version("edgenas"), "machine": machine, **content}
    )
    return path
