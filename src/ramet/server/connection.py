"""One HTTP connection, with bounds that the HTTP library leaves to others.

Knows bytes and seconds: how long a request's head may be and may take, how long a connection may do nothing,
and how many connections there may be. Refuses to know what is asked. Bodies are bounded where they are read
(`reading.py`), answers where they are written (`handler.py`).
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["MAX_HEAD_BYTES", "bounded_protocol"]

MAX_HEAD_BYTES = (
    64 << 10
)  # request line and headers; also what lies between and behind a body's chunks
MAX_HEADERS = 200
MAX_PIPELINED = 16  # requests of one connection that wait for the ones before them
HEAD_SECONDS = 20.0  # from a request's first byte to the end of its head
LINGER_SECONDS = 10.0  # for the rest of a body that was answered before it had come
_FILES_KEPT = 100  # for other things than connections

_REFUSALS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class _OldCycle(RequestResponseCycle):
    """A client of HTTP/1.0 knows no chunks: where the length is not known, the connection's end is the end."""

    _endless = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            if not _has_length(message):
                self._endless = True
                self.chunked_encoding, self.expected_content_length = False, 1 << 62
        elif self._endless and not message.get("more_body", False):
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def _has_length(message: Any) -> bool:
    return any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))


def bounded_protocol(
    max_connections: int,
    head_seconds: float = HEAD_SECONDS,
    linger_seconds: float = LINGER_SECONDS,
) -> type[Any]:
    """The protocol class that uvicorn makes one object of for each connection. There are never more than
    `max_connections`, and some files are left for other things."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY:
        max_connections = min(max_connections, max(files - _FILES_KEPT, 1))

    class Bounded(HttpToolsProtocol):
        _head_timer: asyncio.TimerHandle | None = None
        _num_loose = 0  # bytes since the last piece of a body: a head, trailers
        _running: Any = None  # the cycle whose response is next
        _deaf = False  # no more requests are taken from this connection

        # -- the connection ----------------------------------------------------------------------------

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self._refuse(503, "there are too many connections; try again later")
            else:
                self._wait_for_request(self.timeout_keep_alive)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._unset_keepalive_if_required()
            self.pipeline.clear()
            running = self._running
            if running is not None and not running.response_complete:
                running.disconnected = True
                running.message_event.set()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.parser is None or self._deaf or self.transport.is_closing():
                return
            self._num_loose += len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self._deaf = True  # what follows is in a protocol that is not spoken here
                self._close_after_response()
            except httptools.HttpParserError:
                self._refuse(400, "this is not HTTP")
            else:
                if self._num_loose > MAX_HEAD_BYTES and not self.transport.is_closing():
                    self._refuse(431, f"the headers are longer than {MAX_HEAD_BYTES} bytes")

        def timeout_keep_alive_handler(self) -> None:
            """Nothing came for a while. What the client did not read yet it is not waited for."""
            if self.transport.get_write_buffer_size():
                self.transport.abort()
            else:
                self.transport.close()

        def shutdown(self) -> None:
            if self._running is None or self._running.response_complete:
                self.timeout_keep_alive_handler()
            else:
                self._close_after_response()

        # -- requests ----------------------------------------------------------------------------------

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._deaf:
                return
            self._unset_keepalive_if_required()
            self.scope["extensions"] = {"ramet.abort": self.transport.abort}  # type: ignore[dict-item]
            self._num_loose = 0
            self._stop_timer()
            self._head_timer = self.loop.call_later(
                head_seconds, self._refuse, 408, "the request's head did not come in time"
            )

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._head_timer is not None:  # trailers are nothing to anybody
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._stop_timer()
            size = len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)
            if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
                self._refuse(431, f"the headers are longer than {MAX_HEAD_BYTES} bytes")
            elif not (self._deaf or self.transport.is_closing()):
                self._num_loose = 0
                super().on_headers_complete()
                if 0 < len(self.pipeline) < MAX_PIPELINED:
                    self.flow.resume_reading()  # or nobody sees the client leave

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self._running = cycle
            if cycle.scope["http_version"] == "1.0":
                cycle.__class__ = _OldCycle
            super()._start_asgi_task(cycle, app)

        def on_body(self, body: bytes) -> None:
            self._num_loose = 0
            if not (self._deaf or self.transport.is_closing()):
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._num_loose = 0
            if self._deaf or self.transport.is_closing():
                return
            super().on_message_complete()
            if self.cycle.response_complete:
                self.cycle.more_body = False
                self._wait_for_request(self.timeout_keep_alive)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.timeout_keep_alive_task is not None and self.cycle.more_body:
                self._wait_for_request(linger_seconds)

        # -- the end -----------------------------------------------------------------------------------

        def _wait_for_request(self, seconds: float) -> None:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                seconds, self.timeout_keep_alive_handler
            )

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _close_after_response(self) -> None:
            if self._running is not None:
                self._running.keep_alive = False
            for cycle, _ in self.pipeline:
                cycle.keep_alive = False

        def _refuse(self, status: int, message: str) -> None:
            """Answer what could not be understood, and hang up. The answer to a request before it comes to its
            end first, and says nothing of this."""
            self._stop_timer()
            self._deaf = True
            if self.transport.is_closing():
                return
            running = self._running
            if running is not None and not running.response_complete:
                if running is not self.cycle or not running.more_body or running.response_started:
                    self.pipeline.clear()
                    running.keep_alive = False
                    return
                running.disconnected = True  # it is this one's body that was not understood
                running.message_event.set()
            self._unset_keepalive_if_required()
            body = b'{"error":{"message":"%b","type":"invalid_request_error","code":%d}}' % (
                message.encode(),
                status,
            )
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, _REFUSALS[status], len(body), body)
            )
            if status == 503:
                self.transport.close()
                return
            # Closing now, with bytes unread, would take the answer back from a client that still sends.
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._wait_for_request(linger_seconds)

    return Bounded
