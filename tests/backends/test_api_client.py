"""Attempts and deadlines, without any provider."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ramet.backends.api_client import ApiClient, Limits, Log
from ramet.backends.api_limits import Backoff
from ramet.backends.api_records import ApiError, Failure, Price, TokenUsage, Usage
from ramet.errors import InvalidRequest

FAST = Backoff(first=0.001, longest=0.002)


def client(**limits: Any) -> ApiClient:
    return ApiClient("A", Limits(**{"backoff": FAST, **limits}), TokenUsage())


class Sends:
    """Does what it is told to, attempt by attempt: raise, wait so many seconds, or answer."""

    def __init__(self, *script: Any) -> None:
        self.script, self.given = list(script), []

    async def __call__(self, seconds: float) -> Any:
        self.given.append(seconds)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            await asyncio.sleep(step)
        return step


async def run(api: ApiClient, sends: Any) -> tuple[Any, Log]:
    async with api.turn() as log:
        return await api.attempt(log, sends), log


async def test_attempts_until_one_succeeds() -> None:
    api = client()
    used = Usage(prompt=7)
    sends = Sends(Failure("a", retry=True, usage=used), Failure("b", retry=True, status=500), "ok")
    answer, log = await run(api, sends)
    assert answer == "ok"
    assert [(r["reason"], r["status"]) for r in log.retries] == [("a", None), ("b", 500)]
    assert (log.attempts, log.spent, api.usage.requests) == (3, used, 3)
    assert api.usage.prompt_tokens == 7
    assert sends.given == sorted(sends.given, reverse=True)  # the time left gets less


async def test_nothing_is_repeated_that_a_reader_has_seen() -> None:
    api = client()
    async with api.turn() as log:
        log.observed, log.text = True, "Par"
        with pytest.raises(ApiError, match="already been read") as caught:
            await api.attempt(log, Sends(Failure("broke", retry=True), "ok"))
    assert caught.value.text == "Par"


async def test_the_deadline_holds_for_all_attempts_and_waits() -> None:
    api = client(timeout=0.1, backoff=Backoff(first=0.03, factor=1, jitter=0), max_retries=99)
    started = time.monotonic()
    with pytest.raises(ApiError, match=r"too late for timeout=0\.1 s") as caught:
        await run(api, Sends(*[Failure("busy", retry=True)] * 20))
    assert time.monotonic() - started < 0.5
    assert 1 <= caught.value.attempts <= 4
    assert caught.value.retries == len(caught.value.tried) == caught.value.attempts - 1


async def test_an_attempt_has_a_time_of_its_own() -> None:
    api = client(attempt_timeout=0.02)
    answer, log = await run(api, Sends(5.0, "ok"))
    assert (answer, log.retries[0]["reason"]) == ("ok", "no answer within 0.02 s")


async def test_waiting_for_a_place_costs_no_time_of_the_call() -> None:
    api = client(max_concurrency=1, timeout=0.15)
    answers = await asyncio.gather(*(run(api, Sends(0.05)) for _ in range(5)))
    assert [answer for answer, _ in answers] == [0.05] * 5  # 0.25 s in all


async def test_one_429_holds_back_everybody() -> None:
    api = client()
    first = asyncio.create_task(run(api, Sends(Failure("f", retry=True, status=429, wait=0.08), 1)))
    await asyncio.sleep(0.01)
    started = time.monotonic()
    await run(api, Sends("second"))
    assert time.monotonic() - started >= 0.06
    await first


async def test_a_cancelled_call_gives_back_its_place() -> None:
    api = client(max_concurrency=1)
    task = asyncio.create_task(run(api, Sends(5.0)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await run(api, Sends("ok")))[0] == "ok"


async def test_what_is_no_failure_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(client(), Sends(ZeroDivisionError()))


def test_prices() -> None:
    price = Price(prompt=2, completion=10, cached=0.2, cache_write=2.5)
    usage = Usage(prompt=1_000_000, cached=400_000, cache_write=100_000, completion=10_000)
    assert price.cost(usage) == pytest.approx(0.5 * 2 + 0.4 * 0.2 + 0.1 * 2.5 + 0.01 * 10)
    table = {"gpt-4": Price(prompt=1, completion=1), "gpt-4o": price}
    assert Price.of(table, "gpt-4o-mini") is price
    assert Price.of(table, "o1") is None
    assert Price.of(None, "o1") is None
    with pytest.raises(InvalidRequest):
        Price.of({"a": 3}, "b")  # type: ignore[dict-item]


def test_token_usage() -> None:
    usage = TokenUsage()
    usage.add(Usage(5, 1, 0, 2))
    usage.add(None)
    assert (usage.prompt_tokens, usage.unreported, usage.cost) == (5, 1, None)
    assert "prompt_tokens=5" in repr(usage)
    usage.reset()
    assert usage.to_dict() == dict.fromkeys(usage.to_dict(), 0)
