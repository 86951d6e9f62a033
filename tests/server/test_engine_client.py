"""The engine's process as the HTTP side has it: whatever it does, everybody gets an answer and it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from ramet.engine.request import LogprobOptions, Request
from ramet.engine.simulate import PlainText
from ramet.params import SamplingParams
from ramet.server.engine_client import EngineClient, EngineFailed
from ramet.server.engine_life import EngineLife
from ramet.server.exchange import Call
from ramet.server.generation import Refused
from ramet.server.messages import (
    Beat,
    FromEngine,
    News,
    Part,
    Reply,
    Submit,
    ToEngine,
    Update,
    WireError,
    frame,
    packed_ids,
    read_frame,
    unpacked_ids,
)
from ramet.server.submission import Submission

FOLDER = Path(__file__).parents[2]


def fake(mode: str, folder: Path, **options: Any) -> EngineClient:
    program = Path(__file__).with_name("fake_engine.py")
    command = [sys.executable, "-I", str(program), mode, str(folder)]
    return EngineClient({}, command=command, **options)


@asynccontextmanager
async def started(client: EngineClient) -> AsyncIterator[EngineClient]:
    try:
        await client.start()
        yield client
    finally:
        await client.close()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER / 'src'}{os.pathsep}{FOLDER}")


def call(*ids: int, **params: Any) -> Call:
    return Call(ids=list(ids), params=SamplingParams(max_new_tokens=4, temperature=0, **params))


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)


def exists(pid: int) -> bool:
    """Zombies, too, do."""
    return Path(f"/proc/{pid}").exists()


def alive(pid: int) -> bool:
    """An orphan's zombie is not ours to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(folder: Path) -> list[int]:
    return [int(file.name.rpartition("-")[2]) for file in folder.iterdir()]


# -- frames -----------------------------------------------------------------------------------------


async def read(data: bytes, kind: Any) -> Any:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await read_frame(reader, msgspec.msgpack.Decoder(kind))


async def test_frames_come_back_as_they_were() -> None:
    ids = np.array([0, 1, 2047, 2**31 - 1], np.int64)
    part = Part("1/0", packed_ids(ids), {"seed": 2**64 - 1}, None, "salt", 2, False, True)
    submit = await read(frame(Submit(1, [part], True)), ToEngine)
    assert submit == Submit(1, [part], True)
    assert unpacked_ids(submit.parts[0].ids).tolist() == ids.tolist()
    meta = {
        "logprob": np.float32(-0.5),
        "id": np.int64(7),
        "flag": np.bool_(True),
        "text": "é\ud800"[:1],
    }
    news = await read(frame(News([Update(1, 0, "x", [np.int64(5)], meta)])), FromEngine)  # type: ignore[list-item]
    assert news.updates[0].ids == [5]
    assert type(news.updates[0].ids[0]) is int
    assert news.updates[0].meta == {"logprob": -0.5, "id": 7, "flag": True, "text": "é"}


async def test_what_is_no_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (
        b"\xff\xff\xff\xff",
        (5).to_bytes(4, "little") + b"\xc1\xc1\xc1\xc1\xc1",
        (100_001).to_bytes(4, "little") + b"\x91" * 100_000 + b"\xc0",
        frame(Reply(1, 2)),  # nobody says this to an engine
        (2).to_bytes(4, "little") + b"\x80\x80",
    ):
        with pytest.raises(WireError):
            await read(data, ToEngine)
    with pytest.raises(asyncio.IncompleteReadError):
        await read(frame(Beat(1))[:-1], FromEngine)
    with pytest.raises(WireError):
        frame(Reply(1, object()))
    with pytest.raises(WireError):
        frame(Reply(1, 2**70))
    monkeypatch.setattr("ramet.server.messages.MAX_FRAME", 1000)
    with pytest.raises(WireError):
        frame(Reply(1, bytes(1000)))


# -- starts and ends --------------------------------------------------------------------------------


async def test_asked_and_answered(tmp_path: Path) -> None:
    async with started(fake("works", tmp_path)) as client:
        assert client.state == "ready"
        assert client.facts is not None
        assert client.facts.info == {"mode": "works"}
        assert await client.ask("stats", 5) == {"asked": "stats", "argument": 5}
        generation = client.generate([call(7, 8), call(9)], stream=False)
        samples = await generation.finished()
        assert [sample.text for sample in samples] == ["<7>", "<9>"]
        assert not client.num_generations
        assert not client._by_name
        pid = client.pid
        assert pid is not None
    assert not exists(pid)
    assert client.state == "stopped"
    with pytest.raises(Refused) as refused:
        client.generate([call(1)], stream=False)
    assert refused.value.failure.status == 503


