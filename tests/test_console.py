"""What a person who waits reads on stderr."""

import os
import re
import sys

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


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def screen(shown: str) -> list[str]:
    """What a terminal shows in the end of what was written to it; no line is longer than it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.startswith("\x1b[") and part.endswith("A"):
            row -= int(part[2:-1] or 1)
        elif not part.startswith("\x1b["):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


def test_a_terminal_is_left_with_what_was_finished_alone(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with Bars(clock) as bars:
        bars.console.print("the plan")
        for done in range(5):  # two stages time something: each has its line
            bars("timing", done, 4)
            clock.now += 20
        bars("evaluate", 1, 9)
        bars("evaluate", 2, 9)
        bars("search: unchanged", 1, 1)
        bars("measuring", 0, 5)
        bars("train (90 images/s)", 1, 2)
        bars("train (95 images/s)", 2, 2)
        bars("timing", 3, 4)
        bars("timing", 4, 4)
        bars("quantize found", 0, 1)
    assert screen(capsys.readouterr().err) == [
        "the plan", "timing 4/4, 1.3 min", "search: unchanged", "train (95 images/s) 2/2",
        "timing 4/4",
    ]  # fmt: skip


def test_a_terminal_shows_one_bar_of_what_is_being_done(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with Bars(clock) as bars:
        bars("evaluate", 2, 9)
        bars("timing", 0, 40)
        clock.now = 30
        bars("timing", 10, 40)
        bars.console.print("a line above")
        bars.beat()
        last = screen(capsys.readouterr().err)
    assert last[0] == "a line above" and len(last) == 2
    assert last[1].startswith("timing ") and last[1].endswith(" 10/40 about 1.5 min left")


def test_a_real_terminal_is_known_and_left_as_it_should_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    master, slave = os.openpty()
    with open(slave, "w", encoding="utf-8") as stderr, open(master, "rb", buffering=0) as shown:
        monkeypatch.setattr(sys, "stderr", stderr)
        with Bars(Clock()) as bars:
            assert bars.console.is_terminal
            bars("evaluate", 1, 9)
            bars("timing", 1, 2)
            bars("timing", 2, 2)
            bars("measuring", 0, 5)
        stderr.flush()
        os.set_blocking(shown.fileno(), False)
        text = b"".join(iter(lambda: shown.read(4096), None)).decode()
    assert "evaluate" in text and "measuring" in text
    assert screen(text) == ["timing 2/2"]


def test_an_error_takes_the_bar_away(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Bars(Clock()) as bars:
        bars("timing", 1, 40)
        raise KeyboardInterrupt
    assert screen(capsys.readouterr().err) == []


def test_a_log_has_a_line_every_ten_seconds_with_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    bars = Bars(clock)
    for done in range(41):  # one a second
        bars("timing", done, 40)
        clock.now += 1
    assert capsys.readouterr().err.splitlines() == [
        "timing 0/40", "timing 10/40, about 30 s left", "timing 20/40, about 20 s left",
        "timing 30/40, about 10 s left", "timing 40/40, 40 s",
    ]  # fmt: skip


def test_a_log_hears_of_a_long_step_too(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bars = Bars(clock)
    bars("quantize found", 0, 1)
    for _ in range(24):
        clock.now += 1
        bars.beat()
    bars("quantize found", 1, 1)
    bars.beat()
    bars("train (9 images/s)", 1, 3)
    clock.now += 40
    bars("train (8 images/s)", 2, 3)
    clock.now += 15
    bars.beat()
    bars("train (9 images/s)", 3, 3)
    clock.now += 99
    bars.beat()  # nothing is being done
    bars("quantize found", 0, 1)  # begun before, and long ago that anything was said
    assert capsys.readouterr().err.splitlines() == [
        "quantize found 0/1", "quantize found 0/1, 10 s so far", "quantize found 0/1, 20 s so far",
        "quantize found 1/1, 24 s", "train (9 images/s) 1/3", "train (8 images/s) 2/3",
        "train 2/3, about 25 s left", "train (9 images/s) 3/3", "quantize found 0/1",
    ]  # fmt: skip


def test_a_stage_is_told_where_nothing_within_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bars = Bars(clock)
    bars("stage train", 0, 1)
    clock.now = 15  # the first epoch
    bars.beat()
    bars("train (9 images/s)", 1, 2)
    bars("train (9 images/s)", 2, 2)
    clock.now = 40  # it is scored
    bars.beat()
    bars("evaluate", 1, 9)  # gives up
    bars("quantize found", 0, 1)
    clock.now = 51
    bars("measuring", 0, 5)
    bars("measuring", 5, 5)
    clock.now = 70
    bars.beat()
    bars("quantize found", 1, 1)
    bars("stage train", 1, 1)
    clock.now = 99
    bars.beat()
    assert capsys.readouterr().err.splitlines() == [
        "stage train 0/1", "stage train 0/1, 15 s so far",
        "train (9 images/s) 1/2", "train (9 images/s) 2/2", "stage train 0/1, 40 s so far",
        "evaluate 1/9", "quantize found 0/1", "measuring 0/5", "measuring 5/5",
        "quantize found 0/1, 30 s so far", "quantize found 1/1, 30 s", "stage train 1/1, 1.2 min",
    ]  # fmt: skip


def test_a_terminal_goes_back_to_the_stage(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with Bars(clock) as bars:
        bars("stage verify", 0, 1)
        bars("measuring", 0, 5)
        bars("measuring", 5, 5)
        clock.now = 5
        bars.beat()
        within = screen(capsys.readouterr().err)
        bars("stage verify", 1, 1)
    assert within[0] == "measuring 5/5" and within[1].startswith("stage verify ")
    assert within[1].endswith(" 0/1 5 s so far") and len(within) == 2
    assert screen(capsys.readouterr().err)[-1] == "stage verify 1/1, 5 s"


def test_a_resumed_one_is_as_fast_as_it_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bars = Bars(clock)
    bars("timing", 900, 1000)
    clock.now = 20
    bars("timing", 920, 1000)
    assert capsys.readouterr().err.splitlines()[-1] == "timing 920/1000, about 1.3 min left"


def test_a_name_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(Clock())
    bars("[bold]mine[/] " + 30 * "long ", 0, 2)
    assert capsys.readouterr().err == "[bold]mine[/] " + 30 * "long " + " 0/2\n"
