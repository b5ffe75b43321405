"""What of a folder is an image of which class and part, and what is said of the rest."""

import logging
import os
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.datasets.folder import Folder
from edgenas.errors import DataError
from edgenas.task import Part, load_task


def _fill(folder: Path, count: int, seed: int = 0) -> None:
    """Images that are there once: pixel (0, 0) holds ``seed``, (0, 1) the number."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        pixels = np.random.default_rng([seed, k]).integers(256, size=(8, 8, 3), dtype=np.uint8)
        pixels[0, 0], pixels[0, 1] = seed, k
        Image.fromarray(pixels).save(folder / f"{k}.png")


def _classes(top: Path, count: int, seed: int = 0) -> None:
    for label, name in enumerate(("cat", "dog")):
        _fill(top / name, count, seed + label)


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "edgenas.task"]


# --- what does not count


@pytest.mark.parametrize(
    "hidden",
    ["cat/.ipynb_checkpoints", "cat/deep/.cache/er", ".git", "dog/.@__thumb", "__MACOSX/cat",
     "cat/@eaDir/x", "$RECYCLE.BIN", "train/cat/.ipynb_checkpoints", ".train/cat"],
)  # fmt: skip
def test_what_is_hidden_is_no_image_and_no_class(tmp_path: Path, hidden: str) -> None:
    top = tmp_path / "train" if hidden.startswith("train") else tmp_path
    _classes(top, 5)
    _fill(tmp_path / hidden, 4, seed=7)
    Image.new("RGB", (8, 8)).save(top / "cat" / "._0.png")
    Image.new("RGB", (8, 8)).save(top / "dog" / ".0.png")
    raw = Folder(tmp_path).load()
    assert raw.classes == ("cat", "dog")
    assert raw.train.y.tolist() == [0] * 5 + [1] * 5 and raw.test is None
    assert set(raw.train.x[:, 0, 0, 0].tolist()) == {0, 1}


def test_a_data_set_within_a_hidden_folder_is_one(tmp_path: Path) -> None:
    _classes(tmp_path / ".cache" / "photos", 3)
    assert len(Folder(tmp_path / ".cache" / "photos").load().train) == 6


# --- parts


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"), ("Train", None, "Test"), ("training", "validation", None),
        ("TRAINING", "Dev", "TESTING"), ("training_set", None, "test_set"),
        ("Train Images", "valid", "test-data"), ("trainset", "VALID", None),
    ],
)  # fmt: skip
def test_parts_are_known_by_their_usual_names(
    tmp_path: Path, train: str, val: str | None, test: str | None
) -> None:
    for name, count, seed in ((train, 20, 0), (val, 3, 10), (test, 4, 20)):
        if name is not None:
            _classes(tmp_path / name, count, seed)
    task = load_task({"dataset": "folder", "path": str(tmp_path)}, 0)
    assert task.classes == ("cat", "dog")
    sources: Mapping[Part, set[int]] = {
        part: set((images.x[:, 0, 0, 0] // 10).tolist()) for part, images in task.parts.items()
    }
    assert sources["train"] == sources["calibration"] == {0}
    assert sources["search"] == ({0} if val is None else {1})
    assert sources["test"] == ({0} if test is None else {2})
    if val is not None:
        assert len(task.parts["search"]) == 6  # all of it
    if test is not None:
        assert len(task.parts["test"]) == 8
    assert sum(map(len, task.parts.values())) == 40 + 6 * (val is not None) + 8 * (test is not None)


def _both_spellings(top: Path) -> None:
    _classes(top / "train", 3)
    _classes(top / "Training", 3)


def _val_twice(top: Path) -> None:
    _classes(top / "train", 3)
    _classes(top / "dev", 3)
    _classes(top / "validation", 3)


def _test_alone(top: Path) -> None:
    _classes(top / "test", 3)


def _no_train(top: Path) -> None:
    _classes(top / "Val", 3)
    _classes(top / "test", 3)


def _beside_classes(top: Path) -> None:
    _classes(top, 3)
    _classes(top / "test", 3)


def _train_beside_classes(top: Path) -> None:
    _classes(top, 3)
    _classes(top / "train", 3)


def _a_class_named_valid(top: Path) -> None:
    _fill(top / "valid", 3)
    _fill(top / "invalid", 3)


def _a_class_named_train(top: Path) -> None:
    for name in ("train", "car", "bus"):
        _fill(top / name, 3)


def _images_without_classes(top: Path) -> None:
    _fill(top / "train", 3)
    _fill(top / "test", 3)


def _no_dogs_in_val(top: Path) -> None:
    _classes(top / "train", 3)
    _fill(top / "val" / "cat", 3)


def _another_class_in_val(top: Path) -> None:
    _classes(top / "train", 3)
    _classes(top / "val", 3)
    _fill(top / "val" / "emu", 3)


@pytest.mark.parametrize(
    ("lay", "said"),
    [
        (_both_spellings, ["'Training' and 'train'", "one part"]),
        (_val_twice, ["'dev' and 'validation'", "one part"]),
        (_test_alone, ["'test'", "no 'train'", "{top}/test"]),
        (_no_train, ["'Val'", "no 'train'"]),
        (_beside_classes, ["'test'", "no 'train'"]),
        (_train_beside_classes, ["'train'", "'cat'", "is not"]),
        (_a_class_named_valid, ["'valid'", "no 'train'", "{top}/train"]),
        (_a_class_named_train, ["{top}/train has no class folders", "put all into {top}/train"]),
        (_images_without_classes, ["{top}/train has no class folders"]),
        (_no_dogs_in_val, ["{top}/val/dog has no images"]),
        (_another_class_in_val, ["{top}/val has the class 'emu'"]),
    ],
)
def test_parts_that_could_be_meant_in_two_ways_are_refused(
    tmp_path: Path, lay: Callable[[Path], None], said: list[str]
) -> None:
    lay(tmp_path)
    with pytest.raises(DataError) as error:
        Folder(tmp_path).load()
    for part in said:
        assert part.format(top=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_named_as_parts_stand_in_a_folder_of_a_part(tmp_path: Path) -> None:
    for name in ("valid", "invalid"):
        _fill(tmp_path / "train" / name, 3)
    assert Folder(tmp_path).load().classes == ("invalid", "valid")


def test_what_is_not_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _classes(tmp_path / "train", 20)
    _classes(tmp_path / "test", 4, seed=20)
    _fill(tmp_path, 2, seed=5)
    _fill(tmp_path / "train", 1, seed=6)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 1 2 3")
    (tmp_path / "README").write_text("of the data")
    with caplog.at_level(logging.WARNING):
        load_task({"dataset": "folder", "path": str(tmp_path)}, 0)
    said = _said(caplog)
    assert f"note: {tmp_path / 'labels'} has no images: not read" in said
    assert any("3 images lie in no folder of a class" in text for text in said)
    assert len(said) == 2
    load_task({"dataset": "folder", "path": str(tmp_path)}, 0)
    assert _said(caplog) == said  # once a process


# --- links


def test_linked_folders_are_followed_and_cycles_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(tmp_path / "pool" / "more", 15, seed=3)
    _fill(tmp_path / "elsewhere", 15, seed=4)
    _classes(tmp_path / "set", 15)
    cat = tmp_path / "set" / "cat"
    (cat / "more").symlink_to(tmp_path / "pool" / "more")
    (tmp_path / "set" / "emu").symlink_to(tmp_path / "elsewhere")
    (cat / "one.png").symlink_to(tmp_path / "pool" / "more" / "0.png")
    for name, target in (
        ("itself", cat), ("up", tmp_path / "set"), ("far-up", Path("/")), ("again", cat / "more"),
    ):  # fmt: skip
        (cat / name).symlink_to(target)
    (tmp_path / "pool" / "more" / "round").symlink_to(tmp_path / "set")
    with caplog.at_level(logging.WARNING):
        task = load_task({"dataset": "folder", "path": str(tmp_path / "set")}, 0)
    assert task.classes == ("cat", "dog", "emu")
    count = np.zeros(3, int)
    for images in task.parts.values():
        count += images.y.bincount(minlength=3).numpy()
    assert count.tolist() == [31, 15, 15]
    assert any("not followed" in text for text in _said(caplog))


@pytest.mark.parametrize("broken", ["cow", "train", "loop"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, broken: str) -> None:
    _classes(tmp_path, 3)
    target = tmp_path / (broken if broken == "loop" else "absent")
    (tmp_path / broken).symlink_to(target)
    with pytest.raises(DataError, match=f"{broken} is a link that leads nowhere"):
        Folder(tmp_path).load()


def test_an_image_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    _classes(tmp_path, 3)
    (tmp_path / "cat" / "x.jpg").symlink_to(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match=r"cat/x\.jpg cannot be read as an image: .*No such file"):
        Folder(tmp_path).load()


# --- names


def test_a_name_that_is_composed_in_one_part_and_not_in_the_other(tmp_path: Path) -> None:
    for form, part in (("NFC", "train"), ("NFD", "test")):
        for name in ("café", "thé"):
            _fill(tmp_path / part / unicodedata.normalize(form, name), 2)
    raw = Folder(tmp_path).load()
    assert raw.classes == tuple(unicodedata.normalize("NFC", n) for n in ("café", "thé"))
    assert raw.test is not None and raw.test.y.tolist() == [0, 0, 1, 1]


def _twins(top: Path) -> None:
    for form in ("NFC", "NFD"):
        _fill(top / unicodedata.normalize(form, "café"), 2)


def _latin(top: Path) -> None:
    _fill(Path(os.fsdecode(os.fsencode(top) + b"/caf\xe9")), 2)


def _blank(top: Path) -> None:
    _fill(top / " ", 2)


@pytest.mark.parametrize(
    ("spoil", "said"), [(_twins, "two classes are called"), (_latin, "not UTF-8"), (_blank, "' '")]
)
def test_names_that_no_file_can_hold_are_refused_before_an_image_is_read(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    _classes(tmp_path, 2)
    (tmp_path / "cat" / "broken.png").write_bytes(b"not read")
    spoil(tmp_path)
    with pytest.raises(DataError, match=said) as error:
        Folder(tmp_path).load()
    str(error.value).encode()


def test_files_of_any_name_are_images(tmp_path: Path) -> None:
    _classes(tmp_path, 2)
    name = os.fsencode(tmp_path / "cat") + b"/caf\xe9 \n'\"[red].png"
    os.rename(tmp_path / "cat" / "0.png", name)
    assert len(Folder(tmp_path).load().train) == 4
    with open(name, "wb") as file:
        file.write(b"junk")
    with pytest.raises(DataError, match="cannot be read as an image") as error:
        Folder(tmp_path).load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("a", "a"), "two classes are called 'a'"),
        (("caf\udce9", "b"), "not UTF-8"),
        (("café", "café"), "two classes are called"),
        (("", "b"), "the name of a class is ''"),
    ],
)
def test_names_are_checked_whatever_the_data_set_is(
    tmp_path: Path, classes: tuple[str, str], said: str
) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "import numpy as np\n"
        "def data(classes):\n"
        "    x = np.random.default_rng(0).integers(256, size=(60, 8, 8), dtype=np.uint8)\n"
        "    return {'x_train': x, 'y_train': np.arange(60) % 2, 'classes': classes}\n"
    )
    settings = {"dataset": "function", "call": f"{code}:data"}
    with pytest.raises(DataError, match=said):
        load_task({**settings, "arguments": {"classes": list(classes)}}, 0)
    load_task({**settings, "arguments": {"classes": ["a", "A"]}}, 0)


# --- the same image twice


def test_images_that_are_in_two_parts_or_classes_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _classes(tmp_path / "train", 20)
    _classes(tmp_path / "test", 5, seed=30)
    os.link(tmp_path / "train" / "dog" / "3.png", tmp_path / "test" / "dog" / "seen.png")
    (tmp_path / "test" / "cat" / "seen.png").symlink_to(tmp_path / "train" / "cat" / "4.png")
    os.link(tmp_path / "train" / "dog" / "7.png", tmp_path / "train" / "cat" / "both.png")
    with caplog.at_level(logging.WARNING):
        task = load_task({"dataset": "folder", "path": str(tmp_path)}, 0)
    assert len(task.parts["test"]) == 12
    said = _said(caplog)
    assert any("2 of 12 images of the test part are among those to learn from" in t for t in said)
    assert any("1 of 41 images to learn from are of two classes at once" in t for t in said)


# --- parts that are taken for classes


def _inside(top: Path, parts: tuple[str, ...]) -> None:
    """Parts in the folder of each class."""
    for seed, name in enumerate(("cat", "dog")):
        for k, part in enumerate(parts):
            _fill(top / name / part, 3, seed=10 * seed + k)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("seg_train", "seg_test"), ("train1", "test1"), ("train_v2", "test_v2"),
        ("1_train", "2_test"), ("Train2017", "Val2017"), ("TrainImgs", "EvalImgs"),
        ("my training set", "my hold-out"), ("x-dev-1", "x-trn-2"), ("1. trainval", "2. tst"),
        ("trainA", "testA"), ("seg_train", "seg_pred"), ("train_a", "more"),
    ],
)  # fmt: skip
def test_parts_of_unusual_names_are_not_taken_for_classes(
    tmp_path: Path, one: str, other: str
) -> None:
    _classes(tmp_path / "d" / one, 3)
    _classes(tmp_path / "d" / other, 3, seed=20)
    with pytest.raises(DataError) as error:
        Folder(tmp_path / "d").load()
    said = str(error.value)
    assert repr(one) in said and repr(other) in said and "\n" not in said
    assert "'train', 'val' and 'test'" in said and f"into {tmp_path / 'd' / 'train'}" in said
    (tmp_path / "d").rename(tmp_path / "train")  # as advised, where they are classes
    assert set(Folder(tmp_path).load().classes) == {one, other}


@pytest.mark.parametrize(
    "names",
    [("cat_train", "cat_test", "dog_train", "dog_test"), ("train1", "test1"), ("trainA", "testA")],
)
def test_nor_where_images_lie_in_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    for seed, name in enumerate(names):
        _fill(tmp_path / name, 3, seed)
    with pytest.raises(DataError, match="look like parts of a data set, not like classes"):
        Folder(tmp_path).load()


@pytest.mark.parametrize(
    "parts",
    [("train", "test"), ("Training", "Validation"), ("test",), ("a/b/val",), ("test_set/1",),
     ("a_train", "a_test"), ("train1", "test1")],
)  # fmt: skip
def test_parts_within_classes_are_refused(tmp_path: Path, parts: tuple[str, ...]) -> None:
    _inside(tmp_path / "d", parts)
    _fill(tmp_path / "d" / "cat", 2, seed=30)
    with pytest.raises(DataError, match="is named as a part of a data set") as error:
        Folder(tmp_path / "d").load()
    said = str(error.value)
    assert f"{tmp_path / 'd' / 'cat'}" in said and f"{tmp_path / 'd' / 'train'}" in said
    assert "\n" not in said
    (tmp_path / "d").rename(tmp_path / "train")  # as advised, where all are to be learned from
    raw = Folder(tmp_path).load()
    assert raw.classes == ("cat", "dog")
    assert sum("is named as a part of a data set" in note for note in raw.notes) == 2


@pytest.mark.parametrize(
    "names",
    [("train_station", "test_tube", "airport"), ("bullet_train", "rocket"), ("latest", "contest"),
     ("positive_test", "negative_test"), ("strain", "training_shoe")],
)  # fmt: skip
def test_classes_that_only_sound_like_parts_are_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for seed, name in enumerate(names):
        _fill(tmp_path / name / f"from-{seed}", 3, seed)
    raw = Folder(tmp_path).load()
    assert raw.classes == tuple(sorted(names)) and raw.notes == ()


@pytest.mark.parametrize("tops", [("fold1", "fold2"), ("2023", "2024"), ("red", "blue", "green")])
def test_folders_that_every_class_has_are_told(tmp_path: Path, tops: tuple[str, ...]) -> None:
    for seed, top in enumerate(tops):
        _classes(tmp_path / top, 3, seed=10 * seed)
    (note,) = Folder(tmp_path).load().notes
    assert all(repr(top) in note for top in tops) and "'cat', 'dog'" in note
    _fill(tmp_path / tops[0], 1, seed=50)  # images beside them: it is a class
    assert Folder(tmp_path).load().notes == ()
