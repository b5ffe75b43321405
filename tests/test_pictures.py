"""Files as images: loader and classifier read the same pixels, or refuse alike."""

import io
import logging
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from edgenas import classify
from edgenas.datasets.folder import Folder
from edgenas.errors import DataError
from edgenas.task import load_task

SIDE = 24


def _rgb(h: int = 30, w: int = 44, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(h, w, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _rgba() -> Image.Image:
    picture = _rgb()
    picture.putalpha(_rgb(seed=1).convert("L"))
    return picture


def _deep() -> Image.Image:
    pixels = np.random.default_rng(0).integers(65536, size=(30, 44)).astype(np.uint16)
    return Image.fromarray(pixels)


def _exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A block with ``entries``: tag, type, count, four bytes."""
    body = b"".join(struct.pack("<HHL", *e[:3]) + e[3].ljust(4, b"\0") for e in entries)
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries)) + body + bytes(4)


TURNED = (0x0112, 3, 1, struct.pack("<H", 6))
ODD_EXIF = {
    "text-as-number": _exif(TURNED, (0x0102, 2, 3, b"ab\0")),
    "no-such-folder-in-it": _exif(TURNED, (0x8769, 4, 1, struct.pack("<L", 999_999))),
    "a-float-for-a-size": _exif(TURNED, (0x0100, 11, 1, struct.pack("<f", 1.5))),
    "text-for-a-resolution": _exif(TURNED, (0x011A, 2, 4, b"abc\0")),
    "gps-that-is-none": _exif(TURNED, (0x8825, 3, 1, b"\1\0")),
    "of-an-unknown-type": _exif(TURNED, (0x9999, 99, 1, b"aaaa")),
    "longer-than-the-file": _exif(TURNED, (0x927C, 7, 0xFFFFFFFF, b"aaaa")),
}
NO_TURN = {
    "text-for-an-orientation": _exif((0x0112, 2, 4, b"6\0\0\0")),
    "of-no-meaning": _exif((0x0112, 3, 1, struct.pack("<H", 77))),
    "nothing": b"Exif\0\0",
    "garbage": b"Exif\0\0" + bytes(range(60)),
}


def _jpeg_with(exif: bytes, picture: Image.Image) -> bytes:
    plain = io.BytesIO()
    picture.save(plain, "JPEG", quality=95)
    raw = plain.getvalue()
    return raw[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + raw[2:]


def _many(folder: Path) -> list[Path]:
    """Files of many modes, formats and oddities."""
    folder.mkdir()
    rgb, rgba = _rgb(), _rgba()
    palette = rgb.convert("P")
    for name, picture, options in (
        ("rgb.png", rgb, {}), ("rgb.jpg", rgb, {}), ("rgb.jfif", rgb, {"format": "JPEG"}),
        ("rgb.jpe", rgb, {}), ("rgb.webp", rgb, {}), ("rgb.bmp", rgb, {}), ("rgb.tif", rgb, {}),
        ("lzw.tif", rgb, {"compression": "tiff_lzw"}), ("rgb.gif", rgb, {}), ("rgb.jp2", rgb, {}),
        ("rgb.avif", rgb, {}), ("rgb.tga", rgb, {}), ("rgb.ppm", rgb, {}),
        ("grey.png", rgb.convert("L"), {}), ("grey.jpg", rgb.convert("L"), {}),
        ("grey.tga", rgb.convert("L"), {}), ("bit.png", rgb.convert("1"), {}),
        ("fax.tif", rgb.convert("1"), {"compression": "group4"}),
        ("cmyk.jpg", rgb.convert("CMYK"), {}), ("cmyk.tif", rgb.convert("CMYK"), {}),
        ("ycc.tif", rgb.convert("YCbCr"), {}), ("lab.tif", rgb.convert("LAB"), {}),
        ("palette.png", palette, {}), ("palette.tif", palette, {}),
        ("rgba.png", rgba, {}), ("rgba.webp", rgba, {}), ("rgba.tif", rgba, {}),
        ("rgba.tga", rgba, {}), ("rgba.avif", rgba, {}), ("rgba.gif", rgba, {}),
        ("la.png", rgba.convert("LA"), {}), ("la.tif", rgba.convert("LA"), {}),
        ("one-colour.png", palette, {"transparency": 3}),
        ("each-colour.png", palette, {"transparency": bytes(range(256))}),
        ("one-grey.png", rgb.convert("L"), {"transparency": 7}),
        ("one-rgb.png", rgb, {"transparency": (1, 2, 3)}),
        ("moving.gif", rgb, {"save_all": True, "append_images": [_rgb(seed=3)]}),
        ("moving.webp", rgba, {"save_all": True, "append_images": [_rgb(seed=3)]}),
        ("pages.tif", rgb, {"save_all": True, "append_images": [_rgb(seed=3)]}),
        ("deep.png", _deep(), {}), ("deep.tif", _deep(), {}), ("deep.jp2", _deep(), {}),
        ("float.tif", rgb.convert("F"), {}),
    ):  # fmt: skip
        picture.save(folder / name, **options)
    for turn in range(10):
        exif = Image.Exif()
        exif[0x0112] = turn
        for suffix in ("jpg", "png", "tif", "webp", "avif"):
            rgb.save(folder / f"turned-{turn}.{suffix}", exif=exif)
    for name, exif in (ODD_EXIF | NO_TURN).items():
        (folder / f"{name}.jpg").write_bytes(_jpeg_with(exif, rgb))
        rgb.save(folder / f"{name}.png", exif=exif)
    return sorted(folder.iterdir())


def _loaded(path: Path, scratch: Path, **settings: object) -> np.ndarray:
    """(h, w, c) as the data set has it that holds ``path`` alone in one class."""
    for name in ("a", "b"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
        for old in (scratch / name).iterdir():
            old.unlink()
    (scratch / "a" / path.name).symlink_to(path)
    _rgb(seed=9).save(scratch / "b" / "other.png")
    raw = Folder(scratch, **settings).load()
    return raw.train.x[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("fit", "background", "channels"),
    [("crop", "white", 3), ("pad", "#ff8000", 3), ("stretch", "black", 1), ("pad", "navy", None)],
)
def test_the_classifier_sees_what_the_network_was_trained_on(
    tmp_path: Path, fit: str, background: str, channels: int | None
) -> None:
    refused = set()
    for path in _many(tmp_path / "many"):
        try:
            want = _loaded(
                path, tmp_path / "set", resolution=SIDE, fit=fit, background=background,
                channels=channels,
            )  # fmt: skip
        except DataError as e:
            refused.add(path.name)
            assert str(tmp_path / "set" / "a" / path.name) in str(e)
            with pytest.raises(ValueError) as error:
                classify.pixels(str(path), channels or 3, SIDE, SIDE, fit, background)
            assert str(e).endswith(str(error.value)) and "\n" not in str(e)
            continue
        got = classify.pixels(str(path), channels or 3, SIDE, SIDE, fit, background)
        assert np.array_equal(got, want), path.name
    assert refused == {"deep.png", "deep.tif", "deep.jp2", "float.tif"}


@pytest.mark.parametrize("name", ODD_EXIF)
def test_of_odd_exif_the_orientation_is_read(tmp_path: Path, name: str) -> None:
    for exif, want in ((ODD_EXIF[name], _exif(TURNED)), (NO_TURN["garbage"], _exif())):
        for file, content in (("odd.jpg", exif), ("want.jpg", want)):
            (tmp_path / file).write_bytes(_jpeg_with(content, _rgb()))
        odd, plain = (
            classify.pixels(str(tmp_path / f), 3, SIDE, SIDE) for f in ("odd.jpg", "want.jpg")
        )
        assert np.array_equal(odd, plain)


def test_a_photo_with_odd_exif_is_upright(tmp_path: Path) -> None:
    pixels = np.zeros((30, 44, 3), np.uint8)
    pixels[:, :10] = 255  # bright on the left as it is stored, on top as it was taken
    (tmp_path / "p.jpg").write_bytes(
        _jpeg_with(ODD_EXIF["text-as-number"], Image.fromarray(pixels))
    )
    x = _loaded(tmp_path / "p.jpg", tmp_path / "set", resolution=SIDE, fit="stretch")
    assert x[0].min() > 200 and x[-1].max() < 50


# --- what is transparent, and what is not square


def _hidden_colours() -> Image.Image:
    """Noise under alpha 0 on the left, black under alpha 255 on the right."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., :3] = np.asarray(_rgb(32, 32))
    pixels[:, 16:] = (0, 0, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "tga"])
@pytest.mark.parametrize(
    ("background", "shown"), [(None, 255), ("black", 0), ("#808080", 128), ("rgb(9, 9, 9)", 9)]
)
def test_what_is_transparent_shows_the_background(
    tmp_path: Path, suffix: str, background: str | None, shown: int
) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    _hidden_colours().save(tmp_path / f"icon.{suffix}", **options)
    settings = {} if background is None else {"background": background}
    x = _loaded(tmp_path / f"icon.{suffix}", tmp_path / "set", resolution=32, **settings)
    assert np.unique(x[:, :16]).tolist() == [shown] and np.unique(x[:, 16:]).tolist() == [0]


def test_black_icons_on_nothing_are_a_task(tmp_path: Path) -> None:
    for k in range(40):
        pixels = np.zeros((16, 16, 4), np.uint8)
        pixels[k % 12 : k % 12 + 4, :, 3] = 255
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "ab"[k % 2] / f"{k}.png")
    task = load_task({"dataset": "folder", "path": str(tmp_path)}, 0)
    assert min(task.std) > 0.2
    with pytest.raises(DataError, match="one value in every image"):
        load_task({"dataset": "folder", "path": str(tmp_path), "background": "black"}, 0)


