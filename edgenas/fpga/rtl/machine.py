"""The accelerator: a core that runs jobs, a mover beside it, each with commands of its own."""

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal

from edgenas.fpga.commands import COUNT, FIRST_AFTER, RUN, RUNS, TABLE, WEIGHTS, X, command_words
from edgenas.fpga.rtl.core import Core
from edgenas.fpga.rtl.job import fields_of, registers
from edgenas.fpga.rtl.memory import Buffer
from edgenas.fpga.rtl.mover import Mover
from edgenas.fpga.rtl.wires import register
from edgenas.fpga.shape import Shape

COUNTERS = ("cycles", "running", "issued", "stalled")


class Machine(Elaboratable):
    """``start`` for a cycle: executes the program at DRAM address 0, to ``halted``.

    Counters, cleared by ``start``: cycles since, those in which a job ran, in which it read, in
    which it waited for weights. ``primitive``: multipliers are those of Lattice's ECP5.
    """

    def __init__(self, shape: Shape, primitive: bool = False) -> None:
        self.shape, self.primitive = shape, primitive
        self.start, self.halted = Signal(name="start"), Signal(name="halted")
        self.mover = Mover(shape, primitive)
        self.job = registers(RUN)
        self.core = Core(shape, self.job, primitive)
        self.counters = {n: Signal(32, name=n) for n in COUNTERS}

    def ports(self) -> list[Signal]:
        """All."""
        return [self.start, self.halted, *self.mover.port.signals(), *self.counters.values()]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.mover, m.submodules.core = mover, core = self.mover, self.core
        m.d.comb += [
            mover.start.eq(self.start), self.halted.eq(mover.halted), core.loaded.eq(mover.word),
            core.o_address.eq(mover.o_address), mover.o_data.eq(core.o_data),
        ]  # fmt: skip
        for buffer, name in ((X, "x"), (WEIGHTS, "weights"), (TABLE, "table")):
            m.d.comb += [
                a.eq(b) for a, b in zip(core.loads[name], mover.targets[buffer], strict=True)
            ]
        running = self._runner(m)
        counted = (~self.halted, running, core.issuing, core.stalled)
        for counter, now in zip(self.counters.values(), counted, strict=True):
            m.d.sync += counter.eq(Mux(self.start, 0, counter + now))
        return m

    def _runner(self, m: Module) -> Signal:
        """Jobs of the ring, in order, each when as many moves are done as it waits for."""
        shape, core, moved = self.shape, self.core, self.mover.moves_done
        per = command_words(RUN, shape.word_bits)
        depth = shape.run_slots * per
        m.submodules.ring = ring = Buffer(shape.word_bits, depth, 1, self.primitive)
        enable, to = self.mover.targets[RUNS]
        command = Signal(per * shape.word_bits, name="command")
        wanted = fields_of(command, RUN)
        at, part = Signal(range(depth), name="at"), Signal(range(per + 2), name="part")
        awaited, absent, behind = (Signal(COUNT, name=n) for n in ("awaited", "absent", "behind"))
        done, running = Signal(COUNT, name="runs_done"), Signal(name="running_now")
        m.d.comb += [
            ring.write.eq(enable), ring.to.eq(to), ring.word.eq(self.mover.word), ring.at.eq(at),
            self.mover.runs_done.eq(done), behind.eq(moved - wanted["after_moves"]),
            absent.eq(moved - awaited),
        ]  # fmt: skip
        # Registers of their own: the job's many lie all over the chip.
        reached, take = register(m, ~behind[-1], "reached"), Signal(name="take_job")
        m.d.sync += take.eq(0)
        with m.If(take):
            m.d.sync += [signal.eq(wanted[name]) for name, signal in self.job.items()]
        with m.FSM(name="runner"):
            with m.State("idle"), m.If(self.start):
                m.d.sync += [at.eq(0), done.eq(0), awaited.eq(FIRST_AFTER)]
                m.next = "ring"
            with m.State("ring"), m.If(~absent[-1]):
                m.next = "fetch"
            with m.State("fetch"):
                m.d.sync += [part.eq(part + 1), at.eq(Mux(at == depth - 1, 0, at + 1))]
                with m.If(part != 0):
                    m.d.sync += command.eq(Cat(command[shape.word_bits :], ring.data))
                with m.If(part == per):
                    m.d.sync += [part.eq(0), at.eq(at)]
                    m.next = "compare"
            with m.State("compare"):
                m.next = "wait"
            with m.State("wait"), m.If(reached):
                m.d.sync += take.eq(1)
                m.next = "take"
            with m.State("take"):
                m.next = "settle"
            with m.State("settle"):
                m.next = "start"
            with m.State("start"):
                m.d.comb += core.start.eq(1)
                m.d.sync += running.eq(1)
                m.next = "run"
            with m.State("run"), m.If(core.done):
                m.d.sync += [done.eq(done + 1), running.eq(0), awaited.eq(wanted["next_after"])]
                m.next = "ring"
                with m.If(wanted["final"]):
                    m.next = "idle"
        return running
