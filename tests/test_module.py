"""A network that somebody brings: its channels as a space, and ``edgenas compress`` of it."""

import itertools
import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import steady
import torch
from answers import telling
from PIL import Image
from torch import nn

from edgenas import ops
from edgenas.budgets import Latency
from edgenas.compress.importance import importance, kept
from edgenas.compress.plan import Plan, plan
from edgenas.compress.prune import cut, cuttable
from edgenas.config import Importance, parse_config
from edgenas.errors import CapabilityError, DataError, EdgenasError, UsageError
from edgenas.graph import trace
from edgenas.latency import LatencyTable, Timing
from edgenas.pipeline.brought import brought as brought_network
from edgenas.pipeline.brought import brought_config, is_brought
from edgenas.pipeline.context import Context, load_weights, save_weights
from edgenas.predict import Predictor
from edgenas.space import load_space
from edgenas.spaces.module import Module, made
from edgenas.spec import Architecture, OpSpec
from edgenas.task import Task, load_task
from edgenas.train import TrainRecipe, learns, seeded, train

pytestmark = pytest.mark.trains

RESNET = """
from torch import nn


def conv(cin, cout, k, stride, groups=1):
    return nn.Sequential(
        nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)
    )


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.a, self.b = conv(cin, cout, 3, stride), conv(cout, cout, 3, 1)
        self.relu = nn.ReLU(inplace=True)
        self.down = None if cin == cout and stride == 1 else conv(cin, cout, 1, stride)

    def forward(self, x):
        y = self.b(self.relu(self.a(x)))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(1, 16, 3, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2))
        self.mobile = nn.Sequential(
            conv(32, 48, 1, 1), nn.ReLU6(), conv(48, 48, 3, 1, 48), nn.Hardswish(),
            conv(48, 24, 1, 1),
        )
        self.grouped = nn.Sequential(conv(24, 24, 3, 1, 2), nn.ReLU())
        self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.1)
        self.fc1, self.fc2 = nn.Linear(24, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = self.grouped(self.mobile(self.blocks(self.stem(x))))
        x = self.pool(x).flatten(1)
        return self.fc2(self.drop(nn.functional.relu(self.fc1(x))))


class Plain(Net):  # what every format can hold
    def __init__(self):
        super().__init__()
        self.grouped = nn.Sequential(conv(24, 24, 3, 1), nn.ReLU())


def small():
    return nn.Sequential(
        conv(1, 48, 3, 2), nn.ReLU(), conv(48, 64, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 3),
    )
"""


def space(folder: Path, name: str = "Net") -> Module:
    (folder / "net.py").write_text(RESNET)
    settings = {"source": f"{folder / 'net.py'}:{name}", "resolution": 12, "channels": 1}
    loaded = load_space({"kind": "module", **settings, "classes": 3})
    assert isinstance(loaded, Module)
    return loaded


def whole(space: Module) -> tuple[OpSpec, ...]:
    return space.ops(Architecture.of(space.id, {c.name: 0 for c in space.choices}))


def predictor(table: LatencyTable, space: Module) -> Predictor:
    """Milliseconds in proportion to multiply-accumulates."""
    ms = {o: 0.01 + ops.macs(o) * 1e-6 for o in space.vocabulary()}
    rows = {o: Timing(t, t, t, 20, "estimated") for o, t in ms.items()}
    return Predictor(LatencyTable(table.header, rows))


def test_operators_are_those_of_the_network_that_is_cut(tmp_path: Path) -> None:
    net = space(tmp_path)
    rng = random.Random(0)
    assert {"conv", "add", "maxpool", "mean", "linear", "hswish"} == {o.kind for o in whole(net)}
    for _ in range(5):
        arch = net.sample(rng)
        built = net.build(arch)
        graph = trace(built.eval(), net.input)
        layers = net.ops(arch)
        assert len(layers) == len(graph.nodes)
        for op, node in zip(layers, graph.nodes, strict=True):
            read = graph.shape(node.inputs[0])
            assert (op.cin, op.cout) == (read[0], node.shape[0])
            assert ops.output_size(op) == (node.shape[1] if len(node.shape) == 3 else 1)
        assert set(layers) <= net.vocabulary()
        assert net.assemble(layers).state_dict().keys() == built.state_dict().keys()


