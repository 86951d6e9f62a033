"""HTTP to one server: connections that are kept, calls that are repeated, and deadlines.

Knows bytes, statuses and time; refuses to know what the bytes mean. Coroutines use a pool of connections
that belongs to the event loop they run on (programs run on one); calls that are no coroutines have a pool
of their own. A call is repeated only while nothing of its answer has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, TypeVar

import httpx

from ramet.backends.remote_protocol import encode, error_text
from ramet.errors import BackendError, EngineClosed, InvalidRequest

__all__ = ["MAX_CONNECTIONS", "NoAnswer", "Refused", "Unreachable", "Wire"]

T = TypeVar("T")
MAX_CONNECTIONS = 256  # calls at a time; more of them wait here rather than in the server's backlog
_KEPT_SECONDS = 30.0
_MAX_EVENT = 1 << 26  # bytes of one event of a stream
_PAUSE = 0.1  # seconds before the first repetition; each further one waits twice as long
_LONGEST_PAUSE = 60.0  # seconds
# Before a byte of the answer: no connection, or a kept one that the server had just closed.
_REPEATABLE = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
)


class NoAnswer(BackendError):
    """The time is over, and the server may still be at work."""


class Unreachable(BackendError):
    """No connection, or none that an answer came on, in 1 + `retries` attempts."""

    def __init__(self, message: str, retries: int) -> None:
        self.retries = retries
        super().__init__(f"{message} (tried {retries + 1} times)" if retries else message)


class Refused(BackendError):
    """The server's answer is no success. `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class Wire:
    """`timeout`: seconds until an answer must be there, or the next event of a stream. `connect_timeout`:
    until a connection stands. `retries`: repetitions of a call at most."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        verify: bool | str | ssl.SSLContext | None,
        timeout: float,
        connect_timeout: float,
        retries: int,
    ) -> None:
        self.base_url = _checked_url(base_url)
        self.timeout, self.retries = timeout, retries
        self._closed = False
        headers = {"Content-Type": "application/json"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        host = httpx.URL(self.base_url).host
        self._options: dict[str, Any] = {
            "base_url": self.base_url,
            "headers": headers,
            "verify": _verification(self.base_url, verify),
            "trust_env": host not in ("localhost", "::1") and not host.startswith("127."),
            "timeout": httpx.Timeout(None, connect=connect_timeout),
            "limits": httpx.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEPT_SECONDS
            ),
        }
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = (
            weakref.WeakKeyDictionary()
        )
        self._sync = httpx.Client(**{**self._options, "limits": httpx.Limits()})

    # Calls that are no coroutines

    def request(self, method: str, path: str, timeout: float, body: Any = None) -> bytes:
        """The body of a successful answer that has come within `timeout` seconds."""
        content = None if body is None else encode(body)
        end = time.monotonic() + timeout
        try:
            with self._sync.stream(method, path, content=content, timeout=timeout) as response:
                read = b""
                for part in response.iter_bytes():
                    read += part
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("the answer is not complete")
        except httpx.TimeoutException as error:
            raise BackendError(
                f"{self.base_url}{path} has not answered within {timeout:g} s ({_why(error)})"
            ) from error
        except httpx.HTTPError as error:
            raise BackendError(f"{self.base_url}{path}: {_why(error)}") from error
        self._check(path, response.status_code, read)
        return read

    def get_json(self, path: str, timeout: float) -> dict[str, Any]:
        body = self.request("GET", path, timeout)
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise BackendError(
                f"{self.base_url}{path} does not answer with a JSON object but {body[:80]!r}; is this "
                "the address of an LLM server?"
            )
        return found

    # Coroutines

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[Any, int]:
        """The JSON of a successful answer, and how often the call was repeated."""
        pool, content = self._pool(), encode(body)
        async with pool.client() as client:
            read, retries = await self._deadline(path, self._whole(client, path, content))
        try:
            return json.loads(read), retries
        except (ValueError, RecursionError):
            raise BackendError(
                f"{self.base_url}{path} answered what is no JSON: {read[:80]!r}"
            ) from None

    async def _whole(
        self, client: httpx.AsyncClient, path: str, content: bytes
    ) -> tuple[bytes, int]:
        response, retries = await self._begun(client, path, content)
        return await self._read(path, response), retries

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncIterator[tuple[AsyncIterator[bytes], int]]:
        """The data of the events of an answer, and how often the call was repeated."""
        pool, content = self._pool(), encode(body)
        async with pool.client() as client:
            response, retries = await self._deadline(path, self._begun(client, path, content))
            try:
                if response.status_code != 200:
                    await self._deadline(path, self._read(path, response))
                yield self._events(path, response), retries
            finally:
                with contextlib.suppress(httpx.HTTPError):
                    await response.aclose()

    async def _begun(
        self, client: httpx.AsyncClient, path: str, content: bytes
    ) -> tuple[httpx.Response, int]:
        """A response whose status has come. The call is repeated until one has. A server that is full, or
        starts, and says when to come again, is asked then, for as long as the deadline allows."""
        attempt = num_sent = 0
        while True:
            request = client.build_request("POST", path, content=content)
            try:
                response = await client.send(request, stream=True)
            except httpx.HTTPError as error:
                if attempt == self.retries or not isinstance(error, _REPEATABLE):
                    raise Unreachable(f"{self.base_url}{path}: {_why(error)}", num_sent) from error
                pause = _PAUSE * 2**attempt
                attempt += 1
            else:
                found = _seconds_to_wait(response)
                if found is None:
                    return response, num_sent
                await response.aclose()
                pause = found
            num_sent += 1
            await asyncio.sleep(pause)

    async def _read(self, path: str, response: httpx.Response) -> bytes:
        """The body of a successful response. What broke in its midst is not asked for again."""
        try:
            read = await response.aread()
        except httpx.HTTPError as error:
            raise BackendError(
                f"{self.base_url}{path}: the connection broke in the midst of the answer: {_why(error)}"
            ) from error
        finally:
            await response.aclose()
        self._check(path, response.status_code, read)
        return read

    async def _events(self, path: str, response: httpx.Response) -> AsyncIterator[bytes]:
        """Lines are split as bytes: texts may hold what Python takes for the end of a line."""
        parts = response.aiter_bytes()
        rest = b""
        while True:
            try:
                part = await self._deadline(path, anext(parts, None))
            except httpx.HTTPError as error:
                raise BackendError(
                    f"{self.base_url}{path}: the connection broke in mid-stream: {_why(error)}"
                ) from error
            if part is None:
                return
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()
            if len(rest) > _MAX_EVENT:
                raise BackendError(f"{self.base_url}{path} sends an event without an end")

    async def _deadline(self, path: str, waiting: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self.timeout):
                return await waiting
        except TimeoutError:
            raise NoAnswer(
                f"{self.base_url}{path} has not answered within {self.timeout:g} s"
            ) from None

    def _pool(self) -> _Pool:
        if self._closed:
            raise EngineClosed(f"the connection to {self.base_url} was shut down")
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Pool(self._options)
        return pool

    @property
    def closed(self) -> bool:
        return self._closed

    def _check(self, path: str, status: int, body: bytes) -> None:
        if status != 200:
            raise Refused(f"{self.base_url}{path}: {error_text(status, body)}", status)

    def close(self) -> None:
        """Further calls are refused; those under way end as they can."""
        self._closed = True
        self._sync.close()
        for loop, pool in list(self._pools.items()):
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(pool.close(), loop)


class _Pool:
    """The connections of one event loop. Each is a client of its own: in a client with many connections
    httpx looks at all of them, for each of them, at every call."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._gate = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[
            httpx.AsyncClient
        ] = []  # the one used last is taken first: it is still open

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with self._gate:
            client = self._idle.pop() if self._idle else httpx.AsyncClient(**self._options)
            try:
                yield client
            finally:
                self._idle.append(client)

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()


def _checked_url(base_url: str) -> str:
    if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
        raise InvalidRequest(
            "base_url", base_url, "is no address of a server", "write http://host:port"
        )
    return base_url.rstrip("/")


def _verification(base_url: str, verify: bool | str | ssl.SSLContext | None) -> ssl.SSLContext:
    if base_url.startswith("http://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, and made once for all clients
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    if verify is False:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    return httpx.create_ssl_context() if verify is None or verify is True else verify


def _seconds_to_wait(response: httpx.Response) -> float | None:
    """Until a server that could not take a call wants to be asked again; None for every other response."""
    told = response.headers.get("retry-after", "")
    if response.status_code not in (429, 503) or not told.isdecimal():
        return None
    return min(float(told), _LONGEST_PAUSE)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
