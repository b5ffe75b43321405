"""How folders are called that hold the parts of a data set."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import combinations

# Usual spellings, in any case: Train, training_set, valid, dev ...
PARTS: Mapping[str, str] = {
    "train": "train(ing)?",
    "val": "val|valid|validation|dev",
    "test": "test(ing)?",
}
# Within a longer name; these do not make a part, but doubt.
_WORDS: Mapping[str, str] = {
    "train": "train(ing)?|trn|trainval",
    "val": "val|valid|validation|dev|devel",
    "test": "test(ing)?|tst|eval|evaluation|holdout",
}
_WHAT = "set|split|data|images?|imgs?|folder|dir"
_Hint = tuple[str, tuple[str, ...]]  # a part, and what else stands in the name


def part_of(name: str) -> str:
    """The part that a folder is named as; empty for any other."""
    for part, spellings in PARTS.items():
        if re.fullmatch(rf"({spellings})([ _-]?(set|split|data|images))?", name, re.IGNORECASE):
            return part
    return ""


def doubtful(folders: Mapping[str, Collection[str]]) -> tuple[str, str] | None:
    """Two of ``folders``, name -> names of those within, that look like parts, not like classes.

    Their names hold two parts and differ in nothing else, or they hold folders of one name. One
    such name is enough where all of them hold folders of the same names.
    """
    hints = {name: hint for name in folders if (hint := _hint(name))}
    for (one, (part, rest)), (other, (part_2, rest_2)) in combinations(hints.items(), 2):
        if part != part_2 and (rest == rest_2 or set(folders[one]) & set(folders[other])):
            return one, other
    if hints and repeated(folders):
        one = next(iter(hints))
        return one, next(name for name in folders if name != one)
    return None


def repeated(folders: Mapping[str, Collection[str]]) -> list[str]:
    """Names that are in two of ``folders``; empty where one holds none of these."""
    count = Counter(name for within in folders.values() for name in set(within))
    again = {name for name, times in count.items() if times > 1}
    return sorted(again) if all(again & set(within) for within in folders.values()) else []


def _hint(name: str) -> _Hint | None:
    """seg_train, Train2017, testA, 1_valid ...: the words in it, without numbers."""
    words = [w.lower() for w in re.findall(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])", name)]
    for k, word in enumerate(words):
        for part, spellings in _WORDS.items():
            if re.fullmatch(rf"({spellings})({_WHAT})?", word):
                return part, (*words[:k], *words[k + 1 :])
    return None
