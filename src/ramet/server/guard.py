"""What stands before every route: who asks, from where, and what is noted of it.

Knows headers, identities and records; refuses to know routes' meanings. An ASGI application around another.
"""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ramet.server.exchange import Failure
from ramet.server.handler import error_headers, json_bytes
from ramet.server.identity import Identity, Keys
from ramet.server.record import Record, Watcher, fault_of

__all__ = ["Guard", "failure_response", "server_failure"]

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
            failure = self._foreign(headers, path) or self._unknown(path, identity)
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
        begun = ended = False

        async def noted(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                if record.status is None and scope["path"] != "/live":
                    record.status = message["status"]
                MutableHeaders(scope=message).setdefault("x-request-id", record.id)
            await send(message)
            if message["type"] == "http.response.body":  # and it has gone out
                ended = not message.get("more_body", False)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            record.fault = fault_of(error)
            if begun and not ended:
                raise  # the connection is closed, so that nobody takes a part for the whole
            if not begun:
                response = server_failure(record, self.error_body)
                await response(scope, receive, send)

    def _unknown(self, path: str, identity: Identity | None) -> Failure | None:
        if identity is not None or path in self._open or path.startswith(self._open_below):
            return None
        return Failure(
            status=401,
            message="the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
        )

    def _foreign(self, headers: Headers, path: str) -> Failure | None:
        """Pages of other sites must not use a browser on this machine as their way in."""
        host = headers.get("host", "")
        if self.local_only and not _is_local(host):
            return Failure(
                status=403,
                message=f"the host {host[:100]!r} is not this server; "
                "give it keys (--api-key) to let other names in",
            )
        origin = headers.get("origin")
        if origin is None:
            return self._embedded(headers, path)
        own = bool(host) and _netloc(origin) == host
        if not (own or origin in self.origins or "*" in self.origins):
            return _no_page(f"pages of {origin[:100]!r} may not ask; --allow-origin lets them")
        return None

    def _embedded(self, headers: Headers, path: str) -> Failure | None:
        """A picture or a link in a page of another site asks without an origin, and must not do anything
        here. Browsers say where such a request comes from; a link to the page itself is welcome."""
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return None
        link = headers.get("sec-fetch-mode") == "navigate"
        if link and (path in self._open or path.startswith(self._open_below)):
            return None
        return _no_page("pages of other sites may not ask")


def _no_page(message: str) -> Failure:
    return Failure(status=403, message=message, code="foreign_page")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine. An address must be one: 127.0.0.1.example.org is none."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("", "localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _request_id(headers: Headers) -> str:
    """The client's own, where it is one word that a log can hold."""
    given = headers.get("x-request-id", "")
    fits = 0 < len(given) <= _MAX_ID and given.isascii() and given.isprintable()
    return given if fits and " " not in given else uuid.uuid4().hex


def server_failure(record: Record, error_body: Callable[[str, Failure], Any]) -> Response:
    """Something was not foreseen. What it was is in the log only."""
    failure = Failure(status=500, message=f"the server failed; its log names {record.id}")
    return failure_response(failure, error_body(record.path, failure), record)


def failure_response(failure: Failure, body: Any, record: Record) -> Response:
    record.status, record.error = failure.status, failure.message
    response = Response(json_bytes(body), failure.status, media_type="application/json")
    response.headers["x-request-id"] = record.id
    for name, value in error_headers(failure):
        response.headers[name.decode()] = value.decode()
    if failure.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response
