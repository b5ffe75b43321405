"""The machine on a board: its DRAM is what a host keeps for it at the other end of a wire."""

from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    Module,
    Signal,
)

from edgenas.fpga.link import ENDED, READ, START, WRITE, Clock
from edgenas.fpga.rtl.machine import Machine
from edgenas.fpga.rtl.mover import DRAM
from edgenas.fpga.rtl.uart import Receiver, Transmitter
from edgenas.fpga.shape import Shape

_ADDRESS = DRAM // 8  # bytes


class Board(Elaboratable):
    """``clk_in``, ``rx``, ``tx``, and ``busy`` for a lamp. What goes over the wire: fpga/link.py.

    ``primitive``: with the multipliers, memories and clock generator of Lattice's ECP5; else
    ``clk_in`` is the clock of all.
    """

    def __init__(self, shape: Shape, clock: Clock, primitive: bool) -> None:
        self.clock, self.primitive = clock, primitive
        self.machine = Machine(shape, primitive)
        self.clk_in, self.rx = Signal(name="clk_in"), Signal(name="rx", init=1)
        self.tx, self.busy = Signal(name="tx"), Signal(name="busy")

    def ports(self) -> list[Signal]:
        """All."""
        return [self.clk_in, self.rx, self.tx, self.busy]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync", reset_less=True)  # it begins as it is configured
        m.submodules.machine = self.machine
        m.submodules.receiver = receiver = Receiver(self.clock.divisor)
        m.submodules.transmitter = transmitter = Transmitter(self.clock.divisor)
        m.d.comb += [receiver.wire.eq(self.rx), self.tx.eq(transmitter.wire)]
        if self.primitive:
            self._multiplied(m)
        else:
            m.d.comb += ClockSignal().eq(self.clk_in)
        self._received(m, receiver)
        self._sent(m, transmitter)
        return m

    def _received(self, m: Module, receiver: Receiver) -> None:
        """Words of DRAM, once a first byte has started the machine."""
        machine, port = self.machine, self.machine.mover.port
        word = Signal(len(port.rdata), name="word_in")
        got = Signal(range(len(word) // 8), name="got")
        m.d.sync += [machine.start.eq(0), port.rdata_valid.eq(0)]
        m.d.comb += port.rdata.eq(word)
        with m.If(receiver.valid):
            with m.If(self.busy):
                m.d.sync += [word.eq(Cat(word[8:], receiver.byte)), got.eq(got + 1)]
                with m.If(got == len(word) // 8 - 1):
                    m.d.sync += [got.eq(0), port.rdata_valid.eq(1)]
            with m.Elif(receiver.byte == START):
                m.d.sync += [machine.start.eq(1), self.busy.eq(1)]

    def _sent(self, m: Module, transmitter: Transmitter) -> None:
        """What the machine asks of its DRAM, and at its end its counters."""
        machine, port = self.machine, self.machine.mover.port
        width = len(port.wdata)
        counters = Cat(*machine.counters.values())
        rest = Signal(8 + max(DRAM + width, len(counters)), name="rest")
        left = Signal(range(len(rest) // 8 + 1), name="left")
        m.d.comb += [
            transmitter.byte.eq(rest[:8]), transmitter.valid.eq(left != 0),
            port.cmd_ready.eq((left == 0) & (~port.cmd_we | port.wdata_valid)),
            port.wdata_ready.eq((left == 0) & port.cmd_valid & port.cmd_we),
        ]  # fmt: skip
        with m.If(left != 0), m.If(transmitter.ready):
            m.d.sync += [rest.eq(rest >> 8), left.eq(left - 1)]
        with m.Elif(port.cmd_valid & port.cmd_ready):
            m.d.sync += [
                rest.eq(Cat(Const(READ, 8), port.cmd_addr)), left.eq(1 + _ADDRESS),
            ]  # fmt: skip
            with m.If(port.cmd_we):
                m.d.sync += [
                    rest.eq(Cat(Const(WRITE, 8), port.cmd_addr, port.wdata)),
                    left.eq(1 + _ADDRESS + width // 8),
                ]  # fmt: skip
        with m.Elif(self.busy & machine.halted & ~machine.start):
            m.d.sync += [
                rest.eq(Cat(Const(ENDED, 8), counters)), left.eq(1 + len(counters) // 8),
                self.busy.eq(0),
            ]  # fmt: skip

    def _multiplied(self, m: Module) -> None:
        """The clock of all, out of that of the board."""
        clock, fast = self.clock, Signal(name="fast")
        m.d.comb += ClockSignal().eq(fast)
        m.submodules.pll = Instance(
            "EHXPLLL", a_FREQUENCY_PIN_CLKI=str(clock.board_mhz),
            a_FREQUENCY_PIN_CLKOP=str(clock.mhz), a_ICP_CURRENT="12", a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2", p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA", p_CLKOP_ENABLE="ENABLED", p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=clock.divided, p_CLKFB_DIV=clock.multiplied, p_CLKOP_DIV=clock.oscillates,
            p_CLKOP_CPHASE=clock.oscillates // 2, p_CLKOP_FPHASE=0, i_CLKI=self.clk_in,
            i_CLKFB=fast, o_CLKOP=fast, i_RST=Const(0), i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0), i_PHASEDIR=Const(1), i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0),
        )  # fmt: skip
