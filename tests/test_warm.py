"""A warm start takes what agrees in name and shape, and says how much that is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgenas.errors import CorruptFile, UsageError
from edgenas.warm import NETWORK, SUPERNET, start_of, warmed


def net(classes: int = 3, width: int = 4) -> nn.Sequential:
    torch.manual_seed(classes)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width), nn.Flatten(),
        nn.Linear(width, classes),
    )  # fmt: skip


def test_what_agrees_is_taken_and_the_rest_stays(tmp_path: Path) -> None:
    before, after = net(3), net(7)
    save_file(before.state_dict(), tmp_path / "w.safetensors")
    last = after[3].weight.clone()
    share = warmed(after, tmp_path / "w.safetensors")
    assert torch.equal(after[0].weight, before[0].weight) and torch.equal(after[3].weight, last)
    taken, whole = 36 + 16, 36 + 16 + 28 + 7  # convolution and batch norm; and the last layer
    assert share == taken / whole
    assert warmed(net(3), tmp_path / "w.safetensors") == 1


@pytest.mark.parametrize("inside", [False, True])
def test_what_a_trainer_wrapped_is_found(tmp_path: Path, inside: bool) -> None:
    before = net(3)
    state = {f"module.{k}": v for k, v in before.state_dict().items()}
    torch.save({"epoch": 3, "model": state} if inside else state, tmp_path / "w.pt")
    after = net(7)
    assert 0 < warmed(after, tmp_path / "w.pt") < 1
    assert torch.equal(after[0].weight, before[0].weight)


def test_another_network_gives_nothing_and_no_number_is_refused(tmp_path: Path) -> None:
    save_file({"0.weight": torch.ones(5), "strange": torch.ones(1)}, tmp_path / "w.safetensors")
    assert warmed(net(), tmp_path / "w.safetensors") == 0
    save_file({"0.weight": torch.full((4, 1, 3, 3), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(CorruptFile, match="NaN or infinity"):
        warmed(net(), tmp_path / "nan.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(CorruptFile):
        warmed(net(), tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    "kind",
    [
        lambda t: t.to_sparse(), lambda t: t.to(torch.int8), lambda t: t.to(torch.complex64),
        lambda t: t.bool(), lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        lambda t: t.to("meta"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_is_no_plain_float_tensor_is_refused(
    tmp_path: Path, kind: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    state = net().state_dict()
    torch.save({**state, "0.weight": kind(state["0.weight"])}, tmp_path / "w.pt")
    with pytest.raises(CorruptFile, match=r"w\.pt"):
        warmed(net(), tmp_path / "w.pt")


def test_a_run_has_what_its_stages_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is not there"):
        start_of(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no weights of a search or a training"):
        start_of(tmp_path)
    for kept in (NETWORK, SUPERNET):
        (tmp_path / kept).parent.mkdir(parents=True)
        (tmp_path / kept).write_bytes(b"")
        assert (start_of(tmp_path).supernet is not None) == (kept == SUPERNET)
    assert start_of(tmp_path / NETWORK).network == tmp_path / NETWORK
    monkeypatch.setenv("HOME", str(tmp_path))
    assert start_of(Path("~") / NETWORK).network == tmp_path / NETWORK
