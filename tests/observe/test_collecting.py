"""Which runs a block collects, and what collecting leaves alone."""

# ruff: noqa: ARG001, ARG005 (bodies and listeners take what they are given)

from __future__ import annotations

import asyncio
import contextlib

from tests.observe.observed import HOSTILE, backend, finished, program, ran

import ramet as sgl
from ramet.backends.scripted import Scripted
from ramet.observe import Collector, Prices, tracing


def test_every_run_of_the_block_is_collected_once() -> None:
    with tracing() as seen:
        ran()
        program.run_batch([{"width": 1}] * 3, backend=backend())
    ran()
    assert [trace.program for trace in seen.traces] == ["program"] * 4
    assert [len(trace.nested) for trace in seen.traces] == [1] * 4  # not beside their parents
    begins = [trace.began for trace in seen.traces]
    assert begins == sorted(begins)


async def test_tasks_of_the_block_are_collected() -> None:
    @sgl.function
    async def say(s):
        s += "Q:" + sgl.gen("a")

    with tracing() as seen:
        await asyncio.gather(*(say.arun(backend=Scripted()) for _ in range(5)))
    assert sum(trace.totals.calls for trace in seen.traces) == 5


def test_collecting_does_not_make_calls_stream() -> None:
    streamed: list[bool] = []

    class Watched(Scripted):
        async def generate(self, call, on_chunk=None):
            streamed.append(on_chunk is not None)
            return await super().generate(call, on_chunk)

    say = sgl.function(lambda s: s.__iadd__("Q:" + sgl.gen("a")))
    with tracing(texts=True):
        finished(say.run(backend=Watched()))
        finished(say.run(backend=Watched(), listener=lambda event: None))
    assert streamed == [False, True]


def test_texts_of_branches_that_the_program_let_go_are_kept_if_asked_for() -> None:
    with tracing(texts=True) as seen:
        ran()
    [trace] = seen.traces
    assert all(branch.text for branch in trace.branches)
    assert [part.text for part in trace.branch("0.0-2.0-1").text] == [" try:", HOSTILE]
    assert trace.nested[0].root.text[-1].text == HOSTILE


def test_a_run_that_raises_is_collected_with_its_error() -> None:
    @sgl.function
    def careless(s):
        raise LookupError("private")

    with tracing() as seen:
        with contextlib.suppress(LookupError):
            careless.run(backend=Scripted())
    assert seen.traces[0].root.error == "LookupError"


def test_prices_reach_every_run() -> None:
    with tracing(prices=Prices(prompt=1, generated=1)) as seen:
        ran()
    [trace] = seen.traces
    told = [call.cost is None for run in trace.walk() for call in run.calls]
    assert told.count(True) == 1  # the failed one
    assert trace.totals.cost == sum(c.cost for run in trace.walk() for c in run.calls if c.cost)


def test_a_collector_is_a_listener_of_one_run() -> None:
    collector = Collector()
    ran(listener=collector)
    ran()
    assert len(collector.traces) == 1
