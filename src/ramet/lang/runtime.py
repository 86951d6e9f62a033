"""The threads of the language: one event loop for all chains, one for bodies that are coroutines, and a
pool for bodies that are not.

Knows threads and loops, nothing of programs. Chains of all programs run on the *chain loop*, with every
coroutine of every backend, so keep-alive connections have one home. The user's code never runs there: it
could block it. Everything starts on first use and starts anew in a forked process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ramet.errors import InvalidRequest

__all__ = [
    "arrival",
    "async_body",
    "auto_threads",
    "block_until",
    "body_loop",
    "chain_loop",
    "in_async_body",
    "post",
    "refuse_to_block",
    "start_body",
]

T = TypeVar("T")
Wake = Callable[[], None]
Register = Callable[[Wake], bool]
"""Takes a callback for the next change; True (and the callback is not kept) if there is no need to wait."""

async_body: contextvars.ContextVar[bool] = contextvars.ContextVar("ramet_async_body", default=False)
_in_pool: contextvars.ContextVar[bool] = contextvars.ContextVar("ramet_in_pool", default=False)


class _LoopThread:
    """An event loop that runs for ever in a daemon thread."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._awake = False
        self.thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def post(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Waking the loop is a system call: one for all that is posted before it looks."""
        self._inbox.append((call, args))
        if self._awake:
            return
        try:
            self._awake = True
            self.loop.call_soon_threadsafe(self._empty_inbox)
        except BaseException:  # Ctrl-C in between: the next one who posts must wake the loop
            self._awake = False
            raise

    def _empty_inbox(self) -> None:
        self._awake = False  # first: what is posted from here on wakes the loop again
        while self._inbox:
            call, args = self._inbox.popleft()
            self.loop.call_soon(call, *args)


class _Threads:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loops: dict[str, _LoopThread] = {}
        self.pool: ThreadPoolExecutor | None = None

    def loop(self, name: str) -> _LoopThread:
        found = self.loops.get(name)
        if found is None:
            with self.lock:
                found = self.loops.get(name)
                if found is None:
                    found = self.loops[name] = _LoopThread(name)
        return found


_threads = _Threads()


def _forget() -> None:
    global _threads
    _threads = _Threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a child process has none of its parent's threads


def auto_threads() -> int:
    """How many programs run at a time when nobody says: bodies mostly wait, so far more than cores."""
    return max(96, 16 * (os.cpu_count() or 1))


def chain_loop() -> asyncio.AbstractEventLoop:
    """The loop on which chains and backends run."""
    return _threads.loop("ramet-chains").loop


def body_loop() -> asyncio.AbstractEventLoop:
    """The loop for `async def` bodies that were started by a call that is not a coroutine."""
    return _threads.loop("ramet-bodies").loop


def post(call: Callable[..., object], *args: Any) -> None:
    """Have the chain loop make a call; calls of one thread are made in their order."""
    chains = _threads.loop("ramet-chains")
    if _running_loop() is chains.loop:
        chains.loop.call_soon(call, *args)
    else:
        chains.post(call, args)


def start_body(body: Callable[[], T]) -> Future[T]:
    """Run `body` in another thread, in a copy of this context. The pool is bounded; a body that was
    itself started from inside a pooled body gets a thread of its own, so that nesting cannot deadlock."""
    context = contextvars.copy_context()
    if not _in_pool.get():
        context.run(_in_pool.set, True)
        return _pool().submit(context.run, body)
    future: Future[T] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(context.run(body))
        except BaseException as error:  # whoever waits for the future raises it
            future.set_exception(error)

    threading.Thread(target=work, name="ramet-nested-body", daemon=True).start()
    return future


def _pool() -> ThreadPoolExecutor:
    with _threads.lock:
        if _threads.pool is None:
            _threads.pool = ThreadPoolExecutor(auto_threads(), thread_name_prefix="ramet-body")
        return _threads.pool


def _running_loop() -> asyncio.AbstractEventLoop | None:
    return asyncio._get_running_loop()


def in_async_body() -> bool:
    """Is this code part of an `async def` body, on that body's own loop?"""
    return async_body.get() and _running_loop() is not None


def refuse_to_block(what: str, instead: str) -> None:
    """Raise if waiting here would stall a loop that others need."""
    if in_async_body():
        raise InvalidRequest(what, "inside an async program", "would block its event loop", instead)
    loops = _threads.loops
    if "ramet-chains" in loops and _running_loop() is loops["ramet-chains"].loop:
        raise InvalidRequest(what, "on the chain loop", "would wait for itself", instead)


def block_until(register: Register, timeout: float | None = None) -> bool:
    """Wait in this thread; False if `timeout` seconds passed first."""
    gate = threading.Event()
    return register(gate.set) or gate.wait(timeout)


async def arrival(register: Register) -> None:
    """Wait in this coroutine, on whatever loop it runs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if _running_loop() is loop:
            _release(future)
            return
        with contextlib.suppress(RuntimeError):  # a closed loop: nobody waits there any more
            loop.call_soon_threadsafe(_release, future)

    if not register(wake):
        await future


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
