"""What the system of a board says of itself while it measures, and what of it spoils a timing."""

from collections.abc import Mapping
from typing import Any

HOT_C = 80.0
WARMED_C = 10.0
BUSY = 0.5  # of the cores

Facts = Mapping[str, Any]


def warnings(cores: int, before: Facts, after: Facts | None = None) -> list[str]:
    """What to mend before a timing can be trusted, a line each.

    ``before`` and ``after`` the measurement: the facts of ``session.probe``; what a system does
    not tell is not judged.
    """
    found = []
    load = before.get("load_average")
    if isinstance(load, float | int) and load > BUSY * cores:
        found.append(f"load average {load:g} on {cores} cores before it began: something else runs")
    quota = before.get("quota_cores")
    if isinstance(quota, float | int) and quota < 1:
        found.append(f"it may use {quota:g} of a core: it is stopped now and then; raise its quota")
    governor = before.get("governor", "")
    if governor and governor != "performance":
        found.append(
            f"frequency governor '{governor}': clocks may change while timing; 'performance' "
            "holds them"
        )
    warm, hot = before.get("temperature_c"), (after or {}).get("temperature_c")
    if isinstance(warm, float) and isinstance(hot, float):
        if hot >= HOT_C:
            found.append(f"{hot:.0f} °C at the end: it may have throttled; cool it")
        elif hot - warm >= WARMED_C:
            found.append(f"warmed by {hot - warm:.0f} °C, from {warm:.0f}: let it settle first")
    slow = (after or {}).get("frequency_share")
    if isinstance(slow, float) and slow < 0.9:
        found.append(f"its clock ended at {slow:.0%} of its maximum: throttled or saving power")
    return found
