"""Weights out of what trainers write: found by names and content, nothing in a file is run."""

import argparse
import collections
import datetime
import gzip
import json
import pathlib
import shlex
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgenas.errors import CorruptFile
from edgenas.state_dicts import filled, taken

State = Mapping[str, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class Config(dict[str, int]):
    """A class of the user's own, as OmegaConf and mmengine have theirs."""


class Options:
    def __init__(self) -> None:
        self.lr = 0.1


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = Net()
    module(torch.randn(4, 1, 8, 8))  # statistics of the batch norm that are not the first ones
    return module


def named(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state.items()}


def without(end: str, state: State) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.endswith(end)}


def nested(state: State) -> dict[str, Any]:
    """As Lightning writes it."""
    return {
        "epoch": 3, "global_step": 120, "pytorch-lightning_version": "2.4.0",
        "state_dict": named("model.", state) | {"criterion.weight": torch.ones(3)},
        "callbacks": {"EarlyStopping{'monitor': 'x'}": {"best_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
        "loops": {"fit_loop": {"state_dict": {}}}, "lr_schedulers": [],
    }  # fmt: skip


WRAPPED: Mapping[str, Callable[[State], Any]] = {
    "plain": lambda s: dict(s),
    "ordered": collections.OrderedDict,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}},
    "net": lambda s: {"net": s, "acc": 91.2, "epoch": 3},
    "model": lambda s: {"model": s},
    "network": lambda s: {"network": s},
    "ema": lambda s: {"ema": s},
    "a name of one's own": lambda s: {"best weights": s, "loss": torch.tensor(0.1)},
    "within another": lambda s: {"checkpoint": {"model": {"state_dict": s}}},
    "in a list": lambda s: [s, {"state": {}, "param_groups": []}],
    "module.": lambda s: named("module.", s),
    "_orig_mod.": lambda s: named("_orig_mod.", s),
    "model.": lambda s: {"state_dict": named("model.", s)},
    "net.": lambda s: named("net.", s),
    "module._orig_mod.": lambda s: {"model": named("module._orig_mod.", s)},
    "_orig_mod.module.": lambda s: named("_orig_mod.module.", s),
    "model._orig_mod.module.": lambda s: named("model._orig_mod.module.", s),
    "compiled within": lambda s: {k.replace("features.", "features._orig_mod."): v
                                  for k, v in s.items()},
    "parallel within": lambda s: {k.replace("features.", "features.module."): v
                                  for k, v in s.items()},
    "averaged": lambda s: named("module.", s) | {"n_averaged": torch.tensor(7)},
    "lightning": nested,
    "no counts": lambda s: without("num_batches_tracked", s),
    "no counts behind a prefix": lambda s: named("module.", without("num_batches_tracked", s)),
    "double": lambda s: {k: v.double() for k, v in s.items()},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v
                             for k, v in s.items()},
}  # fmt: skip


def got(path: Path) -> dict[str, Tensor]:
    module = net(1)
    return filled(module, taken(module, path).tensors, path).state_dict()


def assert_same(have: State, want: State) -> None:
    assert have.keys() == want.keys()
    for name, value in want.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(have[name], value), name


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("how", WRAPPED)
def test_weights_are_found_in_what_a_trainer_wrote(how: str, zipped: bool, tmp_path: Path) -> None:
    state = net().state_dict()
    torch.save(WRAPPED[how](state), tmp_path / "w", _use_new_zipfile_serialization=zipped)
    assert_same(got(tmp_path / "w"), state)


@pytest.mark.parametrize("suffix", ["", ".ckpt", ".pth.tar", ".bin", ".pt", ".pth", ".tar",
                                    ".safetensors", ".npz", ".weights 1"])  # fmt: skip
def test_a_file_is_told_by_its_content(suffix: str, tmp_path: Path) -> None:
    state, path = net().state_dict(), tmp_path / f"w{suffix}"
    torch.save({"state_dict": state}, path)
    assert_same(got(path), state)
    save_file(named("module.", state), path)
    assert_same(got(path), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_are_computed_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in net().state_dict().items()}
    torch.save({"model": half}, tmp_path / "w.pt")
    have = got(tmp_path / "w.pt")
    assert_same(have, {k: v.float() if v.is_floating_point() else v for k, v in half.items()})
    assert have["fc.weight"].dtype == torch.float32


