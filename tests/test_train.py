"""One network, one recipe: it learns, repeats itself, and what it is scored by is right."""

import dataclasses
import importlib
import itertools
import math
import multiprocessing
import random
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgenas import ops
from edgenas.budgets import Total
from edgenas.checkpoint import Checkpoint
from edgenas.descent import cosine, optimiser, sgd
from edgenas.dropout import dropping
from edgenas.errors import CorruptFile, TrainingDiverged
from edgenas.evaluate import Scratch, Shared, recalibrate
from edgenas.gates import Mixed
from edgenas.images import Images
from edgenas.search import Objective, Proposal
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture
from edgenas.stopping import Watch
from edgenas.task import Task
from edgenas.train import (
    Course,
    Epoch,
    TrainRecipe,
    accuracy,
    learnt_nothing,
    rights,
    seeded,
    train,
)

pytestmark = pytest.mark.trains

RECIPE = TrainRecipe(epochs=4, batch=32)
EVERYTHING = dataclasses.replace(RECIPE, ema=0.9, mixup=0.2, cutmix=1.0, precision="bf16")
ADAMW = dataclasses.replace(
    RECIPE, optimizer="adamw", lr=0.004, weight_decay=0.05, dropout=0.3, balance=0.5
)


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


def states(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_the_average_is_what_is_scored_and_kept(space, task, arch):
    net, plain, seen = network(space, arch), network(space, arch), []
    longer = dataclasses.replace(RECIPE, epochs=12)  # by far more steps than the average spans
    recipe = dataclasses.replace(longer, ema=0.9)
    train(net, task, recipe, 0, lambda e: seen.append(states(net)))
    train(plain, task, longer, 0)
    assert all(torch.equal(v, seen[-1][k]) for k, v in net.state_dict().items())
    assert not same(net, plain)
    assert accuracy(net, task, "test") > 0.9


@pytest.mark.parametrize("change", [{"mixup": 0.2}, {"cutmix": 1.0}, {"precision": "bf16"}])
def test_every_part_of_a_recipe_changes_it_and_learns(space, task, arch, change):
    net, plain = network(space, arch), network(space, arch)
    train(net, task, dataclasses.replace(RECIPE, epochs=6, **change), 0)
    train(plain, task, dataclasses.replace(RECIPE, epochs=6), 0)
    assert not same(net, plain)
    assert accuracy(net, task, "test") > 0.8  # a third is chance
    assert {v.dtype for v in net.parameters()} == {torch.float32}


# --- interruptions


class Stop(Exception):
    """What ends a training before its time."""


class Breaking(Task):
    """Fails after so many losses."""

    losses = 0

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        type(self).losses -= 1
        if self.losses < 0:
            raise Stop
        return super().loss(logits, y, smoothing, weights)


class Forgetful(nn.Module):
    """A network that draws random numbers while it trains."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.dropout = net, nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.dropout(x))


@pytest.mark.parametrize("save_every_s", [0, math.inf])
@pytest.mark.parametrize(
    "recipe", [RECIPE, EVERYTHING, ADAMW], ids=["plain", "everything", "adamw"]
)
def test_interrupted_anywhere_it_ends_with_the_same_weights(
    space, task, arch, tmp_path, recipe, save_every_s
):
    """Six steps an epoch; ``inf`` saves at the end of an epoch only, so that steps are repeated."""
    whole, wanted = Forgetful(network(space, arch)), []
    train(whole, task, recipe, 5, wanted.append)
    breaking, rng = Breaking(**vars(task)), random.Random(1)
    told: dict[int, Epoch] = {}
    for _ in range(60):
        net = Forgetful(network(space, arch))  # as a new process builds it
        torch.manual_seed(rng.randrange(100))
        Breaking.losses = rng.randrange(7, 20)
        checkpoint = Checkpoint(tmp_path / "a.safetensors", "key")
        try:
            train(
                net, breaking, recipe, 5, lambda e: told.update({e.number: e}),
                checkpoint=checkpoint, save_every_s=save_every_s,
            )  # fmt: skip
        except Stop:
            continue
        break
    assert same(net, whole)
    strip = [dataclasses.replace(e, seconds=0) for e in wanted]
    assert [dataclasses.replace(told[k], seconds=0) for k in sorted(told)] == strip
    again = Forgetful(network(space, arch))
    train(again, task, recipe, 5, lambda e: pytest.fail("done already"), checkpoint=checkpoint)
    assert same(again, whole)


def test_a_listener_that_fails_hears_the_epoch_again(space, task, arch, tmp_path):
    whole, heard = network(space, arch), []
    train(whole, task, EVERYTHING, 5)

    def listen(e: Epoch) -> None:
        heard.append(e.number)
        if heard.count(2) == 1:
            raise Stop

    checkpoint = Checkpoint(tmp_path / "a.safetensors", "key")
    with pytest.raises(Stop):
        train(network(space, arch), task, EVERYTHING, 5, listen, checkpoint=checkpoint)
    net = network(space, arch)
    train(net, task, EVERYTHING, 5, listen, checkpoint=checkpoint)
    assert heard == [1, 2, 2, 3, 4]
    assert same(net, whole)


class Reporting(Task):
    """Tells another process of every loss."""

    pipe: Connection

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        self.pipe.send("a step")
        return super().loss(logits, y, smoothing, weights)


def child(pipe: Connection, facts: dict[str, Any], space: Mobile, path: Path) -> None:
    importlib.import_module("conftest")  # its threads and draws are ours
    Reporting.pipe = pipe
    arch = Architecture.of(space.id, {c.name: 0 for c in space.choices})
    net, checkpoint = network(space, arch), Checkpoint(path, "key")
    train(net, Reporting(**facts), EVERYTHING, 5, checkpoint=checkpoint, save_every_s=0)


def test_killed_it_ends_with_the_same_weights(space, task, arch, tmp_path):
    whole, path = network(space, arch), tmp_path / "a.safetensors"
    train(whole, task, EVERYTHING, 5)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=child, args=(theirs, vars(task), space, path))
    process.start()
    for _ in range(13):  # the third epoch has begun
        assert ours.poll(120)
        ours.recv()
    process.kill()
    process.join()
    saved = Checkpoint(path, "key").load()
    assert saved is not None and saved.facts["epoch"] > 0
    net = network(space, arch)
    train(net, task, EVERYTHING, 5, checkpoint=Checkpoint(path, "key"))
    assert same(net, whole)


def test_a_checkpoint_of_something_else_is_not_gone_on_from(space, task, arch, tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.safetensors", "key")
    train(network(space, arch), task, RECIPE, 5, checkpoint=checkpoint)
    for other in (nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), Forgetful(network(space, arch))):
        with pytest.raises(CorruptFile, match=r"a\.safetensors .* delete it to start afresh"):
            train(other, task, RECIPE, 5, checkpoint=checkpoint)
    fresh, whole = network(space, arch), network(space, arch)
    train(fresh, task, RECIPE, 6, checkpoint=Checkpoint(checkpoint.path, "another"))
    train(whole, task, RECIPE, 6)
    assert same(fresh, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_trains_and_goes_on(space, task, arch, tmp_path):
    net, checkpoint = network(space, arch).cuda(), Checkpoint(tmp_path / "a.safetensors", "key")
    Breaking.losses = 20
    with pytest.raises(Stop):
        train(net, Breaking(**vars(task)), EVERYTHING, 0, checkpoint=checkpoint, save_every_s=0)
    net = network(space, arch).cuda()
    train(net, task, EVERYTHING, 0, checkpoint=checkpoint)
    assert next(net.parameters()).is_cuda
    assert accuracy(net, task, "test") > 0.8


# --- steps, and when a training ends


def test_steps_are_taken_to_the_last_within_an_epoch(space, task, arch):
    net, seen = network(space, arch), []
    ended = train(net, task, dataclasses.replace(RECIPE, steps=15), 0, seen.append)
    assert [(e.number, e.epochs, e.images) for e in seen] == [
        (1, 3, 192), (2, 3, 192), (3, 3, 96)
    ]  # fmt: skip
    assert (ended.epochs, ended.steps, ended.kept) == (3, 15, 3)
    course = Course.of(dataclasses.replace(RECIPE, steps=15, warmup=0.5), 192)
    rates = [course.lr(k, None) for k in range(15)]
    assert max(rates) == rates[3] == RECIPE.lr and 0 < rates[-1] < 0.02 * RECIPE.lr


class Scripted:
    """A judge that says what it is told to, of 100 images."""

    def __init__(self, shares):
        self.left = list(shares)

    def __call__(self, net):
        right = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return np.arange(100) < right


def test_a_training_of_which_nothing_comes_any_more_ends(space, task, arch):
    """Idle for three epochs; then the rate falls to nothing in a tenth of all steps."""
    recipe = dataclasses.replace(RECIPE, epochs=40, lr=1e-9, patience=0.05)
    ended = train(network(space, arch), task, recipe, 0, judge=Scripted([50]))
    assert ended.epochs == 1 + 3 + 4 and ended.steps == 48
    whole = train(
        network(space, arch), task, dataclasses.replace(recipe, patience=0), 0, judge=Scripted([50])
    )
    assert whole.epochs == 40
    course = Course.of(dataclasses.replace(RECIPE, epochs=40, lr=1.0), 192)
    falling = [course.lr(k, 24) for k in range(24, 48)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == course.lr(24, None) and falling[-1] < 0.05


def test_a_loss_that_falls_by_little_each_time_still_falls():
    net, falling, still = nn.Linear(1, 1), Watch(), Watch()
    for k in range(40):
        falling.tell(0.998**k, None, net)
        still.tell(1.0 - 1e-5 * k, None, net)
        assert falling.idle < 3
    assert still.idle == 39


@pytest.mark.parametrize(("shares", "kept"), [((50, 90, 70), 2), ((50, 74, 70), 3), ((50, 60), 3)])
def test_the_best_is_kept_where_the_end_is_worse_by_more_than_noise(
    space, task, arch, tmp_path, shares, kept
):
    recipe, states_ = dataclasses.replace(RECIPE, epochs=3), []
    net, path = network(space, arch), Checkpoint(tmp_path / "a.safetensors", "key")

    def told(epoch):
        states_.append(states(net))

    ended = train(net, task, recipe, 0, told, judge=Scripted(shares), checkpoint=path)
    assert ended.kept == kept
    assert all(torch.equal(v, states_[kept - 1][k]) for k, v in net.state_dict().items())
    again = network(space, arch)
    assert train(again, task, recipe, 0, judge=Scripted([0]), checkpoint=path) == ended
    assert same(again, net)


@pytest.mark.parametrize("save_every_s", [0, math.inf])
def test_interrupted_where_it_ends_early_it_ends_alike(space, task, arch, tmp_path, save_every_s):
    recipe = dataclasses.replace(RECIPE, epochs=30, patience=0.05, lr=1e-4)

    def judge(net):
        return rights(net, task, "search")

    whole = network(space, arch)
    wanted = train(whole, task, recipe, 5, judge=judge)
    breaking, rng = Breaking(**vars(task)), random.Random(2)
    for _ in range(60):
        net, Breaking.losses = network(space, arch), rng.randrange(7, 40)
        checkpoint = Checkpoint(tmp_path / "a.safetensors", "key")
        try:
            ended = train(
                net, breaking, recipe, 5,
                judge=judge, checkpoint=checkpoint, save_every_s=save_every_s,
            )  # fmt: skip
        except Stop:
            continue
        break
    assert ended == wanted
    assert same(net, whole)


def test_adamw_learns_and_decays_as_sgd_does(space, task, arch):
    net = network(space, arch)
    train(net, task, dataclasses.replace(ADAMW, epochs=16, lr=0.01), 0)
    assert accuracy(net, task, "test") > 0.9
    decayed, kept = optimiser(net, "adamw", 0.9, 0.05).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0)


def test_dropout_is_of_training_alone_and_leaves_no_trace(space, arch):
    net, x = network(space, arch).train(), torch.rand(4, 1, 12, 12)
    keys = list(net.state_dict())
    with dropping(net, 0.5):
        torch.manual_seed(0)
        one = net(x)
        assert not torch.equal(one, net(x))
        net.eval()
        assert torch.equal(net(x), net(x))
    assert list(net.state_dict()) == keys
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    assert not last._forward_pre_hooks


def test_rare_classes_weigh_more_and_all_images_together_the_same(task):
    y = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    uneven = Images(task.parts["train"].x[:100], y)
    task = dataclasses.replace(task, parts={"train": uneven})
    assert task.class_weights("train", 0) is None
    for balance in (0.5, 1.0):
        weights = task.class_weights("train", balance)
        counts = y.bincount()
        assert float((weights * counts).sum()) == pytest.approx(100)
        assert weights[2] / weights[0] == pytest.approx(16**balance)
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    each = nn.functional.cross_entropy(logits, y, reduction="none")
    assert task.loss(logits, y, 0.0, weights) == pytest.approx(
        float((each * weights[y]).sum() / 100), rel=1e-5
    )


# --- trainings that come to nothing


def test_a_network_that_learns_nothing_is_given_up(space, task, arch):
    recipe, heard = dataclasses.replace(RECIPE, lr=1e-9, dead_after=0.5), []
    said = r"after 2 of 4 epochs .* no better than guessing .* change lr \(it is 1e-09\)"
    blank = network(space, arch)
    last = [m for m in blank.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)  # it guesses, whatever it was drawn as
    with pytest.raises(TrainingDiverged, match=said):
        train(blank, task, recipe, 0, heard.append)
    assert len(heard) == 2
    for alive in (dataclasses.replace(recipe, dead_after=0), dataclasses.replace(recipe, epochs=1)):
        train(network(space, arch), task, alive, 0)
    train(network(space, arch), task, dataclasses.replace(RECIPE, dead_after=0.1), 0)


def test_rare_classes_need_more_than_accuracy_to_be_guessed():
    y = torch.tensor([0] * 950 + [1] * 50)
    entropy = -(0.95 * math.log(0.95) + 0.05 * math.log(0.05))

    def nothing(accuracy: float, loss: float, smoothing: float = 0) -> bool:
        return learnt_nothing(Epoch(1, 2, loss, accuracy, len(y), 1.0), y, smoothing)

    assert nothing(0.95, entropy) and nothing(0.5, 3.0)
    assert not nothing(0.95, entropy * 0.7)  # it tells them apart, and still says 0 of each
    assert not nothing(0.99, entropy)
    assert not nothing(0.95, entropy, smoothing=0.1)  # smoothed labels are harder to guess


def test_an_epoch_says_how_fast_it_was():
    e = Epoch(number=2, epochs=5, loss=1, accuracy=0.5, images=600, seconds=3.0)
    assert (e.images_per_second, e.left_s) == (200, 9)


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


def test_a_network_is_scored_at_its_own_resolution(problem, space, monkeypatch):
    """Trained for it, or with the weights of a supernet."""
    space, seen = dataclasses.replace(space, resolutions=(8, 12)), []
    assemble = Mobile.assemble

    def watched(self, layers):
        net = assemble(self, layers)
        net.register_forward_pre_hook(lambda net, x: seen.append(x[0].shape[2]))
        return net

    monkeypatch.setattr(Mobile, "assemble", watched)
    anything = Objective((Total("macs", "multiply-accumulates", 1e9, ops.macs),))
    problem = dataclasses.replace(problem, space=space, objectives=(anything,))
    shared = Shared(problem, space, space.supernet(Mixed), batches=2, batch=32)
    for size, evaluate in itertools.product((8, 12), (shared, Scratch(problem))):
        picks = {c.name: 0 for c in space.choices} | {"resolution": (8, 12).index(size)}
        seen.clear()
        evaluate(Proposal(Architecture.of(space.id, picks), 1), 0)
        assert set(seen) == {size}


def test_scratch_trains_as_long_as_is_proposed(problem, arch):
    problem = dataclasses.replace(problem, recipe=RECIPE)
    short, long = (Scratch(problem)(Proposal(arch, e), 0) for e in (0, 4))
    assert long.metrics["accuracy"] > max(0.9, short.metrics["accuracy"])
