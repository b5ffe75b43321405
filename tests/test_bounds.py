"""Files that ask for more memory or time than any honest one of their size: refused in a line."""

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from edgenas import onnx_optimiser, parsing, runner
from edgenas.artifact import Artifact
from edgenas.config import load_config
from edgenas.device import load_device
from edgenas.errors import CorruptFile, EdgenasError
from edgenas.export import exporter_for
from edgenas.files import read_json
from edgenas.lut import import_table
from edgenas.session import Pace, Refusal, Visit, time_models
from edgenas.tabular import nasbench201, nasbench_macro

CPU = load_device("cpu-onnxruntime")
F, I64, NODE = TensorProto.FLOAT, TensorProto.INT64, helper.make_node


def _onnx(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, list[float] | list[int]],
    shape: list[int] | None = None,
) -> Path:
    """A model of ``nodes`` from ``x``, of ``shape``, to ``y``; ints are shapes, floats scalars."""
    held = [
        helper.make_tensor(name, I64, [len(v)], v)
        if isinstance(v[0], int)
        else helper.make_tensor(name, F, [], v)
        for name, v in constants.items()
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", F, shape or [1])],
        [helper.make_tensor_value_info("y", F, None)], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def _endless(path: Path) -> Path:
    body = helper.make_graph(
        [NODE("Identity", ["c"], ["d"]), NODE("Add", ["v", "v"], ["w"])], "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in
         (("i", I64, []), ("c", TensorProto.BOOL, []), ("v", F, [1]))],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in
         (("d", TensorProto.BOOL, []), ("w", F, [1]))],
    )  # fmt: skip
    nodes = [
        NODE("Squeeze", ["often"], ["m"]), NODE("Loop", ["m", "", "x"], ["y"], body=body),
    ]  # fmt: skip
    body.node[0].CopyFrom(NODE("Constant", [], ["d"], value=helper.make_tensor("", 9, [], [True])))
    return _onnx(path, nodes, {"often": [2**62]})


LARGE = {
    "constant": (
        [NODE("ConstantOfShape", ["s"], ["c"]), NODE("ReduceSum", ["c"], ["r"]),
         NODE("Add", ["x", "r"], ["y"])], {"s": [2_000_000_000]},
    ),
    "expand": ([NODE("Expand", ["x", "s"], ["c"]), NODE("ReduceSum", ["c"], ["y"])],
               {"s": [60_000, 60_000]}),
    "tile": ([NODE("Tile", ["x", "s"], ["c"]), NODE("ReduceSum", ["c"], ["y"])],
             {"s": [900_000_000]}),
    "range": ([NODE("Range", ["a", "b", "c"], ["r"]), NODE("ReduceSum", ["r"], ["q"]),
               NODE("Add", ["x", "q"], ["y"])], {"a": [0.0], "b": [1e10], "c": [1.0]}),
}  # fmt: skip


def test_a_small_file_that_wants_much_memory_is_refused_beside_one_that_does_not(
    tmp_path: Path,
) -> None:
    paths = {
        name: _onnx(tmp_path / f"{name}.onnx", nodes, constants)  # type: ignore[arg-type]
        for name, (nodes, constants) in LARGE.items()
    }
    paths["inputs"] = _onnx(tmp_path / "i.onnx", [NODE("Relu", ["x"], ["y"])], {}, [2**31, 2**20])
    paths["honest"] = _onnx(tmp_path / "h.onnx", [NODE("Relu", ["x"], ["y"])], {})
    models = {name: Artifact.of(path, "onnx", "fp32", ()) for name, path in paths.items()}
    events = list(time_models(CPU, models, [(0, name) for name in models], Pace(1.0)))
    refused = {e.id: e.reason for e in events if isinstance(e, Refusal)}
    assert refused.keys() == {*LARGE, "inputs"}
    assert "its inputs take" in refused.pop("inputs")
    for reason in refused.values():
        assert "more memory than" in reason and "the most for files of this size" in reason
    assert [e.id for e in events if isinstance(e, Visit)] == ["honest"]


