"""Bytes over two wires: 8 bits, no parity, a stop bit."""

from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib.cdc import FFSynchronizer


class Receiver(Elaboratable):
    """``byte``, ``valid`` for a cycle, out of ``wire``; a bit lasts ``divisor`` cycles."""

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        self.wire = Signal(init=1)
        self.byte, self.valid = Signal(8), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wire = Signal(init=1, name="wire")
        m.submodules += FFSynchronizer(self.wire, wire, init=1)
        wait, left = Signal(range(2 * self.divisor), name="wait"), Signal(range(10), name="left")
        m.d.sync += self.valid.eq(0)
        with m.If(left == 0):
            # The middle of the first bit is one and a half after the begin of the start bit.
            m.d.sync += wait.eq(self.divisor * 3 // 2 - 1)
            with m.If(~wire):
                m.d.sync += left.eq(9)
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Else():
            m.d.sync += [left.eq(left - 1), wait.eq(self.divisor - 1)]
            with m.If(left != 1):
                m.d.sync += self.byte.eq(Cat(self.byte[1:], wire))
            with m.Else():
                m.d.sync += self.valid.eq(wire)  # without a stop bit it was none
        return m


class Transmitter(Elaboratable):
    """``byte`` to ``wire`` while ``valid`` and ``ready``; a bit lasts ``divisor`` cycles."""

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        self.wire = Signal(init=1)
        self.byte, self.valid, self.ready = Signal(8), Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wait, left = Signal(range(self.divisor), name="wait"), Signal(range(11), name="left")
        bits = Signal(9, name="bits")
        m.d.comb += self.ready.eq(left == 0)
        with m.If(self.ready), m.If(self.valid):
            m.d.sync += [
                bits.eq(Cat(self.byte, Const(1, 1))), self.wire.eq(0), left.eq(10),
                wait.eq(self.divisor - 1),
            ]  # fmt: skip
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Else():
            m.d.sync += [
                self.wire.eq(Mux(left == 1, 1, bits[0])), bits.eq(Cat(bits[1:], Const(1, 1))),
                left.eq(left - 1), wait.eq(self.divisor - 1),
            ]  # fmt: skip
        return m
