"""What an architecture is worth: trained from scratch, or with the weights of a supernet."""

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from edgenas.search import Problem, Proposal, Trial
from edgenas.space import Relaxable
from edgenas.spec import Architecture
from edgenas.task import Task
from edgenas.train import accuracy, evaluating, place, rights, seeded, train


@dataclass(frozen=True)
class Predicted:
    """Only what the table says; no training."""

    problem: Problem

    def __call__(self, proposal: Proposal, id: int) -> Trial:
        """The trial of ``proposal``."""
        return Trial(id, proposal, self.problem.predicted(proposal.arch), 0.0)


@dataclass(frozen=True)
class Scratch:
    """Train a stand-alone network as long as the proposal says; scored on the search part."""

    problem: Problem

    def __call__(self, proposal: Proposal, id: int) -> Trial:
        """The trial of ``proposal``."""
        start, p = time.perf_counter(), self.problem
        with seeded(p.seed * 1009 + id):
            net = p.space.build(proposal.arch)
        net.to(p.accelerator)
        task = _images(p, proposal.arch)
        train(net, task, replace(p.recipe, epochs=proposal.epochs), p.seed)
        return _trial(p, proposal, id, accuracy(net, task, "search"), start)


@dataclass(frozen=True, eq=False)
class Shared:
    """Weights of a trained supernet, batch norm statistics taken anew; no training.

    ``batches`` of ``batch`` images for the statistics; ``limit`` images of the search part.
    """

    problem: Problem
    space: Relaxable
    supernet: nn.Module
    batches: int = 16
    batch: int = 128
    limit: int = 5000

    def __call__(self, proposal: Proposal, id: int) -> Trial:
        """The trial of ``proposal``."""
        start = time.perf_counter()
        right = float(self.rights(proposal.arch).mean())
        return _trial(self.problem, proposal, id, right, start)

    @cache  # noqa: B019  as long-lived as the search it serves
    def rights(self, arch: Architecture) -> np.ndarray:
        """Of which images of the search part ``arch`` gets right, bool."""
        p, net = self.problem, self.space.subnet(self.supernet, arch)
        size, task = min(self.batch, len(p.task.parts["train"].y)), _images(p, arch)
        images = task.batches("train", size, p.seed, augmented=False)
        recalibrate(net, (x for x, _ in itertools.islice(images, self.batches)))
        return rights(net, task, "search", self.limit)


def recalibrate(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Batch norm statistics of ``net`` as averages over ``batches``; weights stay.

    Statistics of shared weights belong to no single path (arXiv:1904.00420, sec. 3.4).
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    where = place(net)
    with evaluating(net), torch.no_grad():
        for m in norms:
            m.reset_running_stats()
            m.momentum = None
            m.train()
        for x in batches:
            net(x.to(where))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def _images(p: Problem, arch: Architecture) -> Task:
    """Of the size that ``arch`` takes."""
    return p.task.at(p.space.input_of(arch)[1])


def _trial(p: Problem, proposal: Proposal, id: int, right: float, start: float) -> Trial:
    metrics = {"accuracy": right, **p.predicted(proposal.arch)}
    return Trial(id, proposal, metrics, time.perf_counter() - start)
