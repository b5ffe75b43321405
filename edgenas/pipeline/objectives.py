"""What a config asks of the networks of a run, as objectives of its search."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from edgenas import ops
from edgenas.budgets import Budget, Latency, Peak, Total
from edgenas.config import Config, Limits, Target
from edgenas.errors import MissingLatency
from edgenas.latency import LatencyTable
from edgenas.predict import Predictor
from edgenas.search import Objective
from edgenas.spec import OpSpec

BYTES = {"fp32": 4, "int8-static": 1}  # of a weight, and of an activation


def objectives(
    config: Config, targets: Sequence[Mapping[str, Any]], predictors: Mapping[str, Predictor]
) -> tuple[Objective, ...]:
    """One for each network that is wanted.

    ``targets``: of the profile stage; ``predictors`` by device. Raises MissingLatency where a
    table counts no energy.
    """
    everywhere = [*_everywhere(config.budgets, targets), *_energies(config.targets, predictors)]
    return tuple(
        Objective(
            (
                *(
                    Latency(t["device"], t["limits_ms"][level], predictors[t["device"]])
                    for t in targets
                ),
                *everywhere,
            )
        )
        for level in range(config.levels)
    )


def _everywhere(limits: Limits, targets: Sequence[Mapping[str, Any]]) -> list[Budget]:
    """Under the widest precision that is delivered."""
    width = max(BYTES[t["precision"]] for t in targets)
    budgets: list[Budget] = []
    if (limit := limits.max_parameters) is not None:
        budgets.append(_millions("parameters", "M parameters", limit, ops.parameters))
    if (limit := limits.max_macs) is not None:
        budgets.append(_millions("macs", "M multiply-accumulates", limit, ops.macs))
    if (limit := limits.max_bytes) is not None:
        budgets.append(
            Total("kB", "kB of file", limit / 1e3, lambda op: file_bytes(op, width) / 1e3)
        )
    if (limit := limits.max_activation_bytes) is not None:
        budgets.append(
            Peak(
                "activation_kB", "kB of activations", limit / 1e3,
                lambda op: ops.activation_elements(op) * width / 1e3,
            )
        )  # fmt: skip
    return budgets


def _energies(targets: Sequence[Target], predictors: Mapping[str, Predictor]) -> list[Budget]:
    """Sums of rows, not corrected by whole networks."""
    return [
        Total(
            f"mJ:{t.device}", f"mJ on {t.device}", t.max_mj,
            partial(_energy_mj, predictors[t.device].table),
        )
        for t in targets if t.max_mj is not None
    ]  # fmt: skip


def _energy_mj(table: LatencyTable, op: OpSpec) -> float:
    energy = table[op].energy_mj
    if energy is None:
        raise MissingLatency(
            f"the table of {table.header.device} holds no energy of '{op}': the device counts "
            "none. Leave the key energy out of its target"
        )
    return energy


def _millions(name: str, unit: str, limit: float, of: Callable[[OpSpec], float]) -> Total:
    return Total(name, unit, limit / 1e6, lambda op: of(op) / 1e6)


def file_bytes(op: OpSpec, width: int) -> int:
    """Estimate of what ``op`` adds to a file: its weights, ``width`` bytes each."""
    return ops.parameters(op) * width
