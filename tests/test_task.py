"""Tasks: disjoint balanced parts, repeatable batches, preprocessing, augmentation, settings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from edgenas.augment import Augment
from edgenas.errors import DataError, UnknownName, UsageError
from edgenas.resize import resized
from edgenas.task import Part, Task, load_task

PARTS: tuple[Part, ...] = ("train", "search", "calibration", "test")


def _numbered(n: int, first: int = 0, channels: int = 1) -> np.ndarray:
    """Images that tell which they are: pixel (0, 0) and (0, 1) hold the number."""
    x = np.random.default_rng(first).integers(256, size=(n, 8, 8, channels), dtype=np.uint8)
    number = np.arange(first, first + n)
    x[:, 0, 0], x[:, 0, 1] = (number // 256)[:, None], (number % 256)[:, None]
    return x


def _numbers(task: Task, part: Part) -> list[int]:
    x = task.parts[part].x[:, 0].long()
    return (x[:, 0, 0] * 256 + x[:, 0, 1]).tolist()


def _npz(folder: Path, labels: list[int], test: list[int] | None = None) -> dict[str, Any]:
    arrays = {"x_train": _numbered(len(labels)), "y_train": np.array(labels)}
    if test is not None:
        arrays |= {"x_test": _numbered(len(test), len(labels)), "y_test": np.array(test)}
    np.savez(folder / "data.npz", **arrays)
    return {"dataset": "npz", "path": str(folder / "data.npz")}


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, Any]:
    return _npz(tmp_path, [k % 4 for k in range(400)], [k % 4 for k in range(40)])


# --- parts


@settings(max_examples=40)
@given(st.lists(st.integers(4, 60), min_size=2, max_size=6), st.integers(0, 2**31), st.booleans())
def test_parts_are_disjoint_whole_and_balanced(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int, official: bool
) -> None:
    labels = [k for k, size in enumerate(sizes) for _ in range(size)]
    test = list(range(len(sizes))) if official else None
    task = load_task(_npz(tmp_path_factory.mktemp("d"), labels, test), seed)
    numbers = [n for part in PARTS for n in _numbers(task, part)]
    assert sorted(numbers) == list(range(len(labels) + len(test or [])))
    shares: dict[Part, float] = {"search": 0.1 if official else 0.08, "test": 0.2}
    for part, share in shares.items():
        if part == "test" and official:
            assert _numbers(task, part) == list(range(len(labels), len(labels) + len(sizes)))
            continue
        for have, size in zip(task.parts[part].y.bincount().tolist(), sizes, strict=True):
            assert have >= 1
            assert abs(have - share * size) <= len(sizes)


def test_equal_classes_stay_equal(toy: dict[str, Any]) -> None:
    task = load_task(toy | {"calibration_images": 20}, 0)
    counts = {part: images.y.bincount().tolist() for part, images in task.parts.items()}
    assert counts == {
        "train": [85] * 4,
        "search": [10] * 4,
        "calibration": [5] * 4,
        "test": [10] * 4,
    }


def test_the_seed_decides_the_parts_but_never_the_test(tmp_path: Path) -> None:
    toy = _npz(tmp_path, [k % 4 for k in range(400)])
    one, same, other = (load_task(toy, seed) for seed in (1, 1, 2))
    for part in PARTS:
        assert one.digest(part) == same.digest(part)
    assert one.digest("test") == other.digest("test")
    for part in PARTS[:3]:
        assert one.digest(part) != other.digest(part)


def test_a_share_of_the_images(toy: dict[str, Any]) -> None:
    task = load_task(toy | {"train_images": 100, "test_images": 8}, 0)
    assert {p: len(i) for p, i in task.parts.items()} == {
        "train": 80,
        "search": 10,
        "calibration": 10,
        "test": 8,
    }
    assert task.parts["test"].y.bincount().tolist() == [2] * 4


def test_digest_sees_pixels_labels_and_order(toy: dict[str, Any]) -> None:
    task = load_task(toy, 0)
    images = task.parts["test"]
    changed = images.x.clone()
    changed[3, 0, 7, 7] ^= 1
    others = [
        replace(images, x=changed),
        replace(images, y=images.y.flip(0)),
        images[torch.arange(len(images)).flip(0)],
        replace(images, x=images.x.view(len(images), 1, 4, 16)),
    ]
    digests = {replace(task, parts={"test": i}).digest("test") for i in [images, *others]}
    assert len(digests) == 5


def test_describe_is_json(toy: dict[str, Any]) -> None:
    task = load_task(toy, 0)
    facts = json.loads(json.dumps(task.describe(), allow_nan=False))
    assert facts["input"] == [1, 8, 8]
    assert facts["classes"] == ["0", "1", "2", "3"]
    assert facts["augment"] == {
        "flip": True, "shift": 2, "crop": 1, "rotate": 0, "colour": 0, "cutout": 0
    }  # fmt: skip
    assert facts["parts"]["test"] == {"images": 40, "sha256": task.digest("test")}


# --- batches


def test_preprocessing_is_what_it_says(tmp_path: Path) -> None:
    x = _numbered(60, channels=3)
    np.savez(
        tmp_path / "a.npz", x_train=x, y_train=np.arange(60) % 2, x_test=x, y_test=x[:, 7, 7, 0] % 2
    )
    task = load_task({"dataset": "npz", "path": tmp_path / "a.npz"}, 0)
    pixels = x / 255
    assert task.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=6e-5)
    assert task.std == pytest.approx(pixels.std((0, 1, 2)), abs=6e-5)
    got, y = task.tensors("test")
    want = ((pixels - task.mean) / task.std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
    assert got.dtype == torch.float32 and got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, task.parts["test"].y)


def test_an_epoch_holds_every_image_once(toy: dict[str, Any]) -> None:
    task = load_task(toy, 0)
    batches = list(task.batches("test", 16, 3, augmented=False))
    assert [len(y) for _, y in batches] == [16, 16, 8]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)
    seen = torch.cat([x for x, _ in batches]).flatten(1)
    everything = task.tensors("test")[0].flatten(1)
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, everything.tolist()))


def test_batches_repeat_by_seed(toy: dict[str, Any]) -> None:
    task = load_task(toy, 0)
    one, same, other = (
        torch.cat([x for x, _ in task.batches("train", 32, seed, augmented=True)])
        for seed in (5, 5, 6)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("augmented", [True, False])
def test_a_batch_is_made_without_those_before_it(toy: dict[str, Any], augmented: bool) -> None:
    task = load_task(toy | {"augment": {"cutout": 3}}, 0)
    whole = list(task.batches("train", 32, 5, augmented=augmented))
    for start in (0, 1, 7, len(whole) - 1, len(whole), 99):
        rest = list(task.batches("train", 32, 5, augmented=augmented, start=start))
        assert len(rest) == max(len(whole) - start, 0)
        for (x, y), (want, labels) in zip(rest, whole[start:], strict=True):
            assert torch.equal(x, want) and torch.equal(y, labels)


def test_batches_are_changed_each_in_its_own_way(tmp_path: Path) -> None:
    same = np.tile(_numbered(1), (200, 1, 1, 1))
    np.savez(tmp_path / "a.npz", x_train=same, y_train=np.arange(200) % 2)
    task = load_task({"dataset": "npz", "path": tmp_path / "a.npz", "augment": {"shift": 4}}, 0)
    batches = [x for x, _ in task.batches("train", 16, 0, augmented=True)]
    for number, x in enumerate(batches):
        assert all(not torch.equal(x, other) for other in batches[:number])


def test_a_short_batch_is_dropped_when_augmented_unless_alone(toy: dict[str, Any]) -> None:
    task = load_task(toy, 0)
    assert [len(y) for _, y in task.batches("test", 16, 0, augmented=True)] == [16, 16]
    assert [len(y) for _, y in task.batches("test", 64, 0, augmented=True)] == [40]


def test_augmentation_leaves_the_data_as_it_is(toy: dict[str, Any]) -> None:
    task = load_task(toy | {"augment": {"shift": 0, "cutout": 4}}, 0)
    before = task.digest("train")
    list(task.batches("train", 340, 0, augmented=True))
    assert task.digest("train") == before


def test_images_are_resized_as_they_are_read(toy: dict[str, Any]) -> None:
    """Half the size, antialiased: each pixel the mean of those near it, weighted by a triangle."""
    task = load_task(toy, 0)
    small = task.at(4)
    assert small.input == (1, 4, 4) and task.input == (1, 8, 8)
    assert task.at(8) is task and small.at(4) is small
    assert small.at(8).input == task.input
    x, y = task.tensors("test")
    got, labels = small.tensors("test")
    assert torch.equal(y, labels)
    weights = torch.zeros(4, 8)
    for i in range(4):
        for j in range(8):
            weights[i, j] = max(0.0, 1 - abs(j + 0.5 - (2 * i + 1)) / 2)
    weights /= weights.sum(1, keepdim=True)
    torch.testing.assert_close(got, weights @ x @ weights.T)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert small.digest("test") == task.digest("test")  # the same data


def test_every_batch_is_resized_after_augmentation(toy: dict[str, Any]) -> None:
    task = load_task(toy | {"augment": {"cutout": 3, "shift": 2}}, 0)
    for part, augmented in (("train", True), ("search", False)):
        whole = task.batches(part, 16, 3, augmented=augmented)
        for (x, y), (small, labels) in zip(
            whole, task.at(5).batches(part, 16, 3, augmented=augmented), strict=True
        ):
            assert small.shape[1:] == (1, 5, 5)
            assert torch.equal(y, labels)
            torch.testing.assert_close(small, resized(x, 5))


def test_the_cpu_needs_no_copy(toy: dict[str, Any]) -> None:
    task = load_task(toy, 0)
    assert task.on(torch.device("cpu")) is task


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_makes_the_same_batches(toy: dict[str, Any]) -> None:
    task = load_task(toy | {"augment": {"cutout": 3}}, 0)
    moved = task.on(torch.device("cuda"))
    assert moved.parts["train"].x.is_cuda
    assert moved.digest("train") == task.digest("train")
    here, there = (list(t.batches("train", 32, 5, augmented=True)) for t in (task, moved))
    for (x, y), (other, labels) in zip(here, there, strict=True):
        assert other.is_cuda
        torch.testing.assert_close(x, other.cpu())
        assert torch.equal(y, labels.cpu())


def test_limit_spreads_over_the_part(tmp_path: Path) -> None:
    task = load_task(_npz(tmp_path, [0, 1] * 40, [0] * 30 + [1] * 30), 0)
    x, y = task.tensors("test", 10)
    assert y.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(x[1], task.tensors("test")[0][6])
    assert len(task.tensors("test", 1000)[1]) == 60


def test_loss_and_correct(toy: dict[str, Any]) -> None:
    task = load_task(toy, 0)
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    y = torch.tensor([0, 1, 1])
    assert task.correct(logits, y) == 2
    log_p = logits.log_softmax(1)
    plain = -log_p[torch.arange(3), y].mean()
    assert float(task.loss(logits, y)) == pytest.approx(float(plain))
    smoothed = 0.9 * plain - 0.1 * log_p.mean()
    assert float(task.loss(logits, y, 0.1)) == pytest.approx(float(smoothed))


# --- augmentation


def _pixels(n: int, c: int = 2, size: int = 9) -> torch.Tensor:
    return torch.randint(1, 256, (n, c, size, size), generator=Generator().manual_seed(0)).byte()


def _shifted(x: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    padded = torch.nn.functional.pad(x, (3, 3, 3, 3))
    h, w = x.shape[1:]
    return padded[:, 3 + dy : 3 + dy + h, 3 + dx : 3 + dx + w]


def test_shift_and_flip_give_every_view_and_no_other() -> None:
    x = _pixels(1).expand(600, -1, -1, -1)
    got = Augment(flip=True, shift=2)(x, Generator().manual_seed(1))
    views = [_shifted(x[0], dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    allowed = {tuple(v.flatten().tolist()) for view in views for v in (view, view.flip(2))}
    seen = {tuple(image.flatten().tolist()) for image in got}
    assert len(allowed) == 50
    assert seen == allowed


def test_flip_alone_turns_about_half() -> None:
    x = _pixels(400)
    got = Augment(flip=True, shift=0)(x, Generator().manual_seed(2))
    same = (got == x).flatten(1).all(1)
    turned = (got == x.flip(3)).flatten(1).all(1)
    assert bool((same ^ turned).all())
    assert 150 < int(turned.sum()) < 250


def test_cutout_is_one_square_in_all_channels() -> None:
    x = torch.zeros(300, 2, 9, 9, dtype=torch.uint8)
    got = Augment(flip=False, shift=0, cutout=3)(x, Generator().manual_seed(3)) == 128
    assert torch.equal(got[:, 0], got[:, 1])
    rows, columns = got[:, 0].any(2).sum(1), got[:, 0].any(1).sum(1)
    assert torch.equal(got[:, 0].sum((1, 2)), rows * columns)
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3}


def test_nothing_asked_nothing_changed() -> None:
    x = _pixels(5)
    assert torch.equal(Augment(flip=False, shift=0)(x, Generator()), x)


ONLY: dict[str, Any] = {"flip": False, "shift": 0}


@pytest.mark.parametrize("change", [{"crop": 0.3}, {"rotate": 30.0}, {"colour": 0.4}])
def test_what_photos_are_changed_by_is_drawn_for_each_image_and_repeats(
    change: dict[str, Any],
) -> None:
    x = _pixels(1, 3, 16).expand(8, -1, -1, -1)
    before, augment = x.clone(), Augment(**ONLY, **change)
    got = augment(x, Generator().manual_seed(4))
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    assert torch.equal(got, augment(x, Generator().manual_seed(4)))
    assert len({tuple(image.flatten().tolist()) for image in got}) == 8
    assert torch.equal(x, before)


def test_a_window_is_at_least_as_large_as_is_said_and_lies_inside() -> None:
    ramp = torch.arange(64).float().mul(4).byte()
    x = torch.stack([ramp.expand(64, -1), ramp[:, None].expand(-1, 64)])[None].expand(
        400, -1, -1, -1
    )
    got = Augment(**ONLY, crop=0.5)(x, Generator().manual_seed(5)).float()
    wide = (got[:, 0, 0, -1] - got[:, 0, 0, 0]) / 252
    high = (got[:, 1, -1, 0] - got[:, 1, 0, 0]) / 252
    area = wide * high
    assert 0.5 - 0.03 < float(area.min()) < 0.55 and 0.9 < float(area.max()) <= 1
    ratio = wide / high
    assert 1.2 < float(ratio.max()) < 1.4 and 0.7 < float(ratio.min()) < 0.83
    assert float(got[:, 0].std(1).max()) < 1  # columns stay columns: it is not turned


def test_an_image_is_turned_by_no_more_than_is_said() -> None:
    x = torch.zeros(300, 1, 33, 33, dtype=torch.uint8)
    x[:, :, 16] = 255  # a line across the middle
    got = Augment(**ONLY, rotate=20.0)(x, Generator().manual_seed(6)).float()[:, 0]
    rise = got[:, :, 28].argmax(1) - got[:, :, 4].argmax(1)
    angle = torch.atan(rise / 24) * 180 / torch.pi
    assert 15 < float(angle.max()) < 23 and -23 < float(angle.min()) < -15  # to a pixel


def test_colour_changes_what_it_says() -> None:
    x = torch.full((300, 3, 4, 4), 100, dtype=torch.uint8)
    x[:, 0], x[:, :, 0] = 140, 60
    got = Augment(**ONLY, colour=0.3)(x, Generator().manual_seed(7)).float()
    bright = got.mean((1, 2, 3)) / x.float().mean()
    assert 0.68 < float(bright.min()) < 0.75 and 1.25 < float(bright.max()) < 1.32
    grey = got[:, :, 0]  # what has no colour gets none
    assert torch.equal(grey, grey[:, :1].expand_as(grey))


OWN = """
import torch
def inverted(x, generator):
    return 255 - x
