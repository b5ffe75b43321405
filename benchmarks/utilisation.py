"""What the accelerator makes of its multipliers, beside FINN's formulas and published figures.

    python benchmarks/utilisation.py

Layers, blocks and whole networks are compiled for the device ecp5-85f and simulated in RTL, one
image, from DRAM to DRAM with all weights; outputs and cycles are checked. Multiplier blocks are
those of devices/ecp5-85f.report.json. FINN's cycles are its own formulas
for at most as many multipliers: a pipeline with all weights on the chip, at the pace of its slowest
layer. Published figures hold what their authors measured, on other chips.

Writes benchmarks/results/utilisation.json.
"""

import argparse
from dataclasses import asdict
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from known_networks import (
    KNOWN,
    ZOO,
    Accelerated,
    Build,
    accelerator,
    bottleneck,
    conv,
    depthwise,
    integers,
    macs,
    mobilenet_v1,
    mobilenet_v2,
)
from results_file import write_results

from edgenas.errors import UsageError
from edgenas.files import read_json
from edgenas.fpga.network import Network
from edgenas.fpga.shape import Shape
from edgenas.runtimes.rtl import Rtl

SUBJECTS: dict[str, tuple[Build, tuple[int, int, int]]] = {
    "1x1 32-192 @14": (partial(conv, 32, 192), (32, 14, 14)),
    "depthwise 3x3 192 @14": (partial(depthwise, 192, 3, 1), (192, 14, 14)),
    "depthwise 5x5 192 @14": (partial(depthwise, 192, 5, 1), (192, 14, 14)),
    "depthwise 7x7 192 @14": (partial(depthwise, 192, 7, 1), (192, 14, 14)),
    "3x3 16-32 @28 s2": (partial(conv, 16, 32, 3, 2), (16, 28, 28)),
    "1x1 1152-320 @7": (partial(conv, 1152, 320), (1152, 7, 7)),
    "FC 1280-1000": (partial(conv, 1280, 1000), (1280, 1, 1)),
    "MBConv6 k3 80 @14": (partial(bottleneck, 80, 80, 480, 3, 1), (80, 14, 14)),
    "MBConv6 k5 80 @14": (partial(bottleneck, 80, 80, 480, 5, 1), (80, 14, 14)),
    "MBConv6 k7 80 @14": (partial(bottleneck, 80, 80, 480, 7, 1), (80, 14, 14)),
    "MBConv6 k3 24-40 @56 s2": (partial(bottleneck, 24, 40, 144, 3, 2), (24, 56, 56)),
    "MobileNetV1 1.0 @224": (partial(mobilenet_v1, 1.0), (3, 224, 224)),
    "MobileNetV2 1.0 @224": (partial(mobilenet_v2, 1.0), (3, 224, 224)),
}
FINN = {
    "repository": "Xilinx/finn",
    "cycles": "MVAU (MH / PE) * (MW / SIMD) * pixels, src/finn/custom_op/fpgadataflow/"
    "matrixvectoractivation_rtl.py at 039f7afef2eaacc961cf4ad1823c0a4be79eb713; "
    "VVAU (channels * k * k) / PE / SIMD * pixels, vectorvectoractivation.py at 39f0c9a6",
    "left_out": "the units that make windows, which may be slower: 59724 cycles for depthwise 5x5 "
    "192 @14 by their formula, run at 39f0c9a6",
    "multipliers": "MVAU of 8 bits on DSP48: ceil(PE / 2) * SIMD, a comment of the same file (its "
    "own estimate is ceil(PE / 4) * SIMD for every DSP48, at "
    "0064baee6c3e121162091fb86964a3e519a41a3c, which is its 4 bit core's); VVAU, on DSP58 alone: "
    "PE * ceil(SIMD / 3), rtl/vectorvectoractivation_rtl.py at "
    "003728eb961dae27ce0f1d6ac0404c1338a97d0f",
}
DPU = {
    "mhz": 300, "dsps": 710, "peak": 2048,
    "source": "fps and clock as benchmarks/results/board_order.json; 8 x 16 x 16 MAC: PG338 3.4, "
    "Architecture of the DPUCZDX8G; DSPs of B4096 with the recommended depthwise unit: PG338 4.1, "
    "DepthwiseConv (ALU). Its DSPs are clocked twice as fast",
}  # fmt: skip
ZC706 = (
    "abstract of 'A digital signal processor-efficient accelerator for depthwise separable "
    "convolution' (ZC706); GOPS is its own, and less than its fps times the operations at 224 px"
)
PUBLISHED: tuple[dict[str, Any], ...] = (
    {"what": "ZC706, MobileNetV1", "fps": 209.4, "gmac_s": 134.5 / 2, "mhz": 200, "dsps": 392,
     "source": ZC706},
    {"what": "ZC706, MobileNetV2", "fps": 250.4, "gmac_s": 96.4 / 2, "mhz": 200, "dsps": 392,
     "source": ZC706},
    {"what": "Arria 10 SoC, MobileNetV2", "fps": 266.6,
     "source": "abstract of arXiv:1809.01536 (Bai 2018), 3.75 ms; clock and DSPs not in it"},
    {"what": "ECP5, people found by a MobileNet-like network, 224 px", "fps": 10.0,
     "source": "macnica.co.jp/en/business/semiconductor/articles/lattice/134331, a design of "
     "Lattice's; operations, clock and DSPs not said"},
)  # fmt: skip


