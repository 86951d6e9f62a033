"""Connections byte by byte: what HTTP allows is served, what takes too long or too much is ended."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from tests.server.http_client import Client

import ramet.server.reading as reading
from ramet.server.connection import MAX_HEAD_BYTES, MAX_HEADERS, bounded_protocol
from ramet.server.generation import Refused
from ramet.server.handler import error_headers
from ramet.server.reading import Bodies, ClientDisconnect, json_object, read_body

HEAD_SECONDS, KEEP_ALIVE, LINGER = 0.4, 1.0, 0.5


class Site:
    """An application that tells what it saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.num_left = 0
        self.let_go = asyncio.Event()
        self.bodies = Bodies(300_000)
        self.app = Starlette(
            routes=[
                Route("/echo", self.echo, methods=["POST", "GET", "PUT"]),
                Route("/stream", self.stream),
                Route("/wait", self.wait),
                Route("/early", self.early, methods=["POST"]),
                Route("/big", self.big),
            ]
        )

    async def echo(self, request: Request) -> Response:
        self.seen.append(request.method)
        try:
            body = await read_body(request, 200_000, self.bodies)
        except Refused as refused:
            status, headers = refused.failure.status, error_headers(refused.failure)
            response = Response(refused.failure.message, status)
            for name, value in headers:
                response.headers[name.decode()] = value.decode()
            return response
        except ClientDisconnect:
            self.num_left += 1
            raise
        names = b" ".join(sorted(name for name, _ in request.scope["headers"]))
        return Response(b"%d:" % len(body) + body[:20], headers={"x-seen": names.decode()})

    async def early(self, _request: Request) -> Response:
        return Response("no", 429)

    async def stream(self, _request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for i in range(3):
                yield b"piece %d\n" % i
                await asyncio.sleep(0.01)

        return StreamingResponse(pieces())

    async def big(self, _request: Request) -> Response:
        return Response(b"x" * 20_000_000)

    async def wait(self, request: Request) -> Response:
        self.seen.append("wait")
        leaving = asyncio.create_task(_left(request))
        going = asyncio.create_task(self.let_go.wait())
        await asyncio.wait((leaving, going), return_when=asyncio.FIRST_COMPLETED)
        left = leaving.done()
        leaving.cancel()
        going.cancel()
        self.num_left += left
        return Response("left" if left else "waited")


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def served(site: Site, keep_alive: float = KEEP_ALIVE, **options: Any) -> AsyncIterator[Any]:
    times = {"head_seconds": HEAD_SECONDS, "linger_seconds": LINGER}
    limits = {"max_connections": 100, **times, **options}
    server = uvicorn.Server(
        uvicorn.Config(
            site.app,
            port=0,
            http=bounded_protocol(**limits),
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=keep_alive,  # type: ignore[arg-type]
            timeout_graceful_shutdown=3,
        )
    )
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield server
    finally:
        server.should_exit = True
        await serving


class _NoSignals:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _no_signals() -> Any:
    return _NoSignals()


async def to(server: Any, **options: Any) -> Client:
    port = server.servers[0].sockets[0].getsockname()[1]
    return await Client.to(port, **options)


def post(body: bytes, path: str = "/echo", extra: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{extra}\r\n".encode()
        + body
    )


GET_STREAM = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n"
STREAMED = b"piece 0\npiece 1\npiece 2\n"


async def until(true: Callable[[], Any], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


# -- what HTTP allows ---------------------------------------------------------------------------------


async def test_keep_alive_and_pipelines() -> None:
    site = Site()
    async with served(site) as server:
        client = await to(server)
        for i in range(3):
            client.send(post(b"abc" * i))
            assert (await client.answer())[2] == b"%d:" % (3 * i) + b"abc" * i
        client.send(post(b"a") + GET_STREAM + post(b"bc") + GET_STREAM)
        bodies = [(await client.answer())[2] for _ in range(4)]
        assert bodies == [b"1:a", STREAMED, b"2:bc", STREAMED]
        many = 60  # more than are looked at ahead
        client.send(b"".join(post(b"%d" % i) for i in range(many)))
        for i in range(many):
            assert (await client.answer())[2] == b"%d:%d" % (len(str(i)), i)
        client.send(post(b"x", extra="connection: close\r\n"))
        assert (await client.answer())[1]["connection"] == "close"
        assert await client.ended() == b""


async def test_bodies_in_chunks_byte_by_byte() -> None:
    async with served(Site()) as server:
        client = await to(server)
        data = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        data += b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\ntrailer: 1\r\nother: 2\r\n\r\n"
        for i in range(len(data)):
            client.send(data[i : i + 1])
            await asyncio.sleep(0.0005)
        _, headers, body = await client.answer()
        assert body == b"7:abcdefg"
        assert headers["x-seen"] == "host transfer-encoding"  # and no trailer


async def test_expect_continue() -> None:
    async with served(Site()) as server:
        client = await to(server)
        head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
        client.send(head % b"/echo")
        assert (await client.answer())[0] == 100
        client.send(b"abc")
        assert (await client.answer())[2] == b"3:abc"
        client.send(head % b"/early")
        assert (await client.answer())[0] == 429  # the body is not asked for


async def test_http_1_0() -> None:
    async with served(Site()) as server:
        client = await to(server)
        client.send(b"GET /stream HTTP/1.0\r\n\r\n")
        status, headers, body = await client.answer()
        assert (status, body) == (200, STREAMED)
        assert "transfer-encoding" not in headers
        assert headers["connection"] == "close"
        client = await to(server)
        client.send(b"POST /echo HTTP/1.0\r\ncontent-length: 2\r\n\r\nab")
        assert (await client.answer())[2] == b"2:ab"
        assert await client.ended() == b""


async def test_an_upgrade_is_not_taken() -> None:
    async with served(Site()) as server:
        client = await to(server)
        client.send(b"GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.ended() == b""


# -- what it does not ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /echo HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"junk\r\n\r\n",
    ],
)
async def test_what_is_no_http(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with served(Site()) as server:
        client = await to(server)
        client.send(data)
        answer = await client.ended()
        if answer:
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
        await until(lambda: not server.server_state.connections)
    assert not caplog.records  # strangers do not fill the log


async def test_heads_that_are_too_long() -> None:
    async with served(Site()) as server:
        for head in (
            b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
            b"GET / HTTP/1.1\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 20 * MAX_HEAD_BYTES,
        ):
            client = await to(server)
            client.send(head)
            answer = await client.answer()
            assert answer[0] == 431
            assert answer[1]["connection"] == "close"
            await client.ended()


async def test_trailers_that_never_end() -> None:
    async with served(Site()) as server:
        client = await to(server)
        client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        assert await client.dribble(b"x: " + b"y" * 8000 + b"\r\n", 0.01) < 40
        assert (await client.answer())[0] == 431
        await client.ended()


async def test_a_bad_request_does_not_break_into_the_answer_before_it() -> None:
    async with served(Site()) as server:
        client = await to(server)
        client.send(GET_STREAM + b"what is this\r\n\r\n")
        assert (await client.answer())[2] == STREAMED
        assert await client.ended() == b""


# -- what takes too long ----------------------------------------------------------------------------------


async def test_slow_heads() -> None:
    async with served(Site()) as server:
        client = await to(server)
        client.send(b"GET /echo HTTP/1.1\r\n")
        await client.dribble(b"x: y\r\n", HEAD_SECONDS / 5)
        assert (await client.answer())[0] == 408
        await client.ended()
        # Line ends before a request are no request.
        client = await to(server)
        await client.dribble(b"\r\n", KEEP_ALIVE / 8)
        assert await client.ended() == b""


async def test_connections_that_say_nothing() -> None:
    async with served(Site()) as server:
        fresh, used = await to(server), await to(server)
        used.send(post(b"a"))
        await used.answer()
        assert len(server.server_state.connections) == 2
        assert await fresh.ended() == b""
        assert await used.ended() == b""
        assert not server.server_state.connections


async def test_slow_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIECE_SECONDS", 0.3)
    async with served(Site()) as server:
        client = await to(server)
        client.send(post(b"x" * 100)[:-1])
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert b"too slowly" in body
        await client.ended()
        # A piece in time, and again, does not make it fast.
        client = await to(server)
        client.send(post(b"x" * 1000)[:-1000])
        await client.dribble(b"x", 0.05)
        assert (await client.answer())[0] == 408
        # A fast client is not asked to be faster than it can.
        client = await to(server)
        data = post(b"x" * 5000)
        for i in range(0, len(data), 500):
            client.send(data[i : i + 500])
            await asyncio.sleep(0.05)
        assert (await client.answer())[0] == 200


async def test_bodies_that_are_too_long() -> None:
    site = Site()
    async with served(site) as server:
        client = await to(server)
        client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\n")
        assert (await client.answer())[0] == 413
        client = await to(server)
        client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(300):
            client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert (await client.answer())[0] == 413
        # What is left of the body is not read for ever.
        await until(lambda: not server.server_state.connections, LINGER + 3)
        assert site.bodies.num_bytes == 0


async def test_all_bodies_together_are_bounded() -> None:
    site = Site()
    async with served(site) as server:
        slow = [await to(server) for _ in range(2)]
        for client in slow:
            client.send(post(b"x" * 150_000)[:-1])
        await until(lambda: site.bodies.num_bytes > 290_000)
        late = await to(server)
        late.send(post(b"x" * 50_000))
        status, headers, _ = await late.answer()
        assert (status, headers["retry-after"]) == (503, "5")
        for client in slow:
            client.send(b"x")
            assert (await client.answer())[0] == 200
        assert site.bodies.num_bytes == 0
        late.send(post(b"x" * 50_000))
        assert (await late.answer())[0] == 200


async def test_an_early_answer_does_not_keep_the_connection_for_its_body() -> None:
    async with served(Site(), keep_alive=30.0) as server:
        client = await to(server)
        client.send(post(b"x" * 1000, "/early")[:-500])
        assert (await client.answer())[0] == 429
        await client.dribble(b"x", LINGER / 6)
        assert await client.ended() == b""
        client = await to(server)  # but one that comes to its end in time stays
        client.send(post(b"x" * 1000, "/early")[:-500])
        await client.answer()
        client.send(b"x" * 500)
        await asyncio.sleep(LINGER + 0.1)
        client.send(post(b"abc"))
        assert (await client.answer())[2] == b"3:abc"


async def test_what_nobody_reads_is_not_kept_for_ever() -> None:
    async with served(Site()) as server:
        client = await to(server, limit=1024)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: len(server.server_state.connections) == 1)
        await until(lambda: not server.server_state.connections, KEEP_ALIVE + 3)
        client.writer.close()


# -- who leaves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [b"", GET_STREAM, GET_STREAM * 3])
@pytest.mark.parametrize("reset", [False, True])
async def test_leaving_is_noticed(behind: bytes, reset: bool) -> None:
    """Also with requests waiting behind the one that runs."""
    site = Site()
    async with served(site) as server:
        client = await to(server)
        client.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" + behind)
        await until(lambda: site.seen)
        client.send(behind)  # and some more, now that somebody waits for the client to leave
        await asyncio.sleep(0.03)
        if reset:
            sock: socket.socket = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.close()
        await until(lambda: site.num_left == 1)
        await until(lambda: not server.server_state.tasks)
        assert not server.server_state.connections


async def test_leaving_in_the_middle_of_a_body() -> None:
    site = Site()
    async with served(site) as server:
        client = await to(server)
        client.send(post(b"x" * 1000)[:-1])
        await until(lambda: site.bodies.num_bytes)
        client.writer.close()
        await until(lambda: site.num_left == 1)
        assert site.bodies.num_bytes == 0


# -- how many ---------------------------------------------------------------------------------------------


async def test_more_connections_than_may_be() -> None:
    async with served(Site(), max_connections=3) as server:
        clients = [await to(server) for _ in range(3)]
        await until(lambda: len(server.server_state.connections) == 3)
        late = await to(server)
        assert (await late.answer())[0] == 503
        await late.ended()
        for client in clients:
            client.send(post(b"abc"))
            assert (await client.answer())[2] == b"3:abc"
        clients[0].writer.close()
        await until(lambda: len(server.server_state.connections) == 2)
        again = await to(server)
        again.send(post(b"abc"))
        assert (await again.answer())[0] == 200


def test_files_are_left_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 1024))
    protocol = bounded_protocol(20_000)
    cells = dict(
        zip(protocol.connection_made.__code__.co_freevars, protocol.connection_made.__closure__)
    )
    assert cells["max_connections"].cell_contents == 924


