"""What Arm's compiler Vela says of a TFLite file: cycles, memory, and what it leaves to the CPU."""

import csv
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgenas.errors import CapabilityError, CorruptFile, DeviceError
from edgenas.scratch import scratch_folder

CONFIG = "Arm/vela.ini"  # the one that comes with Vela
_COMMAND = b"ethos-u"  # the custom operator that holds what the NPU runs


@dataclass(frozen=True)
class Target:
    """An accelerator in a system, by Vela's names."""

    accelerator: str
    system_config: str
    memory_mode: str

    def clock_hz(self) -> float:
        """Of its system. Raises DeviceError where Vela is missing or these do not go together."""
        compiler()
        from ethosu.vela.architecture_features import CONFIG_FILES_PATH, ArchitectureFeatures
        from ethosu.vela.errors import VelaError

        try:
            found = ArchitectureFeatures(
                vela_config_files=[str(Path(CONFIG_FILES_PATH) / CONFIG)],
                accelerator_config=self.accelerator,
                system_config=self.system_config,
                memory_mode=self.memory_mode,
                max_blockdep=ArchitectureFeatures.MAX_BLOCKDEP,
                verbose_config=False,
                arena_cache_size=None,
            )
        except VelaError as e:
            raise DeviceError(
                f"Vela takes no system_config {self.system_config} with memory_mode "
                f"{self.memory_mode}: {e.error_msg}"
            ) from e
        return float(found.core_clock)


@dataclass(frozen=True)
class Estimate:
    """Of one inference. ``memory_bytes``: of SRAM and DRAM that it occupies at the most, flash not.

    ``operators`` are those of the file; ``on_cpu``, how many of each kind the NPU does not run.
    """

    cycles: int
    clock_hz: float
    memory_bytes: int
    operators: int
    on_cpu: Mapping[str, int]

    @property
    def ns(self) -> int:
        """Nanoseconds: cycles over the clock. Raises CapabilityError where the CPU has a part."""
        if self.on_cpu:
            left = sum(self.on_cpu.values())
            which = ", ".join(f"{count} {kind}" for kind, count in sorted(self.on_cpu.items()))
            raise CapabilityError(
                f"{left} of {self.operators} operators are left to the CPU ({which}), "
                f"{self.operators - left} run on the NPU: how long the CPU takes is not known"
            )
        return round(self.cycles * 1e9 / self.clock_hz)


def compiler() -> Any:
    """Vela's main module. Raises DeviceError where it is not installed."""
    try:
        from ethosu.vela import vela
    except ModuleNotFoundError as e:
        raise DeviceError(
            f"the Python package {e.name} is not installed: "
            f"{sys.executable} -m pip install 'edgenas[vela]'"
        ) from e
    return vela


def estimated(path: Path, target: Target) -> Estimate:
    """What Vela makes of the file at ``path``.

    Vela runs in a process of its own: a file that it cannot read can end it by a signal. Raises
    CorruptFile and DeviceError, with what it said last.
    """
    operators = _operators(path)
    with scratch_folder() as folder:
        made = folder
        child = multiprocessing.get_context("fork").Process(
            target=_compile, args=(path, target, made)
        )
        child.start()
        child.join()
        if code := child.exitcode or 0:
            said = (made / "said").read_text(encoding="utf-8", errors="replace").split("\n")
            ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else "failed"
            last = next((f": {line.strip()}" for line in reversed(said) if line.strip()), "")
            raise DeviceError(f"Vela {ended}{last[:200]}")
        left = _operators(made / f"{path.stem}_vela.tflite")
        with (made / f"{path.stem}_summary_{target.system_config}.csv").open(
            encoding="utf-8"
        ) as file:
            (facts,) = csv.DictReader(file)
    kib = float(facts["sram_memory_used"]) + float(facts["dram_memory_used"])
    del left[_COMMAND.decode()]
    return Estimate(
        cycles=int(float(facts["cycles_total"])),
        clock_hz=float(facts["core_clock"]),
        memory_bytes=round(1024 * kib),
        operators=operators.total(),
        on_cpu=dict(left),
    )


def _compile(path: Path, target: Target, folder: Path) -> None:
    """In the child: what Vela and its C++ say goes to a file."""
    said = os.open(folder / "said", os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.exit(
        compiler().main([
            str(path), "--accelerator-config", target.accelerator, "--config", CONFIG,
            "--system-config", target.system_config, "--memory-mode", target.memory_mode,
            "--output-dir", str(folder),
        ])
    )  # fmt: skip


def _operators(path: Path) -> Counter[str]:
    """How many of each kind are in a file. Raises CorruptFile."""
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    try:
        model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
        kinds = [
            code.customCode.decode()
            if code.customCode
            else names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            for code in model.operatorCodes
        ]
        return Counter(kinds[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators)
    except OSError:
        raise
    except Exception as e:  # an offset that leads nowhere can end as anything
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise CorruptFile(f"{path} cannot be read as TFLite: {reason}") from e
