import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgenas import specimen
from edgenas.artifact import Artifact
from edgenas.device import Device, load_device
from edgenas.errors import CapabilityError, DeviceError, UsageError
from edgenas.export import exporter_for
from edgenas.measure import measure, memory_bytes, summary
from edgenas.session import predict
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec

SPACE = Mobile(
    resolution=8, channels=1, classes=3, stem=4, stem_stride=1, first=4, widths=(8,),
    depths=(2,), strides=(2,), head=8, kernels=(3, 5), expansions=(1, 2),
)  # fmt: skip
STEADY = [np.full(50, 1.0)] * 5


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


def written(device: Device, precision: str, path: Path) -> Artifact:
    arch = SPACE.sample(random.Random(0))
    return specimen.network(exporter_for(device.runtime.format), SPACE, arch, precision, path)


def noisy(seed: int, within: float, between: float, blocks: int = 5) -> list[np.ndarray]:
    """Calls of a 1 ms model: ``within`` and ``between`` blocks, relative standard deviations."""
    rng = np.random.default_rng(seed)
    return [
        np.exp(rng.normal(0, between)) * np.exp(rng.normal(0, within, 200)) for _ in range(blocks)
    ]


@pytest.mark.parametrize("name", ["cpu-onnxruntime", "cpu-litert"])
def test_memory_grows_with_weights_and_maps(tmp_path: Path, name: str) -> None:
    device = load_device(name)
    exporter = exporter_for(device.runtime.format)
    ops = {
        "small": "conv 8-8 @8 k3 s1",
        "map": "conv 32-32 @256 k3 s1",
        "weights": "linear 2000-4000 @1",
    }
    taken = {
        what: memory_bytes(
            device,
            specimen.operator(
                exporter, OpSpec.parse(op), "fp32", tmp_path / f"{what}.{exporter.format}"
            ),
        )
        for what, op in ops.items()
    }
    assert taken["small"] < 4e6
    assert taken["map"] > taken["small"] + 32 * 256 * 256 * 4
    assert taken["weights"] > taken["small"] + 2000 * 4000 * 4
    emulated = replace(device, transport=SimpleNamespace(emulated=True))
    assert (
        memory_bytes(emulated, Artifact(tmp_path / "a", exporter.format, "fp32", (1,), "")) is None
    )


@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
@pytest.mark.parametrize("name", ["cpu-onnxruntime", "cpu-litert"])
def test_real_files_are_measured_in_order(tmp_path: Path, name: str, precision: str) -> None:
    device = load_device(name)
    suffix = device.runtime.format
    small = written(device, precision, tmp_path / f"small.{suffix}")
    wide = replace(SPACE, resolution=32, widths=(64,), head=512)
    arch = wide.sample(random.Random(0))
    large = specimen.network(
        exporter_for(suffix), wide, arch, precision, tmp_path / f"large.{suffix}"
    )
    said: list[tuple[str, int, int]] = []
    a, b = measure(
        device,
        [large, small],
        blocks=2,
        block_seconds=0.02,
        progress=lambda *step: said.append(step),
    )
    assert a.floor_ms > 2 * b.floor_ms > 0
    for m in (a, b):
        assert m.floor_ms <= m.interval_ms[0] <= m.p50_ms <= m.interval_ms[1]
        assert m.p50_ms <= m.p90_ms * 1.5 and m.p90_ms <= m.p99_ms
        assert (m.blocks, m.provenance) == (2, "measured")
        assert m.n >= 2 * 20 * 5
        assert json.loads(json.dumps(m.to_json()))["p50_ms"] == m.p50_ms
    assert said == [("measuring", i, 2) for i in range(3)]


@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_both_runtimes_predict_the_same_classes(tmp_path: Path, precision: str) -> None:
    x = np.random.default_rng(0).standard_normal((37, *SPACE.input)).astype(np.float32)
    logits = []
    for name in ("cpu-onnxruntime", "cpu-litert"):
        device = load_device(name)
        artifact = written(device, precision, tmp_path / f"net.{device.runtime.format}")
        logits.append(predict(device, artifact, x, batch=8))
        np.testing.assert_allclose(logits[-1], predict(device, artifact, x, batch=37), atol=1e-6)
    onnx, tflite = logits
    assert onnx.shape == (37, SPACE.classes)
    assert onnx.std() > 0
    step = 1e-5 if precision == "fp32" else 0.05
    np.testing.assert_allclose(onnx, tflite, atol=step * np.abs(onnx).max())


def test_nothing_to_measure_is_no_measurement() -> None:
    assert measure(load_device("cpu-onnxruntime"), []) == []


def onnx_file(path: Path, sizes: list[int | str], op: str = "Relu", kind: int = 1) -> Artifact:
    """One operator on an input x; of Gather, x says which of two rows."""
    ends = (("x", kind, sizes), ("y", 1, None))
    x, y = (helper.make_tensor_value_info(*end) for end in ends)
    rows = [helper.make_tensor("rows", 1, (2, 3), [0.0] * 6)] if op == "Gather" else []
    node = helper.make_node(op, [*(r.name for r in rows), "x"], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], rows)
    opset = helper.make_opsetid("", 13)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return Artifact(path, "onnx", "fp32", (1,), "")


@pytest.mark.parametrize("sizes", [["n", 3, 8, 8], [1, 3, 8, 8], ["n", 3]])
def test_an_open_batch_is_one(tmp_path: Path, sizes: list[int | str]) -> None:
    file = onnx_file(tmp_path / "x.onnx", sizes)
    (m,) = measure(load_device("cpu-onnxruntime"), [file], blocks=2, block_seconds=0.01)
    assert m.p50_ms > 0


