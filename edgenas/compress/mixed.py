"""Which operators of an int8 network stay in float: by what they cost in accuracy and in time."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import LinearConstraint
from torch import Tensor

from edgenas import noise
from edgenas.compress.quantize import divergence, outputs
from edgenas.device import Device
from edgenas.export import exporter_for
from edgenas.graph import INPUT, Conv, Graph, Linear, centred
from edgenas.integer_program import SCALE, minimum
from edgenas.measure import measure
from edgenas.scratch import scratch_folder

BLOCK_SECONDS = 0.05  # of a file, in each process
WHOLE_SECONDS = 0.2
FIRST = 4  # so many layers at the input are tried in float together
SURE_OF_WHOLE = 0.01
STEPS = 8  # of the budget, in which it is given to layers until it is enough
SURE = 0.05  # of its time that an operator must win in float, or it is noise

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Pair:
    """Of one operator, alone on a device: in int8, and in float between int8 neighbours."""

    int8_ms: float
    float_ms: float

    @property
    def more_ms(self) -> float:
        """That float costs."""
        return self.float_ms - self.int8_ms


def layers(graph: Graph) -> tuple[str, ...]:
    """What may stay in float: convolutions and fully connected layers."""
    return tuple(n.name for n in graph.nodes if isinstance(n, Conv | Linear))


def mixed(int8: Graph, real: Graph, floats: Collection[str]) -> Graph:
    """``int8`` with its layers ``floats`` as they are in ``real``, the same network in float."""
    real = centred(real) if int8.centred else real
    nodes = tuple(real[n.name] if n.name in floats else n for n in int8.nodes)
    return replace(int8, nodes=nodes, floats=int8.floats.union(floats))


def sensitivities(int8: Graph, real: Graph, x: Tensor, progress: Progress) -> dict[str, float]:
    """Divergence, nats an image, of outputs for images ``x`` where one layer alone is in int8.

    ``real``: the same network in float.
    """
    whole = frozenset((INPUT, *(n.name for n in int8.nodes)))
    wanted, found, names = outputs(real, x), {}, layers(int8)
    for number, name in enumerate(names):
        progress("how much each operator suffers in int8", number, len(names))
        found[name] = divergence(wanted, mixed(int8, real, whole - {name}), x)
    progress("how much each operator suffers in int8", len(names), len(names))
    return found


def times(device: Device, graph: Graph, progress: Progress) -> dict[str, Pair]:
    """Of every layer of ``graph``, which has ranges; layers that are alike are timed once."""
    exporter = exporter_for(device.runtime.format)
    alike: dict[tuple[Any, ...], str] = {}
    names = layers(graph)
    first = {name: alike.setdefault(_seen(graph, name), name) for name in names}
    pairs = [(name, kept) for name in alike.values() for kept in (frozenset(), frozenset({name}))]
    with scratch_folder() as scratch:
        files = [
            exporter.operator(
                replace(graph, floats=floats).alone(name),
                scratch / f"{number}.{exporter.format}",
            )
            for number, (name, floats) in enumerate(pairs)
        ]
        timings = measure(device, files, block_seconds=BLOCK_SECONDS, progress=progress)
    ms = [t.floor_ms for t in timings]
    timed = {name: Pair(*ms[2 * i : 2 * i + 2]) for i, name in enumerate(alike.values())}
    return {name: timed[first[name]] for name in names}


def _seen(graph: Graph, name: str) -> tuple[Any, ...]:
    """What a device sees of a layer."""
    node = graph[name]
    assert isinstance(node, Conv | Linear)
    more = (node.stride, node.padding, node.groups) if isinstance(node, Conv) else ()
    return node.weight.shape, node.act, graph.shape(node.inputs[0]), *more


def faster(costs: Sequence[Mapping[str, Pair]]) -> frozenset[str]:
    """The layers that are faster in float on every device of ``costs``, conversions included."""
    return frozenset(
        name
        for name in costs[0]
        if all(of[name].more_ms < -SURE * of[name].int8_ms for of in costs)
    )


def fastest(
    devices: Sequence[Device], int8: Graph, real: Graph, islands: frozenset[str], progress: Progress
) -> frozenset[str]:
    """Of some choices of layers to keep in float, the one that whole networks are fastest with.

    ``islands``: what is faster by itself. Beside them, and by themselves, the first layers, which
    need no conversion between each other and read the input before it is rounded. Nothing, unless
    it is faster so on every device by more than noise. ``devices`` are of one format.
    """
    exporter = exporter_for(devices[0].runtime.format)
    first = [frozenset(layers(int8)[:k]) for k in range(FIRST + 1)]
    choices = list(dict.fromkeys([*first, *(islands | some for some in first)]))
    with scratch_folder() as scratch:
        files = [
            exporter.network(mixed(int8, real, floats), scratch / f"{number}.{exporter.format}", {})
            for number, floats in enumerate(choices)
        ]
        timed = [
            measure(device, files, block_seconds=WHOLE_SECONDS, progress=progress)
            for device in devices
        ]
    ms = np.array([[t.p50_ms for t in of] for of in timed])
    relative = (ms / ms[:, :1]).mean(0)  # the first is all in int8
    best = int(relative.argmin())
    surely = all(noise.faster(of[best].interval_ms, of[0].interval_ms) for of in timed)
    return choices[best] if surely and relative[best] < 1 - SURE_OF_WHOLE else frozenset()


def integer_time(costs: Mapping[str, Pair], floats: Collection[str]) -> float:
    """Share of the time of all layers that is spent on integers, where ``floats`` are not."""
    whole = {name: of.float_ms if name in floats else of.int8_ms for name, of in costs.items()}
    return sum(ms for name, ms in whole.items() if name not in floats) / sum(whole.values())


def enough(
    lost: Mapping[str, float],
    costs: Sequence[Mapping[str, Pair]],
    slack_ms: Sequence[float],
    keeps: Callable[[frozenset[str]], bool],
) -> frozenset[str] | None:
    """The layers to keep in float so that ``keeps`` says it is enough, the cheapest of several.

    Each is the choice that loses least within a share of ``slack_ms``; where none is enough, that
    within all of it. None where nothing is in time.
    """
    most = [min(ms, sum(max(p.more_ms, 0) for p in of.values()))
            for ms, of in zip(slack_ms, costs, strict=True)]  # fmt: skip
    least = [min(ms, 0.0) for ms in most]
    tried: list[frozenset[str]] = []
    for step in range(STEPS + 1):
        share = step / STEPS
        chosen = most_accurate(
            lost, costs, [a + share * (b - a) for a, b in zip(least, most, strict=True)]
        )
        if chosen is None or chosen in tried:
            continue
        if keeps(chosen):
            return chosen
        tried.append(chosen)
    return tried[-1] if tried else None


def most_accurate(
    lost: Mapping[str, float], costs: Sequence[Mapping[str, Pair]], slack_ms: Sequence[float]
) -> frozenset[str] | None:
    """The layers to keep in float so that the rest loses least, within ``slack_ms`` more a device.

    ``lost``: as of ``sensitivities``, taken to add up. Exact; None where nothing is in time.
    """
    names = list(lost)
    sizes = [max(abs(of[n].more_ms) for n in names) or 1.0 for of in costs]
    more = np.array(
        [[of[n].more_ms / size for n in names] for of, size in zip(costs, sizes, strict=True)]
    )
    most = np.array([ms / size for ms, size in zip(slack_ms, sizes, strict=True)])
    gained = np.array([lost[n] for n in names])
    objective = -SCALE * gained / max(gained.max(), 1e-30) + 1e-3 * more.sum(0)  # if equal, fast
    rule = LinearConstraint(SCALE * more, -np.inf, SCALE * most)
    chosen = minimum(objective, [rule], np.ones(len(names)))
    if chosen is None:
        return None
    return frozenset(name for name, z in zip(names, chosen, strict=True) if z > 0.5)
