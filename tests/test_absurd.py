"""Every number that a user may write, written absurdly: a refusal in one line, or it works."""

import dataclasses
import random
import re
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
import numpy as np
import pytest
from PIL import Image

from edgenas import parsing, pressure, task
from edgenas.augment import Augment
from edgenas.cli import cli
from edgenas.config import Config, load_config
from edgenas.device import RUNTIMES, TRANSPORTS, read_device
from edgenas.errors import EdgenasError
from edgenas.pipeline.search import method
from edgenas.registry import Shelf
from edgenas.search import METHODS
from edgenas.space import SPACES, load_space

MOST_BYTES, MOST_SECONDS = 1 << 29, 10
NUMBERS: list[Any] = [
    0, -1, 1, 3, 63, 10**6, 10**9, 2**63, 10**18, -(10**18), 10**400, -0.5, 0.5, 1e-300, 1e300,
    float("nan"), float("inf"), float("-inf"), True, None, "", "2", "-1", "x", "nan", "9" * 5000,
    {"a": 1}, [], [3],
]  # fmt: skip
AMOUNTS: list[Any] = ["2 ms", "<= 0 %", "<= 99999999999999999999 s", "<= 1e5 %", ">= 101 %", "1"]
LISTS: list[Any] = [
    [[]], [None], [1, 1], ["3"], [True], [-1], [0], [10**18], [10**400], [0.5], [float("nan")],
    [1e300], [float("inf")], [3, 10**18], [3] * 20_000, [*range(1, 2000)], [3, 99999],
    [1, 0.5, 0.25], [[1, 2]], {"a": [1]}, [1 + i / 1000 for i in range(1000)], ["9" * 5000],
]  # fmt: skip


@contextmanager
def bounds() -> Iterator[None]:
    """Within, memory and time end in an error."""

    def rung(*_: object) -> None:
        raise AssertionError(f"not done within {MOST_SECONDS} s")

    status = Path("/proc/self/status").read_text(encoding="utf-8")
    held = 1024 * int(re.findall(r"VmData:\s+(\d+)", status)[0])
    before, handler = resource.getrlimit(resource.RLIMIT_DATA), signal.signal(signal.SIGALRM, rung)
    resource.setrlimit(resource.RLIMIT_DATA, (held + MOST_BYTES, before[1]))
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def numeric(cls: type, *before: str) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """The fields of ``cls`` and of its parts that hold numbers, and what each is tried with."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        kinds = {*parts(hint)}
        if dataclasses.is_dataclass(hint):
            yield from numeric(hint, *before, field.name)  # type: ignore[arg-type]
        elif field.init and {int, float} & kinds:
            amounts = AMOUNTS if str in kinds else []
            lists = LISTS if {tuple, list} & {*map(get_origin, kinds)} else []
            yield (*before, field.name), [*NUMBERS, *amounts, *lists]


def parts(hint: Any) -> Iterator[Any]:
    """The types that it is made of, and those of the values that it names."""
    yield hint
    for inner in get_args(hint):
        yield from (int,) if isinstance(inner, int) else parts(inner)


def changed(base: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """``base`` with another value at ``path``."""
    key, *rest = path
    inner = changed(base.get(key, {}), tuple(rest), value) if rest else value
    return {**base, key: inner}


Tries = Iterable[tuple[tuple[str, ...], list[Any]]]


def tried(read: Callable[[Any], object], base: Mapping[str, Any], tries: Tries) -> tuple[int, int]:
    """How many absurd values ``read`` took and how many it refused in a line that names the key."""
    taken = refused = 0
    wrong = []
    for path, values in tries:
        for value in values:
            try:
                with bounds():
                    read(changed(base, path, value))
                taken += 1
            except EdgenasError as e:
                said, refused = str(e), refused + 1
                if "\n" in said or len(said) > 800 or path[-1] not in said:
                    wrong.append((path, repr(value)[:60], said[:300]))
            except Exception as e:
                wrong.append((path, repr(value)[:60], repr(e)[:300]))
    assert not wrong, "\n".join(map(str, wrong))
    return taken, refused


BASE = {
    "task": {"dataset": "fashion-mnist"},
    "targets": [{"device": "cpu-onnxruntime", "latency": {"p50": "<= 5 ms"}}],
}  # fmt: skip


def test_in_a_config(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"

    def read(data: Any) -> None:
        file.write_text(parsing.yaml_text(data), encoding="utf-8")
        made = load_config(file)
        file.write_text(made.dumps, encoding="utf-8")
        assert load_config(file) == made  # what is accepted can be written and read again

    taken, refused = tried(read, BASE, numeric(Config))
    assert taken > 50 and refused > 500


def test_in_a_target(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"

    def read(target: Any) -> None:
        file.write_text(parsing.yaml_text({**BASE, "targets": [target]}), encoding="utf-8")
        load_config(file)

    base = {"device": "cpu-onnxruntime", "latency": "<= 5 ms"}
    _, refused = tried(
        read, base, [((key,), [*NUMBERS, *AMOUNTS, *LISTS]) for key in ("latency", "energy")]
    )
    assert refused > 100


def _used(settings: Any) -> None:
    space = load_space(settings)
    assert space.id and space.vocabulary()
    space.ops(space.sample(random.Random(0)))


MODEL = """\
from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2),
        nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3),
    )
