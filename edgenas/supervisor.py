"""Starts a program that ends with us, however we end: one file, run alone, no edgenas import.

``python -I -S supervisor.py PID PROGRAM ARGUMENT ...`` runs the program in its own process group
and ends as it does. Where process PID, which started it, is gone, all of the group is killed: what
the program has started too. It must be the first of its group, as of ``start_new_session``.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

_PR_SET_PDEATHSIG = 1
_LOOK_S = 1.0  # where the system tells of no parent's end
CANNOT = 126  # its exit code where the program cannot be started; standard error says why


def supervised(argv: Sequence[str]) -> list[str]:
    """``argv``, so that it ends with this process; start it in a session of its own."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv]


def end(process: "subprocess.Popen[Any]") -> None:
    """Kill what was started by ``supervised``, and all that it has started; wait for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _asks_to_be_told() -> bool:
    """SIGTERM when what started this ends. False where the system cannot."""
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) == 0)
    except (OSError, AttributeError):
        return False


def main() -> int:
    """Run the command line's program."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    waited = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    told = _asks_to_be_told()
    try:
        child = os.posix_spawnp(argv[0], argv, os.environ, setsigmask=before)
    except OSError as e:
        print(f"cannot start {argv[0]}: {e.strerror}", file=sys.stderr)
        return CANNOT
    while os.getppid() == parent:
        found = signal.sigwaitinfo(waited) if told else signal.sigtimedwait(waited, _LOOK_S)
        if found is None:
            continue
        if found.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return _ended(os.waitstatus_to_exitcode(status))
        elif found.si_pid != parent:
            os.kill(child, found.si_signo)
        elif os.getppid() == parent:
            told = False  # only the thread of it that started this has ended
    os.killpg(0, signal.SIGKILL)
    return 1  # not reached


def _ended(code: int) -> int:
    """The exit code to end with; or, by the signal that the program was ended by, no return."""
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:  # which nobody can handle
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
