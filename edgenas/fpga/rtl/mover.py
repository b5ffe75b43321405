"""Loads and stores, one after another, over a port of a DRAM controller."""

from amaranth.hdl import Array, Elaboratable, Module, Mux, Signal, Value

from edgenas.fpga.commands import (
    COUNT,
    HALT,
    LOAD,
    MOVE,
    MOVES,
    RUNS,
    STORE,
    TABLE,
    WEIGHTS,
    X,
    command_words,
    encode,
)  # fmt: skip
from edgenas.fpga.rtl.job import fields_of
from edgenas.fpga.rtl.memory import Buffer
from edgenas.fpga.rtl.sequencer import ADDRESS
from edgenas.fpga.rtl.wires import delayed
from edgenas.fpga.shape import Shape

DRAM = MOVE["dram"]  # bits of an address, in words
AHEAD = 4  # words that are fetched before the controller takes them; a power of two


class DramPort:
    """That of LiteDRAM's native interface, a word of the accelerator wide."""

    def __init__(self, width: int) -> None:
        self.cmd_valid, self.cmd_ready = Signal(name="cmd_valid"), Signal(name="cmd_ready")
        self.cmd_we, self.cmd_addr = Signal(name="cmd_we"), Signal(DRAM, name="cmd_addr")
        self.wdata_valid, self.wdata_ready = Signal(name="wdata_valid"), Signal(name="wdata_ready")
        self.wdata = Signal(width, name="wdata")
        self.rdata_valid, self.rdata = Signal(name="rdata_valid"), Signal(width, name="rdata")

    def signals(self) -> list[Signal]:
        """All."""
        return list(vars(self).values())


class Mover(Elaboratable):
    """Does the moves of its ring in order, each when as many runs are done as it waits for.

    ``start``: fills the ring from DRAM address 0, which is a move too, and begins. ``targets``:
    (enable, address) of what ``word`` is loaded to. Results are read at
    ``o_address``, ``o_data`` three cycles later.
    """

    def __init__(self, shape: Shape, primitive: bool) -> None:
        self.shape, self.primitive = shape, primitive
        self.start, self.halted = Signal(), Signal()
        self.port = DramPort(shape.word_bits)
        self.runs_done, self.moves_done = Signal(COUNT), Signal(COUNT)
        self.targets = {
            b: (Signal(name=f"load_{b}"), Signal(ADDRESS, name=f"load_{b}_at"))
            for b in (X, WEIGHTS, RUNS, TABLE)
        }
        self.word = Signal(shape.word_bits)
        self.o_address, self.o_data = Signal(ADDRESS), Signal(shape.word_bits)

    def elaborate(self, platform: object) -> Module:
        m, shape, port = Module(), self.shape, self.port
        per = command_words(MOVE, shape.word_bits)
        depth = shape.move_slots * per
        m.submodules.ring = ring = Buffer(shape.word_bits, depth, 1, self.primitive)
        command, move = Signal(per * shape.word_bits, name="command"), {}
        for name, value in fields_of(command, MOVE).items():
            move[name] = Signal(len(value), name=f"move_{name}")
            m.d.comb += move[name].eq(value)
        boot = encode(MOVE, {"kind": LOAD, "buffer": MOVES, "words": depth, "repeats": 1})
        at, part = Signal(range(depth), name="at"), Signal(range(per + 2), name="part")
        # Of commands given to the controller, and of words that came or were fetched.
        given, seen = _Walk("given"), _Walk("seen")
        storing, idle = Signal(name="storing"), Signal(name="queue_idle")
        behind = Signal(COUNT, name="behind")
        m.d.comb += [
            behind.eq(self.runs_done - move["after_runs"]),
            ring.at.eq(at),
        ]
        with m.FSM(name="mover"):
            with m.State("idle"), m.If(self.start):
                m.d.sync += [
                    command.eq(boot), self.moves_done.eq(0), at.eq(0), self.halted.eq(0),
                ]  # fmt: skip
                m.next = "begin"
            with m.State("fetch"):
                m.d.sync += [part.eq(part + 1), at.eq(Mux(at == depth - 1, 0, at + 1))]
                with m.If(part != 0):
                    last = ring.data << (per - 1) * shape.word_bits
                    m.d.sync += command.eq(command >> shape.word_bits | last)
                with m.If(part == per):
                    m.d.sync += [part.eq(0), at.eq(at)]
                    m.next = "wait"
            with m.State("wait"), m.If(~behind[-1]):
                m.next = "begin"
            with m.State("begin"):
                m.d.sync += [
                    *given.begin(move), *seen.begin(move), storing.eq(move["kind"] == STORE),
                ]  # fmt: skip
                m.next = "move"
                with m.If(move["kind"] == HALT):
                    m.d.sync += self.halted.eq(1)
                    m.next = "idle"
            with m.State("move"), m.If(seen.over & given.over & idle):
                m.d.sync += self.moves_done.eq(self.moves_done + 1)
                m.next = "fetch"
        m.d.comb += [
            port.cmd_valid.eq(~given.over), port.cmd_we.eq(storing), port.cmd_addr.eq(given.dram),
        ]  # fmt: skip
        with m.If(port.cmd_valid & port.cmd_ready):
            given.step(m, move)
        arriving = Signal(name="arriving")
        m.d.comb += [arriving.eq(port.rdata_valid & ~storing), self.word.eq(port.rdata)]
        for buffer, (enable, address) in (
            *self.targets.items(), (MOVES, (ring.write, ring.to)),
        ):  # fmt: skip
            m.d.comb += [
                enable.eq(arriving & (move["buffer"] == buffer)), address.eq(seen.buffer),
            ]  # fmt: skip
        m.d.comb += [ring.word.eq(port.rdata), self.o_address.eq(seen.buffer)]
        fetching = Signal(name="fetching")
        m.d.comb += idle.eq(self._stored(m, fetching, storing & ~seen.over))
        with m.If(arriving | fetching):
            seen.step(m, move)
        return m

    def _stored(self, m: Module, fetching: Signal, more: Value) -> Value:
        """Results to the controller; ``fetching`` the next word, while there are ``more``.

        Whether none is on its way.
        """
        port = self.port
        queue = Array(Signal(self.shape.word_bits, name=f"queue_{i}") for i in range(AHEAD))
        head, tail = (Signal(range(AHEAD), name=n) for n in ("head", "tail"))
        filled, flying = (Signal(range(AHEAD + 1), name=n) for n in ("filled", "flying"))
        popped = Signal(name="popped")
        pushed = delayed(m, fetching, 3, "pushed")[-1]
        m.d.comb += [
            fetching.eq(more & (flying + filled < AHEAD)), port.wdata_valid.eq(filled != 0),
            port.wdata.eq(queue[head]), popped.eq(port.wdata_valid & port.wdata_ready),
        ]  # fmt: skip
        m.d.sync += [
            flying.eq(flying + fetching - pushed), filled.eq(filled + pushed - popped),
            head.eq(head + popped), tail.eq(tail + pushed),
        ]  # fmt: skip
        with m.If(pushed):
            m.d.sync += queue[tail].eq(self.o_data)
        return (filled == 0) & (flying == 0)


