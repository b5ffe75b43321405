"""One multiplier of the chip: registers before and behind it, the second operand held."""

from amaranth.hdl import (
    Cat,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    Module,
    Signal,
    Value,
    signed,
)

WIDTH = 18


class Multiplier(Elaboratable):
    """``product`` two cycles after ``a``: times what ``b`` was when ``take`` was last set.

    Operands are signed and of ``bits``, at most 18. ``primitive``: the MULT18X18D of Lattice's
    ECP5, else what it computes, for simulation.
    """

    def __init__(self, bits: int, primitive: bool) -> None:
        self.bits, self.primitive = bits, primitive
        self.a, self.b = Signal(signed(bits)), Signal(signed(bits))
        self.take = Signal()
        self.product = Signal(signed(2 * bits))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.primitive:
            # Zeros below cost no wires, copies of the sign above would.
            below = WIDTH - self.bits
            a, b = (Cat(Const(0, below), value) for value in (self.a, self.b))
            pins: dict[str, Value] = {}
            for i in range(WIDTH):
                pins |= {f"i_A{i}": a[i], f"i_B{i}": b[i], f"i_C{i}": Const(0)}
            for i in range(2 * self.bits):
                pins[f"o_P{2 * below + i}"] = self.product[i]
            m.submodules.dsp = Instance(
                "MULT18X18D",
                p_REG_INPUTA_CLK="CLK0", p_REG_INPUTA_CE="CE0",
                p_REG_INPUTB_CLK="CLK0", p_REG_INPUTB_CE="CE1",
                p_REG_OUTPUT_CLK="CLK0", p_REG_OUTPUT_CE="CE0", p_REG_PIPELINE_CLK="NONE",
                i_CLK0=ClockSignal(), i_CE0=Const(1), i_CE1=self.take, i_RST0=Const(0),
                i_SIGNEDA=Const(1), i_SIGNEDB=Const(1), i_SOURCEA=Const(0), i_SOURCEB=Const(0),
                **pins,
            )  # fmt: skip
        else:
            first, second = Signal.like(self.a), Signal.like(self.b)
            m.d.sync += [first.eq(self.a), self.product.eq(first * second)]
            with m.If(self.take):
                m.d.sync += second.eq(self.b)
        return m
