"""A thread that steps an engine, and the only way to it from other threads.

Whatever touches the core runs on that thread: requests, aborts and questions are queued as small
functions and carried out between two steps. A submitted request is a future that always completes: with
the request when it ended (whatever the reason), or with `EngineClosed`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ramet.engine.loop import EngineCore
from ramet.engine.request import Request
from ramet.errors import EngineClosed

__all__ = ["EngineHost", "RequestFuture"]

T = TypeVar("T")
RequestFuture = concurrent.futures.Future[Request]

# The cache is audited when the engine has nothing to do, at most this often.
IDLE_AUDIT_SECONDS = 10.0


class EngineHost:
    """Starts its (daemon) thread at once; `close()` ends it and every request in it."""

    def __init__(self, core: EngineCore, name: str = "ramet-engine") -> None:
        self._core = core
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._futures: dict[str, RequestFuture] = {}
        self._last_audit = core.clock()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    # -- from any thread -----------------------------------------------------------------------

    def submit(
        self, requests: Sequence[Request], on_update: Callable[[Request], None] | None = None
    ) -> list[RequestFuture]:
        """Queue `requests` together, so that they meet in one batch. `on_update` is called on the
        engine's thread after every step that gave one of them a token."""
        futures: list[RequestFuture] = [concurrent.futures.Future() for _ in requests]
        for future in futures:
            future.set_running_or_notify_cancel()  # only the engine completes it

        def add() -> None:
            for request, future in zip(requests, futures, strict=True):
                self._add(request, future, on_update)

        self._post(add)
        return futures

    def abort(self, rids: Iterable[str], message: str = "aborted") -> None:
        """Ask for the end of requests; those that have ended already are left alone."""
        wanted = list(rids)

        def abort() -> None:
            for rid in wanted:
                self._core.abort(rid, message)

        with contextlib.suppress(EngineClosed):  # closed: they have ended
            self._post(abort)

    def call(self, function: Callable[[EngineCore], T]) -> T:
        """Run `function(core)` between two steps and return what it returns."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(function(self._core))
            except Exception as error:
                future.set_exception(error)

        if threading.current_thread() is self._thread:
            run()
        else:
            self._post(run)
        return future.result()

    def close(self) -> None:
        """End the thread; requests that run end with `EngineClosed`. Closing twice does nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def closed(self) -> bool:
        return self._closing

    def _post(self, command: Callable[[], None]) -> None:
        with self._wake:
            if self._closing:
                raise EngineClosed("the engine was shut down")
            self._commands.append(command)
            self._wake.notify()

    # -- on the engine's thread --------------------------------------------------------------------

    def _add(
        self,
        request: Request,
        future: RequestFuture,
        on_update: Callable[[Request], None] | None,
    ) -> None:
        def update(changed: Request) -> None:
            if on_update is not None:
                on_update(changed)
            if changed.finished:
                self._futures.pop(changed.rid, None)
                future.set_result(changed)

        request.on_update = update
        try:
            self._core.add(request)
            self._futures[request.rid] = future
        except Exception as error:
            future.set_exception(error)

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not (self._commands or self._core.has_work or self._closing):
                    self._wake.wait()
                commands, self._commands = self._commands, deque()
            for command in commands:
                command()
            if self._closing:
                return self._end()
            if self._core.has_work:
                self._step()

    def _step(self) -> None:
        try:
            self._core.step()
            if not self._core.has_work:
                self._audit_when_idle()
        except Exception as error:  # a fault of the engine itself: end what runs, mend, go on
            warnings.warn(f"an engine step failed: {error!r}; running requests end", stacklevel=1)
            for request in self._core.requests():
                self._core.abort(request.rid, f"the engine failed: {error}")
            self._core.audit()

    def _audit_when_idle(self) -> None:
        if self._core.clock() - self._last_audit >= IDLE_AUDIT_SECONDS:
            self._core.audit()
            self._last_audit = self._core.clock()

    def _end(self) -> None:
        futures, self._futures = dict(self._futures), {}
        for request in self._core.requests():
            self._core.abort(request.rid, "the engine was shut down")
        for future in futures.values():
            if not future.done():
                future.set_exception(EngineClosed("the engine was shut down"))
