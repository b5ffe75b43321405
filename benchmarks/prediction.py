"""Predicted against measured p50 of 20 held-out random networks, on each device and precision.

python benchmarks/prediction.py [--preset tiny] [--resolution 28] [--channels 1]

Measures a fresh table in a scratch folder (8 networks calibrate, 20 are held out).
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from results_file import write_results

from edgenas.console import Bars
from edgenas.device import load_device
from edgenas.profile import profile
from edgenas.space import load_space


def main() -> None:
    """Print a table and write benchmarks/results/prediction.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--resolution", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    args = parser.parse_args()
    space = load_space({"kind": "mobile", **vars(args)})
    rows = []
    print(f"{'device':<18}{'precision':<13}{'MAPE':>7}{'<=5 %':>7}{'<=10 %':>8}{'Spearman':>10}"
          f"{'bias':>8}{'p50/floor':>11}  grade")  # fmt: skip
    for name in ("cpu-onnxruntime", "cpu-litert"):
        for precision in ("fp32", "int8-static"):
            with tempfile.TemporaryDirectory() as folder, Bars() as bars:
                table = profile(load_device(name), space, precision, Path(folder), progress=bars)
            h = table.header
            assert h.held_out is not None and h.fit is not None
            e = h.held_out
            print(
                f"{name:<18}{precision:<13}{e.mape:>7.1%}{e.within_5:>7.0%}{e.within_10:>8.0%}"
                f"{e.spearman:>10.3f}{e.bias:>8.1%}{h.fit.p50_per_floor:>11.3f}  {h.grade}"
            )
            rows.append({"device": name, "precision": precision, "grade": h.grade,
                         "held_out": asdict(e), "fit": asdict(h.fit)})  # fmt: skip
    print(write_results("prediction", space=space.describe(), seed=0, rows=rows))


if __name__ == "__main__":
    main()
