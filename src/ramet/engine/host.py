"""A thread that steps an engine, and the only way to it from other threads.

Whatever touches the core runs on that thread: requests, aborts and questions are queued as small
functions and carried out between two steps. What is submitted is a future that always completes: with
the requests when they have ended (for whatever reason), or with `EngineClosed`.

Waking a thread takes a system call and a turn at the interpreter lock, so callers are woken once for all
of their requests, and an event loop once for all that a step has to say to it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ramet.constraints.compiler import lower_priority
from ramet.engine.loop import EngineCore
from ramet.engine.request import Request
from ramet.errors import EngineClosed

__all__ = ["EngineHost", "RequestsFuture"]

T = TypeVar("T")
RequestsFuture = concurrent.futures.Future[list[Request]]

# The cache is audited when the engine has nothing to do, at most this often.
IDLE_AUDIT_SECONDS = 10.0


class EngineHost:
    """Starts its (daemon) thread at once; `close()` ends it and every request in it."""

    def __init__(self, core: EngineCore, name: str = "ramet-engine") -> None:
        self._core = core
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self.num_faults = 0  # steps in a row that failed outside of the model
        self._groups: dict[_Group, None] = {}
        self._stuck = False  # the core waits for the background
        self._pool = concurrent.futures.ThreadPoolExecutor(
            2, f"{name}-background", initializer=lower_priority
        )
        core.background = self._in_background
        self._outbox: dict[asyncio.AbstractEventLoop, list[Callable[[], object]]] = {}
        self._last_audit = core.clock()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    # -- from any thread -----------------------------------------------------------------------

    def submit(
        self,
        requests: Sequence[Request],
        on_update: Callable[[Request], None] | None = None,
        on_done: Callable[[RequestsFuture], object] | None = None,
    ) -> RequestsFuture:
        """Queue `requests` together, so that they meet in one batch. The future is done when all have
        ended, or when the engine refuses one. On the engine's thread, `on_update` is called after every
        step that gave one of them a token, and `on_done` when the future is done."""
        group = _Group(list(requests), on_update, on_done or (lambda _future: None))
        self._post(lambda: self._add(group))
        return group.future

    async def finished(
        self, requests: Sequence[Request], on_update: Callable[[Request], None] | None = None
    ) -> list[Request]:
        """`submit` for coroutines. Cancelling the awaiting task aborts the requests."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[list[Request]] = loop.create_future()

        def settle(outcome: RequestsFuture) -> None:
            if ended.done():
                return
            error = outcome.exception()
            if error is None:
                ended.set_result(outcome.result())
            else:
                ended.set_exception(error)

        self.submit(requests, on_update, lambda outcome: self.tell(loop, lambda: settle(outcome)))
        try:
            return await ended
        except BaseException:
            self.abort(request.rid for request in requests)
            raise

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
        self._pool.shutdown(wait=False, cancel_futures=True)

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

    def tell(self, loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
        """Have `function()` called on `loop`, in the order of the calls of `tell`. For callbacks of
        `submit`: it is sent with whatever else this step has to say."""
        self._outbox.setdefault(loop, []).append(function)

    def _send(self) -> None:
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, {}
        for loop, functions in outbox.items():
            with contextlib.suppress(RuntimeError):  # closed: nobody is there to be told
                loop.call_soon_threadsafe(_call_all, loop, functions)

    def _add(self, group: _Group) -> None:
        self._groups[group] = None
        group.future.add_done_callback(lambda _future: self._groups.pop(group, None))
        for request in group.requests:
            request.on_update = group.update
            try:
                self._core.add(request)
            except Exception as error:
                group.fail(error)
        group.check()

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not (self._commands or self._closing or self._can_step()):
                    self._wake.wait()
                commands, self._commands = self._commands, deque()
                closing = self._closing  # nothing is posted any more
            for command in commands:
                command()
                self._stuck = False
            if closing:
                self._end()
            elif self._can_step():
                self._step()
            self._send()
            if closing:
                return

    def _can_step(self) -> bool:
        return self._core.has_work and not self._stuck

    def _in_background(self, function: Callable[[], None], then: Callable[[], None]) -> None:
        def run() -> None:
            function()
            with contextlib.suppress(EngineClosed):  # nobody waits for it any more
                self._post(then)

        self._pool.submit(run)

    def _step(self) -> None:
        try:
            self._stuck = not self._core.step()
            if not self._core.has_work:
                self._audit_when_idle()
            self.num_faults = 0
        except Exception as error:  # a fault of the engine itself: end what runs, mend, go on
            warnings.warn(f"an engine step failed: {error!r}; running requests end", stacklevel=1)
            self.num_faults += 1
            self._core.recover(error)

    def _audit_when_idle(self) -> None:
        if self._core.clock() - self._last_audit >= IDLE_AUDIT_SECONDS:
            self._core.audit()
            self._last_audit = self._core.clock()

    def _end(self) -> None:
        for request in self._core.requests():
            self._core.abort(request.rid, "the engine was shut down")
        for group in list(self._groups):
            group.fail(EngineClosed("the engine was shut down"))


class _Group:
    """Requests that were submitted together, and the future that waits for them."""

    def __init__(
        self,
        requests: list[Request],
        on_update: Callable[[Request], None] | None,
        on_done: Callable[[RequestsFuture], object],
    ) -> None:
        self.requests, self.on_update, self.on_done = requests, on_update, on_done
        self.future: RequestsFuture = concurrent.futures.Future()
        self.future.set_running_or_notify_cancel()  # only the engine completes it
        self._num_left = len(requests)

    def update(self, request: Request) -> None:
        try:
            if self.on_update is not None:
                self.on_update(request)
        finally:
            if request.finish_reason is not None:
                self._num_left -= 1
                self.check()

    def check(self) -> None:
        if not self._num_left and not self.future.done():
            self.future.set_result(self.requests)
            self.on_done(self.future)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.on_done(self.future)


def _call_all(loop: asyncio.AbstractEventLoop, functions: Sequence[Callable[[], object]]) -> None:
    for function in functions:
        loop.call_soon(function)  # each on its own: one that raises leaves the others alone