async def test_stopping_does_not_wait_for_the_idle() -> None:
    site = Site()
    async with served(site) as server:
        idle, busy = await to(server), await to(server)
        await until(lambda: len(server.server_state.connections) == 2)
        busy.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: site.seen)
        server.should_exit = True
        assert await idle.ended(2.0) == b""
        site.let_go.set()
        status, headers, body = await busy.answer()
        assert (status, headers["connection"], body) == (200, "close", b"waited")
        assert await busy.ended(2.0) == b""


# -- JSON ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"5",
        b"null",
        b"{",
        b'{"a": NaN}',
        b"{'a': 1}",
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"a": 1} {"b": 2}',
        b"{1: 2}",
    ],
)
def test_bodies_that_are_no_object(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        json_object(body)
    assert refused.value.failure.status == 400


def test_bodies_that_are_objects() -> None:
    assert json_object(b' {"a": [1, 2.5, null, true, "\\u00e9["]} ') == {
        "a": [1, 2.5, None, True, "é["]
    }
    brackets = json.dumps({"text": "[{" * 5000 + '\\"'}).encode()
    assert json_object(brackets)["text"].startswith("[{[{")
    flat = b'{"a": [' + b"[]," * 5000 + b"[]]}"
    assert len(json_object(flat)["a"]) == 5001
