"""A plug-in that has, takes or gives something else than its protocol says is told so, by name."""

import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.contract import held
from edgenas.device import RUNTIMES, TRANSPORTS
from edgenas.errors import CapabilityError
from edgenas.export import EXPORTERS, exporter_for
from edgenas.pipeline.search import require_answers
from edgenas.search import METHODS, Found
from edgenas.space import SPACES, load_space, require_true
from edgenas.spec import Architecture
from edgenas.task import DATASETS
from edgenas.untrained import SCORES

SHELVES = {s.package.rpartition(".")[2]: s for s in
           (SPACES, METHODS, SCORES, RUNTIMES, TRANSPORTS, EXPORTERS, DATASETS)}  # fmt: skip
LIKE = {
    "spaces": ("mobile", "Mobile"), "methods": ("random", "Random"),
    "scores": ("macs", "Macs"),
    "runtimes": ("onnxruntime", "OnnxRuntime"), "transports": ("local", "Local"),
    "exporters": ("onnx", "Onnx"), "datasets": ("npz", "Npz"),
}  # fmt: skip


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """A package with one entry point ``mine``: a class like one of ours but for ``body``."""

    def installed(shelf: str, body: str, base: str | None = None) -> None:
        module, like = LIKE[shelf]
        base = like if base is None else base
        (tmp_path / f"odd_{shelf}.py").write_text(
            "from dataclasses import dataclass, field\nfrom typing import *\n"
            f"from edgenas.{shelf}.{module} import {like}\n\n\n"
            f"@dataclass(frozen=True)\nclass Thing({base}):\n    {body}\n"
        )
        info = tmp_path / "odd-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[edgenas.{shelf}]\nmine = odd_{shelf}:Thing\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, f"odd_{shelf}", raising=False)

    yield installed
    exporter_for.cache_clear()


def line(shelf: str, work: Callable[[], Any]) -> str:
    with pytest.raises(CapabilityError) as raised:
        work()
    said = str(raised.value)
    assert said.startswith(f"plug-in 'mine' (edgenas.{shelf}, odd_{shelf}:Thing): ")
    assert "\n" not in said and len(said) < 400
    return said.partition("): ")[2]


@pytest.mark.parametrize("shelf", SHELVES)
def test_one_that_lacks_everything_is_told_what(guest, shelf: str) -> None:
    guest(shelf, "x: int = 1", base="")
    said = line(shelf, lambda: SHELVES[shelf]["mine"])
    assert said.startswith("lacks ") and SHELVES[shelf].protocol.__name__ in said


@pytest.mark.parametrize(
    ("shelf", "body", "says"),
    [
        ("spaces", "def sample(self): ...", "sample takes other arguments: too many"),
        ("spaces", "def ops(self, arch, more): ...", "ops takes other arguments: missing"),
        ("spaces", "def configured(self, settings): ...", "configured is called on the class"),
        ("spaces", "build = 3", "build is 3, a int, not a method"),
        ("spaces", "id = 3", "id is 3, a int; expected str"),
        ("spaces", "input = (3, 32)", "input is (3, 32), a tuple; expected tuple[int, int, int]"),
        ("methods", "def run(self, problem): ...", "run takes other arguments: too many"),
        ("methods", "def run(self, problem, ledger): ...", "as run(problem, ledger, progress=...)"),
        ("methods", "def training_epochs(self): ...", "training_epochs takes other arguments"),
        ("methods", "run = None", "lacks run"),
        ("scores", "def of(self): ...", "of takes other arguments: too many"),
        ("scores", "of = 3", "of is 3, a int, not a method"),
        ("runtimes", "format = 3", "format is 3, a int; expected str"),
        ("runtimes", "precisions = 'fp32'", "precisions is 'fp32', a str; expected tuple[str, ..."),
        ("runtimes", "precisions = ['fp32']", "expected tuple[str, ...]"),
        ("runtimes", "def command(self, python): ...", "command takes other arguments"),
        ("runtimes", "def name(self): return 'x'", "name is <function"),
        ("transports", "emulated = 'no'", "emulated is 'no', a str; expected bool"),
        ("transports", "def push(self): ...", "push takes other arguments"),
        ("transports", "def place(self, files): ...", "place takes other arguments"),
        ("transports", "def scratch(self, where): ...", "missing a required argument: 'where'"),
        ("exporters", "format = b'onnx'", "format is b'onnx', a bytes; expected str"),
        ("exporters", "def network(self, graph, path, metadata): ...", "unexpected keyword"),
        ("exporters", "def operator(self, graph): ...", "operator takes other arguments"),
        ("exporters", "inspect = 'x'", "inspect is 'x', a str, not a method"),
        ("datasets", "def load(self, path): ...", "load takes other arguments: missing"),
        ("datasets", "def load(): ...", "load takes other arguments: too many"),
        ("datasets", "x: 'NoSuchType' = None", "its fields cannot be configured"),
    ],
)
def test_a_wrong_signature_or_constant_is_told_before_any_work(
    guest, shelf: str, body: str, says: str
) -> None:
    guest(shelf, body)
    assert says in line(shelf, lambda: SHELVES[shelf]["mine"])


