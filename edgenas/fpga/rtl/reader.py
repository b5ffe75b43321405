"""From coordinates to a word of activations: addresses, buffers, padding."""

from amaranth.hdl import Array, Elaboratable, Module, Mux, Signal, signed

from edgenas.fpga.commands import X, Y, Z
from edgenas.fpga.rtl.sequencer import ADDRESS, COORDINATE
from edgenas.fpga.rtl.wires import delayed, register
from edgenas.fpga.shape import Shape

CYCLES = 6  # from coordinates to ``word``


class Reader(Elaboratable):
    """``word``: ``CYCLES`` after its coordinates; ``second``: that of Y beside it, for additions.

    ``ports``: (address, data three cycles later) of the buffers that are read.
    """

    def __init__(self, shape: Shape, job: dict[str, Signal]) -> None:
        self.shape, self.job = shape, job
        self.row, self.tile = Signal(ADDRESS), Signal(ADDRESS)
        self.x, self.y = Signal(signed(COORDINATE)), Signal(signed(COORDINATE))
        self.ports = {
            buffer: (
                Signal(ADDRESS, name=f"{n}_address"),
                Signal(shape.word_bits, name=f"{n}_data"),
            )
            for buffer, n in ((X, "x"), (Y, "y"), (Z, "z"))
        }
        self.word, self.second = Signal(shape.word_bits), Signal(shape.word_bits)

    def elaborate(self, platform: object) -> Module:
        m, job = Module(), self.job
        base = register(m, self.row + self.tile, "base")
        x1 = register(m, self.x, "x1")
        address = Signal(ADDRESS)
        m.d.sync += address.eq(base + x1)
        for buffer, (port, _) in self.ports.items():
            m.d.comb += port.eq(address + job["second"] if buffer == Y else address)
        sides = Signal(4)
        m.d.sync += sides.eq(
            (self.x < 0) | (self.y < 0) << 1
            | (self.x >= job["width"]) << 2 | (self.y >= job["height"]) << 3
        )  # fmt: skip
        outside = Signal()
        m.d.sync += outside.eq(sides.any())
        outside = delayed(m, outside, 3, "outside")[3]
        read = {b: data for b, (_, data) in self.ports.items()}
        padding = Signal(self.shape.word_bits)
        for lane in range(self.shape.lanes):
            m.d.comb += padding[8 * lane : 8 * lane + 8].eq(job["padding"])
        chosen = Array([read[X], read[Y], read[Z], read[Z]])[job["source"]]
        m.d.sync += [self.word.eq(Mux(outside, padding, chosen)), self.second.eq(read[Y])]
        return m
