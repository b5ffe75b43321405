"""Training with the rounding of int8 in it."""

from collections.abc import Callable

from torch import nn

from edgenas.checkpoint import Checkpoint
from edgenas.compress.fake_quant import FakeQuantized
from edgenas.graph import Graph
from edgenas.task import Task
from edgenas.train import Epoch, TrainRecipe, train


def qat(
    graph: Graph,
    task: Task,
    recipe: TrainRecipe,
    seed: int,
    teacher: nn.Module,
    on_epoch: Callable[[Epoch, nn.Module], None] = lambda epoch, net: None,
    checkpoint: Checkpoint | None = None,
    accelerator: str = "cpu",
) -> Graph:
    """``graph``, calibrated, with weights and biases trained as its integers compute.

    ``teacher``: the float network, whose outputs count beside the labels. Raises as ``train``.
    """
    net = FakeQuantized(graph).to(accelerator)
    train(
        net, task, recipe, seed, lambda epoch: on_epoch(epoch, net),
        teacher=teacher.to(accelerator), checkpoint=checkpoint,
    )  # fmt: skip
    return net.graph
