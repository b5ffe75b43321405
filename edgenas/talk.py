"""A client program of this machine (ssh, adb) at work, and what it brings from a board, in bounds.

A login may print without end, or wait for ever for an answer: neither fills or stops us.
"""

import math
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from edgenas.errors import DeviceError

GREETING_BYTES = 4 << 20  # of a login before its command begins, and of all complaints
ANSWER_BYTES = 256 << 20
PIECE_BYTES = 1 << 20
WAKE_S = 0.05


class Silent(Exception):
    """It was waited for in vain; ``said`` is what came until then."""

    def __init__(self, said: bytes) -> None:
        super().__init__()
        self.said = said


def talk(
    argv: Sequence[str],
    stdin: bytes,
    label: str,
    begun: Callable[[bytes | bytearray], bool],
    begins_s: float,
    ends_s: float = math.inf,
) -> tuple[int, bytes, str]:
    """Exit status, output and complaints of ``argv``, which is ended here in any case.

    ``begun``: whether output shows that the login is over, which may take ``begins_s``; all may
    take ``ends_s``. Raises OSError (it cannot be started), Silent, and DeviceError where what comes
    has no end.
    """
    # a shared connection, or a server that it starts, holds a pipe for complaints open
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        client = subprocess.Popen(
            argv, stdin=given, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        assert client.stdout is not None
        start_s = time.monotonic()
        out, over = bytearray(), False
        try:
            for piece in _pieces(client):
                out += piece
                over = over or begun(out)
                complaints = os.fstat(errors.fileno()).st_size
                if len(out) > (ANSWER_BYTES if over else GREETING_BYTES) or (
                    complaints > GREETING_BYTES
                ):
                    raise DeviceError(_endless(label, over))
                if time.monotonic() - start_s > (ends_s if over else begins_s):
                    raise Silent(bytes(out))
            code = client.wait()
        finally:
            client.kill()  # nothing, where it has ended
            client.wait()
            client.stdout.close()
        errors.seek(0)
        return code, bytes(out), errors.read().decode(errors="replace")


def _pieces(client: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """What it prints until it has ended, something or nothing every moment.

    What it started may hold its output open after it.
    """
    assert client.stdout is not None
    with selectors.DefaultSelector() as waiting:
        waiting.register(client.stdout, selectors.EVENT_READ)
        while True:
            ended = client.poll() is not None
            if waiting.select(0 if ended else WAKE_S):
                if not (piece := os.read(client.stdout.fileno(), PIECE_BYTES)):
                    return
                yield piece
            elif ended:
                return
            else:
                yield b""


def _endless(label: str, over: bool) -> str:
    if over:
        return f"{label}: what one command prints there has no end, or more than 256 MB"
    return (
        f"{label}: its login prints without end. Look at what it starts there (~/.profile, "
        "~/.bashrc, `command=` in authorized_keys), or give the device file another login"
    )
