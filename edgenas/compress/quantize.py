"""int8-static of a network: ranges and biases that keep its outputs, and how they are kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from edgenas import noise, parsing
from edgenas.compress.bias import channel_means, correct_biases
from edgenas.compress.fake_quant import FakeQuantized
from edgenas.config import QuantRecipe
from edgenas.errors import CorruptFile
from edgenas.files import aside
from edgenas.graph import Calibration, Conv, Graph, Linear, calibrations
from edgenas.ordered import ordered

BATCH = 64


@dataclass(frozen=True)
class Tried:
    """``divergence``: nats an image by which its outputs differ from those of the network.

    ``farther``: whether that is more than of the nearest way, by more than noise.
    """

    calibration: Calibration
    correct_bias: bool
    divergence: float
    farther: bool = False


def ways(recipe: QuantRecipe) -> list[tuple[Calibration, bool]]:
    """Calibration, and whether biases are corrected: all that ``recipe`` compares, simple first."""
    auto = recipe.calibration == "auto"
    methods = get_args(Calibration) if auto else (recipe.calibration,)
    both = recipe.correct_bias == "auto"
    corrected = (False, True) if both else (bool(recipe.correct_bias),)
    return [(method, c) for method in methods for c in corrected]


def quantize(
    graph: Graph, calibration: Tensor, validation: Tensor, recipe: QuantRecipe
) -> tuple[Graph, list[Tried]]:
    """``graph`` with ranges, made by the way that is ``kept``, and all ways of ``recipe``.

    Images (n, c, h, w), normalised: ``calibration`` gives the ranges, ``validation`` decides.
    """
    batches = torch.split(calibration, BATCH)
    wanted = outputs(graph, validation)
    calibrated = calibrations(graph, batches, {method for method, _ in ways(recipe)})
    means = channel_means(graph, batches)
    found, off = [], []
    for method, corrected in ways(recipe):
        made = calibrated[method]
        if corrected:
            made = correct_biases(made, means)
        found.append(made)
        off.append(divergences(wanted, made, validation))
    nearest = min(off, key=lambda each: float(each.mean()))
    tried = [
        Tried(method, corrected, float(each.mean()), noise.lower(nearest, each))
        for (method, corrected), each in zip(ways(recipe), off, strict=True)
    ]
    return found[tried.index(kept(tried))], tried


def kept(tried: Sequence[Tried]) -> Tried:
    """The simplest of those that no other is nearer than."""
    return next(way for way in tried if not way.farther)


def divergence(wanted: Tensor, graph: Graph, x: Tensor) -> float:
    """Mean Kullback-Leibler divergence, nats, of what integers give from logits ``wanted``."""
    return float(divergences(wanted, graph, x).mean())


def divergences(wanted: Tensor, graph: Graph, x: Tensor) -> np.ndarray:
    """Of each image ``x``, (n,)."""
    got = outputs(FakeQuantized(graph).eval(), x)
    each = nn.functional.kl_div(
        got.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True
    )
    return each.sum(1).numpy()


@torch.inference_mode()
def outputs(network: Graph | nn.Module, x: Tensor) -> Tensor:
    """Logits (n, classes) of images ``x``."""
    return torch.cat([network(part) for part in torch.split(x, BATCH)])


def save_quantized(graph: Graph, path: Path) -> None:
    """Weights, biases and ranges of ``graph``, whole or not at all."""
    layers = [n for n in graph.nodes if isinstance(n, Conv | Linear)]
    tensors = {f"{n.name}/weight": n.weight for n in layers}
    tensors |= {f"{n.name}/bias": n.bias for n in layers}
    facts = {"ranges": json.dumps(graph.ranges), "centred": json.dumps(graph.centred)}
    with aside(path) as temporary:
        temporary.write_bytes(ordered(save(tensors, facts)))


def load_quantized(graph: Graph, path: Path) -> Graph:
    """``graph`` with what ``save_quantized`` kept of it. Raises CorruptFile."""
    try:
        with safe_open(path, "np") as file:
            nodes = tuple(
                replace(
                    n,
                    weight=file.get_tensor(f"{n.name}/weight"),
                    bias=file.get_tensor(f"{n.name}/bias"),
                )
                if isinstance(n, Conv | Linear)
                else n
                for n in graph.nodes
            )
            said = file.metadata()
        ranges = parsing.json_value(said["ranges"])
        return replace(
            graph, nodes=nodes, ranges={k: (float(a), float(b)) for k, (a, b) in ranges.items()},
            centred=said.get("centred") == "true",
        )  # fmt: skip
    except (
        SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
    ) as e:  # fmt: skip
        raise CorruptFile(f"{path} does not hold this network in int8: {e!s:.200}") from e
