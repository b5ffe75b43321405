"""The found network, block by block: its shape, what each block costs, predicted and measured."""

from dataclasses import dataclass

from markupsafe import Markup

from edgenas import ops
from edgenas.errors import UsageError
from edgenas.predict import Predictor
from edgenas.report import quantity as q
from edgenas.report.curves import tone
from edgenas.report.facts import BlockTime, Target
from edgenas.report.record import Record
from edgenas.report.svg import bars, element, path
from edgenas.spec import OpSpec


@dataclass(frozen=True)
class Cost:
    """Predicted milliseconds of one block on one device, before and after pruning."""

    text: str
    pruned: str | None
    bars: Markup


@dataclass(frozen=True)
class Row:
    """One block as the page shows it."""

    label: str
    choice: str | None
    what: str
    shape: str
    pruned: str | None
    probability: str | None
    odds: str
    picture: Markup
    costs: tuple[Cost, ...]


@dataclass(frozen=True)
class Column:
    """One device: the sum of its blocks, what a call costs beside them, both together."""

    device: str
    precision: str
    tone: str
    fixed: str
    total: str
    pruned_total: str | None


@dataclass(frozen=True)
class Network:
    """All rows; ``why`` says what could not be priced."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    macs: str
    pruned_macs: str | None
    why: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """One row of predicted against measured."""

    label: str
    what: str
    predicted: str
    measured: str
    off: str
    bars: Markup


@dataclass(frozen=True)
class Comparison:
    """Predicted against measured on one device; the last row is the sum."""

    device: str
    tone: str
    rows: tuple[Compared, ...]
    total: Compared | None


def network(record: Record) -> Network | None:
    """The found network with its costs; None before the search has found one."""
    if record.found is None:
        return None
    blocks = [(b, _parsed(b.op)) for b in record.found.blocks]
    pruned = iter(_pruned(record, sum(op is not None for _, op in blocks)))
    after = [next(pruned, None) if op else None for _, op in blocks]
    prices = [_Prices(record, t, i) for i, t in enumerate(record.profile.targets)]
    for price in prices:
        price.scale([op for _, op in blocks], after)
    odds = record.found.probabilities or {}
    pictures = _silhouette([op for _, op in blocks])
    rows = []
    for (block, op), small, picture in zip(blocks, after, pictures, strict=True):
        chances = odds.get(block.choice or "", {})
        probability = chances.get(block.label)
        what, shape = describe(op, block.op)
        rows.append(
            Row(
                label=block.label,
                choice=block.choice,
                what=what,
                shape=shape,
                pruned=_narrower(small) if small and small != op else None,
                probability=None if probability is None else f"p {probability:.2f}",
                odds=", ".join(f"{k} {v:.2f}" for k, v in sorted(chances.items(), key=_by_chance)),
                picture=picture,
                costs=tuple(p.cost(op, small) for p in prices),
            )
        )
    found = [op for _, op in blocks if op]
    small_ops = [op for op in after if op]
    return Network(
        columns=tuple(p.column(found, small_ops) for p in prices),
        rows=tuple(rows),
        macs=_macs(found),
        pruned_macs=_macs(small_ops) if small_ops else None,
        why=tuple(dict.fromkeys(p.why for p in prices if p.why)),
    )


def describe(op: OpSpec | None, text: str | None) -> tuple[str, str]:
    """An operator in words, and its shapes."""
    if op is None:
        return (text, "") if text else ("the input goes on unchanged", "")
    kernel, out = op.arg("k", 1), ops.output_size(op)
    size = f"{op.size} px" if out == op.size else f"{op.size}→{out} px"
    shape = f"{op.cin}→{op.cout} channels, {size}"
    activation = ", hard-swish" if op.arg("hs", 0) else ""
    match op.kind:
        case "mbconv":
            gate = f", gate of {narrow}" if (narrow := ops.squeezed(op)) else ""
            return f"MBConv {kernel}×{kernel}, {ops.hidden(op)} hidden{gate}{activation}", shape
        case "fused-mbconv":
            return f"Fused-MBConv {kernel}×{kernel}, {ops.hidden(op)} hidden{activation}", shape
        case "conv":
            return f"convolution {kernel}×{kernel}{activation}", shape
        case "classifier":
            last = f"{h}{activation}, " if (h := op.arg("h", 0)) else ""
            return f"global average, {last}fully connected", f"{op.cin}→{op.cout} classes"
    return str(op), shape


def _narrower(op: OpSpec) -> str:
    return f"{ops.hidden(op)} hidden" if ops.has_hidden(op) else f"{op.cin}→{op.cout} channels"


def comparisons(record: Record) -> list[Comparison]:
    """Predicted against measured by block, for each device that was timed by block."""
    found = record.verdict.blocks if record.verdict else {}
    order = [t.device for t in record.profile.targets]
    return [
        _comparison(device, times, order.index(device) if device in order else 0)
        for device, times in found.items()
        if times
    ]


def _comparison(device: str, times: tuple[BlockTime, ...], index: int) -> Comparison:
    most = max((v for t in times for v in (t.predicted_ms, t.measured_ms) if v), default=1.0)
    known = [(t.predicted_ms, t.measured_ms) for t in times]
    places = q.places(most)
    predicted = [p for p, _ in known if p is not None]
    measured = [m for _, m in known if m is not None]
    total = None
    if len(predicted) == len(measured) == len(times):
        sums = BlockTime("sum of blocks", None, sum(predicted), sum(measured))
        total = _compared(sums, most, places)
    return Comparison(device, tone(index), tuple(_compared(t, most, places) for t in times), total)


def _compared(time: BlockTime, most: float, places: int) -> Compared:
    share = [(v or 0) / most for v in (time.predicted_ms, time.measured_ms)]
    return Compared(
        label=time.label,
        what=describe(_parsed(time.op), time.op)[0] if time.op else "",
        predicted=q.column(time.predicted_ms, places),
        measured=q.column(time.measured_ms, places),
        off=q.signed(q.ratio(time.predicted_ms, time.measured_ms)),
        bars=bars(("predicted", share[0]), ("measured", share[1])),
    )


class _Prices:
    """What one device's table says of each block."""

    def __init__(self, record: Record, target: Target, index: int) -> None:
        self.target, self.tone, self.why = target, tone(index), ""
        self.most, self.places = 1e-9, 3
        table = record.table(target.device, target.precision)
        self.predictor = None if table is None else Predictor(table)
        if self.predictor is None:
            self.why = (
                f"the table of {target.device} for {target.precision} is not in the run directory"
            )

    def scale(self, *networks: list[OpSpec | None]) -> None:
        costs = [self.ms(op) for network in networks for op in network if op]
        self.most = max([c for c in costs if c is not None], default=1e-9) or 1e-9
        self.places = q.places(self.most)

    def ms(self, op: OpSpec | None) -> float | None:
        if op is None or self.predictor is None:
            return None
        try:
            return self.predictor.cost_ms(op)
        except UsageError as e:
            self.why = self.why or str(e)
            return None

    def cost(self, op: OpSpec | None, small: OpSpec | None) -> Cost:
        before, after = self.ms(op), self.ms(small) if small != op else None
        shares = [("found", (before or 0) / self.most)]
        if after is not None:
            shares.append(("pruned", after / self.most))
        text = self.text(before) if op else q.ms(0.0)
        return Cost(text, None if after is None else self.text(after), bars(*shares))

    def text(self, value: float | None) -> str:
        return q.ABSENT if value is None else f"{q.fixed(value, self.places)}\N{NO-BREAK SPACE}ms"

    def column(self, found: list[OpSpec], small: list[OpSpec]) -> Column:
        pruned = self.total(small) if small else None
        return Column(
            device=self.target.device,
            precision=self.target.precision,
            tone=self.tone,
            fixed=self.text(self.total([])),
            total=self.text(self.total(found)),
            pruned_total=None if pruned is None else self.text(pruned),
        )

    def total(self, network: list[OpSpec]) -> float | None:
        try:
            return self.predictor.p50_ms(network) if self.predictor else None
        except UsageError as e:
            self.why = self.why or str(e)
            return None


