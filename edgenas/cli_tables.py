"""``edgenas profile``, ``count``, ``build-*``: parse, call one public function, print."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from edgenas.errors import UsageError
from edgenas.printing import (
    SEED,
    Number,
    emit,
    json_option,
    minutes,
    table_facts,
    table_line,
)

tables_option = click.option(
    "--tables", type=click.Path(path_type=Path, file_okay=False), default=Path("latency_tables"),
    show_default=True, help="Folder of latency tables.",
)  # fmt: skip


@click.command("build-runner")
@click.argument("arch", type=click.Choice(["aarch64", "x86_64"]), default="aarch64")
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="ncnn's source, where it cannot be fetched.",
)
def build_runner(arch: str, source: Path | None) -> None:
    """Build the program that runs on boards without Python (runtime ncnn), once per ARCH.

    Needs edgenas[native]; takes some minutes.

    Example: edgenas build-runner aarch64
    """
    from edgenas.build_runner import build
    from edgenas.console import Bars

    with Bars() as bars:
        click.echo(build(arch, source, bars))


@click.command("build-emulator")
@click.option("--mirror", help="A mirror of Debian, where this machine's apt uses none.")
def build_emulator(mirror: str | None) -> None:
    """Put together the emulated ARM machine of the devices qemu-arm64, once.

    Needs edgenas[native], apt-get and dpkg; takes a minute and half a gigabyte, installs nothing.

    Example: edgenas build-emulator
    """
    from edgenas.build_emulator import build
    from edgenas.console import Bars

    with Bars() as bars:
        click.echo(build(mirror, bars))


def _space_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that name a search space: arguments of ``_searched``, ``settings`` by keyword."""
    for option in (
        click.option("--classes", type=click.IntRange(2, 1_000_000), help="Classes."),
        click.option("--channels", type=click.IntRange(1, 100_000), help="Image channels."),
        click.option(
            "--resolution", type=click.IntRange(1, 4096), help="Image height = width, pixels."
        ),
        click.option("--preset", help="Of the space, e.g. 64px, tiny; without, by the resolution."),
        click.option("--space", default="mobile", show_default=True, help="Search space."),
        click.option(
            "--config", type=click.Path(path_type=Path), help="Take the space of this config."
        ),
    ):
        command = option(command)
    return command


def _searched(config: Path | None, tables: Path, space: str, settings: dict[str, Any]) -> Any:
    """The search space that ``_space_options`` name."""
    if config is None:
        from edgenas.space import load_space

        return load_space({"kind": space, **{k: v for k, v in settings.items() if v is not None}})
    from edgenas.config import load_config
    from edgenas.console import Bars
    from edgenas.pipeline.context import Context

    with Bars() as bars:
        return Context(Path("."), load_config(config), tables, bars).space


def _kept(path: Path, fresh: bool, made: str) -> str:
    """What is said in place of a cost where the table is there; else nothing."""
    if fresh or not path.exists():
        return ""
    return f"{path} is there: only what it lacks is {made}, all of it with --fresh"


