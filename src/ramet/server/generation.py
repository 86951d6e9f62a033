"""What one exchange has generated so far, as the engine's news come in.

Knows samples and who waits for them; refuses to know processes and protocols. News are merged into the
samples, so that a reader who is slow finds the latest state, and holds no more than the texts themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ramet.server.exchange import Call, Failure, Sample
from ramet.server.messages import Update

__all__ = ["Generation", "Refused"]


class Refused(Exception):
    """There is no answer: `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Generation:
    """Made by `EngineClient.generate`. `names`: what clients call the samples of each call. `abort` is called
    at most once, and not when all is over; `on_begun` once for each sample, when there is something of it;
    `on_over` once, when nothing of it runs any more."""

    def __init__(
        self,
        calls: Sequence[Call],
        names: Sequence[str],
        abort: Callable[[], None],
        on_over: Callable[[], None] = lambda: None,
        on_begun: Callable[[], None] = lambda: None,
    ) -> None:
        self.samples: list[Sample] = []
        self._ids: list[str] = []  # in the engine they have other names
        for place, (call, name) in enumerate(zip(calls, names, strict=True)):
            n = call.params.n
            self._ids += [name] if n == 1 else [f"{name}#{choice}" for choice in range(n)]
            for choice in range(n):
                self.samples.append(Sample(index=len(self.samples), call=place, choice=choice))
        self._abort, self._on_over, self._on_begun = abort, on_over, on_begun
        self._changed: dict[int, Sample] = {}
        self._num_left = len(self.samples)
        self._failure: Failure | None = None
        self._waiter: asyncio.Future[None] | None = None
        if self.over:  # nothing was asked for
            on_over()

    @property
    def over(self) -> bool:
        return self._failure is not None or not self._num_left

    # -- what the engine says ------------------------------------------------------------------------

    def update(self, update: Update) -> None:
        if self.over or not 0 <= update.index < len(self.samples):
            return
        sample = self.samples[update.index]
        if sample.finish_reason is not None:
            return
        sample.text += update.text
        sample.output_ids += update.ids
        meta = sample.meta
        if not meta:
            self._on_begun()
        if update.meta is not None:
            for name, value in update.meta.items():
                if name.startswith("output_") and isinstance(value, list):
                    meta.setdefault(name, []).extend(value)
                else:
                    meta[name] = value
            meta["id"] = self._ids[update.index]
        meta["completion_tokens"] = len(sample.output_ids)
        self._changed[update.index] = sample
        if update.kept is not None:
            sample.kept = update.kept
        reason = meta.get("finish_reason")
        if reason is not None:
            sample.finish_reason = reason
            self._num_left -= 1
            if not self._num_left:
                self._on_over()
        self._wake()

    def fail(self, failure: Failure) -> None:
        if not self.over:
            self._failure = failure
            self._on_over()
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- who waits -----------------------------------------------------------------------------------

    async def finished(self) -> list[Sample]:
        """All samples, when all have ended. Raises `Refused`."""
        while await self.news() is not None:
            pass
        return self.samples

    async def news(self, seconds: float | None = None) -> list[Sample] | None:
        """The samples that changed since the last time; none of them if nothing did for `seconds`. None when
        all have ended and were given. Raises `Refused`. One task at a time may wait."""
        if not self._changed and not self.over:
            await self._waited(seconds)
        if self._changed:
            changed, self._changed = self._changed, {}
            return list(changed.values())
        if self._failure is not None:
            raise Refused(self._failure)
        return [] if self._num_left else None

    async def _waited(self, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        alarm = None if seconds is None else loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if alarm is not None:
                alarm.cancel()

    def abort(self) -> None:
        """Nobody waits any more. Calling it when all is over does nothing."""
        if not self.over:
            self.fail(Failure(status=499, message="the request was aborted"))
            self._abort()
