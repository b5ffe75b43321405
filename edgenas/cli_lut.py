"""``edgenas lut``: parse, call one public function, print."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgenas.errors import UnstableMeasurement, UsageError
from edgenas.printing import Number, emit, json_option, table_line

if TYPE_CHECKING:  # `edgenas --help` must not wait for it
    from edgenas.instructions import InstructionTable

ALIKE = 5  # findings that differ in the row only
_table = click.argument("table", type=click.Path(path_type=Path))


_margin = click.option(
    "--margin",
    type=Number(0, 1000),
    default=None,
    metavar="PERCENT",
    help="Let it be searched under, predictions raised by so much; it was never checked here.",
)
_folder = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("latency_tables"),
    show_default=True,
    help="Folder.",
)


@click.group()
def lut() -> None:
    """Look at latency tables, check and compare them."""


@lut.command()
@_table
@click.option(
    "--sort",
    type=click.Choice(["floor", "p50", "op"]),
    default="floor",
    show_default=True,
    help="Slowest first, or by name.",
)
@click.option("--kind", default=None, help="Only operators of this kind, e.g. mbconv.")
@json_option
def show(table: Path, sort: str, kind: str | None, as_json: bool) -> None:  # fmt: skip
    """Print the rows of a TABLE, slowest first.

    Example: edgenas lut show latency_tables/<device>.<space>.<precision>.jsonl
    """
    from edgenas.instructions import InstructionTable, load_table
    from edgenas.latency import Timing

    loaded = load_table(table)
    if isinstance(loaded, InstructionTable):
        _show_instructions(loaded, kind, as_json)
        return
    rows = {op: row for op, row in loaded.rows.items() if kind in (None, op.kind)}
    if not rows:
        kinds = sorted({op.kind for op in loaded.rows})
        raise UsageError(f"{table} has no {kind or 'rows'}; its operators are {', '.join(kinds)}")
    timed = {op: row for op, row in rows.items() if isinstance(row, Timing)}
    order = sorted(timed, key=str)
    if sort != "op":
        order.sort(key=lambda op: -getattr(timed[op], f"{sort}_ms"))
    rest = [op for op in rows if op not in timed]
    if as_json:
        listed = {str(op): asdict(rows[op]) for op in [*order, *rest]}
        emit({"header": asdict(loaded.header), "rows": listed})
        return
    click.echo(table_line(table, loaded), err=True)
    for name, error in loaded.header.baselines.items():
        click.echo(
            f"  {name} alone: error {error.mape:.1%}, Spearman {error.spearman:.3f}", err=True
        )
    for warning in loaded.header.facts.get("warnings", ()):
        click.echo(f"  warning: {warning}", err=True)
    width = max(len(str(op)) for op in rows)
    for op in order:
        row = timed[op]
        low, high = row.interval_ms or (row.floor_ms, row.floor_ms)
        mark = "" if row.provenance == "measured" else f"   {row.provenance}"
        energy = "" if row.energy_mj is None else f"   {row.energy_mj:.4f} mJ"
        click.echo(
            f"{op!s:<{width}}  floor {row.floor_ms:9.4f} ms [{low:.4f}, {high:.4f}]"
            f"   p50 {row.p50_ms:9.4f} ms{energy}{mark}"
        )
    for op in rest:
        gap: Any = rows[op]
        click.echo(f"{op!s:<{width}}  {gap.status}: {gap.reason}")


def _show_instructions(table: "InstructionTable", kind: str | None, as_json: bool) -> None:
    from edgenas.instructions import Counts

    rows = {str(op): row for op, row in table.rows.items() if kind in (None, op.kind)}
    if as_json:
        listed = {op: asdict(row) for op, row in rows.items()}
        emit({"header": asdict(table.header), "rows": listed})
        return
    width = max(map(len, rows), default=0)
    for op, row in sorted(rows.items()):
        if isinstance(row, Counts):
            share = row.simd / max(row.total, 1)
            click.echo(f"{op:<{width}}  {row.total:14,} instructions, {share:.0%} of them simd")
        else:
            click.echo(f"{op:<{width}}  {row.status}: {row.reason}")


@lut.command()
@_table
@click.option(
    "--config", type=click.Path(path_type=Path), help="Must it cover the space of this config?"
)
@json_option
def check(table: Path, config: Path | None, as_json: bool) -> None:  # fmt: skip
    """Say what is wrong with a TABLE: what it lacks, why it cannot be trusted, what looks odd.

    Exit 2 where rows are missing, 5 where it cannot be trusted, 0 otherwise.

    Example: edgenas lut check latency_tables/<device>.<space>.<precision>.jsonl
    """
    from edgenas import lut as tables
    from edgenas.latency import LatencyTable
    from edgenas.ops import macs

    loaded = LatencyTable.load(table)
    vocabulary = () if config is None else _vocabulary(config)
    found = tables.check(loaded, vocabulary, macs)
    if as_json:
        emit([asdict(f) for f in found])
    else:
        for f, more in _shortened(found):
            click.echo(f"{f.kind:<11} {f.text}")
            if more:
                click.echo(f"{f.kind:<11} ... and {more} more rows like these: --json lists them")
    kinds = {f.kind for f in found}
    if "missing" in kinds:
        raise UsageError(f"{table} is not whole: edgenas profile {loaded.header.device}")
    if "untrusted" in kinds:
        raise UnstableMeasurement(
            f"{table} keeps no budget: edgenas profile {loaded.header.device} --precise --fresh"
        )


def _shortened(found: list[Any]) -> list[tuple[Any, int]]:
    """The first few of the findings that are alike, the last of them with how many are left out."""
    shown = []
    for _, alike in itertools.groupby(found, key=lambda f: (f.kind, f.about)):
        every = list(alike)
        shown += [(f, 0) for f in every[:ALIKE]]
        shown[-1] = (shown[-1][0], max(len(every) - ALIKE, 0))
    return shown


def _vocabulary(config: Path) -> set[Any]:
    from edgenas.config import load_config
    from edgenas.console import Bars
    from edgenas.pipeline.context import Context
    from edgenas.store import FOLDER

    with Bars() as bars:
        return set(Context(Path("."), load_config(config), FOLDER, bars).space.vocabulary())


@lut.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@json_option
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Compare two tables: which rows moved beyond their intervals.

    Example: edgenas lut diff before.jsonl after.jsonl
    """
    from edgenas import lut as tables
    from edgenas.latency import LatencyTable

    found = tables.diff(LatencyTable.load(first), LatencyTable.load(second))
    if as_json:
        data = asdict(found)
        data["moved"] = [{**asdict(m), "op": str(m.op)} for m in found.moved]
        for key in ("only_first", "only_second"):
            data[key] = [str(op) for op in data[key]]
        emit(data)
        return
    for key, (a, b) in found.header.items():
        click.echo(f"{key}: {a} -> {b}")
    click.echo(
        f"{found.rows} rows in both: {found.agree:.1%} agree within their intervals; the second is "
        f"{found.ratio - 1:+.1%} in the median row, the others {found.spread:.1%} from that"
    )
    for m in found.moved:
        click.echo(f"{m.op!s:<44} {m.before_ms:9.4f} -> {m.after_ms:9.4f} ms  {m.ratio - 1:+.1%}")
    for name, ops in (("first", found.only_first), ("second", found.only_second)):
        if ops:
            click.echo(f"only in the {name}: {len(ops)} rows, e.g. '{ops[0]}'")