class _Walk:
    """Addresses of a move, word by word."""

    def __init__(self, name: str) -> None:
        self.dram, self.buffer = (
            Signal(DRAM, name=f"{name}_dram"),
            Signal(ADDRESS, name=f"{name}_at"),
        )
        self._row, self._column = (
            Signal(DRAM, name=f"{name}_row"),
            Signal(ADDRESS, name=f"{name}_col"),
        )
        self._words = Signal(MOVE["words"], name=f"{name}_words")
        self._rows = Signal(MOVE["repeats"], name=f"{name}_rows")
        self.over = Signal(name=f"{name}_over", init=1)

    def begin(self, move: dict[str, Signal]) -> list[Value]:
        """At the first word."""
        return [
            self.dram.eq(move["dram"]), self._row.eq(move["dram"]), self.buffer.eq(move["start"]),
            self._column.eq(move["start"]), self._words.eq(move["words"]),
            self._rows.eq(move["repeats"]), self.over.eq(move["kind"] == HALT),
        ]  # fmt: skip

    def step(self, m: Module, move: dict[str, Signal]) -> None:
        """To the next word."""
        row, column = self._row + move["dram_step"], self._column + move["step"]
        m.d.sync += [
            self.dram.eq(self.dram + 1), self.buffer.eq(self.buffer + 1),
            self._words.eq(self._words - 1),
        ]  # fmt: skip
        with m.If(self._words == 1):
            m.d.sync += [
                self._words.eq(move["words"]), self._rows.eq(self._rows - 1), self.dram.eq(row),
                self._row.eq(row), self.buffer.eq(column), self._column.eq(column),
                self.over.eq(self._rows == 1),
            ]  # fmt: skip
