"""What ``auto`` comes to: a recipe that follows the data, and what a network learns from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgenas.config import Train, parse_config
from edgenas.images import Images
from edgenas.pipeline.context import Context
from edgenas.pipeline.cost import costs
from edgenas.pipeline.recipe import judging, learning, planned, recipe, tuning
from edgenas.search import silent
from edgenas.task import Task
from edgenas.train import Course

TARGETS = [{"device": "cpu-onnxruntime", "latency": "<= 5 ms"}]


def of(task: Task, counts: list[int]) -> Task:
    """``task`` with so many images of each class to train on."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = Images(torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(len(y), 1, 1, 1), y)
    return Task(**{**vars(task), "parts": {**task.parts, "train": images}})


@pytest.mark.parametrize(
    ("images", "batch", "steps", "epochs"),
    [(60, 16, 2001, 667), (1617, 32, 2000, 40), (6000, 128, 2024, 44), (54_000, 128, 6315, 15)],
)
def test_small_sets_are_gone_through_more_often(
    task: Task, images: int, batch: int, steps: int, epochs: int
) -> None:
    how = recipe(Train(), of(task, [images // 3] * 3))
    assert (how.batch, how.epochs) == (batch, epochs)
    assert Course.of(how, images).total == steps
    assert how.lr == pytest.approx(0.004 * (batch / 128) ** 0.5) and how.optimizer == "adamw"
    quick = recipe(Train(recipe="quick"), of(task, [images // 3] * 3))
    assert 600 <= Course.of(quick, images).total < steps / 2


def test_what_is_said_is_obeyed(task: Task) -> None:
    some = of(task, [1000, 300, 300])
    said = Train(epochs=6, batch=64, lr=0.1, warmup=0.5, weight_decay=1e-3, dropout=0.0)
    how = recipe(said, some)
    assert (how.epochs, how.batch, how.lr, how.warmup, how.weight_decay, how.dropout) == (
        6, 64, 0.1, 0.5, 1e-3, 0.0,
    )  # fmt: skip
    assert how.optimizer == "sgd" and how.patience == 0  # as before there was another
    assert recipe(Train(lr=0.1, optimizer="adamw"), some).optimizer == "adamw"
    assert recipe(Train(optimizer="sgd"), some).weight_decay == 1e-4
    stepped = recipe(Train(steps=100), some)
    assert Course.of(stepped, 1600).total == 100 and stepped.patience == 0
    assert stepped.warmup * 50 == pytest.approx(20)  # a fifth, in epochs of 50 steps
    assert recipe(Train(epochs=6, patience=0.5), some).patience == 0.5
    assert recipe(Train(), some).patience > 0


def test_classes_count_by_their_images_only_where_they_are_uneven(task: Task) -> None:
    assert recipe(Train(), of(task, [500, 500, 120])).balance == 0
    assert recipe(Train(), of(task, [500, 500, 90])).balance == 0.5
    assert recipe(Train(class_weights="none"), of(task, [500, 500, 90])).balance == 0


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Any]:
    x = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "few.npz", x_train=x, y_train=np.arange(300) % 2)
    return {
        "task": {"dataset": "npz", "path": str(tmp_path / "few.npz")},
        "targets": TARGETS, "search": {"method": "random"},
    }  # fmt: skip


def context(root: Path, written: dict[str, Any], **more: Any) -> Context:
    return Context(root, parse_config(written | more, "x.yaml"), root, silent)


@pytest.mark.parametrize(
    ("more", "judges"),
    [
        ({}, False),
        ({"train": {"search_images": "judge"}}, True),
        ({"train": {"search_images": "learn"}, "quantize": {"epochs": 1}}, False),
        ({"quantize": {"epochs": 1}}, True),
        ({"quantize": {"mixed": True}}, True),
    ],
)
def test_few_images_judge_nothing_and_are_learnt_from(
    tmp_path: Path, written: dict[str, Any], more: dict[str, Any], judges: bool
) -> None:
    ctx = context(tmp_path, written, **more)
    parts = ctx.task.parts
    kept = len(parts["search"]) + len(parts["calibration"])
    assert judging(ctx) == judges
    images = len(learning(ctx, ctx.task).parts["train"])
    assert images == len(parts["train"]) + (0 if judges else kept)
    assert {len(parts["test"]), images + (kept if judges else 0)} == {60, 240}


def test_many_images_judge(tmp_path: Path, written: dict[str, Any]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 1), np.uint8)
    np.savez(
        tmp_path / "many.npz", x_train=x[:600], y_train=np.arange(600) % 2,
        x_val=x, y_val=np.arange(1000) % 2,
    )  # fmt: skip
    task = {"dataset": "npz", "path": str(tmp_path / "many.npz")}
    assert judging(context(tmp_path, written, task=task))


def test_what_is_tuned_takes_of_train_what_is_right_for_it(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    default = tuning(context(tmp_path, written), 2, 0.02)
    assert (default.optimizer, default.lr, default.epochs, default.batch) == ("sgd", 0.02, 2, 16)
    assert default.weight_decay == 1e-4  # not AdamW's
    said = {"lr": 0.1, "weight_decay": 1e-3, "batch": 16}
    assert tuning(context(tmp_path, written, train=said), 1, 0.02).weight_decay == 1e-3
    assert tuning(context(tmp_path, written, train=said), 1, 0.02).batch == 16


def test_a_plan_says_what_is_trained_on(tmp_path: Path, written: dict[str, Any]) -> None:
    search = {"method": "random", "trials": 2, "epochs": 3}
    ctx = context(tmp_path, written, search=search, train={"steps": 77})
    plan = {c.stage: c for c in costs(ctx, ("search", "train"), {"search": 1, "train": 1})}
    work = plan["train"].work
    assert work is not None and asdict(work) == {
        "images": 240, "classes": 2, "resolution": 8, "steps": 77, "batch": 16,
    }  # fmt: skip
    searched = plan["search"].work
    assert searched is not None and searched.images == len(ctx.task.parts["train"])
    assert searched.steps == 6 * (searched.images // searched.batch)
    assert planned(ctx).steps == 77
    done = costs(ctx, ("search", "train"), {"search": 1})
    assert done[1].work is None
