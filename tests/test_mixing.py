"""Mixed images are what the papers say, and their labels by the same shares."""

import random

import pytest
import torch
from torch.nn import functional as F

from edgenas.mixing import Mixing, any_of, cutmix, mixup, plain

pytestmark = pytest.mark.trains

X = torch.rand(6, 2, 8, 10, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def test_mixup_weighs_neighbours_and_their_labels_alike() -> None:
    shares = set()
    for seed in range(20):
        blend = mixup(0.4)(X, Y, random.Random(seed))
        (y, share), (other, rest) = blend.labels
        assert share + rest == pytest.approx(1) and 0 <= share <= 1
        torch.testing.assert_close(blend.x, share * X + rest * X.roll(1, 0))
        assert torch.equal(y, Y) and torch.equal(other, Y.roll(1, 0))
        shares.add(round(share, 6))
    assert len(shares) == 20


def test_cutmix_pastes_one_rectangle_and_labels_go_by_area() -> None:
    inside = set()
    for seed in range(60):
        blend = cutmix(1.0)(X, Y, random.Random(seed))
        (y, share), (other, rest) = blend.labels
        assert torch.equal(y, Y) and torch.equal(other, Y.roll(1, 0))
        pasted = blend.x != X
        assert torch.equal(blend.x, torch.where(pasted, X.roll(1, 0), X))
        assert bool((pasted == pasted[:1, :1]).all())
        square = pasted[0, 0]
        rows, columns = int(square.any(1).sum()), int(square.any(0).sum())
        assert int(square.sum()) == rows * columns == round(80 * rest)
        assert share + rest == pytest.approx(1)
        inside.add(rows * columns)
    assert len(inside) > 10
    assert torch.equal(X, torch.rand(6, 2, 8, 10, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("mix", [mixup(0.5), cutmix(0.5), any_of(mixup(1), cutmix(1)), any_of()])
def test_what_is_drawn_depends_on_the_generator_alone(mix: Mixing) -> None:
    one, same = (mix(X, Y, random.Random(3)) for _ in range(2))
    assert torch.equal(one.x, same.x)
    assert one.labels[0][1] == same.labels[0][1]
    channels_last = X.contiguous(memory_format=torch.channels_last)
    mixed = mix(channels_last, Y, random.Random(3)).x
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_one_way_a_batch_of_those_asked_for() -> None:
    assert torch.equal(any_of()(X, Y, random.Random(0)).x, X)
    both, rng = any_of(mixup(1.0), plain), random.Random(0)
    kinds = [len(both(X, Y, rng).labels) for _ in range(200)]
    assert 70 < kinds.count(1) < 130


def test_the_loss_is_that_of_mixed_labels() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    blend = mixup(1.0)(X, Y, random.Random(0))
    soft = sum(share * F.one_hot(y, 3) for y, share in blend.labels)
    got = blend.mean(lambda y: F.cross_entropy(logits, y, label_smoothing=0.1))
    torch.testing.assert_close(got, F.cross_entropy(logits, soft, label_smoothing=0.1))  # type: ignore[arg-type]
    alone = plain(X, Y, random.Random(0)).mean(lambda y: F.cross_entropy(logits, y))
    assert torch.equal(alone, F.cross_entropy(logits, Y))
