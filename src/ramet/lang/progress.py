"""How far a batch is, on standard error: with rich where it is installed, else as a plain line.

Knows a number of steps. May be advanced from any thread.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """A context manager; does nothing unless `shown`."""

    def __init__(self, total: int, shown: bool) -> None:
        self.total, self.done, self._shown = total, 0, shown
        self._lock = threading.Lock()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._shown:
            try:
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
                from rich.progress import Progress as Bar
            except ImportError:
                return self
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(file=sys.stderr))
            self._task = self._bar.add_task("programs", total=self.total)
            self._bar.start()
        return self

    def advance(self) -> None:
        with self._lock:
            self.done += 1
            if self._bar is not None:
                self._bar.advance(self._task)
            elif self._shown:
                end = "\n" if self.done == self.total else ""
                print(f"\r{self.done}/{self.total} programs", end=end, file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
