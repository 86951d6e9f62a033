"""What one exchange has generated so far, as the engine's news come in.

Knows samples and who waits for them; refuses to know processes and protocols. News are merged into the
samples, so that a reader who is slow finds the latest state, and holds no more than the texts themselves.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence

from ramet.server.exchange import Call, Failure, Sample
from ramet.server.messages import Update

__all__ = ["Generation", "Refused"]


class Refused(Exception):
    """There is no answer: `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Generation:
    """Made by `EngineClient.generate`. `abort` is called at most once, and not when all is over."""

    def __init__(self, calls: Sequence[Call], abort: Callable[[], None]) -> None:
        self.samples: list[Sample] = []
        self._ids: list[
            str
        ] = []  # what clients call the samples; in the engine they have other names
        for place, call in enumerate(calls):
            rid, n = call.rid or uuid.uuid4().hex, call.params.n
            self._ids += [rid] if n == 1 else [f"{rid}#{choice}" for choice in range(n)]
            for choice in range(n):
                self.samples.append(Sample(index=len(self.samples), call=place, choice=choice))
        self._abort = abort
        self._changed: dict[int, Sample] = {}
        self._num_left = len(self.samples)
        self._failure: Failure | None = None
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        return self._failure is not None or not self._num_left

    # -- what the engine says ------------------------------------------------------------------------

    def update(self, update: Update) -> None:
        if self.over or not 0 <= update.index < len(self.samples):
            return
        sample = self.samples[update.index]
        sample.text += update.text
        sample.output_ids += update.ids
        for name, value in (update.meta or {}).items():
            if name.startswith("output_") and isinstance(value, list):
                sample.meta.setdefault(name, []).extend(value)
            else:
                sample.meta[name] = value
        sample.meta["id"] = self._ids[update.index]
        sample.meta["completion_tokens"] = len(sample.output_ids)
        sample.kept = update.kept
        if (reason := sample.meta.get("finish_reason")) is not None:
            sample.finish_reason = reason
            self._num_left -= 1
        self._changed[update.index] = sample
        self._news.set()

    def fail(self, failure: Failure) -> None:
        if not self.over:
            self._failure = failure
            self._news.set()

    # -- who waits -----------------------------------------------------------------------------------

    async def finished(self) -> list[Sample]:
        """All samples, when all have ended. Raises `Refused`."""
        async for _ in self.changes():
            pass
        return self.samples

    async def changes(self) -> AsyncIterator[list[Sample]]:
        """The samples that changed since the last time, until all have ended. Raises `Refused`."""
        while True:
            await self._news.wait()
            self._news.clear()
            changed, self._changed = list(self._changed.values()), {}
            if changed:
                yield changed
            if self._failure is not None:
                raise Refused(self._failure)
            if not self._num_left and not self._changed:
                return

    def abort(self) -> None:
        """Nobody waits any more. Calling it when all is over does nothing."""
        if not self.over:
            self.fail(Failure(status=499, message="the request was aborted"))
            self._abort()
