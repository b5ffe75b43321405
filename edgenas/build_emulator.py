"""Puts the emulated ARM machine together: packages of Debian, wheels, and a plugin of ours."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgenas import build_tools, emulator
from edgenas.errors import CapabilityError, DataError
from edgenas.files import folder_aside
from edgenas.rounds import Progress
from edgenas.scratch import scratch_folder
from edgenas.supervisor import end, supervised

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
OLDEST_GLIBC = "2.31"  # of the machines that the plugin is for
STEPS = 4


def build(mirror: str | None, progress: Progress) -> Path:
    """The emulator, built unless it is there.

    ``mirror``: of Debian, where this machine's apt uses none. Raises CapabilityError where a tool
    is missing, DataError where something cannot be fetched.
    """
    built = emulator.folder()
    if built.exists():
        return built
    build_tools.require("ziglang")
    if missing := [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]:
        raise CapabilityError(f"there is no {missing[0]} here: build it in Debian, or in Docker")
    source = mirror or _mirror()
    with folder_aside(built) as folder:
        progress("fetching QEMU", 0, STEPS)
        _debian(
            build_tools.answer(["dpkg", "--print-architecture"]),
            emulator.HOST,
            source,
            folder / "host",
        )
        progress("fetching Python for ARM", 1, STEPS)
        _debian("arm64", emulator.GUEST, source, folder / "guest")
        progress("fetching runtimes for ARM", 2, STEPS)
        _wheels(folder / "guest" / "usr" / "lib" / "python3" / "dist-packages")
        progress("compiling the counter", 3, STEPS)
        _plugin(folder / "count.so")
        (folder / "guest" / "proc").mkdir()
        (folder / "guest" / "proc" / "cpuinfo").write_text(emulator.CPUINFO, encoding="utf-8")
        progress("compiling the counter", STEPS, STEPS)
    return built


def _mirror() -> str:
    """The mirror of Debian that apt uses here."""
    for uri in build_tools.answer(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    ).splitlines():
        if uri.rstrip("/").endswith("/debian"):
            return uri
    raise DataError("apt knows no mirror of Debian here: name one with --mirror")


def _debian(architecture: str, packages: Sequence[str], mirror: str, into: Path) -> None:
    """Unpack ``packages`` and all that they need; nothing is installed, nothing of them runs."""
    with scratch_folder() as scratch:
        apt = scratch
        for empty in ("lists/partial", "cache/archives/partial"):
            (apt / empty).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(
            f"deb [signed-by={KEYS}] {mirror} {emulator.SUITE} main\n", encoding="utf-8"
        )
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": build_tools.answer(["id", "-un"]),
            "Debug::NoLocking": "true",
            "Dir::Cache": apt,
            "Dir::Cache::archives": apt / "cache" / "archives",
            "Dir::Etc::sourcelist": apt / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Log": apt,
            "Dir::State::lists": apt / "lists",
            "Dir::State::status": apt / "status",
        }
        client = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
        _run([*client, "update"])
        _run([*client, "install", "--yes", "--download-only", *packages])
        into.mkdir()
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            _run(["dpkg", "--extract", str(package), str(into)])


def _wheels(into: Path) -> None:
    said = [f"--platform={name}_aarch64" for name in PLATFORMS]
    wanted = [f"{name}=={version}" for name, version in emulator.versions().items()]
    _run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-warn-conflicts", "--target", str(into), "--only-binary=:all:",
            "--implementation=cp", f"--python-version={emulator.PYTHON}", *said, *wanted,
        ]
    )  # fmt: skip


def _plugin(into: Path) -> None:
    with scratch_folder() as scratch:
        _run(
            [
                sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O2",
                "-fvisibility=hidden", "-target", f"{platform.machine()}-linux-gnu.{OLDEST_GLIBC}",
                "-o", str(into), str(emulator.PLUGIN),
            ],
            ZIG_GLOBAL_CACHE_DIR=str(scratch),
        )  # fmt: skip


def _run(argv: Sequence[str], **environment: str) -> None:
    child = subprocess.Popen(
        supervised(argv),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **environment},
    )
    try:
        _, said = child.communicate()
    finally:
        end(child)
    if child.returncode:
        lines = said.splitlines()
        wrong = [line for line in lines if line.upper().startswith(("E:", "ERROR"))] or lines
        raise DataError(f"{Path(argv[0]).name}: {wrong[0] if wrong else 'failed, saying nothing'}")
