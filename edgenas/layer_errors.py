"""Where in a file its numbers leave those of the network: operator by operator, on the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgenas.device import Device
from edgenas.export import exporter_for
from edgenas.graph import INPUT, Graph, Mean
from edgenas.session import predict

PROBE = "probe"
# Of an operator: healthy int8 is off by some percent from early on, a scale wrong by two by half
MUCH, MUCH_OF_FLOAT = 0.25, 1e-2


@dataclass(frozen=True)
class LayerError:
    """``error``: root mean square of what an operator's channel means are off, as their share."""

    name: str
    kind: str
    error: float


def layer_errors(
    device: Device,
    graph: Graph,
    reference: Graph,
    x: Tensor,
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[LayerError]:
    """Of each operator of ``graph``, in order, as the device computes all before it.

    ``reference``: the same operators in float, which count as right; ``x``: (n, c, h, w). Channel
    means are compared, which no layout of a file can turn. One file at a time is in ``folder``.
    """
    exporter = exporter_for(device.runtime.format)
    images = np.ascontiguousarray(x.numpy())
    found = []
    with torch.inference_mode():
        wanted = {n: _means(v) for n, v in reference.values(x) if n != INPUT}
        for number, node in enumerate(graph.nodes):
            progress("looking for the operator that diverges", number, len(graph.nodes))
            want = wanted[node.name]
            path = folder / f"part.{exporter.format}"
            artifact = exporter.network(_probed(graph, node.name, want), path, {})
            got = predict(device, artifact, images)
            off = float(np.sqrt(np.square(got - want.numpy()).mean()))
            size = max(float(want.square().mean().sqrt()), 1e-12)
            found.append(LayerError(node.name, type(node).__name__, off / size))
    return found


def _means(value: Tensor) -> Tensor:
    return value.flatten(2).mean(2) if value.ndim > 2 else value


def first_off(errors: Sequence[LayerError], precision: str) -> LayerError | None:
    """The first operator that is off by more than rounding explains."""
    much = MUCH_OF_FLOAT if precision in ("fp32", "fp16") else MUCH
    return next((e for e in errors if e.error > much), None)


def explained(errors: Sequence[LayerError], precision: str) -> str:
    """A sentence for who has to find the bug."""
    first = first_off(errors, precision)
    if first is None:
        return (
            "no operator by itself is off by more than rounding explains: the error adds up, or "
            "the file tells its images or classes wrongly"
        )
    return (
        f"the first operator that is off by more than rounding explains is {first.name} "
        f"({first.kind}), by {first.error:.1%}"
    )


def _probed(graph: Graph, name: str, means: Tensor) -> Graph:
    """``graph`` up to ``name``, and its channel means as output."""
    part = graph.prefix(name)
    if len(part.output.shape) == 1:
        return part
    nodes = (*part.nodes, Mean(PROBE, (name,), part.output.shape[:1]))
    ranges = part.ranges and {**part.ranges, PROBE: (float(means.min()), float(means.max()))}
    return replace(part, nodes=nodes, ranges=ranges)
