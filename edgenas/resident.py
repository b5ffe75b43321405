"""How much memory this process has held, and whether there was too little."""

import re
import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")
# torch says so in a RuntimeError, of the CPU's memory in several wordings
_SHORT = re.compile("DefaultCPUAllocator|out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_ASKED = re.compile(r"allocate (\d+) bytes|[aA]llocate ([\d.]+ [KMGTPE]?i?B)\b")


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


def exhausted(e: BaseException) -> str | None:
    """What to say of an error that is a want of memory; None of any other."""
    if not isinstance(e, MemoryError) and not (
        isinstance(e, RuntimeError) and _SHORT.search(str(e))
    ):
        return None
    asked = _ASKED.search(str(e))
    size = "" if asked is None else asked[2] or f"{int(asked[1]) / 1e9:.3g} GB"
    return (
        f"not enough memory{f': {size} were asked for at once' if size else ''}. What was whole is "
        "kept; take a smaller batch (train.batch, search.batch), resolution, network or space, or "
        "a machine with more"
    )
