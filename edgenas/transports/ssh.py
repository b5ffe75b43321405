"""A board over ssh: the system's OpenSSH client with the user's own configuration and keys."""

import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgenas.errors import DeviceError
from edgenas.remote import Answer, Disconnected, Remote, plain

__all__ = ["Ssh"]

FAILED = 255  # what ssh itself exits with
NO_REPLY_S = 15  # three unanswered questions, five seconds apart
# What the client says -> what to do; trying again does not help.
HOPELESS = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its host key is not the one known here: another "
    "machine answers, or it was set up anew. If you know why: ssh-keygen -R {host}",
    "Host key verification failed": "its host key is not known here. Look at it and accept it "
    "once by hand: ssh {host}",
    "Permission denied": "it does not let us in without a password: ssh-copy-id {host}, or name "
    "the key in ~/.ssh/config",
    "Could not resolve hostname": "there is no such host; is the name right, or missing in "
    "~/.ssh/config?",
    "Bad configuration option": "ssh does not take these options",
    "keyword": "ssh does not take these options",
}


@dataclass(frozen=True)
class Ssh(Remote):
    """``host``: as given to ``ssh``, e.g. ``pi@192.0.2.7`` or a name of ~/.ssh/config.

    ``options``: for ``ssh -o``. ``python``: the interpreter there. ``folder``: ours there, relative
    to the home of the login. ``patience_s``: how long to try to reach again a board that was there.
    """

    host: str
    port: int | None = None
    python: str = "python3"
    options: tuple[str, ...] = ()
    folder: str = ".cache/edgenas"
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        plain("ssh", host=self.host, python=self.python, folder=self.folder)

    @property
    def label(self) -> str:
        """The host."""
        return self.host

    def run(self, script: str, stdin: bytes = b"") -> Answer:
        """As ``Remote.run``."""
        with tempfile.TemporaryFile() as errors:  # a pipe would be held open by a shared connection
            try:
                done = subprocess.run(
                    [*self._client(), self.host, "sh -c " + shlex.quote(script)],
                    input=stdin, stdout=subprocess.PIPE, stderr=errors, check=False,
                    start_new_session=True,
                )  # fmt: skip
            except FileNotFoundError:
                raise DeviceError(
                    "there is no ssh here: install OpenSSH's client (openssh-client)"
                ) from None
            errors.seek(0)
            err = errors.read().decode(errors="replace")
        if done.returncode == FAILED or done.returncode < 0:
            raise self._failure(err)
        return Answer(done.returncode, done.stdout, err)

    def _client(self) -> list[str]:
        options = [
            *self.options,
            "BatchMode=yes",
            "ConnectTimeout=10",
            f"ServerAliveInterval={NO_REPLY_S // 3}",
            "ServerAliveCountMax=3",
        ]
        if (shared := _shared()) is not None:
            options += ["ControlMaster=auto", f"ControlPath={shared}/%C", "ControlPersist=60"]
        port = [] if self.port is None else ["-p", str(self.port)]
        return ["ssh", "-T", *port, *(part for o in options for part in ("-o", o)), "--"]

    def _failure(self, err: str) -> DeviceError:
        for said, advice in HOPELESS.items():
            if said in err:
                return DeviceError(f"{self.host}: {advice.format(host=self.host)}")
        last = [line.strip() for line in err.splitlines() if line.strip()][-1:]
        return Disconnected(
            f"{self.host} cannot be reached over ssh: {last[0] if last else 'the connection ended'}"
        )


def _shared() -> Path | None:
    """A folder of ours alone for shared connections, with a name short enough for a socket."""
    if shutil.which("ssh") is None:
        return None
    path = Path("/tmp") / f"edgenas-ssh-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()
    mine = facts.st_uid == os.getuid() and stat.S_ISDIR(facts.st_mode)
    return path if mine and not facts.st_mode & 0o077 else None
