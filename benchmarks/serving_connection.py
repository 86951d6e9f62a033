"""One kept HTTP/1.1 connection of a load, with at most one request on it.

Knows the form of an answer: its head, and bodies in chunks, of a known length, or up to the connection's
end. Refuses to know what is in a body, whose pieces are kept with the times of their arrival, and when
requests leave. Standard library only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol, cast

__all__ = ["Call", "Client", "Connection", "Outcome"]

_HEAD_BYTES, _BODY_BYTES, _SIZE_LINE = 64 << 10, 4 << 20, 256


@dataclass(slots=True)
class Outcome:
    """What became of one request. Times are seconds after the beginning, None where nothing happened.

    `status` is HTTP's, 0 without an answer. `pieces` are the parts of the answer's body as they came.
    `error`: "connect" (refused or reset before it was sent), "dropped" (the server closed before the end),
    "time" (given up), "unsent" (too many were open), "garbled" (not HTTP, or too large), or None."""

    intended: float
    sent: float | None = None
    first_byte: float | None = None
    ended: float | None = None
    status: int = 0
    retry_after: str | None = None
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    error: str | None = None
    tries: int = 0


class Call:
    """One request under way."""

    __slots__ = ("connection", "done", "outcome", "request")

    def __init__(self, request: bytes, outcome: Outcome) -> None:
        self.request, self.outcome = request, outcome
        self.connection: Connection | None = None
        self.done = False


class Client(Protocol):
    """Whom a connection tells what happens."""

    def now(self) -> float:
        """Seconds since the load began."""

    def start(self, call: Call) -> None:
        """Send it on another connection."""

    def end(self, call: Call, error: str | None) -> None: ...

    def rest(self, connection: Connection) -> None:
        """It is free for another request."""

    def forget(self, connection: Connection) -> None:
        """It is closed."""


class _Garbled(Exception):
    """What came is no answer in HTTP/1.1, or is larger than any should be."""


class Connection(asyncio.Protocol):
    """A connection with at most one request on it, and the reading of its answer's form."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._used = False
        self._begin()

    def _begin(self) -> None:
        self._rest = b""
        self._in_head = True
        self._chunked = False
        self._left: int | None = 0  # bytes of this chunk or body; None: until the connection ends
        self._last = False  # the chunk of size 0 was there
        self._keep = True
        self._bytes = 0

    # -- from the client --------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, call: Call) -> None:
        assert self._transport is not None
        self._begin()
        self._call, call.connection = call, self
        call.outcome.sent = self._client.now()
        self._transport.write(call.request)

    def abandon(self) -> None:
        self._call = None
        if self._transport is not None:
            self._transport.abort()

    # -- from the loop ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            self.abandon()  # nothing was asked
            return
        now = self._client.now()
        if call.outcome.first_byte is None:
            call.outcome.first_byte = now
        self._bytes += len(data)
        try:
            if self._bytes > _BODY_BYTES:
                raise _Garbled
            if self._in_head:
                data = self._head(self._rest + data, call.outcome)
                if self._in_head:
                    return
            ended = (self._chunks if self._chunked else self._plain)(data, now, call.outcome)
        except (_Garbled, ValueError):
            self._client.end(call, "garbled")
            self.abandon()
            return
        if ended:
            self._finish(call)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.forget(self)
        call, self._call = self._call, None
        if call is None or call.done:
            return
        if not self._in_head and not self._chunked and self._left is None and exc is None:
            self._client.end(call, None)
        elif self._used and self._bytes == 0 and call.outcome.tries == 1:
            # It was closed while idle, as the request left: any client asks again.
            self._client.start(call)
        else:
            self._client.end(call, "dropped")

    # -- the form of an answer --------------------------------------------------------------------

    def _head(self, data: bytes, outcome: Outcome) -> bytes:
        """What is behind the head, once all of it is there."""
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            if len(data) > _HEAD_BYTES:
                raise _Garbled
            self._rest = data
            return b""
        lines = head.decode("latin-1").split("\r\n")
        version, _, status = lines[0].partition(" ")
        if not version.startswith("HTTP/1."):
            raise _Garbled
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        outcome.status = int(status[:3])
        outcome.retry_after = fields.get("retry-after")
        self._in_head, self._rest = False, b""
        self._keep = fields.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        self._chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        length = fields.get("content-length")
        self._left = 0 if self._chunked else None if length is None else int(length)
        return body

    def _plain(self, data: bytes, now: float, outcome: Outcome) -> bool:
        if data:
            outcome.pieces.append((now, data))
        if self._left is None:
            return False
        self._left -= len(data)
        return self._left <= 0

    def _chunks(self, data: bytes, now: float, outcome: Outcome) -> bool:
        data = self._rest + data if self._rest else data
        place, size = 0, len(data)
        left = self._left or 0
        while place < size:
            if left:
                piece = data[place : place + left]
                outcome.pieces.append((now, piece))
                place += len(piece)
                left -= len(piece)
                continue
            end = data.find(b"\r\n", place)
            if end < 0:
                break
            line, place = data[place:end], end + 2
            if not line:  # behind a chunk, or behind all of them
                if self._last:
                    return True
            elif not self._last:
                left = int(line.partition(b";")[0], 16)
                self._last = left == 0
        self._left, self._rest = left, data[place:]
        if len(self._rest) > _SIZE_LINE:
            raise _Garbled
        return False

    def _finish(self, call: Call) -> None:
        self._call, self._used = None, True
        self._client.end(call, None)
        if self._keep and self.usable:
            self._client.rest(self)
        elif self._transport is not None:
            self._transport.close()