def test_every_operator_can_be_built_alone(tmp_path: Path) -> None:
    for op in space(tmp_path).vocabulary():
        module = ops.build(op).eval()
        y = module(torch.randn(2, op.cin, op.size, op.size))
        assert y.shape[:2] == (2, op.cout)
        short = op.kind == "maxpool"  # alone it is not padded
        assert y.ndim == 2 or y.shape[2] == ops.output_size(op) - short
        trace(module, (op.cin, op.size, op.size))
        assert OpSpec.parse(str(op)) == op


def test_what_is_cut_together_and_what_is_not_cut(tmp_path: Path) -> None:
    """The stem's channels run through the first block; groups and the output stay whole."""
    net = space(tmp_path)
    sets = {frozenset(c.makers) for c in net._free}
    assert frozenset({"stem.0.0", "blocks.0.b.0"}) in sets
    assert frozenset({"mobile.0.0", "mobile.2.0"}) in sets
    cuttable_layers = frozenset().union(*sets)
    assert "fc1" in cuttable_layers
    assert not cuttable_layers & {"fc2", "grouped.0.0", "mobile.4.0"}


def test_the_plan_is_the_best_of_all(tmp_path: Path, table: LatencyTable) -> None:
    net = space(tmp_path, "small")
    full, predicted = whole(net), predictor(table, net)
    generator = torch.Generator().manual_seed(0)
    cuts, forms = net.cuts(full), net.forms(full)
    for share in (0.95, 0.9, 0.8):
        scores = {n: torch.rand(of[0], generator=generator) for n, of in cuts.items()}
        limit = share * predicted.p50_ms(full)
        found = plan(net, full, scores, [Latency("paper", limit, predicted)])
        best = math.inf
        for joint in itertools.product(*cuts.values()):
            widths = dict(zip(cuts, joint, strict=True))
            layers = [f.at(*(widths[g] for g in f.groups)) for f in forms]
            if predicted.p50_ms(layers) <= limit:
                lost = sum(
                    float(s.sum() - s.topk(widths[n]).values.sum()) for n, s in scores.items()
                )
                best = min(best, lost)
        lost = sum(float(scores[n].sum() - scores[n][list(k)].sum()) for n, k in found.keep.items())
        assert lost == pytest.approx(best, rel=1e-4)
        assert predicted.p50_ms(found.ops) <= limit


def test_cutting_dead_channels_changes_nothing(
    tmp_path: Path, task: Task, table: LatencyTable
) -> None:
    net, predicted = space(tmp_path), predictor(table, space(tmp_path))
    full = whole(net)
    with seeded(0):
        built = net.assemble(full)
    train(built, task, TrainRecipe(epochs=1, batch=32), 0)
    sets = cuttable(net, built, full)
    scores = importance(built, sets, "taylor", task, 2, 32, 0)
    made = plan(net, full, scores, [Latency("paper", 0.6 * predicted.p50_ms(full), predicted)])
    assert len(made.keep) > 2
    modules = dict(built.named_modules())
    with torch.no_grad():
        for name, stay in made.keep.items():
            gone = sorted(set(range(sets[name].count)) - set(stay))
            for layer in sets[name].readers:
                if getattr(modules[layer], "groups", 1) == 1:
                    modules[layer].weight[:, gone] = 0
    smaller = cut(built, net, made).eval()
    x, _ = task.tensors("test")
    with torch.inference_mode():
        assert torch.allclose(smaller(x), built.eval()(x), atol=1e-5)
    again = net.cuts(made.ops)
    assert all(again[n][0] == len(k) for n, k in made.keep.items() if n in again)
    assert [f.at(*(again[g][0] for g in f.groups)) for f in net.forms(made.ops)] == list(made.ops)


