"""How much memory this process has held."""

import re
import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The most that it has held at once since it began.

    ``getrusage`` counts, through exec, what the process that started this one held: a notebook's
    gigabytes. It is asked only where there is no /proc.
    """
    try:
        told = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))
    except OSError:
        told = None
    return 1024 * (int(told[1]) if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
