"""Reading while the model writes: every reader gets every piece, once, in order, and an end."""

# ruff: noqa: ARG002 (bodies, responses and listeners take what they are given)

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import ramet as sgl
from ramet.backends.scripted import Fail, Hang, Scripted
from ramet.errors import BackendError, ProgramError

WORDS = " ".join(f"w{i}" for i in range(40))


@sgl.function
def story(s):
    s += "Once: " + sgl.gen("first")
    s += "\nThen: " + sgl.gen("second")
    s += "."


def test_pieces_add_up_to_the_text() -> None:
    state = story.run(backend=Scripted([WORDS, "end"]), stream=True)
    pieces = list(state.text_iter())
    assert len(pieces) > 40
    assert "".join(pieces) == state.text() == f"Once: {WORDS}\nThen: end."
    assert list(state.text_iter("first")) == [f"{' ' if i else ''}w{i}" for i in range(40)]


def test_a_streamed_run_returns_before_its_body_ends() -> None:
    gate = threading.Event()

    @sgl.function
    def program(s):
        gate.wait(5)
        s += sgl.gen("x")
        return s["x"]

    state = program.run(backend=Scripted(["late"]), stream=True)
    threading.Timer(0.02, gate.set).start()
    assert state["x"] == "late"  # not promised yet when it is asked for
    assert state.ret_value == "late"
    with pytest.raises(KeyError, match="'y'"):
        state["y"]


@pytest.mark.parametrize("chunk_latency", [0.0, 0.0005])
def test_many_readers_lose_nothing(chunk_latency: float) -> None:
    backend = Scripted([WORDS, WORDS], chunk_latency=chunk_latency)
    state = story.run(backend=backend, stream=True)
    results: dict[str, str] = {}

    def read(key: str, name: str | None) -> None:
        results[key] = "".join(state.text_iter(name))

    async def aread(key: str, name: str | None) -> None:
        results[key] = "".join([piece async for piece in state.text_async_iter(name)])

    async def three() -> None:
        names = (None, "first", "second")
        await asyncio.gather(*(aread(f"a{name}", name) for name in names))

    threads = [
        threading.Thread(target=read, args=(f"{i}{name}", name))
        for i in range(4)
        for name in (None, "first", "second")
    ]
    for thread in threads:
        thread.start()
    asyncio.run(three())
    for thread in threads:
        thread.join(10)
    assert len(results) == 15
    for key, text in results.items():
        assert text == (state.text() if key.endswith("None") else WORDS)


def test_readers_that_come_late_get_everything() -> None:
    state = story.run(backend=Scripted([WORDS, "end"]), stream=True)
    state.sync()
    assert "".join(state.text_iter()) == state.text()
    assert "".join(state.text_iter("second")) == "end"


def test_without_stream_there_is_one_piece() -> None:
    state = story.run(backend=Scripted(["a b c", "d"]))
    assert list(state.text_iter()) == [state.text()]
    assert list(state.text_iter("first")) == ["a b c"]

    async def main() -> list:
        return [pair async for pair in state.text_async_iter("first", return_meta_data=True)]

    [(text, meta)] = asyncio.run(main())
    assert (text, meta["completion_tokens"]) == ("a b c", 3)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_meta_data_holds_each_token_once(chunk_size: int) -> None:
    @sgl.function
    def program(s):
        s += "Q" + sgl.gen("x", return_logprob=True, top_logprobs_num=2, stop=" w21")

    async def main() -> None:
        backend = Scripted([WORDS], chunk_size=chunk_size)
        state = program.run(backend=backend, stream=True)
        text, before = "", 0
        tokens: list = []
        tops: list = []
        async for piece, meta in state.text_async_iter("x", return_meta_data=True):
            text += piece
            assert len(meta["output_token_logprobs"]) == meta["completion_tokens"] - before
            before = meta["completion_tokens"]
            tokens += meta["output_token_logprobs"]
            tops += meta["output_top_logprobs"]
            assert meta["output_token_logprobs_length"] == len(tokens)
        final = await state.ameta_info("x")
        assert text == await state.value("x") == WORDS[: WORDS.index(" w21")]
        assert tokens == final["output_token_logprobs"]
        assert tops == final["output_top_logprobs"]
        assert meta["finish_reason"] == final["finish_reason"]

    asyncio.run(main())


def test_a_backend_without_chunks_still_gives_everything() -> None:
    class Silent(Scripted):
        async def generate(self, call, on_chunk=None):
            return await super().generate(call)

    async def main() -> list:
        state = story.run(backend=Silent([WORDS, "end"]), stream=True, return_logprob=True)
        return [pair async for pair in state.text_async_iter("first", return_meta_data=True)]

    [(text, meta)] = asyncio.run(main())
    assert text == WORDS
    assert len(meta["output_token_logprobs"]) == meta["output_token_logprobs_length"] == 40


def test_chunks_that_contradict_the_result_are_an_error() -> None:
    class Liar(Scripted):
        async def generate(self, call, on_chunk=None):
            def twisted(chunk):
                on_chunk(type(chunk)(text=chunk.text.upper(), meta_info=chunk.meta_info))

            return await super().generate(call, twisted)

    with pytest.raises(ProgramError, match="not a beginning of the result"):
        list(story.run(backend=Liar([WORDS, ""]), stream=True).text_iter())