def test_what_never_answers_is_ended_and_said(tmp_path: Path) -> None:
    source = Path(runner.__file__).read_text(encoding="utf-8")
    quick = tmp_path / "runner.py"
    bound = "MOST_SECONDS, SECONDS_PER_MB = "
    assert f"{bound}60" in source
    quick.write_text(source.replace(f"{bound}60", f"{bound}3"))
    job = {
        "verb": "time", "backend": "onnxruntime", "threads": 1, "visits": [[0, "a"]],
        "visit_ms": 1, "min_calls": 1, "max_calls": 1, "warm_ms": 0,
        "models": [{"id": "a", "path": str(_endless(tmp_path / "a.onnx"))}],
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    argv = [sys.executable, str(quick), str(tmp_path / "job.json")]
    done = subprocess.run(argv, capture_output=True, text=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["event"] == "refused" and "no answer within 3 s" in last["reason"]
    assert done.returncode == 3


def _chain(path: Path, size: int, length: int) -> Path:
    nodes = [NODE("ConstantOfShape", ["s"], ["c0"])]
    nodes += [NODE("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(length)]
    nodes += [NODE("ReduceSum", [f"c{length}"], ["r"]), NODE("Add", ["x", "r"], ["y"])]
    return _onnx(path, nodes, {"s": [size, size]})


@pytest.mark.parametrize(
    ("size", "length", "bounds", "says"),
    [
        (900, 200, {"SECONDS": 1}, r"not done with it within 1 s, the most for a file of \d+ b"),
        (1000, 30, {"MEMORY_BYTES": 8 << 20}, "more memory for it than 8 MB, the most for a file"),
    ],
)
def test_constants_that_take_long_to_fold_are_refused(
    size: int, length: int, bounds: dict[str, int], says: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in bounds.items():
        monkeypatch.setattr(onnx_optimiser, name, value)
    path = _chain(tmp_path / "chain.onnx", size, length)
    with pytest.raises(CorruptFile, match=says):
        exporter_for("onnx").inspect(path)


@pytest.mark.parametrize("beside", [False, True])
def test_bounds_grow_with_the_weights_of_a_file(
    beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_optimiser, "MEMORY_BYTES", 16 << 20)
    weight = np.random.default_rng(0).standard_normal((4096, 4096)).astype(np.float32)  # 64 MB
    graph = helper.make_graph(
        [NODE("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", F, [1, 4096])],
        [helper.make_tensor_value_info("y", F, None)], [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=beside, location="m.data",
        all_tensors_to_one_file=True,
    )  # fmt: skip
    assert exporter_for("onnx").inspect(tmp_path / "m.onnx").float_operators == ("MatMul",)


def _overlapping(count: int) -> bytes:
    """A TFLite file of ``count`` operators that are one, with as many inputs."""
    b = flatbuffers.Builder(1 << 16)

    def vector(start: object, number: int, push: object, value: int) -> int:
        start(b, number)  # type: ignore[operator]
        for _ in range(number):
            push(value)  # type: ignore[operator]
        return int(b.EndVector())

    ends = vector(schema.OperatorStartInputsVector, count, b.PrependInt32, 0)
    schema.OperatorStart(b)
    schema.OperatorAddInputs(b, ends)
    schema.OperatorAddOutputs(b, ends)
    op, refer = schema.OperatorEnd(b), b.PrependUOffsetTRelative
    operators = vector(schema.SubGraphStartOperatorsVector, count, refer, op)
    schema.TensorStart(b)
    tensors = vector(schema.SubGraphStartTensorsVector, 1, refer, schema.TensorEnd(b))
    schema.SubGraphStart(b)
    schema.SubGraphAddOperators(b, operators)
    schema.SubGraphAddTensors(b, tensors)
    schema.SubGraphAddInputs(b, ends)
    schema.SubGraphAddOutputs(b, ends)
    graphs = vector(schema.ModelStartSubgraphsVector, 1, refer, schema.SubGraphEnd(b))
    schema.OperatorCodeStart(b)
    codes = vector(schema.ModelStartOperatorCodesVector, 1, refer, schema.OperatorCodeEnd(b))
    schema.ModelStart(b)
    schema.ModelAddVersion(b, 3)
    schema.ModelAddSubgraphs(b, graphs)
    schema.ModelAddOperatorCodes(b, codes)
    b.Finish(schema.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def test_a_file_whose_parts_overlap_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(_overlapping(3))
    assert exporter_for("tflite").inspect(path).operators == 3
    path.write_bytes(_overlapping(20_000))
    with pytest.raises(CorruptFile, match=r"its parts overlap: they are more than the \d+ bytes"):
        exporter_for("tflite").inspect(path)


@pytest.mark.parametrize("where", ["key", "value"])
@pytest.mark.parametrize("format", ["onnx", "tensorrt"])
def test_metadata_that_are_no_text_are_refused(where: str, format: str, tmp_path: Path) -> None:
    path = _onnx(tmp_path / "a.onnx", [NODE("Relu", ["x"], ["y"])], {})
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "the key", "the value"
    text = f"the {where}".encode()
    path.write_bytes(model.SerializeToString().replace(text, b"\xff" * len(text)))
    with pytest.raises(CorruptFile, match="cannot be loaded as ONNX"):
        exporter_for(format).inspect(path)


@pytest.mark.parametrize("format", ["onnx", "tensorrt", "tflite", "ncnn", "torch", "fpga"])
@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 5000, b"\xff" * 5000, b"TFL3TFL3" * 99])
def test_garbage_of_any_format_is_refused(format: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(EdgenasError) as caught:
        exporter_for(format).inspect(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [nasbench_macro, nasbench201])
@pytest.mark.parametrize("content", [b"0", b"0,", b"00000000,1,1,1\n", b'"'])
def test_a_packed_table_that_unpacks_without_end_is_refused(
    read: Callable[[Path], object], content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.csv.gz"
    member = gzip.compress(content * ((1 << 20) // len(content)))
    path.write_bytes(member * 1000)  # a gigabyte, of members that follow each other
    with pytest.raises(CorruptFile, match=f"longer than {parsing.MOST_BYTES >> 20} MB") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".yaml"])
@pytest.mark.parametrize(
    "content", [None, b"op," * 100_000, b"a" * 1_000_000, b'"' * 99_999, b"a: " + b"1" * 200_000]
)
def test_a_table_of_hundreds_of_mb_or_one_line_is_refused(
    content: bytes | None, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content or b"op,ms\n")
    if content is None:
        with path.open("r+b") as file:
            file.truncate(900 << 20)  # takes no disk
    with pytest.raises(CorruptFile, match=re.escape(str(path))) as caught:
        import_table(path, "x", "fp32", 0.1)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 600
    assert "longer than" in said or content is not None


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_config_of_hundreds_of_mb_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"c{suffix}"
    with path.open("wb") as file:
        file.truncate(900 << 20)
    with pytest.raises(EdgenasError, match=r"longer than \d+ MB"):
        (load_config if suffix == ".yaml" else read_json)(path)