@pytest.mark.parametrize("size", [(24, 48), (48, 24), (24, 240), (10, 240), (1, 100)])
def test_the_three_ways_to_a_square(tmp_path: Path, size: tuple[int, int]) -> None:
    h, w = size
    pixels = np.full((h, w, 3), 100, np.uint8)
    edge = max(1, max(size) // 8)
    (pixels[:edge] if h > w else pixels[:, :edge])[...] = 0
    Image.fromarray(pixels).save(tmp_path / "p.png")
    crop, pad, stretch = (
        _loaded(tmp_path / "p.png", tmp_path / "set", resolution=24, fit=fit)[..., 0].astype(int)
        for fit in ("crop", "pad", "stretch")
    )
    along = (lambda x: x[:, 11]) if h > w else (lambda x: x[11])
    across = (lambda x: x[11]) if h > w else (lambda x: x[:, 11])
    assert crop.min() == crop.max() == 100  # the dark end is cut off
    assert along(stretch)[0] < 20 and across(stretch).max() == 100  # all of it is there
    filled = int((across(pad) == 255).sum())
    assert filled == 24 - max(1, round(24 * min(size) / max(size)))  # on both sides, in white
    assert along(pad)[0] < 20
    assert abs(int((across(pad)[:12] == 255).sum()) - int((across(pad)[12:] == 255).sum())) <= 1


def test_the_framing_is_in_the_file_that_is_delivered(tmp_path: Path) -> None:
    for k in range(40):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        _rgb(seed=k).save(tmp_path / "ab"[k % 2] / f"{k}.png")
    settings = {"dataset": "folder", "path": str(tmp_path), "resolution": 16}
    task = load_task({**settings, "fit": "pad", "background": "navy"}, 0)
    assert (task.metadata["fit"], task.metadata["background"]) == ('"pad"', '"navy"')
    assert task.as_told(task.metadata).mean == task.mean
    older = {k: v for k, v in task.metadata.items() if k not in ("fit", "background")}
    assert task.as_told(older).mean == task.mean
    with pytest.raises(Exception, match="fit"):
        task.as_told({**task.metadata, "fit": '"crop"'})
    plain = load_task(settings, 0)
    assert plain.metadata["fit"] == '"crop"' and plain.digest("test") != task.digest("test")
    with pytest.raises(DataError, match="'blurple' is no colour"):
        load_task({**settings, "background": "blurple"}, 0)


# --- what is not opened


def _png_of_size(width: int, height: int) -> bytes:
    """Its header, and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">L", len(data)) + kind + data
            + struct.pack(">L", zlib.crc32(kind + data))
        )  # fmt: skip

    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def _bmp_of_size(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<LLL", 54, 0, 54) + struct.pack(
        "<LllHHLLllLL", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    )  # fmt: skip


@pytest.mark.parametrize("of_size", [_png_of_size, _bmp_of_size])
@pytest.mark.parametrize(
    "size", [(12_000, 11_000), (14_000, 14_000), (2**30, 2), (65_000, 65_000), (2**31 - 1, 9)]
)
def test_an_image_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, of_size: Callable[[int, int], bytes], size: tuple[int, int]
) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(of_size(*size))
    for read in (
        lambda: _loaded(path, tmp_path / "set", resolution=SIDE),
        lambda: classify.pixels(str(path), 3, SIDE, SIDE),
    ):
        with pytest.raises((DataError, ValueError), match="at most 120 million are read"):
            read()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    "content",
    [
        POSTSCRIPT,
        b"\xc5\xd0\xd3\xc6" + struct.pack("<7L", 32, len(POSTSCRIPT), 0, 0, 0, 0, 0) + POSTSCRIPT,
        b"\xd7\xcd\xc6\x9a" + bytes(60),
        b"%PDF-1.4\n",
        b"#!/bin/sh\ntouch here\n",
    ],
)
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.eps", "x.tif", "x"])
def test_nothing_that_starts_a_program_is_opened(
    tmp_path: Path, content: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("gs", "gswin32c", "gswin64c"):
        (tools / tool).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tools / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as an image|has no images"):
        _loaded(tmp_path / name, tmp_path / "set", resolution=SIDE)
    with pytest.raises(ValueError, match="cannot identify image file"):
        classify.pixels(str(tmp_path / name), 3, SIDE, SIDE)
    assert not (tmp_path / "started").exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match="no regular file"):
        _loaded(tmp_path / "x.png", tmp_path / "set", resolution=SIDE)
    with pytest.raises(ValueError, match="no regular file"):
        classify.pixels(str(tmp_path / "x.png"), 3, SIDE, SIDE)


@pytest.mark.parametrize("keep", [0, 3, 20, 60, 0.5, 0.9])
@pytest.mark.parametrize(
    "name",
    ["x.png", "x.jpg", "x.webp", "x.tif", "x.jp2", "x.j2k", "x.gif", "x.bmp", "x.ppm", "x.tga",
     "x.avif"],
)  # fmt: skip
def test_a_cut_file_is_refused_by_name(tmp_path: Path, name: str, keep: float) -> None:
    _rgb(90, 90).save(tmp_path / name)
    assert classify.pixels(str(tmp_path / name), 3, SIDE, SIDE).any()
    whole = (tmp_path / name).read_bytes()
    cut = int(len(whole) * keep) if isinstance(keep, float) else keep
    (tmp_path / name).write_bytes(whole[:cut])
    with pytest.raises(ValueError):
        classify.pixels(str(tmp_path / name), 3, SIDE, SIDE)
    with pytest.raises(DataError, match=rf"a/{name} cannot be read as an image"):
        _loaded(tmp_path / name, tmp_path / "set", resolution=SIDE)


def _png_in_chunks() -> bytes:
    """Pixels in rows of their own chunks, as some programs write them."""
    content = io.BytesIO()
    _rgb(90, 90).save(content, "PNG")
    raw = content.getvalue()
    at = raw.index(b"IDAT") - 4
    pixels = raw[at + 8 : at + 8 + struct.unpack_from(">L", raw, at)[0]]
    chunks = b""
    for k in range(0, len(pixels), 500):
        part = b"IDAT" + pixels[k : k + 500]
        chunks += struct.pack(">L", len(part) - 4) + part + struct.pack(">L", zlib.crc32(part))
    return raw[:at] + chunks + raw[-12:]


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("spoil", ["one bit", "zeros", "checksum"])
@pytest.mark.parametrize("chunks", [False, True])
def test_a_png_whose_checksum_fails_is_refused(
    tmp_path: Path, spoil: str, place: float, chunks: bool
) -> None:
    path = tmp_path / "x.png"
    if chunks:
        path.write_bytes(_png_in_chunks())
    else:
        Image.linear_gradient("L").rotate(20).convert("RGB").save(path, compress_level=0)
    assert classify.pixels(str(path), 3, SIDE, SIDE).any()
    raw = bytearray(path.read_bytes())
    at = int(len(raw) * place)
    if spoil == "checksum":
        at = (raw.find(b"IDAT", at) if b"IDAT" in raw[at:] else raw.index(b"IEND")) - 5
    raw[at] ^= 4
    if spoil == "zeros":
        raw[at : at + len(raw) // 50] = bytes(len(raw) // 50)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"it is damaged, .*; save it anew, or leave it out"):
        classify.pixels(str(path), 3, SIDE, SIDE)
    with pytest.raises(DataError, match=r"a/x.png cannot be read as an image: it is damaged, "):
        _loaded(path, tmp_path / "set", resolution=SIDE)


@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "raw"]
)
def test_a_damaged_tiff_is_one_line(
    tmp_path: Path, compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.tif"
    _rgb(90, 90).save(path, compression=compression)
    raw = bytearray(path.read_bytes())
    if compression in ("jpeg", "raw"):  # which carry nothing that tells: cut
        del raw[len(raw) // 2 :]
    else:
        raw[len(raw) // 2 : len(raw) // 2 + len(raw) // 5] = bytes(len(raw) // 5)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"x\.tif cannot be read as an image") as error:
        _loaded(path, tmp_path / "set", resolution=SIDE)
    with pytest.raises(ValueError):
        classify.pixels(str(path), 3, SIDE, SIDE)
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "EOF|No data|empty"),
        (b"\x93NUMPY\1\0\x46\0{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000,"
         b" 90), }\n", "mmap|size|header|EOF|magic|length"),
        (b"junk", "."),
    ],
)  # fmt: skip
def test_arrays_for_the_classifier_are_checked(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        classify.pixels(str(path), 3, SIDE, SIDE)
    np.save(path, np.zeros((SIDE, SIDE, 1), np.uint8))
    with pytest.raises(ValueError, match="not uint8"):
        classify.pixels(str(path), 3, SIDE, SIDE)
    np.save(path, np.ones((SIDE, SIDE, 3), np.uint8))
    assert classify.pixels(str(path), 3, SIDE, SIDE).sum() == SIDE * SIDE * 3


# --- what a file's name and content say


def test_images_are_known_by_their_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["x.jfif", "x.jpe", "x.avif", "x.jp2", "x.tga", "x.thumb", "x", "x.JPG", "x.png.bak"]
    kinds = ["JPEG", "JPEG", "AVIF", "JPEG2000", "TGA", "WEBP", "PNG", "GIF", "BMP"]
    for label in "ab":
        (tmp_path / label).mkdir()
        for k, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            _rgb(seed=hash((label, k)) % 2**32).save(tmp_path / label / name, kind)
    (tmp_path / "a" / "notes.txt").write_text("of the camera")
    (tmp_path / "a" / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "b" / "Thumbs.db").write_bytes(bytes(600))
    with caplog.at_level(logging.WARNING):
        task = load_task(
            {"dataset": "folder", "path": str(tmp_path), "resolution": 16, "train_images": 12,
             "test_images": 2}, 0,
        )  # fmt: skip
    assert len(Folder(tmp_path, resolution=16).load().train) == 18
    assert task.classes == ("a", "b")
    (said,) = [r.getMessage() for r in caplog.records if "files in" in r.getMessage()]
    assert said.startswith(f"note: 3 of 21 files in {tmp_path} are no images of JPEG, PNG")
    assert "a/notes.txt" in said
    assert any("pip install pillow-heif" in r.getMessage() for r in caplog.records)


def test_a_plug_in_of_pillow_is_used_where_it_is_installed(tmp_path: Path) -> None:
    """One of the name that HEIC needs, whose files begin with HEIC and go on as PNG."""
    (tmp_path / "pillow_heif.py").write_text(
        "import io\n"
        "from PIL import Image, ImageFile, PngImagePlugin\n"
        "def made(fp, name):\n"
        "    return PngImagePlugin.PngImageFile(io.BytesIO(fp.read()[4:]))\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', made, lambda prefix: prefix[:4] == b'HEIC')\n"
        "    Image.register_extension('HEIF', '.heic')\n"
    )
    content = io.BytesIO()
    _rgb().save(content, "PNG")
    (tmp_path / "x.heic").write_bytes(b"HEIC" + content.getvalue())
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys, classify\n"
         "with classify.opened(sys.argv[1]) as image: print(image.format, image.size)\n"
         "print(classify.format_of(sys.argv[1]))",
         str(tmp_path / "x.heic")],
        capture_output=True, text=True,
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(classify.__file__).parent}"},
    )  # fmt: skip
    assert done.stdout.split() == ["PNG", "(44,", "30)", "HEIF"], done.stderr


def _linked(folder: Path, count: int, picture: Path) -> None:
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for k in range(count):
            (folder / name / f"{k:04}.png").symlink_to(picture)


def test_more_images_than_memory_holds_are_refused_before_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rgb().save(tmp_path / "one.png")
    _linked(tmp_path / "set", 150, tmp_path / "one.png")
    free = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert len(Folder(tmp_path / "set", resolution=16).load().train) == 300
    with pytest.raises(DataError, match=r"300 images take 0\.118 GB .* 0\.1 GB are free"):
        Folder(tmp_path / "set", resolution=256).load()


def test_of_images_that_cannot_go_together_few_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rgb().save(tmp_path / "one.png")
    _linked(tmp_path / "set", 200, tmp_path / "one.png")
    read = []
    opened = classify.opened
    monkeypatch.setattr(classify, "opened", lambda path: read.append(path) or opened(path))
    with pytest.raises(DataError, match=r"0000\.png is 44x30, not square"):
        Folder(tmp_path / "set").load()
    assert len(read) < 400
