"""CPU seconds of ``edgenas --help`` over those of an empty Python, alternating.

python benchmarks/startup.py [--times 10]
"""

import argparse
import resource
import statistics
import subprocess
import sys

from results_file import write_results

SIDES = {
    "help": [sys.executable, "-m", "edgenas", "--help"],
    "table": [sys.executable, "-c", "import edgenas.latency"],
    "python": [sys.executable, "-c", ""],
}


def cpu_seconds(argv: list[str]) -> float:
    """User and system time of one child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians and write benchmarks/results/startup.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(times):
        for side, argv in SIDES.items():
            seconds[side].append(cpu_seconds(argv))
    median = {side: statistics.median(values) for side, values in seconds.items()}
    for side, value in median.items():
        print(f"{side:<8}{value:.3f} s CPU, {value / median['python']:.1f} x an empty Python")
    print(write_results("startup", median_cpu_seconds=median, rows=seconds, times=times))


if __name__ == "__main__":
    main()
