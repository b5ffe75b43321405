"""Predicted against measured p50 of 40 held-out random networks, on each device and precision.

python benchmarks/prediction.py [--preset tiny] [--resolution 28] [--channels 1] [--keep FOLDER]

Measures fresh tables (8 networks calibrate, 40 are held out), twice, one device
after the other: so each network also has two measurements (`noise`: how far they are apart), and
each operator two intervals (`agree`: share of rows whose intervals meet).
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from results_file import write_results

from edgenas.console import Bars
from edgenas.device import load_device
from edgenas.latency import LatencyTable, Timing
from edgenas.profile import profile
from edgenas.space import load_space


def row(name: str, precision: str, a: LatencyTable, b: LatencyTable) -> dict[str, Any]:
    """Error of the first table, and how far the second is from it."""
    assert a.header.held_out is not None and a.header.fit is not None
    networks = zip(a.header.networks, b.header.networks, strict=True)
    return {
        "device": name,
        "precision": precision,
        "grades": [a.header.grade, b.header.grade],
        "held_out": asdict(a.header.held_out),
        "fit": asdict(a.header.fit),
        "baselines": {k: asdict(v) for k, v in a.header.baselines.items()},
        "noise": float(np.mean([abs(m.p50_ms / n.p50_ms - 1) for m, n in networks])),
        "agree": float(np.mean([meet(a[op], b[op]) for op in a.rows])),
        "moved": float(np.median([abs(a[op].floor_ms / b[op].floor_ms - 1) for op in a.rows])),
    }


def meet(a: Timing, b: Timing) -> bool:
    """Whether the two intervals have a point in common."""
    assert a.interval_ms is not None and b.interval_ms is not None
    return a.interval_ms[0] <= b.interval_ms[1] and b.interval_ms[0] <= a.interval_ms[1]


def main() -> None:
    """Print a table and write benchmarks/results/prediction.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--resolution", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="Folder for the tables.")
    settings = vars(parser.parse_args())
    keep = settings.pop("keep")
    space = load_space({"kind": "mobile", **settings})
    kinds = [
        (name, precision)
        for name in ("cpu-onnxruntime", "cpu-litert", "cpu-onnxruntime-t2", "cpu-litert-t2")
        for precision in ("fp32", "int8-static")
    ]
    with tempfile.TemporaryDirectory() as scratch, Bars() as bars:
        folder = keep or scratch
        first, second = (
            {
                (name, precision): profile(
                    load_device(name), space, precision, Path(folder) / str(turn),
                    allow_unstable=True, progress=bars,
                )
                for name, precision in kinds
            }
            for turn in (1, 2)
        )  # fmt: skip
    rows = [
        row(name, precision, first[name, precision], second[name, precision])
        for name, precision in kinds
    ]
    print(f"{'device':<20}{'precision':<13}{'MAPE':>7}{'<=10 %':>8}{'Spearman':>10}{'bias':>7}"
          f"{'plain sum':>11}{'FLOPs':>15}{'noise':>8}{'agree':>7}  grades")  # fmt: skip
    for r in rows:
        e, plain, flops = r["held_out"], *r["baselines"].values()
        print(
            f"{r['device']:<20}{r['precision']:<13}{e['mape']:>7.1%}{e['within_10']:>8.0%}"
            f"{e['spearman']:>10.3f}{e['bias']:>7.1%}{plain['mape']:>11.1%}"
            f"{flops['mape']:>7.1%} {flops['spearman']:>7.3f}{r['noise']:>8.1%}"
            f"{r['agree']:>7.0%}  {', '.join(r['grades'])}"
        )
    print(write_results("prediction", space=space.describe(), seed=0, rows=rows))


if __name__ == "__main__":
    main()
