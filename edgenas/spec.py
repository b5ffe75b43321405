"""Facts: hashable, printable, no torch. The key of a table, a decision, a point of a space."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgenas.errors import InvalidArchitecture

Pick = int | float | tuple[int, ...]

_OP = re.compile(r"([a-z][a-z0-9_-]*) (\d+)-(\d+) @(\d+)((?: [a-z]+\d+)*)")
_ARG = re.compile(r"([a-z]+)(\d+)")


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One operator or block as a device sees it; the key of a latency table.

    ``size`` is the input height = width in pixels. Text form and value are the same fact:
    ``OpSpec.parse(str(op)) == op``.
    """

    kind: str
    cin: int
    cout: int
    size: int
    args: tuple[tuple[str, int], ...] = ()  # sorted by name

    @classmethod
    def of(cls, kind: str, cin: int, cout: int, size: int, **args: int) -> "OpSpec":
        """``OpSpec.of("mbconv", 16, 24, 56, e=3, k=5, s=2)``."""
        return cls(kind, cin, cout, size, tuple(sorted(args.items())))

    def arg(self, name: str, default: int) -> int:
        """Argument ``name``, or ``default`` where the operator does not carry it."""
        return dict(self.args).get(name, default)

    def __str__(self) -> str:
        tail = "".join(f" {k}{v}" for k, v in self.args)
        return f"{self.kind} {self.cin}-{self.cout} @{self.size}{tail}"

    @classmethod
    def parse(cls, text: str) -> "OpSpec":
        """Inverse of ``str``. Raises ValueError on any other text."""
        m = _OP.fullmatch(text)
        if m is None:
            raise ValueError(
                f"not an operator: {text!r}; expected e.g. 'mbconv 16-24 @56 e3 k5 s2'"
            )
        args = {a: int(v) for a, v in _ARG.findall(m[5])}
        op = cls.of(m[1], int(m[2]), int(m[3]), int(m[4]), **args)
        if str(op) != text:
            raise ValueError(f"not in canonical form: {text!r}; write {str(op)!r}")
        return op


@dataclass(frozen=True, slots=True)
class Choice:
    """A named decision with labelled options; at least two, else there is nothing to decide."""

    name: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.options) < 2:
            raise ValueError(
                f"choice {self.name!r} has options {self.options}; a forced part is not a choice"
            )


@dataclass(frozen=True, slots=True)
class Architecture:
    """A point of the space with id ``space``: its picks, sorted by name."""

    space: str
    picks: tuple[tuple[str, Pick], ...]

    @classmethod
    def of(
        cls, space: str, picks: Mapping[str, Pick] | Iterable[tuple[str, Pick]]
    ) -> "Architecture":
        """Canonical form of ``picks``."""
        return cls(space, tuple(sorted(dict(picks).items())))

    def __getitem__(self, name: str) -> Pick:
        return dict(self.picks)[name]

    def index(self, name: str) -> int:
        """The pick of ``name``, which must be an option index."""
        pick = self[name]
        if not isinstance(pick, int):
            raise InvalidArchitecture(f"pick {name!r} is {pick!r}, not an option index")
        return pick

    def but(self, **changes: Pick) -> "Architecture":
        """A copy with some picks changed."""
        return Architecture.of(self.space, dict(self.picks) | changes)

    @property
    def id(self) -> str:
        """Ten hex digits that name this architecture everywhere."""
        return hashlib.sha256(json.dumps([self.space, self.picks]).encode()).hexdigest()[:10]

    def to_json(self) -> dict[str, object]:
        """``{"space": ..., "picks": {...}}``."""
        return {"space": self.space, "picks": dict(self.picks)}

    @classmethod
    def from_json(cls, data: object) -> "Architecture":
        """Inverse of ``to_json``. Raises InvalidArchitecture on anything else."""
        match data:
            case {"space": str(space), "picks": dict(picks)}:
                return cls.of(space, {str(k): _pick(str(k), v) for k, v in picks.items()})
        raise InvalidArchitecture(
            'not an architecture; expected {"space": "...", "picks": {"s1b1": 0, ...}}'
        )


def _pick(name: str, value: object) -> Pick:
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        raise InvalidArchitecture(f"pick {name!r} is {value!r}; expected a number or a list")
    if not isinstance(value, list):
        return value
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        raise InvalidArchitecture(f"pick {name!r} is {value!r}; expected whole numbers")
    return tuple(value)
