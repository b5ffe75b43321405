import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import steady
import torch

from edgenas import cli
from edgenas.config import load_config
from edgenas.errors import DeviceError, GateNotMet, UnstableMeasurement, UsageError

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "pydantic", "scipy", "rich")


def test_help_waits_for_no_heavy_import() -> None:
    code = (
        "import sys; from edgenas.cli import main; code = main(['--help']);"
        f"print(code, [m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "0 []"
    assert "doctor" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "doctor",
        "devices",
        "spaces",
        "methods",
        "datasets",
        "profile",
        "count",
        "build-runner",
        "build-emulator",
        "lut",
        "measure",
        "search",
        "train",
        "compress",
        "export",
        "verify",
        "report",
        "run",
        "init",
    ],
)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example: edgenas" in out or command == "lut"


@pytest.mark.parametrize("group", [[], ["lut"], ["fpga"]])
def test_a_group_alone_prints_its_help(
    group: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*group, "-h"]) == 0
    asked = capsys.readouterr()
    assert cli.main(group) == 2
    alone = capsys.readouterr()
    assert alone == asked and not alone.err
    assert "Commands:\n" in alone.out and len(alone.out.splitlines()) > 8


def _help_of(command: click.Command, words: tuple[str, ...]) -> Iterator[str]:
    with click.Context(command, info_name=words[-1]) as context:
        yield command.get_help(context)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _help_of(inner, (*words, name))


def test_help_names_no_file_that_only_the_repository_has() -> None:
    helps = list(_help_of(cli.cli, ("edgenas",)))
    assert len(helps) > 25
    for text in helps:
        assert not re.search(r"\b(docs|benchmarks|tests|edgenas)/", text), text


def test_init_writes_a_config_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init"]) == 0
    assert cli.main(["init", "mine.yaml"]) == 0
    assert "edgenas run mine.yaml" in capsys.readouterr().out
    assert [load_config(Path(n)).name for n in ("demo.yaml", "mine.yaml")] == ["demo", "mine"]


def test_init_leaves_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 1\n")
    (tmp_path / "nowhere.yaml").symlink_to(tmp_path / "absent")
    for name in ("mine.yaml", "nowhere.yaml"):
        assert cli.main(["init", str(tmp_path / name)]) == 2
        assert f"{name} is there" in capsys.readouterr().err
    assert cli.main(["init", str(tmp_path / "absent" / "mine.yaml")]) == 1
    assert "mine.yaml" in capsys.readouterr().err
    assert mine.read_text() == "seed: 1\n" and not (tmp_path / "absent").exists()


