from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgenas.graph import trace
from edgenas.quantization import Quantized, Scale, Weights

REAL = st.floats(-1e4, 1e4, width=32)


@given(REAL, REAL)
def test_a_scale_covers_its_range_and_holds_zero(a, b):
    low, high = min(a, b), max(a, b)
    scale = Scale.of(low, high)
    x = np.linspace(low, high, 11, dtype=np.float32)
    back = (scale.quantize(x).astype(np.float64) - scale.zero_point) * float(scale.scale)
    assert scale.quantize(np.zeros(1, np.float32))[0] == scale.zero_point
    # Half a step, and as much again at the ends, where the zero point was rounded.
    assert np.abs(back - x).max() <= 1.01 * float(scale.scale)


def test_a_tensor_that_is_always_zero_has_a_scale():
    assert Scale.of(0.0, 0.0).scale > 0


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3),
    st.lists(st.sampled_from([0.0, 1e-30, 1e-9, 1e-3, 1.0, 50.0]), min_size=3, max_size=3),
    st.floats(1e-4, 1e2),
    st.floats(1e-4, 1e2),
)
def test_weights_and_biases_survive_dead_channels(bias, largest, x_top, y_top):
    x, y = Scale.of(0, x_top), Scale.of(0, y_top)
    weight = np.linspace(-1, 1, 8, dtype=np.float32) * np.array(largest, np.float32)[:, None]
    q = Weights.of(weight, np.array(bias, np.float32), x, y)
    back = q.bias * q.bias_scales.astype(np.float64)
    np.testing.assert_allclose(back, bias, atol=q.bias_scales.max(), rtol=1e-6)
    error = np.abs(q.weight * q.scales[:, None].astype(np.float64) - weight).max(1)
    assert (error <= 0.5001 * q.scales).all()
    # The coarser scale of a dead channel cannot be seen: 8 products of 255 steps at most.
    normal = np.abs(weight).max(1) / 127
    hidden = (q.scales > normal * 1.001) * error * 8 * float(x.scale) * 255
    assert (hidden <= np.maximum(float(y.scale), np.abs(bias) * 1e-5)).all()


@pytest.mark.parametrize(
    ("layer", "seen", "top"), [(nn.ReLU6(), (-1.0, 9.0), 6.0), (nn.ReLU(), (-1.0, 9.0), 9.0),
                               (nn.ReLU6(), (0.0, 3.0), 3.0), (nn.Hardsigmoid(), (-1.0, 9.0), 1.0)],
)  # fmt: skip
def test_saturation_stands_for_the_activation_whatever_range_was_learned(layer, seen, top):
    graph = trace(nn.Sequential(nn.Conv2d(1, 2, 1), layer), (1, 2, 2))
    scale = Quantized(replace(graph, ranges={"input": (-1.0, 1.0), "0": seen})).scales["0"]
    assert (scale.zero_point, float(scale.scale)) == (0, pytest.approx(top / 255))


def test_saturation_stands_for_the_activation_of_a_vector_too():
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2), nn.ReLU6())
    graph = trace(module, (1, 2, 2))
    ranges = {"input": (-1.0, 1.0), "0": (-1.0, 1.0), "2": (-3.0, 9.0)}
    scale = Quantized(replace(graph, ranges=ranges)).scales["2"]
    assert (scale.zero_point, float(scale.scale)) == (0, pytest.approx(6 / 255))


def test_a_float_graph_has_no_integers():
    with pytest.raises(ValueError, match="calibrate"):
        Quantized(trace(nn.Conv2d(1, 1, 1), (1, 2, 2)))
