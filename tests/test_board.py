"""The machine behind a wire, as it is routed: what its host is asked, bit by bit."""

from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog

from edgenas.errors import DeviceError, UsageError
from edgenas.fpga.compile import Compiler
from edgenas.fpga.host import serve
from edgenas.fpga.link import Clock
from edgenas.fpga.model import Model
from edgenas.fpga.rtl.board import Board
from edgenas.fpga.simulator import verilated
from tests.board_wire import BENCH, DRAM, SHAPE, answers, network


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("board")
    clock = Clock(mhz=4, baud=1_000_000)
    board = Board(SHAPE, clock, primitive=False)
    source = work / "board.v"
    source.write_text(verilog.convert(board, name="board", ports=board.ports()))
    return verilated([source], "board", BENCH, work, DIVISOR=clock.divisor)


def test_a_host_gets_the_answers_of_the_reference_image_after_image(simulated, tmp_path):
    counters = answers(simulated, tmp_path, 3)
    program = Model.load(network(tmp_path)[0].path, Compiler(SHAPE, DRAM)).program
    for counted in counters:
        assert counted.cycles > program.cycles  # it waits for the wire
        assert 0 < counted.issued <= counted.running < counted.cycles
        assert counted.written > 0 and counted.read > counted.written


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
