"""Compiles the runner for boards without Python: ncnn from its source, by zig for any of them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.parse import urljoin

from edgenas import build_tools, native
from edgenas.errors import CapabilityError, DataError
from edgenas.fetch import download
from edgenas.files import aside, require_writable
from edgenas.rounds import Progress
from edgenas.scratch import scratch_folder
from edgenas.supervisor import end, supervised

SHA256 = "ad8cdd63e9755cfa8e23b9b6d9ce46156077d80298a89e7c3ba325ffccfca200"  # of the source
TOOLS = ("ziglang", "cmake", "ninja")  # the extra 'native'
_STEP = re.compile(rb"\[(\d+)/(\d+)\]")


def build(arch: str, source: Path | None, progress: Progress) -> Path:
    """The runner for ``arch``, built unless it is there; ``source``: ncnn's, else it is fetched.

    Raises CapabilityError where a tool is missing or compiling fails, DataError where the source
    cannot be had.
    """
    runner = native.runner_path(arch)
    if runner.exists():
        return runner
    build_tools.require(*TOOLS)
    require_writable(runner.parent)
    content = _fetched() if source is None else source.read_bytes()
    if (have := hashlib.sha256(content).hexdigest()) != SHA256:
        raise DataError(
            f"ncnn's source has sha256 {have}, not {SHA256}: fetch {native.VERSION} anew"
        )
    with scratch_folder() as scratch:
        work = scratch
        (work / "ncnn.tar.gz").write_bytes(content)
        with tarfile.open(work / "ncnn.tar.gz") as archive:
            archive.extractall(work, filter="data")
        made = _compiled(arch, work / f"ncnn-{native.VERSION}", work, progress)
        with aside(runner) as temporary:
            shutil.copyfile(made, temporary)
        runner.chmod(0o755)
    return runner


def _fetched() -> bytes:
    """ncnn's source distribution, from where pip would take it."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    told = os.environ.get("PIP_INDEX_URL") or build_tools.answer(asked)
    own = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    index = told or build_tools.answer([sys.executable, "-c", own])
    page = f"{index.rstrip('/')}/ncnn/"
    name = re.escape(f"ncnn-{native.VERSION}.tar.gz")
    try:
        found = re.search(rf'href="([^"#]*/{name})', download(page).decode())
        if found is None:
            raise DataError(f"there is no version {native.VERSION}")
        return download(urljoin(page, found[1]))
    except DataError as e:
        raise DataError(
            f"ncnn's source cannot be fetched ({e}). Bring ncnn-{native.VERSION}.tar.gz yourself: "
            "edgenas build-runner --source FILE"
        ) from e


def _compiled(arch: str, ncnn: Path, work: Path, progress: Progress) -> Path:
    compilers = {}
    for tool in ("cc", "c++", "ar", "ranlib"):
        script = work / f"zig-{tool}"
        target = (
            f"-target {arch}-linux-musl -mcpu={native.CPU[arch]}" if tool.startswith("c") else ""
        )
        script.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m ziglang {tool} {target} "$@"\n',
            encoding="utf-8",
        )
        script.chmod(0o755)
        compilers[tool] = script
    (work / "toolchain.cmake").write_text(
        "set(CMAKE_SYSTEM_NAME Linux)\n"
        f"set(CMAKE_SYSTEM_PROCESSOR {arch})\n"
        f"set(CMAKE_C_COMPILER {compilers['cc']})\n"
        f"set(CMAKE_CXX_COMPILER {compilers['c++']})\n"
        f'set(CMAKE_AR {compilers["ar"]} CACHE FILEPATH "")\n'
        f'set(CMAKE_RANLIB {compilers["ranlib"]} CACHE FILEPATH "")\n',
        encoding="utf-8",
    )
    every = {path.stem for path in (ncnn / "src" / "layer").glob("*.h")}
    without = [f"WITH_LAYER_{layer}" for layer in sorted(every - set(native.LAYERS))]
    switches = [*without, *(f"NCNN_{name}" for name in native.OFF)]
    off = "".join(f'set({s} OFF CACHE BOOL "")\n' for s in switches)
    (work / "off.cmake").write_text(off, encoding="utf-8")
    bin_folder = work / "build"
    _run(
        [
            "cmake", "-G", "Ninja", "-S", str(native.source_folder()), "-B", str(bin_folder),
            "-C", str(work / "off.cmake"), f"-DCMAKE_TOOLCHAIN_FILE={work}/toolchain.cmake",
            f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}", f"-DNCNN_SOURCE={ncnn}",
            f"-DNCNN_VERSION={native.VERSION.rpartition('.')[2]}",  # else it is today's date
            "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_EXE_LINKER_FLAGS=-s",
        ],
        work, progress,
    )  # fmt: skip
    _run(["ninja", "-C", str(bin_folder), "runner"], work, progress)
    return bin_folder / "runner"


def _tool(name: str) -> str:
    """A program beside this interpreter, else on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def _run(argv: list[str], work: Path, progress: Progress) -> None:
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(work / "zig")}
    command = [_tool(argv[0]), *argv[1:]]
    said: list[bytes] = []
    child = subprocess.Popen(
        supervised(command), cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        with child.stdout as lines:
            for line in lines:
                said.append(line)
                if step := _STEP.match(line):
                    progress("compiling", int(step[1]), int(step[2]))
        child.wait()
    finally:
        end(child)
    if child.returncode:
        wrong = [line for line in said if b"error" in line.lower()] or said
        first = wrong[0].decode(errors="replace").strip() if wrong else "it said nothing"
        raise CapabilityError(f"{argv[0]} failed: {first}")
