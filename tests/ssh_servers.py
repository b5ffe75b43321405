"""What the real ssh client talks to: sshd, or a server of Python where there is none."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncssh
import psutil

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Sshd:
    """sshd as the present user. ``home`` has the keys ``id`` and ``host``.

    ``login``: what it runs instead of the user's shell, as a line of that shell.
    """

    login = ""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        (home / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nUsePAM no\n"
            f"StrictModes no\nPidFile none\nPasswordAuthentication no\nMaxStartups 100\n"
            f"AuthorizedKeysFile {home}/id.pub\n"
            + (f"ForceCommand {self.login}\n" if self.login else "")
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own requirement
        assert SSHD is not None
        with (home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", home / "sshd_config"], stderr=log
            )
        while b"Server listening" not in (home / "log").read_bytes():
            assert self.process.poll() is None, (home / "log").read_text()

    def cut(self) -> None:
        """Every connection, not what runs behind it."""
        for session in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [*session.children(), session]:
                    if process.name().startswith("sshd"):
                        process.kill()

    def stop(self) -> None:
        self.cut()
        self.process.terminate()
        self.process.wait()


class PythonServer:
    """The same by asyncssh, this file as a program: commands run in shells of this machine."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        with (home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(home), str(self.port)],
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._said(b"listening\n")

    def _said(self, line: bytes) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == line, (self.home / "log").read_text()

    def cut(self) -> None:
        """Every connection, not what runs behind it."""
        self.process.send_signal(signal.SIGUSR1)
        self._said(b"cut\n")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


async def serve(home: Path, port: int) -> None:
    """Until killed; SIGUSR1 aborts all connections."""
    connections: set[asyncssh.SSHServerConnection] = set()

    class Door(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self.conn = conn
            connections.add(conn)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.discard(self.conn)

    async def shell(process: asyncssh.SSHServerProcess) -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            "sh", "-c", process.command, stdin=pipe, stdout=pipe, stderr=pipe,
            start_new_session=True,
        )  # fmt: skip
        out, err = await child.communicate(await process.stdin.read())
        process.stdout.write(out)
        process.stderr.write(err)
        process.exit(child.returncode)

    def cut() -> None:
        for connection in list(connections):
            connection.abort()
        print("cut", flush=True)

    await asyncssh.listen(
        "127.0.0.1", port, server_factory=Door, process_factory=shell,
        server_host_keys=[str(home / "host")], encoding=None,
        authorized_client_keys=str(home / "id.pub"),
    )  # fmt: skip
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, cut)
    print("listening", flush=True)
    await asyncio.Event().wait()


Server = Sshd | PythonServer

if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