def drawn(x, generator):
    return torch.randint(256, x.shape, generator=generator).byte()
def spoils(x, generator):
    x.zero_()
    return x
def floats(x, generator):
    return x / 255
def fewer(x, generator):
    return x[1:]
def fails(x, generator):
    raise KeyError("oh")
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def test_ones_own_augmentation_is_called(toy: dict[str, Any], own: str) -> None:
    task = load_task(toy | {"augment": f"{own}:inverted"}, 0)
    plain = load_task(toy | {"augment": ONLY}, 0)
    for (x, _), (y, _) in zip(
        task.batches("train", 32, 5, augmented=True),
        plain.batches("train", 32, 5, augmented=True), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(x + y, x[0, 0, 0, 0] + y[0, 0, 0, 0] + torch.zeros_like(x))
    assert task.describe()["augment"] == f"{own}:inverted"
    drawn = load_task(toy | {"augment": f"{own}:drawn"}, 0)
    one, other = (list(drawn.batches("train", 32, 5, augmented=True)) for _ in range(2))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))
    before = task.digest("train")
    list(load_task(toy | {"augment": f"{own}:spoils"}, 0).batches("train", 32, 5, augmented=True))
    assert load_task(toy, 0).digest("train") == before


def test_ones_own_augmentation_is_another_when_its_file_changes(
    toy: dict[str, Any], own: str
) -> None:
    before = load_task(toy | {"augment": f"{own}:inverted"}, 0).augment.key
    Path(own).write_text(OWN + "# changed")
    assert load_task(toy | {"augment": f"{own}:inverted"}, 0).augment.key != before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("floats", "gave one of torch.float32"), ("fewer", r"and shape \(1, 1, 8, 8\)"),
        ("fails", r"raised KeyError.*oh"), ("absent", "has no function 'absent'"),
    ],
)  # fmt: skip
def test_ones_own_augmentation_is_tried_at_once(
    toy: dict[str, Any], own: str, name: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        load_task(toy | {"augment": f"{own}:{name}"}, 0)


def test_parts_can_be_learnt_from_together(toy: dict[str, Any]) -> None:
    task = load_task(toy, 0)
    joined = task.joined("search", "calibration")
    sizes = {part: len(task.parts[part]) for part in PARTS}
    assert len(joined.parts["train"]) == sum(sizes.values()) - sizes["test"]
    assert all(joined.digest(part) == task.digest(part) for part in PARTS if part != "train")


# --- settings and images that cannot be used


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"dataset": "npzz"}, UnknownName, "Did you mean 'npz'?"),
        ({"train_image": 5}, UsageError, "unknown key 'train_image'. Did you mean 'train_images'?"),
        ({"search_share": 0}, UsageError, "search_share"),
        ({"test_share": 0.6}, UsageError, "test_share"),
        ({"train_images": -1}, UsageError, "train_images"),
        ({"train_images": 401}, DataError, "train_images is 401, but there are 400"),
        ({"test_images": 41}, DataError, "test_images is 41, but there are 40"),
        ({"train_images": 3}, DataError, "3 training images do not give"),
        ({"calibration_images": 400}, DataError, "lower calibration_images"),
        ({"augment": {"flop": True}}, UsageError, "task: augment: unknown key 'flop'"),
        ({"augment": {"shift": -1}}, UsageError, "task: augment: shift"),
        ({"augment": {"crop": 0}}, UsageError, "task: augment: crop"),
        ({"augment": {"rotate": 200}}, UsageError, "task: augment: rotate"),
        ({"augment": {"colour": 2}}, UsageError, "task: augment: colour"),
        ({"augment": "nothing"}, DataError, "task: augment 'nothing': write it as module:function"),
        ({"path": "absent.npz"}, DataError, "there is no absent.npz"),
        ({"path": "/dev/zero"}, DataError, "/dev/zero is no regular file"),
        ({"mean": [127.0]}, UsageError, "pixels from 0 to 1: divide by 255"),
        ({"mean": [-0.1]}, UsageError, "pixels from 0 to 1"),
        ({"mean": [0.5], "std": [58.4]}, UsageError, "pixels from 0 to 1: divide by 255"),
    ],
)
def test_settings_that_cannot_be_used(
    toy: dict[str, Any], change: dict[str, Any], error: type[UsageError], said: str
) -> None:
    with pytest.raises(error) as raised:
        load_task(toy | change, 0)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_dataset_named() -> None:
    with pytest.raises(UsageError, match="dataset"):
        load_task({}, 0)


@pytest.mark.parametrize(
    ("labels", "test", "said"),
    [
        ([0] * 40, None, "1 class; expected two or more"),
        ([0] * 40 + [1] * 2, None, "class '1' has 2 images, none of them in the part"),
        ([0] * 40 + [1] * 40, [0] * 5, "class '1' has 40 images, none of them in the part 'test'"),
        ([0] * 40 + [2] * 40, None, "class '1' has 0 images"),
        ([0, 1], None, "training images do not give"),
    ],
)
def test_classes_with_too_few_images(
    tmp_path: Path, labels: list[int], test: list[int] | None, said: str
) -> None:
    with pytest.raises(DataError) as error:
        load_task(_npz(tmp_path, labels, test), 0)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_images_without_content(tmp_path: Path) -> None:
    x = np.full((40, 8, 8), 7, np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(40) % 2)
    with pytest.raises(DataError, match="one value in every image"):
        load_task({"dataset": "npz", "path": tmp_path / "a.npz"}, 0)
