from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgenas.config import load_config, parse_config
from edgenas.errors import UsageError

GOOD: dict[str, Any] = {
    "task": {"dataset": "fashion-mnist"},
    "targets": [{"device": "cpu-onnxruntime", "latency": {"p50": "<= 5 ms"}}],
}


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def test_defaults_are_written_out_and_read_back(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    assert config.name == "mine"
    again = parse_config(yaml.safe_load(config.dumps), "again")
    assert again == config
    assert again.dumps == config.dumps


def test_a_latency_may_be_written_short(tmp_path: Path) -> None:
    targets = [{"device": "cpu-litert", "latency": "<= 800 us"}]
    (target,) = load_config(written(tmp_path, targets=targets)).targets
    assert target.budgets[0].limit_ms == pytest.approx(0.8)


def test_overrides_reach_into_sections(tmp_path: Path) -> None:
    path = written(tmp_path)
    config = load_config(path, ["train.epochs=3", "gates.accuracy=>= 88 %", "task.dataset=npz"])
    assert config.train.epochs == 3
    assert config.gates.min_accuracy == pytest.approx(0.88)
    assert config.task["dataset"] == "npz"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trian": {}}, "unknown key 'trian'. Did you mean 'train'?"),
        ({"race": {"scores": ["naswat"]}}, "no score 'naswat'. Did you mean 'naswot'?"),
        ({"train": {"epoch": 3}}, "train: unknown key 'epoch'. Did you mean 'epochs'?"),
        ({"train": {"epochs": "many"}}, "train: epochs"),
        ({"train": {"epochs": 0}}, "train: epochs is 0; it lies between 1 and"),
        ({"train": {"lr": float("nan")}}, "train: lr is nan"),
        ({"train": {"epochs": 3, "warmup": 4.5}}, "train: warmup is 4.5; it lies between 0 and 3"),
        ({"train": {"warmup": 1e6}}, "train: warmup is 1000000.0; it lies between 0 and 100000"),
        ({"train": {"steps": 0}}, "train: steps is 0; it lies between 1 and"),
        ({"train": {"steps": 9, "epochs": 2}}, "train: steps and epochs both say how long"),
        ({"train": {"batch": 1}}, "train: batch is 1; it lies between 2 and"),
        ({"train": {"optimizer": "adam"}}, "train: optimizer"),
        ({"train": {"recipe": "long"}}, "train: recipe: Input should be 'quick' or 'full'"),
        ({"train": {"dropout": 1}}, "train: dropout is 1.0; it lies between 0 and 0.9"),
        ({"train": {"patience": 2}}, "train: patience is 2.0; it lies between 0 and 1"),
        ({"train": {"class_weights": "some"}}, "train: class_weights: Input should be 'auto' or"),
        ({"train": {"search_images": True}}, "train: search_images: expected no true or false"),
        ({"train": {"ema": 1}}, "train: ema is 1.0; it lies between 0 and 0.999999"),
        ({"train": {"mixup": -1}}, "train: mixup is -1"),
        ({"train": {"cutmix": float("inf")}}, "train: cutmix is inf"),
        ({"train": {"dead_after": 2}}, "train: dead_after is 2"),
        ({"train": {"precision": "int8"}}, "train: precision: Input should be 'fp32' or 'bf16'"),
        ({"accelerator": "tpu"}, "accelerator: Input should be 'cpu' or 'cuda'"),
        ({"measure": {"block_seconds": float("inf")}}, "measure: block_seconds is inf"),
        ({"threads": 100_000_000}, "threads is 100000000; it lies between 0 and"),
        ({"seed": 10**30}, "it lies between 0"),
        ({"train": 3}, "train: expected keys and values"),
        ({"gates": {"drop": 1}}, "gates: drop: 1 has no unit"),
        ({"gates": {"drop": "1 ms"}}, "unknown unit 'ms'"),
        ({"prune": {"latency": "5"}}, "prune: latency"),
        ({"precision": "int8"}, "'int8-weights' or 'int8-dynamic', not 'int8'"),
        (
            {"quantize": {"mixed": True}, "precision": "int8-static"},
            "quantize: mixed is compared with fp32 and int8-static: write precision: auto, not",
        ),
        ({"targets": []}, "targets: expected a list"),
        ({"targets": [{"device": "a", "latency": 5}]}, "5 has no unit"),
        ({"targets": [{"device": "a", "latency": {"p95": "5 ms"}}]}, 'expected {p50: "<= 5 ms"}'),
        ({"targets": [{"device": "a"}]}, "latency"),
        ({"targets": ["a"]}, "expected device and latency"),
        ({"targets": [GOOD["targets"][0]] * 2}, "named twice"),
        ({"space": {"preset": "tiny"}}, "space: kind is missing. Known: mobile"),
        ({"task": {}}, "task: dataset is missing"),
        ({"search": {}}, "search: method is missing"),
        ({"schema_version": 2}, "schema_version 2"),
        ({"name": "../up"}, "does not make a folder"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(written(tmp_path, **changes))
    text = str(caught.value)
    assert says in text
    assert "\n" not in text
    assert "mine.yaml" in text


def test_files_that_are_no_yaml_mapping(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for content, says in [
        ("a: [1", "not YAML"),
        ("- 1", "expected keys"),
        ("!!python/x 1", "YAML"),
    ]:
        path.write_text(content)
        with pytest.raises(UsageError, match=says):
            load_config(path)
    with pytest.raises(UsageError, match="there is no"):
        load_config(tmp_path / "absent.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*GOOD, "train", "gates", "x", "p50"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_any_content_is_read_or_refused(data: Any) -> None:
    try:
        parse_config(data if isinstance(data, dict) else {"task": data}, "somewhere")
    except UsageError as e:
        assert "\n" not in str(e)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs=drei", "train: epochs: Input should be 'auto', or a valid integer"),
        ("optimizer=adam", "train: optimizer: Input should be 'auto', or 'adamw' or 'sgd'"),
    ],
)
def test_where_a_word_or_a_number_may_stand_both_are_said(
    tmp_path: Path, text: str, says: str
) -> None:
    key, _, value = text.partition("=")
    path = tmp_path / "mine.yaml"
    path.write_text(
        "task: {dataset: fashion-mnist}\nspace: {kind: mobile}\n"
        "targets: [{device: cpu-litert, latency: <= 5 ms}]\n"
        f"train: {{{key}: {value}}}\n",
        encoding="utf-8",
    )
    with pytest.raises(UsageError) as e:
        load_config(path)
    assert says in str(e.value) and "literal" not in str(e.value)
