"""Weights out of the files that trainers write: told by content, and without running code of them.

A file of PyTorch is read with ``weights_only``: what is neither tensors nor plain data is never
made. Where such objects stand beside the weights, the refusal says what saves the weights alone.
"""

import json
import pickletools
import re
import shlex
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from edgenas.errors import CorruptFile

_OPENED = re.compile(  # by torch itself, whatever else a file holds
    r"torch\.\w+|torch\._utils\.\w+|torch\.storage\.\w+|torch\.nn\.parameter\.Parameter"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(bytearray|set|complex)"
)
_PLAIN = re.compile(  # values that carry no behaviour; they are left out all the same
    r"numpy\.(dtype|ndarray|dtypes\.\w+)|numpy\._?core\.(multiarray|numeric)\.\w+"
    r"|datetime\.\w+|pathlib\.(_local\.)?\w*Path|decimal\.Decimal|uuid\.UUID"
    r"|collections\.(defaultdict|deque)|builtins\.(bool|dict|float|frozenset|int|list|str|tuple)"
)
_FILLED: Mapping[str, Callable[..., Any]] = {  # what torch's reader fills, it must know
    "collections.defaultdict": lambda *arguments: {},
    "collections.deque": lambda *arguments: [],
}
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch's own number
_PICKLES = 4  # at the head of such a file: that number, a version, facts of the system, the object
_OTHERS = {
    b"\x89HDF": "a file of HDF5, as Keras writes it",
    b"\x1f\x8b": "compressed: unpack it first",
    b"BZh": "compressed: unpack it first",
    b"\xfd7zXZ": "compressed: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed: unpack it first",
    b"\x93NUMPY": "an array of NumPy",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself (git lfs pull)",
}


class Left:
    """What stands in a file for an object of another class: nothing of that class is imported."""

    def __new__(cls, *arguments: Any, **more: Any) -> "Left":
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def is_module(self) -> bool:
        """Whether it was a ``torch.nn.Module``."""
        return isinstance(self.state, Mapping) and "_modules" in self.state


def read(path: Path) -> tuple[Any, tuple[str, ...]]:
    """What ``path`` holds, ``Left`` where objects stood, and the classes that stand in the way.

    Raises CorruptFile where it is none of a safetensors and a file of ``torch.save``.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if _is_safetensors(head, path.stat().st_size):
            return load_file(path), ()
    except (SafetensorError, OSError) as e:
        raise CorruptFile(f"{path} cannot be read as weights: {e!s:.200}") from e
    if reason := _no_checkpoint(path, head):
        raise CorruptFile(f"{path} holds no weights of PyTorch: it is {reason}")
    try:
        return _loaded(path), ()
    except Exception:  # torch's reader has no class of errors; what is in the way is looked up
        strangers = _strangers(path)
    try:
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in strangers]):
            held = _loaded(path)
    except Exception as e:  # torch's reader has no class of errors
        first = (str(e).splitlines() or [""])[0]
        in_the_way = [name for name in strangers if not _PLAIN.fullmatch(name)]
        if not in_the_way:
            raise CorruptFile(f"{path} cannot be read as weights: {first:.200}") from e
        raise CorruptFile(refusal(path, in_the_way, None)) from e
    return held, tuple(name for name in strangers if not _PLAIN.fullmatch(name))


def refusal(path: Path, in_the_way: Sequence[str], of: str | None) -> str:
    """Why a file with such objects is not read, and what saves its part ``of``, ``["model"]``."""
    whole = any(name.startswith("torch.nn.modules.") for name in in_the_way)
    named = ", ".join(in_the_way[:3]) + (" ..." if len(in_the_way) > 3 else "")
    held = "a whole module" if whole else "other objects beside the weights"
    return (
        f"{path} holds {held} ({named}), which run code when they are read. Where they can be "
        f"imported, and if you trust the file, save the weights alone: {saves(path, of)}"
    )


def saves(path: Path, of: str | None) -> str:
    """A shell command that saves the part ``of`` of ``path`` alone; None: the usual one.

    It runs what is in the file, unless that is tensors alone.
    """
    loaded = f'torch.load({_text(path)}, map_location="cpu", weights_only={_is_tensors(path)})'
    if of is not None:
        return _command(f"{loaded}{of}", path)
    usual = '("state_dict", "model_state_dict", "model", "net", "network", "ema")'
    part = f"next((c[k] for k in {usual} if k in c), c) if isinstance(c, dict) else c"
    return _command(
        'c.state_dict() if hasattr(c, "state_dict") else c', path, f"c = {loaded}; c = {part}; "
    )


def _command(expression: str, path: Path, before: str = "") -> str:
    out = _text(path.with_name(f"{path.stem}.weights.pt"))
    return f"python -c {shlex.quote(f'import torch; {before}torch.save({expression}, {out})')}"


def _text(value: Path | str) -> str:
    """As Python, in quotes that a shell's do not meet."""
    return json.dumps(str(value), ensure_ascii=False)