@pytest.mark.parametrize(
    ("shelf", "body", "work", "says"),
    [
        ("spaces", "def ops(self, arch): return None", lambda s: s.ops(None),
         "ops is None; expected tuple[OpSpec, ...]"),
        ("spaces", "def ops(self, arch): return ('conv',)", lambda s: s.ops(None),
         "ops is ('conv',), a tuple; expected tuple[OpSpec, ...]"),
        ("spaces", "def ops(self, arch): yield 3", lambda s: s.ops(None), "a generator; expected"),
        ("spaces", "def build(self, arch): return [3]", lambda s: s.build(None),
         "build is [3], a list; expected Module"),
        ("spaces", "def vocabulary(self): return []", lambda s: s.vocabulary(),
         "vocabulary is [], a list; expected frozenset[OpSpec]"),
        ("spaces", "def sample(self, rng): return {'a': 1}", lambda s: s.sample(random.Random(0)),
         "sample is {'a': 1}, a dict; expected Architecture"),
        ("spaces", "@property\n    def input(self): return [3, 32, 32]", lambda s: s.input,
         "input is [3, 32, 32], a list; expected tuple[int, int, int]"),
        ("spaces", "def describe(self): return {1: 2}", lambda s: s.describe(),
         "describe is {1: 2}, a dict; expected Mapping[str, Any]"),
        ("methods", "def run(self, problem, ledger, progress=None): return None",
         lambda m: m.run(None, None), "run is None; expected Found"),
        ("methods", "def run(self, problem, ledger, progress=None): yield 1",
         lambda m: m.run(None, None), "a generator; expected Found"),
        ("methods", "def training_epochs(self, objectives): return '3'",
         lambda m: m.training_epochs(1), "training_epochs is '3', a str; expected float"),
        ("runtimes", "@property\n    def options(self): return None", lambda r: r.options,
         "options is None; expected Mapping[str, Any]"),
        ("runtimes", "@property\n    def payload(self): return 'run.py'", lambda r: r.payload,
         "payload is 'run.py', a str; expected Path"),
        ("runtimes", "def encode(self, job): return '{}'", lambda r: r.encode({}),
         "encode is '{}', a str; expected bytes"),
        ("runtimes", "def command(self, python, payload, job): return 'run it'",
         lambda r: r.command("p", "q", "r"), "command is 'run it', a str; expected Sequence[str]"),
        ("transports", "def push(self, files): return [None]", lambda t: t.push([]),
         "push is [None], a list; expected list[str]"),
        ("transports", "def push(self, files): return None", lambda t: t.push([]),
         "push is None; expected list[str]"),
        ("transports", "def lines(self, argv): return ['{}']", lambda t: t.lines([]),
         "lines is ['{}'], a list; expected Generator[str, None, None]"),
        ("transports", "def scratch(self): return '/tmp/x'", lambda t: t.scratch(),
         "scratch is '/tmp/x', a str; expected"),
        ("exporters", "def network(self, graph, path, metadata, batch=None): return path",
         lambda e: e.network(None, Path("x"), {}), "expected Artifact"),
        ("exporters", "def operator(self, graph, path): pass",
         lambda e: e.operator(None, Path("x")), "operator is None; expected Artifact"),
        ("exporters", "def inspect(self, path): return {}", lambda e: e.inspect(Path("x")),
         "inspect is {}, a dict; expected Inspection"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_where_it_was_given(
    guest, shelf: str, body: str, work: Callable[[Any], Any], says: str
) -> None:
    guest(shelf, body)
    cls = SHELVES[shelf]["mine"]
    thing = cls.configured({"preset": "tiny"}) if shelf == "spaces" else cls()
    assert says in line(shelf, lambda: work(thing))


@pytest.mark.parametrize("gives", ["None", "{}", "cls", "[]"])
def test_a_space_that_makes_no_space_is_named(guest, gives: str) -> None:
    guest("spaces", f"@classmethod\n    def configured(cls, settings): return {gives}")
    assert "configured is " in line("spaces", lambda: load_space({"kind": "mine"}))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def ops(self, arch): return ()", "no operators"),
        ("def vocabulary(self): return frozenset()", "its vocabulary lacks"),
        ("def input_of(self, arch): return (3, 0, 0)", r"images of \(3, 0, 0\)"),
        ("def build(self, arch): return __import__('torch').nn.Identity()", "gives of shape"),
        ("def build(self, arch): return __import__('torch').nn.Flatten()", r"shape \(1, 3072\)"),
    ],
)
def test_a_space_whose_networks_are_others_is_named(guest, body: str, says: str) -> None:
    guest("spaces", body)
    with pytest.raises(CapabilityError, match=f"Thing .odd_spaces.: .*{says}"):
        require_true(load_space({"kind": "mine", "preset": "tiny"}))


@pytest.mark.parametrize("kind", [{"kind": "mobile", "preset": "tiny"}, {"kind": "nasbench201"}])
def test_our_spaces_are_what_they_say(kind: dict[str, str]) -> None:
    require_true(load_space(kind))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (lambda arch: (), "found 0 networks of 1"),
        (lambda arch: (arch, arch), "found 2 networks of 1"),
        (lambda arch: ("arch",), "found a str, no Architecture"),
        (lambda arch: (arch.but(**{arch.picks[0][0]: 99}),), "found what the space lacks"),
        (lambda arch: (Architecture.of("elsewhere", {"a": 0}),), "found what the space lacks"),
    ],
)
def test_a_method_that_finds_something_else_is_named(found, says: str) -> None:
    space = load_space({"kind": "mobile", "preset": "tiny"})
    archs = found(space.sample(random.Random(0)))
    with pytest.raises(CapabilityError, match=f"method mine {says}"):
        require_answers(Found(archs), 1, space, "mine")


@pytest.mark.parametrize(
    ("body", "says"),
    [("x: int = 1", "writes 'onnx'"), ("x: int\n    format: ClassVar[str] = 'mine'", "needs x")],
)
def test_an_exporter_that_no_device_could_use_is_named(guest, body: str, says: str) -> None:
    guest("exporters", body)
    with pytest.raises(CapabilityError, match=f"'mine' .odd_exporters:Thing. {says}"):
        exporter_for("mine")


@pytest.mark.parametrize(
    ("shelf", "name"), [(shelf, name) for shelf in SHELVES for name in SHELVES[shelf]]
)
def test_our_own_would_pass_as_plug_ins(shelf: str, name: str) -> None:
    ours = importlib.import_module(f"edgenas.{shelf}.{name.replace('-', '_')}")
    spec = importlib.util.spec_from_file_location(f"copy_of_{shelf}_{ours.__name__}", ours.__file__)
    assert spec is not None and spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = copy
    try:
        spec.loader.exec_module(copy)
        (public,) = copy.__all__
        cls = getattr(copy, public)
        assert held(cls, SHELVES[shelf].protocol, name) is cls
    finally:
        del sys.modules[spec.name]
