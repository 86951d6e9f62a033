"""Requests that end anyhow, at any turn of the event loop: the engine, the admission and the loop keep nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.server.loop_engine import VOCAB, Caller, LoopEngine
from tests.server.openai_streams import served

from ramet.engine.options import EngineOptions
from ramet.server.app import ServerApp
from ramet.server.options import ServeOptions

MAX_TURNS = 2000  # more than any of these requests takes


def ids_of(count: int, first: int = 100) -> list[int]:
    return list(range(first, first + count))


def generate(stream: bool = False, **more: Any) -> dict[str, Any]:
    params = {"max_new_tokens": 6, "temperature": 0}
    return {"input_ids": ids_of(9), "sampling_params": params, "stream": stream, **more}


REQUESTS: dict[str, tuple[str, Any]] = {
    "plain": ("/generate", generate()),
    "stream": ("/generate", generate(True)),
    "batch": ("/generate", generate(input_ids=[ids_of(9), ids_of(5, 40)])),
    "batch stream": ("/generate", generate(True, input_ids=[ids_of(9), ids_of(5, 40)])),
    "named": ("/generate", generate(True, rid="mine")),
    "completion": ("/v1/completions", {"prompt": ids_of(7), "max_tokens": 5, "n": 2}),
    "chat stream": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "stream": True},
    ),
    "long body": ("/generate", generate(True, rid="long" * 60, input_ids=ids_of(500))),
}


class Bench:
    """A server's application on a `LoopEngine`."""

    def __init__(self, delay: int = 2, fail_at: int | None = None, **options: Any) -> None:
        self.engine = LoopEngine(delay, fail_at)
        settings = {"write_timeout": 0.1, "enable_page": False, **options}
        self.app = ServerApp(ServeOptions(**settings), self.engine.client, served(vocab_size=VOCAB))

    async def __call__(self, path: str, body: Any, **options: Any) -> Caller:
        caller = Caller(path, body, **options)
        await caller.call(self.app.asgi)
        return caller

    async def check_nothing_is_left(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        client, admission = self.engine.client, self.app.admission
        assert not self.engine.open
        assert not client._held
        assert not client._by_name
        assert not client._questions
        assert (admission.num_held, admission.num_tokens) == (0, 0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others


async def at_every_turn(
    bench: Bench, path: str, body: Any, then: Callable[[Caller, Any], None], **options: Any
) -> list[Caller]:
    """Call again and again; in call `k` do `then(caller, task)` after `k` turns of the loop. Ends with the
    first call that was over before its turn."""
    callers = []
    for k in range(MAX_TURNS):
        caller = Caller(path, body, **options)
        task = asyncio.ensure_future(caller.call(bench.app.asgi))
        for _ in range(k):
            if task.done():
                break
            await asyncio.sleep(0)
        over = task.done()
        if not over:
            then(caller, task)
        async with asyncio.timeout(10):
            await asyncio.gather(task, return_exceptions=True)
        await bench.check_nothing_is_left()
        bench.engine.be_ready()
        callers.append(caller)
        if over:
            assert caller.complete
            assert caller.status == 200
            return callers
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("name", REQUESTS)
async def test_client_leaves_at_every_turn(name: str) -> None:
    bench = Bench(delay=25)  # long enough that nothing is over by itself
    path, body = REQUESTS[name]
    callers = await at_every_turn(bench, path, body, lambda caller, _task: caller.gone.set())
    assert len(callers) > 10
    assert bench.engine.num_submitted > 3  # they did get to the engine
    assert not any(caller.complete for caller in callers[:5])


@pytest.mark.parametrize("name", ["plain", "batch stream", "chat stream"])
async def test_server_gives_up_at_every_turn(name: str) -> None:
    bench = Bench(delay=25)
    path, body = REQUESTS[name]
    callers = await at_every_turn(bench, path, body, lambda _caller, task: task.cancel())
    assert len(callers) > 10


@pytest.mark.parametrize("name", REQUESTS)
async def test_engine_dies_at_every_turn(name: str) -> None:
    bench = Bench()
    path, body = REQUESTS[name]

    def die(_caller: Caller, _task: Any) -> None:
        bench.engine.die()

    callers = await at_every_turn(bench, path, body, die)
    ended = [caller for caller in callers[:-1] if caller.status == 503]
    streamed = [caller for caller in callers[:-1] if caller.status == 200]
    assert ended
    assert all(caller.header("retry-after") for caller in ended)
    for caller in streamed:
        assert caller.complete
        if "stream" in json.dumps(body) and body.get("stream"):
            told = any("error" in one for one in caller.events if isinstance(one, dict))
            finished = "finish_reason" in caller.data.decode() and "length" in caller.data.decode()
            assert told or finished
    if body.get("stream"):
        assert any("error" in str(caller.events) for caller in streamed)


@pytest.mark.parametrize("name", ["plain", "stream", "batch stream", "chat stream"])
@pytest.mark.parametrize("can_abort", [False, True])
async def test_client_stops_reading_at_every_message(name: str, can_abort: bool) -> None:
    bench = Bench(write_timeout=0.1)
    bench.app._serving = type(bench.app._serving)(
        bench.engine.client, bench.app.admission, write_timeout=0.01
    )
    path, body = REQUESTS[name]
    for last in range(20):

        def blocked(number: int, last: int = last) -> Any:
            return asyncio.Event().wait() if number >= last else None

        caller = Caller(path, body, on_send=blocked, can_abort=can_abort)
        calling = asyncio.gather(caller.call(bench.app.asgi), return_exceptions=True)
        async with asyncio.timeout(10):
            await calling
        await bench.check_nothing_is_left()
        if caller.complete:
            assert last > 1
            return
        assert caller.aborted == can_abort
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("name", ["plain", "stream", "chat stream"])
async def test_send_raises_at_every_message(name: str) -> None:
    bench = Bench()
    path, body = REQUESTS[name]
    for last in range(20):

        def broken(number: int, last: int = last) -> None:
            if number >= last:
                raise ConnectionResetError("the client is gone")

        caller = Caller(path, body, on_send=broken)
        await asyncio.gather(caller.call(bench.app.asgi), return_exceptions=True)
        await bench.check_nothing_is_left()
        if caller.complete:
            return
    raise AssertionError("it never came to its end")


async def test_answers() -> None:
    bench = Bench()
    plain = await bench(*REQUESTS["plain"])
    assert plain.status == 200
    assert plain.json["text"] == " 108 107 106 105 104 103"
    assert plain.header("content-length") == str(len(plain.data))
    stream = await bench(*REQUESTS["stream"])
    assert stream.events[-1] == "[DONE]"
    assert stream.events[-2]["text"] == plain.json["text"]
    batch = await bench(*REQUESTS["batch"])
    assert [one["text"] for one in batch.json] == [plain.json["text"], " 44 43 42 41 40"]
    await bench.check_nothing_is_left()


async def test_engine_fails_on_a_request() -> None:
    bench = Bench(fail_at=2)
    plain = await bench(*REQUESTS["plain"])
    assert plain.status == 500
    assert plain.json["error"]["code"] == 500
    stream = await bench(*REQUESTS["stream"])
    assert stream.status == 200
    assert stream.events[-1] == "[DONE]"
    assert stream.events[-2]["error"]["code"] == 500
    assert stream.complete
    await bench.check_nothing_is_left()


@pytest.mark.parametrize("stream", [False, True])
async def test_deadlines(stream: bool) -> None:
    bench = Bench(delay=10**9)  # it never begins
    headers = {"x-request-timeout": "0.05"}
    caller = await bench("/generate", generate(stream), headers=headers)
    assert caller.status == 504
    assert "0.05 s" in caller.json["error"]["message"]
    await bench.check_nothing_is_left()
    for wrong in ("0", "-1", "nan", "inf", "soon", "1e99"):
        caller = await bench("/generate", generate(), headers={"x-request-timeout": wrong})
        assert caller.status == 400, wrong
        assert caller.json["error"]["param"] == "x-request-timeout"


async def test_deadline_in_the_middle_of_a_stream() -> None:
    bench = Bench()
    stalled = asyncio.Event()

    def slow(number: int) -> Any:
        return asyncio.sleep(0.03) if number > 1 else None

    caller = Caller(
        "/generate", generate(True), headers={"x-request-timeout": "0.05"}, on_send=slow
    )
    await caller.call(bench.app.asgi)
    assert caller.status == 200
    assert caller.events[-2]["error"]["code"] == 504
    assert not stalled.is_set()
    await bench.check_nothing_is_left()


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ramet.server.handler.QUIET_SECONDS", 0.02)
    bench = Bench(delay=400)
    slept: list[float] = []

    async def slowly(self: Any, message: Any) -> None:
        await asyncio.sleep(0.1)
        slept.append(0.1)
        await run(self, message)

    run = LoopEngine._run
    monkeypatch.setattr(LoopEngine, "_run", slowly)
    caller = await bench(*REQUESTS["stream"])
    assert slept
    assert caller.data.startswith(b": still here\n\n")
    assert caller.events[-2]["text"] == " 108 107 106 105 104 103"


async def test_slow_reader_finds_the_latest_state() -> None:
    """While a write waits, what comes is merged: one event for all of it."""
    bench = Bench()

    def slow(number: int) -> Any:
        return asyncio.sleep(0.05) if number == 1 else None

    caller = await bench("/generate", generate(True), on_send=slow)
    texts = [one["text"] for one in caller.events[:-1]]
    assert len(texts) == 2
    assert texts[-1] == " 108 107 106 105 104 103"


async def test_names_in_use() -> None:
    bench = Bench(delay=10**9, api_keys={"key-of-ann": "ann", "key-of-bob": "bob"})
    ann, bob = {"authorization": "Bearer key-of-ann"}, {"authorization": "Bearer key-of-bob"}
    first = Caller("/generate", generate(True, rid="same"), headers=ann)
    second = Caller("/generate", generate(rid="same"), headers=bob)
    running = [asyncio.ensure_future(c.call(bench.app.asgi)) for c in (first, second)]
    while bench.engine.num_submitted < 2:
        await asyncio.sleep(0)
    again = await bench("/generate", generate(rid="same"), headers=ann)
    assert again.status == 400
    assert again.json["error"]["param"] == "rid"
    twice = await bench("/generate", generate(input_ids=[[1], [2]], rid=["a", "a"]), headers=ann)
    assert twice.status == 400
    unknown = await bench("/abort_request", {"rid": "other"}, headers=ann)
    assert unknown.json == {"aborted": 0}
    ended = await bench("/abort_request", {"rid": "same"}, headers=bob)
    assert ended.json == {"aborted": 1}
    await running[1]
    assert second.json["meta_info"]["finish_reason"]["type"] == "abort"
    assert not running[0].done()
    ended = await bench("/abort_request", {"abort_all": True}, headers=ann)
    assert ended.json == {"aborted": 1}
    await asyncio.gather(*running)
    assert first.events[-2]["meta_info"]["finish_reason"]["type"] == "abort"
    await bench.check_nothing_is_left()


async def test_a_name_that_the_server_gave_can_be_aborted() -> None:
    bench = Bench(delay=3)
    name: list[str] = []

    def slow(number: int) -> Any:
        return asyncio.sleep(0.05) if number > 2 else None

    body = generate(True, input_ids=ids_of(200))
    body["sampling_params"]["max_new_tokens"] = 200
    caller = Caller("/generate", body, on_send=slow)
    running = asyncio.ensure_future(caller.call(bench.app.asgi))
    while not caller.events:
        await asyncio.sleep(0)
    name.append(caller.events[0]["meta_info"]["id"])
    ended = await bench("/abort_request", {"rid": name[0]})
    await running
    assert ended.json == {"aborted": 1}
    assert caller.events[-2]["meta_info"]["finish_reason"]["type"] == "abort"


async def test_samples_are_aborted_by_their_names() -> None:
    bench = Bench(delay=10**9)
    body = generate(rid="mine", sampling_params={"max_new_tokens": 3, "n": 2})
    caller = Caller("/generate", body)
    running = asyncio.ensure_future(caller.call(bench.app.asgi))
    while not bench.engine.num_submitted:
        await asyncio.sleep(0)
    assert (await bench("/abort_request", {"rid": "mine#1"})).json == {"aborted": 1}
    await running
    assert [one["meta_info"]["id"] for one in caller.json] == ["mine#0", "mine#1"]
    assert (await bench("/abort_request", {"rid": "mine#1"})).json == {"aborted": 0}
    await bench.check_nothing_is_left()


async def test_refused_before_the_body_is_read() -> None:
    bench = Bench(delay=10**9, max_queued=1, engine=EngineOptions(max_running=1))
    calls = [Caller("/generate", generate(i % 2 == 0)) for i in range(2)]
    running = [asyncio.ensure_future(call.call(bench.app.asgi)) for call in calls]
    while bench.engine.num_submitted < 2:
        await asyncio.sleep(0)
    body = b"{" + b" " * 100_000
    refused = await bench("/generate", body, piece=10)
    assert refused.status == 429
    assert int(refused.header("retry-after") or 0) >= 1
    assert len(refused._pieces) > 9_000  # nobody asked for them
    for call in calls:
        call.gone.set()
    await asyncio.gather(*running)
    await bench.check_nothing_is_left()


async def test_no_place_is_held_for_one_who_reads_slowly() -> None:
    """What was generated is in memory; the engine's place is the next one's."""
    bench = Bench(write_timeout=5.0)
    let_go = asyncio.Event()
    caller = Caller("/generate", generate(), on_send=lambda _number: let_go.wait())
    running = asyncio.ensure_future(caller.call(bench.app.asgi))
    while not bench.engine.num_submitted or bench.app.admission.num_held:
        await asyncio.sleep(0)
    assert not running.done()
    let_go.set()
    await running
    assert caller.json["text"] == " 108 107 106 105 104 103"


async def test_nothing_is_asked_for() -> None:
    bench = Bench()
    place = bench.app.admission.place(0, 0)
    generation = bench.engine.client.generate([], stream=False, on_over=place.release)
    assert generation.over
    assert await generation.finished() == []
    assert not bench.engine.num_submitted
    await bench.check_nothing_is_left()


async def test_ids_that_the_model_has_not() -> None:
    bench = Bench()
    for wrong in (VOCAB, -1, 2**31, 2**32 + 5, 2**63 - 1):
        caller = await bench("/generate", generate(input_ids=[1, wrong]))
        assert caller.status == 400, wrong
    await bench.check_nothing_is_left()