def _stand_in(name: str) -> Callable[..., Any]:
    return _FILLED.get(name) or type(name, (Left,), {})


def _loaded(path: Path) -> Any:
    with path.open("rb") as file:  # by its name torch would tell it otherwise
        return torch.load(file, map_location="cpu", weights_only=True)


def _is_tensors(path: Path) -> bool:
    """Whether torch opens it without a word on what is in it."""
    try:
        _loaded(path)
    except Exception:  # torch's reader has no class of errors
        return False
    return True


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _no_checkpoint(path: Path, head: bytes) -> str | None:
    """What a file is that ``torch.save`` did not write."""
    if not head:
        return "empty"
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return what
    if head[4:8] == b"TFL3":
        return "a TFLite file"
    if head.startswith(b"PK"):
        return _no_archive(path)
    if head.startswith(_LEGACY):
        return None
    if head[:1] == b"\x80":
        return "a pickle: save it with torch.save"
    if tarfile.is_tarfile(path):
        return "a tar archive: unpack it and name the file in it"
    if all(c >= 32 or c in b"\t\r\n" for c in head):
        return f"text, {head[:24]!r} ..."
    return "of an unknown kind"


def _no_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
            if (part := _spoiled(archive)) is not None:
                return f"damaged: {part!r} in it fails its checksum; fetch or save it anew"
    # zipfile ends in each of these where an archive is damaged
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "cut off or damaged"
    if "constants.pkl" in names:
        program = f"torch.jit.load({_text(path)}).state_dict()"
        return f"a TorchScript program: {_command(program, path)}"
    if "data.pkl" in names:
        return None
    if "archive_format" in names or "serialized_exported_program.json" in names:
        program = f"torch.export.load({_text(path)}).state_dict"
        return f"an exported program: {_command(program, path)}"
    if any(name.endswith(".npy") for name in names):
        return "an .npz of NumPy"
    return "a zip archive of other files"


def _spoiled(archive: zipfile.ZipFile) -> str | None:
    """The part of which another content was written; torch's reader does not look."""
    for part in archive.infolist():
        if not part.CRC:  # torch.serialization.set_crc32_options(False): nothing tells
            continue
        try:
            with archive.open(part) as file:
                while file.read(1 << 20):
                    pass
        except (zipfile.BadZipFile, zlib.error, EOFError):
            return part.filename
    return None


def _strangers(path: Path) -> list[str]:
    """Classes and functions that a file names, but for those that ``torch`` opens itself."""
    found: dict[str, None] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl")
                with archive.open(name) as file:
                    found.update(dict.fromkeys(_named(file)))
        else:
            with path.open("rb") as file:
                for _ in range(_PICKLES):
                    found.update(dict.fromkeys(_named(file)))
    except Exception:  # a damaged file ends where it ends: what it named before is told
        pass
    return [name for name in found if not _OPENED.fullmatch(name)]


def _named(file: BinaryIO | Any) -> Iterable[str]:
    """Of one pickle, which is not run."""
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".").replace("__builtin__.", "builtins.")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)
