"""Scores of untrained networks, against what their papers say of small cases."""

import itertools
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgenas import ops
from edgenas.chain import Network
from edgenas.errors import UnknownName
from edgenas.search import Problem
from edgenas.space import load_space
from edgenas.task import Task
from edgenas.untrained import SCORES, Subject, entropies, patterns, scored, weights

SPACE = load_space(
    {"kind": "mobile", "stem": 4, "stem_stride": 2, "first": 4, "widths": [4, 8], "depths": [1, 2],
     "strides": [1, 2], "kernels": [3, 5], "expansions": [1, 3], "head": 8, "resolution": 12,
     "channels": 1, "classes": 3}
)  # fmt: skip


def subject(number: int = 0, seed: int = 0) -> Subject:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 1, 12, 12, generator=g), torch.randint(3, (24,), generator=g)
    return Subject(SPACE, SPACE.sample(random.Random(number)), x, y, seed)


class Fixed(Subject):
    """Of a network that is written here."""

    def __init__(self, net: nn.Module, x: Tensor, y: Tensor) -> None:
        super().__init__(SPACE, SPACE.sample(random.Random(0)), x, y)
        object.__setattr__(self, "_net", net)

    def net(self) -> nn.Module:
        """That network."""
        net: nn.Module = self._net  # type: ignore[attr-defined]
        return net


