"""A 64-bit ARM machine emulated on this one: QEMU, Debian's Python for it, and the runtimes.

``edgenas.build_emulator`` puts it together, once. ``count.c`` is a plugin that counts instructions.
"""

import hashlib
import platform
from importlib import metadata
from pathlib import Path

from edgenas.errors import CapabilityError
from edgenas.files import cache_folder
from edgenas.runner import COUNTER

SUITE = "bookworm"  # the last with a QEMU that takes plugins of this version of their interface
HOST, GUEST = ("qemu-user",), ("python3.11", "libstdc++6")  # packages, what they need comes along
PYTHON = "3.11"
WHEELS = ("numpy", "onnxruntime", "ai-edge-litert")
CORE = "cortex-a72"
# The runtimes choose kernels by it, and crash on what QEMU itself says here: it is the host's.
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""
PLUGIN = Path(__file__).with_name("count.c")


def versions() -> dict[str, str]:
    """The runtimes as they are installed here: the same are emulated, to be compared with."""
    return {name: metadata.version(name) for name in WHEELS}


def folder() -> Path:
    """Where it is once it is built: another name for every other content."""
    recipe = repr((SUITE, HOST, GUEST, PYTHON, CPUINFO, versions(), platform.machine()))
    digest = hashlib.sha256(recipe.encode() + PLUGIN.read_bytes()).hexdigest()
    return cache_folder() / "emulators" / digest[:16]


def require() -> Path:
    """``folder()``. Raises CapabilityError where it is not built."""
    if not (built := folder()).exists():
        raise CapabilityError(
            "the emulator is not built yet, a matter of a minute, once: edgenas build-emulator"
        )
    return built


def python() -> str:
    """The interpreter for ARM."""
    return str(folder() / "guest" / "usr" / "bin" / f"python{PYTHON}")


def command(counter: Path) -> list[str]:
    """What goes before a program for ARM to run it here; its counts are written to ``counter``."""
    built = require()
    host = built / "host"
    libraries = f"{platform.machine()}-linux-gnu"
    (loader,) = (host / "lib" / libraries).glob("ld-linux-*.so.*")
    return [
        str(loader), "--library-path", f"{host}/lib/{libraries}:{host}/usr/lib/{libraries}",
        str(host / "usr" / "bin" / "qemu-aarch64"), "-cpu", CORE, "-L", str(built / "guest"),
        "-E", f"{COUNTER}={counter},PYTHONHASHSEED=0",
        "-plugin", f"{built / 'count.so'},out={counter}",
    ]  # fmt: skip
