"""One run of a program: its backend, its defaults, who listens, and what of it is still under way.

Knows counts and records, not operations. A run is over when its body has returned and every chain of it
is idle; only then is the backend told that nothing more will come.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from ramet.backend import Backend, Hint, RoleTemplate
from ramet.errors import Aborted, ProgramError
from ramet.lang.promise import Promise
from ramet.lang.record import CallRecord, Event, Listener, tell
from ramet.lang.runtime import post
from ramet.lang.streaming import Log

__all__ = ["Run", "current_run"]

current_run: contextvars.ContextVar[Run | None] = contextvars.ContextVar("ramet_run", default=None)

_numbers = itertools.count(1)
_process = (0, "")


def _new_id() -> str:
    """Unique among processes, too: requests of several may meet in one server."""
    global _process
    if _process[0] != os.getpid():
        _process = (os.getpid(), os.urandom(4).hex())
    return f"{_process[1]}-{next(_numbers)}"


class Run:
    """`defaults` are the run's sampling values under the names of `SamplingParams`. `seed` makes every
    call's seed a function of it and of the call's place in the program. `listeners`, see `Event`."""

    def __init__(
        self,
        *,
        program: str,
        backend: Backend,
        template: RoleTemplate,
        defaults: Mapping[str, Any],
        seed: int | None = None,
        stream: bool = False,
        eager: bool = False,
        listeners: tuple[Listener, ...] = (),
        parent: Run | None = None,
    ) -> None:
        self.id = _new_id()
        self.program, self.backend, self.template = program, backend, template
        self.capabilities = backend.capabilities
        self.defaults, self.seed = defaults, seed
        self.stream, self.eager, self.listeners = stream, eager, listeners
        self.calls: list[CallRecord] = []
        self.lowered: dict[Any, Any] = {}  # what `lower` made of equal options
        self.logs: list[Log] = []
        self.over: Promise[None] = Promise()
        self.context = contextvars.copy_context()
        self.tasks: set[asyncio.Task[None]] = set()  # touched on the chain loop only
        self.cancelled: str | None = None
        self._children: weakref.WeakSet[Run] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._busy = 1  # the body
        if parent is not None:
            parent._children.add(self)
        if listeners:
            above = parent.id if parent is not None else ""
            self.tell(Event(kind="run_started", parent=above, **self.facts("0")))

    # What is under way

    def enter(self) -> None:
        with self._lock:
            self._busy += 1

    def leave(self) -> None:
        with self._lock:
            self._busy -= 1
            if self._busy or self.over.done:
                return
        for log in self.logs:
            log.close()
        if self.calls:
            post(self.backend.hint, Hint(kind="done", rid=self.id))
        if self.listeners:
            self.tell(Event(kind="run_finished", **self.facts("0")))
        self.over.set(None)

    @property
    def has_stream(self) -> bool:
        """Does anyone want text before its generation has ended?"""
        return self.stream or bool(self.listeners)

    # Cancelling

    def cancel(self, reason: str = "the run was cancelled") -> None:
        """End all calls of this run and of the runs that it started. Their readers get an error."""
        if self.cancelled is None:
            self.cancelled = reason
        for child in list(self._children):
            child.cancel(reason)
        post(self._cancel_tasks)

    def _cancel_tasks(self) -> None:
        for task in list(self.tasks):
            task.cancel()

    def check(self) -> None:
        if self.cancelled is not None:
            raise Aborted(self.cancelled)

    # Events

    def facts(self, branch: str) -> dict[str, Any]:
        """The fields that every event has."""
        return {
            "run": self.id,
            "program": self.program,
            "branch": branch,
            "time": time.perf_counter(),
        }

    def tell(self, event: Event) -> None:
        tell(self.listeners, event)

    def announce_failure(self, branch: str, error: ProgramError) -> None:
        if self.listeners:
            self.tell(Event(kind="failed", error=error, **self.facts(branch)))
