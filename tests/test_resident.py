"""Memory that this process has held."""

import subprocess
import sys

import pytest

from edgenas.resident import peak_bytes

TELL = "from edgenas.resident import peak_bytes; print(peak_bytes())"
HOLD = "held = bytearray(300 << 20)"


def told(script: str) -> int:
    return int(
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    )


def test_a_peak_counts_what_was_held_and_given_back() -> None:
    assert told(f"{HOLD}; del held; {TELL}") > 300 << 20
    assert 1 << 20 < told(TELL) < 200 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="the other way to ask counts the parent's too")
def test_a_peak_does_not_count_what_the_process_that_started_this_one_held() -> None:
    held = bytearray(300 << 20)
    assert peak_bytes() > len(held)
    assert told(TELL) < 200 << 20
