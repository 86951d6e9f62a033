"""Real processes that are killed, stopped and left: everybody is told, and it all comes back.

The HTTP side, the engine, and clients of every kind of bad manners.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.chaos import Storm, check_nothing_is_held, healthy, resident, stats
from tests.server.http_client import Client, ask
from tests.server.launched import ROOT, Launched, launched

import ramet.pocket

LONG = {"max_new_tokens": 1500, "temperature": 0, "ignore_eos": True}
SHORT = {"max_new_tokens": 12, "temperature": 0}
STALL = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[Launched]:
    options = [
        "--max-cache-tokens",
        "8000",
        "--stall-timeout",
        f"{STALL:g}",
        "--write-timeout",
        "1",
    ]
    with launched(*options, "--num-threads", "1") as found:
        yield found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def until_gone(*pids: int, seconds: float = 2.0) -> None:
    end = time.monotonic() + seconds
    while not all(map(gone, pids)):
        assert time.monotonic() < end, [pid for pid in pids if not gone(pid)]
        await asyncio.sleep(0.01)


async def said(server: Launched, prompt: str = "The little red hen") -> str:
    body = {"text": prompt, "sampling_params": SHORT}
    status, _, answer = await ask(server.port, "/generate", body)
    assert status == 200, answer
    return str(answer["text"])


# -- the engine ends ----------------------------------------------------------------------------------------


def hard() -> str:
    """A pattern that takes a while to compile, and that nobody has compiled before."""
    return hex(time.time_ns()) + "|".join(f"(a{{{i}}}b*c[d-z]+){{1,{i}}}" for i in range(2, 50))


async def test_engine_is_killed_while_idle_and_while_it_loads(server: Launched) -> None:
    before, pid = await said(server), server.engine_pid
    os.kill(pid, signal.SIGKILL)
    await until_gone(pid)
    # Meanwhile: 503, at once.
    body = {"text": "a", "sampling_params": SHORT}
    status, headers, _ = await ask(server.port, "/generate", body)
    assert (status, "retry-after" in headers) == (503, True)
    while True:
        with contextlib.suppress(AssertionError, OSError):
            if (second := server.engine_pid) != pid:
                break
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.3)
    os.kill(second, signal.SIGKILL)
    await until_gone(second)
    await healthy(server)
    assert await said(server) == before
    await check_nothing_is_held(server)


async def test_engine_is_killed_while_it_works(server: Launched) -> None:
    """Requests that wait, are prefilled, decode, are streamed and have their constraint compiled."""
    before, pid = await said(server), server.engine_pid
    bodies: list[dict[str, Any]] = [
        {"text": "Once upon a time", "sampling_params": LONG},
        {"text": ["a", "b"], "sampling_params": {**LONG, "n": 2}},
        {"text": "x", "sampling_params": {**SHORT, "regex": hard()}},
        {"input_ids": list(range(100, 2000)) * 2, "sampling_params": SHORT},
    ]
    streaming = await Client.to(server.port)
    streaming.post("/generate", {**bodies[0], "stream": True})
    assert (await streaming.head())[0] == 200
    events = streaming.events()
    assert (await anext(events))["text"]
    others = [await Client.to(server.port) for _ in range(2 * len(bodies))]
    for i, client in enumerate(others):
        client.post("/generate", {**bodies[i // 2], "stream": bool(i % 2)})
    await asyncio.sleep(0.03)
    os.kill(pid, signal.SIGKILL)
    rest = [event async for event in events]
    assert rest[-2]["error"]["code"] == 503
    assert rest[-1] == "[DONE]"
    for i, client in enumerate(others):
        status, headers, data = await client.answer()
        assert status == 503 or (i % 2 and status == 200)
        assert status == 200 or int(headers["retry-after"]) > 0
        assert b'"code":503' in data
    await until_gone(pid)
    await healthy(server)
    assert await said(server) == before
    await check_nothing_is_held(server)
    for client in (streaming, *others):
        client.close()


async def test_engine_stops(server: Launched) -> None:
    """It is there and does nothing: ended after the stall timeout, and started again."""
    before, pid = await said(server), server.engine_pid
    plain, streaming = await Client.to(server.port), await Client.to(server.port)
    plain.post("/generate", {"text": "Once", "sampling_params": LONG})
    streaming.post("/generate", {"text": "Once", "sampling_params": LONG, "stream": True})
    await streaming.head()
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    assert (await plain.answer())[0] == 503
    assert 0.5 * STALL < time.monotonic() - began < STALL + 8
    assert [event async for event in streaming.events()][-2]["error"]["code"] == 503
    await until_gone(pid)
    await healthy(server)
    assert await said(server) == before
    await check_nothing_is_held(server)


async def test_http_stops_for_a_while(server: Launched) -> None:
    """The engine is not to blame, and what it says meanwhile is not lost."""
    await healthy(server)
    pid = server.engine_pid
    body = {"text": "Once upon", "sampling_params": {**LONG, "max_new_tokens": 600}}
    _, _, alone = await ask(server.port, "/generate", body)
    clients = [await Client.to(server.port) for _ in range(4)]
    for client in clients:
        client.post("/generate", {**body, "stream": True})
    await clients[0].head()
    server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(STALL + 0.7)
    server.process.send_signal(signal.SIGCONT)
    for i, client in enumerate(clients):
        if i:
            await client.head()
        events = [event async for event in client.events()]
        assert events[-1] == "[DONE]"
        assert events[-2]["text"] == alone["text"]
    assert server.engine_pid == pid
    await check_nothing_is_held(server)


# -- clients leave ------------------------------------------------------------------------------------------


async def test_clients_leave(server: Launched) -> None:
    """At any moment, in any way: nothing is held."""
    bodies = [
        {"text": "Once upon a time", "sampling_params": LONG},
        {"text": "Once upon a time", "sampling_params": LONG, "stream": True},
        {"input_ids": list(range(100, 2000)), "sampling_params": SHORT, "stream": True},
        {"text": ["a", "b", "c"], "sampling_params": {**LONG, "n": 2}, "stream": True},
        {"text": "x", "sampling_params": {**SHORT, "regex": hard()}},
    ]
    for moment in (0.0, 0.002, 0.02, 0.1):
        clients = []
        for body in bodies * 4:
            client = await Client.to(server.port)
            client.post("/generate", body)
            clients.append(client)
        half = await Client.to(server.port)
        half.send(b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{")
        await asyncio.sleep(moment)
        for client in (*clients, half):
            client.close()
        await check_nothing_is_held(server)


async def test_slow_readers(server: Launched) -> None:
    """One who does not read holds nobody up, and is not waited for."""
    slow = await Client.to(server.port, limit=1024)
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    many = {"text": ["a", "b", "c", "d"], "sampling_params": LONG, "stream": True}
    slow.post("/generate", many)
    texts = {await said(server) for _ in range(5)}
    assert len(texts) == 1
    end = time.monotonic() + 20
    while (await stats(server))["num_running"]:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await read_all(slow)
    slow.close()
    await check_nothing_is_held(server)


async def read_all(client: Client) -> None:
    await client.head()
    async for _ in client.events():
        pass


async def test_deadlines_and_names(server: Launched) -> None:
    body = {"text": "Once", "sampling_params": LONG}
    status, _, answer = await ask(server.port, "/generate", body, x_request_timeout="0.2")
    assert (status, answer["error"]["code"]) == (504, 504)
    client, other = await Client.to(server.port), await Client.to(server.port)
    client.post("/generate", {**body, "stream": True}, x_request_timeout="0.5")
    await client.head()
    assert [event async for event in client.events()][-2]["error"]["code"] == 504
    client.post("/generate", {**body, "stream": True, "rid": "mine"})
    await client.head()
    other.post("/generate", {**body, "rid": "mine"})
    status, _, data = await other.answer()
    assert (status, json.loads(data)["error"]["param"]) == (400, "rid")
    assert (await ask(server.port, "/abort_request", {"rid": "mine"}))[2] == {"aborted": 1}
    last = [event async for event in client.events()][-2]
    assert last["meta_info"]["finish_reason"]["type"] == "abort"
    await check_nothing_is_held(server)


async def test_wrong_ways(server: Launched) -> None:
    """Paths and methods that are not there: errors in JSON."""
    client = await Client.to(server.port)
    for method, path, expected in (
        ("GET", "/nothing", 404),
        ("DELETE", "/generate", 405),
        ("GET", "/v1/completions", 405),
        ("OPTIONS", "/generate", 405),
        ("POST", "/nothing", 404),
        ("GET", "/v1/models/none", 404),
    ):
        client.get(path, method)
        status, headers, data = await client.answer()
        assert (status, headers["content-type"]) == (expected, "application/json"), path
        assert json.loads(data)["error"]["message"]
    for path in ("/health", "/v1/models"):
        client.get(path, "HEAD")
        assert (await client.head())[0] == 200
    client.get("/health")
    assert (await client.answer())[2] == b"ok\n"


async def test_thousands_of_idle_connections(server: Launched) -> None:
    """They cost some memory each, and nobody waits for them."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = max(100, min(3000, limit - 500))
    before = resident(server.process.pid)
    expected = await said(server)
    idle = []
    for _ in range(count):
        idle.append(await asyncio.open_connection("127.0.0.1", server.port))
    assert await said(server) == expected
    each = (resident(server.process.pid) - before) / count
    print(f"\n{count} idle connections: {each / 1024:.1f} KiB each")
    assert each < 100_000
    for _, writer in idle:
        writer.close()
    await check_nothing_is_held(server)


