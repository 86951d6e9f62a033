"""From a question to answers that are accepted: sending, reading, rejecting, asking again.

Knows a provider by the few methods that it adds, and plans by whether they accept a text; refuses to know
what the language makes of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ramet.backend import Chunk, GenerateCall, OnChunk
from ramet.backends.api_client import ApiClient, Limits, Log
from ramet.backends.api_cut import Cutter
from ramet.backends.api_records import (
    Failure,
    Part,
    Price,
    Question,
    Reader,
    Reply,
    Sample,
    TokenUsage,
    Turn,
    Usage,
)
from ramet.backends.api_structured import Plan, Rejected
from ramet.errors import EngineClosed, InvalidRequest, RametError
from ramet.params import SamplingParams

__all__ = ["Asking", "Feed", "Judged"]


@dataclasses.dataclass(slots=True)
class Judged:
    """A sample, and the program's text of it or the `problem` with it. `ask`: which question it answered,
    counted from 1; `rejected`: all that were not accepted in this call."""

    sample: Sample
    text: str
    finish: dict[str, Any]
    incomplete: bool = False
    problem: str = ""
    reply: Reply = dataclasses.field(default_factory=lambda: Reply((), None))
    ask: int = 1
    rejected: list[dict[str, str]] = dataclasses.field(default_factory=list)


class Feed:
    """Passes streamed text on, without the stops that the provider does not know."""

    def __init__(self, call: GenerateCall, on_chunk: OnChunk) -> None:
        self._call, self._on_chunk = call, on_chunk

    def start(self) -> None:
        """A new attempt; nothing of an earlier one has been shown."""
        self._cutter = Cutter(self._call.params.stop, self._call.params)

    def show(self, new: str) -> bool:
        safe = self._cutter.feed(new)
        if safe:
            meta = {"id": self._call.rid, "finish_reason": None}
            self._on_chunk(Chunk(text=safe, meta_info=meta))
        return bool(safe)


class Asking:
    """What a remote API's backend does between a question and its answers. `chat`: it answers messages,
    rather than continues texts. A subclass sets `_thinks` if its models may use up their tokens before
    they say anything."""

    def __init__(
        self, model_name: str, limits: Limits, price: Price | None, *, chat: bool, max_asks: int
    ) -> None:
        self.model_name, self.max_asks = model_name, max_asks
        self._chat, self._thinks = chat, False
        self.token_usage = TokenUsage(price)
        self._api = ApiClient(self.name, limits, self.token_usage)
        self._lock = threading.Lock()
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = (
            weakref.WeakKeyDictionary()
        )
        self._closed = False
        try:
            self._spare: Any = self._new_client()  # now, so that a missing key is found now
        except TypeError as error:
            raise InvalidRequest(
                "options",
                type(self).__name__,
                f"has one that the SDK's client does not take: {error}",
            ) from error

    @property
    def name(self) -> str:
        """For messages."""
        return f"{type(self).__name__} ({self.model_name})"

    def shutdown(self) -> None:
        """Close the connections. Calls that run meanwhile fail."""
        self._closed = True
        with self._lock:
            clients = list(self._clients.items())
            self._clients.clear()
        for loop, client in clients:
            with contextlib.suppress(RuntimeError):  # a loop that is closed has closed them
                loop.call_soon_threadsafe(_spawn, loop, self._close_client, client)

    # -- what a provider adds --------------------------------------------------------------------

    def _new_client(self) -> Any:
        """The SDK's asynchronous client, its own retries off."""
        raise NotImplementedError

    def _request(self, question: Question) -> dict[str, Any]:
        """What the SDK is called with. Pure."""
        raise NotImplementedError

    def _reader(self, question: Question) -> Reader:
        raise NotImplementedError

    async def _exchange(
        self,
        client: Any,
        request: dict[str, Any],
        stream: bool,
        seconds: float,
        take: Callable[[Any], None],
    ) -> Mapping[str, str]:
        """Send a request and hand over its answer, event by event if `stream`. Returns the headers."""
        raise NotImplementedError

    def _failure(self, error: Exception) -> Failure | None:
        """What an error of the SDK means; None if it is none of the SDK's."""
        raise NotImplementedError

    async def _close_client(self, client: Any) -> None:
        await client.close()

    # -- asking ----------------------------------------------------------------------------------

    async def _answers(
        self,
        log: Log,
        question: Question,
        plan: Plan,
        params: SamplingParams,
        feed: Feed | None,
    ) -> list[Judged]:
        """`question.n` accepted answers. What is not accepted is asked for again, within the budget."""
        accepted: list[Judged] = []
        rejected: list[dict[str, str]] = []
        for ask in range(1, plan.asks + 1):
            before = len(accepted)
            question = dataclasses.replace(question, n=params.n - before)
            reply = await self._reply(log, question, feed)
            for sample in reply.samples:
                answer = self._judged(log, sample, plan, params)
                answer.reply, answer.ask, answer.rejected = reply, ask, rejected
                if answer.problem:
                    rejected.append({"text": answer.text, "problem": answer.problem})
                else:
                    accepted.append(answer)
            if len(accepted) >= params.n:
                return accepted
            if log.observed:
                break
            if self._chat and len(accepted) == before:
                turns = _asked_again(question.turns, rejected[-1], plan)
                question = dataclasses.replace(question, turns=turns)
        last = rejected[-1]
        raise self._api.error(
            log,
            f"{len(rejected)} answers were not accepted (max_asks={self.max_asks}); "
            f"the last was {last['text'][:200]!r}: {last['problem']}",
        )

    async def _reply(self, log: Log, question: Question, feed: Feed | None) -> Reply:
        question = dataclasses.replace(question, stream=feed is not None)
        request = self._request(question)  # once: what cannot be asked at all is no attempt
        send = functools.partial(self._send, log, question, request, feed)
        reply: Reply = await self._api.attempt(log, send)
        self.token_usage.add(reply.usage)
        log.spent += reply.usage or Usage()
        return reply

    async def _send(
        self,
        log: Log,
        question: Question,
        request: dict[str, Any],
        feed: Feed | None,
        seconds: float,
    ) -> Reply:
        """One attempt. Every error comes out as a `Failure`, or as it is if it is no attempt's."""
        reader = self._reader(question)
        if feed is not None:
            feed.start()

        def take(data: Any) -> None:
            if not isinstance(data, Mapping):
                raise Failure(f"the answer is not a JSON object but {data!r:.60}", retry=True)
            if feed is None:
                reader.whole(data)
                return
            new = reader.event(data)
            log.text += new
            if new and log.first_token is None:
                log.first_token = time.monotonic() - log.started
            log.observed = feed.show(new) or log.observed

        log.text = ""
        client = self._client()
        try:
            self._api.note(await self._exchange(client, request, feed is not None, seconds, take))
            return reader.reply()
        except Failure as failure:
            failure.usage = failure.usage or reader.usage()
            raise
        except asyncio.CancelledError:  # or out of time: what the provider told is spent
            told = reader.usage() or Usage()
            log.spent += told
            self.token_usage.add(told)
            raise
        except RametError:
            raise
        except Exception as error:
            found = self._failure(error) or _malformed(error)
            if found is None:
                raise
            found.usage = reader.usage()
            raise found from error

    def _client(self) -> Any:
        """Connections belong to a loop, so each loop has a client of its own."""
        self._check_open()
        loop = asyncio.get_running_loop()
        with self._lock:  # two loops are two threads
            client = self._clients.get(loop)
            if client is None:
                client, self._spare = self._spare or self._new_client(), None
                self._clients[loop] = client
        return client

    def _judged(self, log: Log, sample: Sample, plan: Plan, params: SamplingParams) -> Judged:
        """The program's text of a sample, or the problem with it."""
        finish = dict(sample.finish or {"type": "stop"})
        if finish["type"] == "abort":
            raise self._api.error(
                log,
                f"the provider withheld the answer ({finish['message']})",
                Failure("withheld", retry=False, status=200, text=sample.text),
            )
        if self._thinks and finish["type"] == "length" and not sample.text:
            raise self._api.error(
                log,
                f"the model thought until its {params.max_new_tokens} tokens were used up and said "
                "nothing; raise max_tokens",
            )
        try:
            text, matched = plan.accept(sample.text, params.stop, params)
        except Rejected as problem:
            if finish["type"] != "length":
                return Judged(sample, sample.text, finish, problem=str(problem))
            finish["incomplete"] = True
            return Judged(sample, sample.text, finish, incomplete=True)
        if matched is not None:
            finish = {"type": "stop", "matched": matched}
        return Judged(sample, text, finish)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed(f"{self.name} was shut down")


def _malformed(error: Exception) -> Failure | None:
    """A reader stumbles with these over what no answer of its provider looks like."""
    if not isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):
        return None
    said = f"{type(error).__name__}: {error}"
    return Failure(f"the answer is malformed ({said[:140]})", retry=True)


def _asked_again(
    turns: tuple[Turn, ...], rejected: Mapping[str, str], plan: Plan
) -> tuple[Turn, ...]:
    """The conversation with the answer that was not accepted, and why. An answer that went on from a text
    of the assistant's is not shown: behind it no user can speak."""
    if turns[-1].role == "assistant":
        return turns
    note = f"That answer was not accepted: {rejected['problem']}. {plan.note}".strip()
    shown = rejected["text"] or "(no text)"
    return (*turns, Turn("assistant", (Part(shown),)), Turn("user", (Part(note),)))


def _spawn(loop: asyncio.AbstractEventLoop, close: Callable[[Any], Any], client: Any) -> None:
    task = loop.create_task(close(client))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[Any]] = set()  # a loop keeps no task alive by itself