@pytest.mark.parametrize("listing", ["devices", "spaces", "methods", "datasets"])
def test_listings_are_json_on_request(listing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([listing, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("take", "says"),
    [
        (lambda: torch.empty(1 << 62, dtype=torch.uint8), "4.61e+09 GB were asked for at once"),
        (lambda: torch.nn.Linear(1 << 30, 1 << 30), "GB were asked for at once"),
        (lambda: np.empty((1 << 20, 1 << 40), np.uint8), "1.00 EiB were asked for at once"),
        (lambda: bytearray(1 << 61), "not enough memory. What was whole"),
    ],
)
def test_a_want_of_memory_is_no_internal_error(
    take: Callable[[], object],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("edgenas.report.write_report", lambda *_, **__: take())
    assert cli.main(["report", "runs/x"]) == 1
    err = capsys.readouterr().err
    assert says in err and "train.batch" in err and "internal error" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("error", [RecursionError("depth"), ImportError("half"), UsageError("no")])
def test_an_interrupt_is_one_whatever_error_it_ends_in(
    number: signal.Signals,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """numpy, its import cut in half, calls itself without end. A second one, as timeout(1) sends
    it, does not cut what is tidied up after the first."""
    tidied = []

    def command(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            signal.raise_signal(number)
            tidied.append(number)
            raise error from None

    monkeypatch.setattr("edgenas.report.write_report", command)
    assert cli.main(["report", "runs/x"]) == 130
    assert "interrupted" in capsys.readouterr().err and tidied == [number]


@pytest.mark.parametrize("option", ["--runs", "--tables"])
def test_a_file_where_a_folder_belongs_is_refused_before_anything(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_text("mine")
    assert cli.main(["run", "demo.yaml", option, str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert option in said and "is a file" in said and (tmp_path / "x").read_text() == "mine"


def _raises(error: BaseException) -> Callable[..., None]:
    def command(*_: object, **__: object) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("bad key"), 2, "bad key"),
        (GateNotMet("too slow"), 3, "too slow"),
        (DeviceError("no board"), 4, "no board"),
        (UnstableMeasurement("noise"), 5, "noise"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 1, "runs/x"),
        (RuntimeError("odd"), 1, "internal error: RuntimeError: odd"),
    ],
)
def test_every_failure_is_one_line_and_a_code(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("edgenas.report.write_report", _raises(error))
    assert cli.main(["report", "runs/x"]) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert "\n" not in captured.err.strip()
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate"], "No such command"),
        (
            ["run", "absent.yaml"],
            "there is no absent.yaml; to begin with one: edgenas init absent.yaml",
        ),
        (["run", "tests"], "tests is no run directory: it has no config.yaml. For photos"),
        (["search", "edgenas/spaces"], "path: edgenas/spaces}"),
        (["profile", "cpu-onnxruntim"], "Did you mean 'cpu-onnxruntime'?"),
        (["profile", "cpu-onnxruntime", "--preset", "tiney"], "Did you mean 'tiny'?"),
        (["profile", "cpu-onnxruntime", "--space", "mobil"], "Did you mean 'mobile'?"),
        (["profile", "cpu-onnxruntime", "--resolution", "0"], "'--resolution': 0 is not in"),
        (["count", "qemu-arm64", "--channels", "-1"], "'--channels': -1 is not in"),
        (["count", "qemu-arm64", "--classes", "1"], "'--classes': 1 is not in"),
        (["profile", "cpu-onnxruntime", "--prior", "x.jsonl"], "goes with --from-networks"),
        (["profile", "cpu-onnxruntime", "--from-networks", "9", "--prior", "x"], "no table x"),
        (["profile", "cpu-onnxruntime", "--precise", "--budget-minutes", "1"], "one of them"),
        (["lut", "show", "absent.jsonl"], "there is no table"),
        (["report", "absent"], "absent"),
        (["measure", "absent.onnx", "--device", "cpu-onnxruntime"], "there is no absent.onnx"),
        (["measure", "pyproject.toml", "--device", "cpu-onnxruntime"], "pyproject.toml"),
    ],
)
def test_bad_arguments_exit_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err


CONFIG = """
task: {{dataset: npz, path: {data}}}
space: {{kind: mobile, preset: tiny, stem: 8, first: 8, widths: [8], depths: [2], strides: [2],
  head: 16}}
targets: [{{device: cpu-onnxruntime, latency: "{budget}"}}]
precision: fp32
measure: {{networks: 12}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.integers(0, 80, (120, 12, 12, 1)) + 80 * y[:, None, None, None]
    data = tmp_path / "data.npz"
    np.savez(data, x_train=x.astype(np.uint8), y_train=y, x_test=x.astype(np.uint8), y_test=y)

    def write(budget: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(CONFIG.format(data=data, budget=budget))
        return path

    return write


def _in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, its files in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "edgenas", *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "EDGENAS_CACHE": str(folder / "cache")},
    )  # fmt: skip


def test_an_impossible_budget_is_refused_before_any_training(
    config: Callable[[str], Path], tmp_path: Path
) -> None:
    steady.boards(tmp_path)
    done = _in(tmp_path, "run", str(config("<= 1 ns")))
    assert done.returncode == 3
    assert "the least that this space can do is" in done.stderr
    assert "ask for at least that or take a smaller space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "mine" / "search").exists()
    assert not (tmp_path / "runs" / "mine" / "profile").exists()


def test_resume_needs_something_to_resume(config: Callable[[str], Path], tmp_path: Path) -> None:
    done = _in(tmp_path, "run", "--resume", str(config("<= 1 ms")))
    assert done.returncode == 2
    assert "there is no run in" in done.stderr
