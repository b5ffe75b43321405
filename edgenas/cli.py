"""``edgenas``: parse, call one public function, print. Data on stdout, everything else on stderr.

Imports stand inside the commands: ``edgenas --help`` must not wait for torch.
"""

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgenas.blame import blamed, took_part
from edgenas.cli_fpga import fpga
from edgenas.cli_lut import lut
from edgenas.cli_tables import build_emulator, build_runner, count, profile, tables_option
from edgenas.errors import EdgenasError, GateNotMet, UsageError
from edgenas.printing import SEED, Number, emit, json_option

if TYPE_CHECKING:
    from edgenas.config import Config

INTERRUPTED = 130
MOST_SAID = 1500  # characters of an error: a file may put anything into it


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="edgenas")
def cli() -> None:
    """Search, shrink and ship a network that meets a latency budget measured on the device.

    \b
    edgenas doctor                      what this machine can do
    edgenas init                        write demo.yaml, an example to change
    edgenas run demo.yaml               the whole chain, from table to verified files
    edgenas profile cpu-onnxruntime     measure a latency table alone
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; every error is one line on stderr and the exit code returned."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):  # no locale is worth losing a message
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = cli(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except EdgenasError as e:
        return _complain(str(e), e.exit_code)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message())
        return 2
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
    except UnicodeEncodeError as e:
        return _complain(
            f"{e.object[:80]!r} cannot be written in {e.encoding}, the encoding of this locale: "
            "set LC_ALL=C.UTF-8 and run it again",
            2,
        )
    except OSError as e:
        if e.errno != errno.ENOSPC and (told := blamed(e)):
            return _complain(told, 1)
        advice = " Free some space and run it again." if e.errno == errno.ENOSPC else ""
        return _complain(f"{e.filename or 'a file'}: {e.strerror or e}.{advice}", 1)
    except (Exception, SystemExit) as e:  # a bug: one line for the user, the rest on request
        if os.environ.get("EDGENAS_DEBUG"):
            traceback.print_exc()
        if told := blamed(e):
            return _complain(f"{told}. EDGENAS_DEBUG=1 shows the traceback", 1)
        if isinstance(e, SystemExit):
            raise
        at = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        first = (str(e).splitlines() or [""])[0]
        if guests := took_part():
            return _complain(
                f"{guests} gave or took something else than its protocol says: {type(e).__name__}: "
                f"{first} ({where}). EDGENAS_DEBUG=1 shows the traceback",
                1,
            )
        return _complain(
            f"internal error: {type(e).__name__}: {first} ({where}). "
            "Please report it; EDGENAS_DEBUG=1 shows the traceback",
            1,
        )


def _complain(message: str, code: int) -> int:
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)  # one line, whatever
    shown = shown if len(shown) <= MOST_SAID else f"{shown[: MOST_SAID - 100]} ... {shown[-100:]}"
    click.echo(f"edgenas: {shown}", err=True)
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
@click.option(
    "--trust", metavar="NAME", help="Allow the device NAME, or its file, to start what it names."
)
@json_option
def devices(as_json: bool, trust: str | None) -> None:
    """List the devices that edgenas knows.

    A device file of yours may name programs of this machine (python, options of ssh): they are
    started once you have allowed it.

    Example: edgenas devices
    """
    from edgenas import consent
    from edgenas.device import device_files, read_device, shadows, shipped
    from edgenas.validate import read_yaml

    if trust is not None:
        path = device_files().get(trust) or Path(trust)
        starts = read_device(path).starts_here
        consent.allow(path)
        click.echo(f"{path}: may start {', '.join(starts) or 'nothing; it names no program'}")
        return
    known: dict[str, Any] = {}
    for name, path in device_files().items():
        try:
            starts = () if shipped(path) else read_device(path).starts_here
            known[name] = read_yaml(path)
        except EdgenasError as e:
            known[name] = {"error": str(e)}
            continue
        if shadows(path):
            known[name]["in_place_of_ours"] = str(path)
        if starts:
            known[name]["starts_here"] = [*starts]
            known[name]["trusted"] = consent.given(path)
    if as_json:
        emit(known)
        return
    for name, facts in known.items():
        parts = [facts[part]["kind"] for part in ("transport", "runtime") if part in facts]
        remarks = [
            f"; {facts['in_place_of_ours']}, in place of ours"
            if "in_place_of_ours" in facts
            else "",
            f"; starts {', '.join(facts['starts_here'])}"
            f"{'' if facts['trusted'] else ', not trusted yet'}"
            if "starts_here" in facts
            else "",
        ]
        click.echo(f"{name:<22} {facts.get('error') or ' + '.join(parts)}{''.join(remarks)}")


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


for command in (build_runner, build_emulator, profile, count, lut, fpga):
    cli.add_command(command)


# --- files --------------------------------------------------------------------------------------


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="Where it is to be timed.")
@click.option(
    "--blocks", default=5, show_default=True, type=click.IntRange(2, 1000), help="Processes."
)
@click.option(
    "--block-seconds",
    default=0.5,
    show_default=True,
    type=Number(0.001, 3600),
    help="Time of each.",
)
@click.option("--seed", default=0, show_default=True, type=SEED)
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


def _options_of(*of: Callable[..., Any]) -> Callable[..., Callable[..., None]]:
    def all_of(command: Callable[..., None]) -> Callable[..., None]:
        for option in of:
            command = option(command)
        return command

    return all_of


_shared_options = _options_of(
    click.option(
        "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
        help="Folder of run directories.",
    ),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                 help="Override a key of the config, e.g. train.epochs=3."),
    click.option("--dry-run", is_flag=True, help="Say what it would do and cost, and stop."),
    tables_option,
    json_option,
)  # fmt: skip
_run_options = _options_of(
    click.argument("config", type=click.Path(path_type=Path)), _shared_options
)


def _run(
    until: str, config: Path, runs: Path, overrides: tuple[str, ...],
    dry_run: bool, tables: Path, as_json: bool, must_exist: bool = False,
) -> None:  # fmt: skip
    from edgenas.config import load_config

    if not config.exists():
        raise UsageError(f"there is no {config}; to begin with one: edgenas init {config}")
    if config.is_dir() and not (config / "config.yaml").exists():
        raise UsageError(
            f"{config} is no run directory: it has no config.yaml. For photos in a folder write a "
            f"config, edgenas init mine.yaml, with task: {{dataset: folder, path: {config}}}"
        )
    name = None
    if config.is_dir():  # a run directory: its resolved config, in its place and under its name
        root = config.resolve() if config.is_symlink() or not config.name.strip(".") else config
        config, runs, name = root / "config.yaml", root.parent, root.name
    settings = load_config(config, overrides, name)
    root = runs / settings.name
    if must_exist and not (root / "config.yaml").exists():
        raise UsageError(f"--resume: there is no run in {root}; start it without --resume")
    _done(settings, until, runs, dry_run, tables, as_json)


def _done(
    settings: "Config", until: str, runs: Path, dry_run: bool, tables: Path, as_json: bool
) -> None:
    from dataclasses import asdict

    from edgenas.console import Bars
    from edgenas.pipeline import run, survey
    from edgenas.summary import announced, summary

    root = runs / settings.name
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
@click.argument("file", type=click.Path(path_type=Path), default=Path("demo.yaml"))
def init(file: Path) -> None:
    """Write an example config to FILE, demo.yaml where none is named; what is there stays.

    Example: edgenas init mine.yaml
    """
    from edgenas.example import write_example

    write_example(file)
    click.echo(f"{file}: change what it says of data and devices, then: edgenas run {file}")


@cli.command()
@_run_options
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped; it must be there.")
def run(resume: bool, **options: Any) -> None:
    """Run all stages of CONFIG: profile, search, train, compress, export, verify, report.

    A run that was stopped goes on where it was; a stage whose inputs are unchanged is skipped.
    CONFIG may also be a run directory. 'edgenas init' writes a config to begin with.

    Example: edgenas run demo.yaml
    """
    _run("verify", must_exist=resume, **options)


@cli.command()
@click.argument("model")
@click.option(
    "--weights",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Its trained weights: a .safetensors, or what torch.save wrote, e.g. a checkpoint.",
)
@click.option(
    "--data",
    required=True,
    help="A folder of photos, in it a folder a class; a .npz; or the name of a dataset.",
)
@click.option(
    "--device",
    "devices",
    required=True,
    multiple=True,
    help="Where it must run; several may be given.",
)
@click.option("--latency", required=True, help='What it may take there, e.g. "5 ms".')
@click.option(
    "--resolution",
    type=click.IntRange(1, 4096),
    help="Of the images that it takes, where the data has another.",
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "pad", "stretch"]),
    help="How photos of a folder become square: cut (as without), filled up, or distorted.",
)
@click.option(
    "--test", help="Images that were held out, as --data, where that has no test part of its own."
)
@click.option(
    "--data-seen",
    is_flag=True,
    help="The weights were trained on all of --data; accuracy flatters, and the verdict says so.",
)
@_shared_options
def compress(
    model: str, weights: Path, data: str, devices: tuple[str, ...], latency: str,
    resolution: int | None, fit: str | None, test: str | None, data_seen: bool,
    overrides: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Prune, quantize, export and verify a network of your own under a latency budget.

    MODEL is FILE.py:NAME, a function that takes nothing and gives a torch module. Its channels are
    cut as far as the budget asks for, by a table measured on the device.

    \b
    Example: edgenas compress model.py:build --weights w.safetensors --data photos \\
               --device cpu-onnxruntime --latency "5 ms"
    """
    from edgenas.pipeline.brought import brought_config

    config = brought_config(
        model, weights, data, devices, latency, resolution, overrides, fit, test, data_seen
    )
    _done(config, "verify", **options)


