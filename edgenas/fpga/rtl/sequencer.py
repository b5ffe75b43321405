"""Which word is read, and what becomes of it: one a cycle.

Loops, outermost first: output tiles, kernel rows, kernel columns, input groups (so far an
iteration), rows, columns. The next iteration is worked out while the present one runs.
"""

from dataclasses import dataclass

from amaranth.hdl import Elaboratable, Module, Mux, Signal, Value, signed

from edgenas.fpga.commands import DENSE, RUN
from edgenas.fpga.rtl.wires import register
from edgenas.fpga.shape import Shape

ADDRESS = 14
COORDINATE = 13
SETTLE = 4  # cycles from a step of the counters until all that follows from them holds


@dataclass(frozen=True)
class _Iteration:
    """The next one. ``begins``, ``ends``: it is the first, the last of a tile."""

    valid: Signal
    tile: Signal
    row: Signal
    x: Signal
    y: Signal
    sum: Signal
    out: Signal
    part: Value
    begins: Signal
    ends: Signal
    last_tile: Signal


class Sequencer(Elaboratable):
    """In: ``job``; ``start``; ``ready``: weights of the next iteration will be there.

    Out, for each read: ``issue``; where: ``row`` + ``tile`` + ``x``, which lies at (``x``, ``y``)
    of the map, and ``part`` of the word; ``emit``: a sum is complete, or a part of it, which is the
    ``first`` or the ``last``; the ``sum`` it belongs to, and ``out``, the word that it makes.
    ``begin``, ``begin_tile``: with the first read. ``ends_tile``, ``final``: of this iteration.
    ``finish``: behind the last read.
    """

    def __init__(self, shape: Shape, job: dict[str, Signal]) -> None:
        self.shape, self.job = shape, job
        self.start, self.ready = Signal(), Signal()
        self.issue, self.emit, self.waiting = (Signal() for _ in range(3))
        self.begin, self.begin_tile = Signal(), Signal()
        self.first, self.last, self.finish = (Signal() for _ in range(3))
        self.ends_tile, self.final = Signal(), Signal()
        self.row, self.tile = Signal(ADDRESS), Signal(ADDRESS)
        self.x, self.y = Signal(signed(COORDINATE)), Signal(signed(COORDINATE))
        self.sum, self.out = Signal(RUN["sums"]), Signal(ADDRESS)
        self.part = Signal((shape.parts - 1).bit_length())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        take = Signal(name="take")
        self._walk(m, self._next(m, take), take)
        return m

    def _next(self, m: Module, take: Signal) -> _Iteration:
        """The first iteration from ``start`` on, the following one whenever one is taken."""
        job, shape = self.job, self.shape
        names = ("tiles", "ky", "kx", "inputs")
        loops = {name: Signal(RUN[name], name=f"at_{name}") for name in names}
        over = {
            name: register(m, at == job[name] - 1, f"last_{name}") for name, at in loops.items()
        }
        dense = register(m, job["mode"] == DENSE, "dense")
        whole = register(m, over["inputs"] & over["kx"] & over["ky"], "whole")
        begins = register(
            m, (loops["inputs"] == 0) & (loops["kx"] == 0) & (loops["ky"] == 0), "begins"
        )
        part = loops["inputs"][: len(self.part)]
        ends_word = register(m, part == shape.parts - 1 if len(part) else dense | 1, "ends_word")
        column = register(
            m, Mux(dense, loops["kx"], loops["kx"] << (shape.taps - 1).bit_length()), "column"
        )
        x, y = (Signal(signed(COORDINATE), name=f"next_{n}") for n in "xy")
        m.d.sync += [x.eq(job["x_start"] + column), y.eq(job["y_start"] + loops["ky"])]
        tile, row, out = (Signal(ADDRESS, name=f"next_{n}") for n in ("tile", "row", "out"))
        sums, valid = Signal.like(self.sum, name="next_sum"), Signal(name="next_valid")
        below = register(m, row + job["pitch"], "below")
        wraps = register(m, row + job["pitch"] >= job["ring_end"], "wraps")
        settling = Signal(range(SETTLE + 1), name="settling")
        with m.If(self.start):
            m.d.sync += [
                *(at.eq(0) for at in loops.values()), tile.eq(0), row.eq(job["row_start"]),
                sums.eq(job["sums"]), out.eq(job["out_start"]), valid.eq(0),
                settling.eq(SETTLE - 1),
            ]  # fmt: skip
        with m.Elif(take):
            m.d.sync += [valid.eq(0), settling.eq(SETTLE)]
        with m.Elif(settling != 0):
            m.d.sync += [settling.eq(settling - 1), valid.eq(settling == 1)]
        with m.If(settling == SETTLE):
            m.d.sync += loops["inputs"].eq(Mux(over["inputs"], 0, loops["inputs"] + 1))
            with m.If(dense):
                onward = Mux(ends_word, tile + job["plane"], tile)
                m.d.sync += tile.eq(Mux(over["inputs"], 0, onward))
            with m.Elif(whole):
                m.d.sync += tile.eq(tile + job["plane"])
            with m.If(over["inputs"]):
                m.d.sync += loops["kx"].eq(Mux(over["kx"], 0, loops["kx"] + 1))
                with m.If(over["kx"]):
                    onward = Mux(wraps, below - job["ring"], below)[:ADDRESS]
                    m.d.sync += [
                        loops["ky"].eq(Mux(over["ky"], 0, loops["ky"] + 1)),
                        row.eq(Mux(over["ky"], job["row_start"], onward)),
                    ]
            with m.If(whole):
                m.d.sync += [
                    loops["tiles"].eq(loops["tiles"] + 1), out.eq(out + job["out_plane"]),
                    sums.eq(sums + job["sums_step"]),
                ]  # fmt: skip
        return _Iteration(valid, tile, row, x, y, sums, out, part, begins, whole, over["tiles"])

    def _walk(self, m: Module, following: _Iteration, take: Signal) -> None:
        """Rows and columns of an iteration; ``take`` the following one when this one is over."""
        job = self.job
        left, rows = Signal(RUN["issues"], name="left"), Signal(RUN["rows"], name="rows_left")
        ends_row, last_row = Signal(name="ends_row"), Signal(name="last_row")
        filling = Signal(RUN["warmup"], name="filling")  # reads until the window is full
        x_start, out_row = Signal.like(self.x, name="x_from"), Signal(ADDRESS, name="out_row")
        # All less one, and what the ring takes off, settle before a job begins.
        issues, height, warmup, every = (
            register(m, (job[n] - 1)[: RUN[n]], f"{n}_less_1")
            for n in ("issues", "rows", "warmup", "every")
        )
        wrap_at = register(m, job["ring_end"] - job["row_step"], "wrap_at")
        wrapped = register(m, job["row_step"] - job["ring"], "wrapped")
        going, over = Signal(name="going"), Signal(name="over")
        onward = Mux(self.row >= wrap_at, self.row + wrapped, self.row + job["row_step"])
        out_onward = out_row + job["out_pitch"]
        m.d.comb += [
            self.issue.eq(going), self.emit.eq(going & (filling == 0)),
            over.eq(going & ends_row & last_row),
            take.eq(following.valid & self.ready & (self.waiting | (over & ~self.final))),
        ]  # fmt: skip
        m.d.sync += [self.begin.eq(0), self.begin_tile.eq(0), self.finish.eq(0)]
        with m.If(self.start):
            m.d.sync += [self.waiting.eq(1), self.final.eq(0)]
        with m.If(going):
            m.d.sync += [
                left.eq(left - 1), ends_row.eq(left == 1), self.x.eq(self.x + job["x_step"]),
                filling.eq(Mux(filling == 0, every, filling - 1)),
            ]  # fmt: skip
            with m.If(self.emit):
                m.d.sync += [self.sum.eq(self.sum + 1), self.out.eq(self.out + 1)]
            with m.If(ends_row):
                m.d.sync += [
                    left.eq(issues), ends_row.eq(issues == 0), rows.eq(rows - 1),
                    last_row.eq(rows == 1), self.x.eq(x_start), self.y.eq(self.y + job["y_step"]),
                    self.row.eq(onward), out_row.eq(out_onward), self.out.eq(out_onward),
                    filling.eq(warmup),
                ]  # fmt: skip
        with m.If(over):
            m.d.sync += [going.eq(0), self.finish.eq(self.final), self.waiting.eq(~self.final)]
        with m.If(take):
            m.d.sync += [
                going.eq(1), self.waiting.eq(0), self.begin.eq(1),
                self.begin_tile.eq(following.begins), left.eq(issues), ends_row.eq(issues == 0),
                rows.eq(height), last_row.eq(height == 0), filling.eq(warmup),
                self.x.eq(following.x), x_start.eq(following.x), self.y.eq(following.y),
                self.row.eq(following.row), self.tile.eq(following.tile),
                self.part.eq(following.part), self.sum.eq(following.sum),
                self.out.eq(following.out), out_row.eq(following.out),
                self.first.eq(following.begins & job["first"]),
                self.last.eq(following.ends & job["last"]), self.ends_tile.eq(following.ends),
                self.final.eq(following.ends & following.last_tile),
            ]  # fmt: skip
