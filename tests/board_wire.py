"""A small network, and a simulated board that is spoken to as a real one is."""

import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from edgenas.artifact import Artifact
from edgenas.export import exporter_for
from edgenas.fpga.compile import Compiler
from edgenas.fpga.cycles import Dram
from edgenas.fpga.host import serve
from edgenas.fpga.model import Model
from edgenas.fpga.shape import Shape
from edgenas.fpga.simulator import Counted
from edgenas.graph import calibrate, trace

SHAPE = Shape(lanes=4, taps=4, groups=2, x_words=512, y_words=512, z_words=512, o_words=512,
              weight_words=512, sums=256, run_slots=8, move_slots=8)  # fmt: skip
DRAM = Dram(latency=20, reads=(3, 8), writes=(3, 8))
BENCH = Path(__file__).parent / "uart_bench.cpp"


def network(folder: Path) -> tuple[Artifact, np.ndarray]:
    """A file, and images."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(6, 6, 3, 1, 1, groups=6),
        torch.nn.Conv2d(6, 5, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(5, 3),
    ).eval()  # fmt: skip
    x = torch.randn(8, 1, 8, 8)
    int8 = calibrate(trace(net, (1, 8, 8)), [x])
    return exporter_for("fpga").network(int8, folder / "n.fpga", {}), x.numpy()


@contextmanager
def started(board: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program of uart_bench.cpp, as long as it is needed."""
    pipe = subprocess.PIPE
    with subprocess.Popen([board], stdin=pipe, stdout=pipe, bufsize=0) as process:
        yield process
        process.kill()


def heard(wire: subprocess.Popen[bytes]) -> bytes:
    """What comes within two minutes."""
    ready, _, _ = select.select([wire.stdout], [], [], 120)
    return wire.stdout.read(4096) if ready else b""


def answers(board: Path, folder: Path, count: int) -> list[Counted]:
    """The counters of each image; every answer is that of the reference, or it is an error."""
    file, images = network(folder)
    model = Model.load(file.path, Compiler(SHAPE, DRAM))
    found = []
    with started(board) as wire:
        for image in images[:count]:
            x = model.rounded(image)
            after, counted = serve(lambda: heard(wire), wire.stdin.write, model.given(x))
            model.answered(x, after)
            found.append(counted)
    return found
