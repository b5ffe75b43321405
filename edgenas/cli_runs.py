"""``edgenas run`` and its stages, ``compress``, ``deploy``, ``report``, ``init``.

Imports stand inside the commands: ``edgenas --help`` must not wait for torch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgenas.cli_tables import tables_option
from edgenas.errors import GateNotMet, UsageError
from edgenas.printing import emit, json_option

if TYPE_CHECKING:
    from edgenas.config import Config


def _options_of(*of: Callable[..., Any]) -> Callable[..., Callable[..., None]]:
    def all_of(command: Callable[..., None]) -> Callable[..., None]:
        for option in of:
            command = option(command)
        return command

    return all_of


_shared_options = _options_of(
    click.option(
        "--runs", type=click.Path(path_type=Path, file_okay=False), default=Path("runs"),
        show_default=True, help="Folder of run directories.",
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


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("demo.yaml"))
def init(file: Path) -> None:
    """Write an example config to FILE, demo.yaml where none is named; what is there stays.

    Example: edgenas init mine.yaml
    """
    from edgenas.example import write_example

    write_example(file)
    click.echo(f"{file}: change what it says of data and devices, then: edgenas run {file}")


@click.command()
@_run_options
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped; it must be there.")
def run(resume: bool, **options: Any) -> None:
    """Run all stages of CONFIG: profile, search, race, train, compress, export, verify, report.

    A run that was stopped goes on where it was; a stage whose inputs are unchanged is skipped.
    CONFIG may also be a run directory. 'edgenas init' writes a config to begin with.

    Example: edgenas run demo.yaml
    """
    _run("verify", must_exist=resume, **options)


@click.command()
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


def _stage_command(name: str, what: str) -> click.Command:
    @click.command(name, help=f"{what}\n\nExample: edgenas {name} demo.yaml")
    @_run_options
    def command(**options: Any) -> None:
        _run(name, **options)

    return command


STAGES = (
    _stage_command(
        "search", "Search the architecture; what must come before is brought up to date first."
    ),
    _stage_command("race", "Train finalists beside the network that 'search' found; one wins."),
    _stage_command("train", "Train the network that 'search' found."),
    _stage_command(
        "export", "Write every variant, fp32 and int8-static, in the format of every target."
    ),
    _stage_command(
        "verify", "Run and time every exported file on its device; exit 3 if a gate fails."
    ),
)


@click.command()
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


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def report(directory: Path) -> None:
    """Write report.html of a run DIRECTORY.

    Example: edgenas report runs/demo
    """
    from edgenas.report import write_report

    click.echo(write_report(directory))
