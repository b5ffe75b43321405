"""LiteDRAM's controller and a DDR3 chip behind it, as Verilog; for the Python that has LiteDRAM.

    python -I litedram_core.py MHZ PHY MODULE ROWS REFRESH OUT.v

PHY is ``ecp5``: the controller that LiteDRAM makes for its ECP5DDRPHY, at two DRAM clocks for each
of its own, with that PHY's latencies. The PHY itself is of hard blocks that nobody can simulate;
in its place stands LiteDRAM's model of PHY and chip, which answers after those latencies.
Or ``gen``: what ``litedram_gen --sim`` makes whatever PHY it is asked for, at four DRAM clocks for
each of its own, with the latencies of a 7-series FPGA. LiteDRAM counts a refresh in DRAM clocks of
the chip's own speed grade and waits as many slower ones; with REFRESH ``chip``, not ``shipped``, it
waits as long as they last at that grade. Prints as JSON what it made.
"""

import json
import sys
from copy import copy
from pathlib import Path
from typing import Any

from litedram import modules
from litedram.core import LiteDRAMCore
from litedram.core.controller import ControllerSettings
from litedram.phy.ecp5ddrphy import ECP5DDRPHY
from litedram.phy.model import SDRAMPHYModel, get_sdram_phy_settings
from migen import Module, Record, Signal
from migen.fhdl import verilog

CHIP_BITS = 16  # of data, on the board
BUFFERED = 16  # commands for each bank, as in LiteDRAM's own example for a board with an ECP5


def ecp5_settings(chip: Any, hertz: float) -> Any:
    """Those of ECP5DDRPHY at its pins."""
    geometry = chip.geom_settings
    strobes = CHIP_BITS // 8
    pads = Record([
        ("clk_p", 1), ("a", geometry.addressbits), ("ba", geometry.bankbits), ("ras_n", 1),
        ("cas_n", 1), ("we_n", 1), ("cke", 1), ("odt", 1), ("dm", strobes), ("dq", CHIP_BITS),
        ("dqs_p", strobes),
    ])  # fmt: skip
    return ECP5DDRPHY(pads, sys_clk_freq=hertz).settings


class Top(Module):
    """The controller with one native port, and the model."""

    def __init__(self, mhz: float, phy: str, module: str, rows: int, refresh: str) -> None:
        hertz = mhz * 1e6
        rate = {"ecp5": "1:2", "gen": "1:4"}[phy]
        chip = getattr(modules, module)(hertz, rate=rate)
        if refresh == "chip":
            clocks, _ = chip.get("tRFC")
            grade = max(map(int, chip.speedgrade_timings.keys() - {"default"}))
            chip.timing_settings.tRFC = chip.ns_to_cycles(clocks * 2000 / grade)
        if phy == "ecp5":
            settings = ecp5_settings(chip, hertz)
        else:
            settings = get_sdram_phy_settings("DDR3", CHIP_BITS, hertz)
        # Only so much of the chip is kept in memory; the controller knows all of it.
        part = copy(chip)
        part.geom_settings = copy(chip.geom_settings)
        part.geom_settings.rowbits = (rows - 1).bit_length()
        self.submodules.model = model = SDRAMPHYModel(part, settings, clk_freq=hertz)
        self.submodules.core = core = LiteDRAMCore(
            model, chip.geom_settings, chip.timing_settings, hertz,
            controller_settings=ControllerSettings(cmd_buffer_depth=BUFFERED),
        )  # fmt: skip
        port = core.crossbar.get_port()
        self.ports: set[Signal] = set()

        def pin(name: str, inner: Signal, into: bool) -> None:
            outer = Signal(len(inner), name=name)
            self.comb += inner.eq(outer) if into else outer.eq(inner)
            self.ports.add(outer)

        pin("cmd_valid", port.cmd.valid, True)
        pin("cmd_ready", port.cmd.ready, False)
        pin("cmd_we", port.cmd.we, True)
        pin("cmd_addr", port.cmd.addr, True)
        pin("wdata_valid", port.wdata.valid, True)
        pin("wdata_ready", port.wdata.ready, False)
        pin("wdata", port.wdata.data, True)
        pin("rdata_valid", port.rdata.valid, False)
        pin("rdata", port.rdata.data, False)
        self.comb += [port.wdata.we.eq(-1), port.rdata.ready.eq(1)]
        timing = chip.timing_settings
        self.said = {
            "mhz": mhz, "dram_mhz": mhz * settings.nphases, "module": module, "rate": rate,
            "refresh": refresh,
            "phases": settings.nphases, "cl": settings.cl, "cwl": settings.cwl,
            "read_latency": settings.read_latency, "write_latency": settings.write_latency,
            "word_bytes": len(port.wdata.data) // 8, "buffered": BUFFERED,
            "words": rows * 2 ** (chip.geom_settings.bankbits + chip.geom_settings.colbits - 3),
            "timing": {k: v for k, v in vars(timing).items() if isinstance(v, int)},
        }  # fmt: skip


def main() -> None:
    """OUT.v, and what it is."""
    mhz, phy, module, rows, refresh, path = sys.argv[1:]
    top = Top(float(mhz), phy, module, int(rows), refresh)
    Path(path).write_text(str(verilog.convert(top, top.ports, name="litedram")), encoding="utf-8")
    print(json.dumps(top.said))


if __name__ == "__main__":
    main()