@pytest.mark.filterwarnings("ignore")  # of what torch says of its own compilers
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("net.py", "write it as model.py:name"),
        ("nowhere.py:build", "there is no"),
        ("net.py:nobody", "no function, class or module 'nobody'"),
        ("net.py:number", "number fails: TypeError"),
        ("net.py:text", "gives a str, not a torch.nn.Module"),
        ("exits.py:build", "build fails: SystemExit: 3"),
        ("net.py:twice", "1 is used twice"),
        ("net.py:flow", r"control flow \(at net.py:15\)"),
        ("net.py:fails", r"net.py:6: fails fails: KeyError: 'x'"),
        ("broken.py:build", "broken.py:1: build fails: ModuleNotFoundError"),
        ("syntax.py:build", "build fails: SyntaxError"),
        ("net.py:narrow", "can be cut in 0 ways, and a table is checked against 12"),
        ("net.py:wide", r"output of \(10,\), and the task has 3 classes"),
        ("net.py:sigmoid", "net.py:sigmoid: cannot export"),
        ("net.py:parallel", "net.py:parallel: cannot export DataParallel"),
        ("net.py:listed", "net.py:listed: cannot export ModuleList"),
        ("net.py:pair", "net.py:pair: cannot export an output that is not one tensor"),
        ("net.py:meta", "without its weights"),
        ("net.py:lazily", "net.py:lazily gives a generator, not a torch.nn.Module"),
        ("net.py:asks", "asks fails: TypeError: asks.. missing 1 required positional argument"),
        ("net.py:masked", "net.py:masked: cannot export a second input"),
        ("net.py:nested_70", "nested more than 64 deep"),
        ("net.py:nested_300", "nested more than 64 deep"),
        ("net.py:nested_2000", "nested more than 64 deep"),
        ("net.py:itself", "one that lies within itself"),
        ("net.py:compiled", "cannot export torch.compile; give the module itself, without it"),
        ("net.py:partly", r"cannot export torch.compile \(at 0\); give the module itself"),
        ("net.py:scripted", "a TorchScript program; give the module that it was made of"),
        ("net.py:lazy", r"a lazy LazyConv2d \(at 1\) without weights; call the network once"),
        ("net.py:trains", r"Trains \(at 1\): .*; it stays in training mode when the network is"),
        ("net.py:own", r"cannot export Own \(at 1.0\): "),
        ("net.py:narrow", r"a network with more of them, or wider ones .* has enough"),
    ],
)
def test_what_is_no_network_is_one_line(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nnumber = 3\n\ntext = str\ndef fails():\n    {}['x']\n"
        "def end(n): return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n)]\n"
        "def narrow(): return nn.Sequential(nn.Conv2d(1, 8, 3), *end(3))\n"
        "def wide(): return nn.Sequential(nn.Conv2d(1, 8, 3), *end(10))\n"
        "def sigmoid(): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Sigmoid(), *end(3))\n"
        "def twice():\n"
        "    c = nn.Conv2d(8, 8, 3); return nn.Sequential(nn.Conv2d(1, 8, 3), c, c, *end(3))\n"
        "class flow(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x if x.mean() > 0 else -x\n"
        "def parallel(): return nn.DataParallel(narrow())\n"
        "def listed(): return nn.ModuleList([narrow()])\n"
        "def meta(): return narrow().to('meta')\n"
        "def lazily(): yield narrow()\n"
        "def asks(width): return narrow()\n"
        "class pair(nn.Module):\n"
        "    def forward(self, x): return (x, x)\n"
        "class masked(nn.Module):\n"
        "    def forward(self, x, mask): return x + mask\n"
        "import torch\n"
        "def nested(k):\n"
        "    n = narrow()\n"
        "    for _ in range(k): n = nn.Sequential(n)\n"
        "    return n\n"
        "def nested_70(): return nested(70)\n"
        "def nested_300(): return nested(300)\n"
        "nested_2000 = nested(2000)\n"
        "def itself(): n = narrow(); n[3].add_module('me', n); return n\n"
        "def compiled(): return torch.compile(narrow())\n"
        "def partly(): return nn.Sequential(torch.compile(narrow()))\n"
        "def scripted(): return torch.jit.trace(narrow(), torch.zeros(1, 1, 12, 12))\n"
        "def lazy(): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.LazyConv2d(8, 3), *end(3))\n"
        "class Own(nn.BatchNorm2d): pass\n"
        "class Trains(nn.BatchNorm2d):\n"
        "    def train(self, mode=True): return super().train(True)\n"
        "def trains(): return nn.Sequential(nn.Conv2d(1, 8, 3), Trains(8), *end(3))\n"
        "def own(): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Sequential(Own(8)), *end(3))\n"
    )
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "broken.py").write_text("import nothing_of_the_kind\n")
    (tmp_path / "syntax.py").write_text("def build(:\n")
    settings = {"source": str(tmp_path / source), "resolution": 12, "channels": 1, "classes": 3}
    with pytest.raises(EdgenasError, match=says) as raised:
        load_space({"kind": "module", **settings})
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, UsageError | CapabilityError)