def test_a_network_that_is_wrapped_itself_takes_bare_weights(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net(1)

    state = net().state_dict()
    torch.save(state, tmp_path / "w.pt")
    found = taken(Wrapper(), tmp_path / "w.pt").tensors
    assert_same({k.removeprefix("model."): v for k, v in found.items()}, state)


PLAIN: Mapping[str, Any] = {
    "float64": np.float64(0.9), "float32": np.float32(0.9), "int64": np.int64(3),
    "bool": np.bool_(True), "array": np.arange(3), "date": datetime.datetime(2026, 1, 1),
    "path": pathlib.Path("data"), "history": collections.defaultdict(list, loss=[1.0]),
    "deque": collections.deque([1.0]), "set": {1, 2}, "counter": collections.Counter("ab"),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", PLAIN)
def test_plain_values_beside_the_weights_are_left_out(
    beside: str, zipped: bool, tmp_path: Path
) -> None:
    state, path = net().state_dict(), tmp_path / "w.pth.tar"
    held = {"best": PLAIN[beside], "model": state, "more": [PLAIN[beside]]}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    assert_same(got(path), state)


def saved_as_advised(message: str) -> Path:
    """What the command in ``message`` writes, once a shell has read it."""
    python, option, program = shlex.split(message[message.index("python -c ") :])[:3]
    assert (python, option) == ("python", "-c")
    exec(program, {})
    written = program.rpartition(', "')[2].removesuffix(")")
    return Path(json.loads(f'"{written}'))


OBJECTS: Mapping[str, tuple[Callable[[nn.Module], Any], str]] = {
    "namespace": (
        lambda n: {"args": argparse.Namespace(lr=0.1), "model_state_dict": n.state_dict()},
        "argparse.Namespace",
    ),
    "a mapping of one's own": (
        lambda n: {"cfg": Config(a=1), "state_dict": n.state_dict()}, "test_weights.Config",
    ),
    "settings": (lambda n: {"net": n.state_dict(), "hp": Options()}, "test_weights.Options"),
    "an optimiser": (
        lambda n: {"opt": torch.optim.SGD(n.parameters(), 0.1), "weights": n.state_dict()},
        "torch.optim.sgd.SGD",
    ),
    "a function": (lambda n: {"f": len, "model": n.state_dict()}, "builtins.len"),
    "a class": (lambda n: {"f": Options, "model": n.state_dict()}, "test_weights.Options"),
    "a name with quotes": (
        lambda n: {"f": Options(), "it's \"best\"": n.state_dict()}, "test_weights.Options",
    ),
    "a whole module": (lambda n: n, "a whole module (test_weights.Net"),
    "a module in a mapping": (
        lambda n: {"epoch": 3, "model": n}, "a whole module (test_weights.Net",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["w.pt", 'it\'s "mine" $HOME.pth.tar'])
@pytest.mark.parametrize("what", OBJECTS)
def test_objects_beside_the_weights_are_named_with_what_saves_the_weights_alone(
    what: str, name: str, tmp_path: Path
) -> None:
    module = net()
    held, says = OBJECTS[what]
    torch.save(held(module), tmp_path / name)
    with pytest.raises(CorruptFile) as raised:
        taken(net(1), tmp_path / name)
    said = str(raised.value)
    assert says in said and "\n" not in said and str(tmp_path / name) in said
    assert_same(got(saved_as_advised(said)), module.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_an_old_file_of_a_whole_module_has_the_same_advice(tmp_path: Path) -> None:
    module = net()
    torch.save(module, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CorruptFile, match="a whole module") as raised:
        taken(net(1), tmp_path / "w.pt")
    assert_same(got(saved_as_advised(str(raised.value))), module.state_dict())


class Spy:
    """Runs a function when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(zipped: bool, tmp_path: Path) -> None:
    held = {"spy": Spy(tmp_path / "ran"), "model": net().state_dict()}
    torch.save(held, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CorruptFile):
        taken(net(1), tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


def test_of_several_that_fit_it_is_told_which_was_taken(tmp_path: Path) -> None:
    one, other, path = net(0).state_dict(), net(2).state_dict(), tmp_path / "w.pt"
    for held, mine in (
        ({"ema": other, "model": one}, '["model"]'),
        ({"state_dict": one, "state_dict_ema": other}, '["state_dict"]'),
        ({"model": {"teacher": other, "student": one}}, '["model"]["student"]'),
        (named("model.", one) | named("ema_model.", other), "'model.'"),
    ):
        torch.save(held, path)
        found = taken(net(1), path)
        assert_same({**net(1).state_dict(), **found.tensors}, one)
        (said,) = found.said
        assert "several weights fit" in said and f"{mine} are taken" in said
    torch.save({"ema": other, "model": one}, path)
    (said,) = taken(net(1), path).said
    assert_same(got(saved_as_advised(said)), other)
    torch.save({"ema": other, "model": one, "best": np.float64(0.9)}, path)
    (said,) = taken(net(1), path).said
    assert_same(got(saved_as_advised(said)), other)
    torch.save({"ema": one, "model": one}, path)  # no question
    assert taken(net(1), path).said == ()


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    torch.save(nested(net().state_dict()), tmp_path / "w.ckpt")
    (said,) = taken(net(1), tmp_path / "w.ckpt").said
    assert "'criterion.weight' is no part of this network and is left out" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: named("module.", without("fc.bias", s)), "it lacks"),
        (lambda s: without("fc.bias", s), "it lacks 1 of 9 tensors, e.g. 'fc.bias'"),
        (lambda s: without("running_mean", s), "e.g. 'features.1.running_mean'"),
        (lambda s: {**s, "head.weight": torch.ones(3)}, "and holds others, e.g. 'head.weight'"),
        (lambda s: {"model": named("module.", {**s, "fc.bias": torch.ones(4)})},
         "'fc.bias' is (4,) there, and (3,) here"),
        (lambda s: {k: v.to(torch.int8) for k, v in s.items()}, "is torch.int8 there"),
        (lambda s: {**s, "fc.bias": torch.tensor([1e39, 0, 0], dtype=torch.float64)},
         "NaN or infinity in 'fc.bias'"),
        (lambda s: {**s, "fc.bias": torch.full((3,), torch.nan).half()},
         "NaN or infinity in 'fc.bias'"),
        (lambda s: {**s, "fc.bias": torch.zeros(3, device="meta")}, "'fc.bias' has no values"),
        (lambda s: {"epoch": 3}, "holds no state dict"),
        (lambda s: 3, "holds no state dict"),
        (lambda s: [], "holds no state dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    change: Callable[[State], Any], says: str, tmp_path: Path
) -> None:
    torch.save(change(net().state_dict()), tmp_path / "w.pt")
    with pytest.raises(CorruptFile) as raised:
        got(tmp_path / "w.pt")
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "text"),
        (b'{"weight_map": {"a": "b"}}', "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (gzip.compress(b"x", mtime=0), "compressed: unpack it first"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"\x1c\0\0\0TFL3" + bytes(60), "TFLite"),
        (b"\x80\x04}.", "a pickle: save it with torch.save"),
        (b"PK\x03\x04", "cut off or damaged"),
        (bytes(range(256)), "of an unknown kind"),
        (b"\x08\0\0\0\0\0\0\0{       ", "cannot be read as weights"),
    ],
)
def test_what_holds_no_weights_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CorruptFile) as raised:
        taken(net(), tmp_path / "w.pt")
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_is_one_line(share: float, zipped: bool, tmp_path: Path) -> None:
    torch.save({"model": net().state_dict()}, tmp_path / "w.pt",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CorruptFile) as raised:
        got(tmp_path / "w.pt")
    assert "\n" not in str(raised.value) and "w.pt" in str(raised.value)


@pytest.mark.parametrize("place", ["data/0", "data.pkl", "data/1"])
@pytest.mark.parametrize("spoil", [lambda b: bytes(len(b)), lambda b: bytes([b[0] ^ 1]) + b[1:]])
def test_a_file_whose_checksum_fails_is_refused(
    place: str, spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": net().state_dict()}, path)
    with zipfile.ZipFile(path) as archive:
        content = archive.read(f"w/{place}")
    whole = path.read_bytes()
    assert content in whole
    path.write_bytes(whole.replace(content, spoil(content)))
    with pytest.raises(CorruptFile, match=f"damaged: 'w/{place}' in it fails its checksum"):
        got(path)


def test_a_file_that_was_written_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": net().state_dict()}, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        assert archive.testzip() is not None
    got(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore")
def test_a_program_has_advice_too(tmp_path: Path) -> None:
    module = net().eval()
    torch.jit.trace(module, torch.zeros(1, 1, 8, 8)).save(str(tmp_path / "script.pt"))
    with pytest.raises(CorruptFile, match="a TorchScript program") as raised:
        taken(net(1), tmp_path / "script.pt")
    assert_same(got(saved_as_advised(str(raised.value))), module.state_dict())
