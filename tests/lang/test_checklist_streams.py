"""Streams of many branches and of many programs, as pieces arrive."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.backends.native_server import NativeServer

import ramet as sgl
from ramet import RuntimeEndpoint
from ramet.backends.scripted import Fail, Scripted
from ramet.errors import InvalidRequest, ProgramError


@sgl.function
def count(s, i):
    s += f"{i}:" + sgl.gen("a") + "|" + sgl.gen("b")


@sgl.function
async def acount(s, i):
    s += f"{i}:" + sgl.gen("a") + "|"
    await s.value("a")
    s += sgl.gen("b")


PROGRAMS = pytest.mark.parametrize("program", [count, acount])


def said(call) -> str:
    return f"{call.prompt.text()[0]} and more words"


def texts(pairs, number: int) -> list[str]:
    found = [""] * number
    for index, piece in pairs:
        found[index] += piece
    return found


@PROGRAMS
@pytest.mark.parametrize("most", [1, 3, "auto"])
def test_a_batch_as_one_stream(program, most) -> None:
    batch = program.stream_batch(
        [{"i": i} for i in range(6)], num_threads=most, backend=Scripted(said, chunk_latency=0.001)
    )
    assert len(batch) == 6
    assert texts(batch.text_iter(), 6) == [state.text() for state in batch]
    assert texts(batch.text_iter("b"), 6) == [state["b"] for state in batch]
    assert [state["a"] for state in batch[:2]] == ["0 and more words", "1 and more words"]
    assert "0 not yet started" in repr(batch)


@PROGRAMS
def test_the_same_for_coroutines_and_on_a_server(program) -> None:
    async def read(backend) -> list[str]:
        batch = program.stream_batch([(i,) for i in range(4)], num_threads=2, backend=backend)
        found = [""] * 4
        async for index, piece in batch.text_async_iter("a"):
            found[index] += piece
        return found

    wanted = [f"{i} and more words" for i in range(4)]
    assert asyncio.run(read(Scripted(said))) == wanted
    with NativeServer(Scripted(said)) as server:
        assert asyncio.run(read(RuntimeEndpoint(server.url))) == wanted


@pytest.mark.parametrize("name", [None, "a"])
def test_pieces_come_while_others_have_not_begun(name) -> None:
    gate = threading.Event()

    @sgl.function
    def waits(s, i):
        if i:
            gate.wait(10)
        s += sgl.gen("a")

    batch = waits.stream_batch([(0,), (1,)], backend=Scripted(lambda _: "x y"))
    pieces = batch.text_iter(name)
    assert [next(pieces), next(pieces)] == [(0, "x"), (0, " y")]
    gate.set()
    assert list(pieces) == [(1, "x"), (1, " y")]


def test_one_after_the_other_holds_the_rest_back() -> None:
    backend = Scripted(said, chunk_latency=0.001)
    batch = count.stream_batch([(i,) for i in range(5)], num_threads=1, backend=backend)
    order = [index for index, _ in batch.text_iter()]
    assert order == sorted(order)
    assert backend.max_active == 1


def test_a_failure_ends_its_own_pieces_only() -> None:
    def respond(call):
        return Fail("out of luck", text="begun") if call.prompt.text().startswith("1") else "fine"

    batch = count.stream_batch([(i,) for i in range(3)], backend=Scripted(respond))
    assert texts(batch.text_iter("a"), 3) == ["fine", "begun", "fine"]
    assert [type(state.error()) for state in batch] == [type(None), ProgramError, type(None)]


def test_giving_a_batch_up() -> None:
    backend = Scripted(said, latency=30)
    batch = count.stream_batch([(i,) for i in range(4)], num_threads=2, backend=backend)
    batch.cancel()
    assert list(batch.text_iter("a")) == []
    assert all(isinstance(state.error(), ProgramError) for state in batch)


def test_no_programs_and_wrong_ones() -> None:
    backend = Scripted()
    assert list(count.stream_batch([], backend=backend).text_iter()) == []
    with pytest.raises(InvalidRequest, match="does not fit"):
        count.stream_batch([(1, 2)], backend=backend)
    with pytest.raises(InvalidRequest, match="num_threads"):
        count.stream_batch([(1,)], backend=backend, num_threads=0)
    with pytest.raises(InvalidRequest, match="stream_batch"):
        count.run_batch([(1,)], backend=backend, stream=True)


def test_branches_as_pieces_arrive() -> None:
    @sgl.function
    def branches(s):
        s += "begin "
        forks = s.fork(3)
        forks += lambda i: f"{i}" + sgl.gen("v")
        s["pairs"] = list(forks.text_iter("v"))
        forks.join()

    backend = Scripted(lambda _: "one two three", chunk_latency=0.002)
    with NativeServer(backend) as server:
        state = branches.run(backend=RuntimeEndpoint(server.url), stream=True)
        pairs = state["pairs"]
    assert texts(pairs, 3) == ["one two three"] * 3
    order = [index for index, _ in pairs]
    assert order != sorted(order)  # they came at the same time
