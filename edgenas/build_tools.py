"""What building takes from this machine: tools that are installed, and what programs answer."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence

from edgenas.errors import CapabilityError


def require(*tools: str) -> None:
    """Raise CapabilityError unless these packages of the extra ``native`` are installed."""
    if missing := [tool for tool in tools if importlib.util.find_spec(tool) is None]:
        raise CapabilityError(
            f"{', '.join(missing)} not installed: {sys.executable} -m pip install 'edgenas[native]'"
        )


def answer(argv: Sequence[str]) -> str:
    """What a program prints, stripped; nothing where it fails."""
    return subprocess.run(
        argv, capture_output=True, encoding="utf-8", errors="replace", check=False
    ).stdout.strip()
