"""Live progress on standard error: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 15.0


class Tracker:
    """Progress of one stage; call ``at(done, words)``."""

    def __init__(self, title: str, total: int, progress: Progress | None, console: Console) -> None:
        self.title, self.total = title, total
        self._progress, self._console = progress, console
        self._task = None if progress is None else progress.add_task(title, total=total, words="")
        self._started = self._printed = time.monotonic()

    def at(self, done: int, words: str = "") -> None:
        """``done`` of the total; ``words`` is what a person wants to see now."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, words=words)
            return
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS or done >= self.total:
            self._printed = now
            left = (now - self._started) / max(done, 1) * (self.total - done)
            self._console.print(f"{self.title}: {done}/{self.total}  {words}  {left:.0f} s left", highlight=False)


class Reporter:
    """Where stages tell what they do. ``quiet`` shows nothing but warnings."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, soft_wrap=True)
        self.quiet = quiet

    def say(self, line: str) -> None:
        """A plain line."""
        if not self.quiet:
            self.console.print(line, highlight=False, markup=False)

    def warn(self, line: str) -> None:
        """A line that should not be missed."""
        self.console.print(f"warning: {line}", style="yellow", highlight=False, markup=False)

    @contextmanager
    def track(self, title: str, total: int) -> Iterator[Tracker]:
        """A bar for ``total`` units of work."""
        if self.quiet or not sys.stderr.isatty():
            console = Console(stderr=True, quiet=self.quiet, soft_wrap=True)
            yield Tracker(title, total, None, console)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            yield Tracker(title, total, progress, self.console)
