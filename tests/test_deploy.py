"""A run that somebody else may have made is put on a device: nothing of it is believed or run."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgenas import classify, samples
from edgenas.artifact import sha256
from edgenas.cli import main
from edgenas.exporters.onnx import Onnx
from edgenas.exporters.tflite import Tflite
from edgenas.graph import trace
from edgenas.task import Task

METADATA: dict[str, Any] = {
    "input": [1, 12, 12], "classes": ["a", "b", "c"], "mean": [0.5], "std": [0.2],
}  # fmt: skip
BMP_OF_196_MEGAPIXELS = b"BM" + struct.pack(
    "<LLLLllHHLLllLL", 54, 0, 54, 40, 14_000, 14_000, 1, 24, 0, 0, 0, 0, 0, 0
)  # fmt: skip


def png_of_16_bits(colour: int, channels: int) -> bytes:
    """2 x 2, by the colour type of its header: Pillow reads colours of 16 bits as 8."""
    rows = b"".join(b"\0" + struct.pack(f">{2 * channels}H", *[250] * 2 * channels) for _ in "ab")
    header = struct.pack(">IIBBBBB", 2, 2, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


WRITERS = {"onnx": Onnx(), "tflite": Tflite()}


def write(path: Path, data: object) -> None:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def model(run: Path, form: str, **told: Any) -> None:
    """A network of stripes, and the manifest that says it was judged."""
    net = network()
    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in told.items()}
    WRITERS[form].network(trace(net, (1, 12, 12)), run / f"model.{form}", metadata)
    outputs = {p.name: sha256(p) for p in run.glob("model.*")}
    write(run / "manifest.json", {"outputs": outputs, "edgenas": "1"})


@pytest.fixture
def run(tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What somebody sent: its config names a function that would leave a file."""
    run = tmp_path / "received"
    (run / "verify").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("open('RUN', 'w')\ndef make(): pass\n")
    write(
        run / "config.yaml",
        "name: received\ntask: {dataset: function, function: 'evil:make'}\n"
        "space: {kind: module, function: 'evil.py:make'}\n",
    )
    delivered = {f: {"file": f"model.{f}", "precision": "fp32"} for f in WRITERS}
    verdict = {
        "schema": 1, "met": True, "name": "received", "delivered": delivered,
        "gates": [{"name": "accuracy:onnx", "met": True}], "candidates": [],
    }  # fmt: skip
    write(run / "verdict.json", verdict)
    samples.keep(task, run / "verify")
    for form in WRITERS:
        model(run, form, **METADATA)
    return run


@pytest.fixture
def deploy(run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def called(*more: str, device: str = "cpu-onnxruntime") -> tuple[int, str, str]:
        argv = ["deploy", str(run), "--device", device, "--to", str(run.parent / "there"), *more]
        code = main(argv)
        out, err = capsys.readouterr()
        assert not (run.parent / "RUN").exists()
        if code:
            assert err.count("\n") == 1 and "internal error" not in err, err
            assert not (run.parent / "there").exists()
        return code, out, err

    return called


@pytest.mark.parametrize("device", ["cpu-onnxruntime", "cpu-litert"])
def test_a_received_run_is_tried_on_the_images_that_it_kept(deploy, run: Path, device) -> None:
    code, out, err = deploy("--json", "--samples", "6", device=device)
    told = json.loads(out)
    assert code == 0 and told["met"] and [a["truth"] for a in told["answers"]].count("a") == 2
    code, _, err = deploy("--samples", "500", device=device)
    assert code == 0 and "the run kept 90 images of its test part" in err
    shutil.rmtree(run / "verify")
    shutil.rmtree(run.parent / "there")
    code, _, err = deploy(device=device)
    assert code == 2 and "kept no images of its test part: name some with --image" in err
    np.save(run.parent / "one.npy", np.zeros((12, 12, 1), np.uint8))
    code, out, _ = deploy("--image", str(run.parent / "one.npy"), device=device)
    assert code == 0 and "one.npy" in out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("deep.png", np.full((12, 12), 40000, np.uint16), "more than 8 bits a pixel"),
        ("colour.png", png_of_16_bits(2, 3), "more than 8 bits a pixel"),
        ("grey_alpha.png", png_of_16_bits(4, 2), "more than 8 bits a pixel"),
        ("colour_alpha.png", png_of_16_bits(6, 4), "more than 8 bits a pixel"),
        ("large.bmp", BMP_OF_196_MEGAPIXELS, "at most 120 million are read"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "cannot identify"),
        ("empty.jpg", b"", "cannot identify"),
        ("cut.jpg", b"\xff\xd8\xff\xe1", "cannot identify"),
        ("wide.npy", b"\x93NUMPY\1\0", "cannot be read as an image"),
    ],
)
def test_an_image_that_the_classifier_there_refuses_is_refused_here(
    deploy, run: Path, name: str, content: Any, said: str
) -> None:
    path = run.parent / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    code, _, err = deploy("--image", str(path))
    assert code == 2 and f"--image: {path} cannot be read as an image: " in err and said in err