IDIOMS = """
from __future__ import annotations
import sys
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F

print("said by", sys.argv)


@dataclass
class Size:
    width: int = 32


class Net(nn.Module):
    def __init__(self, eps=1e-5):
        super().__init__()
        self.a, self.bn = nn.Conv2d(1, Size().width, 3), nn.BatchNorm2d(32, eps=eps)
        self.a.weight.requires_grad_(False)
        self.b, self.c = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(64, 32, 3, groups=32)
        self.d, self.pool = nn.Conv2d(32, 64, 1), nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.a(x))), 2)
        x = self.pool(self.c(self.d(F.relu(x + self.b(x)))))
        x = F.relu(self.fc1(x.view(x.size(0), -1)))
        return self.fc2(x.reshape(x.shape[0], -1))


def double(): return Net().double()


ready = Net()
"""


@pytest.mark.parametrize("name", ["Net", "double", "ready"])
def test_what_people_write(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Frozen layers, groups that are not depthwise, views, annotations as text, print."""
    (tmp_path / "net.py").write_text(IDIOMS)
    settings = {"source": f"{tmp_path / 'net.py'}:{name}", "resolution": 12, "channels": 1}
    net = load_space({"kind": "module", **settings, "classes": 3})
    assert isinstance(net, Module)
    assert {"a", "fc1"} <= {layer for c in net._free for layer in c.makers}
    assert not {"c", "d", "fc2"} & {layer for c in net._free for layer in c.makers}
    arch = net.all_last
    built = net.build(arch)
    graph = trace(built.eval(), net.input)
    assert [(o.cin, o.cout) for o in net.ops(arch)] == [
        (graph.shape(n.inputs[0])[0], n.shape[0]) for n in graph.nodes
    ]
    frozen = [n for n, p in built.named_parameters() if not p.requires_grad]
    assert frozen == ["a.weight"]
    out, err = capsys.readouterr()
    assert out == "" and "said by" in err


def test_another_epsilon_or_another_wire_is_another_network(tmp_path: Path) -> None:
    ids = set()
    for i, change in enumerate(
        [("", ""), ("eps=1e-5", "eps=1.0"), ("x + self.b(x)", "self.b(x) + x")]
    ):
        (tmp_path / f"net{i}.py").write_text(IDIOMS.replace(*change))
        settings = {"source": f"{tmp_path / f'net{i}.py'}:Net", "resolution": 12, "channels": 1}
        ids.add(load_space({"kind": "module", **settings, "classes": 3}).id)
    assert len(ids) == 3


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "parts_of_it.py").write_text("from torch import nn\nlayer = nn.Flatten\n")
    (tmp_path / "net.py").write_text("from parts_of_it import layer\nbuild = layer\n")
    before = list(sys.path)
    assert isinstance(made(f"{tmp_path / 'net.py'}:build"), nn.Flatten)
    assert sys.path == before


def compress(folder: Path, *more: str, weights: str = "w.pt") -> subprocess.CompletedProcess[str]:
    call = [
        sys.executable, "-m", "edgenas", "compress", "net.py:Plain", "--weights", weights,
        "--data", "data.npz", "--device", "cpu-onnxruntime", "--device", "cpu-litert",
        "--set", "train.batch=32", "--set", "measure.networks=12",
        "--set", "measure.blocks=2", "--set", "measure.block_seconds=0.05", *more,
    ]  # fmt: skip
    cache = {**os.environ, "EDGENAS_CACHE": str(folder / "cache")}
    return subprocess.run(call, cwd=folder, env=cache, capture_output=True, text=True)


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    """A folder with what somebody brings: code, weights, images."""
    folder = tmp_path_factory.mktemp("brought")
    steady.boards(folder)
    net = made(space(folder, "Plain").source)
    train(net, task, TrainRecipe(epochs=3, batch=32), 0)
    telling(net, *task.tensors("train"))
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, folder / "w.pt")
    pixels = {
        f"{k}_{part}": v.numpy() if k == "y" else v.permute(0, 2, 3, 1).numpy()
        for part, held in (("train", task.parts["train"]), ("test", task.parts["test"]))
        for k, v in (("x", held.x), ("y", held.y))
    }
    np.savez(folder / "data.npz", **pixels)
    return folder


NORMALISED = ("--set", "task.mean=[0.5]", "--set", "task.std=[0.2]")


def test_a_network_is_cut_to_a_budget_and_delivered(brought: Path) -> None:
    done = compress(brought, *NORMALISED, "--latency", "60 %", "--set", "gates.drop=20 points",
                    "--set", "gates.class_drop=60 points", "--set", "prune.rounds=2",
                    "--set", "gates.difference=30 %")  # fmt: skip
    assert done.returncode == 0, done.stderr
    root = brought / "runs" / "net"
    assert "of the test images right" in done.stderr
    made_of = json.loads((root / "compress" / "compress.json").read_text())
    assert made_of["skipped"] is None
    verdict = json.loads((root / "verdict.json").read_text())
    assert verdict["met"]
    limits = {g["name"]: g["limit"] for g in verdict["gates"]}
    for fmt in ("onnx", "tflite"):
        best = next(c for c in verdict["candidates"] if c["format"] == fmt and c["delivered"])
        assert best["latency"]["p50_ms"] <= limits[f"latency:{fmt}"]
        assert (root / f"model.{fmt}").exists()
    found, pruned = (made_of["variants"][v]["ops"] for v in ("found", "pruned"))
    assert len(found) == len(pruned) and found != pruned
    rounds = {e["variant"] for line in (root / "ledger.jsonl").read_text().splitlines()
              if (e := json.loads(line))["phase"] == "finetune"}  # fmt: skip
    assert rounds >= {"pruned-1", "pruned"}
    assert [row["op"] for row in verdict["blocks"]["cpu-litert"]][-1] is None
    assert len(verdict["blocks"]["cpu-litert"]) == len(found) + 1
    again = compress(brought, *NORMALISED, "--latency", "60 %", "--set", "gates.drop=20 points",
                     "--set", "gates.class_drop=60 points", "--set", "prune.rounds=2",
                     "--set", "gates.difference=30 %", "--dry-run", "--json")  # fmt: skip
    assert all(stage["unchanged"] for stage in json.loads(again.stdout))
    page = (root / "report.html").read_text()
    assert "maxpool 16-16 @12" in page or "maxpool 8-8 @12" in page


@pytest.mark.parametrize(
    ("weights", "more", "says"),
    [
        ("nowhere.pt", NORMALISED, "there is no nowhere.pt"),
        ("data.npz", NORMALISED, "holds no weights of PyTorch: it is an .npz of NumPy"),
        ("whole.pt", NORMALISED, "holds a whole module (torch.nn.modules.linear.Linear)"),
        ("cut.pt", NORMALISED, "it is cut off or damaged"),
        ("nan.pt", NORMALISED, "holds NaN or infinity in 'fc2.bias'"),
        ("other.pt", NORMALISED, "and holds others, e.g. 'other.blocks.0.a.0.weight'"),
        ("wide.pt", NORMALISED, "'fc2.bias' is (4,) there, and (3,) here"),
        ("random.pt", NORMALISED, "no more than one class alone would"),
        ("w.pt", ("--set", "task.mean=[0.5, 0.5]"), "one number for each of 1 channels"),
        ("w.pt", (*NORMALISED, "--latency", "0.001 ms"), "the least that this space can do"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    brought: Path, tmp_path: Path, weights: str, more: tuple[str, ...], says: str
) -> None:
    """Said before minutes of measuring: there is no table yet; or by the table, before training."""
    for name in ("net.py", "data.npz", "devices", "w.pt", "latency_tables"):
        if (brought / name).exists():
            (tmp_path / name).symlink_to(brought / name)
    net = made(space(brought, "Plain").source)
    nn.init.constant_(net.fc2.bias, 0.0)
    nn.init.constant_(net.fc2.weight, 0.0)
    state = net.state_dict()
    torch.save(state, tmp_path / "random.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((brought / "w.pt").read_bytes()[:999])
    renamed = {f"other.{k}" if k.startswith("blocks") else k: v for k, v in state.items()}
    torch.save(renamed, tmp_path / "other.pt")
    torch.save({**state, "fc2.bias": torch.zeros(4)}, tmp_path / "wide.pt")
    torch.save({**state, "fc2.bias": torch.full((3,), math.nan)}, tmp_path / "nan.pt")
    done = compress(tmp_path, "--latency", "50 ms", *more, weights=weights)
    assert done.returncode in (1, 2, 3), done.stderr
    last = done.stderr.splitlines()[-1]
    assert says in last and "Traceback" not in done.stderr


@pytest.mark.parametrize(("method", "brought"), [("given", True), ("proxyless", False)])
def test_weights_of_what_a_search_is_to_find_are_not_held_against_another(
    method: str, brought: bool
) -> None:
    config = parse_config(
        {
            "task": {"dataset": "cifar10"},
            "targets": [{"device": "cpu-onnxruntime", "latency": "5 ms"}],
            "search": {"method": method},
            "train": {"weights": "w.pt"},
        },
        "test",
    )
    assert is_brought(config) is brought


def test_modules_within_modules_are_read(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "n = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(1),\n"
        "                  nn.Flatten(), nn.Linear(64, 3))\n"
        "for _ in range(60): n = nn.Sequential(n)\n"
    )
    settings = {"source": f"{tmp_path}/net.py:n", "resolution": 12, "channels": 1, "classes": 3}
    net = load_space({"kind": "module", **settings})
    assert isinstance(net, Module) and len(net.choices) == 2
    assert whole(net)[0].cout == 64 and net.build(net.sample(random.Random(0)))


def test_another_size_than_the_images_have(tmp_path: Path) -> None:
    small = replace(space(tmp_path), resize=20)
    assert small.input_of(small.sample(random.Random(0))) == (1, 20, 20)
    assert whole(small)[0].size == 20
    assert small.id != space(tmp_path).id


NORMED = """
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm


def net(make):
    torch.manual_seed(0)
    return nn.Sequential(
        make(nn.Conv2d(1, 48, 3, 2)), nn.BatchNorm2d(48), nn.ReLU(), make(nn.Conv2d(48, 64, 3)),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), make(nn.Linear(64, 3)),
    )


