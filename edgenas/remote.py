"""What makes a board that runs one shell command at a time a transport.

Files are known there by the hash of their content, so none is sent twice and no name of the user's
reaches a shell. A command runs detached and is followed by byte offset, so a connection may be cut
at any time.
"""

import contextlib
import getpass
import hashlib
import io
import math
import os
import re
import shlex
import socket
import tarfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

from edgenas.artifact import sha256
from edgenas.errors import DeviceError, UsageError

T = TypeVar("T")

CHUNK_BYTES = 8 << 20  # sent in one go: what was sent before a cut is not sent again
UNUSED_DAYS = 7
BUSY = 75
FIRST_S = 5.0  # to reach a board that may not be there at all
PAUSES_S = 0.2, 2.0  # between two looks at a job: first, longest

_LIST = """
mkdir -p {files} || exit
find {files} -type f -mtime +{days} -exec rm -f {{}} +
ls {files}
"""

_UNPACK = """
mkdir -p {part} && tar xf - -C {part} && mv {part}/* {files}/ && rm -rf {part}
code=$?; rm -rf {part}; exit $code
"""

# Nothing is replaced before all of it lies there whole: aside on the same disk, by size and hash.
_PLACE = """
whole() {{
  [ "$(wc -c < "$1")" -eq "$2" ] || return 1
  [ -z "$tool" ] || [ "$($tool < "$1" | cut -c 1-64)" = "$3" ]
}}
bring() {{
  if [ -d "$into/$4" ]; then echo "$into/$4 is a folder" >&2; exit 1; fi
  cp "$1" "$part/$4" || {{ echo "what was in $into is as it was" >&2; exit 1; }}
  whole "$part/$4" "$2" "$3" || {{
    rm -f "$1"
    echo "$4 did not arrive whole, what was in $into is as it was: try again" >&2
    exit 1
  }}
}}
into={into}; part=$into/.edgenas-part-{token}
tool=sha256sum; command -v sha256sum > /dev/null || tool='shasum -a 256'
command -v "${{tool%% *}}" > /dev/null || tool=
mkdir -p "$into" || exit
find "$into" -maxdepth 1 -type d -name '.edgenas-part-*' -mtime +0 -exec rm -rf {{}} +
mkdir "$part" || exit
trap 'rm -rf "$part"' EXIT
{bring}
sync "$part"/* 2> /dev/null || sync
{move}
cd "$into" && pwd
"""

# The wrapper outlives the connection. The lock is the board's: it is void when its wrapper is gone.
_START = """
umask 077
[ -d {job} ] && exit 0
mkdir -p {folder}/jobs || exit
if ! mkdir {folder}/lock 2>/dev/null; then
  read pid < {folder}/lock/pid; who=$(cat {folder}/lock/who)
  if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then echo "$pid $who"; exit {busy}; fi
  mkdir -p {folder}/lock
fi
echo {who} > {folder}/lock/who
mkdir {job} || exit
cat /proc/sys/kernel/random/boot_id > {job}/boot 2>/dev/null
$(command -v setsid) sh -c {wrapper} > /dev/null 2>&1 < /dev/null &
"""

_WRAPPER = """
echo $$ > {folder}/lock/pid
{command} > {job}/out 2> {job}/err < /dev/null &
echo $$ $! > {job}/pid
wait $!
echo $? > {job}/part
mv {job}/part {job}/code
rm -rf {folder}/lock
"""

# Whether it runs is asked before what it said is read: once it has ended, all it said is there.
# How much that is at least is told, for an answer can be cut short with no word of it.
_LOOK = """
cd {job} 2>/dev/null || {{ echo lost 0; exit; }}
state=running
read wrapper child 2>/dev/null < pid || state=starting
[ $state = running ] && ! kill -0 "$wrapper" 2>/dev/null && state=gone
now=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
[ "$(cat boot 2>/dev/null)" = "$now" ] || state=rebooted
[ -s code ] && state=$(cat code)
echo "$state $(cat out 2>/dev/null | wc -c)"
[ -f out ] && tail -c +{start} out
exit 0
"""

_STOP = """
if read wrapper child < {job}/pid 2>/dev/null; then
  kill -9 "-$wrapper" "$child" "$wrapper" 2>/dev/null
fi
[ "$(cat {folder}/lock/pid 2>/dev/null)" = "$wrapper" ] && rm -rf {folder}/lock
rm -rf {job}
exit 0
"""


