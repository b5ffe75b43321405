"""The runner of the runtime ``vela``: an NPU that is estimated by its compiler.

``python run.py JOB.json`` prints JSON lines, those of edgenas/runner.py for ``probe``, ``time``,
``predict`` and ``memory``. A timed call is what Vela estimates of one inference. Answers are those
of LiteRT's reference kernels on this machine: Vela runs nothing.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import OpResolverType

from edgenas import runner
from edgenas.errors import CapabilityError, EdgenasError
from edgenas.vela.estimate import Target, estimated

Emit = Callable[[Mapping[str, Any]], None]


class Reference(runner.LiteRt):
    """LiteRT with its reference kernels, which no delegate replaces."""

    def _open(self, path: str) -> Any:
        return self.interpreter(
            model_path=path,
            num_threads=self.threads,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        )


def probe(job: Mapping[str, Any], target: Target, emit: Emit) -> None:
    """Which NPU in which system, by which Vela; and whose answers it gives."""
    emit({
        "event": "end", "facts": {},
        "fingerprint": {
            "cpu": target.accelerator, "arch": "ethos-u", "cores": 1, "runtime": job["backend"],
            "runtime_version": metadata.version("ethos-u-vela"), "threads": job["threads"],
            "system_config": target.system_config, "memory_mode": target.memory_mode,
            "clock_mhz": round(target.clock_hz() / 1e6),
            "answers": f"reference kernels of LiteRT {Reference(job).version}, this machine",
        },
    })  # fmt: skip


def time_models(job: Mapping[str, Any], target: Target, emit: Emit) -> None:
    """Each model once, as its estimate is always the same; its visits in the order given."""
    ns: dict[str, int] = {}
    for model in job["models"]:
        name = model["id"]
        emit({"event": "loading", "id": name})
        try:
            found = estimated(Path(model["path"]), target)
            outside = sum(found.on_cpu.values())
            emit({"event": "placed", "id": name, "nodes": found.operators, "outside": outside})
            ns[name] = found.ns
        except EdgenasError as e:  # one model failing must not end the others
            status = "unsupported" if isinstance(e, CapabilityError) else "failed"
            emit({"id": name, "status": status, "reason": str(e)})
    runner.answer_visits(job, ns, emit)


def predict(job: Mapping[str, Any], target: Target, emit: Emit) -> None:
    """By LiteRT."""
    runner.predict(job, Reference(job), emit)


def memory(job: Mapping[str, Any], target: Target, emit: Emit) -> None:
    """What the model occupies of SRAM and DRAM; nothing is there besides, so no empty one."""
    emit({"event": "end", "bytes": estimated(Path(job["model"]), target).memory_bytes})


VERBS = {"probe": probe, "time": time_models, "predict": predict, "memory": memory}


def main() -> int:
    """Run the job file named on the command line."""
    job, emit = runner.asked(__file__)
    target = Target(job["accelerator"], job["system_config"], job["memory_mode"])
    try:
        target.clock_hz()  # a system that makes no sense is said before anything is done
        VERBS[job["verb"]](job, target, emit)
    except (EdgenasError, runner.Refused) as e:
        emit({"event": "refused", "reason": str(e)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
