"""What another host needs to run a network on a board: DRAM's content, and what lies where."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgenas.artifact import sha256
from edgenas.files import aside, write_json
from edgenas.fpga.commands import MOVE, RUN
from edgenas.fpga.cycles import Dram
from edgenas.fpga.model import Model
from edgenas.fpga.network import INPUT
from edgenas.fpga.part import Part


def write_plan(
    model: Model, file: Path, part: Part, fmax_mhz: float, report: str, dram: Dram, folder: Path
) -> dict[str, Any]:
    """image.bin and plan.json, which is returned; docs/fpga.md tells what its keys are."""
    program, network = model.program, model.network
    last = model.found[-1].name

    def described(name: str) -> dict[str, Any]:
        tensor, scale = program.tensors[name], network.scales[name]
        return {
            "word": tensor.dram, "words": tensor.words, "channels": program.channels[name],
            "size": tensor.size, "scale": scale.scale, "zero": scale.zero,
        }  # fmt: skip

    plan = {
        "network_sha256": sha256(file),
        "part": str(part),
        "report_sha256": report,
        "shape": asdict(program.commands.shape),
        "words": len(program.image),
        "weights": program.weights,
        "input": described(INPUT),
        "output": described(last),
        "tensors": {step.name: described(step.name) for step in model.found},
        "cycles": program.cycles,
        "ms": program.cycles / fmax_mhz / 1e3,
        "dram": asdict(dram),
        "provenance": "estimated",
        "moves": [{k: m.get(k, 0) for k in MOVE} for m in program.commands.moves],
        "jobs": [{k: r.get(k, 0) for k in RUN} for r in program.commands.runs],
    }
    with aside(folder / "image.bin") as temporary:
        program.image.tofile(temporary)
    write_json(folder / "plan.json", plan)
    return plan