class Disconnected(DeviceError):
    """The connection, not the command, failed."""


@dataclass(frozen=True)
class Answer:
    """What a command there printed, and its exit status."""

    code: int
    out: bytes
    err: str


class Remote(ABC):
    """A ``device.Transport`` over ``run``; a subclass is a way to run a command somewhere.

    ``folder`` there is ours. ``patience_s``: how long to try to reach again a board that was there.
    """

    emulated: ClassVar[bool] = False
    python: str
    folder: str
    patience_s: float

    @property
    @abstractmethod
    def label(self) -> str:
        """The board's name in messages."""

    @abstractmethod
    def run(self, script: str, stdin: bytes = b"") -> Answer:
        """Run one sh script there to its end.

        Raises Disconnected, or DeviceError where trying again is vain.
        """

    def push(self, files: Sequence[Path]) -> list[str]:
        """As ``Transport.push``; unused for a week, a file is removed there."""
        names = [_name(path) for path in files]
        at = f"{self.folder}/files"
        script = _LIST.format(files=shlex.quote(at), days=UNUSED_DAYS)
        listed = self._again(partial(self._said, script), FIRST_S)
        there = set(listed.decode(errors="replace").split())
        missing = {n: p for n, p in zip(names, files, strict=True) if n not in there}
        for chunk in _chunks(missing):
            part = f"{self.folder}/part-{uuid.uuid4().hex}"
            script = _UNPACK.format(part=shlex.quote(part), files=shlex.quote(at))
            self._again(partial(self._said, script, _packed(chunk)))
        return [f"{at}/{name}" for name in names]

    def pull(self, remote: str, local: Path) -> None:
        """As ``Transport.pull``."""
        local.write_bytes(self._again(partial(self._said, f"cat {shlex.quote(remote)}")))

    def place(self, files: Mapping[str, Path], folder: str) -> str:
        """As ``Transport.place``."""
        there = dict(zip(files, self.push(list(files.values())), strict=True))
        facts = {name: (path.stat().st_size, sha256(path)) for name, path in files.items()}

        def placed() -> bytes:
            quoted = {name: shlex.quote(name) for name in files}
            lines = {
                "bring": [
                    shlex.join(["bring", there[name], str(size), digest, name])
                    for name, (size, digest) in facts.items()
                ],
                "move": [f'mv -f "$part"/{n} "$into"/{n} || exit' for n in quoted.values()],
            }
            steps = {key: "\n".join(each) for key, each in lines.items()}
            return self._said(
                _PLACE.format(into=shlex.quote(folder), token=uuid.uuid4().hex, **steps)
            )

        return self._again(placed).decode(errors="replace").strip()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """As ``Transport.scratch``."""
        folder = f"{self.folder}/scratch-{uuid.uuid4().hex}"
        self._again(partial(self._said, f"mkdir -p {shlex.quote(folder)}"))
        try:
            yield folder
        finally:
            with contextlib.suppress(DeviceError):
                self._said(f"rm -rf {shlex.quote(folder)}")

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        """As ``Transport.lines``. A cut connection goes on where it was, no line lost or doubled.

        Raises DeviceError also where another job runs there, or the board was started anew.
        """
        job = f"{self.folder}/jobs/{uuid.uuid4().hex}"
        names = {"folder": shlex.quote(self.folder), "job": shlex.quote(job)}
        try:
            self._start(argv, names)
            state = yield from self._followed(names)
            if state != "0":
                raise DeviceError(self._why(argv, state, names))
        finally:
            with contextlib.suppress(DeviceError):
                self.run(_STOP.format(**names))

    def _start(self, argv: Sequence[str], names: dict[str, str]) -> None:
        wrapper = _WRAPPER.format(command=shlex.join(argv), **names)
        whole = {"wrapper": shlex.quote(wrapper), "who": shlex.quote(_who()), "busy": BUSY}
        script = _START.format(**names, **whole)
        answer = self._again(partial(self.run, script))
        if answer.code == BUSY:
            pid, _, who = answer.out.decode(errors="replace").strip().partition(" ")
            if not pid.isdigit() or not _abandoned(who):
                raise DeviceError(
                    f"{self.label} is busy with a job of {who}; wait for it, or end it there: "
                    f"kill {pid}"
                )
            kill = f"kill -9 -{pid} {pid} 2>/dev/null; rm -rf {names['folder']}/lock"
            self._again(partial(self._said, kill))
            answer = self._again(partial(self.run, script))
        self._check(answer)

    def _followed(self, names: dict[str, str]) -> Generator[str, None, str]:
        """Lines until the command has ended; how it did."""
        start, rest, pause_s = 1, b"", PAUSES_S[0]
        until_s = time.monotonic() + self.patience_s
        while True:
            state, new = self._again(partial(self._look, start, names))
            start += len(new)
            *lines, rest = (rest + new).split(b"\n")
            yield from (line.decode(errors="replace") + "\n" for line in lines)
            if state == "starting" and time.monotonic() < until_s:
                state = "running"
            if state != "running":
                if rest:
                    yield rest.decode(errors="replace")
                return state
            pause_s = PAUSES_S[0] if new else min(1.5 * pause_s, PAUSES_S[1])
            time.sleep(pause_s)

    def _look(self, start: int, names: dict[str, str]) -> tuple[str, bytes]:
        """How the command stands, and what it said from byte ``start``, the first being 1, on."""
        told, whole, new = self._said(_LOOK.format(start=start, **names)).partition(b"\n")
        state, _, size = told.partition(b" ")
        if not whole or start - 1 + len(new) < int(size):
            raise Disconnected(f"{self.label}: what it answers arrives cut short")
        return state.decode(errors="replace"), new

    def _why(self, argv: Sequence[str], state: str, names: dict[str, str]) -> str:
        if state == "rebooted":
            return f"{self.label} was started anew while it ran {argv[0]}"
        if not state.isdigit():
            return (
                f"{self.label}: {argv[0]} was ended there ({state}): by somebody, for want of "
                "memory, or of space on its disk"
            )
        read = partial(self._said, f"tail -c 2000 {names['job']}/err")
        said = self._again(read).decode(errors="replace")
        tail = [line.strip() for line in said.splitlines() if line.strip()][-3:]
        return f"{argv[0]} failed with code {state} there: {' | '.join(tail) or 'it said nothing'}"

    def _said(self, script: str, stdin: bytes = b"") -> bytes:
        answer = self.run(script, stdin)
        self._check(answer)
        return answer.out

    def _check(self, answer: Answer) -> None:
        if answer.code:
            err = " | ".join(line.strip() for line in answer.err.splitlines() if line.strip())
            raise DeviceError(f"{self.label}: {err or f'a command ended with {answer.code}'}")

    def _again(self, attempt: Callable[[], T], at_most_s: float = math.inf) -> T:
        """``attempt``, again while the connection fails and there is patience left."""
        until_s = time.monotonic() + min(self.patience_s, at_most_s)
        pause_s = 0.5
        while True:
            try:
                return attempt()
            except Disconnected:
                if time.monotonic() + pause_s > until_s:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)


def plain(transport: str, **fields: str) -> None:
    """Raise UsageError where one of ``fields`` would be an option, or more than a line."""
    for name, value in fields.items():
        if not value or value.startswith("-") or any(c in value for c in "\n\0"):
            raise UsageError(f"transport {transport}: {name} cannot be {value!r}")


def _name(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return digest + (path.suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", path.suffix) else "")


def _chunks(files: dict[str, Path]) -> Iterator[dict[str, Path]]:
    chunk: dict[str, Path] = {}
    size = 0
    for name, path in files.items():
        if chunk and size + path.stat().st_size > CHUNK_BYTES:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = path
        size += path.stat().st_size
    if chunk:
        yield chunk


def _packed(files: dict[str, Path]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = path.stat().st_size, int(time.time()), 0o644
            if os.access(path, os.X_OK):
                entry.mode = 0o755
            with path.open("rb") as file:
                tar.addfile(entry, file)
    return data.getvalue()


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()} {os.getpid()}"


def _abandoned(who: str) -> bool:
    """Whether ``who`` was a process of this user here that is gone."""
    owner, _, pid = who.rpartition(" ")
    if owner != _who().rpartition(" ")[0] or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
