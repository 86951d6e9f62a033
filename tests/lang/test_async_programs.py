"""Programs and event loops: `async def` bodies, coroutines that run programs, and the sync face among
running loops."""

# ruff: noqa: ARG001, ARG005 (bodies, responses and listeners take what they are given)

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from tests.lang.gates import Gated

import ramet as sgl
from ramet.backends.scripted import Fail, Scripted
from ramet.errors import InvalidRequest, ProgramError
from ramet.lang.runtime import chain_loop


def echo(call) -> str:
    return f"<{call.prompt.text()[-2:]}>"


@sgl.function
async def native(s, text):
    s += text + sgl.gen("x")
    s += await s.value("x")
    forks = s.fork(2)
    forks += lambda i: str(i) + sgl.gen("y")
    await forks.ajoin()
    return await s.value("y")


@sgl.function
def plain(s, text):
    s += text + sgl.gen("x")
    return s["x"]


def test_async_bodies_run_on_the_callers_loop() -> None:
    threads = []

    @sgl.function
    async def where(s):
        threads.append(threading.get_ident())
        s += sgl.gen("x")
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    async def main() -> None:
        state = await where.arun(backend=Scripted())
        assert state.ret_value is asyncio.get_running_loop()
        assert threads == [threading.get_ident()]
        assert state["x"]  # complete, so that reading it does not block the loop

    asyncio.run(main())


def test_every_way_to_run_gives_the_same() -> None:
    async def main() -> None:
        for program, result in ((native, ["<>0>", "<>1>"]), (plain, "<hi>")):
            state = await program.arun("hi", backend=Scripted(echo))
            assert state.ret_value == result
            streamed = await program.arun("hi", backend=Scripted(echo), stream=True)
            pieces = [piece async for piece in streamed.text_async_iter()]
            assert "".join(pieces) == state.text()

    asyncio.run(main())
    assert native.run("hi", backend=Scripted(echo)).ret_value == ["<>0>", "<>1>"]
    state = native.run("hi", backend=Scripted(echo), stream=True)
    assert "".join(state.text_iter()) == "hi<hi><hi>"
    assert state.ret_value == ["<>0>", "<>1>"]


def test_plain_bodies_run_in_a_thread_with_the_callers_context() -> None:
    colour = contextvars.ContextVar("colour", default="none")

    @sgl.function
    def where(s):
        return threading.get_ident(), colour.get()

    async def main() -> None:
        colour.set("red")
        state = await where.arun(backend=Scripted())
        thread, seen = state.ret_value
        assert thread != threading.get_ident()
        assert seen == "red"

    asyncio.run(main())


def test_reading_what_is_not_ready_is_refused_in_an_async_body() -> None:
    @sgl.function
    async def program(s):
        s += "a" + sgl.gen("x")
        for read in (
            lambda: s["x"],
            s.text,
            s.messages,
            s.sync,
            lambda: s.get_meta_info("x"),
        ):
            with pytest.raises(
                InvalidRequest, match=r"would block its event loop; write `await s\."
            ):
                read()
        with pytest.raises(InvalidRequest, match=r"text_async_iter|atext"):
            list(s.text_iter())
        with pytest.raises(InvalidRequest, match=r"await plain.arun"):
            plain.run("x")
        with pytest.raises(InvalidRequest, match="arun_batch"):
            plain.run_batch([("x",)])
        forks = s.fork(2)
        forks += sgl.gen("y")
        forks.join()  # only queued here
        backend.gate.set()
        await s.value("x")
        assert s["x"] == "<a>"
        assert await s.value("y")
        assert s.text() == await s.atext()
        assert s.messages() == await s.amessages() == []
        assert s.get_meta_info("x") == await s.ameta_info("x")
        assert await s.aerror() is None
        await s.settled()
        return "done"

    backend = Gated(echo)
    assert program.run(backend=backend).ret_value == "done"

    async def main() -> None:
        backend.gate.clear()
        assert (await program.arun(backend=backend)).ret_value == "done"

    asyncio.run(main())


def test_the_sync_face_works_while_a_loop_runs_in_this_thread() -> None:
    async def main() -> None:
        backend = Scripted(echo, latency=0.01)
        state = plain.run("hi", backend=backend)
        assert (state["x"], state.text()) == ("<hi>", "hi<hi>")
        assert native.run("hi", backend=backend).ret_value == ["<>0>", "<>1>"]
        assert [s["x"] for s in plain.run_batch([("a",), ("b",)], backend=backend)] == [
            "<a>",
            "<b>",
        ]

    asyncio.run(main())


