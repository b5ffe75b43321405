"""What makes a board that runs one shell command at a time a transport.

Files are known there by the hash of their content, so none is sent twice and no name of the user's
reaches a shell. A command runs detached and is followed by byte offset, so a connection may be cut
at any time.
"""

import contextlib
import hashlib
import io
import math
import os
import posixpath
import re
import shlex
import tarfile
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, TypeVar

from edgenas import board_scripts, client, placed, shell
from edgenas.artifact import sha256
from edgenas.device import NOT_RUN
from edgenas.errors import DeviceError, UsageError
from edgenas.files import MARK
from edgenas.talk import ANSWER_BYTES

T = TypeVar("T")

CHUNK_BYTES = 8 << 20  # sent in one go: what was sent before a cut is not sent again
BLOCK_BYTES = 4096  # what arrived of a block is sent again
FIRST_BYTES = 64 << 10  # sent first; twice as much after each that arrives
UNUSED_DAYS, LEFT_DAYS = 7, 1  # pushed files; what a cut left behind
NAMES = 1000  # in one command, which may have some hundred thousand characters
ALTERED = 3  # so often may a push arrive with another content
HASH = 32  # digits of a hash in a file's name
FIRST_S = 5.0  # to reach a board that may not be there at all
PAUSES_S = 0.2, 2.0  # between two looks at a job: first, longest


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
    def _spoken(self, script: str, stdin: bytes) -> shell.Spoken:
        """What comes back of one sh script. Raises DeviceError where nothing can be sent."""

    @abstractmethod
    def _failure(self, said: str) -> DeviceError:
        """What ``said`` means, where the connection failed: Disconnected if it may come back."""

    def run(self, script: str, stdin: bytes = b"") -> Answer:
        """Run one sh script there to its end; what the login prints around it is left out.

        Raises Disconnected, or DeviceError where trying again is vain.
        """
        mark = f"edgenas-{uuid.uuid4().hex}"
        spoken = self._spoken(shell.framed(script, mark), stdin)
        found = shell.unframed(spoken.out, spoken.err, mark)
        if found is not None:
            out, err, code = found
            if code is not None:
                return Answer(code, out, err)
        said = f"{spoken.err}\n{spoken.out.decode(errors='replace')}"
        if not spoken.reached:
            raise self._failure(spoken.err if spoken.err.strip() else said)
        if found is not None:
            raise Disconnected(f"{self.label}: what it answers arrives cut short")
        raise DeviceError(
            f"{self.label}: its login runs no command, and says: {shell.last(said) or 'nothing'}. "
            "It needs a shell there (chsh -s /bin/sh), or the device file another login"
        )

    @cached_property
    def _answered(self) -> threading.Event:
        """Set once it has: from then on a board is waited for."""
        return threading.Event()

    @cached_property
    def _swept(self) -> threading.Event:
        """Set once this session has removed what others left unused."""
        return threading.Event()

    @cached_property
    def _session(self) -> str:
        """In the names of what is ours until we end."""
        return uuid.uuid4().hex

    def push(self, files: Sequence[Path]) -> list[str]:
        """As ``Transport.push``; unused for a week, a file is removed there by another session.

        What is there is known by its content, or its size where the board has no sha256sum.
        """
        names = [_name(path) for path in files]
        for chunk in _chunks(self._missing(dict(zip(names, files, strict=True)), FIRST_S)):
            self._send(chunk)
        return [f"{self.folder}/files/{name}" for name in names]

    def _missing(self, files: dict[str, Path], at_most_s: float = math.inf) -> dict[str, Path]:
        """Those of ``files`` that are not whole there; ages begin anew of the others."""
        names = list(files)
        whole: set[str] = set()
        for start in range(0, len(names), NAMES):
            last = start + NAMES >= len(names)
            sweep = board_scripts.SWEEP.format(unused_days=UNUSED_DAYS)
            script = board_scripts.LIST.format(
                folder=shlex.quote(self.folder), names=" ".join(names[start : start + NAMES]),
                sweep=sweep if last and not self._swept.is_set() else "", left_days=LEFT_DAYS,
                session=self._session,
            )  # fmt: skip
            listed = self._again(partial(self._said, script), at_most_s)
            rows = [line.split() for line in listed.decode(errors="replace").splitlines()]
            told = {name: is_ for is_, name in (row for row in rows if len(row) == 2)}
            whole |= {name for name in names if _same(told.get(name, ""), name, files[name])}
        if names:
            self._swept.set()
        return {name: path for name, path in files.items() if name not in whole}

    def _send(self, files: dict[str, Path]) -> None:
        """Bring ``files`` there. A cut goes on where it was, by this call or the next one."""
        data = _packed(files)
        digest = hashlib.sha256(data).hexdigest()
        names = {
            "folder": shlex.quote(self.folder), "part": f"part-{digest[:32]}", "digest": digest,
            "whole": len(data), "block": BLOCK_BYTES,
        }  # fmt: skip
        at, size, altered, pause_s = 0, FIRST_BYTES, 0, PAUSES_S[0]
        until_s = time.monotonic() + self.patience_s
        while True:
            start = at // BLOCK_BYTES
            sent = data[start * BLOCK_BYTES : start * BLOCK_BYTES + size]
            try:
                unpacked = f"part-{uuid.uuid4().hex}"  # a cut may have left that of the last try
                script = board_scripts.TAKE.format(start=start, unpacked=unpacked, **names)
                told = self._said(script, sent).strip()
            except Disconnected:
                if time.monotonic() + pause_s > until_s:
                    raise
                time.sleep(pause_s)
                size, pause_s = 0, min(2 * pause_s, 5.0)  # first ask how much arrived
                continue
            if told == b"done":
                return
            there = self._number(told)
            if there > at:  # what arrived counts, were it in pieces
                until_s, pause_s = time.monotonic() + self.patience_s, PAUSES_S[0]
            elif sent or there < at:  # another brought it, or what arrived is not what was sent
                if not self._missing(files):
                    return
                altered += 1
            if altered == ALTERED:
                raise DeviceError(
                    f"{self.label}: what is sent there is another when it is read: is its disk "
                    "sound?"
                )
            at, size = there, min(2 * size, CHUNK_BYTES) or FIRST_BYTES

    def pull(self, remote: str, local: Path) -> None:
        """As ``Transport.pull``."""
        local.write_bytes(self._again(partial(self._said, f"cat {shlex.quote(remote)}")))

    def place(self, files: Mapping[str, Path], folder: str) -> str:
        """As ``Transport.place``."""
        there = dict(zip(files, self.push(list(files.values())), strict=True))
        facts = {name: (path.stat().st_size, sha256(path)) for name, path in files.items()}

        def put() -> bytes:
            quoted = {name: shlex.quote(name) for name in files}
            lines = {
                "bring": [
                    shlex.join(["bring", there[name], str(size), digest, name])
                    for name, (size, digest) in facts.items()
                ],
                "move": [f'mv -f "$part"/{n} "$into"/{n} || exit' for n in quoted.values()],
            }
            steps = {key: "\n".join(each) for key, each in lines.items()}
            answer = self.run(
                board_scripts.PLACE.format(
                    into=shlex.quote(folder), token=uuid.uuid4().hex, mark=MARK,
                    placed=placed.told(files), not_ours=board_scripts.NOT_OURS, **steps,
                )
            )  # fmt: skip
            if answer.code == board_scripts.NOT_OURS:
                raise placed.not_ours(f"{self.label}: {answer.err.strip()}")
            self._check(answer)
            return answer.out

        return self._again(put).decode(errors="replace").strip()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """As ``Transport.scratch``."""
        folder = f"{self.folder}/scratch-{self._session}-{uuid.uuid4().hex}"
        script = board_scripts.SCRATCH.format(
            folder=shlex.quote(self.folder), scratch=shlex.quote(folder)
        )
        self._again(partial(self._said, script))
        try:
            yield folder
        finally:
            with contextlib.suppress(DeviceError):
                self._said(f"rm -rf {shlex.quote(folder)}")

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        """As ``Transport.lines``. A cut connection goes on where it was, no line lost or doubled.

        Raises DeviceError also where another job runs there, or the board was started anew.
        """
        token = uuid.uuid4().hex
        names = self._job(token)
        try:
            self._start(argv, token)
            state = yield from self._followed(names)
            if state != "0":
                raise DeviceError(self._why(argv, state, names))
        finally:
            with contextlib.suppress(DeviceError):
                self.run(board_scripts.STOP.format(**names))

    def _job(self, token: str) -> dict[str, str]:
        job = f"{self.folder}/jobs/{token}"
        return {"folder": shlex.quote(self.folder), "job": shlex.quote(job)}

    def _start(self, argv: Sequence[str], token: str) -> None:
        """Raises DeviceError where another job runs; one whose client is gone is ended."""
        names = self._job(token)
        wrapper = board_scripts.WRAPPER.format(command=shlex.join(argv), **names)
        script = board_scripts.START.format(
            **names, token=token, wrapper=shlex.quote(wrapper), who=shlex.quote(client.spoken()),
            client=shlex.quote(client.proof()), busy=board_scripts.BUSY,
        )  # fmt: skip
        ended = ""
        while True:
            answer = self._again(partial(self.run, script))
            if answer.code != board_scripts.BUSY:
                return self._check(answer)
            told = answer.out.decode(errors="replace").splitlines()
            rival, proof, who, end = (*told, "", "", "", "")[:4]
            if re.fullmatch("[0-9a-f]{32}", rival) and rival != ended and client.gone(proof):
                ended = rival
                self._again(partial(self._said, board_scripts.STOP.format(**self._job(rival))))
                continue
            raise DeviceError(
                f"{self.label} is busy with a job of {who or 'somebody'}; wait for it"
                + (f", or end it there: {end}" if end else "")
            )

    def _followed(self, names: dict[str, str]) -> Generator[str, None, str]:
        """Lines until the command has ended; how it did."""
        start, rest, pause_s = 1, b"", PAUSES_S[0]
        while True:
            state, new = self._again(partial(self._look, start, names))
            start += len(new)
            *lines, rest = (rest + new).split(b"\n")
            yield from (line.decode(errors="replace") + "\n" for line in lines)
            if state != "running":
                if rest:
                    yield rest.decode(errors="replace")
                return state
            pause_s = PAUSES_S[0] if new else min(1.5 * pause_s, PAUSES_S[1])
            time.sleep(pause_s)

    def _look(self, start: int, names: dict[str, str]) -> tuple[str, bytes]:
        """How the command stands, and what it said from byte ``start``, the first being 1, on."""
        script = board_scripts.LOOK.format(start=start, most=ANSWER_BYTES, **names)
        told, whole, new = self._said(script).partition(b"\n")
        state, _, size = told.partition(b" ")
        if not whole or start - 1 + len(new) < self._number(size):
            raise Disconnected(f"{self.label}: what it answers arrives cut short")
        return state.decode(errors="replace"), new

    def _number(self, told: bytes) -> int:
        if not told.strip().isdigit():
            raise DeviceError(
                f"{self.label} answers {told[:80].decode(errors='replace')!r} where it was asked "
                "for a number: has it a POSIX shell with its tools (wc, dd, cat)?"
            )
        return int(told)

    def _why(self, argv: Sequence[str], state: str, names: dict[str, str]) -> str:
        if state == "endless":
            return f"{self.label}: {argv[0]} prints there without end, and was ended"
        if state == "rebooted":
            return f"{self.label} was started anew while it ran {argv[0]}"
        if not state.isdigit():
            return (
                f"{self.label}: {argv[0]} was ended there ({state}): by somebody, for want of "
                "memory, or of space on its disk"
            )
        read = partial(self._said, f"tail -c 2000 {names['job']}/err")
        said = shell.last(self._again(read).decode(errors="replace"))
        advice = f". {NOT_RUN[int(state)]}" if int(state) in NOT_RUN else ""
        return f"{argv[0]} failed with code {state} there: {said or 'it said nothing'}{advice}"

    def _said(self, script: str, stdin: bytes = b"") -> bytes:
        answer = self.run(script, stdin)
        self._check(answer)
        return answer.out

    def _check(self, answer: Answer) -> None:
        if answer.code:
            err = " | ".join(line.strip() for line in answer.err.splitlines() if line.strip())
            if answer.code == board_scripts.FOREIGN:
                raise UsageError(
                    f"{self.label}: {err}. Name a folder that is empty or not there yet as "
                    "`folder` of the transport in the device file; or, if you need nothing of it, "
                    "remove it there"
                )
            raise DeviceError(f"{self.label}: {err or f'a command ended with {answer.code}'}")

    def _again(self, attempt: Callable[[], T], at_most_s: float = math.inf) -> T:
        """``attempt``, again while the connection fails and there is patience left.

        ``at_most_s``: the patience with a board that has not answered yet.
        """
        until_s = time.monotonic() + min(
            self.patience_s, math.inf if self._answered.is_set() else at_most_s
        )
        pause_s = 0.5
        while True:
            try:
                found = attempt()
                self._answered.set()
                return found
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


def own_folder(transport: str, text: str) -> None:
    """Raise UsageError where ``text`` is a home or a root, or what only a shell understands."""
    if re.match(r"~|.*\$[\w{(]", text):
        raise UsageError(
            f"transport {transport}: folder cannot be {text!r}: no shell reads it. Write the whole "
            "path, from / on"
        )
    if not set(PurePosixPath(posixpath.normpath(text)).parts) - {"/", "//", ".", ".."}:
        raise UsageError(
            f"transport {transport}: folder cannot be {text!r}: it is for edgenas alone, so name "
            "one that is empty or not there yet, or leave `folder` out"
        )


def _name(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:HASH]
    return digest + (path.suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", path.suffix) else "")


def _same(told: str, name: str, path: Path) -> bool:
    """Whether ``told`` is the hash, or on a board that counts none the size, of this file."""
    if len(told) == 64:
        return name.startswith(told[:HASH])
    return told == str(path.stat().st_size)


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
            entry.size, entry.mode = path.stat().st_size, 0o644
            if os.access(path, os.X_OK):
                entry.mode = 0o755
            with path.open("rb") as file:
                tar.addfile(entry, file)
    return data.getvalue()
