"""Facts: text and value are the same, whatever the value."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import InvalidArchitecture
from edgenas.spec import Architecture, Choice, OpSpec

words = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
sizes = st.integers(0, 10**6)
args = st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), sizes, max_size=5)
specs = st.builds(
    lambda k, a, b, s, args: OpSpec.of(k, a, b, s, **args), words, sizes, sizes, sizes, args
)
picks = st.dictionaries(
    st.text(max_size=5),
    st.integers() | st.floats(allow_nan=False) | st.lists(st.integers(), max_size=4).map(tuple),
    max_size=6,
)


@given(specs)
def test_operator_round_trip(op):
    assert OpSpec.parse(str(op)) == op
    assert hash(OpSpec.parse(str(op))) == hash(op)


@given(specs, specs)
def test_one_text_one_operator(a, b):
    assert (str(a) == str(b)) == (a == b)


@given(st.text(max_size=30))
def test_other_text_is_refused_or_canonical(text):
    try:
        op = OpSpec.parse(text)
    except ValueError:
        return
    assert str(op) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "conv", "conv 1-2", "conv 1-2 @3 ", "conv 1-2 @3 k", "Conv 1-2 @3", "conv 1-2 @3\n",
        "conv 1-2 @3 s1 k3", "conv 01-2 @3", "conv 1-2 @3 k3 k3", "conv 1-2 @3  k3", "conv -1-2 @3",
        "conv ٣-2 @3",
    ],
)  # fmt: skip
def test_what_is_no_operator(text):
    with pytest.raises(ValueError, match=r"not an operator|not in canonical form"):
        OpSpec.parse(text)


def test_operator_arguments():
    op = OpSpec.of("mbconv", 16, 24, 56, s=2, k=5, e=3)
    assert str(op) == "mbconv 16-24 @56 e3 k5 s2"
    assert (op.arg("k", 1), op.arg("hs", 0)) == (5, 0)


@given(picks, st.text(max_size=8))
def test_architecture_round_trip(picks, space):
    arch = Architecture.of(space, picks)
    again = Architecture.from_json(json.loads(json.dumps(arch.to_json())))
    assert again == arch
    assert again.id == arch.id and len(arch.id) == 10


@given(picks)
def test_the_order_of_picks_does_not_matter(picks):
    shuffled = list(picks.items())
    random.Random(0).shuffle(shuffled)
    assert Architecture.of("s", shuffled) == Architecture.of("s", picks)


def test_architecture_ids_tell_apart_and_do_not_change():
    a = Architecture.of("s", {"a": 0, "b": 1})
    assert a.id == "1029b5670d"
    others = [a.but(a=1), Architecture.of("t", {"a": 0, "b": 1}), Architecture.of("s", {"a": 0})]
    assert len({a.id, *(o.id for o in others)}) == 4
    assert a.but(a=1).but(a=0) == a
    assert (a["b"], a.index("b")) == (1, 1)
    with pytest.raises(InvalidArchitecture, match="not an option index"):
        a.but(a=(1, 2)).index("a")


@pytest.mark.parametrize(
    "data",
    [
        None, [], {}, {"space": "s"}, {"space": 1, "picks": {}}, {"space": "s", "picks": []},
        {"space": "s", "picks": {"a": True}}, {"space": "s", "picks": {"a": "1"}},
        {"space": "s", "picks": {"a": None}}, {"space": "s", "picks": {"a": [1, "2"]}},
        {"space": "s", "picks": {"a": [True]}},
    ],
)  # fmt: skip
def test_what_is_no_architecture(data):
    with pytest.raises(InvalidArchitecture):
        Architecture.from_json(data)


def test_a_forced_part_is_no_choice():
    with pytest.raises(ValueError, match="a forced part is not a choice"):
        Choice("a", ("only",))