def _by_chance(item: tuple[str, float]) -> float:
    return -item[1]


def _macs(network: list[OpSpec]) -> str:
    return f"{q.number(sum(ops.macs(op) for op in network) / 1e6)} million"


def _parsed(text: str | None) -> OpSpec | None:
    try:
        return OpSpec.parse(text) if text else None
    except ValueError:
        return None


def _pruned(record: Record, length: int) -> list[OpSpec]:
    """The pruned network's operators where they pair up with the found one's."""
    variants = record.compressed.variants if record.compressed else {}
    found = [_parsed(text) for text in variants["pruned"].ops] if "pruned" in variants else []
    whole = [op for op in found if op]
    return whole if len(whole) == len(found) == length else []


def _silhouette(network: list[OpSpec | None]) -> list[Markup]:
    """Each block as a slice of the network's outline: as wide as the root of its channels."""
    most = max((max(op.cin, op.cout, _middle(op)) for op in network if op), default=1)
    slices, last = [], 1
    for op in network:
        top, mid, end = (last, last, last) if op is None else (op.cin, _middle(op), op.cout)
        half = [48 * (width / most) ** 0.5 for width in (top, mid, end)]
        levels = ((0, half[0]), (28, half[1]), (72, half[1]), (100, half[2]))
        outline = [(50 + h, y) for y, h in levels] + [(50 - h, y) for y, h in reversed(levels)]
        kernel = "skip" if op is None else f"k{min(op.arg('k', 1), 7)}"
        shape = element("path", class_=f"slice {kernel}", d=path(outline, close=True))
        slices.append(
            element(
                "svg", shape, class_="outline", viewBox="0 0 100 100", preserveAspectRatio="none",
                aria_hidden="true",
            )
        )  # fmt: skip
        last = end
    return slices


def _middle(op: OpSpec) -> int:
    return ops.hidden(op) if ops.has_hidden(op) else op.cout