def test_how_photos_are_prepared_is_told_to_the_classifier(deploy, run: Path) -> None:
    pixels = np.zeros((6, 24, 4), np.uint8)
    pixels[:, :12] = (255, 255, 255, 255)
    picture = run.parent / "icon.png"
    Image.fromarray(pixels).save(picture)
    seen = []
    for fit, background in (("crop", "white"), ("pad", "black"), ("stretch", "#808080")):
        model(run, "onnx", **METADATA, fit=json.dumps(fit), background=json.dumps(background))
        code, out, err = deploy("--json", "--image", str(picture))
        assert code == 0, err
        told = json.loads((run.parent / "there" / "model.json").read_text(encoding="utf-8"))
        assert (told["fit"], told["background"]) == (fit, background)
        x = torch.from_numpy(classify.pixels(str(picture), 1, 12, 12, fit, background).copy())
        y = network()((x.permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.2)[0].softmax(0)
        answer = dict(json.loads(out)["answers"][0]["best"])
        assert answer == pytest.approx(dict(zip("abc", y.tolist(), strict=True)), abs=2e-3)
        seen.append(answer)
        shutil.rmtree(run.parent / "there")
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize(
    ("key", "value"), [("fit", "cover"), ("fit", 3), ("background", "blurple"), ("background", [])]
)
def test_another_way_of_preparing_photos_is_refused(deploy, run: Path, key: str, value) -> None:
    model(run, "onnx", **METADATA, **{key: json.dumps(value)})
    code, _, err = deploy()
    assert code == 2 and "its metadata do not say how images are given to it" in err


def changed(run: Path, name: str, key: str, value: object) -> None:
    data = json.loads((run / name).read_text())
    *way, last = key.split(".")
    inner = data
    for part in way:
        inner = inner[int(part) if isinstance(inner, list) else part]
    inner[last] = value
    write(run / name, data)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *(("verdict.json", "met", v) for v in ("false", "true", 0, 1, None, [], {}, "")),
        *(("verdict.json", "gates.0.met", v) for v in ("false", 1, None)),
        *(("verdict.json", "gates", v) for v in (None, {}, "none", [[]])),
        *(("verdict.json", "delivered", v) for v in (None, [], "model.onnx")),
        *(("verdict.json", "delivered.onnx", v) for v in (None, [], "model.onnx", {}, {"file": 1})),
        ("verdict.json", "networks", ["a"]),
        *(("manifest.json", "outputs", v) for v in (None, [], "x", {"model.onnx": 1})),
    ],
)
def test_what_has_another_type_is_damaged(deploy, run: Path, name, key, value) -> None:
    changed(run, name, key, value)
    code, _, err = deploy()
    assert code == 2 and f"verdict.json or manifest.json is damaged ({name}: " in err
    assert key.rpartition(".")[2] in err and "make them again" in err


@pytest.mark.parametrize(
    "text",
    [
        '{"met": true, "met": true}',
        '{"outputs": {}, "outputs": {}}',
        "",
        "{",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"met": tru',
        "\ufeff",
        "\0",
        "NaN",
    ],
)
@pytest.mark.parametrize("name", ["verdict.json", "manifest.json"])
def test_what_is_no_json_is_damaged(deploy, run: Path, name: str, text: str) -> None:
    write(run / name, text)
    code, _, err = deploy()
    assert code == 2 and f"is damaged ({name}: " in err and len(err) < 400


