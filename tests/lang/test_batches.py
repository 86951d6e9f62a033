"""Many runs at a time: order, bounds, failures, and giving up."""

# ruff: noqa: ARG001, ARG005 (bodies, responses and listeners take what they are given)

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time

import pytest

import ramet as sgl
from ramet.backends.scripted import Fail, Hang, Scripted
from ramet.errors import InvalidRequest, ProgramError


@sgl.function
def plain(s, a, b="-"):
    s += f"{a}{b}" + sgl.gen("x")
    return s["x"]


@sgl.function
async def native(s, a, b="-"):
    s += f"{a}{b}" + sgl.gen("x")
    return await s.value("x")


def echo(call) -> str:
    return f"<{call.prompt.text()}>"


def jitter(call) -> float:
    return random.Random(call.prompt.text()).random() * 0.01


def run_both_ways(program, batch, **options):
    """The states of the sync and of the async way."""
    backend = options.pop("backend")
    yield program.run_batch(batch, backend=backend, **options)
    yield asyncio.run(program.arun_batch(batch, backend=backend, **options))


@pytest.mark.parametrize("program", [plain, native])
def test_results_are_in_the_order_of_the_batch(program) -> None:
    batch = [{"a": i} if i % 2 else (i, "+") for i in range(50)]
    expected = [f"<{i}{'-' if i % 2 else '+'}>" for i in range(50)]
    for states in run_both_ways(program, batch, backend=Scripted(echo, latency=jitter)):
        assert [state["x"] for state in states] == expected
        assert [state.ret_value for state in states] == expected


@pytest.mark.parametrize("program", [plain, native])
def test_an_empty_batch(program) -> None:
    for states in run_both_ways(program, [], backend=Scripted()):
        assert states == []


@pytest.mark.parametrize("program", [plain, native])
def test_the_number_of_programs_at_a_time_is_bounded(program) -> None:
    class Full(Scripted):
        """Answers nobody before as many as are allowed have asked."""

        inside = peak = 0

        async def generate(self, call, on_chunk=None):
            self.inside += 1
            self.peak = max(self.peak, self.inside)
            while self.peak < most:
                await asyncio.sleep(0.001)
            try:
                return await super().generate(call, on_chunk)
            finally:
                self.inside -= 1

    batch = [(i,) for i in range(12)]
    for most in (1, 3):
        backend = Full(latency=0.001)
        program.run_batch(batch, backend=backend, num_threads=most)
        assert backend.peak == most
        backend = Full(latency=0.001)
        asyncio.run(program.arun_batch(batch, backend=backend, max_concurrency=most))
        assert backend.peak == most


def test_one_after_the_other_stays_in_the_callers_thread() -> None:
    seen = []

    @sgl.function
    def program(s, i):
        seen.append((i, threading.get_ident()))

    program.run_batch([(i,) for i in range(4)], backend=Scripted(), num_threads=1)
    assert seen == [(i, threading.get_ident()) for i in range(4)]


def test_a_program_counts_as_done_when_all_its_work_is() -> None:
    @sgl.function
    def lazy(s, i):
        forks = s.fork(3)
        forks += sgl.gen("x")

    backend = Scripted(latency=0.005)
    states = lazy.run_batch([(i,) for i in range(6)], backend=backend, num_threads=2)
    assert backend.active == 0
    assert len(backend.calls) == 18
    assert backend.max_active <= 6
    assert all(len(state.all_calls()) == 3 for state in states)


@pytest.mark.parametrize("program", [plain, native])
def test_a_failing_program_does_not_end_the_batch(program) -> None:
    backend = Scripted({"1-": Fail("boom"), ".*": echo})
    for states in run_both_ways(program, [(i,) for i in range(3)], backend=backend):
        assert [state.error() is None for state in states] == [True, False, True]
        assert states[2]["x"] == "<2->"
        with pytest.raises(ProgramError, match="boom"):
            states[1]["x"]


