import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas import units
from edgenas.errors import UsageError


@pytest.mark.parametrize(
    ("text", "ms"),
    [("<= 5 ms", 5.0), ("5ms", 5.0), ("≤ 800 us", 0.8), ("0.002 s", 2.0), ("<=70 µs", 0.07)],
)
def test_a_latency_is_read_in_its_unit(text: str, ms: float) -> None:
    assert units.budget(text, "here").resolve(1, 2) == pytest.approx(ms)


def test_a_share_lies_between_the_fastest_and_the_slowest() -> None:
    assert units.budget("<= 25 %", "here").resolve(2.0, 6.0) == pytest.approx(3.0)


@pytest.mark.parametrize("text", [5, 5.0, "5", "ms", "", None, True, "<= five ms", "5 ms ms", [5]])
def test_a_quantity_without_number_and_unit_is_refused(text: object) -> None:
    with pytest.raises(UsageError, match=r"here.*<= 5 ms"):
        units.budget(text, "here")


@pytest.mark.parametrize("text", [">= 5 ms", "0 ms", "-1 ms", "120 %", "5 kg", "5 MB"])
def test_a_budget_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="here"):
        units.budget(text, "here")


def test_fractions_know_which_way_they_point() -> None:
    assert units.fraction("<= 1 point", "here", "<=") == pytest.approx(0.01)
    assert units.fraction("88 %", "here", ">=") == pytest.approx(0.88)
    with pytest.raises(UsageError, match="should be '>= 88 %'"):
        units.fraction("<= 88 %", "here", ">=")
    with pytest.raises(UsageError, match="not between"):
        units.fraction("101 %", "here", ">=")


def test_sizes() -> None:
    assert units.size_bytes("<= 500 kB", "here") == 500_000
    assert units.size_bytes("1 MiB", "here") == 2**20
    with pytest.raises(UsageError, match="upper limit"):
        units.size_bytes(">= 1 MB", "here")


@given(st.floats(0.001, 1e6), st.sampled_from(["ns", "us", "ms", "s"]))
def test_every_written_latency_is_read_back(value: float, unit: str) -> None:
    scale = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
    read = units.budget(f"<= {value:.6f} {unit}", "here").limit_ms
    assert read == pytest.approx(float(f"{value:.6f}") * scale)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        limit = units.budget(text, "here")
    except UsageError as e:
        assert "here" in str(e)
    else:
        assert limit.resolve(1.0, 2.0) > 0
