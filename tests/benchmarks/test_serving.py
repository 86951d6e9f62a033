"""Servers under load: what the generator does when answers stall, are refused or break off, whether the
figures are right, and whole runs with fake servers in processes. No torch."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import process
from benchmarks.peers.process import NotInstalled
from benchmarks.serving_connection import Outcome
from benchmarks.serving_figures import (
    Limits,
    figures,
    generator,
    percentile,
    read,
    recovery,
    refusals,
)
from benchmarks.serving_ladder import KEEPS_UP, common_steps, next_step, rate_of, step_near
from benchmarks.serving_load import Arrival, Run, offer, poisson, poisson_of, post
from benchmarks.serving_server import Failed, Server, free_port
from benchmarks.serving_workloads import bodies

from benchmarks import serving, serving_arguments, serving_fleet, serving_peers

SLACK = 3.0  # seconds that a busy machine may add
LIMITS = Limits(first=0.5, per_token=0.1)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

Behaviour = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


# -- a server in this process, which does what it is told ----------------------------------------------


@asynccontextmanager
async def serve(behave: Behaviour) -> AsyncIterator[int]:
    """Its port. `behave` writes the answer to the request of this number, counted from 0."""
    count = 0

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                number, count = count, count + 1
                await behave(writer, number)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: str | None = None, **rest: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "text": text, "finish_reason": None}]
    return b"data: " + json.dumps({"choices": choices, **rest}).encode() + b"\n\n"


def end(tokens: int, prompt: int = 10, cached: int = 4) -> bytes:
    details = {"cached_tokens": cached}
    usage = {
        "completion_tokens": tokens,
        "prompt_tokens": prompt,
        "prompt_tokens_details": details,
    }
    return event(usage=usage) + b"data: [DONE]\n\n"


async def stream(
    writer: asyncio.StreamWriter, tokens: int = 3, first: float = 0.0, each: float = 0.0
) -> None:
    await asyncio.sleep(first)
    writer.write(HEAD)
    for number in range(tokens):
        if number:
            await asyncio.sleep(each)
        writer.write(chunk(event(" a")))
    writer.write(chunk(end(tokens)) + b"0\r\n\r\n")


async def refuse(writer: asyncio.StreamWriter, status: str = "429 Too Many Requests") -> None:
    body = b'{"error": {"message": "busy"}}'
    length = f"Content-Length: {len(body)}\r\nRetry-After: 2\r\n\r\n"
    writer.write(f"HTTP/1.1 {status}\r\n{length}".encode() + body)


def evenly(rate: float, count: int) -> list[Arrival]:
    return [Arrival(i / rate, post("/v1/completions", b"{}")) for i in range(count)]


async def load(behave: Behaviour, arrivals: list[Arrival], **options: Any) -> Run:
    async with serve(behave) as port:
        return await offer(arrivals, port, **{"timeout": 10.0, **options})


# -- the generator -------------------------------------------------------------------------------------


async def test_requests_leave_at_their_times_although_nothing_is_answered() -> None:
    async def silent(writer: asyncio.StreamWriter, _: int) -> None:
        await asyncio.sleep(0.8)
        await stream(writer)

    run = await load(silent, evenly(100, 60))
    sent = [o.sent - o.intended for o in run.outcomes if o.sent is not None]
    assert len(sent) == 60
    assert max(sent) < SLACK
    assert run.connections == 60  # nobody waited for a free one
    assert max(run.late) < SLACK
    assert all(read(o).whole for o in run.outcomes)


async def test_latency_under_a_stall_counts_from_the_intended_time() -> None:
    """Nothing is answered from 0.2 to 1.0 s: who should have been served at 0.3 has waited 0.7 s. One
    connection at a time would have met the stall once."""
    began = 0.0

    async def stalling(writer: asyncio.StreamWriter, number: int) -> None:
        nonlocal began
        began = began if number else time.perf_counter()
        now = time.perf_counter() - began
        if 0.2 < now < 1.0:
            await asyncio.sleep(1.0 - now)
        await stream(writer)

    run = await load(stalling, evenly(50, 70))  # 1.4 s
    waits = {o.intended: read(o).first_token for o in run.outcomes}
    for intended, wait in waits.items():
        assert wait is not None
        if 0.35 < intended < 0.8:
            assert 0.9 - intended < wait < 1.0 - intended + SLACK
        if intended > 1.1:
            assert wait < SLACK
    stalled = sum(wait > 0.15 for wait in waits.values() if wait is not None)
    assert stalled >= 25  # 0.3 to 0.85 s at 50 a second
    found = figures([read(o) for o in run.outcomes], 0.0, 1.4, LIMITS)
    assert found["first_token"]["p90"] > 0.4
    assert found["good"] == sum(wait <= LIMITS.first for wait in waits.values() if wait is not None)


async def test_time_of_a_request_that_waits_for_the_generator_counts_too() -> None:
    """What keeps this process busy delays the sending, not the time that latency counts from."""

    async def busy(writer: asyncio.StreamWriter, number: int) -> None:
        if number == 0:
            time.sleep(0.4)  # server and generator share this loop
        await stream(writer)

    run = await load(busy, evenly(50, 20))
    waits = [read(o).first_token for o in run.outcomes]
    assert waits[5] is not None
    assert waits[5] > 0.2
    assert generator(run)["late"]["p99"] > 0.2  # and it is said


async def test_slow_first_token_and_slow_tokens_are_told_apart() -> None:
    async def slow(writer: asyncio.StreamWriter, _: int) -> None:
        await stream(writer, tokens=5, first=0.3, each=0.06)

    answer = read((await load(slow, evenly(10, 1))).outcomes[0])
    assert answer.first_token is not None
    assert answer.per_token is not None
    assert 0.3 <= answer.first_token < 0.3 + SLACK
    assert 0.06 <= answer.per_token < 0.06 + SLACK / 4
    assert (answer.tokens, answer.prompt_tokens, answer.cached_tokens) == (5, 10, 4)


async def test_what_goes_wrong_is_told_by_kind() -> None:
    async def mixed(writer: asyncio.StreamWriter, number: int) -> None:
        if number == 1:
            await refuse(writer)
        elif number == 2:
            await refuse(writer, "500 Internal Server Error")
        elif number == 3:
            writer.write(HEAD + chunk(event(" a")))  # and no end
            writer.close()
        elif number == 4:
            writer.write(b"what?\r\n\r\n")
        elif number == 5:
            await asyncio.sleep(30)
        elif number == 6:
            writer.write(HEAD + chunk(b'data: {"error": {"message": "no"}}\n\n') + b"0\r\n\r\n")
        else:
            await stream(writer)

    began = time.perf_counter()
    run = await load(mixed, evenly(20, 8), timeout=3.0)
    assert time.perf_counter() - began < 20  # the one that sleeps was given up
    found = [read(o).failure for o in run.outcomes]
    assert found == [None, "429", "500", "dropped", "garbled", "time", "stream", None]
    given_up = read(run.outcomes[5])
    assert given_up.first_token is not None
    assert 3.0 <= given_up.first_token < 3.0 + SLACK
    told = refusals([read(o) for o in run.outcomes])
    assert (told["count"], told["with_retry_after"], told["retry_after"]) == (1, 1, ["2", "2"])
    assert told["first_byte"]["p99"] < SLACK
    counted = figures([read(o) for o in run.outcomes], 0.0, 0.4, LIMITS)
    assert counted["refused"] == 1
    assert counted["failures"] == {"500": 1, "dropped": 1, "garbled": 1, "stream": 1, "time": 1}
    assert (counted["requests"], counted["whole"]) == (8, 2)


async def test_nobody_listens() -> None:
    run = await offer(evenly(20, 3), free_port(), timeout=1.0)
    assert [o.error for o in run.outcomes] == ["connect"] * 3


async def test_no_more_than_so_many_are_open() -> None:
    async def slow(writer: asyncio.StreamWriter, _: int) -> None:
        await stream(writer, first=0.5)

    run = await load(slow, evenly(100, 10), most_open=4)
    assert [o.error for o in run.outcomes] == [None] * 4 + ["unsent"] * 6
    assert generator(run)["unsent"] == 6


async def test_connections_are_kept_and_a_stale_one_is_no_failure() -> None:
    async def fickle(writer: asyncio.StreamWriter, number: int) -> None:
        await stream(writer)
        if number == 3:  # without a word about it
            await writer.drain()
            asyncio.get_running_loop().call_later(0.05, writer.close)

    run = await load(fickle, evenly(10, 8))
    assert all(read(o).whole for o in run.outcomes)
    assert 1 <= run.connections <= 4


async def test_a_server_that_closes_after_each_answer() -> None:
    async def closing(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + event(" a") + end(1))
        writer.close()

    run = await load(closing, evenly(20, 4))
    assert all(read(o).whole for o in run.outcomes)
    assert run.connections == 4


@pytest.mark.parametrize("size", [1, 2, 7, 64])
async def test_answers_in_pieces_of_any_size(size: int) -> None:
    """Chunks, lines and heads may be cut anywhere."""
    body = chunk(event(" a0")) + chunk((event(" \u00e9") + end(2))[:9])
    body += chunk((event(" \u00e9") + end(2))[9:]) + b"0\r\n\r\n"

    async def cut(writer: asyncio.StreamWriter, _: int) -> None:
        whole = HEAD + body
        for place in range(0, len(whole), size):
            writer.write(whole[place : place + size])
            await writer.drain()
            await asyncio.sleep(0)

    run = await load(cut, evenly(50, 2))
    assert [(read(o).whole, len(read(o).times), read(o).tokens) for o in run.outcomes] == [
        (True, 2, 2)
    ] * 2
    assert run.connections <= 2


async def test_the_generator_is_cheap() -> None:
    """Its share of a core at 40 requests a second, 32 events each, without the server's own."""
    server = subprocess.Popen(
        [sys.executable, "-c", FAKE, "steady", "0", "/dev/null"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        times = poisson(40, 1.5, random.Random(3))
        body = json.dumps({"max_tokens": 32}).encode()
        run = await offer(
            [Arrival(t, post("/v1/completions", body)) for t in times], port, timeout=10
        )
    finally:
        server.kill()
        server.wait()
    assert all(read(o).whole for o in run.outcomes)
    assert sum(len(read(o).times) for o in run.outcomes) == 32 * len(times)
    assert run.cpu_seconds / run.seconds < 0.3  # measured: about 0.1


def test_poisson_times() -> None:
    times = poisson(50, 100, random.Random(1))
    assert times == sorted(times)
    assert min(times) >= 0
    assert max(times) < 100
    assert 4700 < len(times) < 5300
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 0.35 < sum(gap > 1 / 50 for gap in gaps) / len(gaps) < 0.39  # 1/e of them
    for rate, seconds in ((0, 1), (1, 0), (1000, 1000)):
        with pytest.raises(ValueError):
            poisson(rate, seconds, random.Random(1))


def test_a_known_number_of_arrivals() -> None:
    times = poisson_of(1000, 10, random.Random(1))
    assert times == sorted(times)
    assert len(times) == 1000
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 0.34 < sum(gap > 1 / 100 for gap in gaps) / len(gaps) < 0.4
    with pytest.raises(ValueError, match="-1"):
        poisson_of(-1, 10, random.Random(1))


# -- figures ---------------------------------------------------------------------------------------------


def outcome(
    intended: float, first: float = 0.1, each: float = 0.01, tokens: int = 5, **changed: Any
) -> Outcome:
    """A whole answer: `first` and `each` in seconds."""
    times = [intended + first + each * i for i in range(tokens)]
    pieces = [(when, event(" a")) for when in times]
    pieces.append((times[-1], end(tokens)))
    values = {
        "intended": intended,
        "sent": intended,
        "first_byte": times[0],
        "ended": times[-1],
        "status": 200,
        "pieces": pieces,
    }
    return Outcome(**{**values, **changed})


def refused(intended: float) -> Outcome:
    return Outcome(intended, intended, intended + 0.01, intended + 0.01, 429, "1")


def test_percentiles_by_nearest_rank() -> None:
    values = [float(i) for i in range(1, 101)]
    random.Random(0).shuffle(values)
    assert [percentile(values, share) for share in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([3.0, 1.0], 50) == 1.0
    assert percentile([3.0, 1.0], 99) == 3.0
    assert percentile([], 50) is None


def test_goodput_is_what_was_good_in_the_window() -> None:
    outcomes = [
        outcome(0.5),  # before the window
        outcome(1.0),
        outcome(1.1, first=0.6),  # late
        outcome(1.2, each=0.2),  # slow
        outcome(1.3, first=0.5),  # just in time
        refused(1.4),
        outcome(1.5, tokens=1),
        outcome(3.0),  # behind it
    ]
    found = figures([read(o) for o in outcomes], 1.0, 2.0, LIMITS)
    assert (found["requests"], found["good"], found["whole"]) == (6, 3, 5)
    assert found["goodput"] == 1.5
    assert found["share_good"] == 0.5
    assert found["offered"] == 3.0
    assert found["refused"] == 1
    assert found["failures"] == {}
    assert found["first_token"]["p99"] == pytest.approx(0.6)
    assert found["first_token"]["p50"] == pytest.approx(0.1)
    assert found["per_token"]["p99"] == pytest.approx(0.2)
    assert found["gap"]["p50"] == pytest.approx(0.01)
    assert found["cached"] == pytest.approx(0.4)
    # 5 + 5 + 5 + 5 + 1 asked for within it, none of which came after it.
    assert found["tokens_per_second"] == pytest.approx(21 / 2)


def test_a_time_out_counts_with_what_it_waited() -> None:
    waited = Outcome(1.0, 1.0, None, 11.0, 0, error="time")
    found = figures([read(o) for o in (outcome(1.1), waited)], 1.0, 1.0, LIMITS)
    assert found["first_token"]["p99"] == 10.0
    assert found["failures"] == {"time": 1}


def test_only_text_is_a_token() -> None:
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    text = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    got = Outcome(0.0, status=200, pieces=[(0.1, role), (0.3, text + text), (0.5, end(4))])
    answer = read(got)
    assert answer.first_token == 0.3
    assert answer.times == (0.3, 0.3)
    assert answer.whole
    # Two events brought four tokens: all of them count, evenly.
    assert figures([answer], 0.0, 1.0, LIMITS)["tokens_per_second"] == 4.0
    silent = read(Outcome(0.0, status=200, pieces=[(0.2, role), (0.4, end(4))]))
    assert silent.times == (0.2,)  # special tokens only: the chunks are all there is


def test_an_answer_without_its_end_is_not_whole() -> None:
    got = outcome(0.0)
    got.pieces = got.pieces[:-1]
    assert read(got).failure == "stream"
    assert not read(got).good(LIMITS)


def test_recovery() -> None:
    """Bad until 4 s after the flood, good from there on."""

    def after(bad_until: float) -> list[Any]:
        times = [10 + i / 4 for i in range(80)]
        return [read(outcome(t, first=2.0 if t < bad_until else 0.1)) for t in times]

    assert recovery(after(0), 10, 30, LIMITS, before=1.0) == 0.0
    found = recovery(after(14), 10, 30, LIMITS, before=1.0)
    assert found == pytest.approx(3.75)  # from there on 19 of 20 are good
    assert recovery(after(27), 10, 30, LIMITS, before=1.0) is None
    # Where half was good before, half is enough.
    half = recovery(after(14), 10, 30, LIMITS, before=0.5)
    assert half is not None
    assert 0 < half < 4.0


# -- which rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0.2, 0.9, 3.0, 17.0, 100.0])
def test_the_search_ends_at_the_capacity(capacity: float) -> None:
    shares: dict[int, float] = {}
    while (step := next_step(shares)) is not None:
        assert step not in shares
        rate = rate_of(step)
        shares[step] = 1.0 if rate <= capacity else capacity / rate / 2
        assert len(shares) < 20
    most = max(step for step, share in shares.items() if share >= KEEPS_UP)
    assert rate_of(most) <= capacity < rate_of(most + 1)
    assert step_near(rate_of(most)) == most


def test_a_search_bears_noise_and_has_bounds() -> None:
    rng = random.Random(5)
    for _ in range(200):
        shares: dict[int, float] = {}
        while (step := next_step(shares)) is not None:
            assert step not in shares
            shares[step] = rng.random()
        assert len(shares) < 20
    everything = dict.fromkeys(range(4, 44, 4), 1.0)
    assert next_step(everything) is None
    assert next_step(dict.fromkeys((4, 0, -4, -8, -12), 0.0)) is None


def test_common_rates_are_steps_near_both_ends() -> None:
    steps = common_steps([10.0, 40.0, 0.0])
    assert [rate_of(step) for step in steps] == [4.76, 9.51, 19.0, 38.1]
    assert common_steps([]) == []


# -- requests --------------------------------------------------------------------------------------------


def prompts(workload: str, times: list[float], seed: str = "a") -> list[Any]:
    made = bodies(workload, times, 2048, seed, {"own": 1})
    values = [json.loads(body) for _, body in made]
    assert all(v["stream"] and v["max_tokens"] == 32 and v["own"] == 1 for v in values)
    return [v.get("prompt") or v["messages"] for v in values]


def test_shared_prefixes() -> None:
    times = [i / 10 for i in range(400)]
    made = prompts("shared", times)
    assert made == prompts("shared", times)
    heads = [tuple(ids[:512]) for ids in made]
    common = [head for head in heads if heads.count(head) > 1]
    assert len(set(common)) == 4
    assert 0.85 < len(common) / len(heads) < 0.95
    assert {len(ids) - 512 for ids in made} <= set(range(32, 65))
    assert not set(heads) & {tuple(ids[:512]) for ids in prompts("shared", times, "b")}


def test_unshared_prompts() -> None:
    made = prompts("unshared", [i / 10 for i in range(50)])
    assert {len(ids) for ids in made} == {256}
    assert len({tuple(ids[:4]) for ids in made}) == 50


def test_conversations_grow_and_wait_for_nobody() -> None:
    times = poisson(4, 30, random.Random(2))
    made = prompts("chat", times)
    assert len({m[0]["content"] for m in made}) == 1
    last: dict[str, tuple[float, list[Any]]] = {}
    for when, messages in zip(times, made):
        first = messages[1]["content"]
        if first in last:
            before, earlier = last[first]
            assert when - before >= 2.0
            assert messages[: len(earlier)] == earlier
            assert len(messages) == len(earlier) + 2
        else:
            assert len(messages) == 2
        last[first] = (when, messages)
    assert max(map(len, made)) > 6
    with pytest.raises(ValueError, match="songs"):
        prompts("songs", times)


# -- whole runs ------------------------------------------------------------------------------------------

# Serves completions with so many at a time and so many that wait; what comes on top is refused ("steady"
# never does). A file gets a line when it starts.
FAKE = """
import asyncio, json, sys
kind, port, notes = sys.argv[1:]
with open(notes, "a") as file:
    file.write(f"start {kind}\\n")
if kind == "broken":
    sys.exit("no such model")
slots = asyncio.Semaphore(2 if kind == "small" else 1000)
inside = 0

def chunk(data):
    data = b"data: " + data + b"\\n\\n"
    return b"%x\\r\\n%s\\r\\n" % (len(data), data)

async def answer(reader, writer):
    global inside
    try:
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
            length = head.partition(b"content-length:")[2].split(b"\\r\\n")[0]
            body = await reader.readexactly(int(length or 0))
            if head.startswith(b"get"):
                writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
            elif kind == "small" and inside >= 8:
                writer.write(b"HTTP/1.1 429 No\\r\\nRetry-After: 1\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
            else:
                inside += 1
                try:
                    async with slots:
                        await tokens(writer, json.loads(body)["max_tokens"])
                finally:
                    inside -= 1
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def tokens(writer, count):
    writer.write(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
    for _ in range(count):
        await asyncio.sleep(0.004)
        writer.write(chunk(b'{"choices":[{"index":0,"text":" a"}]}'))
        await writer.drain()
    usage = {"prompt_tokens": 100, "completion_tokens": count,
             "prompt_tokens_details": {"cached_tokens": 50}}
    writer.write(chunk(json.dumps({"choices": [], "usage": usage}).encode()) + chunk(b"[DONE]"))
    writer.write(b"0\\r\\n\\r\\n")

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(port))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


class Fakes:
    """Which servers there are, and of what kind."""

    def __init__(self, folder: Path) -> None:
        self.kinds = {"ramet": "small", "llamacpp": "steady"}
        self.notes = folder / "notes"
        self.pids: list[int] = []

    def command(self, name: str, _: Any, port: int) -> list[str]:
        if name not in self.kinds:
            raise NotInstalled(f"not installed: install/{name}.sh installs it")
        return [sys.executable, "-c", FAKE, self.kinds[name], str(port), str(self.notes)]

    @property
    def started(self) -> int:
        return len(self.notes.read_text().splitlines()) if self.notes.exists() else 0


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    found = Fakes(tmp_path)

    class Watched(Server):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            found.pids.append(self.pid)

    monkeypatch.setattr(serving_peers, "command", found.command)
    monkeypatch.setattr(serving_fleet, "Server", Watched)
    monkeypatch.setattr(serving, "_machine", lambda: "a machine")
    monkeypatch.setattr(serving_arguments, "AROUND", dict.fromkeys((True, False), (0.2, 0.5, 0.6)))
    monkeypatch.setenv("RAMET_PEERS", str(tmp_path / "peers"))
    before = signal.getsignal(signal.SIGTERM)
    yield found
    signal.signal(signal.SIGTERM, before)
    assert not [pid for pid in found.pids if exists(pid)], "a server outlived the benchmark"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.json").write_text('{"vocab_size": 2048}')
    return folder


def exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def gone(groups: Iterable[int]) -> bool:
    """Soon: what was killed stays until its parent, or the system, has taken note."""
    deadline = time.monotonic() + 5
    while any(map(exists, groups)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(exists, groups))


def test_a_whole_run_and_going_on_with_it(
    fakes: Fakes, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    asked = ["--model", str(model), "--workloads", "unshared", "--rates", "30", "--seconds", "1"]
    asked += ["--overload", "0.6", "--timeout", "1", "--json", str(path), "--resume"]
    assert serving.main(asked) == 0
    shown = capsys.readouterr().out
    assert "not installed: install/vllm.sh" in shown
    data = json.loads(path.read_text())
    assert {(run["engine"], run["round"]) for run in data["runs"]} == {
        (name, what) for name in ("ramet", "llamacpp") for what in ("rate 30", "overload")
    }
    by_key = {(run["engine"], run["kind"]): run for run in data["runs"]}
    steady = by_key["llamacpp", "rate"]
    assert steady["share_good"] > 0.7
    assert steady["output_tokens"] == 32
    assert steady["cached"] == 0.5
    flood = by_key["ramet", "overload"]
    assert flood["flood_rate"] == pytest.approx(10 * flood["peak"], rel=1e-3)
    assert flood["refusals"]["count"] > 10
    assert flood["refusals"]["with_retry_after"] == flood["refusals"]["count"]
    assert 10 < flood["during"]["refused"] <= flood["refusals"]["count"]
    assert by_key["llamacpp", "overload"]["refusals"]["count"] == 0
    assert flood["moderate_rate"] == pytest.approx(flood["peak"] / 2, rel=1e-3)
    assert 0 < flood["goodput_of_peak"] < 2.5
    assert flood["before"]["requests"] > 0
    timeline = flood["timeline"]
    assert [row[0] for row in timeline] == [-1, 0, 1]
    assert sum(row[1] for row in timeline) >= flood["during"]["requests"]
    assert sum(row[3] for row in timeline) == flood["refusals"]["count"]
    assert steady["offered"] == 30
    assert steady["server_cores"] > 0
    assert "Retry-After" in shown

    started = fakes.started
    assert started == 2
    assert serving.main(asked) == 0  # all is there
    assert fakes.started == started
    assert json.loads(path.read_text())["runs"] == data["runs"]
    assert serving.main([*asked, "--first", "2"]) == 2  # other limits are other figures


@pytest.mark.usefixtures("fakes")
def test_a_search_measures_on_the_ladder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    offered: list[float] = []

    def steady(_target: Any, _workload: str, rate: float, *_: Any) -> dict[str, Any]:
        offered.append(rate)
        answers = [read(outcome(0.0, first=0.1 if rate < 7 else 1.0))]
        found = figures(answers, 0.0, 1 / rate, LIMITS)
        run = Run([a.outcome for a in answers], 1.0, 0.01, [0.0], 1)
        return {**found, "generator": generator(run), "others": None}

    monkeypatch.setattr("benchmarks.serving_cells.steady", steady)
    asked = ["--model", str(model), "--workloads", "unshared", "--only", "ramet", "--overload", "0"]
    assert serving.main([*asked, "--json", str(path)]) == 0
    assert offered == [2.0, 4.0, 8.0, 5.66, 6.73]
    offered.clear()
    assert serving.main([*asked, "--json", str(path), "--resume"]) == 0
    assert offered == []
    assert serving.main([*asked, "--json", str(path), "--resume", "--again", "ramet"]) == 0
    assert len(offered) == 5


def test_a_server_that_does_not_start_is_said_and_the_others_are_measured(
    fakes: Fakes, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.kinds["ramet"] = "broken"
    asked = ["--model", str(model), "--only", "ramet,llamacpp", "--workloads", "chat"]
    assert serving.main([*asked, "--rates", "30", "--seconds", "1", "--overload", "0"]) == 1
    shown = capsys.readouterr().out
    assert "no such model" in shown
    assert "chat      llamacpp" in shown
    assert fakes.started == 2


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (["--only", "nginx"], "nginx"),
        (["--rates", "1,many"], "1,many"),
        (["--rates", "-3"], "-3"),
        (["--resume"], "--json"),
        (["--options", "vllm"], "vllm"),
        (["--model", "nothing"], "nothing"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_wrong_questions(
    asked: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        serving.main(asked)
    assert left.value.code == 2
    assert problem in capsys.readouterr().err


# -- servers end -----------------------------------------------------------------------------------------


def test_a_server_that_fails_says_why(tmp_path: Path) -> None:
    start = [sys.executable, "-c", "import sys; sys.exit('out of everything')"]
    with pytest.raises(Failed, match="out of everything"):
        Server(start, os.environ, free_port(), tmp_path / "log")


def test_a_server_that_does_not_come_up_is_ended(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(Failed, match="did not come up"):
        Server([sys.executable, "-c", script], os.environ, free_port(), tmp_path / "log", 1.0)
    assert not exists(int(mark.read_text()))


def test_no_server_outlives_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    """Killed without a chance to tidy up, while the server is stopped, with children of its own of which
    one has left its process group."""
    port = free_port()
    child = "import subprocess\nsubprocess.Popen(['sleep', '60'])\n"
    child += "away = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    child += f"open({str(tmp_path / 'away')!r}, 'w').write(str(away.pid))\n"
    start = [sys.executable, "-c", child + FAKE, "steady", str(port), str(tmp_path / "notes")]
    script = (
        "import os, sys, pathlib; from benchmarks.serving_server import Server\n"
        f"server = Server({start!r}, os.environ, {port}, pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "server.stop(); print(server.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(process.ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    groups = [int(done.stdout), int((tmp_path / "away").read_text())]
    assert gone(groups)


def test_a_closed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    """Not even what left its process group, nor what does not hear when it is asked to end."""
    port = free_port()
    child = "import signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    child += "away = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    start = [sys.executable, "-c", child + FAKE, "steady", str(port), str(tmp_path / "notes")]
    server = Server(start, process.environment("fake", 1), port, tmp_path / "log")
    groups = server.groups()
    assert len(groups) == 2
    server.stop()
    server.close(patience=0.3)
    assert gone(groups)
