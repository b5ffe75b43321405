"""Draws benchmarks/results/pareto_cifar10.json.

    python benchmarks/pareto_picture.py [--out docs/pareto_cifar10.svg]

Needs matplotlib: pip install -e '.[pictures]'.
"""

import argparse
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from results_file import RESULTS

from edgenas.files import read_json

NAMES = {
    "proxyless": "proxyless, gradient", "proxyless-r": "proxyless, REINFORCE",
    "random": "random, within the budget", "largest": "largest that fits",
    "mobilenet_v2": "MobileNetV2 × width", "mobilenet_v3_small": "MobileNetV3-Small × width",
}  # fmt: skip
STYLES = ("o-", "s-", "x:", "^--", "D-.", "v-.")


def main() -> None:
    """Mean accuracy over mean p50 of every contestant, its spread as a bar, budgets as lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pareto_cifar10.svg"))
    out = parser.parse_args().out
    matplotlib.rcParams["svg.hashsalt"] = "edgenas"  # the same figures give the same file
    budgets = read_json(RESULTS / "pareto_cifar10.json")["budgets"]
    figure, axes = pyplot.subplots(figsize=(7.5, 4.8), layout="constrained")
    for (who, name), style in zip(NAMES.items(), STYLES, strict=True):
        points = [line[who] for line in budgets if who in line]
        if not points:  # none of its networks fits
            continue
        axes.errorbar(
            [p["p50_ms"] for p in points], [100 * p["accuracy"] for p in points],
            [100 * (p["spread"] or 0) for p in points],
            fmt=style, capsize=3, markersize=5, label=name,
        )  # fmt: skip
    for line in budgets:
        axes.axvline(line["budget_ms"], color="0.8", linewidth=1, zorder=0)
    axes.set(
        xlabel="p50 measured, ms (int8-static, ONNX Runtime, one thread); grey: budgets",
        ylabel="top-1 on the test images, %", title="CIFAR-10, the same short recipe for all",
    )  # fmt: skip
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})
    print(out)


if __name__ == "__main__":
    main()
