"""Which files of a folder are images of which class and part, before any is opened."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edgenas.errors import DataError
from edgenas.images import check_names
from edgenas.parts import PARTS, doubtful, part_of, repeated

Labelled = Sequence[tuple[Path, int]]
_Id = tuple[int, int]  # device and inode of a folder

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
    names = tuple(classes)
    for part, top in tops.items():
        own = _classes(top)
        if strange := [name for name in own if name not in classes]:
            raise DataError(f"{top} has the class {strange[0]!r}, which the training images lack")
        parts[part] = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted(_below(own[name], above, cycles) if name in own else ())
        ]
        check_filled(parts[part], names, top)
        within: dict[str, set[Path]] = {name: set() for name in own}
        for path, label in parts[part]:
            if is_image(path):
                within[name := names[label]].add(path.relative_to(own[name]).parent)
        notes += _doubts(root, within) if top == root else _astray(top, within)
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
    return Listing(names, tops, parts, tuple(notes))


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
    named: dict[str, list[Path]] = {part: [] for part in PARTS}
    others: list[Path] = []
    for folder in _folders(root):
        (named[part] if (part := part_of(folder.name)) else others).append(folder)
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


def _doubts(root: Path, within: Mapping[str, set[Path]]) -> list[str]:
    """What is to be said of classes that could be parts. Raises DataError where they look so.

    ``within``: of each class the folders in it that hold images, by their paths from there.
    """
    learned = f"put the folders of the classes into {shown(root / 'train')}"
    direct = {name: {p.parts[0] for p in paths if p.parts} for name, paths in within.items()}
    if (pair := doubtful(direct)) is not None:
        raise DataError(
            f"{shown(root)}: {pair[0]!r} and {pair[1]!r} look like parts of a data set, not like "
            f"classes; call the parts 'train', 'val' and 'test', or, if not, {learned}"
        )
    for name, paths in within.items():
        if inner := _named_as_part(paths):
            raise DataError(
                f"{shown(root / name / inner)} is named as a part of a data set and lies in the "
                f"folder of a class; move it to {shown(root)}/<part>/{shown(Path(name))}, or, if "
                f"all are to be learned from, {learned}"
            )
    if (again := repeated(direct)) and not any(Path() in paths for paths in within.values()):
        return [
            f"the classes of {shown(root)} are {_some(within)}; the folders in them, of the same "
            f"names in each ({_some(again)}), are not told apart"
        ]
    return []


def _some(names: Iterable[str]) -> str:
    first = [repr(name) for name in islice(names, 6)]
    return ", ".join([*first[:5], *(["..."] if len(first) > 5 else [])])


def _astray(top: Path, within: Mapping[str, set[Path]]) -> list[str]:
    return [
        f"{shown(top / name / inner)} is named as a part of a data set; its images are read as "
        f"{name!r} of {top.name!r}"
        for name, paths in within.items()
        if (inner := _named_as_part(paths))
    ]


def _named_as_part(paths: set[Path]) -> Path | None:
    for path in sorted(paths):
        for folder in (path, *path.parents):
            if part_of(folder.name):
                return folder
    pair = doubtful({path.parts[0]: () for path in sorted(paths) if path.parts})
    return None if pair is None else Path(pair[0])


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
