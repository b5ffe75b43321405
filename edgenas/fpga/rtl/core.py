"""One job: from a buffer through the lanes to a buffer."""

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal

from edgenas.fpga.commands import ADD, DENSE, OUT, X, Y, Z
from edgenas.fpga.rtl.lanes import REQUANTIZED, LaneGroup, summed
from edgenas.fpga.rtl.loader import Loader
from edgenas.fpga.rtl.memory import Buffer
from edgenas.fpga.rtl.reader import CYCLES, Reader
from edgenas.fpga.rtl.sequencer import ADDRESS, Sequencer
from edgenas.fpga.rtl.wires import copied, delayed, register
from edgenas.fpga.shape import Shape

BEHIND_LANES = 4  # cycles from bytes of the last group to a word in a buffer


def latency(shape: Shape) -> int:
    """Cycles from a read to its bytes, when those of the last group are there."""
    return CYCLES + 2 + shape.groups - 1 + summed(shape) + 1 + REQUANTIZED


class Core(Elaboratable):
    """Runs ``job``, which stays as it is, from ``start`` to ``done`` (both a cycle).

    ``loads``: (enable, address) to write ``loaded`` into X, the weights or the table. O is read at
    ``o_address``, ``o_data`` three cycles later.
    """

    def __init__(self, shape: Shape, job: dict[str, Signal], primitive: bool) -> None:
        self.shape, self.job, self.primitive = shape, job, primitive
        self.start, self.done = Signal(), Signal()
        self.loads = {
            n: (Signal(name=f"{n}_load"), Signal(ADDRESS, name=f"{n}_at"))
            for n in ("x", "weights", "table")
        }
        self.loaded = Signal(shape.word_bits)
        self.o_address, self.o_data = Signal(ADDRESS), Signal(shape.word_bits)
        self.issuing, self.stalled = Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m, shape, job = Module(), self.shape, self.job
        m.submodules.sequencer = seq = Sequencer(shape, job)
        m.submodules.loader = loader = Loader(shape)
        m.submodules.reader = reader = Reader(shape, job)
        m.d.comb += [
            seq.start.eq(self.start), seq.ready.eq(loader.ready),
            loader.start.eq(self.start), loader.base.eq(job["weights"]),
            loader.begin.eq(seq.begin), loader.ends_tile.eq(seq.ends_tile),
            loader.final.eq(seq.final), reader.row.eq(seq.row), reader.tile.eq(seq.tile),
            reader.x.eq(seq.x), reader.y.eq(seq.y),
            self.issuing.eq(seq.issue), self.stalled.eq(seq.waiting),
        ]  # fmt: skip
        targets = self._buffers(m, reader, loader)
        self._written(m, seq, targets, *self._lanes(m, seq, reader, loader))
        return m

    def _buffers(self, m: Module, reader: Reader, loader: Loader) -> dict[int, Buffer]:
        """X, Y, Z and O, and the weights; those to which results are written."""
        shape = self.shape
        sizes = {X: shape.x_words, Y: shape.y_words, Z: shape.z_words, OUT: shape.o_words}
        buffers = {}
        for buffer, words in sizes.items():
            memory = Buffer(shape.word_bits, words, 3, self.primitive)
            m.submodules[f"buffer_{'xyzo'[buffer]}"] = buffers[buffer] = memory
            address, data = reader.ports.get(buffer, (self.o_address, self.o_data))
            m.d.comb += [memory.at.eq(address), data.eq(memory.data)]
        weights = Buffer(shape.word_bits, shape.weight_words, 3, self.primitive)
        m.submodules.weights = weights
        m.d.comb += [weights.at.eq(loader.address), loader.data.eq(weights.data)]
        for memory, name in ((buffers.pop(X), "x"), (weights, "weights")):
            enable, address = self.loads[name]
            m.d.comb += [
                memory.write.eq(enable), memory.to.eq(address), memory.word.eq(self.loaded),
            ]  # fmt: skip
        return buffers

    def _lanes(
        self, m: Module, seq: Sequencer, reader: Reader, loader: Loader
    ) -> tuple[Signal, Signal]:
        """All lanes' bytes, and whether they are a result."""
        shape, job = self.shape, self.job
        control = {
            "emit": seq.emit, "first": seq.first, "last": seq.last, "begin": seq.begin,
            "begin_tile": seq.begin_tile, "shift": seq.issue, "sum": seq.sum,
        }  # fmt: skip
        flow = {k: delayed(m, s, CYCLES + 1, k)[-1] for k, s in control.items()}
        part = reader.word
        if shape.parts > 1:
            part = part.word_select(delayed(m, seq.part, CYCLES, "part")[-1], 8 * shape.taps)
        flow |= {
            "shared": register(m, part, "shared"), "own": register(m, reader.word, "own"),
            "own_second": register(m, reader.second, "own_second"),
            "word": loader.word, "valid": loader.valid, "index": loader.index,
        }  # fmt: skip
        dense, adds = Signal(), Signal()
        m.d.sync += [dense.eq(job["mode"] == DENSE), adds.eq(job["mode"] == ADD)]
        n, last = 8 * shape.lanes_of_group, shape.groups - 1
        results = []
        own = copied if self.primitive else register
        for g in range(shape.groups):
            if g:  # a cycle behind the group before
                flow = {k: own(m, s, f"{k}_{g}") for k, s in flow.items()}
            m.submodules[f"group_{g}"] = group = LaneGroup(shape, g, job, self.primitive)
            mine = {**flow, **{k: flow[k][n * g : n * (g + 1)] for k in ("own", "own_second")}}
            m.d.comb += [
                *(group.control[k].eq(mine.pop(k)) for k in control),
                *(getattr(group, k).eq(s) for k, s in mine.items()),
                group.dense.eq(own(m, dense, f"dense_{g}")),
                group.adds.eq(own(m, adds, f"adds_{g}")),
            ]  # fmt: skip
            results.append(delayed(m, group.bytes, last - g, f"bytes_{g}")[-1])
        return Cat(*results), group.write

    def _written(
        self, m: Module, seq: Sequencer, targets: dict[int, Buffer], word: Signal, write: Signal
    ) -> None:
        """``word``, through the table where the job says so, into the target."""
        shape, job = self.shape, self.job
        whole = register(m, word, "whole")
        enable, address = (register(m, s, f"table_{s.name}") for s in self.loads["table"])
        loaded = register(m, self.loaded, "table_loaded")
        looked_up = []
        for lane in range(shape.lanes):
            m.submodules[f"table_{lane}"] = table = Buffer(8, 256, 1, self.primitive)
            byte = slice(8 * lane, 8 * lane + 8)
            m.d.comb += [
                table.write.eq(enable), table.to.eq(address), table.word.eq(loaded[byte]),
                table.at.eq(whole[byte]),
            ]  # fmt: skip
            looked_up.append(table.data)
        plain = register(m, whole, "plain")
        final = register(m, Mux(job["table"], Cat(*looked_up), plain), "final")
        writing = delayed(m, write, 3, "writing")[-1]
        to = delayed(m, seq.out, latency(shape) + 3, "out")[-1]
        for buffer, memory in targets.items():
            m.d.comb += [
                memory.write.eq(writing & (job["target"] == buffer)), memory.to.eq(to),
                memory.word.eq(final),
            ]  # fmt: skip
        left = Signal(6, name="draining")
        with m.If(seq.finish):
            m.d.sync += left.eq(latency(shape) + BEHIND_LANES)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        m.d.comb += self.done.eq(left == 1)