def linear(matrix: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(matrix[0]), len(matrix), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(matrix))
    return layer


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", list(SCORES))
def test_each_gives_a_number_that_is_the_same_again_and_touches_nothing(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again = (SCORES[name]().of(subject()) for _ in range(2))
    assert first == again and math.isfinite(first)
    assert torch.equal(before, torch.random.get_rng_state())
    others = {SCORES[name]().of(subject(number)) for number in range(8)}
    assert len(others) > 1


@pytest.mark.parametrize("name", ["macs", "parameters"])
def test_sizes_are_those_of_the_operators(name: str) -> None:
    s = subject()
    assert SCORES[name]().of(s) == math.log1p(sum(map(getattr(ops, name), s.ops)))


def test_naswot_counts_the_units_on_which_two_images_agree() -> None:
    net = chain(linear([[1, 0], [0, 1], [1, 1]]), nn.ReLU(), linear([[1, 1, 1]] * 3))
    x = torch.tensor([[1.0, 1.0], [1.0, -2.0], [-1.0, 3.0]])
    # on: 111, 100, 011; so pairs agree on 1, 2 and 0 of three units
    kernel = [[3, 1, 2], [1, 3, 0], [2, 0, 3]]
    want = np.linalg.slogdet(np.array(kernel, float))[1]
    y = torch.tensor([0, 1, 2])
    assert SCORES["naswot"]().of(Fixed(net, x, y)) == pytest.approx(want)
    assert SCORES["swap"]().of(Fixed(net, x, y)) == 2  # units over the images: 110, 101, 101


def test_snip_and_grasp_are_sums_over_weights() -> None:
    torch.manual_seed(3)
    net, x, y = chain(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(7, 4), None
    y = torch.randint(3, (7,))
    given = weights(net)
    assert [w.shape for w in given] == [(5, 4), (3, 5)]

    def gradients() -> list[Tensor]:
        loss = nn.functional.cross_entropy(net(x), y)
        return list(torch.autograd.grad(loss, weights(net)))

    at = gradients()
    want = sum(float((w * g).abs().sum().detach()) for w, g in zip(given, at, strict=True))
    assert SCORES["snip"]().of(Fixed(net, x, y)) == pytest.approx(math.log(want), rel=1e-5)

    net = net.double()
    x = x.double()
    at = gradients()
    step = 1e-5
    with torch.no_grad():  # Hessian x gradient by a difference
        for w, g in zip(weights(net), at, strict=True):
            w += step * g
    there = gradients()
    with torch.no_grad():
        for w, g in zip(weights(net), at, strict=True):
            w -= step * g
    through = [(b - a) / step for a, b in zip(at, there, strict=True)]
    want = -sum(float((w * h).sum().detach()) for w, h in zip(weights(net), through, strict=True))
    assert SCORES["grasp"]().of(Fixed(net, x, y)) == pytest.approx(want, rel=1e-3)


def test_synflow_is_the_number_of_layers_times_what_flows_through() -> None:
    net = chain(linear([[1, -2], [3, 4]]), nn.ReLU6(), linear([[-5, 6]]))
    # |5| (1 + 2) + |6| (3 + 4) = 57 flows, more than a ReLU6 lets through; each layer has it whole
    x = torch.randn(4, 2)
    assert SCORES["synflow"]().of(Fixed(net, x, torch.zeros(4))) == pytest.approx(math.log(2 * 57))


def test_synflow_of_a_deep_network_does_not_overflow() -> None:
    layers = itertools.chain.from_iterable(
        (linear([[100.0] * 16] * 16), nn.ReLU()) for _ in range(16)
    )
    score = SCORES["synflow"]().of(Fixed(chain(*layers), torch.randn(2, 16), torch.zeros(2)))
    assert score == pytest.approx(math.log(16 * 16) + 16 * math.log(1600))


def maps(*layers: nn.Module) -> Network:
    return Network([*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()])


class Times(nn.Module):
    """x -> x times a matrix over channels."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w)."""
        return torch.einsum("oc,nchw->nohw", self.matrix, x)


def test_expressivity_is_the_entropy_of_principal_components() -> None:
    x = torch.randn(64, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    net = maps(Times(torch.eye(8)), Times(torch.diag(torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))))
    even, half = entropies(net, x)
    assert even == pytest.approx(math.log(8), abs=1e-2)
    assert half == pytest.approx(math.log(4), abs=1e-2)
    s = Fixed(net, x, torch.zeros(64))
    assert SCORES["expressivity"]().of(s) == pytest.approx(math.log(8) + math.log(4), abs=2e-2)
    assert SCORES["progressivity"]().of(s) == pytest.approx(-math.log(2), abs=2e-2)


@pytest.mark.parametrize("size", [1.0, 0.5, 4.0])
def test_trainability_is_best_where_gradients_keep_their_size(size: float) -> None:
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    net = maps(Times(torch.eye(8)), Times(size * turn))
    x = torch.randn(64, 8, 12, 12)
    score = SCORES["trainability"]().of(Fixed(net, x, torch.zeros(64)))
    assert score == pytest.approx(2 - size - 1 / size, rel=0.1, abs=0.1)


def strided() -> Iterator[nn.Module]:
    yield nn.Conv2d(8, 8, 3, padding=1)
    yield nn.Conv2d(8, 8, 3, 2, 1)
    yield nn.Conv2d(8, 16, 5, 3, 2)


def test_trainability_takes_layers_that_make_maps_smaller_whatever_their_sides() -> None:
    net = maps(*strided())
    for side in (12, 13, 17):
        s = Fixed(net, torch.randn(2, 8, side, side), torch.zeros(2))
        assert math.isfinite(SCORES["trainability"]().of(s))


def test_a_network_without_rectifiers_or_maps_has_no_score_and_nothing_breaks() -> None:
    s = Fixed(chain(linear([[1, 2], [3, 4]])), torch.randn(3, 2), torch.zeros(3).long())
    assert patterns(s.net(), s.x) == []
    assert SCORES["swap"]().of(s) == 0
    for name in ("progressivity", "trainability"):
        assert math.isnan(SCORES[name]().of(s))
    assert math.isnan(SCORES["naswot"]().of(s)) or SCORES["naswot"]().of(s) == -math.inf


def test_all_see_the_same_images_of_the_train_part(task: Task) -> None:
    problem = Problem(SPACE, task, (), seed=3)
    archs = [SPACE.sample(random.Random(n)) for n in range(4)]
    said: list[tuple[str, int, int]] = []
    every = scored("snip", problem, archs, lambda *a: said.append(a))
    assert every == scored("snip", problem, archs) and len(set(every)) == len(every)
    assert every[::-1] == scored("snip", problem, archs[::-1])
    assert said[0] == ("score snip", 0, 4)
    with pytest.raises(UnknownName, match="no score 'snipp'"):
        scored("snipp", problem, archs)
