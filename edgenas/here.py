"""What makes this machine a transport: a child process."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from edgenas import placed
from edgenas.artifact import sha256
from edgenas.device import NOT_RUN
from edgenas.errors import DeviceError
from edgenas.files import MARK, aside, write_text
from edgenas.scratch import scratch_folder
from edgenas.supervisor import CANNOT, end, supervised

TAIL_LINES = 3
TAIL_BYTES = 10_000
LINE_CHARACTERS = 1 << 26


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
        """A copy of each; none is replaced before all are there whole.

        Raises DeviceError, or UsageError where something else of that name is there.
        """
        into = Path(folder)
        if into.parts[:1] == ("~",):  # of --to=~/..., which no shell expands
            into = into.expanduser()
        try:
            for name in files:
                if (into / name).is_dir():
                    raise DeviceError(f"cannot write {into / name}: it is a folder")
                if os.path.lexists(into / name) and not placed.is_ours(into / name):
                    raise placed.not_ours(str(into / name))
            with contextlib.ExitStack() as all_of_them:
                for name, path in files.items():
                    copy = all_of_them.enter_context(aside(into / name))
                    shutil.copyfile(path, copy)
                    if sha256(copy) != sha256(path):
                        raise DeviceError(
                            f"{into / name} was not written whole: is the disk sound?"
                        )
                self._tell(into, files)
        except OSError as e:
            raise DeviceError(
                f"cannot write {e.filename or folder}: {e.strerror or e}; what was there is as it "
                "was"
            ) from e
        return str(into.resolve())

    def _tell(self, into: Path, files: Mapping[str, Path]) -> None:
        """Before they are renamed, and of those before too: a kill may come in between."""
        mark = into / MARK
        before = mark.read_text(encoding="utf-8", errors="replace") if mark.is_file() else ""
        write_text(mark, "".join(sorted({*(before + placed.told(files)).splitlines(True)})))

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A temporary folder, removed at the end."""
        with scratch_folder() as folder:
            yield str(folder)

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        """Standard output of a child process; closing the generator ends the process.

        Raises DeviceError with the end of its standard error where it fails.
        """
        with tempfile.TemporaryFile() as errors:
            if shutil.which(argv[0]) is None:
                why = errno.EACCES if Path(argv[0]).exists() else errno.ENOENT
                raise DeviceError(f"cannot start {argv[0]}: {os.strerror(why)}")
            try:
                # its own session: Ctrl-C reaches edgenas, which ends the child in order
                child = subprocess.Popen(
                    supervised(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,
                )
            except OSError as e:
                raise DeviceError(f"cannot start {argv[0]}: {e.strerror}") from e
            try:
                assert child.stdout is not None
                while line := child.stdout.readline(LINE_CHARACTERS):
                    if len(line) == LINE_CHARACTERS:
                        raise DeviceError(f"{argv[0]} prints without end, and was ended")
                    yield line
                code = child.wait()
            finally:
                end(child)
                if child.stdout is not None:
                    child.stdout.close()
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - TAIL_BYTES))
            said = errors.read()
            if code == CANNOT and said.startswith(b"cannot start"):
                raise DeviceError(said.decode(errors="replace").strip())
            if code:
                advice = f". {NOT_RUN[code]}" if code in NOT_RUN else ""
                raise DeviceError(f"{argv[0]} {_ended(code)}{_tail(said)}{advice}")


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with code {code}"


def _tail(errors: bytes) -> str:
    said = [line for raw in errors.decode(errors="replace").splitlines() if (line := raw.strip())]
    return f": {' | '.join(said[-TAIL_LINES:])}" if said else " and said nothing"
