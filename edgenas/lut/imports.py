"""Tables that others published, or wrote by hand, as ours: a reader a format."""

import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgenas import ops, parsing
from edgenas.errors import CorruptFile, UsageError
from edgenas.latency import Fit, Header, LatencyTable, Timing
from edgenas.spec import OpSpec

Z95 = 1.96
UNITS_MS = {"ms": 1.0, "us": 1e-3, "s": 1e3}
Rows = Mapping[OpSpec, Timing]

_SHAPE = r"input:(\d+)x(\d+)x(\d+)-output:(?:(\d+)x(\d+)x)?(\d+)"
_KEY = re.compile(
    rf"(Conv|Conv_1|Conv_2|AvgPool2D|Logits|expanded_conv)-{_SHAPE}"
    r"(?:-expand:(\d+)-kernel:(\d+)-stride:(\d+)-idskip:([01])(?:-se:([01])-hs:([01]))?)?"
)
SQUEEZE = 4  # hidden channels over those of the gate, of MobileNetV3 and once-for-all


def import_table(path: Path, device: str, precision: str, margin: float | None) -> LatencyTable:
    """The table in the file ``path``: YAML of ProxylessNAS and once-for-all, or CSV.

    Its rows are sums as they stand. With ``margin``, the fraction that predictions are to be raised
    by, it can be searched under; without, it can be looked at and be a prior. Raises UsageError,
    or CorruptFile with the key or line.
    """
    if (known := READERS.get(path.suffix.lower())) is None:
        raise UsageError(f"{path}: tables are read from {', '.join(READERS)}")
    reader, most_bytes = known
    try:
        data = parsing.content(path, most_bytes)
        text = parsing.decoded(data)
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except (OSError, ValueError) as e:
        raise CorruptFile(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from e
    try:
        rows = reader(text)
    except (ValueError, OverflowError) as e:
        raise CorruptFile(f"{path}: {e!s:.200}") from e
    if not rows:
        raise CorruptFile(f"{path} has no rows")
    source = {"source": path.name, "sha256": hashlib.sha256(data).hexdigest(), "statistic": "mean"}
    fit = None if margin is None else Fit(0.0, 1.0, 1.0, margin, 0)
    header = Header(device, "unknown", precision, "imported", {}, protocol=source, fit=fit)
    return LatencyTable(header, rows)


def from_yaml(text: str) -> Rows:
    """``expanded_conv-input:56x56x24-output:28x28x40-expand:6-kernel:5-stride:2-idskip:0`` ->
    count, mean (ms), var; as ProxylessNAS published (arXiv:1812.00332, sec. 3.2).

    Of once-for-all (arXiv:1908.09791) ``-se:0-hs:1`` follow, ``expand`` holds the hidden channels,
    and ``std`` may stand for ``var``. Every key is a row.
    """
    try:
        data = parsing.yaml_value(text)
    except parsing.NotYaml as e:
        raise ValueError(f"is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(data, dict):
        raise ValueError("expected operators with count, mean and var")
    rows: dict[OpSpec, Timing] = {}
    for key, facts in data.items():
        op = _operator(str(key))
        if op in rows:
            raise ValueError(f"{key}: '{op}' twice")
        rows[op] = _timing(str(key), facts)
    return rows


def _operator(key: str) -> OpSpec:
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"{key!r} is no operator of this format")
    kind, hidden, excited = found[1], found[8], found[12]
    high, wide, cin, out, across, cout, expand, kernel, stride, skip, se, hs = (
        int(n or 0) for n in found.groups()[1:]
    )
    if high != wide or out != across:
        raise ValueError(f"{key}: images are square here, not {high}x{wide}")
    if (kind == "expanded_conv") != (hidden is not None):
        raise ValueError(f"{key}: expanded_conv alone has expand, kernel, stride and idskip")
    if min(high, cin, cout, *((expand, kernel, stride) if hidden else ())) < 1:
        raise ValueError(f"{key}: a size, a stride or a number of channels is 0")
    if kind == "expanded_conv":
        mid = cin * expand if excited is None else expand
        op = ops.mbconv(
            cin, cout, high, k=kernel, s=stride, hidden=mid, se=SQUEEZE * se, hs=bool(hs)
        )
        usual = ops.has_residual(op) == bool(skip)
        return op if usual else OpSpec.of("mbconv", cin, cout, high, **dict(op.args), skip=skip)
    if kind == "Logits":
        return OpSpec.of("classifier", cin, cout, high)
    if kind == "AvgPool2D":
        if (out, cout) != (1, cin):
            raise ValueError(f"{key}: a pool of the whole image gives 1x1x{cin}")
        return OpSpec.of("mean", cin, cout, high)
    step = -(-high // out) if out else 1  # an odd side is halved upwards
    return OpSpec.of("conv", cin, cout, high, k=3 if kind == "Conv" else 1, s=step)


def _timing(key: str, facts: Any) -> Timing:
    match facts:
        case {"count": int(count), "mean": int() | float() as mean} if count > 0:
            said = [(facts.get("std"), 1.0), (facts.get("var"), 0.5)]
            for value, power in said:
                if isinstance(value, int | float) and value >= 0:
                    ms, half = float(mean), Z95 * float(value) ** power / math.sqrt(count)
                    return Timing(ms, ms, None, count, interval_ms=(max(ms - half, 0.0), ms + half))
    raise ValueError(
        f"{key}: expected count (1 or more), mean in ms, and var or std, not {facts!r}"
    )


def from_csv(text: str) -> Rows:
    """Columns ``op`` (as in our tables) and one of time whose name says the unit: ``latency_ms``,
    ``mean_us``, ``s`` ...; optional ``n``.

    Instead of ``op``, those of nn-Meter's kernel data: ``KERNEL`` (conv-bn-relu, dwconv-bn-relu,
    fc ...), ``HW``, ``CIN``, ``COUT``, ``KERNEL_SIZE``, ``STRIDES``.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [str(name) for name in reader.fieldnames or []]
    except csv.Error as e:
        raise ValueError(f"line 1: {e}") from e
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"line 1: the column {twice[0]!r:.40} is there twice")
    times = [n for n in names if n.lower().rpartition("_")[2] in UNITS_MS]
    known = {n.upper() for n in names}
    if ("op" not in names and not known >= NN_METER) or len(times) != 1:
        raise ValueError(
            f"expected a column op, or {', '.join(sorted(NN_METER))}, and one of time whose name "
            "ends in its unit, e.g. latency_ms, latency_us; found "
            f"{' '.join(', '.join(names)[:200].split()) or 'nothing'}"
        )
    scale = UNITS_MS[times[0].lower().rpartition("_")[2]]
    rows: dict[OpSpec, Timing] = {}
    try:
        for line in reader:
            if None in line:
                raise ValueError(f"it has more than {len(names)} columns")
            ms = scale * _time(line[times[0]])
            op = OpSpec.parse(line["op"]) if "op" in names else _kernel(line)
            if op in rows:
                raise ValueError(f"'{op}' twice")
            rows[op] = Timing(ms, ms, None, int(_plain(line.get("n") or "1")))
    except (ValueError, TypeError, csv.Error) as e:
        raise ValueError(f"line {reader.line_num}: {e}") from e
    return rows


def _time(said: str | None) -> float:
    if not said or not said.strip():
        raise ValueError("it has no time")
    value = float(_plain(said))
    if value == 0 and re.search("[1-9]", said.lower().partition("e")[0]):
        raise ValueError(f"{said!r} is too small to tell from 0")
    return value


def _plain(said: str) -> str:
    """Without the underscores that Python reads in a number, and others do not."""
    if re.search(r"\d_\d", said):
        raise ValueError(f"{said!r} could be meant in two ways: write the number without _")
    return said


NN_METER = {"KERNEL", "HW", "CIN"}


def _kernel(line: Mapping[str, str]) -> OpSpec:
    """A row of nn-Meter's kernel data (MobiSys 2021, sec. 4)."""
    said = {str(key).upper(): (value or "").strip() for key, value in line.items()}
    kind = said["KERNEL"].partition("-")[0].lower()
    if not re.fullmatch("[a-z][a-z0-9_]*", kind):
        raise ValueError(f"kernel {said['KERNEL']!r} is no name such as conv-bn-relu")
    said |= {name: _plain(value) for name, value in said.items() if name != "KERNEL"}
    cin = int(said["CIN"])
    if min(cin, int(said["HW"])) < 1:
        raise ValueError(f"CIN is {cin} and HW {said['HW']}; both are 1 or more")
    args = {"k": said.get("KERNEL_SIZE"), "s": said.get("STRIDES")}
    return OpSpec.of(
        kind, cin, int(said.get("COUT") or cin), int(said["HW"]),
        **{name: int(value) for name, value in args.items() if value},
    )  # fmt: skip


READERS: Mapping[str, tuple[Callable[[str], Rows], int]] = {  # and the most bytes
    ".yaml": (from_yaml, parsing.MOST_YAML_BYTES),
    ".yml": (from_yaml, parsing.MOST_YAML_BYTES),
    ".csv": (from_csv, parsing.MOST_BYTES),
}
