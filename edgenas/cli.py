"""``edgenas``: parse, call one public function, print. Data on stdout, everything else on stderr.

Imports stand inside the commands: ``edgenas --help`` must not wait for torch.
"""

import errno
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from edgenas.blame import blamed, took_part
from edgenas.cli_fpga import fpga
from edgenas.cli_lut import lut
from edgenas.cli_runs import STAGES, compress, deploy, init, report, run
from edgenas.cli_tables import build_emulator, build_runner, count, profile
from edgenas.errors import EdgenasError
from edgenas.printing import SEED, Number, emit, json_option
from edgenas.resident import exhausted

INTERRUPTED = 130
ONCE_S = 2.0  # timeout(1) and shells send the same signal twice
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
    interrupted: float | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted is None:
            interrupted = time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - interrupted > ONCE_S:  # somebody who does not want to wait
            os._exit(INTERRUPTED)

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    for stream in (sys.stdout, sys.stderr):  # no locale is worth losing a message
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = cli(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BaseException as e:  # an import cut in half fails in ways of its own
        return _failed(e if interrupted is None else KeyboardInterrupt())


def _failed(error: BaseException) -> int:
    """Say what ended a command; its exit code."""
    try:
        raise error
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
        if told := exhausted(e):
            return _complain(told, 1)
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


_RUNS = (init, run, *STAGES, compress, deploy, report)
for command in (*_RUNS, build_runner, build_emulator, profile, count, lut, fpga):
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
