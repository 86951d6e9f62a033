"""Attempts, waits and deadlines: one call of a remote API from its turn to its last attempt.

Knows clocks, loops and `Failure`s; nothing of requests and answers. Retries are this file's alone: the
vendors' SDKs are told to make none, so that every attempt is seen and counted.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ramet.backends.api_limits import Backoff, asked_wait, exhausted_for
from ramet.backends.api_records import ApiError, Failure, TokenUsage, Usage
from ramet.errors import InvalidRequest

__all__ = ["ApiClient", "Limits", "Log"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`max_concurrency` calls at a time; others wait for their turn, which costs nothing of their time.
    `timeout` is a call's whole time in seconds, retries and waits included; `attempt_timeout` that of one
    attempt. `max_retries` attempts may follow the first one."""

    max_concurrency: int = 64
    max_retries: int = 4
    timeout: float = 600.0
    attempt_timeout: float | None = None
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        for name, least in (("max_concurrency", 1), ("max_retries", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidRequest(name, value, f"is not a whole number of at least {least}")
        for name in ("timeout", "attempt_timeout"):
            seconds = getattr(self, name)
            if seconds is None and name == "attempt_timeout":
                continue
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0:
                raise InvalidRequest(name, seconds, "is not a number of seconds above 0")
        if not isinstance(self.backoff, Backoff):
            raise InvalidRequest("backoff", self.backoff, "is not a Backoff")


@dataclass(slots=True)
class Log:
    """What happened in one call. `observed`: text of it has reached a reader, so that no other attempt may
    take its place."""

    deadline: float
    started: float
    attempts: int = 0
    retries: list[dict[str, Any]] = field(default_factory=list)
    spent: Usage = field(default_factory=Usage)
    observed: bool = False
    first_token: float | None = None
    text: str = ""

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


class ApiClient:
    """The limits of one backend, on whatever event loops it is used."""

    def __init__(self, name: str, limits: Limits, usage: TokenUsage) -> None:
        self.name, self.limits, self.usage = name, limits, usage
        self._random = random.Random()
        self._open_at = 0.0  # no attempt before this time
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Log]:
        """Wait for one of the places; the call's time begins when it has one."""
        loop = asyncio.get_running_loop()
        places = self._turns.get(loop)
        if places is None:
            places = self._turns[loop] = asyncio.Semaphore(self.limits.max_concurrency)
        async with places:
            now = time.monotonic()
            yield Log(deadline=now + self.limits.timeout, started=now)

    async def attempt(self, log: Log, send: Callable[[float], Awaitable[T]]) -> T:
        """`send(seconds)` until it succeeds; `seconds` is the time it has. Raises `ApiError`."""
        failures = 0
        while True:
            await self._wait_until_open(log)
            log.attempts += 1
            self.usage.requests += 1
            try:
                return await self._once(log, send)
            except Failure as failure:
                failures += 1
                self._count(log, failure)
                seconds = self._next_wait(log, failure, failures)
            await asyncio.sleep(seconds)

    async def _once(self, log: Log, send: Callable[[float], Awaitable[T]]) -> T:
        seconds = log.left
        if self.limits.attempt_timeout is not None:
            seconds = min(seconds, self.limits.attempt_timeout)
        try:
            async with asyncio.timeout(seconds):
                return await send(seconds)
        except TimeoutError:
            raise Failure(f"no answer within {_seconds(seconds)}", retry=True) from None

    def note(self, headers: Mapping[str, str]) -> None:
        """Learn from an answer's headers: when a limit is used up, nobody asks before it begins anew."""
        wait = exhausted_for(headers, time.time())
        if wait > 0:
            self._open_at = max(self._open_at, time.monotonic() + wait)

    # -- between attempts ------------------------------------------------------------------------

    async def _wait_until_open(self, log: Log) -> None:
        while True:
            wait = self._open_at - time.monotonic()
            if wait <= 0:
                return
            if wait >= log.left:
                raise self.error(
                    log,
                    f"its rate limit is used up for {_seconds(wait)} more, longer than the "
                    f"{_seconds(max(log.left, 0))} left of the call's {_seconds(self.limits.timeout)}",
                )
            await asyncio.sleep(wait)

    def _count(self, log: Log, failure: Failure) -> None:
        if failure.usage is not None:
            self.usage.add(failure.usage)
            log.spent += failure.usage
        if failure.headers is not None:
            self.note(failure.headers)
            if failure.wait is None:
                failure.wait = asked_wait(failure.headers, time.time())

    def _next_wait(self, log: Log, failure: Failure, failures: int) -> float:
        """Seconds until the next attempt. Raises if there is none."""
        why_not = ""
        if not failure.retry:
            raise self.error(log, failure.reason, failure)
        if log.observed:
            why_not = "not tried again, because text of it has already been read"
        elif failures > self.limits.max_retries:
            why_not = f"no retry is left (max_retries={self.limits.max_retries})"
        seconds = self.limits.backoff.delay(failures, self._random.random())
        if failure.wait is not None:
            seconds = max(seconds, failure.wait) if failure.wait else seconds
        if failure.status == 429 and failure.wait:
            self._open_at = max(self._open_at, time.monotonic() + failure.wait)
        if not why_not and seconds >= log.left:
            timeout = f"timeout={_seconds(self.limits.timeout)}"
            why_not = (
                f"the call's time is over ({timeout})"
                if log.left <= 0
                else f"the next attempt would come in {_seconds(seconds)}, too late for {timeout}"
            )
        if why_not:
            raise self.error(log, f"{failure.reason}; {why_not}", failure)
        log.retries.append(
            {"reason": failure.reason, "status": failure.status, "waited": round(seconds, 4)}
        )
        return seconds

    def error(self, log: Log, problem: str, failure: Failure | None = None) -> ApiError:
        """The call's end: what was tried, and why it is over."""
        said = f"{self.name}: {problem}"
        if log.retries:
            tried = "; ".join(f"{i + 1}. {r['reason']}" for i, r in enumerate(log.retries))
            said += f" (attempt {log.attempts}; before: {tried})"
        return ApiError(
            said,
            provider=self.name,
            status=failure.status if failure else None,
            request_id=failure.request_id if failure else None,
            attempts=log.attempts,
            retries=len(log.retries),
            tried=tuple(log.retries),
            spent=log.spent,
            text=(failure.text if failure else "") or log.text,
        )


def _seconds(value: float) -> str:
    return f"{value:.3g} s"