def test_a_raising_body_is_the_states_error() -> None:
    @sgl.function
    def program(s, i):
        s += f"{i}" + sgl.gen("x")
        if i == 1:
            raise LookupError("mine")

    states = program.run_batch([(i,) for i in range(3)], backend=Scripted(echo))
    assert [state["x"] for state in states] == ["<0>", "<1>", "<2>"]
    assert isinstance(states[1].error().__cause__, LookupError)
    with pytest.raises(ProgramError, match="mine"):
        states[1].text()
    assert states[2].error() is None


def test_wrong_arguments_are_found_before_anything_starts() -> None:
    backend = Scripted()
    for batch, words in (
        ([(1,), ()], r"batch\[1\].*missing a required argument: 'a'"),
        ([(1, 2, 3)], r"batch\[0\].*too many positional"),
        ([{"a": 1}, {"a": 1, "c": 2}], r"batch\[1\].*'c'"),
        (["text"], r"batch\[0\].*neither a dict nor a tuple"),
        ("text", "not a list"),
        ({"a": 1}, "not a list"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            plain.run_batch(batch, backend=backend)
    with pytest.raises(InvalidRequest, match="num_threads"):
        plain.run_batch([(1,)], backend=backend, num_threads=0)
    with pytest.raises(InvalidRequest, match="bind"):
        plain.run_batch([(1,)], backend=backend, b=2)
    with pytest.raises(InvalidRequest, match="generator_style"):
        plain.run_batch([(1,)], backend=backend, stream=True)
    assert backend.calls == []


@pytest.mark.parametrize("program", [plain, native])
def test_generator_style_yields_while_later_ones_run(program) -> None:
    backend = Scripted(lambda call: Hang() if call.prompt.text() == "5-" else "x")
    states = program.run_batch(
        [(i,) for i in range(6)], backend=backend, generator_style=True, num_threads=3
    )
    assert [next(states)["x"] for _ in range(5)] == ["x"] * 5
    wait_for(lambda: len(backend.calls) == 6)
    states.close()

    async def main() -> None:
        found = []
        iterator = program.aiter_batch([(i,) for i in range(6)], backend=backend)
        async for state in iterator:
            found.append(await state.value("x"))
            if len(found) == 5:
                break
        while len(backend.calls) < 12:
            await asyncio.sleep(0.001)
        await iterator.aclose()
        assert found == ["x"] * 5

    asyncio.run(main())
    wait_for(lambda: len(backend.cancelled) == 2)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_cancelling_a_batch_cancels_its_calls() -> None:
    async def main(program) -> None:
        backend = Scripted(lambda call: Hang())
        task = asyncio.create_task(program.arun_batch([(i,) for i in range(4)], backend=backend))
        while backend.active < 4:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while backend.active:
            await asyncio.sleep(0.001)
        assert len(backend.cancelled) == 4

    asyncio.run(main(plain))
    asyncio.run(main(native))


def test_batches_within_programs_and_bound_arguments() -> None:
    @sgl.function
    def outer(s, n):
        states = plain.bind(b="!").run_batch([(i,) for i in range(n)])
        s += " ".join(state["x"] for state in states)

    texts = [s.text() for s in outer.run_batch([(2,), (3,)], backend=Scripted(echo))]
    assert texts == ["<0!> <1!>", "<0!> <1!> <2!>"]


@pytest.mark.parametrize("with_rich", [True, False])
def test_the_progress_bar_counts_to_the_end(with_rich: bool, monkeypatch, capsys) -> None:
    if not with_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    batch = [(i,) for i in range(4)]
    plain.run_batch(batch, backend=Scripted(), progress_bar=True)
    plain.run_batch(batch, backend=Scripted(), progress_bar=True, num_threads=1)
    asyncio.run(plain.arun_batch(batch, backend=Scripted(), progress_bar=True))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("4/4") >= 3