async def test_nobody_else_can_connect(tmp_path: Path) -> None:
    """There is no address: the process is born with its end of a pair of sockets."""
    async with started(fake("works", tmp_path)) as client:
        assert client.pid is not None
        ours, theirs = sockets("self"), sockets(str(client.pid))
        assert len(theirs) == 1  # nothing else of ours was handed to it
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[6] in ours | theirs:
                assert len(fields) == 7  # no path
                assert fields[3] == "00000000"  # not listening


def sockets(process: str) -> set[str]:
    """Inode numbers."""
    found = set()
    for file in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = os.readlink(file)
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found


FAILED_STARTS = {
    "exits at start": "status 3",
    "complains": "the file is broken",
    "junk at start": "not understood",
    "somebody else": "not understood",
    "silent at start": "said nothing",
}


async def test_a_first_start_that_fails(tmp_path: Path) -> None:
    async def one(mode: str, words: str) -> None:
        (tmp_path / mode).mkdir()
        client = fake(mode, tmp_path / mode, stall_seconds=0.5, loading_seconds=2.0)
        with pytest.raises(EngineFailed, match=words):
            await asyncio.wait_for(client.start(), 20)
        await client.close()
        assert not any(map(exists, pids(tmp_path / mode)))

    await asyncio.gather(*(one(*pair) for pair in FAILED_STARTS.items()))


async def test_a_command_that_does_not_exist() -> None:
    client = EngineClient({}, command=["/nonexistent/engine"])
    with pytest.raises(EngineFailed, match="nonexistent"):
        await asyncio.wait_for(client.start(), 20)
    await client.close()


async def test_closed_while_it_starts(tmp_path: Path) -> None:
    client = fake("silent at start", tmp_path)
    starting = asyncio.create_task(client.start())
    await until(lambda: bool(pids(tmp_path)))
    began = time.monotonic()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await client.close()
    await client.close()
    assert time.monotonic() - began < 5
    assert not any(map(exists, pids(tmp_path)))


async def test_beats_while_it_loads(tmp_path: Path) -> None:
    """A start may take longer than the silence that is allowed."""
    client = fake("slow start", tmp_path, stall_seconds=0.3, loading_seconds=1.5)
    async with started(client):
        assert client.num_starts == 1


async def test_its_children_end_with_it(tmp_path: Path) -> None:
    async with started(fake("has a child", tmp_path)) as client:
        assert len(pids(tmp_path)) == 2
        assert client.pid is not None
        first = pids(tmp_path)
        os.kill(client.pid, signal.SIGKILL)
        await until(lambda: client.num_starts == 2 and client.state == "ready")
        assert not any(map(alive, first))
        assert len(pids(tmp_path)) == 4
    await until(lambda: not any(map(alive, pids(tmp_path))), 2.0)


MISBEHAVIOURS = """junk; oversized; no message; no kind; wrong types; deep; half a frame; ready twice;
somebody's hello; bad update; exits; is killed; freezes; hangs up"""


async def test_misbehaviour_ends_it_and_it_comes_back(tmp_path: Path) -> None:
    async def one(mode: str) -> None:
        (tmp_path / mode).mkdir()
        try:
            await _misbehaves(tmp_path / mode, mode)
        except BaseException as error:
            error.add_note(f"mode: {mode}")
            raise

    await asyncio.gather(*(one(mode.strip()) for mode in MISBEHAVIOURS.split(";")))


async def _misbehaves(folder: Path, mode: str) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    client = fake(mode, folder, stall_seconds=1.5, on_event=lambda e, f: events.append((e, f)))
    async with started(client):
        over: list[int] = []
        generations = [
            client.generate([call(5)], stream=stream, on_over=lambda: over.append(1))
            for stream in (False, True)
        ]
        question = asyncio.create_task(client.ask("stats"))
        for generation in generations:
            with pytest.raises(Refused) as refused:
                await asyncio.wait_for(generation.finished(), 20)
            assert refused.value.failure.status == 503
            assert refused.value.failure.retry_after
        await asyncio.gather(question, return_exceptions=True)
        assert len(over) == 2
        assert not client.num_generations
        assert not client._questions
        with pytest.raises(Refused):
            client.generate([call(6)], stream=False)
        await until(lambda: client.state == "ready")
        samples = await client.generate([call(6)], stream=False).finished()
        assert samples[0].text == "<6>"
        assert client.num_starts == 2
        assert [event for event, _ in events] == ["engine ready", "engine ended", "engine ready"]
        assert len([pid for pid in pids(folder) if exists(pid)]) == 1  # no zombies


