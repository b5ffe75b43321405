"""The runner of the runtime ``rtl``: a device that is simulated from its own hardware.

``python run.py JOB.json`` prints JSON lines, those of edgenas/runner.py for ``probe``, ``time`` and
``predict``. A timed call is the cycles of one image, over the clock of the device; every model's
output is compared with the reference, and one that differs in a bit is a failed model.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from edgenas import runner
from edgenas.errors import CapabilityError, EdgenasError
from edgenas.files import write_text
from edgenas.fpga.compile import Compiler
from edgenas.fpga.cycles import Dram
from edgenas.fpga.model import Model
from edgenas.fpga.part import Part
from edgenas.fpga.shape import Shape
from edgenas.fpga.simulator import build, simulate, simulator_path
from edgenas.validate import construct

Emit = Callable[[Mapping[str, Any]], None]
_SLACK = 2  # a simulation that takes so many times the cycles of the model hangs


@dataclass(frozen=True)
class _Board:
    shape: Shape
    dram: Dram
    simulator: Path

    def key(self, content: bytes) -> str:
        """Of what ``content`` takes: all that decides it, the compiler's source too."""
        digest = hashlib.sha256(repr((self.simulator.parent.name, self.dram)).encode() + content)
        for source in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(source.read_bytes())
        return digest.hexdigest()

    def ran(self, model: Model, x: np.ndarray) -> tuple[np.ndarray, int]:
        """Output and cycles on ``x`` int8. Raises DeviceError where the hardware is wrong."""
        limit = _SLACK * model.program.cycles
        after, counted = simulate(self.simulator, model.given(x), self.dram, limit)
        return model.answered(x, after), counted.cycles


def probe(job: Mapping[str, Any], board: _Board, emit: Emit) -> None:
    """Which hardware it is: its RTL and clock."""
    emit({
        "event": "end", "facts": {},
        "fingerprint": {
            "cpu": str(Part(**job["part"])), "arch": "fpga", "cores": 1, "runtime": job["backend"],
            "runtime_version": board.simulator.parent.name, "threads": job["threads"],
            "fmax_mhz": job["fmax_mhz"], "report": job["report"], "dram": repr(board.dram),
        },
    })  # fmt: skip


def time_models(job: Mapping[str, Any], board: _Board, emit: Emit) -> None:
    """Each model once, as it always takes the same; its visits in the order given."""
    ns: dict[str, int] = {}
    with _processes() as pool:
        asked = [
            (m["id"], pool.submit(_cycles, board, Path(m["path"]), Path(job["cache"])))
            for m in job["models"]
        ]
        for name, answer in asked:
            emit({"event": "loading", "id": name})
            try:
                ns[name] = round(answer.result() * 1e3 / job["fmax_mhz"])
            except EdgenasError as e:  # one model failing must not end the others
                status = "unsupported" if isinstance(e, CapabilityError) else "failed"
                emit({"id": name, "status": status, "reason": str(e)})
    runner.answer_visits(job, ns, emit)


def _cycles(board: _Board, path: Path, folder: Path) -> int:
    """Of an image of random numbers: all take the same."""
    known = folder / "cycles" / board.key(path.read_bytes())
    if known.exists():  # a campaign asks several times
        return int(known.read_text(encoding="utf-8"))
    model = Model.load(path, _compiler(board.shape, board.dram))
    x = np.random.default_rng(0).integers(-128, 128, model.network.input).astype(np.int8)
    _, taken = board.ran(model, x)
    write_text(known, f"{taken}\n")
    return taken


@cache
def _compiler(shape: Shape, dram: Dram) -> Compiler:
    """One a process, so that blocks which it has seen are known."""
    return Compiler(shape, dram)


def _processes() -> ProcessPoolExecutor:
    """Compiling and the reference are Python, which runs on one processor a process."""
    return ProcessPoolExecutor(os.cpu_count(), get_context("fork"))


def predict(job: Mapping[str, Any], board: _Board, emit: Emit) -> None:
    """Image by image."""
    inputs = np.load(job["inputs"], mmap_mode="r", allow_pickle=False)
    model = Model.load(Path(job["model"]), Compiler(board.shape, board.dram))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outputs = []
        for y, _ in pool.map(lambda x: board.ran(model, model.rounded(x)), inputs):
            outputs.append(model.real(y))
            emit({"event": "progress", "done": len(outputs), "total": len(inputs)})
    np.save(job["output"], np.stack(outputs))
    emit({"event": "end"})


VERBS = {"probe": probe, "time": time_models, "predict": predict}


def main() -> int:
    """Run the job file named on the command line."""
    job, emit = runner.asked(__file__)
    shape, folder = Shape(**job["shape"]), Path(job["cache"])
    try:
        simulator = (simulator_path if job["verb"] == "probe" else build)(shape, folder)
        dram = construct(Dram, job["dram"], "dram")
        VERBS[job["verb"]](job, _Board(shape, dram, simulator), emit)
    except (EdgenasError, OSError) as e:
        emit({"event": "refused", "reason": str(e)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
