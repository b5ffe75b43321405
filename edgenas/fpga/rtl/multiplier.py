"""One multiplier of the chip: registers before and behind it, the second operand held."""

from amaranth.hdl import ClockSignal, Const, Elaboratable, Instance, Module, Signal, Value, signed

WIDTH = 18


class Multiplier(Elaboratable):
    """``product`` two cycles after ``a``: times what ``b`` was when ``take`` was last set.

    ``primitive``: the MULT18X18D of Lattice's ECP5, else what it computes, for simulation.
    """

    def __init__(self, primitive: bool) -> None:
        self.primitive = primitive
        self.a = Signal(signed(WIDTH))
        self.b = Signal(signed(WIDTH))
        self.take = Signal()
        self.product = Signal(signed(2 * WIDTH))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.primitive:
            pins: dict[str, Value] = {}
            for i in range(WIDTH):
                pins |= {f"i_A{i}": self.a[i], f"i_B{i}": self.b[i], f"i_C{i}": Const(0)}
            for i in range(2 * WIDTH):
                pins[f"o_P{i}"] = self.product[i]
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
            a, b = Signal(signed(WIDTH)), Signal(signed(WIDTH))
            m.d.sync += [a.eq(self.a), self.product.eq(a * b)]
            with m.If(self.take):
                m.d.sync += b.eq(self.b)
        return m
