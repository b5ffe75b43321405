"""Tables in files: JSON lines, a header with the hash of all, then sorted rows."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgenas import parsing
from edgenas.errors import CorruptFile, ForeignTable, UsageError
from edgenas.spec import OpSpec

MOST_BYTES = 256 << 20  # a line is an operator: none of them is large
CORES = "usable_cores"
H = TypeVar("H")
R = TypeVar("R")


def dumps(header: Mapping[str, Any], rows: Mapping[OpSpec, Mapping[str, Any]]) -> str:
    """The text of a file; re-measuring reads as a diff. Floats of rows keep seven digits."""
    body = "".join(sorted(_line({"op": str(op), **_rounded(row)}) for op, row in rows.items()))
    return _line({**header, "sha256": _sha(_line(header) + body)}) + body


def read(path: Path, advice: str) -> str:
    """The text of the file at ``path``. Raises UsageError with ``advice`` (absent), CorruptFile."""
    try:
        return parsing.text(path, MOST_BYTES)
    except FileNotFoundError:
        raise UsageError(f"there is no table {path}. {advice}") from None
    except (OSError, ValueError) as e:
        raise CorruptFile(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from e


def unit(text: str) -> object:
    """What the header of ``text`` says that rows hold; None where it says nothing, or is none."""
    try:
        return _parsed(text.partition("\n")[0]).get("unit")
    except (ValueError, RecursionError):
        return None


def require(header: Any, want: Mapping[str, Any], advice: str) -> None:
    """Raise ForeignTable with ``advice`` unless fields of ``header`` equal ``want``."""
    for key, value in want.items():
        have = getattr(header, key)
        if key == "fingerprint":
            have, value = _comparable(have, header.facts, value)
        if have != value:
            raise ForeignTable(
                f"the table of {header.device} is for {key} {_differ(have, value)}. {advice}"
            )


def _comparable(
    have: Mapping[str, Any], facts: Mapping[str, Any], want: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both fingerprints; where one is of before they held the cores that may be used, without them.

    The ``facts`` of that time tell how many there were, but of no quota.
    """
    may, unknown = facts.get("affinity"), {"quota_cores"}
    if CORES in have and CORES in want:
        return have, want
    if CORES not in have and isinstance(may, list | tuple):
        have = {**have, CORES: len(may)}
    if CORES not in have or CORES not in want:
        unknown.add(CORES)
    kept = [{k: v for k, v in each.items() if k not in unknown} for each in (have, want)]
    return kept[0], kept[1]


def loads(
    text: str,
    where: str,
    what: str,
    header: Callable[[dict[str, Any]], H],
    row: Callable[[dict[str, Any]], R],
    before: int,
) -> tuple[H, dict[OpSpec, R]]:
    """Inverse of ``dumps``: ``header`` and ``row`` read their parts, and raise ValueError.

    ``where`` names the file in messages, ``what`` what it should be; ``before``: the schema whose
    hash is of the rows alone. Raises CorruptFile with the line.
    """
    first, _, body = text.partition("\n")
    if not text.strip():
        raise CorruptFile(f"{where}, line 1: not a whole {what}: it is empty")
    try:
        data = _parsed(first)
        digest = data.pop("sha256", None)
        if data.get("schema") == before:
            digest, fits = data.pop("rows_sha256", None), _sha(body)
        else:
            fits = _sha(_line(data) + body)
        head = header(data)
        if digest != fits:
            raise ValueError(
                "it does not match its hash, it was cut short or edited: make it anew, --fresh"
            )
    except (ValueError, UsageError, RecursionError) as e:
        raise CorruptFile(f"{where}, line 1: not a whole {what}: {_one_line(e)}") from e
    rows: dict[OpSpec, R] = {}
    for number, line in enumerate(body.splitlines(), 2):
        try:
            data = _parsed(line)
            op = OpSpec.parse(data.pop("op"))
            if op in rows:
                raise ValueError(f"'{op}' twice")
            rows[op] = row(data)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as e:
            raise CorruptFile(f"{where}, line {number}: {_one_line(e)}") from e
    return head, rows


def _differ(have: Any, want: Any) -> str:
    if isinstance(have, Mapping) and isinstance(want, Mapping):
        keys = [k for k in {**have, **want} if have.get(k) != want.get(k)]
        return "; ".join(f"{k} {have.get(k)!r}, not {want.get(k)!r}" for k in keys)
    return f"{have!r}, not {want!r}"


def _parsed(line: str) -> dict[str, Any]:
    try:
        data = parsing.json_value(line)
    except json.JSONDecodeError as e:
        raise ValueError(f"no JSON: {line[:40]!r}") from e
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, found {line[:40]!r}")
    return data


def _one_line(e: Exception) -> str:
    return " ".join(str(e).split())[:300]  # a key of the file may be in it


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {k: _rounded(v) for k, v in value.items()}
        case list() | tuple():
            return [_rounded(v) for v in value]
        case float():
            return round(value, 7)
    return value


def _line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, allow_nan=False) + "\n"


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
