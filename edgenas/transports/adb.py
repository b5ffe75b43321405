"""An Android phone or board, through the system's adb client."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from edgenas.errors import DeviceError, UsageError
from edgenas.remote import Disconnected, Remote, own_folder, plain
from edgenas.shell import Spoken, begun
from edgenas.talk import Silent, talk
from edgenas.validate import Patience

__all__ = ["Adb"]

NO_REPLY_S = 60.0  # adb itself waits for ever for a phone that hangs
# What the client says -> what to do; trying again does not help.
HOPELESS = {
    "unauthorized": "it does not trust this computer: unlock it and accept the question on its "
    "screen",
    "still authorizing": "it asks whether to trust this computer: unlock it and accept",
    "more than one": "several phones are connected; name one of `adb devices -l` in the device "
    "file: transport: {{kind: adb, serial: ...}}. Connected: {others}",
    "permissions": "this user may not open its USB port: install its udev rules "
    "(android-sdk-platform-tools-common), then adb kill-server",
    "server version": "the adb server does not answer: adb kill-server",
    "cannot connect to daemon": "the adb server cannot be started: adb start-server says why",
}


@dataclass(frozen=True)
class Adb(Remote):
    """``serial``: as ``adb devices`` lists it, or ``address:port`` over Wi-Fi.

    None is needed where one phone is connected. ``python``: the interpreter there, for runtimes
    that need one. ``folder``: ours there. ``patience_s``: how long to try to reach again a phone
    that was there.
    """

    serial: str | None = None
    python: str = "python3"
    folder: str = "/data/local/tmp/edgenas"
    patience_s: Patience = 60.0

    def __post_init__(self) -> None:
        serial = {} if self.serial is None else {"serial": self.serial}
        plain("adb", python=self.python, folder=self.folder, **serial)
        own_folder("adb", self.folder)

    @property
    def label(self) -> str:
        """The serial."""
        return self.serial or "the phone"

    def place(self, files: Mapping[str, Path], folder: str) -> str:
        """As ``Transport.place``; beside ours, where a phone lets us write."""
        if PurePosixPath(folder).parts[:1] == ("~",):
            raise UsageError(f"{self.label}: a phone has no home, so {folder!r} names no folder")
        return super().place(files, str(PurePosixPath(self.folder).parent / folder))

    def _spoken(self, script: str, stdin: bytes) -> Spoken:
        which = [] if self.serial is None else ["-s", self.serial]
        command = [*which, "shell", "-T", f"sh -c {shlex.quote(script)}"]
        out, err = _adb(command, stdin, self.label, partial(begun, script))
        return Spoken(out, err, reached=False)  # its exit code is not told from the command's

    def _failure(self, said: str) -> DeviceError:
        for words, advice in HOPELESS.items():
            if words in said:
                return DeviceError(f"{self.label}: {advice.format(others=_connected())}")
        if self.serial and re.fullmatch(r".+:\d+", self.serial):
            _adb(
                ["disconnect", self.serial]
            )  # else it is still "already connected" to the dead one
            _adb(["connect", self.serial])
        if "no devices" in said or "not found" in said:
            return Disconnected(
                f"{self.label} is not connected: are USB (or wireless) debugging on and the cable "
                f"one for data? Connected: {_connected()}"
            )
        last = [line.strip() for line in said.splitlines() if line.strip()][-1:]
        return Disconnected(
            f"{self.label} cannot be reached over adb: {last[0] if last else 'it does not answer'}"
        )


def _adb(
    arguments: Sequence[str],
    stdin: bytes = b"",
    label: str = "adb",
    begins: Callable[[bytes | bytearray], bool] = bool,
) -> tuple[bytes, str]:
    """What ``adb`` printed."""
    try:
        _, out, err = talk(["adb", *arguments], stdin, label, begins, NO_REPLY_S, NO_REPLY_S)
    except OSError:
        raise DeviceError(
            "no adb can be started here: install Android's platform tools (adb)"
        ) from None
    except Silent:
        return b"", f"no answer in {NO_REPLY_S:g} s"
    return out, err


def _connected() -> str:
    """The serials, with what state they are in."""
    rows = _adb(["devices"])[0].decode(errors="replace").splitlines()[1:]
    return ", ".join(" ".join(row.split()) for row in rows if row.strip()) or "none"