async def test_a_storm(server: Launched) -> None:
    storm = Storm(server, seed=20_260_101)
    await storm.prepare()
    for number in range(4):
        await storm.round(kill=number == 2)
    assert storm.counts["right"] > 20, storm.counts
    assert storm.counts["left"] > 3


# -- the server ends ----------------------------------------------------------------------------------------


async def test_http_is_killed() -> None:
    """The engine ends with it, and nothing is left."""
    with launched("--max-cache-tokens", "4000") as server:
        pid = server.engine_pid
        client = await Client.to(server.port)
        client.post("/generate", {"text": "Once", "sampling_params": LONG, "stream": True})
        await client.head()
        other = await Client.to(server.port)
        other.post("/generate", {"text": "x", "sampling_params": {**SHORT, "regex": hard()}})
        end = time.monotonic() + 10  # a process of its own compiles it
        while not children(pid):
            assert time.monotonic() < end
            await asyncio.sleep(0.005)
        family = [pid, *children(pid)]
        os.kill(server.process.pid, signal.SIGKILL)
        await until_gone(*family)
        server.process.wait(5)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            async for _ in client.events():
                pass
        client.close()
        other.close()


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found + [deeper for child in found for deeper in children(child)]


async def test_stopped_while_it_works() -> None:
    """Takes nobody new; what runs may finish, until the deadline; then its end is told."""
    options = ["--max-cache-tokens", "8000", "--shutdown-timeout", "2", "--num-threads", "1"]
    with launched(*options) as server:
        pid = server.engine_pid
        clients = [await Client.to(server.port) for _ in range(3)]
        for length, client in zip((60, 3500, 3500), clients):
            params = {**LONG, "max_new_tokens": length, "n": 1}
            client.post("/generate", {"text": "Once", "sampling_params": params, "stream": True})
            assert (await client.head())[0] == 200
        late = await Client.to(server.port)
        late.get("/health")
        assert (await late.answer())[0] == 200
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        late.post("/generate", {"text": "Once", "sampling_params": SHORT})
        status, headers, _ = await late.answer()
        assert (status, "retry-after" in headers) == (503, True)
        ends = []
        for client in clients:
            events = [event async for event in client.events()]
            assert events[-1] == "[DONE]"
            ends.append(events[-2]["meta_info"]["finish_reason"]["type"])
        assert ends[0] == "length"
        assert set(ends[1:]) <= {"abort", "length"}
        for client in (*clients, late):
            client.close()
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 8
        await until_gone(pid, seconds=1.0)


