"""A board that computes truly and whose clock counts work: what tests decide hangs on no machine.

As a program it is a ``python`` of a local board: ``steady.py RUNNER JOB`` runs edgenas' own runner
with its runtimes; a call of a model takes as long as its file is large. ``EDGENAS_STEADY``: by how
much that is longer where all of it is int8.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NS_PER_BYTE = 20
RUNTIMES = {"cpu-onnxruntime": "onnxruntime", "cpu-litert": "litert"}


def boards(folder: Path, int8: int = 1) -> None:
    """``folder``/devices: such boards, found before those of the same names that edgenas has."""
    devices = folder / "devices"
    devices.mkdir(parents=True)
    python = devices / "python"
    start = shlex.join(["env", f"EDGENAS_STEADY={int8}", sys.executable, __file__])
    python.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
    python.chmod(0o755)
    for name, runtime in RUNTIMES.items():
        (devices / f"{name}.yaml").write_text(
            f"transport: {{kind: local, python: {python}}}\nruntime: {{kind: {runtime}}}\n"
        )


def steady(backend: Any, clock: SimpleNamespace) -> Any:
    """``backend``, each call of whose models moves ``clock``."""

    class Steady(backend):  # type: ignore[misc]
        def load(self, path: str) -> Any:
            call, took = super().load(path), NS_PER_BYTE * os.path.getsize(path)
            if b"int8-static" in Path(path).read_bytes():
                took *= int(os.environ["EDGENAS_STEADY"])

            def moved() -> None:
                call()
                clock.ns += took

            return moved

    return Steady


def main() -> int:
    sys.argv = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("runner", sys.argv[0])
    assert spec is not None and spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    sys.modules["runner"] = runner
    spec.loader.exec_module(runner)
    clock = SimpleNamespace(ns=0)
    runner.time = SimpleNamespace(perf_counter_ns=lambda: clock.ns)
    runner.BACKENDS = {name: steady(b, clock) for name, b in runner.BACKENDS.items()}
    return runner.main()


if __name__ == "__main__":
    sys.exit(main())