def _stage_command(name: str, what: str) -> None:
    @cli.command(name, help=f"{what}\n\nExample: edgenas {name} demo.yaml")
    @_run_options
    def command(**options: Any) -> None:
        _run(name, **options)


_stage_command(
    "search", "Search the architecture; what must come before is brought up to date first."
)
_stage_command("train", "Train the network that 'search' found.")
_stage_command(
    "export", "Write every variant, fp32 and int8-static, in the format of every target."
)
_stage_command("verify", "Run and time every exported file on its device; exit 3 if a gate fails.")


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="Name of a device, or its file.")
@click.option("--to", "folder", default="edgenas-model", show_default=True, help="Folder there.")
@click.option(
    "--samples",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    help="Images of the test part to classify there, of those that the run kept.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    help="Classify this file instead.",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@json_option
def deploy(
    directory: Path, device: str, folder: str, samples: int, images: tuple[Path, ...], as_json: bool
) -> None:  # fmt: skip
    """Put the file that a run DIRECTORY delivered on a board, with a classifier, and try it there.

    Example: edgenas deploy runs/demo --device cpu-onnxruntime
    """
    from dataclasses import asdict

    from edgenas.deploy import deploy as put
    from edgenas.device import load_device

    done = put(directory, load_device(device), folder, samples, images)
    if as_json:
        emit(asdict(done))
        return
    click.echo(f"{device}: {done.folder}/ holds {', '.join(done.files)}")
    if not done.met:
        click.echo("note: the verdict of this run was not met", err=True)
    for answer in done.answers:
        best = ", ".join(f"{name} {share:.1%}" for name, share in answer.best)
        mark = "" if answer.truth is None else f"  (is {answer.truth})"
        click.echo(f"{answer.image:<14} {best}{mark}")
    known = [a for a in done.answers if a.truth is not None]
    if known:
        if len(known) < samples:
            click.echo(f"note: the run kept {len(known)} images of its test part", err=True)
        right = sum(a.truth == a.best[0][0] for a in known)
        click.echo(f"{right} of {len(known)} right")


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
def report(directory: Path) -> None:
    """Write report.html of a run DIRECTORY.

    Example: edgenas report runs/demo
    """
    from edgenas.report import write_report

    click.echo(write_report(directory))
