"""Weights and parameters of the next iteration, from memory to the lanes, while one runs."""

from amaranth.hdl import Elaboratable, Module, Mux, Signal

from edgenas.fpga.rtl.wires import delayed
from edgenas.fpga.shape import Shape

# Cycles from the begin of an iteration until its weights are taken over, and the next may come.
AFTER_BEGIN = 4


def after_tile(shape: Shape) -> int:
    """The same for parameters, which are taken over behind the sums."""
    return 11 + (shape.taps - 1).bit_length() - shape.taps


class Loader(Elaboratable):
    """Reads ``taps`` words of weights, and behind them those of parameters where a tile begins.

    In: ``begin`` of an iteration, whether it ``ends_tile``, whether it is the ``final`` one.
    Out: ``word`` with its number ``index`` where ``valid``; ``ready`` as early as the next
    iteration may begin.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.start, self.base = Signal(), Signal(14)
        self.begin, self.ends_tile, self.final = Signal(), Signal(), Signal()
        self.address, self.data = Signal(14), Signal(shape.word_bits)
        self.word, self.valid = Signal(shape.word_bits), Signal()
        self.index = Signal(range(shape.taps + shape.parameter_words))
        self.ready = Signal()

    def elaborate(self, platform: object) -> Module:
        m, taps = Module(), self.shape.taps
        words = taps + self.shape.parameter_words
        busy, ends = Signal(name="busy"), Signal(name="ends")
        number, whole = Signal(range(words + 1), name="number"), Signal(name="with_parameters")
        go, tile, within = Signal(name="go"), Signal(name="next_tile"), Signal(name="same_tile")
        m.d.comb += [
            tile.eq(self.begin & ~self.final & self.ends_tile),
            within.eq(self.begin & ~self.final & ~self.ends_tile),
        ]
        tile_go = delayed(m, tile, after_tile(self.shape), "next_tile")[-1]
        m.d.comb += go.eq(self.start | tile_go | delayed(m, within, AFTER_BEGIN, "same_tile")[-1])
        at = Signal(14, name="at")
        m.d.comb += self.address.eq(at)
        m.d.sync += at.eq(self.address)
        with m.If(busy):
            m.d.comb += self.address.eq(at + 1)
            m.d.sync += [
                number.eq(number + 1),
                ends.eq(number == Mux(whole, words, taps) - 2),
            ]  # fmt: skip
            with m.If(ends):
                m.d.sync += busy.eq(0)
        with m.If(go):
            m.d.sync += [
                busy.eq(1), number.eq(0), whole.eq(self.start | tile_go), ends.eq(0),
            ]  # fmt: skip
        with m.If(self.start):
            m.d.comb += self.address.eq(self.base)
        # Such that the last word of weights reaches the lanes just before the first operand, and
        # that the loader is free again when it has to go on.
        with m.If(busy & (number == Mux(whole, taps + 1, max(taps - 7, 0)))):
            m.d.sync += self.ready.eq(1)
        with m.If(self.start | self.begin):
            m.d.sync += self.ready.eq(0)
        m.d.comb += [
            self.word.eq(self.data),
            self.valid.eq(delayed(m, busy, 2, "busy")[-1]),
            self.index.eq(delayed(m, number, 2, "number")[-1]),
        ]
        return m
