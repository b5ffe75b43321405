"""A mistake of a plug-in, or of a user's own code, is told as theirs, with its file and line."""

from pathlib import Path

import numpy as np
import pytest

import edgenas
from edgenas.cli import main

CONFIG = """
task: {{dataset: npz, path: {data}}}
space: {{kind: {space}}}
targets: [{{device: {device}, latency: "<= 100 ms"}}]
search: {{method: {method}}}
"""
GOOD = "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Thing:\n"
KINDS = ("spaces", "methods", "runtimes", "transports", "datasets")


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package with one entry point ``mine`` on a shelf."""

    def installed(shelf: str, source: str, what: str = "Thing") -> Path:
        module = tmp_path / f"guest_{shelf}.py"
        module.write_text(source)
        info = tmp_path / "guest-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[edgenas.{shelf}]\nmine = {module.stem}:{what}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(__import__("sys").modules, module.stem, raising=False)
        return module

    return installed


def run(folder: Path, shelf: str, capsys: pytest.CaptureFixture[str]) -> str:
    x = np.random.default_rng(0).integers(0, 255, (60, 12, 12, 1), np.uint8)
    np.savez(folder / "d.npz", x_train=x, y_train=np.arange(60) % 3)
    device = folder / "board.yaml"
    kinds = {s: "mine" if s == shelf else k for s, k in
             (("runtimes", "litert"), ("transports", "local"))}  # fmt: skip
    device.write_text(
        f"transport: {{kind: {kinds['transports']}}}\nruntime: {{kind: {kinds['runtimes']}}}\n"
    )
    text = CONFIG.format(
        data=folder / "d.npz", device=device,
        space="mine" if shelf == "spaces" else "mobile, preset: tiny",
        method="mine" if shelf == "methods" else "proxyless",
    )  # fmt: skip
    if shelf == "datasets":
        text = text.replace("dataset: npz, path", "dataset: mine, path")
    (folder / "c.yaml").write_text(text)
    assert main(["run", str(folder / "c.yaml"), "--runs", str(folder), "--dry-run"]) in (1, 2)
    err = capsys.readouterr().err
    last = err.strip().splitlines()[-1]
    assert "internal error" not in err and "Please report" not in err and "Traceback" not in err
    return last


@pytest.mark.parametrize("shelf", KINDS)
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n1 / 0\n", "ZeroDivisionError: division by zero ({}, line 2)"),
        ("def f():\n    return 3 +\n", "SyntaxError: invalid syntax ({}, line 2)"),
        ("x = 1\n", "cannot be loaded: AttributeError"),
        (
            "import no_such_package\n",
            "ModuleNotFoundError: No module named 'no_such_package' ({}, line 1)",
        ),
        ("raise SystemExit('bye')\n", "SystemExit: bye ({}, line 1)"),
        ("open('/nowhere/weights')\n", "'/nowhere/weights' ({}, line 1)"),
        ("class Thing:\n    pass\n", "not a dataclass"),
        ("Thing = 3\n", "is 3, not a dataclass"),
    ],
)
def test_a_plug_in_that_cannot_be_loaded_is_named(
    guest, tmp_path: Path, capsys: pytest.CaptureFixture[str], shelf: str, source: str, said: str
) -> None:
    module = guest(shelf, source)
    last = run(tmp_path, shelf, capsys)
    assert (
        f"plug-in 'mine' (edgenas.{shelf}" in last
        and said.format(module) in last
        and module.stem in last
    )


@pytest.mark.parametrize("raised", ["KeyError('a')", "OSError(2, 'gone')", "SystemExit(3)",
                                    "RecursionError('deep')", "ValueError('a\\\\nb')"])  # fmt: skip
def test_a_plug_in_that_fails_at_work_is_named(
    guest, tmp_path: Path, capsys: pytest.CaptureFixture[str], raised: str
) -> None:
    body = f"    path: str = ''\n\n    def load(self):\n        raise {raised}\n"
    module = guest("datasets", GOOD + body)
    last = run(tmp_path, "datasets", capsys)
    assert "plug-in 'mine' (edgenas.datasets): " in last and f"({module}, line 9)" in last
    assert {"OSError": "FileNotFoundError"}.get(kind := raised.partition("(")[0], kind) in last


@pytest.mark.parametrize("shelf", ["datasets", "spaces"])
def test_a_plug_in_that_lacks_what_it_must_have_is_named(
    guest, tmp_path: Path, capsys: pytest.CaptureFixture[str], shelf: str
) -> None:
    module = guest(shelf, GOOD + "    path: str = ''\n")
    last = run(tmp_path, shelf, capsys)
    assert f"plug-in 'mine' (edgenas.{shelf}, {module.stem}:Thing): lacks " in last
    assert {"datasets": "load", "spaces": "vocabulary"}[shelf] in last


IMAGES = """    path: str = ''

    def load(self):
        import torch
        from edgenas.images import Images, Raw
        x, y = torch.randint(255, (60, 1, 12, 12)).to(torch.uint8), torch.arange(60) % 3
        names = ("a", "b", "c")
        return {}
