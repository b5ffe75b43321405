"""What LiteDRAM's own controller makes of the accelerator's accesses, beside our model of it.

    python benchmarks/litedram.py [--quick] [--mhz 50]

Makes the controller that LiteDRAM has for a DDR3 on an ECP5, at the clock of the device ecp5-85f,
in a Python environment of its own, and simulates it by Verilator; every word is checked. Measured
are plain patterns, the moves of whole networks one after another as the mover makes them, and whole
programs: the accelerator's RTL on that controller. Beside them stands what edgenas/fpga/cycles.py
says with the device's steady rate, and the rate that fits best without being optimistic.

``litedram_gen --sim`` is measured too, and so is a refresh as long as the chip needs it. Not
simulated: the PHY, of hard blocks (its latencies are kept), and its training at start.

Writes benchmarks/results/litedram.json; --quick (one small network) writes nothing.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from math import ceil, gcd
from pathlib import Path
from typing import Any

import numpy as np
from known_networks import Accelerated, accelerator, integers, mobilenet_v1, mobilenet_v2
from results_file import write_results
from torch import nn

from edgenas.errors import CapabilityError, DeviceError
from edgenas.fpga.commands import HALT, MOVE, STORE, command_words
from edgenas.fpga.cycles import Dram, total_cycles
from edgenas.fpga.lower import values
from edgenas.fpga.network import INPUT
from edgenas.fpga.shape import Shape
from edgenas.fpga.simulator import simulator_path, verilated
from edgenas.runtimes.rtl import Rtl
from edgenas.sentinel import cache_folder
from edgenas.space import load_space

HERE = Path(__file__).parent
PINNED = {"litedram": "2024.12", "litex": "2024.12", "migen": "0.10.0"}
MODULE = "MT41K256M16"
FITTED_ON = 3  # networks; the others are held out
ROWS = 4096  # of each bank that are kept in memory
ROW, ALL_BANKS = 128, 1024  # words of a row, and of that row of all banks
BURSTS = (8, 32, 64, 128, 512)
STREAM = 16384  # words of a pattern
SINGLE = 600  # accesses that are timed each
# What the mover needs before a store's first word is there.
FETCH = 4
# What stands for the accelerator where nothing but patterns is measured.
NOBODY = """
module machine(input clk, input rst, input start, output halted, output [31:0] cycles,
    output cmd_valid, input cmd_ready, output cmd_we, output [23:0] cmd_addr, output wdata_valid,
    input wdata_ready, output [127:0] wdata, input rdata_valid, input [127:0] rdata);
  assign {halted, cycles, cmd_valid, cmd_we, cmd_addr, wdata_valid, wdata} = 0;
