"""A board over ssh: the system's OpenSSH client with the user's own configuration and keys."""

import os
import re
import shlex
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgenas.errors import DeviceError
from edgenas.remote import Disconnected, Remote, own_folder, plain
from edgenas.shell import Spoken, any_shell, begun, last
from edgenas.talk import Silent, talk
from edgenas.validate import Patience, Port

__all__ = ["Ssh"]

FAILED = 255  # what ssh itself exits with
FOLDERS = "$XDG_RUNTIME_DIR", "/tmp"  # where shared connections may lie
LONGEST = 40  # of a folder, so that a socket in it has a name that the system takes
# Options that start nothing on this machine; of any other that may be so.
HARMLESS = {
    "addressfamily", "bindaddress", "bindinterface", "casignaturealgorithms", "certificatefile",
    "checkhostip", "ciphers", "compression", "connectionattempts", "connecttimeout",
    "controlmaster", "controlpath", "controlpersist", "fingerprinthash", "forwardagent",
    "globalknownhostsfile", "hashknownhosts", "hostbasedauthentication", "hostkeyalgorithms",
    "hostkeyalias", "hostname", "identitiesonly", "identityagent", "identityfile", "ipqos",
    "kbdinteractiveauthentication", "kexalgorithms", "loglevel", "macs",
    "nohostauthenticationforlocalhost", "numberofpasswordprompts", "passwordauthentication", "port",
    "preferredauthentications", "proxyjump", "pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes",
    "pubkeyauthentication", "rekeylimit", "requesttty", "requiredrsasize", "sendenv",
    "serveralivecountmax", "serveraliveinterval", "setenv", "stricthostkeychecking", "tcpkeepalive",
    "updatehostkeys", "user", "userknownhostsfile", "verifyhostkeydns", "visualhostkey",
}  # fmt: skip
LOGIN_S = 30.0  # what stands in a login's files may take so long
NO_REPLY_S = 15  # three unanswered questions, five seconds apart
# What the client says -> what to do; trying again does not help. ``by_hand``: the same way there.
HOPELESS = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its host key is not the one known here: another "
    "machine answers, or it was set up anew. If you know why: ssh-keygen -R {known}",
    "Host key verification failed": "its host key is not known here. Look at it and accept it "
    "once by hand: ssh {by_hand}",
    "Permission denied": "it does not let us in without a password: ssh-copy-id {by_hand}, or name "
    "the key in ~/.ssh/config",
    "Could not resolve hostname": "there is no such host; is the name right, or missing in "
    "~/.ssh/config?",
    "Bad configuration option": "ssh does not take these options: {options}",
    "keyword": "ssh does not take these options: {options}",
}


@dataclass(frozen=True)
class Ssh(Remote):
    """``host``: as given to ``ssh``, e.g. ``pi@192.0.2.7`` or a name of ~/.ssh/config.

    ``options``: for ``ssh -o``. ``python``: the interpreter there. ``folder``: ours there, relative
    to the home of the login, as ``~/`` is. ``patience_s``: how long to try to reach again a board
    that was there.
    """

    host: str
    port: Port | None = None
    python: str = "python3"
    options: tuple[str, ...] = ()
    folder: str = ".cache/edgenas-board"  # not what edgenas itself, run there, keeps its own in
    patience_s: Patience = 60.0

    def __post_init__(self) -> None:
        options = {f"options[{i}]": option for i, option in enumerate(self.options)}
        plain("ssh", host=self.host, python=self.python, folder=self.folder, **options)
        object.__setattr__(self, "python", _from_home(self.python))
        object.__setattr__(self, "folder", _from_home(self.folder))
        own_folder("ssh", self.folder)

    @property
    def label(self) -> str:
        """The host."""
        return self.host

    @property
    def starts_here(self) -> tuple[str, ...]:
        """Options by which ssh runs a program on this machine, or may."""
        return tuple(f"ssh -o {o}" for o in self.options if _keyword(o) not in HARMLESS)

    def place(self, files: Mapping[str, Path], folder: str) -> str:
        """As ``Transport.place``; relative to the home of the login."""
        return super().place(files, _from_home(folder))

    def _spoken(self, script: str, stdin: bytes) -> Spoken:
        try:
            code, out, err = talk(
                [*self._client(), self.host, any_shell(script)],
                stdin, self.host, partial(begun, script), LOGIN_S,
            )  # fmt: skip
        except FileNotFoundError:
            raise DeviceError(
                "there is no ssh here: install OpenSSH's client (openssh-client)"
            ) from None
        except Silent as e:
            raise Disconnected(
                f"{self.host}: its login came to no command in {LOGIN_S:g} s, and says: "
                f"{last(e.said.decode(errors='replace')) or 'nothing'}. Does it show a menu, or "
                "ask something? It needs a shell that starts by itself"
            ) from None
        return Spoken(out, err, code != FAILED and code >= 0)

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

    def _advised(self) -> dict[str, str]:
        """What stands in an advice: commands for this port with these options."""
        options = [o for o in self.options if _keyword(o) != "stricthostkeychecking"]
        port = [] if self.port is None else ["-p", str(self.port)]
        name = self.host.rpartition("@")[2]
        known = name if self.port in (None, 22) else f"[{name}]:{self.port}"
        files = [o.partition("=")[2] for o in self.options if _keyword(o) == "userknownhostsfile"]
        return {
            "by_hand": shlex.join(
                [self.host, *port, *(part for o in options for part in ("-o", o))]
            ),
            "known": shlex.join([known, *(part for file in files for part in ("-f", file))]),
            "options": ", ".join(self.options),
        }

    def _failure(self, said: str) -> DeviceError:
        for words, advice in HOPELESS.items():
            if words in said:
                return DeviceError(f"{self.host}: {advice.format(**self._advised())}")
        last = [line.strip() for line in said.splitlines() if line.strip()][-1:]
        return Disconnected(
            f"{self.host} cannot be reached over ssh: {last[0] if last else 'the connection ended'}"
        )


def _from_home(path: str) -> str:
    """Where a command there begins, which no shell would put in the place of ``~`` in quotes."""
    return re.sub("^~(/+|$)", "./", path)


def _keyword(option: str) -> str:
    """In small letters; ssh takes ``Key=value``, ``Key value`` and quotes around the key."""
    return re.split(r"[\s=]", option.strip().strip('"').lower(), maxsplit=1)[0].strip('"')


def _shared() -> Path | None:
    """A folder of ours alone for shared connections, with a name short enough for a socket.

    None where another has put something in its place: each command connects by itself then.
    """
    if shutil.which("ssh") is None:
        return None
    for base in FOLDERS:
        path = Path(os.path.expandvars(base)) / f"edgenas-ssh-{os.getuid()}"
        if path.is_absolute() and len(str(path)) <= LONGEST and _ours_alone(path):
            return path
    return None


def _ours_alone(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        facts = path.lstat()  # of the name itself, were it a link
    except OSError:
        return False
    mine = facts.st_uid == os.getuid() and stat.S_ISDIR(facts.st_mode)
    return mine and not facts.st_mode & 0o077
