"""ncnn, in one static program: for boards on which nothing can be installed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgenas import native
from edgenas.errors import CapabilityError, UsageError
from edgenas.python_runtime import Cores

__all__ = ["Ncnn"]

_FACTS = (
    "verb", "threads", "affinity", "visit_ms", "warm_ms", "min_calls", "max_calls", "inputs",
    "output",
)  # fmt: skip


@dataclass(frozen=True)
class Ncnn(Cores):
    """Runs ``.ncnn`` files in fp32 on one thread. ``arch``: what ``uname -m`` says there."""

    arch: str = "aarch64"

    name: ClassVar[str] = "ncnn"
    format: ClassVar[str] = "ncnn"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    further: ClassVar[tuple[str, ...]] = ()
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arch not in native.CPU:
            known = ", ".join(native.CPU)
            raise UsageError(f"runtime ncnn: arch cannot be {self.arch!r}. Known: {known}")
        if self.threads != 1:
            raise UsageError(f"runtime ncnn: threads is {self.threads}; its program has 1")

    @property
    def payload(self) -> Path:
        """The built program. Raises CapabilityError where it is not built."""
        path = native.runner_path(self.arch)
        if not path.exists():
            raise CapabilityError(
                f"the runner for {self.arch} is not built yet, a matter of some minutes, once: "
                f"edgenas build-runner {self.arch}"
            )
        return path

    def encode(self, job: Mapping[str, Any]) -> bytes:
        """The lines that edgenas/native/runner.cpp reads."""
        one = [{"path": job["model"], "id": ""}] if "model" in job else []
        models = job.get("models", one)
        number = {model["id"]: i for i, model in enumerate(models)}
        lines = [
            *([key, job[key]] for key in _FACTS if key in job),
            *(["model", model["path"], model["id"]] for model in models),
            *(["visit", turn, number[id]] for turn, id in job.get("visits", ())),
        ]
        return "".join("\t".join(map(str, line)) + "\n" for line in lines).encode()

    def command(self, python: str, payload: str, job: str) -> Sequence[str]:
        """``runner JOB``."""
        return [payload, job]
