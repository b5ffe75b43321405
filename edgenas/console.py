"""What a person sees of long work, on stderr: a bar on a terminal, lines elsewhere."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from edgenas.printing import minutes

BEAT_S = 10.0  # the longest silence in a log
_LOOK_S = 1.0  # how often it is looked whether that is over
_KNOWN_S = 1.0  # a shorter time says nothing of how long the rest takes


@dataclass
class _Work:
    """One thing that is being done; times as of the clock, in seconds."""

    name: str
    what: str
    done: int
    total: int
    began: float
    first: int  # done when it began: a resumed one does not begin at 0
    at: float  # when ``done`` was told

    @property
    def over(self) -> bool:
        return self.done >= self.total

    def tail(self, now: float) -> str:
        """How long it took, still takes, or has taken so far; nothing within the first second."""
        if now - self.began < _KNOWN_S:
            return ""
        if self.over:
            return minutes(now - self.began)
        if self.done == self.first:
            return f"{minutes(now - self.began)} so far"
        each = (self.at - self.began) / (self.done - self.first)
        left = each * (self.total - self.done) - (now - self.at)
        return f"about {minutes(max(left, 0.0))} left"

    def told(self, now: float) -> str:
        """The line where something is told; what is but a message has no count."""
        plain = self.what == self.name  # a remark says itself how fast it goes
        if plain and self.total <= 1 and self.first == self.done == self.total:
            return self.what
        ends = self.tail(now) if plain else ""
        return f"{self.what} {self.done}/{self.total}" + (f", {ends}" if ends else "")

    def standing(self, now: float) -> str:
        """The line where nothing was told for long."""
        tail = self.tail(now)
        return f"{self.name} {self.done}/{self.total}" + (f", {tail}" if tail else "")

    def beside(self, now: float) -> str:
        """What stands beside the bar."""
        return self.tail(now) if self.what == self.name else minutes(now - self.began)


class _Tail(ProgressColumn):
    """The end of the line, as it is when it is drawn."""

    def __init__(self, say: Callable[[], str]) -> None:
        super().__init__()
        self._say = say

    def render(self, task: Task) -> Text:
        return Text(self._say())


class Bars:
    """A progress callback ``(what, done, total)``; use as a context manager.

    What is over becomes a line. A terminal shows a bar of what is being done now: it goes when
    something else begins, or all ends. Elsewhere the first of a name, each remark and the state
    after every ten seconds are lines. ``clock``: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = Console(stderr=True, markup=False, emoji=False)  # names are no markup
        self._clock = clock
        self._work: _Work | None = None
        self._bar: TaskID | None = None
        self._around: list[_Work] = []  # steps within which ``_work`` is done, the widest first
        self._names: set[str] = set()  # that a log has begun
        self._said_at = clock()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._progress = Progress(
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            _Tail(self._beside),
            console=self.console,
            transient=True,
        )

    def __enter__(self) -> "Bars":
        if self.console.is_terminal:
            self._progress.start()
        else:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        with self._lock:
            self._take_away()
        if self.console.is_terminal:
            self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` of ``what`` is behind us.

        What stands in brackets at the end of ``what`` is a remark, and may change.
        """
        name, _, remark = what.partition(" (")
        with self._lock:
            now = self._clock()
            work = self._found(name, done)
            if work is None:
                work = self._begun(_Work(name, what, done, total, now, done, now))
            if done > work.done:
                work.done, work.at = done, now
            work.what, work.total = what, total
            if work.over:
                self._take_away()
                self._say(work.told(now))
                self._go_back()
            elif self.console.is_terminal:
                self._show(work)
            elif remark or name not in self._names:
                self._say(work.told(now))
            else:
                self.beat()
            self._names.add(name)

    def _found(self, name: str, done: int) -> _Work | None:
        """What is being done under ``name``; what was done within it is over."""
        known = [*self._around, *([self._work] if self._work else [])]
        for number, work in enumerate(known):
            if work.name == name and done >= work.done:
                if work is not self._work:
                    self._take_away()
                self._around, self._work = known[:number], work
                return work
        return None

    def _begun(self, work: _Work) -> _Work:
        """``work`` is being done now: within a step that is not over, in place of anything else."""
        before = self._work
        self._take_away()
        if before is not None and before.total == 1:
            self._around.append(before)
        self._work = work
        return work

    def _go_back(self) -> None:
        """To what is done around that which is over."""
        if self._around:
            self._work = self._around.pop()
            if self.console.is_terminal:
                self._show(self._work)

    def beat(self) -> None:
        """Draw the bar as it is now; in a log, a line where there was none for ten seconds."""
        if self.console.is_terminal:
            self._progress.refresh()
            return
        with self._lock:
            now = self._clock()
            if self._work is not None and now - self._said_at >= BEAT_S:
                self._say(self._work.standing(now))

    def _watch(self) -> None:
        with contextlib.suppress(OSError):  # where nothing can be said, work goes on
            while not self._ended.wait(_LOOK_S):
                self.beat()

    def _say(self, line: str) -> None:
        self._said_at = self._clock()
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show(self, work: _Work) -> None:
        if self._bar is not None:
            self._progress.update(
                self._bar, description=work.what, completed=work.done, total=work.total
            )
            return
        self._bar = self._progress.add_task(work.what, completed=work.done, total=work.total)
        self._progress.refresh()

    def _beside(self) -> str:
        """Drawn by a thread that holds the bar's lock, so ours is not asked for."""
        work = self._work
        return "" if work is None else work.beside(self._clock())

    def _take_away(self) -> None:
        self._work = None
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
            self._progress.refresh()
