"""Equal contents are equal bytes."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save

from edgenas.ordered import ordered

WORDS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=6)


@given(WORDS, st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_nothing_is_changed_but_the_order(words: dict[str, str], sizes: list[int]) -> None:
    tensors = {f"é{i}": np.full(n, i, np.float32) for i, n in enumerate(sizes)}
    words.pop("__metadata__", None)
    data = ordered(save(tensors, words))
    assert {k: v.tolist() for k, v in load(data).items()} == {
        k: v.tolist() for k, v in tensors.items()
    }
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0 and json.loads(data[8 : 8 + length])["__metadata__"] == words


@pytest.mark.parametrize("number", [2, 3, 5])
def test_metadata_in_every_order_are_the_same_bytes(number: int, tmp_path) -> None:
    words = [(f"key {i}", "word" * i) for i in range(number)]
    made = {ordered(save({"x": np.ones(3)}, dict(w))) for w in itertools.permutations(words)}
    assert len(made) == 1
    path = tmp_path / "x.safetensors"
    path.write_bytes(made.pop())
    with safe_open(path, "np") as file:
        assert file.metadata() == dict(words)
