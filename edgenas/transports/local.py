"""This machine."""

import sys
from dataclasses import dataclass

from edgenas.here import Here

__all__ = ["Local"]


@dataclass(frozen=True)
class Local(Here):
    """Runs on this machine. ``python``: another interpreter than the one edgenas runs in."""

    python: str = sys.executable

    @property
    def starts_here(self) -> tuple[str, ...]:
        """Another interpreter than ours."""
        return () if self.python == sys.executable else (f"python: {self.python}",)
