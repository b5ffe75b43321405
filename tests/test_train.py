"""One network, one recipe: it learns, repeats itself, and what it is scored by is right."""

import dataclasses

import pytest
import torch
from torch import nn

from edgenas.errors import TrainingDiverged
from edgenas.evaluate import Scratch, Shared, recalibrate
from edgenas.gates import Mixed
from edgenas.search import Proposal
from edgenas.spec import Architecture
from edgenas.train import TrainRecipe, accuracy, cosine, seeded, sgd, train

RECIPE = TrainRecipe(epochs=4, batch=32)


@pytest.fixture
def arch(space) -> Architecture:
    return Architecture.of(space.id, {c.name: 0 for c in space.choices})


def network(space, arch, seed=0) -> nn.Module:
    with seeded(seed):
        return space.build(arch)


def test_learns_and_tells(space, task, arch):
    net, seen = network(space, arch), []
    untrained = accuracy(net, task, "test")
    train(net, task, RECIPE, 0, seen.append)
    assert accuracy(net, task, "test") > max(0.9, untrained + 0.2)
    assert [(e.number, e.epochs) for e in seen] == [(k, 4) for k in (1, 2, 3, 4)]
    assert seen[-1].loss < seen[0].loss and seen[-1].accuracy > seen[0].accuracy > 0
    assert not net.training


def test_repeats_itself_whatever_happened_before(space, task, arch):
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        net = network(space, arch)
        torch.rand(noise)
        train(net, task, RECIPE, seed=3)
        states.append(net.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    other = network(space, arch)
    train(other, task, RECIPE, seed=4)
    assert not all(torch.equal(v, other.state_dict()[k]) for k, v in states[0].items())


def test_fresh_weights_leave_the_outer_random_state(space, arch):
    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    network(space, arch, seed=9)
    assert torch.equal(torch.rand(1), want)


def test_nothing_is_trained_in_no_epochs(space, task, arch):
    net = network(space, arch)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    train(net, task, dataclasses.replace(RECIPE, epochs=0), 0)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_teacher_is_followed(space, task, arch):
    """Taught alone, the network ends nearer to its teacher's output than from labels alone."""
    teacher = network(space, arch, seed=5)
    train(teacher, task, dataclasses.replace(RECIPE, epochs=2), 0)
    frozen = {k: v.clone() for k, v in teacher.state_dict().items()}
    x, _ = task.tensors("test")
    gaps = []
    for weight in (0.0, 1.0):
        net = network(space, arch, seed=1)
        train(net, task, dataclasses.replace(RECIPE, teacher_weight=weight), 0, teacher=teacher)
        with torch.no_grad():
            gaps.append(float((net(x).softmax(1) - teacher(x).softmax(1)).abs().mean()))
    assert gaps[1] < gaps[0]
    assert all(torch.equal(v, frozen[k]) for k, v in teacher.state_dict().items())


def test_divergence_says_what_to_change(space, task, arch):
    with pytest.raises(TrainingDiverged, match=r"training: the loss became .* lower lr \(it is 1e"):
        train(network(space, arch), task, dataclasses.replace(RECIPE, lr=1e30), 0)


def test_batches_larger_than_the_data(space, task, arch):
    seen = []
    train(network(space, arch), task, TrainRecipe(epochs=1, batch=10_000), 0, seen.append)
    assert 0 < seen[0].loss < 10


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [cosine(e / 10, 10, 1) for e in range(101)]
    top = rates.index(max(rates))
    assert top == 10 and rates[top] == 1
    assert 0 < rates[0] < 0.05 and rates[-1] == pytest.approx(0)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert cosine(0, 1, 0) == 1


def test_biases_and_batch_norms_are_not_decayed(space, arch):
    net = network(space, arch)
    decayed, kept = sgd(net, 0.9, 1e-4).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (1e-4, 0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(net.parameters()))


class Always(nn.Module):
    """Says class 0, and counts the images it saw."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.images = 0

    def forward(self, x):
        assert not self.training
        self.images += len(x)
        return torch.eye(3)[torch.zeros(len(x), dtype=torch.long)]


def test_accuracy_is_the_share_that_is_right(task):
    net = Always().train()
    zeros = int((task.parts["test"].y == 0).sum())
    assert accuracy(net, task, "test") == zeros / 90
    assert net.images == 90 and net.training
    accuracy(net, task, "test", limit=7)
    accuracy(net, task, "test", limit=500)
    assert net.images == 90 + 7 + 90


def test_recalibrated_statistics_are_those_of_the_batches(task):
    net = nn.Sequential(nn.BatchNorm2d(1, momentum=0.3), nn.Dropout(0.5))
    norm = net[0]
    norm.running_mean.fill_(99)
    x, _ = task.tensors("train")
    recalibrate(net, x.split(48))
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    want = torch.stack([b.var() for b in x.split(48)]).mean()
    torch.testing.assert_close(norm.running_var[0], want)
    assert norm.momentum == 0.3 and net.training


def test_shared_scores_the_subnet_without_touching_the_supernet(problem, space, arch):
    with seeded(0):
        net = space.supernet(Mixed)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    shared = Shared(problem, space, net, batches=3, batch=32)
    trial = shared(Proposal(arch), 4)
    assert trial.id == 4 and 0 <= trial.metrics["accuracy"] <= 1
    assert trial.metrics["load"] == problem.objectives[0].load(space.ops(arch))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert shared(Proposal(arch), 4).metrics == trial.metrics


def test_scratch_trains_as_long_as_is_proposed(problem, arch):
    problem = dataclasses.replace(problem, recipe=RECIPE)
    short, long = (Scratch(problem)(Proposal(arch, e), 0) for e in (0, 4))
    assert long.metrics["accuracy"] > max(0.9, short.metrics["accuracy"])
