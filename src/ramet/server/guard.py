"""What stands before every route: who asks, from where, and what is noted of it.

Knows headers, identities and records; refuses to know routes' meanings. An ASGI application around another.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ramet.server.exchange import Failure
from ramet.server.handler import error_headers, json_bytes
from ramet.server.identity import Identity, Keys
from ramet.server.record import Record, Watcher

__all__ = ["Guard", "failure_response"]

_MAX_ID = 128  # characters of a request's id


class Guard:
    """`open_paths` need no key (a trailing "/" means all below). `local_only`: the server listens on this
    machine only and has no keys, so that a browser's foreign pages are the ones to keep out: the Host header
    must name this machine. `error_body(path, failure)` is the protocol's form."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        *,
        open_paths: Collection[str],
        local_only: bool,
        origins: Sequence[str],
        error_body: Callable[[str, Failure], Any],
        watchers: Sequence[Watcher],
    ) -> None:
        self.app, self.keys, self.local_only = app, keys, local_only
        self.origins, self.error_body, self.watchers = frozenset(origins), error_body, watchers
        self._open = frozenset(path for path in open_paths if path == "/" or path[-1] != "/")
        self._open_below = tuple(path for path in open_paths if len(path) > 1 and path[-1] == "/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        identity = self.keys.identify(headers)
        record = Record(
            id=_request_id(headers),
            path=path,
            tenant=None if identity is None else identity.tenant,
            began=time.monotonic(),
        )
        state = scope.setdefault("state", {})
        state["identity"], state["record"] = identity or Identity(), record
        for watcher in self.watchers:
            watcher.began(record)
        try:
            failure = self._foreign(headers) or self._unknown(path, identity)
            if failure is not None:
                response = failure_response(failure, self.error_body(path, failure), record)
                await response(scope, receive, send)
            else:
                await self._run(scope, receive, send, record)
        finally:
            record.seconds = time.monotonic() - record.began
            for watcher in self.watchers:
                watcher.ended(record)

    async def _run(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if record.status is None and scope["path"] != "/live":
                    record.status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            if started:
                raise  # the connection is closed, so that nobody takes a part for the whole
            warnings.warn(f"{record.path} failed: {error!r}", stacklevel=1)
            failure = Failure(status=500, message=f"the server failed; its log names {record.id}")
            response = failure_response(failure, self.error_body(record.path, failure), record)
            await response(scope, receive, send)

    def _unknown(self, path: str, identity: Identity | None) -> Failure | None:
        if identity is not None or path in self._open or path.startswith(self._open_below):
            return None
        return Failure(
            status=401,
            message="the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
        )

    def _foreign(self, headers: Headers) -> Failure | None:
        """Pages of other sites must not use a browser on this machine as their way in."""
        host = headers.get("host", "")
        if self.local_only and not _is_local(host):
            return Failure(
                status=403,
                message=f"the host {host[:100]!r} is not this server; "
                "give it keys (--api-key) to let other names in",
            )
        origin = headers.get("origin")
        if origin and origin not in self.origins and urlsplit(origin).netloc != host:
            return Failure(
                status=403,
                message=f"pages of {origin[:100]!r} may not ask; --allow-origin lets them",
            )
        return None


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in ("localhost", "::1") or name.startswith("127.") or not name


def _request_id(headers: Headers) -> str:
    """The client's own, where it is one word that a log can hold."""
    given = headers.get("x-request-id", "")
    fits = 0 < len(given) <= _MAX_ID and given.isascii() and given.isprintable()
    return given if fits and " " not in given else uuid.uuid4().hex


def failure_response(failure: Failure, body: Any, record: Record) -> Response:
    record.status, record.error = failure.status, failure.message
    response = Response(json_bytes(body), failure.status, media_type="application/json")
    response.headers["x-request-id"] = record.id
    for name, value in error_headers(failure):
        response.headers[name.decode()] = value.decode()
    if failure.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response
