"""A checkpoint gives back exactly what was saved, or says that it cannot."""

import copy
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer, SparseAdam

from edgenas.checkpoint import Checkpoint, Every, Saved, flattened, joined, restore
from edgenas.errors import CorruptFile

pytestmark = pytest.mark.trains

TENSORS = {
    "plain": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16),
    "number": torch.tensor(7),
    "nothing": torch.zeros(0, 3),
    "turned": torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
}
FACTS = {"epoch": 3, "loss": 0.1 + 0.2, "names": ["ä", None]}


def same(saved: Saved | None) -> bool:
    return (
        saved is not None
        and saved.facts == FACTS
        and saved.tensors.keys() == TENSORS.keys()
        and all(torch.equal(v, TENSORS[k]) for k, v in saved.tensors.items())
        and all(v.dtype == TENSORS[k].dtype for k, v in saved.tensors.items())
    )


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "made" / "a.safetensors", "key")
    assert checkpoint.load() is None
    checkpoint.save({"old": torch.zeros(1)}, {})
    checkpoint.save(TENSORS, FACTS)
    assert same(checkpoint.load())
    assert [p.name for p in checkpoint.path.parent.iterdir()] == ["a.safetensors"]
    assert Checkpoint(checkpoint.path, "another").load() is None


@settings(max_examples=60)
@given(st.data())
def test_damage_anywhere_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    checkpoint = Checkpoint(tmp_path_factory.mktemp("c") / "a.safetensors", "key")
    checkpoint.save(TENSORS, FACTS)
    content = bytearray(checkpoint.path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    checkpoint.path.write_bytes(content)
    try:
        saved = checkpoint.load()
    except CorruptFile as e:
        assert str(checkpoint.path) in str(e) and "delete it to start afresh" in str(e)
        assert "\n" not in str(e)
    else:  # the key may have become another's, and a header has bytes that say nothing
        assert saved is None or same(saved)


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_what_was_saved_before(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "a.safetensors", "key")
    checkpoint.save(TENSORS, FACTS)
    with _largest_file(10_000), pytest.raises(OSError) as caught:
        checkpoint.save({"large": torch.zeros(10_000)}, {})
    assert caught.value.filename == str(checkpoint.path)
    assert same(checkpoint.load())
    assert len(list(tmp_path.iterdir())) == 1


def test_parts_are_taken_apart_again() -> None:
    one, two = {"weight": torch.ones(1), "net.weight": torch.zeros(2)}, {"0.step": torch.tensor(1)}
    saved = Saved(joined(net=one, networks=two), {})
    assert saved.part("net") == one
    assert saved.part("networks") == two
    assert saved.part("absent") == {}


Make = Callable[[list[nn.Parameter]], Optimizer]
CONV = nn.Conv2d(3, 5, 3)
SPARSE = nn.Embedding(4, 3, sparse=True)


@pytest.mark.parametrize(
    ("module", "make"),
    [
        (CONV, lambda p: SGD(p, 0.1)),
        (CONV, lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True)),
        (CONV, lambda p: Adam(p, 0.01, amsgrad=True)),
        (CONV, lambda p: Adam([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}], 0.01)),
        (SPARSE, lambda p: SparseAdam(p, 0.1)),  # its step is a plain number
    ],
)
def test_an_optimiser_goes_on_bit_for_bit(module: nn.Module, make: Make, tmp_path: Path) -> None:
    net = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = make(list(net.parameters()))
    _steps(net, optimiser, range(3))
    checkpoint = Checkpoint(tmp_path / "a", "k")
    checkpoint.save(flattened(optimiser.state_dict()), {})
    again = copy.deepcopy(net)
    resumed = make(list(again.parameters()))
    saved = checkpoint.load()
    assert saved is not None
    restore(resumed, saved.tensors)
    _same_state(optimiser, resumed)
    _steps(net, optimiser, range(3, 6))
    _steps(again, resumed, range(3, 6))
    for one, other in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def _same_state(one: Optimizer, other: Optimizer) -> None:
    before, after = one.state_dict(), other.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert before["state"].keys() == after["state"].keys()
    for index, own in before["state"].items():
        for name, value in own.items():
            restored = after["state"][index][name]
            if not isinstance(value, Tensor):
                assert value is None or (restored == value and type(restored) is type(value))
                continue
            assert torch.equal(value, restored)
            assert [s for s, n in zip(value.stride(), value.shape, strict=True) if n > 1] == [
                s for s, n in zip(restored.stride(), value.shape, strict=True) if n > 1
            ]


def _steps(net: nn.Module, optimiser: Optimizer, numbers: range) -> None:
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        optimiser.zero_grad()
        if isinstance(net, nn.Conv2d):
            F.silu(net(torch.randn(2, 3, 8, 8, generator=generator))).sum().backward()
        else:
            F.silu(net(torch.randint(4, (6,), generator=generator))).sum().backward()
        optimiser.step()


def test_a_state_of_another_network_is_refused() -> None:
    optimiser = SGD(CONV.parameters(), 0.1, momentum=0.9)
    for tensors in ({"7.momentum_buffer": torch.zeros(1)}, {"x.momentum_buffer": torch.zeros(1)}):
        with pytest.raises((LookupError, ValueError)):
            restore(optimiser, tensors)


def test_time_to_save_comes_again_and_again() -> None:
    times = iter([0.0, 59.9, 60.0, 61.0, 119.0, 125.0, 184.0, 185.0])
    every = Every(60, lambda: next(times))
    assert [every.due() for _ in range(7)] == [False, True, False, False, True, False, True]
    assert [Every(0).due() for _ in range(3)] == [True] * 3
