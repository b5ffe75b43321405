"""``edgenas``: parse, call one public function, print. Data on stdout, everything else on stderr.

Imports stand inside the commands: ``edgenas --help`` must not wait for torch.
"""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edgenas.cli_lut import lut
from edgenas.errors import EdgenasError, GateNotMet, UsageError
from edgenas.printing import Number, emit, json_option, minutes, table_facts, table_line

INTERRUPTED = 130

_tables = click.option(
    "--tables", type=click.Path(path_type=Path), default=Path("latency_tables"),
    show_default=True, help="Folder of latency tables.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="edgenas")
def cli() -> None:
    """Search, shrink and ship a network that meets a latency budget measured on the device.

    \b
    edgenas doctor                      what this machine can do
    edgenas profile cpu-onnxruntime     measure a latency table
    edgenas run docs/demo.yaml          the whole chain, from table to verified files
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; every error is one line on stderr and the exit code returned."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = cli(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except EdgenasError as e:
        return _complain(str(e), e.exit_code)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.UsageError as e:
        command = e.ctx.command_path if e.ctx else "edgenas"
        said = " ".join(e.format_message().split()).rstrip(".")
        return _complain(f"{said}. See {command} --help", 2)
    except click.ClickException as e:
        return _complain(e.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        return _complain(
            "interrupted; what was whole is kept, the same command goes on", INTERRUPTED
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        advice = " Free some space and run it again." if e.errno == errno.ENOSPC else ""
        return _complain(f"{e.filename or 'a file'}: {e.strerror or e}.{advice}", 1)
    except Exception as e:  # a bug of ours: one line for the user, the rest on request
        if os.environ.get("EDGENAS_DEBUG"):
            traceback.print_exc()
        at = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        first = (str(e).splitlines() or [""])[0]
        return _complain(
            f"internal error: {type(e).__name__}: {first} ({where}). "
            "Please report it; EDGENAS_DEBUG=1 shows the traceback",
            1,
        )


def _complain(message: str, code: int) -> int:
    click.echo(f"edgenas: {message}", err=True)
    return code


# --- what there is ------------------------------------------------------------------------------


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can do, and what is missing.

    Example: edgenas doctor
    """
    from edgenas.doctor import examine

    findings = examine()
    if as_json:
        emit([f.to_json() for f in findings])
        return
    for f in findings:
        click.echo(f"{'ok  ' if f.ok else 'miss'} {f.name:<22} {f.detail}")


@cli.command()
@json_option
def devices(as_json: bool) -> None:
    """List the devices that edgenas knows.

    Example: edgenas devices
    """
    from edgenas.device import device_files, load_device
    from edgenas.validate import read_yaml

    known: dict[str, Any] = {}
    for name, path in device_files().items():
        try:
            load_device(name)
            known[name] = read_yaml(path)
        except UsageError as e:
            known[name] = {"error": str(e)}
    if as_json:
        emit(known)
        return
    for name, facts in known.items():
        parts = [facts[part]["kind"] for part in ("transport", "runtime") if part in facts]
        click.echo(f"{name:<22} {facts.get('error') or ' + '.join(parts)}")


@cli.command("build-runner")
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


@cli.command("build-emulator")
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


def _shelf_command(name: str, package: str, what: str) -> None:
    @cli.command(name, help=f"List the {what}.\n\nExample: edgenas {name}")
    @json_option
    def command(as_json: bool) -> None:
        from edgenas.registry import Shelf

        names = list(Shelf(package))
        emit(names) if as_json else click.echo("\n".join(names))


_shelf_command("spaces", "edgenas.spaces", "search spaces")
_shelf_command("methods", "edgenas.methods", "search methods")
_shelf_command("datasets", "edgenas.datasets", "sources of images")


# --- tables -------------------------------------------------------------------------------------


def _space_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say a search space; the command gets it as ``space``, a function of progress."""
    for option in (
        click.option("--classes", type=int, default=None, help="Classes."),
        click.option("--channels", type=int, default=None, help="Image channels."),
        click.option("--resolution", type=int, default=None, help="Image height = width, pixels."),
        click.option("--preset", help="Preset of the space, e.g. tiny, small, proxyless."),
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


@cli.command()
@click.argument("device")
@_space_options
@click.option("--precision", multiple=True, help="fp32 or int8-static; default: all of the device.")
@click.option("--networks", default=48, show_default=True, help="Whole networks to measure.")
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
@click.option("--seed", default=0, show_default=True)
@click.option("--fresh", is_flag=True, help="Measure again what is there.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost and stop.")
@_tables
@json_option
def profile(
    device: str, config: Path | None, precision: tuple[str, ...], networks: int,
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
    from edgenas.profile import PRECISE, STANDARD, profile, require, within
    from edgenas.profile_networks import HELD_OUT, profile_from_networks
    from edgenas.store import table_path

    if precise and budget_minutes is not None:
        raise UsageError("--precise and --budget-minutes both say how long: give one of them")
    effort = PRECISE if precise else STANDARD if budget_minutes is None else within(budget_minutes)
    if prior is not None and from_networks is None:
        raise UsageError("--prior helps to estimate rows: it goes with --from-networks N")
    told = None if prior is None else LatencyTable.load(prior)
    board = load_device(device)
    searched = _searched(config, tables, space, settings)
    operators = len(searched.vocabulary()) + 1 if from_networks is None else 0
    whole = networks if from_networks is None else from_networks + HELD_OUT
    out, plan = [], []
    with Bars() as bars:
        for p in precision or board.precisions:
            require(board, p, networks)
            path = table_path(tables, board.name, searched.id, p)
            usual, most = effort.estimate_seconds(operators, whole)
            if path.exists() and not fresh:
                says = f"{path} is there: only what it lacks is measured, all of it with --fresh"
            elif most > usual:
                says = f"about {minutes(usual)}, at most {minutes(most)} where it is noisy"
            else:
                says = f"about {minutes(usual)}"
            click.echo(f"{device} {p}: {says}", err=True)
            plan.append({"precision": p, "file": str(path), "seconds": usual, "at_most": most})
            if dry_run:
                continue
            how: dict[str, Any] = {
                "seed": seed, "fresh": fresh, "effort": effort, "progress": bars,
            }  # fmt: skip
            table = (
                profile(board, searched, p, tables, networks=networks, **how)
                if from_networks is None
                else profile_from_networks(
                    board, searched, p, tables, networks=from_networks, prior=told, **how
                )
            )
            for warning in table.header.facts.get("warnings", ()):
                click.echo(f"{device} {p}: warning: {warning}", err=True)
            out.append((path, table))
    if dry_run and as_json:
        emit(plan)
    elif as_json:
        emit([table_facts(path, table) for path, table in out])
    else:
        for path, table in out:
            click.echo(table_line(path, table))


@cli.command()
@click.argument("device")
@_space_options
@click.option("--precision", multiple=True, help="fp32 or int8-static; default: all of the device.")
@click.option("--fresh", is_flag=True, help="Count again what is there.")
@_tables
@json_option
def count(
    device: str, config: Path | None, precision: tuple[str, ...], fresh: bool, tables: Path,
    as_json: bool, space: str, **settings: Any,
) -> None:  # fmt: skip
    """Count the instructions of every operator of a space on an emulated DEVICE.

    They are no milliseconds: 'edgenas lut calibrate' makes a table of them and of ten or more
    operators that were timed on the real board.

    Example: edgenas count qemu-arm64 --preset tiny --resolution 28 --channels 1
    """
    from edgenas.console import Bars
    from edgenas.count import count as counted
    from edgenas.count import table_path
    from edgenas.device import load_device
    from edgenas.latency import Missing

    board = load_device(device)
    searched = _searched(config, tables, space, settings)
    out = []
    for p in precision or board.precisions:
        with Bars() as bars:
            table = counted(board, searched, p, tables, fresh=fresh, progress=bars)
        path = table_path(tables, board.name, searched.id, p)
        lame = sum(isinstance(row, Missing) for row in table.rows.values())
        out.append({"file": str(path), "rows": len(table.rows), "not_counted": lame})
    if as_json:
        emit(out)
        return
    for made in out:
        rest = f", {made['not_counted']} of them not counted" if made["not_counted"] else ""
        click.echo(f"{made['file']}: {made['rows']} rows of instructions{rest}")


cli.add_command(lut)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="Where it is to be timed.")
@click.option("--blocks", default=5, show_default=True, help="Processes.")
@click.option("--block-seconds", default=0.5, show_default=True, help="Time of each.")
@click.option("--seed", default=0, show_default=True)
@json_option
def measure(
    file: Path, device: str, blocks: int, block_seconds: float, seed: int, as_json: bool
) -> None:
    """Time a model FILE on a device: p50 with a 95 % interval, p90, p99.

    Example: edgenas measure runs/demo/model.onnx --device cpu-onnxruntime
    """
    from edgenas.console import Bars
    from edgenas.device import load_device
    from edgenas.errors import UnstableMeasurement
    from edgenas.export import opened
    from edgenas.measure import measure as timed
    from edgenas.session import check

    board, artifact = load_device(device), opened(file)
    check(board, artifact)
    with Bars() as bars:
        (m,) = timed(
            board, [artifact], blocks=blocks, block_seconds=block_seconds,
            seed=seed, progress=bars,
        )  # fmt: skip
    if as_json:
        emit({"file": str(file), "device": device, **m.to_json()})
    else:
        low, high = m.interval_ms
        click.echo(
            f"p50 {m.p50_ms:.4g} ms [{low:.4g}, {high:.4g}]  p90 {m.p90_ms:.4g}  "
            f"p99 {m.p99_ms:.4g}  floor {m.floor_ms:.4g}  {m.grade}, {m.provenance}"
        )
    if m.grade == "unstable":
        raise UnstableMeasurement(
            f"{device}: the timings are too noisy to trust; close what else runs there, "
            "or ask for more --blocks"
        )


# --- runs ---------------------------------------------------------------------------------------


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("config", type=click.Path(path_type=Path)),
        click.option(
            "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
            help="Folder of run directories.",
        ),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Override a key of the config, e.g. train.epochs=3."),
        click.option("--dry-run", is_flag=True, help="Say what it would do and cost, and stop."),
        _tables,
        json_option,
    ):  # fmt: skip
        command = option(command)
    return command


def _run(
    until: str, config: Path, runs: Path, overrides: tuple[str, ...],
    dry_run: bool, tables: Path, as_json: bool, must_exist: bool = False,
) -> None:  # fmt: skip
    from dataclasses import asdict

    from edgenas.config import load_config
    from edgenas.console import Bars
    from edgenas.pipeline import run, survey
    from edgenas.summary import announced, summary

    if config.is_dir():  # a run directory: its resolved config, in its place
        config, runs = config / "config.yaml", config.parent
    settings = load_config(config, overrides)
    root = runs / settings.name
    if must_exist and not (root / "config.yaml").exists():
        raise UsageError(f"--resume: there is no run in {root}; start it without --resume")
    with Bars() as bars:
        plan = survey(settings, runs, until=until, tables=tables, progress=bars)
        for line in announced(plan, root):
            bars.console.print(line, highlight=False, soft_wrap=True)
        if dry_run:
            if as_json:
                emit([asdict(cost) for cost in plan])
            return
        verdict = run(settings, runs, until=until, tables=tables, progress=bars)
    if as_json:
        emit(verdict or {"run": str(root), "until": until})
    elif verdict:
        click.echo(summary(verdict, root))
    if verdict and not verdict["met"]:
        missed = ", ".join(g["name"] for g in verdict["gates"] if not g["met"])
        raise GateNotMet(f"not met: {missed}. See {root / 'report.html'}")


@cli.command()
@_run_options
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped; it must be there.")
def run(resume: bool, **options: Any) -> None:
    """Run all stages of CONFIG: profile, search, train, compress, export, verify, report.

    A run that was stopped goes on where it was; a stage whose inputs are unchanged is skipped.
    CONFIG may also be a run directory.

    Example: edgenas run docs/demo.yaml
    """
    _run("verify", must_exist=resume, **options)


def _stage_command(name: str, what: str) -> None:
    @cli.command(name, help=f"{what}\n\nExample: edgenas {name} docs/demo.yaml")
    @_run_options
    def command(**options: Any) -> None:
        _run(name, **options)


_stage_command(
    "search", "Search the architecture; what must come before is brought up to date first."
)
_stage_command("train", "Train the network that 'search' found.")
_stage_command("compress", "Prune the trained network to a further latency step, and fine-tune it.")
_stage_command(
    "export", "Write every variant, fp32 and int8-static, in the format of every target."
)
_stage_command("verify", "Run and time every exported file on its device; exit 3 if a gate fails.")


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
def report(directory: Path) -> None:
    """Write report.html of a run DIRECTORY.

    Example: edgenas report runs/demo
    """
    from edgenas.report import write_report

    click.echo(write_report(directory))
