"""Text that others wrote: UTF-8, JSON and YAML, read strictly and within bounds.

Every function raises ValueError with what is wrong, or one of its kinds.
"""

import gzip
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml

MOST_BYTES = 32 << 20  # of JSON: its values take some twenty times as much memory
MOST_YAML_BYTES = 2 << 20
MOST_NESTED = 64
MOST_DIGITS = 3000  # of a whole number; Python makes text of 4,300 decimal ones at the most
MOST_ALIASED = 100_000  # values that aliases stand for

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotYaml(ValueError):
    """The text does not follow YAML's grammar."""


class Refused(ValueError):
    """It does, and means something that nobody can have meant."""

    def __init__(self, line: int, said: str) -> None:
        super().__init__(f"line {line}: {said}")
        self.said = said


def content(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """What the file at ``path`` holds; also OSError."""
    with path.open("rb") as file:
        return _bounded(file, most_bytes)


def gunzipped(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """What the gzip file at ``path`` holds; also OSError, EOFError, zlib.error."""
    with gzip.open(path, "rb") as file:
        return _bounded(file, most_bytes)


def _bounded(file: IO[bytes] | gzip.GzipFile, most_bytes: int) -> bytes:
    data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes >> 20} MB, the most that is read")
    return data


def text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The file at ``path``, its line ends as ``\\n`` and no mark of byte order; also OSError."""
    return decoded(content(path, most_bytes))


def decoded(data: bytes) -> str:
    """As ``text``, of what is read."""
    try:
        read = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = 1 + data.count(b"\n", 0, e.start)
        raise ValueError(f"line {line} is not UTF-8: save it as UTF-8") from None
    return read.replace("\r\n", "\n").replace("\r", "\n")


def json_value(written: str | bytes) -> Any:
    """What a JSON text says: no key twice, no NaN, no half of a character, nested to an end."""
    written = written if isinstance(written, str) else written.decode()
    _flat_enough(written)
    try:
        value = json.loads(
            written, object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_NESTED} deep") from None
    if _HALF.search(written):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a character (a lone \\ud...)") from None
    return value


def _flat_enough(written: str) -> None:
    if written.count("[") + written.count("{") > MOST_NESTED:
        brackets = _BRACKETS.findall(_STRINGS.sub("", written))
        depths = itertools.accumulate(map(_STEPS.__getitem__, brackets))
        if max(depths, default=0) > MOST_NESTED:
            raise ValueError(f"it is nested more than {MOST_NESTED} deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"key {twice!r} twice")
    return found


def _finite(written: str) -> float:
    if not math.isfinite(value := float(written)):
        raise ValueError(f"{written[:40]} is no number")
    return value


def yaml_value(written: str) -> Any:
    """What one YAML document says, by the safe loader.

    Raises NotYaml; Refused for a key twice, aliases without end, and for what YAML 1.1 and 1.2 read
    differently: 010, 1:30, 1_000. ``yes`` and ``on`` are text, as of 1.2.
    """
    try:
        _within_bounds(written)
        loader = _Strict(written)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            for part in _parts(node):
                _keys_once(part)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise NotYaml(f"{where}{e.problem or e.context or 'it cannot be read'}") from e
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, OverflowError) as e:
        raise NotYaml(" ".join(str(e).split())[:200] or type(e).__name__) from e
    except UnicodeEncodeError:
        raise Refused(1, "it holds bytes that are no UTF-8") from None
    except RecursionError:
        raise NotYaml(f"it is nested more than {MOST_NESTED} deep") from None


def _within_bounds(written: str) -> None:
    """Raise Refused where collections or their aliases have no end; nothing is built yet."""
    open_: list[list[Any]] = [[None, 0]]  # anchor and values of each collection that is open
    sizes: dict[str, int] = {}
    aliased = 0
    for event in yaml.parse(written, Loader=_Strict):
        line = _line(event)
        match event:
            case yaml.CollectionStartEvent():
                open_.append([event.anchor, 1])
                if len(open_) > MOST_NESTED:
                    raise Refused(line, f"nested more than {MOST_NESTED} deep")
            case yaml.CollectionEndEvent():
                anchor, size = open_.pop()
                sizes |= {anchor: size} if anchor else {}
                open_[-1][1] += size
            case yaml.ScalarEvent():
                sizes |= {event.anchor: 1} if event.anchor else {}
                open_[-1][1] += 1
            case yaml.AliasEvent():
                if event.anchor in [anchor for anchor, _ in open_]:
                    raise Refused(line, f"*{event.anchor} stands within itself")
                size = sizes.get(event.anchor or "", 1)
                open_[-1][1] += size
                aliased += size
                if aliased > MOST_ALIASED:
                    said = f"aliases stand for more than {MOST_ALIASED} values: write them out"
                    raise Refused(line, said)


class _Strict(_Base):  # type: ignore[misc]
    """YAML 1.2's true and false, no dates, and numbers that both versions read alike."""

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and (found := _UNWRITABLE.search(value)):
            raise Refused(_line(node), f"{found[0]!r} is no character of a text")
        return value

    def number(self, node: Any) -> int | float:
        """Of a scalar that YAML 1.1 takes for one."""
        said = self.construct_scalar(node)
        if _WHOLE.fullmatch(said):
            if len(said) > MOST_DIGITS:
                raise Refused(_line(node), f"a number of {len(said)} digits: {said[:20]}...")
            return int(said, 16 if "x" in said else 10)
        if node.tag == _FLOAT and _REAL.fullmatch(said):
            return float(said.lower().replace(".inf", "inf").replace(".nan", "nan"))
        raise Refused(
            _line(node),
            f"{said[:40]} is one number in YAML 1.1 and another, or text, in 1.2: write it in "
            "decimal digits alone, or in quotes",
        )


def _resolvers(base: Any) -> dict[Any, list[tuple[str, re.Pattern[str]]]]:
    kept = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (_BOOL, _TIME)]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    for first in "tTfF":
        kept.setdefault(first, []).append(
            (_BOOL, re.compile("(?:true|True|TRUE|false|False|FALSE)$"))
        )
    for first in "0+-":  # 08 too, which is text in YAML 1.1 and eight in 1.2
        kept.setdefault(first, []).append((_INT, re.compile(r"[-+]?0[0-9_]+$")))
    return kept


_TAG = "tag:yaml.org,2002:"
_BOOL, _INT, _FLOAT, _TIME = (f"{_TAG}{kind}" for kind in ("bool", "int", "float", "timestamp"))
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)")
_REAL = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)"
)
_Strict.yaml_implicit_resolvers = _resolvers(_Base)
for _tag in (_INT, _FLOAT):
    _Strict.add_constructor(_tag, _Strict.number)


class _Dumper(yaml.SafeDumper):
    """Quotes what ``_Strict`` would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *known]
    for first, known in _Strict.yaml_implicit_resolvers.items()
}


def yaml_text(data: Any) -> str:
    """Inverse of ``yaml_value``, keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _parts(node: Any) -> Iterator[Any]:
    """``node`` and all within it, each once."""
    todo, seen = [node], set[int]()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            todo += itertools.chain.from_iterable(node.value)
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value


def _keys_once(node: Any) -> None:
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), _line(key)
                if name in lines:
                    said = f"key {key.value[:80]!r} twice, first in line {lines[name]}"
                    raise Refused(line, said)
                lines[name] = line


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
