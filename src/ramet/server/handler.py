"""Runs any `Exchange` over HTTP: admitted, generated, written, and ended early where nobody waits any more.

Knows ASGI's messages, deadlines and disconnects. Refuses to know protocols: what is written comes from the
exchange.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ramet.server.admission import Admission
from ramet.server.engine_client import EngineClient
from ramet.server.exchange import Call, Exchange, Failure, Sample
from ramet.server.generation import Generation, Refused
from ramet.server.record import Record

__all__ = ["Generated", "Gone", "Serving", "error_headers", "json_bytes"]

QUIET_SECONDS = (
    10.0  # a stream's headers, and then comments, keep connections alive that say nothing
)


class Gone(Exception):
    """The client is not there any more, or does not read."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What every request is served with."""

    engine: EngineClient
    admission: Admission
    write_timeout: float


class Generated(Response):
    """A response that is generated when it is sent. `timeout`: seconds from `record.began` on."""

    def __init__(
        self,
        serving: Serving,
        exchange: Exchange,
        salt: str,
        record: Record,
        timeout: float,
        error_body: Callable[[Failure], Any],
    ) -> None:
        self.background = None
        self.status_code = 200
        self.serving, self.exchange, self.salt = serving, exchange, salt
        self.record, self.timeout, self.error_body = record, timeout, error_body
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async def write(message: Message) -> None:
            try:
                async with asyncio.timeout(self.serving.write_timeout):
                    await send(message)
            except TimeoutError:
                raise Gone from None

        working = asyncio.create_task(self._serve(write))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not working.done():
                self.record.status = 499
                working.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)
        if not working.cancelled() and (error := working.exception()) is not None:
            self.record.status = 499
            if not isinstance(error, Gone):
                raise error
            if self._started:
                raise error  # the connection is closed: the stream did not end as it should

    async def _serve(self, write: Callable[[Message], Any]) -> None:
        calls = self.exchange.calls
        generation: Generation | None = None
        try:
            with self.serving.admission.place(_num_samples(calls), _num_tokens(calls)):
                generation = self.serving.engine.generate(
                    calls,
                    salt=self.salt,
                    owner=self.record.tenant or "",
                    kind=self.record.path.rsplit("/", 2)[-1],
                    stream=self.exchange.stream,
                )
                seconds = self.record.began + self.timeout - time.monotonic()
                async with asyncio.timeout(max(seconds, 0.0)):
                    if self.exchange.stream:
                        await self._write_stream(generation, write)
                    else:
                        await self._write_answer(generation, write)
        except Refused as refused:
            await self._write_failure(refused.failure, write)
        except TimeoutError:
            message = f"the answer was not ready within {self.timeout:g} s"
            await self._write_failure(Failure(status=504, message=message), write)
        finally:
            if generation is not None:
                self.record.take(generation.samples)
                generation.abort()

    async def _write_answer(self, generation: Generation, write: Callable[[Message], Any]) -> None:
        samples = await generation.finished()
        first = samples[0].meta.get("first_token_latency")
        if first is not None:
            self.record.first_token_seconds = float(first)
        await self._start(write, 200, "application/json", ())
        await write(_body(json_bytes(self.exchange.answer(samples))))
        self.record.status = 200

    # -- streams -----------------------------------------------------------------------------------

    async def _write_stream(self, generation: Generation, write: Callable[[Message], Any]) -> None:
        writer = self.exchange.events()
        self._writer = writer
        async for changed in _or_silence(generation):
            if not self._started:
                await self._start_stream(write, writer.begin())
            if changed is None:
                await write(_body(b": still here\n\n", more=True))
                continue
            if self.record.first_token_seconds is None:
                self.record.first_token_seconds = time.monotonic() - self.record.began
            frames = [frame for sample in changed for frame in writer.changed(sample)]
            if frames:
                await write(_body(b"".join(frames), more=True))
        await write(_body(b"".join(writer.end(generation.samples))))
        self.record.status = 200

    async def _start_stream(self, write: Callable[[Message], Any], first: Iterable[bytes]) -> None:
        headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await self._start(write, 200, "text/event-stream; charset=utf-8", headers)
        if begun := b"".join(first):
            await write(_body(begun, more=True))

    # -- beginnings and failures -----------------------------------------------------------------------

    async def _start(
        self,
        write: Callable[[Message], Any],
        status: int,
        content_type: str,
        headers: Iterable[tuple[bytes, bytes]],
    ) -> None:
        self._started = True
        sent = [
            (b"content-type", content_type.encode()),
            (b"x-request-id", self.record.id.encode("latin-1", "replace")),
            *headers,
        ]
        await write({"type": "http.response.start", "status": status, "headers": sent})

    async def _write_failure(self, failure: Failure, write: Callable[[Message], Any]) -> None:
        self.record.status, self.record.error = failure.status, failure.message
        if self._started:  # a stream: the failure is its last event
            frames = b"".join(self._writer.failed(failure))
            await write(_body(frames))
            return
        await self._start(write, failure.status, "application/json", error_headers(failure))
        await write(_body(json_bytes(self.error_body(failure))))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _or_silence(generation: Generation) -> AsyncIterator[list[Sample] | None]:
    """The generation's changes, and None whenever nothing has changed for a while."""
    changes = generation.changes()
    waiting: asyncio.Task[list[Sample]] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(changes))
            done, _ = await asyncio.wait({waiting}, timeout=QUIET_SECONDS)
            if not done:
                yield None
                continue
            finished, waiting = waiting, None
            try:
                changed = finished.result()
            except StopAsyncIteration:
                return
            yield changed
    finally:
        if waiting is not None:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Refused, StopAsyncIteration):
                await waiting


def _num_samples(calls: Sequence[Call]) -> int:
    return sum(call.params.n for call in calls)


def _num_tokens(calls: Sequence[Call]) -> int:
    return sum(len(call.ids) for call in calls)


def _body(body: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def json_bytes(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def error_headers(failure: Failure) -> list[tuple[bytes, bytes]]:
    if failure.retry_after is None:
        return []
    return [(b"retry-after", str(max(1, round(failure.retry_after))).encode())]