def multiplier_blocks(shape: Shape) -> int:
    """Of the routed accelerator. Raises UsageError where it had another shape."""
    path = Path(__file__).parents[1] / "devices" / "ecp5-85f.report.json"
    routed = read_json(path)
    if routed["shape"] != asdict(shape):
        raise UsageError(f"{path} is of another shape: run edgenas fpga build ecp5-85f")
    return int(routed["best"]["used"]["MULT18X18D"][0])


def largest(n: int, most: int) -> int:
    """Divisor of ``n`` up to ``most``."""
    return max(d for d in range(1, most + 1) if n % d == 0)


def finn(network: Network, shape: Shape) -> dict[str, float]:
    """Cycles of the slowest convolution, and DSPs of all, none with more multipliers than ours."""
    cycles, dsps = 0, 0
    for op in network.ops:
        if op.name not in network.weights:
            continue
        cout, cin, k, _ = network.weights[op.name].weight.shape
        pe, pixels = largest(cout, shape.lanes), op.shape[1] * op.shape[2]
        if op.groups > 1:
            simd = largest(k * k, shape.taps)
            dsps += pe * ceil(simd / 3)
        else:
            simd = largest(cin * k * k, shape.taps)
            dsps += ceil(pe / 2) * simd
        cycles = max(cycles, cout // pe * (cin * k * k // simd) * pixels)
    return {"cycles": cycles, "dsps": dsps, "macs_per_cycle_dsp": macs(network) / cycles / dsps}


def row(what: str, on: Rtl, blocks: int) -> dict[str, Any]:
    """Of one of SUBJECTS, simulated."""
    build, shape = SUBJECTS[what]
    network = integers(build, shape)
    counted, done = Accelerated.of(network, on).simulated(), macs(network)
    found = {
        "what": what, "macs": done, **asdict(counted), "macs_per_cycle": done / counted.cycles,
        "utilisation": done / counted.cycles / (on.shape.lanes * on.shape.taps),
        "macs_per_cycle_dsp": done / counted.cycles / blocks,
        # Of the cycles in which a job runs: what is left over is waiting for DRAM.
        "utilisation_running": done / counted.running / (on.shape.lanes * on.shape.taps),
    }  # fmt: skip
    # FINN folds each layer of a whole network by itself, to a rate: there is no one figure.
    return found if len(network.ops) > 4 else {**found, "finn": finn(network, on.shape)}


def published() -> list[dict[str, Any]]:
    """Figures of others, with MAC a cycle where clock and operations are said."""
    rows = [dict(r) for r in PUBLISHED]
    for known in KNOWN:
        if not known.replaced:
            gmac = macs(integers(known.build, (3, known.size, known.size))) / 1e9
            rows.append({
                "what": f"KV260, {known.name}", "fps": known.kv260_fps,
                "gmac_s": gmac * known.kv260_fps, "peak": DPU["peak"],
                **{key: DPU[key] for key in ("mhz", "dsps", "source")},
            })  # fmt: skip
    for r in rows:
        if "gmac_s" in r:
            r["macs_per_cycle"] = r["gmac_s"] * 1e3 / r["mhz"]
            r["macs_per_cycle_dsp"] = r["macs_per_cycle"] / r["dsps"]
    return rows


def main() -> None:
    """Print both tables and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    on = accelerator()
    blocks = multiplier_blocks(on.shape)
    print(f"{'':<26}{'cycles':>9}{'MAC/c':>7}{'used':>6}{'run':>6}{'/DSP':>6}", end="")
    print(f"{'FINN: cycles':>14}{'DSPs':>6}{'/DSP':>6}")
    rows = []
    for what in SUBJECTS:
        rows.append(r := row(what, on, blocks))
        line = f"{what:<26}{r['cycles']:>9}{r['macs_per_cycle']:>7.1f}{r['utilisation']:>6.0%}"
        line += f"{r['utilisation_running']:>6.0%}{r['macs_per_cycle_dsp']:>6.2f}"
        if theirs := r.get("finn"):
            line += f"{theirs['cycles']:>14}{theirs['dsps']:>6}"
            line += f"{theirs['macs_per_cycle_dsp']:>6.2f}"
        print(line, flush=True)
    others = published()
    print(f"\n{'published':<56}{'fps':>8}{'GMAC/s':>8}{'MHz':>5}{'DSPs':>6}{'MAC/c':>7}{'/DSP':>6}")
    for r in others:
        line = f"{r['what']:<56}{r['fps']:>8.1f}"
        if "gmac_s" in r:
            line += f"{r['gmac_s']:>8.1f}{r['mhz']:>5}{r['dsps']:>6}"
            line += f"{r['macs_per_cycle']:>7.0f}{r['macs_per_cycle_dsp']:>6.2f}"
        print(line)
    print(write_results(
        "utilisation", rows=rows, published=others, multiplier_blocks=blocks, finn=FINN, dpu=DPU,
        zoo=ZOO, fmax_mhz=on.fmax_mhz, dram=asdict(on.dram), shape=asdict(on.shape), seed=0,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
