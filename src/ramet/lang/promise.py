"""A value that will exist once, and the variables of a program, which are such values with a name.

Knows how to wait, from a thread or from a coroutine, on any loop. Cancelling one who waits never touches
the promise: others wait for it, too.
"""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

from ramet.errors import ProgramError
from ramet.lang.location import again
from ramet.lang.runtime import Wake, arrival, block_until, refuse_to_block
from ramet.lang.streaming import Log

__all__ = ["Promise", "Variable"]

T = TypeVar("T")


class Promise(Generic[T]):
    """Set once, with a value or with an error. Later settings are ignored."""

    __slots__ = ("_lock", "_value", "_wakes", "done", "error")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakes: list[Wake] = []
        self._value: T | None = None
        self.error: ProgramError | None = None
        self.done = False

    def set(self, value: T) -> None:
        self._settle(value, None)

    def fail(self, error: ProgramError) -> None:
        self._settle(None, error)

    def _settle(self, value: T | None, error: ProgramError | None) -> None:
        with self._lock:
            if self.done:
                return
            self._value, self.error, self.done = value, error, True
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def register(self, wake: Wake) -> bool:
        with self._lock:
            if not self.done:
                self._wakes.append(wake)
            return self.done

    def wait(self, what: str, instead: str, timeout: float | None = None) -> None:
        """Wait in this thread. `what` and `instead` are the words of the refusal on a loop's thread."""
        if self.done:
            return
        refuse_to_block(what, instead)
        if not block_until(self.register, timeout):
            raise TimeoutError(f"{what} is not ready after {timeout} s")

    async def arrive(self) -> None:
        if not self.done:
            await arrival(self.register)

    def result(self) -> T:
        """The value of a promise that is done. Raises a copy of its error."""
        if self.error is not None:
            raise again(self.error)
        return self._value  # type: ignore[return-value]  # T may itself include None


class Variable:
    """A variable of a program: promised in program order, set when its operation is done.

    `meta_info` may be read when the promise is done. `log` holds the pieces of the value as they come, in
    a streamed run. `open_at` is set while a `var_scope` that will give the value is still open.
    """

    __slots__ = ("log", "meta_info", "name", "open_at", "promise")

    def __init__(self, name: str, streamed: bool) -> None:
        self.name = name
        self.promise: Promise[Any] = Promise()
        self.meta_info: Any = None
        self.log: Log | None = Log() if streamed else None
        self.open_at: object | None = None

    def set(self, value: Any, meta_info: Any = None) -> None:
        self.meta_info = meta_info
        if self.log is not None:
            self.log.close()
        self.promise.set(value)

    def fail(self, error: ProgramError) -> None:
        if self.log is not None:
            self.log.close(error)
        self.promise.fail(error)
