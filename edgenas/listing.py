"""Which files of a folder are images of which class and part, before any is opened."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenas.errors import DataError
from edgenas.images import check_names

Labelled = Sequence[tuple[Path, int]]
_Id = tuple[int, int]  # device and inode of a folder

# Usual spellings of the parts of a data set, in any case: Train, training_set, valid, dev ...
_PARTS: Mapping[str, str] = {
    "train": "train(ing)?",
    "val": "val|valid|validation|dev",
    "test": "test(ing)?",
}
# Left behind by other programs, with copies and small versions of images in them.
_FOREIGN = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


@dataclass(frozen=True)
class Listing:
    """``parts``: of ``train``, ``val``, ``test`` those that there are: files, indices of classes.

    ``tops``: the folder of each. ``notes``: what was left out.
    """

    classes: tuple[str, ...]
    tops: Mapping[str, Path]
    parts: Mapping[str, Labelled]
    notes: tuple[str, ...]


def listed(root: Path, is_image: Callable[[Path], bool]) -> Listing:
    """The files of ``root``: folders a class, or folders of parts with those in them.

    Where one folder is named as a part, in any case or usual spelling, all have to be. What is
    hidden, or other programs' own, does not count. Links are followed. ``is_image``: whether a
    file's name promises one. Raises DataError, or OSError.
    """
    tops, others = _parts(root)
    classes = _classes(tops["train"])
    if len(classes) < 2:
        found = f"one class folder ({next(iter(classes))})" if classes else "no class folders"
        advice = f"; if it is itself a class, put all into {root / 'train'}" if others else ""
        raise DataError(
            f"{tops['train']} has {found}; expected two or more, with images in each{advice}"
        )
    above = frozenset(map(_id, (root.resolve(), *root.resolve().parents)))
    if full := [folder for folder in others if any(map(is_image, _below(folder, above, [])))]:
        raise DataError(
            f"{root}: the folder {tops['train'].name!r} is named as a part of a data set, and "
            f"{full[0].name!r}, which has images too, is not; move it into one, or away"
        )
    notes = [f"{shown(folder)} has no images: not read" for folder in others]
    parts: dict[str, Labelled] = {}
    cycles: list[Path] = []
    for part, top in tops.items():
        own = _classes(top)
        if strange := [name for name in own if name not in classes]:
            raise DataError(f"{top} has the class {strange[0]!r}, which the training images lack")
        parts[part] = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted(_below(own[name], above, cycles) if name in own else ())
        ]
        check_filled(parts[part], tuple(classes), top)
    if cycles:
        notes.append(
            f"{shown(cycles[0])} leads to a folder above it, or that is read already: not followed"
        )
    loose = [
        path
        for top in sorted({root, *tops.values()})
        for path in sorted(top.iterdir())
        if not _hidden(path) and not path.is_dir() and is_image(path)
    ]
    if loose:
        notes.append(
            f"{len(loose)} images lie in no folder of a class, e.g. {shown(loose[0])}: not read"
        )
    return Listing(tuple(classes), tops, parts, tuple(notes))


def shown(path: Path) -> str:
    """A path as a message holds it: in one line, whatever it is called."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def check_filled(files: Labelled, classes: Sequence[str], where: Path) -> None:
    """Raise DataError that names a class without any of ``files``."""
    have = {label for _, label in files}
    if missing := [name for label, name in enumerate(classes) if label not in have]:
        raise DataError(
            f"{shown(where / missing[0])} has no images; expected .jpg, .png or the like in it"
        )


def _parts(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """The folder of each part, ``train`` first, and others beside them."""
    named: dict[str, list[Path]] = {part: [] for part in _PARTS}
    others: list[Path] = []
    for folder in _folders(root):
        (named[part] if (part := _part_of(folder.name)) else others).append(folder)
    if not (first := next((f.name for several in named.values() for f in several), "")):
        return {"train": root}, []
    for several in named.values():
        if len(several) > 1:
            raise DataError(
                f"{root} has {several[0].name!r} and {several[1].name!r}, two spellings of one "
                "part of a data set; put their images together"
            )
    if not named["train"]:
        raise DataError(
            f"{root}: the folder {first!r} is named as a part of a data set, and there is no "
            f"'train'; name the folder that holds the classes, e.g. {root / first}, or put classes "
            f"that are called so into {root / 'train'}"
        )
    return {part: several[0] for part, several in named.items() if several}, others


def _part_of(name: str) -> str:
    """The part that a folder is named as; empty for any other."""
    for part, spellings in _PARTS.items():
        if re.fullmatch(rf"({spellings})([ _-]?(set|split|data|images))?", name, re.IGNORECASE):
            return part
    return ""


def _classes(top: Path) -> dict[str, Path]:
    """Name -> folder. A name is composed (NFC), as macOS decomposes what others do not."""
    folders = _folders(top)
    names = [unicodedata.normalize("NFC", folder.name) for folder in folders]
    check_names(names, str(top))
    return dict(zip(names, folders, strict=True))


def _folders(top: Path) -> list[Path]:
    entries = sorted(path for path in top.iterdir() if not _hidden(path))
    if nowhere := [path for path in entries if not path.exists()]:
        raise DataError(
            f"{shown(nowhere[0])} is a link that leads nowhere; mend it or take it away"
        )
    return [path for path in entries if path.is_dir()]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in _FOREIGN


def _below(folder: Path, above: frozenset[_Id], cycles: list[Path]) -> Iterator[Path]:
    """Files in ``folder`` and in those below it, each folder once.

    ``above``: what lies above all; ``cycles`` gets links that lead there, or to where one was.
    """
    real = folder.resolve()
    seen = {*above, *map(_id, (real, *real.parents))}
    pending = [folder]
    while pending:
        for path in pending.pop().iterdir():
            if _hidden(path):
                continue
            if not path.is_dir():
                yield path
            elif (key := _id(path)) not in seen:
                seen.add(key)
                pending.append(path)
            else:
                cycles.append(path)


def _id(folder: Path) -> _Id:
    found = folder.stat()
    return found.st_dev, found.st_ino
