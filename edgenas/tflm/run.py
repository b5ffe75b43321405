"""The runner of the runtime ``tflm``: microcontrollers, by TFLM's own interpreter on this machine.

``python run.py JOB.json`` prints JSON lines, those of edgenas/runner.py for ``probe``, ``time``,
``predict`` and ``memory``. A timed call is what is estimated of one inference; answers and arena
are those of TFLM's reference kernels, which really run.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from edgenas import runner
from edgenas.errors import CapabilityError, EdgenasError
from edgenas.tflm import cycles, interpreter, work
from edgenas.tflm.boards import boards

Emit = Callable[[Mapping[str, Any]], None]


def probe(job: Mapping[str, Any], emit: Emit) -> None:
    """Which board at which clock, what its times come from and how far off they may be."""
    board = boards()[job["board"]]
    off = cycles.left_out(board)
    emit({
        "event": "end",
        "fingerprint": {
            "cpu": board.core, "arch": board.arch, "cores": 1, "runtime": job["backend"],
            "runtime_version": interpreter.version(), "threads": job["threads"],
            "board": board.board, "clock_mhz": job["clock_mhz"],
            "times": f"estimated from MLPerf Tiny {board.round}, {board.stack}; "
            f"networks left out: {100 * fmean(map(abs, off.values())):.0f} % off",
            "cycles": str(cycles.fitted(board)),
            "answers": "reference kernels of TFLM, this machine",
        },
        "facts": {
            "left_out": {task: round(error, 3) for task, error in off.items()},
            "flash_kb": board.flash_kb, "ram_kb": board.ram_kb,
        },
    })  # fmt: skip


def time_models(job: Mapping[str, Any], emit: Emit) -> None:
    """Each model loaded once, as its estimate is always the same; its visits in the order given."""
    prices = cycles.fitted(boards()[job["board"]])
    ns: dict[str, int] = {}
    for model in job["models"]:
        name = model["id"]
        emit({"event": "loading", "id": name})
        try:
            found = work.read(Path(model["path"]))
            interpreter.arena_bytes(found)  # what TFLM cannot load has no time
            ns[name] = round(1e3 * prices.cycles(found.work) / job["clock_mhz"])
        except EdgenasError as e:  # one model failing must not end the others
            status = "unsupported" if isinstance(e, CapabilityError) else "failed"
            emit({"id": name, "status": status, "reason": str(e)})
    runner.answer_visits(job, ns, emit)


def predict(job: Mapping[str, Any], emit: Emit) -> None:
    """Image by image, as a microcontroller would."""
    inputs = np.load(job["inputs"], mmap_mode="r")
    model = work.read(Path(job["model"]))
    interpreter.arena_bytes(model)  # which says why where it cannot be loaded
    done, outputs = 0, []
    for y in interpreter.answers(model, inputs):
        outputs.append(y)
        done = min(done + len(y), len(inputs))
        emit({"event": "progress", "done": done, "total": len(inputs)})
    np.save(job["output"], np.concatenate(outputs)[: len(inputs)])
    emit({"event": "end"})


def memory(job: Mapping[str, Any], emit: Emit) -> None:
    """The arena; nothing is there besides, so no empty one."""
    emit({"event": "end", "bytes": interpreter.arena_bytes(work.read(Path(job["model"])))})


VERBS = {"probe": probe, "time": time_models, "predict": predict, "memory": memory}


def main() -> int:
    """Run the job file named on the command line."""
    job, emit = runner.asked(__file__)
    try:
        interpreter.version()  # what is not installed is said before anything is done
        runner.bound(job)
        VERBS[job["verb"]](job, emit)
    except (EdgenasError, runner.Refused) as e:
        emit({"event": "refused", "reason": str(e)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
