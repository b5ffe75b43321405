"""The machine behind a wire, as it is routed: what its host is asked, bit by bit."""

import json
import os
import pty
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog

from edgenas.cli import main
from edgenas.errors import DeviceError, UsageError
from edgenas.fpga.compile import Compiler
from edgenas.fpga.host import serve
from edgenas.fpga.link import Clock
from edgenas.fpga.model import Model
from edgenas.fpga.rtl.board import Board
from edgenas.fpga.simulator import verilated
from tests.board_wire import BENCH, DRAM, SHAPE, answers, network

pytestmark = pytest.mark.trains


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


@pytest.fixture
def device(tmp_path: Path) -> str:
    runtime = {
        "kind": "rtl", "fmax_mhz": 4, "report": "none", "shape": asdict(SHAPE),
        "part": {"chip": "LFE5U-25F", "package": "CABGA381", "speed_grade": 6},
        "dram": asdict(DRAM),
    }  # fmt: skip
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps({"transport": {"kind": "local"}, "runtime": runtime}))
    return str(path)


def test_a_board_at_a_serial_port_is_compared_with_the_reference(
    simulated, device, tmp_path, capsys
):
    file, images = network(tmp_path)
    np.save(tmp_path / "x.npy", images[:2])
    ours, theirs = pty.openpty()
    with subprocess.Popen([simulated], stdin=ours, stdout=ours) as board:
        port = os.ttyname(theirs)
        asked = ["fpga", "host", str(file.path), "--device", device, "--port", port]
        assert main([*asked, "--inputs", str(tmp_path / "x.npy"), "--json"]) == 0
        answers = json.loads(capsys.readouterr().out)
        assert main(asked) == 0
        board.kill()
    assert len(answers) == 2 and answers[0]["running"] == answers[1]["running"]
    assert re.match(r"image 0: \d as the reference, \d+ cycles", capsys.readouterr().out)
    for wrong, said in (
        (images[:2, :, :7], "the network takes float32 (n, 1, 8, 8)"),
        (images[0], "holds no images (n, c, h, w)"),
        (images * np.nan, "holds no images (n, c, h, w), or what is no finite number"),
    ):
        np.save(tmp_path / "x.npy", wrong)
        assert main([*asked, "--inputs", str(tmp_path / "x.npy")]) == 2
        assert said in capsys.readouterr().err
    assert main([*asked[:-1], str(tmp_path / "none")]) == 4
    assert "none: No such file or directory; is the board connected" in capsys.readouterr().err


def test_what_a_host_of_ones_own_needs_is_in_a_folder(device, tmp_path, capsys):
    file, _ = network(tmp_path)
    out = tmp_path / "board"
    assert main(["fpga", "compile", str(file.path), "--device", device, "--out", str(out)]) == 0
    assert "(estimated)" in capsys.readouterr().out
    plan = json.loads((out / "plan.json").read_text())
    image = np.fromfile(out / "image.bin", np.uint8).reshape(plan["words"], SHAPE.lanes)
    program = Model.load(file.path, Compiler(SHAPE, DRAM)).program
    np.testing.assert_array_equal(image, program.image)
    assert plan["cycles"] == program.cycles and len(plan["jobs"]) == len(program.commands.runs)
    given = plan["input"]
    assert (given["channels"], given["size"], given["words"]) == (1, 8, 64)
    (tmp_path / "bad.fpga").write_bytes(b"no network")
    bad = ["fpga", "compile", str(tmp_path / "bad.fpga"), "--device", device, "--out", str(out)]
    assert main(bad) != 0
    assert "cannot be read as a network" in capsys.readouterr().err


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