@click.command()
@click.argument("device")
@_space_options
@click.option("--precision", multiple=True, help="fp32 or int8-static; default: all of the device.")
@click.option(
    "--networks",
    type=click.IntRange(max=10_000),
    default=None,
    help="Whole networks to measure beside the operators, 12 or more; 48 where not given.",
)
@click.option(
    "--from-networks",
    type=click.IntRange(1, 10_000),
    default=None,
    metavar="N",
    help="Time N whole networks (and 20 to check), no operators: rows are estimated.",
)
@click.option(
    "--prior",
    type=click.Path(path_type=Path),
    default=None,
    help="With --from-networks: another device's table of the same space.",
)
@click.option(
    "--budget-minutes",
    type=Number(0, 10_000, min_open=True),
    default=None,
    help="Spend about so long on each precision, most of it on the least certain rows.",
)
@click.option("--precise", is_flag=True, help="Spend four times as long as by default.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option("--fresh", is_flag=True, help="Measure again what is there.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost and stop.")
@tables_option
@json_option
def profile(
    device: str, config: Path | None, precision: tuple[str, ...], networks: int | None,
    from_networks: int | None, prior: Path | None, budget_minutes: float | None, precise: bool,
    seed: int, fresh: bool, dry_run: bool, tables: Path, as_json: bool, space: str,
    **settings: Any,
) -> None:  # fmt: skip
    """Measure a latency table of DEVICE: every operator of a space, alone and in whole networks.

    Killed half-way and started again it measures only what is missing.

    Example: edgenas profile cpu-onnxruntime --preset tiny --resolution 28 --channels 1
    """
    from edgenas.console import Bars
    from edgenas.device import load_device
    from edgenas.latency import LatencyTable
    from edgenas.profile import NETWORKS, PRECISE, STANDARD, profile, require, within
    from edgenas.profile_networks import HELD_OUT, profile_from_networks
    from edgenas.profile_networks import require as require_from_networks
    from edgenas.session import probe
    from edgenas.store import stored, table_path

    if precise and budget_minutes is not None:
        raise UsageError("--precise and --budget-minutes both say how long: give one of them")
    effort = PRECISE if precise else STANDARD if budget_minutes is None else within(budget_minutes)
    if prior is not None and from_networks is None:
        raise UsageError("--prior helps to estimate rows: it goes with --from-networks N")
    if networks is not None and from_networks is not None:
        raise UsageError("--networks goes with operators, which --from-networks N leaves out")
    told = None if prior is None else LatencyTable.load(prior)
    board = load_device(device)
    searched = _searched(config, tables, space, settings)
    if dry_run:
        probe(board)  # raises where it does not answer
    made: Callable[..., LatencyTable]
    if from_networks is None:
        made, needs = profile, require
        number = NETWORKS if networks is None else networks
        operators, whole = len(searched.vocabulary()) + 1, number
    else:
        made, needs = partial(profile_from_networks, prior=told), require_from_networks
        number = from_networks
        operators, whole = 0, number + HELD_OUT
    out, plan = [], []
    with Bars() as bars:
        for p in precision or board.precisions:
            needs(board, p, number)
            path = table_path(tables, board.name, searched.id, p)
            usual, most = effort.estimate_seconds(operators, whole)
            noisy = f", at most {minutes(most)} where it is noisy" if most > usual else ""
            cost = f"about {minutes(usual)}{noisy}"
            click.echo(f"{device} {p}: {_kept(path, fresh, 'measured') or cost}", err=True)
            plan.append({"precision": p, "file": str(path), "seconds": usual, "at_most": most})
            if dry_run:
                if not fresh:
                    stored(path, board, searched, p, probe(board)[0])
                continue
            table = made(
                board, searched, p, tables, networks=number, seed=seed, fresh=fresh,
                effort=effort, progress=bars,
            )  # fmt: skip
            for warning in table.header.facts.get("warnings", ()):
                click.echo(f"{device} {p}: warning: {warning}", err=True)
            out.append((path, table))
    if as_json:
        emit(plan if dry_run else [table_facts(path, table) for path, table in out])
    else:
        for path, table in out:
            click.echo(table_line(path, table))


@click.command()
@click.argument("device")
@_space_options
@click.option("--precision", multiple=True, help="fp32 or int8-static; default: all of the device.")
@click.option("--fresh", is_flag=True, help="Count again what is there.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost and stop.")
@tables_option
@json_option
def count(
    device: str, config: Path | None, precision: tuple[str, ...], fresh: bool, dry_run: bool,
    tables: Path, as_json: bool, space: str, **settings: Any,
) -> None:  # fmt: skip
    """Count the instructions of every operator of a space on an emulated DEVICE.

    They are no milliseconds: 'edgenas lut calibrate' makes a table of them and of ten or more
    operators that were timed on the real board.

    Example: edgenas count qemu-arm64 --preset tiny --resolution 28 --channels 1
    """
    from edgenas.console import Bars
    from edgenas.count import count as counted
    from edgenas.count import estimate_seconds, require, table_path
    from edgenas.device import load_device
    from edgenas.latency import Missing

    board = load_device(device)
    searched = _searched(config, tables, space, settings)
    seconds = estimate_seconds(searched)
    out, plan = [], []
    for p in precision or board.precisions:
        require(board, p)
        path = table_path(tables, board.name, searched.id, p)
        cost = _kept(path, fresh, "counted") or f"about {minutes(seconds)}"
        click.echo(f"{device} {p}: {cost}", err=True)
        plan.append({"precision": p, "file": str(path), "seconds": seconds})
        if dry_run:
            continue
        with Bars() as bars:
            table = counted(board, searched, p, tables, fresh=fresh, progress=bars)
        lame = sum(isinstance(row, Missing) for row in table.rows.values())
        out.append({"file": str(path), "rows": len(table.rows), "not_counted": lame})
    if as_json:
        emit(plan if dry_run else out)
        return
    for made in out:
        rest = f", {made['not_counted']} of them not counted" if made["not_counted"] else ""
        click.echo(f"{made['file']}: {made['rows']} rows of instructions{rest}")