@pytest.mark.parametrize("sizes", [["n", 3, "height", "width"], [1, 3, "h", 8], ["n", "tokens"]])
def test_a_file_of_open_sizes_is_refused_for_how_long_it_takes_hangs_on_them(
    tmp_path: Path, sizes: list[int | str]
) -> None:
    file = onnx_file(tmp_path / "x.onnx", sizes)
    with pytest.raises(DeviceError, match=r"input 'x' is \(.*open.*save the file with these fixed"):
        measure(load_device("cpu-onnxruntime"), [file], blocks=2, block_seconds=0.01)


@pytest.mark.parametrize("kind", [onnx.TensorProto.INT64, onnx.TensorProto.INT32])
def test_whole_numbers_given_to_a_file_are_places_in_its_tables(tmp_path: Path, kind: int) -> None:
    file = onnx_file(tmp_path / "x.onnx", [1, 64], "Gather", kind)
    (m,) = measure(load_device("cpu-onnxruntime"), [file], blocks=2, block_seconds=0.01)
    assert m.p50_ms > 0


def test_a_file_that_cannot_run_is_a_device_error_that_names_it(tmp_path: Path) -> None:
    device = load_device("cpu-onnxruntime")
    artifact = written(device, "fp32", tmp_path / "net.onnx")
    artifact.path.write_bytes(b"not a model")
    with pytest.raises(DeviceError, match=r"cpu-onnxruntime cannot run .*net\.onnx: "):
        measure(device, [artifact], blocks=2, block_seconds=0.01)


def test_a_file_for_another_runtime_is_refused(tmp_path: Path) -> None:
    artifact = written(load_device("cpu-onnxruntime"), "fp32", tmp_path / "net.onnx")
    with pytest.raises(CapabilityError, match="runs tflite"):
        measure(load_device("cpu-litert"), [artifact], blocks=2, block_seconds=0.01)


@pytest.mark.parametrize("bad", [{"blocks": 1}, {"block_seconds": 0.0}])
def test_too_little_measuring_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="an interval needs"):
        measure(load_device("cpu-onnxruntime"), [], **bad)


def test_a_steady_device_is_stable_with_a_narrow_interval() -> None:
    m = summary(noisy(0, 0.01, 0.002), STEADY)
    assert m.grade == "stable"
    assert m.p50_ms == pytest.approx(1, rel=0.01)
    assert m.interval_ms[1] - m.interval_ms[0] < 0.02


@pytest.mark.parametrize(
    ("within", "between", "grade"), [(0.05, 0.0, "noisy"), (0.2, 0.0, "unstable")]
)
def test_variation_within_blocks_lowers_the_grade(
    within: float, between: float, grade: str
) -> None:
    assert summary(noisy(1, within, between), STEADY).grade == grade


@pytest.mark.parametrize(("step", "grade"), [(1.04, "stable"), (1.08, "noisy"), (1.2, "unstable")])
def test_one_block_apart_from_the_others_lowers_the_grade_but_not_the_estimate(
    step: float, grade: str
) -> None:
    blocks = [*noisy(2, 0.005, 0.0, 4), step * noisy(3, 0.005, 0.0, 1)[0]]
    m = summary(blocks, STEADY)
    assert m.grade == grade
    assert m.p50_ms == pytest.approx(1, rel=0.01)
    assert m.interval_ms[1] > 1.01 if step > 1.05 else m.interval_ms[1] < 1.06


@pytest.mark.parametrize(("move", "grade"), [(1.02, "stable"), (0.95, "noisy"), (1.15, "unstable")])
def test_a_canary_that_moved_lowers_the_grade(move: float, grade: str) -> None:
    m = summary(noisy(4, 0.005, 0.0), [*STEADY[:4], STEADY[0] * move])
    assert m.grade == grade
    assert m.canary_ms == (1.0, move)


@pytest.mark.parametrize(
    ("known_ms", "grade"), [(None, "stable"), (1.2, "stable"), (0.93, "noisy"), (0.8, "unstable")]
)
def test_a_canary_slower_than_it_has_been_lowers_the_grade(known_ms, grade: str) -> None:
    assert summary(noisy(4, 0.005, 0.0), STEADY, known_ms).grade == grade


def test_the_interval_covers_the_truth_of_a_device_that_varies_from_block_to_block() -> None:
    covered = []
    for seed in range(60):
        low, high = summary(noisy(seed, 0.01, 0.03), STEADY).interval_ms
        covered.append(low <= 1 <= high)
    assert np.mean(covered) >= 0.85


def test_outliers_are_counted_not_removed() -> None:
    calm = noisy(5, 0.005, 0.0)
    spiky = [np.concatenate([block[:-10], np.full(10, 50.0)]) for block in calm]
    m = summary(spiky, STEADY)
    assert m.p99_ms == pytest.approx(50)
    assert m.n == 1000
    assert m.p50_ms == pytest.approx(1, rel=0.01)


@given(st.lists(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), min_size=2, max_size=6))
def test_a_summary_is_always_ordered_and_the_same_for_the_same_samples(samples) -> None:
    blocks = [np.array(b) for b in samples]
    m = summary(blocks, STEADY)
    assert m.floor_ms <= m.p50_ms and m.p90_ms <= m.p99_ms
    assert m.interval_ms[0] <= m.p50_ms <= m.interval_ms[1]
    assert m == summary(blocks, STEADY)