@pytest.mark.parametrize("met", ["met", "gates.0.met"])
def test_what_was_not_met_is_said(deploy, run: Path, met: str) -> None:
    changed(run, "verdict.json", met, False)
    code, _, err = deploy()
    assert code == 0 and "the verdict of this run was not met" in err
    assert not json.loads(deploy("--json")[1])["met"]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.onnx", "/etc/hostname", "..", "", ".", "a/../../outside.onnx", "x\0.onnx",
        "n" * 300 + ".onnx", "model.onnx\n", "-rf.onnx", ".hidden.onnx", "sub/model.onnx",
        "model.tflite", "..\\outside.onnx",
    ],
)  # fmt: skip
def test_a_name_in_a_verdict_leads_nowhere(deploy, run: Path, name: str) -> None:
    shutil.copyfile(run / "model.onnx", run.parent / "outside.onnx")
    changed(run, "verdict.json", "delivered.onnx.file", name)
    outputs = json.loads((run / "manifest.json").read_text())["outputs"]
    outputs[name] = outputs["outside.onnx"] = outputs["model.onnx"]
    write(run / "manifest.json", {"outputs": outputs})
    assert deploy()[0] == 2


def test_a_link_out_of_the_run_is_not_followed(deploy, run: Path) -> None:
    os.rename(run / "model.onnx", run.parent / "outside.onnx")
    (run / "model.onnx").symlink_to(run.parent / "outside.onnx")
    code, _, err = deploy()
    assert code == 2 and "leads out of" in err


def test_a_file_that_is_not_delivered_now_stays_here(deploy, run: Path) -> None:
    verdict = json.loads((run / "verdict.json").read_text())
    del verdict["delivered"]["tflite"]
    write(run / "verdict.json", verdict)
    code, _, err = deploy(device="cpu-litert")
    assert code == 2 and "delivers onnx" in err


@pytest.mark.parametrize(
    "told",
    [
        {"classes": "a, b, c"}, {"classes": [1, 2, 3]}, {"classes": None}, {"mean": ["0.5"]},
        {"mean": [0.5, 0.5]}, {"mean": "[NaN]"}, {"std": [0]}, {"std": [-1.0]}, {"std": "[1e999]"},
        {"input": [1, 12]}, {"input": [1, 12, 12.5]}, {"input": [1, 12, 1 << 62]},
        {"input": ["1", "12", "12"]}, {"input": True}, {"classes": "[" * 50_000},
    ],
)  # fmt: skip
def test_metadata_of_another_type_are_refused(deploy, run: Path, told: dict[str, Any]) -> None:
    model(run, "onnx", **{**METADATA, **told})
    code, _, err = deploy()
    assert code == 2 and "its metadata do not say how images are given to it" in err


def test_a_model_that_answers_for_other_classes_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model(run, "onnx", **{**METADATA, "classes": ["a", "b", "c", "d"]})
    argv = ["deploy", str(run), "--device", "cpu-onnxruntime", "--to", str(run.parent / "there")]
    assert main(argv) == 4
    err = capsys.readouterr().err
    assert "cannot be used: it answers (3,) for its classes" in err and err.count("\n") == 1


@pytest.mark.parametrize("damage", ["cut", "type", "shape", "labels", "label", "text", "deep"])
def test_kept_images_that_are_damaged_are_one_line(deploy, run: Path, damage: str) -> None:
    images, labels = run / "verify/samples.npy", run / "verify/samples.json"
    x, y = np.load(images), json.loads(labels.read_text())
    match damage:
        case "cut":
            images.write_bytes(images.read_bytes()[:-1])
        case "type":
            np.save(images, x.astype(np.float32))
        case "shape":
            np.save(images, x[:, :5])
        case "labels":
            write(labels, y[1:])
        case "label":
            write(labels, [*y[1:], 3])
        case "text":
            write(labels, "none")
        case "deep":
            write(labels, "[" * 100_000)
    code, _, err = deploy()
    assert code == 2 and "samples.npy" in err
