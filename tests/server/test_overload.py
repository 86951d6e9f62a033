"""More than a server can do: some are told to come later, the others get what they would have got alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.server.chaos import check_nothing_is_held, stats
from tests.server.http_client import Client, ask
from tests.server.launched import Launched, launched

MAX_RUNNING, MAX_QUEUED = 8, 24
SLOTS = 2000  # of tokens: a few requests' worth


@pytest.fixture(scope="module")
def server() -> Iterator[Launched]:
    options = ["--max-running", f"{MAX_RUNNING}", "--max-queued", f"{MAX_QUEUED}"]
    with launched(*options, "--max-cache-tokens", f"{SLOTS}", "--num-threads", "1") as found:
        yield found


def body(number: int, length: int = 6, prompt: int = 5) -> dict[str, Any]:
    """Asks for a text of its own."""
    ids = [300 + (number * 37 + i * i * 11) % 1500 for i in range(prompt)]
    return {
        "input_ids": [*ids, 100 + number % 1900],
        "sampling_params": {"max_new_tokens": length, "temperature": 0, "ignore_eos": True},
    }


async def one(port: int, number: int, known: list[Any] | None = None, **how: Any) -> str:
    """ "right", "wrong", or the status; exactly one answer came, and the connection is open still."""
    client = await Client.to(port)
    try:
        kind = number if known is None else number % len(known)
        client.post("/generate", body(kind, **how))
        status, headers, data = await client.answer()
        assert not client.reader._buffer  # type: ignore[attr-defined]
        assert not client.reader.at_eof()
        if status == 429:
            assert 1 <= int(headers["retry-after"]) <= 60
            assert json.loads(data)["error"]["code"] == "too_many_requests"
        if status != 200:
            return str(status)
        answer = json.loads(data)["output_ids"]
        if known is None:
            return str(answer)
        return "right" if str(answer) == known[kind] else "wrong"
    finally:
        client.close()


async def test_far_more_than_can_be_done(server: Launched) -> None:
    """Ten times what fits comes at once, again and again: nobody is forgotten, nobody gets another's answer."""
    kinds = 50
    known = [await one(server.port, number) for number in range(kinds)]
    assert len(set(known)) > kinds // 2
    held = MAX_RUNNING + MAX_QUEUED
    found: Counter[str] = Counter()

    async def client(first: int) -> None:
        for number in range(first, first + 5):
            found[await one(server.port, number, known)] += 1

    async with asyncio.timeout(50):
        await asyncio.gather(*(client(i) for i in range(10 * held)))
    assert sum(found.values()) == 50 * held
    assert set(found) == {"right", "429"}, found
    assert found["right"] >= held
    print(f"\n{dict(found)}")
    assert [await one(server.port, number) for number in range(5)] == known[:5]
    await check_nothing_is_held(server)


async def test_patience_is_rewarded(server: Launched) -> None:
    """Who comes again when told to is served in the end."""
    known = [await one(server.port, number) for number in range(20)]

    async def patient(number: int) -> None:
        end = time.monotonic() + 40
        while (outcome := await one(server.port, number, known)) == "429":
            assert time.monotonic() < end
            await asyncio.sleep(0.1 + number % 7 / 10)
        assert outcome == "right"

    await asyncio.gather(*(patient(i) for i in range(150)))
    await check_nothing_is_held(server)


async def test_refused_while_the_body_is_on_its_way(server: Launched) -> None:
    """A server that is full says so at once, however long the body is."""
    long = {"text": "x", "sampling_params": {"max_new_tokens": 1500, "ignore_eos": True, "n": 32}}
    holder = await Client.to(server.port)
    holder.post("/generate", long)
    end = time.monotonic() + 10
    while not (await stats(server))["num_running"]:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    client = await Client.to(server.port)
    client.send(b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000\r\n\r\n{")
    status, headers, _ = await client.answer()
    assert (status, int(headers["retry-after"]) >= 1) == (429, True)
    client.close()
    holder.close()
    await check_nothing_is_held(server)


async def test_less_memory_than_is_wanted(server: Launched) -> None:
    """Requests that together want many times the slots there are: preempted, resumed, and right."""
    before = (await stats(server))["num_preemptions"]
    how = {"length": 250, "prompt": 200}
    count = 16
    known = [await one(server.port, number, **how) for number in range(count)]
    assert count * 450 > 3 * SLOTS
    async with asyncio.timeout(50):
        outcomes = await asyncio.gather(*(one(server.port, i, known, **how) for i in range(count)))
    assert outcomes == ["right"] * count
    assert (await stats(server))["num_preemptions"] > before
    status, _, answer = await ask(server.port, "/generate", body(1, length=SLOTS + 1))
    assert status == 400
    assert "context" in answer["error"]["message"] or "slots" in answer["error"]["message"]
    await check_nothing_is_held(server)