async def test_told_twice_to_stop() -> None:
    """The second time it does not wait for what runs."""
    with launched("--max-cache-tokens", "8000", "--shutdown-timeout", "60") as server:
        pid = server.engine_pid
        client = await Client.to(server.port)
        params = {**LONG, "max_new_tokens": 4000}
        client.post("/generate", {"text": list("abcdefgh"), "sampling_params": params})
        await asyncio.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert server.process.poll() is None
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 4
        await until_gone(pid, seconds=1.0)
        client.close()


def begun(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ramet.launch_server", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        start_new_session=True,
    )


def test_stopped_while_it_starts() -> None:
    process = begun()
    server = Launched(process)
    end = time.monotonic() + 30
    pid = 0
    while not pid:
        assert time.monotonic() < end
        with contextlib.suppress(AssertionError, OSError):
            pid = server.engine_pid
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")
    assert gone(pid)


def test_models_that_cannot_be_served(tmp_path: Path) -> None:
    """An exit code, and one line that says why."""
    broken = tmp_path / "broken"
    shutil.copytree(ramet.pocket.model_path(), broken)
    for file in broken.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:5000])
    given = [(str(tmp_path / "nothing"), "does not exist"), (str(broken), "safetensors")]
    started = [(begun("--model-path", path), words) for path, words in given]
    for process, words in started:
        out, err = process.communicate(timeout=40)
        lines = err.strip().split("\n")
        assert process.returncode in (1, 2), err  # it failed, or was told what cannot be
        assert (out, len(lines)) == ("", 1), err
        assert words in lines[0], err
