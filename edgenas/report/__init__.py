"""A run directory -> ``report.html``: one self-contained page for whoever deploys the network."""

from pathlib import Path

from edgenas.files import write_text
from edgenas.report.page import render
from edgenas.report.record import Record

__all__ = ["write_report"]


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run directory ``run``; its path.

    A run that was stopped early gets the report of what it has. Raises UsageError where ``run``
    is not a run directory, CorruptFile where one of its files is not what it should be.
    """
    path = run / "report.html"
    write_text(path, render(Record.read(run)))
    return path