def test_typed_values_and_choices_stream_as_a_whole() -> None:
    @sgl.function
    def program(s):
        s += "n=" + sgl.gen_int("n") + " q=" + sgl.gen_string("q")
        s += " c=" + sgl.select("c", ["yes", "no"])

    backend = Scripted(["12", "word word"], capabilities=plain())
    state = program.run(backend=backend, stream=True)
    assert list(state.text_iter())[:4] == ["n=", "12", " q=", '"word word"']
    assert list(state.text_iter("c")) == [state["c"]]
    assert "".join(state.text_iter()) == state.text()


def plain():
    from ramet.backend import Capabilities

    return Capabilities()


def test_a_set_value_is_read_as_one_piece() -> None:
    @sgl.function
    def program(s):
        s["v"] = 5
        with s.var_scope("w"):
            s += "ab"

    state = program.run(backend=Scripted(), stream=True)
    assert (list(state.text_iter("v")), list(state.text_iter("w"))) == (["5"], ["ab"])


def test_a_failure_in_mid_stream_comes_after_what_came_before_it() -> None:
    state = story.run(backend=Scripted(["one two", Fail("lost", text="thr ee")]), stream=True)
    for name, before in ((None, "Once: one two\nThen: thr ee"), ("second", "thr ee")):
        seen = ""
        with pytest.raises(ProgramError, match="lost"):  # noqa: PT012
            for piece in state.text_iter(name):
                seen += piece
        assert seen == before
    assert "".join(state.text_iter("first")) == "one two"
    assert isinstance(state.error().__cause__, BackendError)


def test_an_exception_of_the_body_reaches_readers_after_the_text() -> None:
    @sgl.function
    def program(s):
        s += "a" + sgl.gen("x")
        raise LookupError("mine")

    state = program.run(backend=Scripted(["1 2"], latency=0.01), stream=True)
    seen = []
    with pytest.raises(ProgramError, match=r"the body of program.*LookupError: mine") as caught:  # noqa: PT012
        for piece in state.text_iter():
            seen.append(piece)
    assert "".join(seen) == "a1 2"
    assert 'raise LookupError("mine")' in str(caught.value)
    assert isinstance(state.error().__cause__, LookupError)
    assert state["x"] == "1 2"
    assert state.ret_value is None
    with pytest.raises(ProgramError, match="mine"):
        state["never"]


def test_branches_stream_too() -> None:
    @sgl.function
    def program(s):
        s += "p" + sgl.gen("head") + "|"
        forks = s.fork(3)
        forks += lambda i: f"{i}" + sgl.gen("x")
        merged: dict[int, str] = {0: "", 1: "", 2: ""}
        for index, piece in forks.text_iter():
            merged[index] += piece
        by_name: dict[int, str] = {0: "", 1: "", 2: ""}
        for index, piece in forks.text_iter("x"):
            by_name[index] += piece
        whole = "".join(forks[1].text_iter())
        head = "".join(forks[1].text_iter("head"))
        forks.join("concatenate_and_append")
        return merged, by_name, whole, head, "".join(forks[2].text_iter())

    backend = Scripted(lambda c: WORDS if c.prompt.text()[-1] in "012" else "H")
    state = program.run(backend=backend, stream=True)
    merged, by_name, whole, head, after = state.ret_value
    assert merged == {i: f"{i}{WORDS}" for i in range(3)}
    assert by_name == dict.fromkeys(range(3), WORDS)
    assert (whole, head, after) == (f"pH|1{WORDS}", "H", f"pH|2{WORDS}")
    assert (
        "".join(state.text_iter())
        == state.text()
        == "pH|" + "".join(f"{i}{WORDS}" for i in range(3))
    )


def test_branches_stream_to_coroutines() -> None:
    @sgl.function
    async def program(s):
        forks = s.fork(2)
        forks += sgl.gen("x")
        seen = ["", ""]
        async for index, piece in forks.text_async_iter("x"):
            seen[index] += piece
        async for index, piece in forks.text_async_iter():
            seen[index] += piece
        return seen

    async def main(**options):
        state = await program.arun(backend=Scripted([WORDS, WORDS]), **options)
        await state.settled()
        return state.ret_value

    assert asyncio.run(main(stream=True)) == [WORDS * 2] * 2
    assert asyncio.run(main()) == [WORDS * 2] * 2


def test_streaming_shows_pieces_before_the_end() -> None:
    state = story.run(backend=Scripted([WORDS, Hang()]), stream=True)
    seen = ""
    for piece in state.text_iter():
        seen += piece
        if seen.endswith("Then: "):
            break
    assert seen == f"Once: {WORDS}\nThen: "
    state.cancel()
    with pytest.raises(ProgramError, match="cancelled"):
        list(state.text_iter())


def test_n_samples_stream_the_first() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen("x", n=3) + "."

    state = program.run(backend=Scripted([["a b", "c", "d"]]), stream=True)
    assert list(state.text_iter("x")) == ["a", " b"]
    assert state["x"] == ["a b", "c", "d"]
    assert state.text() == "a b."


def test_a_fast_program_under_load_loses_nothing() -> None:
    started = time.monotonic()
    for _ in range(200):
        state = story.run(backend=Scripted([WORDS, "end"], chunk_size=7), stream=True)
        assert "".join(state.text_iter()) == f"Once: {WORDS}\nThen: end."
    assert time.monotonic() - started < 30
