"""Whether a runtime profits from weights that are zero but not whole channels.

    python benchmarks/sparsity.py [--networks resnet18 mobilenet_v2] [--work runs/compress]

Of each convolution and fully connected layer the smallest weights are set to zero: half and nine
tenths of all (unstructured), or two of any four along the input channels (2:4, as the tensor cores
of NVIDIA GPUs since Ampere take it). Files of equal size, timed in one measurement beside the dense
one, one thread: ``speedup`` is dense ms / sparse ms, 1 where zeros are multiplied like any number.
Accuracy is not looked at: nothing is trained. Writes benchmarks/results/sparsity.json.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from compress import CASES, DEVICES, compressed, trained
from results_file import write_results

from edgenas.console import Bars
from edgenas.device import load_device
from edgenas.export import exporter_for
from edgenas.graph import Conv, Graph, Linear
from edgenas.measure import measure

Mask = Callable[[np.ndarray], np.ndarray]


def unstructured(share: float) -> Mask:
    """The largest 1 - ``share`` of all weights."""
    return lambda w: np.abs(w) >= np.quantile(np.abs(w), share)


def two_of_four(weight: np.ndarray) -> np.ndarray:
    """The two largest of any four along the input channels; all where there are no four."""
    if weight.shape[1] % 4:
        return np.ones(weight.shape, bool)
    last = np.moveaxis(np.abs(weight), 1, -1)
    fours = last.reshape(*last.shape[:-1], -1, 4)
    kept = fours.argsort(-1).argsort(-1) >= 2
    mask: np.ndarray = np.moveaxis(kept.reshape(last.shape), -1, 1)
    return mask


MASKS: Mapping[str, Mask] = {
    "50 %": unstructured(0.5), "90 %": unstructured(0.9), "2:4": two_of_four,
}  # fmt: skip


def masked(graph: Graph, mask: Mask) -> Graph:
    """``graph`` with what ``mask`` leaves of its weights."""
    nodes = tuple(
        replace(n, weight=n.weight * mask(n.weight)) if isinstance(n, Conv | Linear) else n
        for n in graph.nodes
    )
    return replace(graph, nodes=nodes)


def rows_of(name: str, work: Path, bars: Bars) -> list[dict[str, Any]]:
    """One row a runtime, precision and mask."""
    net, task = trained(name, CASES[name], work, bars)
    graphs = compressed(name, net, task, work, bars)
    rows = []
    for device in map(load_device, DEVICES):
        exporter = exporter_for(device.runtime.format)
        for how in ("fp32", "ptq"):
            dense = graphs[how][0]
            mine = {"dense": dense, **{m: masked(dense, mask) for m, mask in MASKS.items()}}
            with tempfile.TemporaryDirectory(prefix="edgenas-") as scratch:
                files = [
                    exporter.network(g, Path(scratch) / f"{i}.{exporter.format}", {})
                    for i, g in enumerate(mine.values())
                ]
                timings = dict(zip(mine, measure(device, files, progress=bars), strict=True))
            base = timings.pop("dense")
            rows += [
                {"network": name, "format": exporter.format, "precision": dense.precision,
                 "zeros": m, "speedup": base.p50_ms / t.p50_ms, "grades": [base.grade, t.grade]}
                for m, t in timings.items()
            ]  # fmt: skip
    return rows


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [name for name, case in CASES.items() if case.make is not None]
    parser.add_argument("--networks", nargs="*", choices=list(CASES), default=known)
    parser.add_argument("--work", type=Path, default=Path("runs/compress"))
    args = parser.parse_args()
    with Bars() as bars:
        rows = [row for name in args.networks for row in rows_of(name, args.work, bars)]
    print("network        format precision    zeros  speedup")
    for r in rows:
        print(
            f"{r['network']:<14} {r['format']:<6} {r['precision']:<12} {r['zeros']:<6}"
            f"{r['speedup']:>8.2f}"
        )
    print(write_results("sparsity", rows=rows))


if __name__ == "__main__":
    main()