"""


@pytest.mark.parametrize("kind", [*Shelf("edgenas.spaces")])
def test_in_a_space(kind: str, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(MODEL, encoding="utf-8")
    own = {
        "module": {
            "source": f"{tmp_path}/m.py:build", "resolution": 16, "channels": 3, "classes": 3
        }
    }  # fmt: skip
    base = {"kind": kind, **own.get(kind, {})}
    _used(base)
    _, refused = tried(_used, base, numeric(SPACES[kind]))
    assert refused > 50


def test_in_a_method() -> None:
    seen = set()
    for name in METHODS:
        own = {"architecture": "a.json"} if name in ("fixed", "measured") else {}
        method({"method": name, **own})
        hints = get_type_hints(METHODS[name], include_extras=True)
        fields = [t for t in numeric(METHODS[name]) if str((t[0], hints[t[0][0]])) not in seen]
        taken, refused = tried(method, {"method": name, **own}, fields)
        assert taken >= len(fields) and refused >= 5 * len(fields)
        seen |= {str((path, hints[path[0]])) for path, _ in fields}
    assert len(seen) > 10


@pytest.mark.parametrize("kind", [*pressure._KINDS])
def test_in_a_pressure(kind: str) -> None:
    def read(settings: Any) -> None:
        method({"method": "proxyless", "pressure": settings})

    taken, refused = tried(read, {"kind": kind}, numeric(pressure._KINDS[kind]))
    assert taken and refused


def _images(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    y = np.arange(60) % 3
    x = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3)).astype(np.uint8)
    np.savez(folder / "d.npz", x_train=x, y_train=y)
    yield "npz", {"path": str(folder / "d.npz")}
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        path = folder / "photos" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    yield "folder", {"path": str(folder / "photos"), "resolution": 8}


def test_in_a_task(tmp_path: Path) -> None:
    def read(settings: Any) -> None:
        loaded = task.load_task(settings, 0)
        next(iter(loaded.batches("train", 8, 0, augmented=True)))

    augment = [*numeric(Augment, "augment")]
    for kind, own in _images(tmp_path):
        base = {"dataset": kind, **own}
        read(base)
        fields = [*numeric(task._Settings), *numeric(task.DATASETS[kind])]
        taken, refused = tried(read, base, [*fields, *augment])
        assert taken > 10 and refused > 100


RTL = {
    "kind": "rtl", "part": {"chip": "LFE5U-85F", "package": "CABGA381", "speed_grade": 6},
    "fmax_mhz": 50, "report": "0" * 64,
    "dram": {"latency": 20, "reads": [1, 4], "writes": [1, 4]},
}  # fmt: skip
NEEDED: Mapping[str, dict[str, Any]] = {
    "ssh": {"host": "h"}, "vela": {"accelerator": "ethos-u55-128"}, "rtl": RTL,
    "tflm": {"board": "nucleo-l4r5zi"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "kind"),
    [*(("transport", k) for k in TRANSPORTS), *(("runtime", k) for k in RUNTIMES)],
)
def test_in_a_device(part: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    base = {"transport": {"kind": "local"}, "runtime": {"kind": "onnxruntime"}}
    shelf = {"transport": TRANSPORTS, "runtime": RUNTIMES}[part]

    def read(settings: Any) -> None:
        file.write_text(parsing.yaml_text({**base, part: settings}), encoding="utf-8")
        device = read_device(file)
        device.runtime.encode(dict(device.runtime.options))

    own = {"kind": kind, **NEEDED.get(kind, {})}
    read(own)
    fields = [*numeric(shelf[kind])]
    taken, refused = tried(read, own, fields)
    assert taken >= len(fields) and refused >= 5 * len(fields)


def _commands(group: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, *names, name)
    yield from ((names, p) for p in group.params if isinstance(p, click.Option))


def test_in_an_option() -> None:
    numbers = (click.IntRange, click.FloatRange, type(click.INT), type(click.FLOAT))
    options = [(names, p) for names, p in _commands(cli) if isinstance(p.type, numbers)]
    assert len(options) > 10
    for names, option in options:
        for said in ("-1", "1e300", "9" * 40, "9" * 5000, "nan", "inf", "-inf", "x", "", "True"):
            if names[0] == "profile" and "--networks" in option.opts and said == "-1":
                continue  # which says how many are too few, and why
            with pytest.raises(click.UsageError) as caught:
                option.type.convert(said, option, None)
            assert "\n" not in caught.value.format_message(), (names, option.name, said)