@lut.command()
@click.argument("tables", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The table to write.")
@json_option
def merge(tables: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join TABLES of one device: what the first checked on networks, and the rows of all.

    Example: edgenas lut merge a.jsonl b.jsonl --out latency_tables/both.jsonl
    """
    from edgenas import lut as known
    from edgenas.latency import LatencyTable
    from edgenas.printing import table_facts

    table = known.merge([LatencyTable.load(path) for path in tables])
    _require_output(out, ".jsonl", tables)
    table.save(out)
    if as_json:
        emit(table_facts(out, table))
    else:
        click.echo(table_line(out, table))


@lut.command()
@_table
@click.option("--out", type=click.Path(path_type=Path), help="The page; default: TABLE.html.")
def plot(table: Path, out: Path | None) -> None:
    """Draw a TABLE as a page: predicted against measured networks, and what costs what.

    Example: edgenas lut plot latency_tables/<device>.<space>.<precision>.jsonl
    """
    from edgenas.files import write_text
    from edgenas.latency import LatencyTable
    from edgenas.ops import macs
    from edgenas.report import render_table

    page = out or table.with_suffix(".html")
    _require_output(page, ".html", (table,))
    write_text(page, render_table(LatencyTable.load(table), macs))
    click.echo(page)


def _require_output(out: Path, suffix: str, inputs: Sequence[Path]) -> None:
    """Refuse ``out`` where its name is another kind's, or it is an input; else it is replaced."""
    if out.suffix != suffix:
        raise UsageError(f"--out {out}: name a file that ends in {suffix}")
    if out.resolve() in [path.resolve() for path in inputs]:
        raise UsageError(f"--out {out} is what is read: name another file")


@lut.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="Name of the device it was measured on.")
@click.option("--precision", default="fp32", show_default=True)
@_margin
@_folder
@json_option
def import_(
    file: Path, device: str, precision: str, margin: float | None, out: Path, as_json: bool
) -> None:
    """Make a table of a FILE that others published: ProxylessNAS or once-for-all YAML, or CSV.

    CSV has a column op, e.g. 'mbconv 16-24 @56 e3 k5 s2', or nn-Meter's KERNEL, HW, CIN, COUT,
    KERNEL_SIZE and STRIDES, and one of time whose name ends in its unit, e.g. latency_ms.

    Example: edgenas lut import mobile_trim.yaml --device pixel1
    """
    from edgenas import lut as tables
    from edgenas.printing import table_facts
    from edgenas.store import table_path

    share = None if margin is None else margin / 100
    table = tables.import_table(file, device, precision, share)
    path = table_path(out, device, table.header.space, precision)
    table.save(path)
    if as_json:
        emit(table_facts(path, table))
    else:
        click.echo(table_line(path, table))


@lut.command()
@click.argument("instructions", type=click.Path(path_type=Path))
@click.argument("measured", type=click.Path(path_type=Path))
@_margin
@_folder
@json_option
def calibrate(
    instructions: Path, measured: Path, margin: float | None, out: Path, as_json: bool
) -> None:
    """Make a latency table of INSTRUCTIONS and of ten or more operators MEASURED on the board.

    Both must come from the same version of the same runtime. Rows that were measured stay as they
    are, the others are estimated.

    \b
    Example: edgenas lut calibrate latency_tables/qemu-arm64.<space>.fp32.instructions.jsonl \\
               latency_tables/pi.imported.fp32.jsonl
    """
    from edgenas import lut as tables
    from edgenas.instructions import InstructionTable
    from edgenas.latency import LatencyTable
    from edgenas.printing import table_facts
    from edgenas.store import table_path

    counts, timed = InstructionTable.load(instructions), LatencyTable.load(measured)
    table = tables.calibrate(counts, timed, None if margin is None else margin / 100)
    h = table.header
    path = table_path(out, h.device, h.space, h.precision)
    if path.exists() and LatencyTable.load(path).header.provenance == "measured":
        raise UsageError(f"{path} was measured: write elsewhere with --out")
    table.save(path)
    error = h.protocol["left_out_mape"][h.protocol["prices"]]
    if as_json:
        emit({**table_facts(path, table), "left_out_mape": error})
    else:
        number = h.protocol["calibrated_on"]
        click.echo(f"{table_line(path, table)}; error {error:.1%} on {number} operators, left out")
