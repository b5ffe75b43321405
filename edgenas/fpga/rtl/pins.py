"""The machine behind few pins, to be placed and routed: words cross in parts of 16 bits."""

from amaranth.hdl import Cat, Elaboratable, Module, Signal

from edgenas.fpga.rtl.machine import COUNTERS, Machine
from edgenas.fpga.rtl.mover import DRAM
from edgenas.fpga.rtl.wires import register
from edgenas.fpga.shape import Shape

PART = 16


class Pins(Elaboratable):
    """As ``Machine``, all ends in registers.

    A word of DRAM comes in as parts, the lowest first, while ``in_valid``; one goes out likewise
    while ``out_valid``. ``select``: which half of which counter ``count`` is.
    """

    def __init__(self, shape: Shape, primitive: bool) -> None:
        self.machine = Machine(shape, primitive)
        self.start, self.halted = Signal(name="start"), Signal(name="halted")
        self.cmd_valid, self.cmd_ready = Signal(name="cmd_valid"), Signal(name="cmd_ready")
        self.cmd_we, self.cmd_addr = Signal(name="cmd_we"), Signal(DRAM, name="cmd_addr")
        self.in_valid, self.in_part = Signal(name="in_valid"), Signal(PART, name="in_part")
        self.out_valid, self.out_part = Signal(name="out_valid"), Signal(PART, name="out_part")
        self.select, self.count = Signal(3, name="select"), Signal(PART, name="count")

    def ports(self) -> list[Signal]:
        """All."""
        return [s for s in vars(self).values() if isinstance(s, Signal)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.machine = machine = self.machine
        port = machine.mover.port
        parts = len(port.rdata) // PART
        m.d.comb += [
            machine.start.eq(register(m, self.start, "start_in")),
            port.cmd_ready.eq(register(m, self.cmd_ready, "ready_in") & ~self.cmd_valid),
        ]
        m.d.sync += [
            self.halted.eq(machine.halted), self.cmd_we.eq(port.cmd_we),
            self.cmd_valid.eq(port.cmd_valid & port.cmd_ready), self.cmd_addr.eq(port.cmd_addr),
        ]  # fmt: skip
        word, got = Signal(len(port.rdata), name="word_in"), Signal(range(parts), name="got")
        part, valid = register(m, self.in_part, "part_in"), register(m, self.in_valid, "valid_in")
        m.d.sync += port.rdata_valid.eq(valid & (got == parts - 1))
        with m.If(valid):
            m.d.sync += [word.eq(Cat(word[PART:], part)), got.eq(got + 1)]
        m.d.comb += port.rdata.eq(word)
        rest, left = Signal(len(port.wdata), name="word_out"), Signal(range(parts + 1), name="left")
        m.d.comb += port.wdata_ready.eq(left == 0)
        m.d.sync += [self.out_valid.eq(left != 0), self.out_part.eq(rest[:PART])]
        with m.If(left != 0):
            m.d.sync += [rest.eq(rest >> PART), left.eq(left - 1)]
        with m.Elif(port.wdata_valid):
            m.d.sync += [rest.eq(port.wdata), left.eq(parts)]
        counts = Cat(*(machine.counters[name] for name in COUNTERS))
        chosen = register(m, counts.word_select(self.select, PART), "count_chosen")
        m.d.sync += self.count.eq(chosen)
        return m
