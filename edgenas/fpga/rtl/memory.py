"""Memory of the chip: one port writes, the other reads."""

from amaranth.hdl import Cat, ClockSignal, Const, Elaboratable, Instance, Module, Signal, Value
from amaranth.lib.memory import Memory

from edgenas.fpga.rtl.wires import copied, delayed, register

# Words that a DP16KD holds, and bits of each.
_WIDTHS = {1024: 18, 2048: 9, 4096: 4, 8192: 2, 16384: 1}
_ADDRESS = 14  # bits, of which the lower ones are bits of a word
_NEAR = 8  # blocks that share a register of addresses: more lie too far apart


class Buffer(Elaboratable):
    """``depth`` words of ``width`` bits: ``data`` is that at ``at``, ``cycles`` later.

    While ``write``, ``word`` goes ``to``. One cycle is the memory's own; the second that of its
    output registers; with a third all inputs have registers too, a copy for some blocks each.
    What is read while it is written may not be used: the chip leaves it open, and the simulation
    inverts it. ``primitive``: made of the DP16KD of Lattice's ECP5.
    """

    def __init__(self, width: int, depth: int, cycles: int, primitive: bool) -> None:
        self.width, self.depth, self.cycles, self.primitive = width, depth, cycles, primitive
        bits = (depth - 1).bit_length()
        self.at, self.data = Signal(bits), Signal(width)
        self.write, self.to, self.word = Signal(), Signal(bits), Signal(width)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inputs: Value = Cat(self.at, self.to, self.write)
        if self.primitive:
            self._blocks(m, inputs)
        else:
            if self.cycles == 3:
                inputs = register(m, inputs, "in")
            self._behaviour(m, inputs)
        return m

    def _split(self, inputs: Value) -> tuple[Value, Value, Value]:
        """Both addresses, and whether to write."""
        n = len(self.at)
        return inputs[:n], inputs[n : 2 * n], inputs[2 * n]

    def _behaviour(self, m: Module, inputs: Value) -> None:
        at, to, writes = self._split(inputs)
        word = register(m, self.word, "word_in") if self.cycles == 3 else self.word
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=[])
        read, write, collided = memory.read_port(), memory.write_port(), Signal()
        m.d.sync += collided.eq(writes & (to == at))
        found = Signal(self.width)
        m.d.comb += [
            read.addr.eq(at), read.en.eq(1), write.en.eq(writes), write.addr.eq(to),
            write.data.eq(word), found.eq(read.data ^ collided.replicate(self.width)),
            self.data.eq(delayed(m, found, min(self.cycles, 2) - 1, "found")[-1]),
        ]  # fmt: skip

    def _blocks(self, m: Module, inputs: Value) -> None:
        entries = min(n for n in _WIDTHS if n >= self.depth)
        each = _WIDTHS[entries]
        unused = _ADDRESS - (entries - 1).bit_length()
        own, word = inputs, copied(m, self.word, "word_in") if self.cycles == 3 else self.word
        for number, first in enumerate(range(0, self.width, each)):
            if self.cycles == 3 and number % _NEAR == 0:
                own = copied(m, inputs, f"in_{number}")
            at, to, writes = self._split(own)
            data = self.data[first : first + each]
            # The lowest address bits of a word of two bytes enable them for writing.
            below = Const(3 if each == 18 else 0, unused)
            pins: dict[str, Value] = {
                **_pins("i_ADA", Cat(below, to), _ADDRESS),
                **_pins("i_ADB", Cat(Const(0, unused), at), _ADDRESS),
                **_pins("i_DIA", word[first : first + each], 18),
                **_pins("i_DIB", Const(0, 18), 18),
                **{f"o_DOB{i}": data[i] for i in range(len(data))},
                **{f"i_{pin}": Const(0) for pin in ("RSTA", "RSTB", "WEB")},
                **{f"i_CS{port}{i}": Const(0) for port in "AB" for i in range(3)},
                **{f"i_{pin}": Const(1) for pin in ("CEA", "CEB", "OCEA", "OCEB")},
            }
            m.submodules[f"block_{number}"] = Instance(
                "DP16KD", p_DATA_WIDTH_A=each, p_DATA_WIDTH_B=each, p_REGMODE_A="NOREG",
                p_REGMODE_B="NOREG" if self.cycles == 1 else "OUTREG", p_RESETMODE="SYNC",
                p_ASYNC_RESET_RELEASE="SYNC", p_CSDECODE_A="0b000", p_CSDECODE_B="0b000",
                p_WRITEMODE_A="NORMAL", p_WRITEMODE_B="NORMAL", p_GSR="AUTO",
                i_CLKA=ClockSignal(), i_CLKB=ClockSignal(), i_WEA=writes, **pins,
            )  # fmt: skip


def _pins(name: str, value: Value, count: int) -> dict[str, Value]:
    """Each bit of ``value``, zeros above."""
    return {f"{name}{i}": value[i] if i < len(value) else Const(0) for i in range(count)}
