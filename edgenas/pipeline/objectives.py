"""What a config asks of the networks of a run, as objectives of its search."""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from edgenas import ops, specimen
from edgenas.budgets import Budget, Latency, Peak, Total
from edgenas.config import Config, Limits, Target
from edgenas.errors import MissingLatency
from edgenas.export import exporter_for
from edgenas.latency import LatencyTable
from edgenas.predict import Predictor
from edgenas.scratch import scratch_folder
from edgenas.search import Objective
from edgenas.space import Space
from edgenas.spec import Architecture, OpSpec

NETWORKS = 6  # exported whole, to predict the size of others


def objectives(
    config: Config,
    space: Space,
    targets: Sequence[Mapping[str, Any]],
    predictors: Mapping[str, Predictor],
) -> tuple[Objective, ...]:
    """One for each network that is wanted.

    ``targets``: of the profile stage; ``predictors`` by device. Raises MissingLatency where a
    table counts no energy.
    """
    shared = [
        *everywhere(config.budgets, _width(targets)),
        *_files(config.budgets, space, targets),
        *_energies(config.targets, predictors),
    ]
    return tuple(
        Objective(
            (
                *(
                    Latency(t["device"], t["limits_ms"][level], predictors[t["device"]])
                    for t in targets
                ),
                *shared,
            )
        )
        for level in range(config.levels)
    )


def _width(targets: Sequence[Mapping[str, Any]]) -> int:
    """Bytes of an activation under the widest precision that is delivered."""
    return max(1 if t["precision"] == "int8-static" else 4 for t in targets)


def everywhere(limits: Limits, width: int) -> list[Budget]:
    """Limits that hold on every device, an activation being of ``width`` bytes."""
    budgets: list[Budget] = []
    if (limit := limits.max_parameters) is not None:
        budgets.append(_millions("parameters", "M parameters", limit, ops.parameters))
    if (limit := limits.max_macs) is not None:
        budgets.append(_millions("macs", "M multiply-accumulates", limit, ops.macs))
    if (limit := limits.max_activation_bytes) is not None:
        budgets.append(
            Peak(
                "activation_kB", "kB of activations", limit / 1e3,
                lambda op: ops.activation_elements(op) * width / 1e3,
            )
        )  # fmt: skip
    return budgets


def _files(limits: Limits, space: Space, targets: Sequence[Mapping[str, Any]]) -> list[Budget]:
    """One for each kind of file that is delivered."""
    if (limit := limits.max_bytes) is None:
        return []
    kinds = sorted({(t["format"], t["precision"]) for t in targets})
    sizes = [(format, FileSize(space, format, precision)) for format, precision in kinds]
    return [
        Total(f"kB:{format}", f"kB of {format}", limit / 1e3, size.kb, size.base_kb)
        for format, size in sizes
    ]


class FileSize:
    """What operators add to a file: each exported alone, and a few networks to set it right."""

    def __init__(self, space: Space, format: str, precision: str) -> None:
        self._exporter, self._precision = exporter_for(format), precision
        self._empty = self._alone(specimen.EMPTY)
        archs = [space.sample(random.Random(i)) for i in range(NETWORKS)]
        parts = [sum(self._alone(op) - self._empty for op in space.ops(a)) for a in archs]
        whole = [self._whole(space, a) for a in archs]
        slope, base = np.polyfit(parts, whole, 1)
        self._scale, self.base_kb = float(slope), float(base) / 1e3

    def kb(self, op: OpSpec) -> float:
        """Kilobytes of ``op`` within a network."""
        return (self._alone(op) - self._empty) * self._scale / 1e3

    def _whole(self, space: Space, arch: Architecture) -> int:
        with scratch_folder() as scratch:
            path = scratch / f"whole.{self._exporter.format}"
            file = specimen.network(self._exporter, space, arch, self._precision, path)
            return file.size_bytes

    @cache  # noqa: B019  as long-lived as the search it serves
    def _alone(self, op: OpSpec) -> int:
        with scratch_folder() as scratch:
            path = scratch / f"op.{self._exporter.format}"
            return specimen.operator(self._exporter, op, self._precision, path).size_bytes


def _energies(targets: Sequence[Target], predictors: Mapping[str, Predictor]) -> list[Budget]:
    """Sums of rows, not corrected by whole networks."""
    return [
        Total(
            f"mJ:{t.name}", f"mJ on {t.name}", t.max_mj,
            partial(_energy_mj, predictors[t.name].table),
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
