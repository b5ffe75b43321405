"""What a person sees of long work: bars on a terminal, a line a step elsewhere; always stderr."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """A progress callback ``(what, done, total)``; use as a context manager."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=self.console,
        )

    def __enter__(self) -> "Bars":
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` of ``what`` is behind us.

        What stands in brackets at the end of ``what`` is a remark, and may change.
        """
        name, _, remark = what.partition(" (")
        if not self.console.is_terminal:
            if remark or name not in self._bars or done == total:
                self.console.print(f"{what} {done}/{total}", highlight=False)
            self._bars[name] = TaskID(0)
            return
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(what, total=total)
        self._progress.update(self._bars[name], description=what, completed=done, total=total)
