"""Self-contained pages: of a run, for whoever deploys the network, and of a latency table."""

from pathlib import Path

from edgenas.errors import UsageError
from edgenas.files import write_text
from edgenas.report.page import render, render_front, render_table
from edgenas.report.record import Record

__all__ = ["is_report", "render_table", "write_report"]


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run directory ``run``; its path.

    A run that was stopped early gets the report of what it has. Raises UsageError where ``run``
    is not a run directory, or such a page there is not ours, CorruptFile where one of its files is
    not what it should be.
    """
    path = run / "report.html"
    record = Record.read(run)
    if path.exists() and not is_report(path):
        raise UsageError(f"{path} was not made by edgenas: move it elsewhere")
    write_text(path, render_front(record) if record.networks else render(record))
    return path


def is_report(path: Path) -> bool:
    """Whether a page is a report of a run."""
    return path.is_file() and b"(edgenas)</title>" in path.read_bytes()