async def test_stopped_and_continued_is_no_stall(tmp_path: Path) -> None:
    """Time in which this process itself did not run says nothing about the engine."""
    async with started(fake("works", tmp_path, stall_seconds=0.5)) as client:
        for _ in range(2):
            time.sleep(0.8)  # the loop does not run
            await asyncio.sleep(0.3)
        assert client.num_starts == 1
    life = EngineLife.__new__(EngineLife)
    life._last_heard = time.monotonic()
    watching = asyncio.create_task(life._watch(0.4, 0.4))
    await asyncio.sleep(0)
    time.sleep(1.0)
    await asyncio.sleep(0.15)
    assert not watching.done()
    assert "nothing" in await asyncio.wait_for(watching, 5)


async def test_it_may_die_while_it_loads_again(tmp_path: Path) -> None:
    """Only the very first start must succeed at once."""
    client = fake("works", tmp_path)
    async with started(client):
        client._command[-2] = "exits at start"
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        await until(lambda: client.num_starts >= 3)
        client._command[-2] = "works"
        await until(lambda: client.state == "ready")


async def test_a_listener_that_raises(tmp_path: Path) -> None:
    def listen(event: str, _facts: Any) -> None:
        raise RuntimeError(event)

    async def life() -> None:
        async with started(fake("is killed", tmp_path, on_event=listen)) as client:
            with pytest.raises(Refused):
                await client.generate([call(5)], stream=False).finished()
            await until(lambda: client.state == "ready")

    with pytest.warns(UserWarning, match="a listener of 'engine") as warned:
        await life()
    assert [str(w.message).split("'")[1] for w in warned] == [
        "engine ready",
        "engine ended",
        "engine ready",
    ]


async def test_what_cannot_be_sent_is_the_clients_fault(tmp_path: Path) -> None:
    async with started(fake("works", tmp_path)) as client:
        params = SamplingParams(max_new_tokens=1)
        object.__setattr__(params, "stop_regex", (2**80,))
        with pytest.raises(Refused) as refused:
            client.generate([Call(ids=[1], params=params)], stream=False)
        assert refused.value.failure.status == 400
        assert not client.num_generations
        assert not client._by_name


async def test_aborts_are_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with started(fake("never answers", tmp_path)) as client:
        generation = client.generate([call(5)], stream=True)
        generation.abort()
        generation.abort()
        assert not client.num_generations
        with pytest.raises(Refused):
            await generation.finished()
        await client.ask("stats")
    assert capfd.readouterr().out.split("\n")[:-1] == ["abort 1 False"]


# -- what is told when nobody reads ------------------------------------------------------------------


class Text(PlainText):
    """Of which everything is new once."""

    def __init__(self) -> None:
        self.new = ""

    def push(self, token_id: int) -> None:
        self.new += f"<{token_id}>"

    def take_new(self) -> str:
        new, self.new = self.new, ""
        return new


async def test_only_ends_are_told_while_nobody_reads() -> None:
    told: list[Update] = []
    unread = False
    params = SamplingParams(max_new_tokens=9)
    request = Request(rid="1/0", prompt_ids=np.array([1, 2]), params=params, text=Text())
    engine: Any = SimpleNamespace(
        samples=lambda *_args, **_more: [request],
        text=lambda given: given.text,
        token_text=lambda _wanted: lambda _token: None,
        clock=lambda: 1.0,
    )
    part = Part("1/0", packed_ids(np.array([1, 2])), params.to_dict(), None, "", 0, False, False)
    submission = Submission(engine, Submit(1, [part], True), told.append, lambda: unread)
    assert await submission.prepare()

    def step(token: int) -> None:
        request.append(token)
        request.text.push(token)
        submission.update(request)

    step(5)
    unread = True
    step(6)
    step(7)
    assert [update.ids for update in told] == [[5]]
    unread = False
    step(8)
    assert (told[1].ids, told[1].text) == ([6, 7, 8], "<6><7><8>")
    unread = True
    step(9)
    request.finish_reason = {"type": "length", "length": 5}
    submission.update(request)
    assert (told[2].ids, told[2].text) == ([9], "<9>")
    assert told[2].meta is not None
    assert told[2].meta["finish_reason"]["type"] == "length"


