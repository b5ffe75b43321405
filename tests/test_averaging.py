"""The average of weights is the one asked for, and stands in the network when it should."""

import copy

import pytest
import torch
from torch import nn

from edgenas.averaging import Average, average

pytestmark = pytest.mark.trains


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))


def changed(net: nn.Module, step: int) -> None:
    """New weights and statistics, as a step leaves them."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor += 1


def followed(net: nn.Module, averaged: Average, steps: range) -> None:
    for step in steps:
        changed(net, step)
        averaged.update()


def test_it_is_an_exponential_mean_that_forgets_the_start_sooner() -> None:
    net = network()
    averaged, want = average(net, 0.5), {}
    for step in range(12):
        changed(net, step)
        averaged.update()
        fade = 0.0 if step == 0 else min(0.5, (1 + step) / (10 + step))
        want = {
            k: fade * want.get(k, v) + (1 - fade) * v
            for k, v in copy.deepcopy(net).state_dict().items()
        }
    averaged.settle()
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, want[name])
    assert int(net.state_dict()["1.num_batches_tracked"]) == 12


def test_it_is_shown_for_a_while() -> None:
    net = network()
    averaged = average(net, 0.9)
    followed(net, averaged, range(5))
    trained = copy.deepcopy(net.state_dict())
    with averaged.shown():
        seen = copy.deepcopy(net.state_dict())
    assert all(torch.equal(v, trained[k]) for k, v in net.state_dict().items())
    assert not torch.equal(seen["0.weight"], trained["0.weight"])
    assert not torch.equal(seen["1.running_var"], trained["1.running_var"])
    averaged.settle()
    assert all(torch.equal(v, seen[k]) for k, v in net.state_dict().items())


def test_it_goes_on_from_its_state() -> None:
    for decay in (0.9, 0.0):
        net = network()
        whole = average(net, decay)
        followed(net, whole, range(20))
        whole.settle()
        other = network()
        first = average(other, decay)
        followed(other, first, range(9))
        state = copy.deepcopy(dict(first.state_dict()))
        second = average(other, decay)
        second.load_state_dict(state)
        followed(other, second, range(9, 20))
        second.settle()
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())


def test_without_it_the_last_weights_stay() -> None:
    net = network()
    averaged = average(net, 0.0)
    followed(net, averaged, range(3))
    last = copy.deepcopy(net.state_dict())
    with averaged.shown():
        assert all(torch.equal(v, last[k]) for k, v in net.state_dict().items())
    averaged.settle()
    assert all(torch.equal(v, last[k]) for k, v in net.state_dict().items())
    assert not averaged.state_dict()