def old(): return net(weight_norm)
def new(): return net(parametrizations.weight_norm)
def spectral(): return net(spectral_norm)
def orthogonal(): return net(parametrizations.orthogonal)
def masked(): return net(lambda m: prune.l1_unstructured(m, "weight", 0.5))


def hooked():
    made = old()
    made[0].register_forward_hook(lambda m, a, y: y + 1)
    return made
"""


def written(folder: Path, name: str) -> Module:
    (folder / "normed.py").write_text(NORMED)
    loaded = load_space(
        {"kind": "module", "source": f"{folder / 'normed.py'}:{name}", "resolution": 12,
         "channels": 1, "classes": 3}
    )  # fmt: skip
    assert isinstance(loaded, Module)
    return loaded


@pytest.mark.parametrize("fit", [None, "pad", "stretch"])
def test_photos_that_are_not_square_are_read_at_the_resolution(
    tmp_path: Path, fit: str | None
) -> None:
    for k in range(40):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        pixels = np.random.default_rng(k).integers(256, size=(20, 16 + k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "ab"[k % 2] / f"{k}.jpg")
    asked = ("net.py:Plain", tmp_path / "w.pt", str(tmp_path), ["cpu-onnxruntime"], "5 ms")
    config = brought_config(*asked, 24, fit=fit)
    assert load_task(config.task, 0).input == (3, 24, 24)
    assert load_task(config.task, 0).framing.fit == (fit or "crop")
    with pytest.raises(DataError, match="--resolution"):
        load_task(brought_config(*asked).task, 0)
    other = brought_config(*asked, 24, ["task.resolution=32"])
    assert load_task(other.task, 0).input == (3, 32, 32) and other.space["resize"] == 24
    with pytest.raises(UsageError, match="--fit"):
        brought_config(*asked[:2], "cifar10", *asked[3:], 24, fit="pad")


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", ["old", "new", "spectral", "orthogonal", "masked"])
def test_weights_are_loaded_first_and_then_computed(
    tmp_path: Path, table: LatencyTable, task: Task, name: str
) -> None:
    """The files are those of the network as it is written; all that follows sees plain weights."""
    loaded = written(tmp_path, name)
    trained = loaded.written()
    with torch.no_grad():
        for p in trained.parameters():
            p.mul_(1 + torch.rand_like(p))
    trained.eval()(torch.zeros(1, 1, 12, 12))
    save_weights(trained, tmp_path / "w.safetensors")
    config = brought_config(
        loaded.source, tmp_path / "w.safetensors", "cifar10", ["cpu-onnxruntime"], "5 ms"
    )
    ctx = Context(tmp_path, config, tmp_path, lambda what, done, total: None)
    ctx.__dict__["space"] = loaded
    net, _ = brought_network(ctx, loaded.all_first)
    x = task.tensors("test", 8)[0]
    torch.testing.assert_close(net.eval()(x), trained(x), rtol=1e-4, atol=1e-5)
    save_weights(net, tmp_path / "plain.safetensors")
    again = load_weights(loaded.assemble(whole(loaded)), tmp_path / "plain.safetensors")
    torch.testing.assert_close(again(x), trained(x), rtol=1e-4, atol=1e-5)
    scores = importance(net, cuttable(loaded, net, whole(loaded)), "taylor", task, 1, 8, 0)
    predicted = predictor(table, loaded)
    budget = Latency("paper", 0.7 * predicted.p50_ms(whole(loaded)), predicted)
    smaller = cut(net, loaded, plan(loaded, whole(loaded), scores, [budget]))
    assert smaller.eval()(x).shape == (8, 3)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_hook_is_named_when_the_network_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match=r"'0' is .* it has a forward hook"):
        written(tmp_path, "hooked")


FORMS = """
from torch import nn
from torch.nn import functional as F


