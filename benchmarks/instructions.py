"""Instructions counted on emulated ARM against a published phone table, operators left out.

python benchmarks/instructions.py TABLE.yaml [--tables FOLDER]

TABLE.yaml: ProxylessNAS's mobile_trim.yaml (Pixel 1, 224 px, 2018, float kernels of that year's
TFLite); ours is today's LiteRT on XNNPACK. Counting takes some minutes, once; FOLDER keeps it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from results_file import write_results

from edgenas.console import Bars
from edgenas.count import count
from edgenas.device import load_device
from edgenas.instructions import InstructionTable
from edgenas.latency import LatencyTable
from edgenas.lut import calibrate, import_table
from edgenas.ops import macs
from edgenas.space import load_space
from edgenas.spec import OpSpec


def flops_error(ops: list[OpSpec], ms: np.ndarray) -> float:
    """The same for one price a multiply-accumulate."""
    relative = np.array([macs(op) for op in ops]) / ms
    errors = []
    for i in range(len(ops)):
        rest = np.delete(relative, i)
        errors.append(abs(relative[i] * rest.sum() / (rest @ rest) - 1))
    return float(np.mean(errors))


def row(what: str, counts: InstructionTable, table: LatencyTable) -> dict[str, object]:
    """Error of each prediction on the operators of ``table``, each predicted from all others."""
    ops = list(table.rows)
    errors = calibrate(counts, table, None).header.protocol["left_out_mape"]
    ms = np.array([table[op].floor_ms for op in ops])
    return {"operators": what, "n": len(ops), "flops": flops_error(ops, ms), **errors}


def main() -> None:
    """Print a table and write benchmarks/results/instructions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--tables", type=Path, default=Path("latency_tables"))
    given = parser.parse_args()
    space = load_space({"kind": "mobile", "preset": "proxyless"})
    with Bars() as bars:
        counts = count(load_device("qemu-arm64"), space, "fp32", given.tables, progress=bars)
    phone = import_table(given.table, "pixel1", "fp32", None)
    common = {op: timing for op, timing in phone.rows.items() if op in counts.rows}
    small = {op: timing for op, timing in common.items() if dict(op.args).get("k") != 7}
    rows = [
        row("all", counts, replace(phone, rows=common)),
        row("without kernels of 7", counts, replace(phone, rows=small)),
    ]
    print(f"{'operators':<22}{'n':>4}{'FLOPs':>9}{'one price':>11}{'a price a class':>17}")
    for r in rows:
        errors = f"{r['flops']:>9.1%}{r['one']:>11.1%}{r['a class']:>17.1%}"
        print(f"{r['operators']:<22}{r['n']:>4}{errors}")
    print(write_results("instructions", space=space.describe(), rows=rows))


if __name__ == "__main__":
    main()
