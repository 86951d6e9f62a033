"""One HTTP connection, with bounds that the HTTP library leaves to others.

Knows bytes and seconds: how long a request's head may be and may take, and how many connections there may
be. Refuses to know what is asked. Bodies are bounded where they are read (`reading.py`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["MAX_HEAD_BYTES", "bounded_protocol"]

MAX_HEAD_BYTES = 64 << 10  # request line and headers
MAX_HEADERS = 200
HEAD_SECONDS = 20.0  # from a request's first byte to the end of its head

_REFUSALS = {
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


def bounded_protocol(max_connections: int, head_seconds: float = HEAD_SECONDS) -> type[Any]:
    """The protocol class that uvicorn makes one object of for each connection."""

    class Bounded(HttpToolsProtocol):
        _head_bytes = 0  # of the head that is being read
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self._refuse(503, "there are too many connections; try again later")

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.parser is None or self.transport.is_closing():
                return
            super().data_received(data)
            if self._head_timer is not None:  # the head goes on
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse(431, f"the headers are longer than {MAX_HEAD_BYTES} bytes")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head_bytes = 0
            self._stop_timer()
            self._head_timer = self.loop.call_later(
                head_seconds, self._refuse, 408, "the request's head did not come in time"
            )

        def on_headers_complete(self) -> None:
            self._stop_timer()
            size = len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)
            if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
                self._refuse(431, f"the headers are longer than {MAX_HEAD_BYTES} bytes")
            elif not self.transport.is_closing():
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self.transport.is_closing():
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self.transport.is_closing():
                super().on_message_complete()

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _refuse(self, status: int, message: str) -> None:
            self._stop_timer()
            if self.transport.is_closing():
                return
            body = b'{"error":{"message":"%b","type":"invalid_request_error","code":%d}}' % (
                message.encode(),
                status,
            )
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, _REFUSALS[status], len(body), body)
            )
            self.transport.close()

    return Bounded
