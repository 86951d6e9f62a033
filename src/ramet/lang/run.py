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
from typing import Any, Literal

from ramet.backend import Backend, Hint, RoleTemplate
from ramet.errors import Aborted, ProgramError
from ramet.lang.promise import Promise
from ramet.lang.record import Event, Listener, RunRecord, enclose, tell
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
    call's seed a function of it and of the call's place in the program. `listeners`, see `Event`.
    `num_api_spec_tokens`, see `speculation`."""

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
        num_api_spec_tokens: int | None = None,
    ) -> None:
        self.num_api_spec_tokens = num_api_spec_tokens
        self.id = _new_id()
        self.program, self.backend, self.template = program, backend, template
        self.capabilities = backend.capabilities
        self.defaults, self.seed = defaults, seed
        self.stream, self.eager, self.listeners = stream, eager, listeners
        self.began = time.perf_counter()
        self.record = RunRecord(
            id=self.id,
            program=program,
            model=str(backend.model_path),
            backend=type(backend).__name__,
            parent=parent.id if parent is not None else "",
            began=self.began,
            wall=time.time(),
            keeps_texts=any(getattr(one, "keeps_texts", False) for one in listeners),
        )
        self.calls = self.record.calls
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
            parent.record.add_nested(self.record)
        # Does anyone want text before its generation has ended?
        self.has_stream = stream or any(getattr(one, "wants_text", True) for one in listeners)
        if listeners:
            self._announce("run_started")
            # Chains run in copies of this context; it is entered for good.
            enclose(listeners, self.id, lambda around: self.context.run(around.__enter__))

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
        self.record.seconds = time.perf_counter() - self.began
        if self.listeners:
            self._announce("run_finished")
        self.over.set(None)

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

    def _announce(self, kind: Literal["run_started", "run_finished"]) -> None:
        record = self.record
        self.tell(Event(kind=kind, parent=record.parent, run_record=record, **self.facts("0")))

    def announce_failure(self, branch: str, error: ProgramError) -> None:
        self.note_failure(branch, error)
        if self.listeners:
            self.tell(Event(kind="failed", error=error, **self.facts(branch)))

    def note_failure(self, branch: str, error: BaseException) -> None:
        """The first failure of a branch is the one that is told, by its cause."""
        cause = error.__cause__ if isinstance(error, ProgramError) and error.__cause__ else error
        told = time.perf_counter() - self.began, f"{type(cause).__name__}: {cause}"
        self.record.failures.setdefault(branch, told)
