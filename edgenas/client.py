"""Who asks a board for something, said so that it can be proved later whether they are gone."""

import contextlib
import getpass
import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def spoken() -> str:
    """For people: ``ann@laptop, process 12``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user of a container, whom no file names
        user = f"user {os.getuid()}"
    return " ".join(f"{user}@{socket.gethostname()}, process {os.getpid()}".split())


def proof() -> str:
    """Start of this machine, its namespace of process numbers, number and start of this process.

    Empty where the system does not tell one of them.
    """
    world, born = _world(), _born(os.getpid())
    return f"{world} {os.getpid()} {born}" if world and born else ""


def gone(proof: str) -> bool:
    """Whether the process that gave ``proof`` has certainly ended; never of one unseen from here.

    Another machine, another container, a machine started anew: nothing can be said of it.
    """
    world, _, process = proof.partition(" ")
    pid, _, born = process.partition(" ")
    if not world or world != _world() or not pid.isdigit() or not born:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    now = _born(int(pid))
    return now is not None and now != born


def _world() -> str:
    """Within which a number and a start are one process; empty where that is not told."""
    with contextlib.suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{os.readlink(_PROC / 'self/ns/pid')}" if boot else ""
    return ""


def _born(pid: int) -> str | None:
    """Ticks from the machine's start to the process's; empty of a dead one, None if not told."""
    with contextlib.suppress(OSError, IndexError):
        if os.readlink(_PROC / "self") == str(os.getpid()):  # else /proc counts in another way
            stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
            state, *fields = stat.rpartition(") ")[2].split()
            return "" if state in "ZX" else fields[18]
    return None
