"""The machine behind a wire, as it is routed: what its host is asked, bit by bit."""

import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from amaranth.back import verilog

from edgenas.errors import DeviceError, UsageError
from edgenas.export import exporter_for
from edgenas.fpga.compile import compiled
from edgenas.fpga.cycles import Dram
from edgenas.fpga.host import serve
from edgenas.fpga.link import Clock
from edgenas.fpga.lower import steps, values
from edgenas.fpga.network import INPUT, Network
from edgenas.fpga.rtl.board import Board
from edgenas.fpga.shape import Shape
from edgenas.fpga.simulator import verilated
from edgenas.graph import calibrate, trace

SHAPE = Shape(lanes=4, taps=4, groups=2, x_words=512, y_words=512, z_words=512, o_words=512,
              weight_words=512, sums=256, run_slots=8, move_slots=8)  # fmt: skip
DRAM = Dram(latency=20, reads=(3, 8), writes=(3, 8))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("board")
    clock = Clock(mhz=4, baud=1_000_000)
    board = Board(SHAPE, clock, primitive=False)
    source = work / "board.v"
    source.write_text(verilog.convert(board, name="board", ports=board.ports()))
    bench = Path(__file__).parent / "uart_bench.cpp"
    return verilated([source], "board", bench, work, DIVISOR=clock.divisor)


@pytest.fixture
def wire(simulated: Path) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([simulated], stdin=pipe, stdout=pipe, bufsize=0) as process:
        yield process
        process.kill()


def heard(wire: subprocess.Popen[bytes]) -> bytes:
    """What comes within a minute."""
    ready, _, _ = select.select([wire.stdout], [], [], 60)
    return wire.stdout.read(4096) if ready else b""


def network(folder: Path) -> tuple[Network, np.ndarray]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(6, 6, 3, 1, 1, groups=6),
        torch.nn.Conv2d(6, 5, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(5, 3),
    ).eval()  # fmt: skip
    x = torch.randn(8, 1, 8, 8)
    int8 = calibrate(trace(net, (1, 8, 8)), [x])
    return Network.load(exporter_for("fpga").network(int8, folder / "n.fpga", {}).path)[
        0
    ], x.numpy()


def test_a_host_gets_the_answers_of_the_reference_image_after_image(wire, tmp_path):
    integers, images = network(tmp_path)
    found = steps(integers, SHAPE)
    program = compiled(found, INPUT, 1, 8, SHAPE, DRAM)
    last = found[-1].name
    for image in images[:3]:
        scale = integers.scales[INPUT]
        x = np.clip(np.rint(image / scale.scale) + scale.zero, -128, 127).astype(np.int8)
        after, counted = serve(lambda: heard(wire), wire.stdin.write, program.given(INPUT, x))
        np.testing.assert_array_equal(program.taken(last, after), values(found, x)[last])
        assert counted.cycles > program.cycles  # it waits for the wire
        assert 0 < counted.issued <= counted.running < counted.cycles
        assert counted.written == sum(program.tensors[s.name].words for s in found)


def test_what_no_board_says_is_one_line():
    image = np.zeros((16, 4), np.uint8)
    with pytest.raises(DeviceError, match="55 00 00 00, which is nothing of its 16 words"):
        serve(lambda: b"U\0\0\0", lambda _: None, image)
    with pytest.raises(DeviceError, match="is nothing of its 16 words"):
        serve(lambda: b"R\x10\0\0", lambda _: None, image)
    said = [b"R\x01\0\0R", b"\x02\0\0", b""]
    with pytest.raises(DeviceError, match="nothing more after 2 words read and 0 written"):
        serve(lambda: said.pop(0), lambda _: None, image)


def test_a_clock_is_made_of_the_oscillator_s_or_refused():
    clock = Clock(mhz=70, board_mhz=25, baud=1_000_000)
    assert (clock.multiplied, clock.divided, clock.divisor) == (14, 5, 70)
    assert 400 <= clock.mhz * clock.oscillates <= 800
    with pytest.raises(UsageError, match=r"61\.97 MHz cannot be made of 25"):
        _ = Clock(mhz=61.97).divided
    with pytest.raises(UsageError, match="1000000 baud cannot be made of a clock of 3 MHz"):
        Clock(mhz=3)
