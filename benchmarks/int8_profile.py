"""Where int8 wins and where it does not: each operator of a network, alone, in fp32 and in int8.

    python benchmarks/compress.py --networks mobilenet_v2     # first: it calibrates
    python benchmarks/int8_profile.py [--networks mobilenet_v2 ...] [--work runs/compress]

Every node of the exported graph is a file of its own, timed in both precisions by the protocol of
the latency tables' visits (fastest call, an empty call subtracted, one thread); rows are sums over
the nodes of a kind, as often as the network has them. ``whole``: what the network itself takes; in
ONNX Runtime less than the sum in fp32, where an operator alone changes its layout and back.
Writes benchmarks/results/int8_profile.json.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress import CASES, DEVICES, compressed, trained
from results_file import rows_before, write_results

from edgenas.console import Bars
from edgenas.device import Device, load_device
from edgenas.export import exporter_for
from edgenas.graph import Conv, Graph, Linear, Mean, Node
from edgenas.measure import measure
from edgenas.specimen import EMPTY, operator

SECONDS = 0.05  # of a file, in each of five processes


def kind(node: Node) -> str:
    """What is counted together."""
    match node:
        case Conv() if node.groups > 1:
            return "depthwise"
        case Conv() if node.weight.shape[2] == 1:
            return "pointwise"
        case Conv() if node.weight.shape[1] <= 4:
            return "first convolution"
        case Conv():
            return "convolution"
    return type(node).__name__.lower()


def timed(device: Device, graphs: Sequence[Graph], work: Path, bars: Bars) -> list[float]:
    """Milliseconds of each of ``graphs``, less those of an empty call."""
    exporter = exporter_for(device.runtime.format)
    suffix = exporter.format
    files = [exporter.operator(g, work / f"{i}.{suffix}") for i, g in enumerate(graphs)]
    empty = operator(exporter, EMPTY, graphs[0].precision, work / f"empty.{suffix}")
    *floors, least = (
        t.floor_ms for t in measure(device, [*files, empty], block_seconds=SECONDS, progress=bars)
    )
    return [ms - least for ms in floors]


def seen(graph: Graph, node: Node) -> tuple[Any, ...]:
    """What a device sees of it: nodes that are alike are timed once."""
    weight = node.weight.shape if isinstance(node, Conv) else getattr(node, "k", None)
    return kind(node), graph.shape(node.inputs[0]), node.shape, weight


def rows_of(name: str, work: Path, bars: Bars) -> list[dict[str, Any]]:
    """One row a kind and format."""
    net, task = trained(name, CASES[name], work, bars)
    graphs = compressed(name, net, task, work, bars)
    pair = (graphs["fp32"][0], graphs["ptq"][0])
    nodes = [n for n in pair[0].nodes if not isinstance(n, Linear | Mean)]
    often = Counter(seen(pair[0], n) for n in nodes)
    alike = {seen(pair[0], n): i for i, n in enumerate(pair[0].nodes) if n in nodes}
    rows = []
    for device in map(load_device, DEVICES):
        total: dict[str, list[float]] = {}
        for precision, graph in enumerate(pair):
            own = [graph.alone(graph.nodes[i].name) for i in alike.values()]
            with tempfile.TemporaryDirectory(prefix="edgenas-") as scratch:
                *each, whole = timed(device, [*own, graph], Path(scratch), bars)
            for what, ms in zip(alike, each, strict=True):
                total.setdefault(what[0], [0.0, 0.0])[precision] += often[what] * ms
            total.setdefault("whole", [0.0, 0.0])[precision] = whole
        rows += [
            {"network": name, "format": device.runtime.format, "kind": k, "fp32_ms": a,
             "int8_ms": b, "times_as_fast": a / b, "share_of_int8": b / total["whole"][1]}
            for k, (a, b) in sorted(total.items(), key=lambda item: -item[1][1])
        ]  # fmt: skip
    return rows


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--work", type=Path, default=Path("runs/compress"))
    args = parser.parse_args()
    with Bars() as bars:
        rows = [row for name in args.networks for row in rows_of(name, args.work, bars)]
    kept = [r for r in rows_before("int8_profile") if r["network"] not in args.networks]
    print("network        format kind               fp32 ms  int8 ms  times  share of int8")
    for r in rows:
        print(
            f"{r['network']:<14} {r['format']:<6} {r['kind']:<18}{r['fp32_ms']:>8.3f}"
            f"{r['int8_ms']:>9.3f}{r['times_as_fast']:>7.2f}{r['share_of_int8']:>8.0%}"
        )
    print(write_results("int8_profile", rows=[*kept, *rows]))


if __name__ == "__main__":
    main()