# -- the real one ---------------------------------------------------------------------------------------


@asynccontextmanager
async def real(
    module: str = "ramet.server.engine_process", **more: Any
) -> AsyncIterator[EngineClient]:
    options = {"max_cache_tokens": 2000, "num_threads": 1, **more}
    client = EngineClient(options, command=(sys.executable, "-m", module))
    async with started(client):
        yield client


async def held(client: EngineClient) -> tuple[int, int, int]:
    stats = await client.ask("stats")
    return stats["num_running"], stats["num_waiting"], stats["num_pinned_tokens"]


async def test_the_real_engine() -> None:
    async with real() as client:
        await _salts_keep_apart(client)
        await _one_part_is_stopped(client)
        await _stopped_while_it_compiles(client)
        await _left_at_any_time(client)
        await _everything_travels(client)
        await _a_slow_reader(client)
        assert await client.ask("audit")
        stats = await client.ask("stats")
        assert stats["num_repairs"] == 0
        assert await held(client) == (0, 0, 0)
        assert await client.ask("flush")
        stats = await client.ask("stats")
        assert stats["num_free_slots"] == stats["num_slots"]


async def _salts_keep_apart(client: EngineClient) -> None:
    prompt = list(range(300, 340))

    async def cached(salt: str, public: int = 0) -> int:
        client.public = lambda _ids: public
        generation = client.generate([call(*prompt)], salt=salt, stream=False)
        meta = (await generation.finished())[0].meta
        texts.add(generation.samples[0].text)
        return int(meta["cached_tokens"])

    texts: set[str] = set()
    assert [await cached("ann"), await cached("ann")] == [0, 39]
    assert await cached("bob") == 0  # nothing of ann's
    assert await cached("") == 0
    assert await client.ask("flush")
    assert [await cached("ann", 16), await cached("bob", 16), await cached("", 16)] == [0, 16, 16]
    assert [await cached("ann", 16), await cached("bob", 16)] == [39, 39]
    assert len(texts) == 1  # sharing changes no answer
    client.public = lambda _ids: 0


async def _one_part_is_stopped(client: EngineClient) -> None:
    long = SamplingParams(max_new_tokens=900, temperature=0, ignore_eos=True)
    calls = [
        Call(ids=[5, 6, 7], params=long, rid="a"),
        Call(ids=[5, 6, 8], params=long.replace(max_new_tokens=30), rid="b"),
    ]
    generation = client.generate(calls, stream=True)
    await generation.news()
    assert client.stop("a", "")
    samples = await generation.finished()
    assert [s.finish_reason["type"] for s in samples if s.finish_reason] == ["abort", "length"]
    assert len(samples[0].output_ids) < 900
    assert len(samples[1].output_ids) == 30
    assert not client.stop("a", "")


async def _stopped_while_it_compiles(client: EngineClient) -> None:
    hard = hex(time.time_ns()) + "|".join(f"(a{{{i}}}b*c[d-z]+){{1,{i}}}" for i in range(2, 50))
    for told in (True, False):
        constrained = call(5, 6, 7, regex=hard + str(told))
        plain = Call(ids=[9], params=SamplingParams(max_new_tokens=3, temperature=0), rid="plain")
        generation = client.generate([constrained], stream=True)
        both = client.generate([constrained, plain], stream=False)
        await asyncio.sleep(0.02)
        if told:
            assert client.stop_all() == 2
            samples = await asyncio.wait_for(generation.finished(), 5)
            samples += await asyncio.wait_for(both.finished(), 5)
            ends = [s.finish_reason["type"] for s in samples if s.finish_reason]
            assert ends == ["abort"] * 3
            assert [s.output_ids for s in samples] == [[], [], []]
            assert samples[0].meta["prompt_tokens"] == 3
        else:
            generation.abort()
            both.abort()
        assert await held(client) == (0, 0, 0)
    # One of two is stopped while the other's constraint is compiled.
    both = client.generate([call(5, 6, regex="[ab]{3}x"), plain], stream=True)
    assert client.stop("plain", "")
    samples = await asyncio.wait_for(both.finished(), 20)
    assert [s.finish_reason["type"] for s in samples if s.finish_reason][1] in ("abort", "length")
    assert re.fullmatch("[ab]{3}x", samples[0].text)


