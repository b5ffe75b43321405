"""Lanes that work in step: products, their sums, and what becomes of a sum that is whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, Value, signed

from edgenas.fpga.reference import MULTIPLIER, OPERAND
from edgenas.fpga.rtl.memory import Buffer
from edgenas.fpga.rtl.multiplier import Multiplier
from edgenas.fpga.rtl.wires import delayed, register
from edgenas.fpga.shape import Shape

ACCUMULATOR = 32
REQUANTIZED = 12  # cycles from a whole sum to a byte

# What comes with each operand, and how wide it is.
CONTROL = {"emit": 1, "first": 1, "last": 1, "begin": 1, "begin_tile": 1, "shift": 1, "sum": 12}

At = Callable[[str, int], Signal]  # a signal of CONTROL, so many cycles behind its operand


def summed(shape: Shape) -> int:
    """Cycles from operands to the sum of their products: two, and one a level of the tree."""
    return 2 + (shape.taps - 1).bit_length()


@dataclass(frozen=True)
class _Channel:
    """What the loader brought for one lane."""

    weights: Sequence[Signal]
    bias: Value
    multiplier: Value
    before: Value
    after: Value


class LaneGroup(Elaboratable):
    """``lanes_of_group`` lanes. Out: ``bytes`` with ``write`` where a result is whole.

    In: ``shared``: ``taps`` bytes that every lane multiplies (dense); ``own``, ``own_second``: a
    byte of each lane (depthwise, additions). ``word``, ``valid``, ``index``: as of the loader.
    """

    def __init__(self, shape: Shape, number: int, job: dict[str, Signal], primitive: bool) -> None:
        self.shape, self.number, self.job, self.primitive = shape, number, job, primitive
        n = shape.lanes_of_group
        self.shared = Signal(8 * shape.taps)
        self.own, self.own_second = Signal(8 * n), Signal(8 * n)
        self.control = {k: Signal(width, name=f"in_{k}") for k, width in CONTROL.items()}
        self.dense, self.adds = Signal(), Signal()
        self.word, self.valid = Signal(shape.word_bits), Signal()
        self.index = Signal(range(shape.taps + shape.parameter_words))
        self.bytes, self.write = Signal(8 * n), Signal()

    def elaborate(self, platform: object) -> Module:
        m, shape, n = Module(), self.shape, self.shape.lanes_of_group
        levels = summed(shape)
        steps = {k: delayed(m, s, 21 + levels, k) for k, s in self.control.items()}

        def at(name: str, cycle: int) -> Signal:
            return steps[name][cycle + 1]

        shared = register(m, self.shared, "shared_0")
        window = self._window(m)
        m.submodules.sums = kept = Buffer(n * ACCUMULATOR, shape.sums, 2, self.primitive)
        m.d.comb += kept.at.eq(at("sum", levels - 2))
        partial = kept.data
        sums, results = [], []
        for lane, channel in enumerate(self._channels(m)):
            own = Cat(*(w[8 * lane : 8 * lane + 8] for w in window))
            operands = Mux(self.dense, shared, own)
            products = []
            for tap, weight in enumerate(channel.weights):
                m.submodules[f"mul_{lane}_{tap}"] = mul = Multiplier(8, self.primitive)
                m.d.comb += [
                    mul.a.eq(operands[8 * tap : 8 * tap + 8].as_signed()), mul.b.eq(weight),
                    mul.take.eq(at("begin", 0)),
                ]  # fmt: skip
                products.append(mul.product)
            bias = Signal(signed(ACCUMULATOR), name=f"bias_{lane}")
            with m.If(at("begin_tile", levels - 1)):
                m.d.sync += bias.eq(channel.bias)
            before = partial[ACCUMULATOR * lane : ACCUMULATOR * (lane + 1)].as_signed()
            total = Signal(signed(ACCUMULATOR), name=f"total_{lane}")
            m.d.sync += total.eq(Mux(at("first", levels), bias, before) + _tree(m, products))
            sums.append(total)
            results.append(self._requantized(m, lane, total, channel, at, levels + 1))
        ready, done = levels + 1, levels + 1 + REQUANTIZED
        m.d.comb += [
            kept.to.eq(at("sum", ready)), kept.word.eq(Cat(*sums)),
            kept.write.eq(at("emit", ready) & ~at("last", ready)), self.bytes.eq(Cat(*results)),
            self.write.eq(at("emit", done) & at("last", done)),
        ]  # fmt: skip
        return m

    def _window(self, m: Module) -> list[Signal]:
        """Each lane's last ``taps`` pixels, newest first; for additions both words, repeated."""
        shape = self.shape
        window = [Signal(8 * shape.lanes_of_group, name=f"w_{i}") for i in range(shape.taps)]
        with m.If(self.control["shift"]):
            m.d.sync += window[0].eq(self.own)
            for i in range(1, shape.taps):
                added = self.own if i < shape.taps // 2 else self.own_second
                m.d.sync += window[i].eq(Mux(self.adds, added, window[i - 1]))
        return window

    def _channels(self, m: Module) -> list[_Channel]:
        """What the loader brought last; held until it brings more."""
        shape, n = self.shape, self.shape.lanes_of_group
        word = register(m, self.word, "loaded")
        here = [
            register(m, self.valid & (self.index == k), f"here_{k}")
            for k in range(shape.taps + shape.parameter_words)
        ]
        channels = []
        for lane in range(n):
            whole = self.number * n + lane
            weights = [Signal(signed(8), name=f"weight_{lane}_{tap}") for tap in range(shape.taps)]
            for tap, weight in enumerate(weights):
                with m.If(here[tap]):
                    m.d.sync += weight.eq(word[8 * whole : 8 * whole + 8])
            halves = [Signal(32, name=f"parameters_{lane}_{k}") for k in range(2)]
            for k, half in enumerate(halves):
                number, bit = divmod(64 * whole + 32 * k, shape.word_bits)
                with m.If(here[shape.taps + number]):
                    m.d.sync += half.eq(word[bit : bit + 32])
            bias, scale = halves
            channels.append(_Channel(
                weights, bias.as_signed(), scale[:MULTIPLIER], scale[MULTIPLIER : MULTIPLIER + 5],
                scale[MULTIPLIER + 5 : MULTIPLIER + 11],
            ))  # fmt: skip
        return channels

    def _requantized(
        self, m: Module, lane: int, total: Signal, channel: _Channel, at: At, now: int
    ) -> Signal:
        """``total``, there at cycle ``now``, as a byte: ``reference.requantized`` in steps."""
        job = self.job

        def held(value: Value, cycle: int, name: str) -> Signal:
            """From ``cycle`` on that of the tile that begins."""
            signal = Signal(value.shape(), name=f"{name}_{lane}")
            with m.If(at("begin_tile", cycle - 1)):
                m.d.sync += signal.eq(value)
            return signal

        def step(value: Value, width: int, name: str) -> Signal:
            """A cycle later."""
            signal = Signal(signed(width), name=f"{name}_{lane}")
            m.d.sync += signal.eq(value)
            return signal

        before = held(channel.before, now, "before")
        coarse = step(total >> (before[2:] << 2), ACCUMULATOR, "coarse")
        shifted = step(coarse >> register(m, before[:2], f"fine_{lane}"), ACCUMULATOR, "shifted")
        operand = step(_saturated(shifted, OPERAND), OPERAND, "operand")  # now + 3
        m.submodules[f"requantize_{lane}"] = mul = Multiplier(OPERAND, self.primitive)
        m.d.comb += [
            mul.a.eq(operand), mul.b.eq(channel.multiplier), mul.take.eq(at("begin_tile", now + 3)),
        ]  # fmt: skip
        # Multipliers lie in few rows: a cycle to come from there.
        product = register(m, mul.product, f"product_{lane}")
        after = register(m, held(channel.after, now + 5, "after"), f"late_{lane}")
        wide = step(product >> (after[3:] << 3), 2 * OPERAND, "wide")
        value = step(
            wide >> register(m, after[:3], f"rest_{lane}"), 2 * OPERAND, "value"
        )  # now + 8
        small = step(_saturated(value, 11), 11, "small")
        rounded = step(((small + 1) >> 1) + job["zero"], 11, "rounded")
        clamped = step(
            Mux(rounded < job["low"], job["low"], Mux(rounded > job["high"], job["high"], rounded)),
            8, "clamped",
        )  # fmt: skip
        return register(m, clamped, f"byte_{lane}")  # now + 12


def _saturated(value: Signal, width: int) -> Value:
    """``value`` in ``width`` bits."""
    rest, most = value[width - 1 :], (1 << width - 1) - 1
    fits = (rest == 0) | rest.all()
    return Mux(fits, value[:width].as_signed(), Mux(value[-1], -most - 1, most))


def _tree(m: Module, values: Sequence[Value]) -> Value:
    """Their sum, two at a time."""
    while len(values) > 1:
        pairs = []
        for a, b in zip(values[::2], values[1::2], strict=True):
            both = Signal(signed(len(a) + 1))
            m.d.sync += both.eq(a + b)
            pairs.append(both)
        values = pairs
    return values[0]