def conv(cin, cout, **norm):
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout, **norm), nn.ReLU()
    )


def end(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))
def net(first={}, then={}): return nn.Sequential(conv(1, 48, **first), conv(48, 64, **then), end())
def bare(): return net({"affine": False}, {"affine": False})
def half_bare(): return net({"affine": False})
def frozen(): return net().requires_grad_(False)
def bare_frozen(): return bare().requires_grad_(False)


def frozen_part():
    made = net()
    made[0].requires_grad_(False)
    return made


def frozen_norms():
    made = net()
    for m in made.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.requires_grad_(False)
    return made


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(1, 48), conv(48, 48), conv(48, 48), conv(48, 64)
        self.c[0].weight, self.end = self.b[0].weight, end()

    def forward(self, x):
        return self.end(self.d(self.c(self.b(self.a(x)))))


class OneNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 48, 3), nn.Conv2d(48, 48, 3, padding=1)
        self.norm, self.c, self.end = nn.BatchNorm2d(48), conv(48, 64), end()

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        return self.end(self.c(F.relu(self.norm(self.b(x)))))


class TwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.end = conv(1, 48), conv(48, 64), end()
        self.again = self.a

    def forward(self, x):
        return self.end(self.b(self.a(x)))
"""


@pytest.mark.parametrize("by", ["taylor", "magnitude", "bn-scale"])
@pytest.mark.parametrize(
    "name",
    ["bare", "half_bare", "frozen", "bare_frozen", "frozen_part", "frozen_norms", "Tied",
     "OneNorm", "TwoNames"],
)  # fmt: skip
def test_whatever_is_frozen_bare_or_shared_is_cut_right(
    tmp_path: Path, task: Task, name: str, by: Importance
) -> None:
    """Cut to the narrowest, where what goes is silenced first: it computes the same."""
    (tmp_path / "forms.py").write_text(FORMS)
    settings = {"source": f"{tmp_path / 'forms.py'}:{name}", "resolution": 12, "channels": 1}
    loaded = load_space({"kind": "module", **settings, "classes": 3})
    assert isinstance(loaded, Module)
    full = whole(loaded)
    torch.manual_seed(0)
    save_weights(loaded.written(), tmp_path / "w.safetensors")
    net = load_weights(loaded.assemble(full), tmp_path / "w.safetensors").requires_grad_(True)
    sets, cuts = cuttable(loaded, net, full), loaded.cuts(full)
    scores = importance(net, sets, by, task, 2, 16, 0)
    keep = {n: tuple(kept(s, cuts[n][-1])) for n, s in scores.items()}
    modules = dict(net.named_modules())
    with torch.no_grad():
        for root, stay in keep.items():
            gone = sorted(set(range(sets[root].count)) - set(stay))
            assert gone
            for layer in sets[root].readers:
                modules[layer].weight[:, gone] = 0
    narrow = tuple(f.at(*(cuts[g][-1] for g in f.groups)) for f in loaded.forms(full))
    smaller = cut(net, loaded, Plan(narrow, keep))
    x = task.tensors("test")[0]
    torch.testing.assert_close(smaller.eval()(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    before = {k: v.clone() for k, v in smaller.state_dict().items()}
    train(smaller, task, TrainRecipe(epochs=1, batch=32), 0)
    stays = {n for n, p in loaded.assemble(full).named_parameters() if not p.requires_grad}
    after = smaller.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in stays)
    assert learns(smaller) == any(not torch.equal(before[k], after[k]) for k in before)