async def _left_at_any_time(client: EngineClient) -> None:
    """After a while of any length: the engine has nothing of it when it is asked next."""
    long = SamplingParams(max_new_tokens=500, temperature=0, ignore_eos=True, n=3)
    for i in range(12):
        calls = [Call(ids=list(range(10 * i, 10 * i + 400)), params=long)]
        generation = client.generate(calls, stream=i % 2 == 0)
        await asyncio.sleep(0.003 * i)
        generation.abort()
        assert await held(client) == (0, 0, 0)
        assert not client.num_generations
    assert await client.ask("flush")


async def _everything_travels(client: EngineClient) -> None:
    """All that a response can hold is encoded, with whatever types the engine has it in."""
    params = SamplingParams(max_new_tokens=5, temperature=0.8, sampling_seed=2**64 - 1, n=2)
    options = LogprobOptions(output=True, prompt_start=0, top=3, token_ids=(1, 2047))
    told = Call(ids=[5, 6, 7], params=params, logprobs=options, token_text=True, spans=True)
    streamed = await client.generate([told], stream=True).finished()
    at_once = await client.generate([told], stream=False).finished()
    for one, other in zip(streamed, at_once, strict=True):
        assert one.text == other.text
        assert one.output_ids == other.output_ids
        assert one.kept == other.kept
        for name in ("output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs"):
            assert one.meta[name] == other.meta[name]
            assert len(one.meta[name]) == 5
        assert one.meta["input_token_logprobs"] == other.meta["input_token_logprobs"]
        assert len(one.meta["input_top_logprobs"]) == 3
        assert all(type(token) is int for token in one.output_ids)


async def _a_slow_reader(client: EngineClient) -> None:
    """What is not read is not told twice, and not lost: the other end holds back what it can."""
    options = LogprobOptions(output=True, prompt_start=None, top=20, token_ids=())
    params = SamplingParams(max_new_tokens=150, temperature=0, ignore_eos=True)
    calls = [Call(ids=[5, 6, i], params=params, logprobs=options) for i in range(8)]
    fast = await client.generate(calls, stream=True).finished()
    assert client._writer is not None
    transport: Any = client._writer.transport
    generation = client.generate(calls, stream=True)
    transport.pause_reading()
    await asyncio.sleep(1.0)
    transport.resume_reading()
    slow = await generation.finished()
    for one, other in zip(fast, slow, strict=True):
        assert one.output_ids == other.output_ids
        assert one.text == other.text
        assert one.meta["output_top_logprobs"] == other.meta["output_top_logprobs"]
        assert len(one.meta["output_token_logprobs"]) == 150


async def test_memory_runs_out_in_a_step() -> None:
    """Only the requests whose own step fails get an error; nothing internal is told to them."""
    async with real("tests.server.faulty_engine") as client:
        good = [call(i, i + 1, i + 2) for i in range(10, 16)]
        alone = [(await client.generate([one], stream=False).finished())[0].text for one in good]
        poison = call(666, 667)
        asked = [client.generate([one], stream=i % 2 == 0) for i, one in enumerate(good)]
        asked.insert(3, client.generate([poison], stream=True))
        done = await asyncio.gather(*(g.finished() for g in asked), return_exceptions=True)
        failed = done.pop(3)
        assert isinstance(failed, Refused)
        assert failed.failure.status == 500
        assert "cannot allocate" not in failed.failure.message
        assert [samples[0].text for samples in done] == alone  # type: ignore[index]
        # Of two prompts one fails: none is left running.
        long = SamplingParams(max_new_tokens=1500, temperature=0, ignore_eos=True)
        both = client.generate([Call(ids=[8, 9], params=long), poison], stream=True)
        with pytest.raises(Refused):
            await asyncio.wait_for(both.finished(), 20)
        await until(lambda: not client.num_generations)
        assert await held(client) == (0, 0, 0)
        stats = await client.ask("stats")
        assert stats["num_failed"] == 2
        assert stats["num_repairs"] == 0
        assert client.num_starts == 1
