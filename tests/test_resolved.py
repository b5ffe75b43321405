"""config.yaml of a run: every default written out, and the same run when it is read back."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from edgenas.augment import Augment
from edgenas.config import overridden, parse_config
from edgenas.errors import UsageError
from edgenas.pipeline import silent
from edgenas.pipeline.context import Context
from edgenas.pipeline.resolved import resolved
from edgenas.pipeline.search import method, stated
from edgenas.space import load_space

TARGETS = [{"device": "cpu-onnxruntime", "latency": "<= 5 ms"}]
CODE = """
import numpy as np
def images(n=48):
    rng = np.random.default_rng(0)
    return {"x_train": rng.integers(0, 256, (n, 32, 32, 3), np.uint8), "y_train": np.arange(n) % 2}
"""


@pytest.fixture
def data(tmp_path: Path) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (48, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "few.npz", x_train=x, y_train=np.arange(48) % 2)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for k in range(24):
            Image.fromarray(x[k]).save(tmp_path / "photos" / label / f"{k}.png")
    (tmp_path / "code.py").write_text(CODE)
    return {
        "npz": {"dataset": "npz", "path": str(tmp_path / "few.npz")},
        "folder": {"dataset": "folder", "path": str(tmp_path / "photos"), "resolution": 32},
        "function": {"dataset": "function", "call": f"{tmp_path / 'code.py'}:images",
                     "arguments": {"n": 40}, "augment": {"flip": False}, "search_share": 0.2},
    }  # fmt: skip


def context(root: Path, written: dict[str, Any]) -> Context:
    return Context(root, parse_config(written, "x.yaml"), root, silent)


@pytest.mark.parametrize(
    ("task", "space", "search"),
    [
        ("npz", {"kind": "mobile", "preset": "tiny"}, {"method": "proxyless"}),
        ("folder", {"kind": "mobile", "preset": "small", "widths": [8, 16, 24]},
         {"method": "proxyless-r", "networks": 4, "pressure": {"kind": "additive"}}),
        ("function", {"kind": "mobile", "preset": "tiny-v3", "activation": "relu6"},
         {"method": "random", "trials": 3}),
        ("npz", {"kind": "nasbench201"}, {"method": "darts", "epochs": 3, "lr": 1, "pressure": {}}),
        ("npz", {"kind": "mobile"}, {"method": "fixed", "architecture": "a.json"}),
    ],
)  # fmt: skip
def test_all_that_was_taken_by_default_is_written_and_read_back(
    tmp_path: Path, data: dict[str, Any], task: str, space: dict[str, Any], search: dict[str, Any]
) -> None:
    said = {"task": data[task], "space": space, "search": search, "targets": TARGETS}
    first = context(tmp_path, said)
    text = resolved(first).dumps
    written = yaml.safe_load(text)

    assert {"test_share", "search_share", "calibration_images", "mean"} < written["task"].keys()
    assert written["task"]["augment"] == asdict(first.task.augment)
    assert written["task"]["augment"].keys() == {f.name for f in fields(Augment)}
    of_task = {"resolution", "channels", "classes"}
    made: Any = first.space
    assert written["space"].keys() == {"kind"} | {f.name for f in fields(made)} - of_task
    found: Any = method(search)
    assert written["search"].keys() == {"method"} | {f.name for f in fields(found)}
    if "pressure" in written["search"]:
        assert len(written["search"]["pressure"]) > 1

    again = context(tmp_path, written)
    assert resolved(again).dumps == text
    assert again.space.id == first.space.id
    assert again.task.describe() == first.task.describe()
    assert stated(again.config.search) == stated(search)  # what is searched, and its key


@pytest.mark.parametrize(
    ("search", "want"),
    [
        ({"method": "proxyless", "epochs": 2, "warmup": 1}, None),
        ({"method": "proxyless", "lr": 1}, None),
        ({"method": "random"}, None),
        ({"method": "random", "trials": 1}, {"method": "random"}),
        ({"method": "proxyless", "pressure": {"kind": "additive", "weight": 2}}, None),
        ({"method": "proxyless", "pressure": {"kind": "adaptive", "rate": 0.05}},
         {"method": "proxyless"}),
    ],
)  # fmt: skip
def test_only_what_is_no_default_decides_whether_a_search_is_another(
    search: dict[str, Any], want: dict[str, Any] | None
) -> None:
    assert stated(search) == (search if want is None else want)


@pytest.mark.parametrize("preset", ["small", "tiny"])
def test_a_preset_for_what_is_written_out_is_refused(preset: str) -> None:
    facts = {"resolution": 32, "channels": 3, "classes": 10}
    space = dict(load_space({"kind": "mobile", "preset": "tiny", **facts}).describe())
    with pytest.raises(UsageError, match=f"'space={{kind: mobile, preset: {preset}}}'"):
        overridden({"space": space}, [f"space.preset={preset}"])
    whole = overridden({"space": space}, [f"space={{kind: mobile, preset: {preset}}}"])
    assert whole == {"space": {"kind": "mobile", "preset": preset}}
    short = overridden({"space": {"kind": "mobile"}}, [f"space.preset={preset}"])
    assert short == whole
