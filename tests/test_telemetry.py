"""No runtime that we start, here or on a board, reports to its makers or writes where it pleases.

The calls of native code are seen too: by strace where it is installed, and by what lies in the
folders afterwards.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgenas import classify, runner
from edgenas.exporters.onnx import Onnx
from edgenas.exporters.tflite import Tflite
from edgenas.graph import trace

STRACE = shutil.which("strace")
METADATA = {"input": [3, 4, 4], "classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.2] * 3}


class Watched:
    """Runs commands in a home of their own; what they leave there, and which sockets they open."""

    def __init__(self, folder: Path) -> None:
        self.home, self.tmp, self.folder = folder / "home", folder / "tmp", folder
        self.home.mkdir()
        self.tmp.mkdir()
        (folder / "precious").write_text("kept")
        (self.tmp / ".ses").symlink_to(folder / "precious")  # as ONNX Runtime would follow

    def run(self, *argv: str) -> set[str]:
        given = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        env = {
            **{k: v for k, v in given.items() if not k.startswith("XDG_")},
            "HOME": str(self.home), "TMPDIR": str(self.tmp),
            "EDGENAS_CACHE": str(self.folder / "cache"),
        }  # fmt: skip
        seen = self.folder / "seen"
        watch = [STRACE, "-f", "-qq", "-e", "trace=socket", "-o", str(seen)] if STRACE else []
        done = subprocess.run(
            [*watch, *argv], env=env, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        sockets = re.findall(r"socket\((AF_INET6?)", seen.read_text()) if STRACE else []
        left = [p for root in (self.home, self.tmp) for p in root.rglob("*")]
        kept = (self.folder / "precious").read_text() == "kept"
        return {
            *(str(p.relative_to(self.folder)) for p in left if p.name != ".ses"), *sockets,
            *([] if kept else ["precious"]),
        }  # fmt: skip


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in each format, with all that classify.py needs."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = trace(net, (3, 4, 4))
    told = {key: json.dumps(value) for key, value in METADATA.items()}
    Onnx().network(graph, folder / "model.onnx", told)
    Tflite().network(graph, folder / "model.tflite", told)
    np.save(folder / "image.npy", np.zeros((4, 4, 3), np.uint8))
    shutil.copyfile(classify.__file__, folder / "classify.py")
    return folder


def test_the_watch_sees_what_is_written_and_which_sockets_are_opened(watched: Watched) -> None:
    code = "import onnxruntime, os, socket; open(os.environ['HOME'] + '/x', 'w'); socket.socket()"
    found = watched.run(sys.executable, "-c", code)
    assert "home/x" in found and ("AF_INET" in found) == bool(STRACE)
    # what this onnxruntime does by itself; one that does nothing makes the tests below vacuous
    if "precious" not in found:
        pytest.skip("this onnxruntime reports nothing")


def test_a_measurement_leaves_nothing_behind(watched: Watched, models: Path) -> None:
    code = f"""
from pathlib import Path
from edgenas import session
from edgenas.device import load_device
from edgenas.export import opened
for form, runtime in (("onnx", "onnxruntime"), ("tflite", "litert")):
    device, file = load_device("cpu-" + runtime), opened(Path("{models}/model." + form))
    pace = session.Pace(visit_ms=0.01)
    session.probe(device)
    assert len(list(session.time_models(device, {{"a": file}}, [(0, "a")], pace)))
"""
    assert watched.run(sys.executable, "-c", code) == set()


def test_looking_into_a_file_leaves_nothing_behind(watched: Watched, models: Path) -> None:
    code = "; ".join([
        "import edgenas, pathlib", "from edgenas.export import exporter_for",
        *(f"exporter_for('{f}').inspect(pathlib.Path('{models}/model.{f}'))"
          for f in ("onnx", "tflite")),
    ])  # fmt: skip
    assert watched.run(sys.executable, "-c", code) == set()


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_what_is_deployed_leaves_nothing_behind(watched: Watched, models: Path, form: str) -> None:
    (models / "model.json").write_text(json.dumps({"model": f"model.{form}", **METADATA}))
    argv = [sys.executable, "-I", str(models / "classify.py"), str(models / "image.npy")]
    assert watched.run(*argv) == set()


@pytest.mark.parametrize(("backend", "file"), [("onnxruntime", "onnx"), ("litert", "tflite")])
def test_the_runner_of_a_board_leaves_nothing_behind(
    watched: Watched, models: Path, tmp_path: Path, backend: str, file: str
) -> None:
    job = {
        "verb": "memory", "backend": backend, "threads": 1,
        "model": f"{models}/model.{file}", "empty": f"{models}/model.{file}",
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    argv = [sys.executable, "-I", runner.__file__, str(tmp_path / "job.json")]
    assert watched.run(*argv) == set()