endmodule
"""
Row = tuple[int, int, int, int, int, int]  # write, address, words, repeats, step, alone


def interpreter() -> Path:
    """Python with LiteDRAM, installed unless it is there. CapabilityError where that fails."""
    digest = hashlib.sha256(repr((PINNED, sys.version)).encode()).hexdigest()[:16]
    home = cache_folder() / "litedram" / digest
    python = home / "bin" / "python"
    if not (home / "installed").exists():
        pinned = [f"{name}=={pin}" for name, pin in PINNED.items()]
        _said([sys.executable, "-m", "venv", "--clear", str(home)], "no environment for LiteDRAM")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        _said([*pip, *pinned], "LiteDRAM is not installed")
        (home / "installed").touch()
    return python


def _said(argv: Sequence[str], wrong: str) -> str:
    done = subprocess.run(
        argv, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise CapabilityError(f"{wrong}: {last[-1]}")
    return done.stdout


@dataclass(frozen=True)
class Times:
    """Of moves, in cycles: to the first word and the last, and when that was since the start."""

    first: np.ndarray
    last: np.ndarray
    end: np.ndarray

    def part(self, chosen: slice | np.ndarray) -> "Times":
        """Of some."""
        return Times(self.first[chosen], self.last[chosen], self.end[chosen])

    @property
    def all(self) -> int:
        """From the first command to the last word."""
        return int(self.end[-1] - self.end[0] + self.last[0])


@dataclass(frozen=True)
class Controller:
    """A controller in simulation; ``made``: what LiteDRAM says of it."""

    simulator: Path
    made: dict[str, Any]

    @classmethod
    def of(
        cls, phy: str, mhz: float, work: Path, machine: str = NOBODY, refresh: str = "shipped"
    ) -> "Controller":
        """Built in the new folder ``work``, with ``machine`` (Verilog) on its port."""
        work.mkdir()
        verilog, board, other = (work / f"{n}.v" for n in ("litedram", "board", "machine"))
        said = _said(
            # Isolated, for this file has the name of what that one imports.
            [str(interpreter()), "-I", str(HERE / "litedram_core.py"),
             str(mhz), phy, MODULE, str(ROWS), refresh, str(verilog)],
            "LiteDRAM makes no controller",
        )  # fmt: skip
        shutil.copyfile(HERE / "litedram_board.v", board)
        other.write_text(machine, encoding="utf-8")
        bench = HERE / "litedram_bench.cpp"
        return cls(verilated([verilog, board, other], "board", bench, work), json.loads(said))

    def play(self, rows: Sequence[Row], gap: int) -> Times:
        """All moves, one after another. Raises DeviceError where a word is wrong."""
        words = max(r[1] + (r[3] - 1) * r[4] + r[2] for r in rows)
        if words > self.made["words"]:
            raise DeviceError(f"{words} words, and the DRAM has {self.made['words']}")
        with tempfile.NamedTemporaryFile(prefix="edgenas-moves-") as file:
            np.array(rows, np.int32).tofile(file.name)
            said = self._run("moves", file.name, str(gap), str(words))
        return Times(*np.array([line.split() for line in said.splitlines()], np.int64).T)

    def execute(self, image: np.ndarray, limit: int) -> tuple[np.ndarray, dict[str, int]]:
        """As simulate() of edgenas.fpga.simulator."""
        if len(image) > self.made["words"]:
            raise DeviceError(f"{len(image)} words, and the DRAM has {self.made['words']}")
        with tempfile.NamedTemporaryFile(prefix="edgenas-dram-") as file:
            image.tofile(file.name)
            counted = json.loads(self._run("program", file.name, str(limit)))
            return np.fromfile(file.name, np.uint8).reshape(image.shape), counted

    def _run(self, *argv: str) -> str:
        done = subprocess.run(
            [str(self.simulator), *argv],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise DeviceError(done.stderr.strip() or f"the bench ended with {done.returncode}")
        return done.stdout


def patterns() -> Iterator[tuple[dict[str, Any], list[Row]]]:
    """What is asked for, and its moves."""
    for write in (0, 1):
        what = {"access": "write" if write else "read"}
        yield {**what, "pattern": "sequential"}, [(write, 0, STREAM, 1, 0, 1)]
        for burst in BURSTS:
            # From row to row of the same bank is the worst there is.
            for jump, to in ((ALL_BANKS, "same bank"), (ALL_BANKS + ROW, "next bank")):
                yield (
                    {**what, "pattern": "strided", "burst": burst, "jump": to},
                    [(write, 0, burst, STREAM // burst, jump, 1)],
                )
    half = ROWS // 4 * ALL_BANKS
    for burst in BURSTS:
        rows: list[Row] = []
        for i in range(STREAM // burst // 2):
            rows += [(0, i * burst, burst, 1, 0, i == 0), (1, half + i * burst, burst, 1, 0, 0)]
        yield {"access": "read, write", "pattern": "in turn", "burst": burst}, rows
    draw = random.Random(0)
    for write, far in product((0, 1), (False, True)):
        at = [
            draw.randrange(half // ALL_BANKS) * ALL_BANKS + ROW * 2 if far else i % ROW
            for i in range(SINGLE)
        ]
        yield (
            {"access": "write" if write else "read", "pattern": "single",
             "row": "another" if far else "open"},
            [(write, a, 1, 1, 0, 1) for a in at],
        )  # fmt: skip


def measured(controller: Controller, gap: int, per: float = 1) -> list[dict[str, Any]]:
    """Of all patterns; ``per``: cycles of the accelerator in one of the controller."""
    asked = list(patterns())
    times = controller.play([row for _, rows in asked for row in rows], gap)
    found, at = [], 0
    for what, rows in asked:
        its = times.part(slice(at, at + len(rows)))
        at += len(rows)
        if what["pattern"] == "single":
            took = its.last * per
            numbers = {
                "least": int(took.min()), "median": float(np.median(took)),
                "mean": float(took.mean()), "most": int(took.max()),
            }  # fmt: skip
        else:
            numbers = {"words_per_cycle": sum(r[2] * r[3] for r in rows) / its.all / per}
        found.append({**what, **numbers})
    return found


def apart(shape: Shape) -> int:
    """Cycles from a move's last word to the next one's first command, as in cycles.py."""
    return 5 + command_words(MOVE, shape.word_bits)


def line(row: dict[str, Any]) -> str:
    """Of the table of patterns."""
    said = f"{row['access']}, {row['pattern']}"
    said += "".join(f", {n} {row[n]}" for n in ("burst", "jump", "row") if n in row)
    if "words_per_cycle" in row:
        return f"  {said:<46}{row['words_per_cycle']:.3f} words a cycle"
    numbers = "  ".join(f"{n} {row[n]:.0f}" for n in ("least", "median", "mean", "most"))
    return f"  {said:<46}{numbers} cycles"


@dataclass(frozen=True)
class Moved:
    """The moves of a program, and what the controller took for each."""

    name: str
    run: Accelerated
    write: np.ndarray
    words: np.ndarray
    took: np.ndarray

    @classmethod
    def of(cls, name: str, run: Accelerated, controller: Controller) -> "Moved":
        """The boot is the first."""
        commands = run.program.commands
        per = command_words(MOVE, commands.shape.word_bits)
        rows: list[Row] = [(0, 0, commands.shape.move_slots * per, 1, 0, 1)]
        rows += [
            (int(m["kind"] == STORE), m.get("dram", 0), m["words"], m["repeats"],
             m.get("dram_step", 0), 1)
            for m in commands.moves if m["kind"] != HALT
        ]  # fmt: skip
        times = controller.play(rows, apart(commands.shape))
        table = np.array(rows)
        return cls(name, run, table[:, 0] == 1, table[:, 2] * table[:, 3], times.last)

    def modelled(self, dram: Dram, write: bool) -> np.ndarray:
        """Cycles from the first command to the last word, as cycles.py has them."""
        words, of = dram.writes if write else dram.reads
        more = np.maximum(0, -(-(of * self.words[self.write == write] - (of + words - 1)) // words))
        return np.asarray((FETCH if write else dram.latency) + more)

    def error(self, dram: Dram, write: bool) -> float:
        """Of the sum, of what was measured; below 0 where the model is too fast."""
        return float(self.modelled(dram, write).sum() / self.took[self.write == write].sum() - 1)

    def compared(self, dram: Dram) -> dict[str, Any]:
        """Reads and writes apart; ``typical``: mean error of a move, either way."""
        found = {}
        for write in (False, True):
            of, took = self.modelled(dram, write), self.took[self.write == write]
            found["writes" if write else "reads"] = {
                "moves": len(of), "words": int(self.words[self.write == write].sum()),
                "cycles": int(took.sum()), "modelled": int(of.sum()),
                "error": self.error(dram, write),
                "typical": float(np.abs(of / took - 1).mean()),
            }  # fmt: skip
        return found


def ratios(most: float, largest: int = 16) -> list[tuple[int, int]]:
    """Of small integers, at most ``most`` and not far below it."""
    return [
        (a, b) for b in range(1, largest + 1) for a in range(1, b + 1)
        if gcd(a, b) == 1 and 0.7 * most < a / b <= most
    ]  # fmt: skip


def fitted(
    all_moved: Sequence[Moved], counted: Sequence[int], rows: Sequence[dict[str, Any]]
) -> Dram:
    """Least error of the worst program; no program, nor all loads or all stores, too fast.

    No faster than ``rows``, the patterns, say that the controller ever is; its latency is that of
    a word in another row.
    """
    most = {r["access"]: r["words_per_cycle"] for r in rows if r["pattern"] == "sequential"}
    latency = next(
        ceil(r["median"]) for r in rows
        if r["pattern"] == "single" and r["access"] == "read" and r["row"] == "another"
    )  # fmt: skip

    def slow_enough(dram: Dram, write: bool) -> bool:
        own = sum(m.modelled(dram, write).sum() for m in all_moved)
        return bool(own >= sum(m.took[m.write == write].sum() for m in all_moved))

    reads = [r for r in ratios(most["read"]) if slow_enough(Dram(latency, r, r), False)]
    writes = [w for w in ratios(most["write"]) if slow_enough(Dram(latency, w, w), True)]
    found: dict[Dram, float] = {}
    for r, w in product(reads, writes):
        dram = Dram(latency, r, w)
        errors = [
            total_cycles(m.run.program.commands, dram) / n - 1
            for m, n in zip(all_moved, counted, strict=True)
        ]
        if min(errors) >= 0:
            found[dram] = max(errors)
    if not found:
        raise DeviceError("no steady rate is slow enough for what was measured")
    return min(found, key=found.__getitem__)


def executed(moved: Moved, controller: Controller) -> dict[str, Any]:
    """Of the whole program in RTL. Raises DeviceError where an output is wrong."""
    run = moved.run
    x = np.random.default_rng(0).integers(-128, 128, run.network.input).astype(np.int8)
    began = time.perf_counter()
    after, counted = controller.execute(run.program.given(INPUT, x), 3 * run.program.cycles)
    seconds = time.perf_counter() - began
    last = run.found[-1].name
    if wrong := int((run.program.taken(last, after) != values(run.found, x)[last]).sum()):
        raise DeviceError(f"{moved.name}: {wrong} outputs are not those of the reference")
    if counted["late"]:
        raise DeviceError(f"{moved.name}: {counted['late']} words came too late for LiteDRAM")
    return {**counted, "seconds": seconds}


def networks(on: Rtl, quick: bool) -> Iterator[tuple[str, Accelerated]]:
    """Random ones of two spaces, and two that were measured on boards."""

    def of(build: Callable[[], nn.Module], size: int) -> Accelerated:
        return Accelerated.of(integers(build, (3, size, size)), on)

    def drawn(preset: str, size: int, classes: int, seed: int) -> tuple[str, Accelerated]:
        space = load_space({
            "kind": "mobile", "preset": preset, "resolution": size, "channels": 3,
            "classes": classes,
        })  # fmt: skip
        architecture = space.sample(random.Random(seed))
        name = f"{preset} at {size} px, seed {seed}"
        return name, of(lambda: space.build(architecture), size)

    yield drawn("tiny", 32, 10, 0)
    if not quick:
        yield drawn("proxyless", 224, 1000, 0)
        yield "MobileNetV1 0.25 at 128 px", of(lambda: mobilenet_v1(0.25), 128)
        yield drawn("tiny", 32, 10, 1)
        yield "MobileNetV2 1.0 at 224 px", of(lambda: mobilenet_v2(1.0), 224)


def main() -> None:
    """Print what was found and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="One small network, nothing written.")
    parser.add_argument("--mhz", type=float, help="Another clock; then nothing is written.")
    options = parser.parse_args()
    on = accelerator()
    mhz, quick = options.mhz or on.fmax_mhz, options.quick
    simulator_path(on.shape, cache_folder())  # says what is missing
    from amaranth.back import verilog

    from edgenas.fpga.rtl.machine import Machine

    machine = Machine(on.shape)
    ours = verilog.convert(machine, name="machine", ports=machine.ports())
    with tempfile.TemporaryDirectory(prefix="edgenas-litedram-") as scratch:
        work = Path(scratch)
        controller = Controller.of("ecp5", mhz, work / "ecp5", ours)
        others = {
            "ecp5, refresh as long as the chip needs":
                (Controller.of("ecp5", mhz, work / "refresh", refresh="chip"), 1.0),
            # At half the clock its four DRAM clocks a cycle are as long as those of the ECP5.
            "litedram_gen --sim": (Controller.of("gen", mhz / 2, work / "gen"), 2.0),
        }  # fmt: skip
        gap = apart(on.shape)
        found: dict[str, dict[str, Any]] = {
            "ecp5": {"made": controller.made, "rows": measured(controller, gap)}
        }
        found |= {
            n: {"made": c.made, "rows": measured(c, gap, per)} for n, (c, per) in others.items()
        }
        for name, said in found.items():
            print(f"{name}: {json.dumps(said['made'])}")
            print("\n".join(line(r) for r in said["rows"]), flush=True)
        moved = [Moved.of(name, run, controller) for name, run in networks(on, quick)]
        runs = [executed(one, controller) for one in moved]
        of = slice(FITTED_ON)
        fit = fitted(moved[of], [r["cycles"] for r in runs[of]], found["ecp5"]["rows"])
        rows = []
        for number, (one, ran) in enumerate(zip(moved, runs, strict=True)):
            row: dict[str, Any] = {
                "network": one.name, "held_out": number >= FITTED_ON, "executed": ran
            }  # fmt: skip
            for name, dram in (("device", on.dram), ("fitted", fit)):
                cycles = total_cycles(one.run.program.commands, dram)
                error = cycles / ran["cycles"] - 1
                row[name] = {**one.compared(dram), "cycles": cycles, "error": error}
                print(
                    f"{one.name}, {dram}: "
                    + "".join(
                        f"{kind} {row[name][kind]['error']:+.1%} of {row[name][kind]['cycles']} "
                        f"cycles (a move {row[name][kind]['typical']:.1%}), "
                        for kind in ("reads", "writes")
                    )
                    + f"program {error:+.2%} of {ran['cycles']}", flush=True,
                )  # fmt: skip
            rows.append(row)
    print(f"fitted: {fit}")
    if not quick and mhz == on.fmax_mhz:
        print(write_results(
            "litedram", versions=PINNED | {"verilator": version("verilator")}, mhz=mhz, seed=0,
            device=asdict(on.dram), fitted=asdict(fit), controllers=found, rows=rows,
        ))  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except (CapabilityError, DeviceError) as e:
        sys.exit(f"litedram: {e}")
