"""What makes this machine a transport: a child process."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from edgenas.errors import DeviceError

TAIL_LINES = 3


class Here:
    """A subclass says which ``python`` it is."""

    emulated: ClassVar[bool] = False

    def push(self, files: Sequence[Path]) -> list[str]:
        """Nothing to move: the absolute paths."""
        return [str(path.resolve()) for path in files]

    def pull(self, remote: str, local: Path) -> None:
        """A copy. Raises DeviceError where there is no such file."""
        try:
            shutil.copyfile(remote, local)
        except OSError as e:
            raise DeviceError(f"cannot fetch {remote}: {e.strerror}") from e

    def place(self, files: Mapping[str, Path], folder: str) -> str:
        """A copy of each. Raises DeviceError where that cannot be written."""
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, path in files.items():
                shutil.copyfile(path, Path(folder) / name)
        except OSError as e:
            raise DeviceError(f"cannot write {folder}: {e.strerror or e}") from e
        return str(Path(folder).resolve())

    def scratch(self) -> AbstractContextManager[str]:
        """A temporary folder, removed at the end."""
        return tempfile.TemporaryDirectory(prefix="edgenas-")

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        """Standard output of a child process; closing the generator ends the process.

        Raises DeviceError with the end of its standard error where it fails.
        """
        with tempfile.TemporaryFile() as errors:
            try:
                # its own session: Ctrl-C reaches edgenas, which ends the child in order
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,
                )
            except OSError as e:
                raise DeviceError(f"cannot start {argv[0]}: {e.strerror}") from e
            try:
                assert child.stdout is not None
                yield from child.stdout
                code = child.wait()
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                if child.stdout is not None:
                    child.stdout.close()
            if code:
                errors.seek(0)
                raise DeviceError(f"{argv[0]} {_ended(code)}{_tail(errors.read())}")


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with code {code}"


def _tail(errors: bytes) -> str:
    said = [line for raw in errors.decode(errors="replace").splitlines() if (line := raw.strip())]
    return f": {' | '.join(said[-TAIL_LINES:])}" if said else " and said nothing"
