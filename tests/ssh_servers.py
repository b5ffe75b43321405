"""What the real ssh client talks to: sshd, or a server in this process where there is none."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import threading
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
    """sshd as the present user. ``home`` has the keys ``id`` and ``host``."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        (home / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nUsePAM no\n"
            f"StrictModes no\nPidFile none\nPasswordAuthentication no\nMaxStartups 100\n"
            f"AuthorizedKeysFile {home}/id.pub\n"
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


class InProcess:
    """The same by asyncssh, in a thread: commands run in shells of this machine."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.listener = self._wait(self._listen())

    def _wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    async def _listen(self) -> asyncssh.SSHAcceptor:
        connections = self.connections

        class Door(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self.conn = conn
                connections.add(conn)

            def connection_lost(self, exc: Exception | None) -> None:
                connections.discard(self.conn)

        return await asyncssh.listen(
            "127.0.0.1", self.port, server_factory=Door, process_factory=self._shell,
            server_host_keys=[str(self.home / "host")], encoding=None,
            authorized_client_keys=str(self.home / "id.pub"),
        )  # fmt: skip

    async def _shell(self, process: asyncssh.SSHServerProcess) -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            "sh", "-c", process.command, stdin=pipe, stdout=pipe, stderr=pipe,
            start_new_session=True,
        )  # fmt: skip
        await process.redirect(child.stdin, child.stdout, child.stderr)
        process.exit(await child.wait())

    def cut(self) -> None:
        """Every connection, not what runs behind it."""

        async def abort() -> None:
            for connection in list(self.connections):
                connection.abort()

        self._wait(abort())

    def stop(self) -> None:
        self.cut()

        async def close() -> None:
            self.listener.close()
            await self.listener.wait_closed()

        self._wait(close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


Server = Sshd | InProcess
