"""What a latency table costs beside the timing itself: wall time over time inside timed calls.

    python benchmarks/profile_overhead.py [--space tiny] [--seed 0]

Claim: at most 2 for every device and precision. Tables are measured anew in a temporary folder.
Writes benchmarks/results/profile_overhead.json.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from edgenas.device import Device, Transport, load_device
from edgenas.files import write_json
from edgenas.profile import estimate_seconds, profile
from edgenas.spaces.mobile import Mobile
from edgenas.transports.local import Local

LIMIT = 2.0
DEVICES = ("cpu-onnxruntime", "cpu-litert")
RESULT = Path(__file__).parent / "results" / "profile_overhead.json"


@dataclass(frozen=True)
class Stopwatch(Local):
    """The local transport; keeps what the runner says it spent inside timed calls."""

    timed_ns: list[int] = field(default_factory=list)

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        """As ``Local``."""
        for line in super().lines(argv):
            event = json.loads(line)
            if event.get("event") == "end":
                self.timed_ns.append(event.get("timed_ns", 0))
            yield line


def row(device: Device, space: Mobile, precision: str, seed: int) -> dict[str, Any]:
    """One table measured anew."""
    watch = Stopwatch()
    watched: Transport = watch
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        table = profile(
            replace(device, transport=watched),
            space,
            precision,
            Path(folder),
            seed=seed,
            allow_unstable=True,
        )
        wall_s = time.perf_counter() - start
    header = table.header
    timed_s = sum(watch.timed_ns) / 1e9
    assert header.held_out is not None
    return {
        "device": device.name,
        "precision": precision,
        "operators": len(table.rows),
        "wall_s": round(wall_s, 3),
        "timed_s": round(timed_s, 3),
        "ratio": round(wall_s / timed_s, 3),
        "estimate_s": round(estimate_seconds(space), 3),
        "grade": header.grade,
        "held_out": asdict(header.held_out),
        "fingerprint": dict(header.fingerprint),
        "facts": dict(header.facts),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="tiny", choices=sorted(Mobile.presets))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    resolution, channels = (224, 3) if options.space == "proxyless" else (28, 1)
    space = Mobile(
        resolution=resolution, channels=channels, classes=10, **Mobile.presets[options.space]
    )
    form = "{:16} {:12} {:>9} {:>7} {:>7} {:>6} {:>7} {:>9}  {}"
    heads = ("device", "precision", "operators", "wall s", "timed s", "ratio", "MAPE", "Spearman")
    print(form.format(*heads, "grade"))
    rows = []
    for name in DEVICES:
        device = load_device(name)
        for precision in device.precisions:
            r = row(device, space, precision, options.seed)
            rows.append(r)
            figures = f"{r['wall_s']:.1f}", f"{r['timed_s']:.1f}", f"{r['ratio']:.2f}"
            error = f"{r['held_out']['mape']:.1%}", f"{r['held_out']['spearman']:.4f}"
            print(form.format(name, precision, r["operators"], *figures, *error, r["grade"]))
    worst = max(r["ratio"] for r in rows)
    write_json(
        RESULT,
        {
            "benchmark": "profile_overhead",
            "space": space.describe(),
            "seed": options.seed,
            "machine": rows[0]["fingerprint"],
            "load_average": os.getloadavg()[0],
            "limit": LIMIT,
            "met": worst <= LIMIT,
            "worst_ratio": worst,
            "rows": rows,
        },
    )
    print(f"worst ratio {worst:.2f}, limit {LIMIT}: {'met' if worst <= LIMIT else 'NOT met'}")


if __name__ == "__main__":
    main()