"""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("None", "load is None; expected Raw"),
        ("[x, y]", "a list; expected Raw"),
        ("Raw((x, y), None, names)", "its train is a tuple"),
        ("Raw(Images(x, y), (x, y), names)", "its test is a tuple"),
        ("Raw(Images(x, y), None, ['a', 'b', 'c'])", "its classes is a list"),
        ("Raw(Images(x, y), None, (0, 1, 2))", "its classes is a tuple"),
        ("Raw(Images(x.float(), y), None, names)", "x of train is a Tensor of torch.float32"),
        ("Raw(Images(x.numpy(), y), None, names)", "x of train is a ndarray of uint8"),
        ("Raw(Images(x, y[:59]), None, names)", "train has 60 images and 59 labels"),
        ("Raw(Images(x, y.int()), None, names)", "y of train is a Tensor of torch.int32"),
        ("Raw(Images(x, y.tolist()), None, names)", "y of train is a list"),
        ("Raw(Images(x, y + 1), None, names)", "labels of train lie between 1 and 3"),
        ("Raw(Images(x[..., :9], y), None, names)", "x of train has shape (60, 1, 12, 9)"),
        ("Raw(Images(x, y), Images(x[..., :9, :9], y), names)", "x of test has shape"),
        ("Raw(Images(x[:0], y[:0]), None, names)", "x of train has shape (0, 1, 12, 12)"),
    ],
)
def test_a_data_set_that_gives_something_else_is_named(
    guest, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, says: str
) -> None:
    guest("datasets", GOOD + IMAGES.format(given))
    last = run(tmp_path, "datasets", capsys)
    assert "mine" in last and says in last


def test_a_plug_in_that_makes_our_code_fail_is_named(
    guest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest("datasets", GOOD + IMAGES.format("Raw(Images(x, y), None, names)"))
    monkeypatch.setattr("edgenas.task._repeated", lambda *_: 1 / 0)
    assert "plug-in 'mine' (edgenas.datasets) gave or took something else" in run(
        tmp_path, "datasets", capsys
    )


def test_the_package_shows_its_names_and_a_config_may_be_named_by_text(tmp_path: Path) -> None:
    shown = dir(edgenas)
    assert set(edgenas.__all__) <= set(shown) and "__version__" in shown and shown == sorted(shown)
    for name in edgenas.__all__:
        assert getattr(edgenas, name) is not None
    path = tmp_path / "c.yaml"
    path.write_text(
        CONFIG.format(data="d.npz", device="cpu-litert", space="mobile, preset: tiny",
                      method="random")
    )  # fmt: skip
    assert edgenas.load_config(str(path)) == edgenas.load_config(path)
