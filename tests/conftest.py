"""A task, a space and a table small enough for every test."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from edgenas import ops
from edgenas.augment import Augment
from edgenas.budgets import Latency
from edgenas.build_runner import TOOLS, build
from edgenas.errors import DataError
from edgenas.images import Images
from edgenas.latency import Fit, Header, LatencyTable, Timing
from edgenas.predict import Predictor
from edgenas.search import Objective, Problem
from edgenas.spaces.mobile import Mobile
from edgenas.task import Task

THREADS = int(os.environ.get("EDGENAS_TEST_THREADS", "1"))
torch.set_num_threads(THREADS)
if shift := 1000 * int(os.environ.get("EDGENAS_TEST_SEED", "0")):
    # Other weights and images throughout: no test's truth may hang on one draw.
    torch_seed, numpy_rng = torch.manual_seed, np.random.default_rng
    torch.manual_seed = lambda seed: torch_seed(seed + shift)
    np.random.default_rng = lambda seed=None: numpy_rng(
        seed + shift if isinstance(seed, int) else seed
    )
os.environ["EDGENAS_TRUST_DEVICES"] = "1"  # nobody can be asked of the devices that tests write
# Neither says anything of the code on a machine that others use too.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C


@pytest.fixture(autouse=True)
def threads() -> None:
    """Whatever a test before did to this process."""
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def native_runner() -> Path:
    """The program for boards without Python, for this machine; built once, kept in .cache."""
    for tool in TOOLS:
        pytest.importorskip(tool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_CACHE", str(Path(__file__).parent.parent / ".cache"))
        try:
            return build("x86_64", None, lambda what, done, total: None)
        except DataError as e:
            pytest.skip(str(e))


def stripes(n: int, seed: int) -> Images:
    """Three kinds of stripes, (n, 1, 12, 12)."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    grid = np.mgrid[:12, :12]
    waves = np.stack([np.sin(grid[0]), np.sin(grid[1]), np.sin(grid[0] + grid[1])])
    x = 127 + 60 * waves[y] + rng.normal(0, 25, (n, 12, 12))
    return Images(torch.tensor(x.clip(0, 255).astype(np.uint8))[:, None], torch.tensor(y))


@pytest.fixture(scope="session")
def task() -> Task:
    sizes = {"train": 192, "search": 96, "calibration": 24, "test": 90}
    parts = {part: stripes(n, seed) for seed, (part, n) in enumerate(sizes.items())}
    return Task("stripes", ("a", "b", "c"), (1, 12, 12), (0.5,), (0.2,), parts, Augment(False, 1))


@pytest.fixture(scope="session")
def space() -> Mobile:
    return Mobile(
        resolution=12, channels=1, classes=3, stem=8, stem_stride=1, first=8,
        widths=(8, 12), depths=(2, 2), strides=(1, 2), head=16, kernels=(3, 5), expansions=(2, 4),
    )  # fmt: skip


@pytest.fixture(scope="session")
def table(space: Mobile) -> LatencyTable:
    """Milliseconds from multiply-accumulates."""
    ms = {op: 0.01 + ops.macs(op) * 1e-6 for op in space.vocabulary()}
    rows = {op: Timing(t, t * 1.05, t * 1.2, 20, "estimated") for op, t in ms.items()}
    fit = Fit(intercept_ms=0.02, slope=1.1, p50_per_floor=1.05, margin=0.05, networks=8)
    header = Header("paper", "none", "fp32", space.id, {}, provenance="estimated", fit=fit)
    return LatencyTable(header, rows)


@pytest.fixture
def problem(space: Mobile, task: Task, table: LatencyTable) -> Problem:
    """A budget in the middle of what the space can do."""
    predictor = Predictor(table)
    every = [
        [sum(map(predictor.cost_ms, o)) for o in space.option_ops(c.name)] for c in space.choices
    ]
    fixed = predictor.p50_ms(space.fixed_ops())
    middle = fixed + sum(min(ms) + max(ms) for ms in every) / 2
    return Problem(space, task, (Objective((Latency("paper", middle, predictor),)),))
