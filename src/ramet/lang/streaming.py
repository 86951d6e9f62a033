"""Text while it comes: an append-only log that any number of readers follow, each at its own place.

Knows pieces and readers, from threads and coroutines. A reader never takes anything from another one, and
sees every piece once, in order; a failure is raised when the reader has seen all that came before it.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ramet.errors import BackendError, ProgramError
from ramet.lang.location import again
from ramet.lang.runtime import Wake, arrival, block_until, refuse_to_block

__all__ = ["PER_TOKEN_LISTS", "Increments", "Log", "Piece", "Reader", "afollow_all", "follow_all"]

PER_TOKEN_LISTS = ("output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs")


@dataclass(frozen=True, slots=True)
class Piece:
    """New text, and the meta information that came with it. A piece without text tells of something else:
    a variable was promised, a `mark` was reached, or a generation ended."""

    text: str = ""
    meta_info: dict[str, Any] = field(default_factory=dict)
    mark: object | None = None


class Log:
    """Pieces in order, then an end, which may be an error. Nothing follows the end."""

    __slots__ = ("_lock", "_wakes", "closed", "error", "items")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakes: list[Wake] = []
        self.items: list[Piece] = []
        self.closed = False
        self.error: ProgramError | None = None

    def append(self, item: Piece) -> None:
        with self._lock:
            if self.closed:
                return
            self.items.append(item)
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def close(self, error: ProgramError | None = None) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed, self.error = True, error
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def changed(self, at: int, wake: Wake) -> bool:
        """Is there something to see at position `at`? If not, `wake` is called at the next change."""
        with self._lock:
            news = len(self.items) > at or self.closed
            if not news:
                self._wakes.append(wake)
            return news

    def follow(self, stop: object | None = None) -> Iterator[Piece]:
        """Every piece up to the one marked `stop` or the end, waiting in this thread."""
        return (piece for _, piece in follow_all([self], [stop]))

    def afollow(self, stop: object | None = None) -> AsyncIterator[Piece]:
        """`follow` for coroutines."""
        return (piece async for _, piece in afollow_all([self], [stop]))


class Reader:
    """One reader's places in several logs, each read up to its own `stop`. At most one callback waits in
    each log at any time."""

    def __init__(self, logs: Sequence[Log], stops: Sequence[object | None]) -> None:
        self.logs, self.stops = logs, stops
        self.at = [0] * len(logs)
        self._stopped = [False] * len(logs)
        self._armed = [False] * len(logs)
        self._wake: Wake = lambda: None

    def news(self) -> list[tuple[int, Piece]]:
        found: list[tuple[int, Piece]] = []
        for index, log in enumerate(self.logs):
            stop = self.stops[index]
            while not self._stopped[index] and self.at[index] < len(log.items):
                item = log.items[self.at[index]]
                self.at[index] += 1
                if stop is not None and item.mark is stop:
                    self._stopped[index] = True
                else:
                    found.append((index, item))
        return found

    def add(self, log: Log) -> None:
        """Follow one more log, to its end."""
        self.logs, self.stops = [*self.logs, log], [*self.stops, None]
        self.at.append(0)
        self._stopped.append(False)
        self._armed.append(False)

    def over(self) -> bool:
        return all(self._over(index) for index in range(len(self.logs)))

    def _over(self, index: int) -> bool:
        log = self.logs[index]
        return self._stopped[index] or (log.closed and self.at[index] == len(log.items))

    def register(self, wake: Wake) -> bool:
        self._wake = wake  # before looking: a callback that fires meanwhile must find this one
        all_over = (
            True  # a log may have ended since the reader looked: then there is no one to wait for
        )
        for index, log in enumerate(self.logs):
            if self._over(index):
                continue
            all_over = False
            if self._armed[index]:
                continue
            self._armed[index] = True
            if log.changed(self.at[index], lambda index=index: self._fire(index)):  # type: ignore[misc]
                self._armed[index] = False
                return True
        return all_over

    def _fire(self, index: int) -> None:
        self._armed[index] = False
        self._wake()

    def raise_first_error(self) -> None:
        for log, stopped in zip(self.logs, self._stopped):
            if log.error is not None and not stopped:
                raise again(log.error)


def follow_all(logs: Sequence[Log], stops: Sequence[object | None]) -> Iterator[tuple[int, Piece]]:
    """Pieces of all logs with the index of their log, as they come; then the first error, if any."""
    reader = Reader(logs, stops)
    while not reader.over():
        yield from reader.news()
        if not reader.over():
            refuse_to_block("text_iter", "use text_async_iter there")
            block_until(reader.register)
    reader.raise_first_error()


async def afollow_all(
    logs: Sequence[Log], stops: Sequence[object | None]
) -> AsyncIterator[tuple[int, Piece]]:
    """`follow_all` for coroutines."""
    reader = Reader(logs, stops)
    while not reader.over():
        for pair in reader.news():
            yield pair
        if not reader.over():
            await arrival(reader.register)
    reader.raise_first_error()


class Increments:
    """Turns the chunks of one generation and its final completion into pieces in which every character
    and every token stands exactly once, whatever part of them the chunks held."""

    def __init__(self) -> None:
        self.sent = ""
        self.counts = dict.fromkeys(PER_TOKEN_LISTS, 0)
        self.finished = False

    def chunk(self, text: str, meta_info: dict[str, Any]) -> Piece:
        self.sent += text
        for name in PER_TOKEN_LISTS:
            self.counts[name] += len(meta_info.get(name) or ())
        return Piece(text, self._with_total(meta_info))

    def rest(self, text: str, meta_info: dict[str, Any]) -> Piece | None:
        """What the chunks left out of the final `text` and `meta_info`; None if that is nothing."""
        if not text.startswith(self.sent):
            raise BackendError(
                f"the streamed text {self.sent[-40:]!r} is not a beginning of the result {text[:40]!r}"
            )
        left = dict(meta_info)
        for name in PER_TOKEN_LISTS:
            if left.get(name):
                left[name] = left[name][self.counts[name] :]
                self.counts[name] += len(left[name])
        rest = text[len(self.sent) :]
        if not rest and self.finished and not any(left.get(name) for name in PER_TOKEN_LISTS):
            return None
        return Piece(rest, self._with_total(left))

    def _with_total(self, meta_info: dict[str, Any]) -> dict[str, Any]:
        self.finished = self.finished or bool(meta_info.get("finish_reason"))
        if meta_info.get("output_token_logprobs") is None:
            return dict(meta_info)
        return {
            **meta_info,
            "output_token_logprobs_length": self.counts["output_token_logprobs"],
        }
