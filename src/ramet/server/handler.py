"""Runs any `Exchange` over HTTP: admitted, generated, written, and ended early where nobody waits any more.

Knows ASGI's messages, deadlines and disconnects. Refuses to know protocols: what is written comes from the
exchange.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ramet.errors import InvalidRequest
from ramet.server.admission import Admission
from ramet.server.engine_client import EngineClient
from ramet.server.exchange import Call, EventWriter, Exchange, Failure, Sample
from ramet.server.generation import Generation, Refused
from ramet.server.record import Record

__all__ = ["Generated", "Gone", "Serving", "error_headers", "json_bytes"]

# A stream's headers, and then comments, keep connections alive that say nothing.
QUIET_SECONDS = 10.0

Write = Callable[[Message], Awaitable[None]]


class Gone(Exception):
    """The client is not there any more, or does not read."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What every request is served with. `write_timeout`: seconds that a client may leave its answer
    unread."""

    engine: EngineClient
    admission: Admission
    write_timeout: float


class Generated(Response):
    """A response that is generated when it is sent. `timeout`: seconds from `record.began` on. Whatever
    becomes of it, the engine has nothing of it afterwards."""

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
        self._writer: EventWriter | None = None  # of a stream that has begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        working = asyncio.create_task(self._serve(self._bounded(send)))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left = not working.done()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            error = None if working.cancelled() else working.exception()
            if left or isinstance(error, Gone):
                self.record.status = 499
            hung_up = isinstance(error, Gone) and _hang_up(scope)
            if hung_up:
                await asyncio.wait({leaving}, timeout=1.0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        if error is not None and not hung_up and (self._started or not isinstance(error, Gone)):
            raise error  # the connection is closed: the answer did not end as it should

    def _bounded(self, send: Send) -> Write:
        async def write(message: Message) -> None:
            try:
                async with asyncio.timeout(self.serving.write_timeout):
                    await send(message)
            except (TimeoutError, OSError):
                raise Gone from None

        return write

    async def _serve(self, write: Write) -> None:
        generation: Generation | None = None
        failure: Failure | None = None
        answer: bytes | None = None
        try:
            generation = self._begin()
            seconds = self.record.began + self.timeout - time.monotonic()
            async with asyncio.timeout(max(seconds, 0.0)):
                if self.exchange.stream:
                    await self._write_stream(generation, write)
                else:
                    answer = json_bytes(self.exchange.answer(await generation.finished()))
        except Refused as refused:
            failure = refused.failure
        except InvalidRequest as error:
            failure = Failure(status=400, message=str(error), field=error.field)
        except TimeoutError:
            message = f"the answer was not ready within {self.timeout:g} s"
            failure = Failure(status=504, message=message)
        finally:
            if generation is not None:
                self._note(generation.samples)
                generation.abort()
        if failure is not None:
            await self._write_failure(failure, write)
        elif answer is not None:
            await self._start(write, 200, "application/json", [_length(answer)])
            await write(_body(answer))
        self.record.status = 200 if failure is None else failure.status

    def _begin(self) -> Generation:
        """Raises `Refused` and `InvalidRequest`."""
        calls = self.exchange.calls
        left = self.record.began + self.timeout - time.monotonic()
        place = self.serving.admission.place(_num_samples(calls), _num_tokens(calls), left)
        try:
            return self.serving.engine.generate(
                calls,
                salt=self.salt,
                owner=self.record.tenant or "",
                kind=self.record.path.rsplit("/", 2)[-1],
                stream=self.exchange.stream,
                on_over=place.release,
                on_begun=place.begun,
            )
        except BaseException:
            place.release()
            raise

    # -- streams -----------------------------------------------------------------------------------

    async def _write_stream(self, generation: Generation, write: Write) -> None:
        writer = self.exchange.events()
        while (changed := await generation.news(QUIET_SECONDS)) is not None:
            if self._writer is None:
                self._writer = writer
                await self._start_stream(write, writer.begin())
            if not changed:
                await write(_body(b": still here\n\n", more=True))
                continue
            if self.record.first_token_seconds is None:
                self.record.first_token_seconds = time.monotonic() - self.record.began
            frames = [frame for sample in changed for frame in writer.changed(sample)]
            if frames:
                await write(_body(b"".join(frames), more=True))
        await write(_body(b"".join(writer.end(generation.samples))))

    async def _start_stream(self, write: Write, first: Iterable[bytes]) -> None:
        headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await self._start(write, 200, "text/event-stream; charset=utf-8", headers)
        if begun := b"".join(first):
            await write(_body(begun, more=True))

    # -- beginnings and failures -----------------------------------------------------------------------

    def _note(self, samples: Sequence[Sample]) -> None:
        self.record.take(samples)
        if self.record.first_token_seconds is None and samples:
            first = samples[0].meta.get("first_token_latency")
            self.record.first_token_seconds = None if first is None else float(first)

    async def _start(
        self,
        write: Write,
        status: int,
        content_type: str,
        headers: Iterable[tuple[bytes, bytes]],
    ) -> None:
        sent = [
            (b"content-type", content_type.encode()),
            (b"x-request-id", self.record.id.encode("latin-1", "replace")),
            *headers,
        ]
        await write({"type": "http.response.start", "status": status, "headers": sent})
        self._started = True

    async def _write_failure(self, failure: Failure, write: Write) -> None:
        self.record.error = failure.message
        if self._writer is not None:  # the failure is the stream's last event
            await write(_body(b"".join(self._writer.failed(failure))))
            return
        body = json_bytes(self.error_body(failure))
        headers = [_length(body), *error_headers(failure)]
        await self._start(write, failure.status, "application/json", headers)
        await write(_body(body))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _hang_up(scope: Scope) -> bool:
    """Close the connection without waiting for a client that does not read. False where the server cannot."""
    abort = (scope.get("extensions") or {}).get("ramet.abort")
    if abort is None:
        return False
    abort()
    return True


def _num_samples(calls: Sequence[Call]) -> int:
    return sum(call.params.n for call in calls)


def _num_tokens(calls: Sequence[Call]) -> int:
    return sum(len(call.ids) for call in calls)


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()


def _body(body: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def json_bytes(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def error_headers(failure: Failure) -> list[tuple[bytes, bytes]]:
    headers = []
    if failure.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(failure.retry_after))).encode()))
    if failure.status == 408:  # the rest of the body is not waited for
        headers.append((b"connection", b"close"))
    return headers
