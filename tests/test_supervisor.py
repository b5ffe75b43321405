"""What edgenas starts ends with it, however it ends; and what that has started."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from edgenas import here, supervisor
from edgenas.errors import DeviceError
from edgenas.transports.local import Local

# Starts, under a supervisor or as a device's lines, a shell that starts another program.
PARENT = """
import subprocess, sys, time
from edgenas.supervisor import supervised
from edgenas.transports.local import Local

sleeps = ["sh", "-c", "sleep 987 & echo $!; sleep 986"]
if sys.argv[1] == "lines":
    lines = Local().lines(sleeps)
    line = next(lines)
else:
    child = subprocess.Popen(supervised(sleeps), stdout=subprocess.PIPE, start_new_session=True)
    line = child.stdout.readline().decode()
print(int(line), flush=True)
time.sleep(985)
"""


def _gone(pid: int) -> None:
    """Wait until there is no such process, or it is a corpse."""
    for _ in range(3000):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("what", ["lines", "supervised"])
def test_nothing_outlives_us(how: signal.Signals, what: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, what], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        family = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(how)
    assert grandchild in {p.pid for p in family} and len(family) >= 3
    for process in family:
        _gone(process.pid)


def test_a_line_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "LINE_CHARACTERS", 100_000)
    with pytest.raises(DeviceError, match="cat prints without end"):
        next(Local().lines(["cat", "/dev/zero"]))
    assert list(Local().lines(["printf", "a\\nb"])) == ["a\n", "b"]


def test_a_generator_that_is_closed_ends_what_the_program_started() -> None:
    lines = Local().lines(["sh", "-c", "sleep 987 & echo $!; sleep 986"])
    grandchild = int(next(lines))
    lines.close()
    _gone(grandchild)


def _ended(*argv: str) -> int:
    return subprocess.run(supervisor.supervised(argv), start_new_session=True).returncode


def test_it_ends_as_the_program_does() -> None:
    assert _ended("sh", "-c", "exit 0") == 0
    assert _ended("sh", "-c", "exit 7") == 7
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV):
        assert _ended("sh", "-c", f"kill -{number.value} $$") == -number


def test_where_the_system_tells_nothing_it_looks_itself(tmp_path: Path) -> None:
    source = Path(supervisor.__file__).read_text(encoding="utf-8")
    blind = tmp_path / "supervisor.py"
    blind.write_text(
        source.replace("ctypes.CDLL(None).prctl", "ctypes.CDLL(None).no_such"), encoding="utf-8"
    )
    start = textwrap.dedent(f"""
        import os, subprocess, sys
        argv = [sys.executable, {str(blind)!r}, str(os.getpid()), "sh", "-c", "echo $$; sleep 987"]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        print(int(child.stdout.readline()), flush=True)
        os.kill(os.getpid(), 9)
    """)
    done = subprocess.run([sys.executable, "-c", start], capture_output=True)
    _gone(int(done.stdout))


def test_what_cannot_be_started_is_said(tmp_path: Path) -> None:
    text, program = tmp_path / "text", tmp_path / "program"
    text.touch()
    program.write_bytes(b"\x7fELF, and nothing else")
    program.chmod(0o755)
    for path, says in (
        (tmp_path / "absent", "No such file"),
        (text, "denied"),
        (program, "format"),
    ):
        with pytest.raises(DeviceError, match=rf"cannot start {path}: .*{says}"):
            list(Local().lines([str(path)]))
