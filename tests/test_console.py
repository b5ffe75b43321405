"""What a person who waits reads on stderr."""

import pytest

from edgenas.console import Bars


def test_elsewhere_than_on_a_terminal_a_step_with_a_remark_is_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bars() as bars:
        bars("train (90 images/s)", 1, 3)
        bars("train (90 images/s)", 2, 3)
        bars("train (120 images/s)", 3, 3)
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.splitlines() == [
        "train (90 images/s) 1/3", "train (90 images/s) 2/3", "train (120 images/s) 3/3",
    ]  # fmt: skip


def test_on_a_terminal_remarks_share_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Bars() as bars:
        assert bars.console.is_terminal
        for done in (1, 2, 3):
            bars(f"train ({done} images/s)", done, 3)
        bars("search", 1, 2)
    shown = capsys.readouterr().err
    last = shown[shown.rindex("train") :]
    assert "3 images/s" in last and "3/3" in last
    assert "1 images/s" not in last and "search" in last