def test_reading_on_the_chain_loop_is_refused() -> None:
    seen: list[BaseException] = []

    class Reentrant(Scripted):
        async def generate(self, call, on_chunk=None):
            if call.prompt.text() == "outer":
                try:
                    plain.run("inner", backend=self)
                except InvalidRequest as error:
                    seen.append(error)
            return await super().generate(call, on_chunk)

    assert plain.run("outer", backend=Reentrant())["x"]
    assert "chain loop" in str(seen[0])


def test_async_programs_call_programs() -> None:
    @sgl.function
    async def outer(s):
        inner = await plain.arun("in")
        both = await asyncio.gather(native.arun("n1"), native.arun("n2"))
        s += inner["x"] + both[1].ret_value[0]
        sync = await asyncio.to_thread(plain.run, "thread")
        return sync["x"]

    backend = Scripted(echo)
    state = outer.run(backend=backend)
    assert (state.text(), state.ret_value) == ("<in><>0>", "<ad>")


def test_plain_bodies_may_run_async_programs() -> None:
    @sgl.function
    def outer(s):
        s += native.run("in").ret_value[1]
        s += asyncio.run(native.arun("again")).ret_value[0]

    async def main() -> str:
        return (await outer.arun(backend=Scripted(echo))).text()

    assert asyncio.run(main()) == outer.run(backend=Scripted(echo)).text() == "<>1><>0>"


def test_nesting_plain_bodies_deeper_than_the_pool_does_not_deadlock(monkeypatch) -> None:
    from ramet.lang import runtime

    monkeypatch.setattr(runtime, "_threads", runtime._Threads())
    monkeypatch.setattr(runtime, "auto_threads", lambda: 2)

    @sgl.function
    def nest(s, depth):
        s += f"{depth}" + sgl.gen("x")
        if depth:
            s += asyncio.run(nest.arun(depth - 1)).text()

    async def main() -> list[str]:
        states = await asyncio.gather(*(nest.arun(4, backend=backend) for _ in range(4)))
        return [state.text() for state in states]

    backend = Scripted(lambda call: ".")
    assert asyncio.run(main()) == ["4.3.2.1.0."] * 4


def test_exceptions_of_async_bodies() -> None:
    @sgl.function
    async def program(s, catch):
        s += sgl.gen("x")
        try:
            await s.value("x")
        except ProgramError:
            if not catch:
                raise
        raise LookupError("mine")

    async def main() -> None:
        with pytest.raises(ProgramError, match="boom"):
            await program.arun(False, backend=Scripted([Fail("boom")]))
        with pytest.raises(LookupError, match="mine"):
            await program.arun(True, backend=Scripted([Fail("boom")]))
        state = await program.arun(True, backend=Scripted(["fine"]), stream=True)
        error = await state.aerror()
        assert isinstance(error.__cause__, LookupError)

    asyncio.run(main())
    with pytest.raises(LookupError, match="mine"):
        program.run(True, backend=Scripted(["fine"]))


def test_ajoin_raises_for_a_failed_branch() -> None:
    @sgl.function
    async def program(s):
        forks = s.fork(2)
        forks += lambda i: str(i) + sgl.gen("x")
        with pytest.raises(ProgramError, match="branch 1 of 2"):
            await forks.ajoin()
        return await forks[0].value("x")

    assert program.run(backend=Scripted({"0": "a", "1": Fail("b")})).ret_value == "a"


def test_ramets_loop_is_one_daemon_thread() -> None:
    loops = {id(chain_loop()) for _ in range(10)}
    before = threading.active_count()
    plain.run("x", backend=Scripted()).sync()
    assert len(loops) == 1
    assert threading.active_count() == before
    assert all(t.daemon for t in threading.enumerate() if t.name == "ramet-chains")


def test_a_forked_process_starts_its_own_loop() -> None:
    import os

    plain.run("x", backend=Scripted()).sync()
    pid = os.fork()
    if pid == 0:  # the child must not return into pytest
        try:
            os._exit(0 if plain.run("hi", backend=Scripted(echo))["x"] == "<hi>" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
