"""Programs on a real server through `RuntimeEndpoint` and `Runtime`: they say what they say on an engine in this
process, bit for bit, keep what was generated as the tokens it was, and leave nothing behind.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.test_programs_agree import ops, perform, result
from tests.server.launched import Launched

import ramet as sgl
from ramet import Runtime, RuntimeEndpoint
from ramet.errors import BackendError, ProgramError

# Nothing is said twice, so that nothing can be guessed: takes longer than any test waits.
LONG: dict[str, Any] = {"max_tokens": 3000, "ignore_eos": True, "frequency_penalty": 2.0}
METHODS = (
    sgl.token_length_normalized,
    sgl.greedy_token_selection,
    sgl.unconditional_likelihood_normalized,
)


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(sgl.__file__).parents[1]))  # of servers started here


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with sgl.Engine("pocket", num_threads=1, max_cache_tokens=20_000) as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(server: Launched) -> Iterator[RuntimeEndpoint]:
    found = RuntimeEndpoint(server.url)
    yield found
    found.shutdown()


def stats(server: Launched) -> dict[str, int]:
    info = httpx.get(f"{server.url}/get_server_info", timeout=20).json()
    state: dict[str, int] = info["internal_states"][0]
    return state


def wait_for(server: Launched, name: str, count: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while (now := stats(server))[name] != count:
        assert time.monotonic() < end, (name, now)
        time.sleep(0.02)


# -- the same bits -------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(program=ops(2), stream=st.booleans())
def test_generated_programs_agree(endpoint: Any, engine: Any, program: Any, stream: bool) -> None:
    assert result(endpoint, program, stream=stream) == result(engine, program)


@settings(max_examples=12)
@given(program=ops(1), seed=st.integers(0, 2**64 - 1))
def test_sampled_programs_agree(endpoint: Any, engine: Any, program: Any, seed: int) -> None:
    states = [
        perform.run(program, backend=backend, temperature=1.2, sampling_seed=seed)
        for backend in (endpoint, engine)
    ]
    assert states[0].text() == states[1].text()
    assert states[0].messages() == states[1].messages()


@sgl.function
def chooses(s, prompt, choices, method):
    s += prompt
    s += sgl.select("pick", choices, choices_method=method)
    s += sgl.gen("more", max_tokens=6, temperature=0, return_logprob=True, top_logprobs_num=2)


@pytest.mark.parametrize("place", range(len(METHODS)))
def test_choices_are_decided_by_the_same_bits(endpoint: Any, engine: Any, place: int) -> None:
    for prompt, choices in (
        ("Is the sky blue?", [" yes", " no", " maybe so"]),
        ("The ans", ["wer is 4", "wering machine", "!"]),
        ("<|im_start|>user\nPick a fruit.<|im_end|>\n<|im_start|>assistant\n", ["plum", "plums"]),
    ):
        states = [
            chooses.run(prompt, choices, METHODS[place], backend=backend)
            for backend in (endpoint, engine)
        ]
        assert states[0].text() == states[1].text()
        metas = [state.get_meta_info("pick") for state in states]
        for name in ("normalized_prompt_logprobs", "input_token_logprobs"):
            assert metas[0][name] == metas[1][name]
        if place == 2:
            name = "unconditional_token_logprobs"
            assert metas[0][name] == metas[1][name]
        tops = [state.get_meta_info("more")["output_top_logprobs"] for state in states]
        assert json.dumps(tops[0]) == json.dumps(tops[1])


@sgl.function
def early_fork(s):
    branches = s.fork(2)
    for i, branch in enumerate(branches):
        branch += f"{i} and" + sgl.gen("x", max_tokens=3, temperature=0)
    branches.join()


@sgl.function
def nothing(s):
    s += sgl.gen("first", max_tokens=5, temperature=0)


def test_programs_that_begin_with_nothing(endpoint: Any, engine: Any) -> None:
    assert early_fork.run(backend=endpoint)["x"] == early_fork.run(backend=engine)["x"]
    for backend in (endpoint, engine):  # this tokenizer has nothing that texts begin with
        with pytest.raises(ProgramError, match="give at least one"):
            nothing.run(backend=backend).text()


@sgl.function
def chat(s, question):
    s += sgl.system("Answer shortly.")
    s += sgl.user(question)
    s += sgl.assistant(sgl.gen("a", max_tokens=12) + sgl.select("sure", [" Yes", " No"]))
    s += sgl.user("And in JSON?")
    s += sgl.assistant(sgl.gen("json", max_tokens=40, regex=r'\{"a": "[a-z]{1,8}"\}'))
    s += sgl.gen_int("n")


def test_a_batch_of_chats(endpoint: Any, engine: Any) -> None:
    batch = [{"question": f"What is {i} + 1?"} for i in range(16)]
    found = chat.run_batch(batch, backend=endpoint, temperature=0)
    wanted = chat.run_batch(batch, backend=engine, temperature=0)
    for one, other in zip(found, wanted, strict=True):
        assert one.text() == other.text()
        assert one.messages() == other.messages()
        assert [one[name] for name in ("a", "sure", "json", "n")] == (
            [other[name] for name in ("a", "sure", "json", "n")]
        )


# -- what is shared -------------------------------------------------------------------------------------


@sgl.function
def turns(s):
    s += "A talk that nobody had before, on the tokens that a text is made of.\n"
    for i in range(4):
        s += f"{i}:" + sgl.gen(f"turn{i}", max_tokens=12, temperature=0.8, ignore_eos=True) + "\n"


def test_what_was_generated_is_not_tokenized_again(endpoint: Any) -> None:
    """However oddly it was put together: all but the newest token was cached at every turn."""
    state = turns.run(backend=endpoint, sampling_seed=1)
    state.sync()
    metas = [state.get_meta_info(f"turn{i}") for i in range(4)]
    for before, after in itertools.pairwise(metas):
        known = before["prompt_tokens"] + before["completion_tokens"]
        assert known - 1 <= after["cached_tokens"] < after["prompt_tokens"] <= known + 4
    again = turns.run(backend=endpoint, sampling_seed=1)
    assert again.text() == state.text()
    assert all(
        meta["cached_tokens"] == meta["prompt_tokens"] - 1
        for meta in (again.get_meta_info(f"turn{i}") for i in range(4))
    )


@sgl.function
def branches(s, topic):
    s += f"About {topic}: " + "a long introduction that all branches share. " * 10
    forks = s.fork(12)
    for i, fork in enumerate(forks):
        fork += f"Point {i}:" + sgl.gen("point", max_tokens=3, temperature=0)
    forks.join()


def test_branches_compute_their_prefix_once(endpoint: Any, server: Launched) -> None:
    before = stats(server)["num_computed_tokens"]
    state = branches.run("rivers", backend=endpoint)
    assert len(state["point"]) == 12
    computed = stats(server)["num_computed_tokens"] - before
    prefix = len(state.text()) // 5
    assert computed < 2 * prefix + 12 * 12, "twelve times the prefix would be far more"


def test_a_prefix_is_computed_ahead(endpoint: RuntimeEndpoint, server: Launched) -> None:
    text = "Words that come before everything else in what follows here."
    before = stats(server)["num_generated_tokens"]
    endpoint.cache_prefix(text)
    assert stats(server)["num_generated_tokens"] == before
    answer = httpx.post(
        f"{server.url}/generate",
        json={"text": text, "sampling_params": {"max_new_tokens": 1}},
        timeout=20,
    ).json()["meta_info"]
    assert answer["cached_tokens"] == answer["prompt_tokens"] - 1


def test_control(endpoint: RuntimeEndpoint, server: Launched) -> None:
    assert endpoint.model_path == endpoint.get_model_name() == "pocket"
    info = endpoint.get_server_info()
    assert info["version"] == sgl.__version__
    assert sgl.get_server_info(endpoint)["num_engine_starts"] == 1
    wait_for(server, "num_running", 0)
    assert endpoint.flush_cache() is True
    template = endpoint.chat_template
    assert template is not None
    assert template.get_prefix_and_suffix("user", ())[0] == "<|im_start|>user\n"
    state = goes_on.run(backend=endpoint, stream=True)
    next(state.text_iter("a"))
    assert endpoint.flush_cache() is False
    state.cancel()
    wait_for(server, "num_running", 0)


# -- streams and cancellation ------------------------------------------------------------------------------


@sgl.function
def goes_on(s):
    s += "On and on:" + sgl.gen("a", **LONG)


@sgl.function
def streamed(s):
    s += "Tell:" + sgl.gen("a", **{**LONG, "max_tokens": 300})
    s += "\nAgain:" + sgl.gen("b", max_tokens=10, temperature=0, return_logprob=True)


def test_a_stream(endpoint: Any, engine: Any) -> None:
    state = streamed.run(backend=endpoint, stream=True, sampling_seed=2)
    pieces = list(state.text_iter("a"))
    whole = streamed.run(backend=engine, sampling_seed=2)
    assert len(pieces) > 1
    assert "".join(pieces) == state["a"] == whole["a"]
    assert "".join(state.text_iter()) == whole.text()


async def test_an_async_stream_with_log_probabilities(endpoint: Any) -> None:
    state = await streamed.arun(backend=endpoint, stream=True, sampling_seed=2)
    seen, texts = [], []
    async for text, meta in state.text_async_iter("b", return_meta_data=True):
        texts.append(text)
        seen += meta["output_token_logprobs"]
    final = state.get_meta_info("b")
    assert "".join(texts) == state["b"]
    assert seen == final["output_token_logprobs"]
    assert len(seen) == final["completion_tokens"]


@sgl.function
def many_go_on(s):
    s += "Here:"
    for fork in s.fork(3):
        fork += sgl.gen("a", **LONG)
    s += sgl.gen("b", **LONG)


async def test_cancelling_frees_the_engine(endpoint: Any, server: Launched) -> None:
    wait_for(server, "num_running", 0)
    before = stats(server)["num_aborted"]
    task = asyncio.create_task(many_go_on.arun(backend=endpoint))
    while stats(server)["num_running"] < 4:
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while stats(server)["num_running"]:
        await asyncio.sleep(0.02)
    assert stats(server)["num_aborted"] == before + 4
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await goes_on.arun(backend=endpoint)
    while stats(server)["num_running"]:
        await asyncio.sleep(0.02)


def test_a_reader_who_leaves_ends_the_program(endpoint: Any, server: Launched) -> None:
    wait_for(server, "num_running", 0)
    state = goes_on.run(backend=endpoint, stream=True)
    for _, _ in zip(state.text_iter("a"), range(3)):
        pass
    wait_for(server, "num_running", 1)
    state.cancel()
    wait_for(server, "num_running", 0)


# -- what can go wrong ----------------------------------------------------------------------------------------


@sgl.function
def too_long(s):
    s += "word " * 5000
    s += sgl.gen("a", max_tokens=3)


def test_the_servers_words_reach_the_programs_line(endpoint: Any) -> None:
    state = too_long.run(backend=endpoint)
    with pytest.raises(ProgramError, match="4096") as caught:
        state.text()
    assert __file__ in caught.value.location


def test_a_server_of_ones_own_whose_engine_ends_and_then_itself(engine: Any) -> None:
    """The engine is started again, and programs go on; a server that is gone is named."""
    options = {"max_cache_tokens": 8000, "served_model_name": "mine", "api_key": "me=key-of-me"}
    with Runtime("error", 50.0, "pocket", **options) as runtime:
        endpoint = RuntimeEndpoint(runtime.url, "key-of-me", retries=1)
        told = endpoint.get_server_info()
        assert (told["max_cache_tokens"], told["served_model_name"]) == (8000, "mine")
        found, wanted = (
            chat.run("Why?", backend=backend, temperature=0) for backend in (runtime, engine)
        )
        assert found.text() == wanted.text()
        tokenizer = runtime.get_tokenizer()
        assert tokenizer.decode(tokenizer.encode("Hello there")) == "Hello there"

        state = begun(endpoint)
        os.kill(engine_of(runtime), signal.SIGKILL)
        with pytest.raises(ProgramError, match="engine ended while it worked on") as caught:
            state["a"]
        assert __file__ in caught.value.location
        wait_healthy(runtime.url)
        assert streamed.run(backend=endpoint, sampling_seed=2)["a"]
        assert endpoint.get_server_info()["num_engine_starts"] == 2

        state = begun(endpoint)
        assert runtime.pid is not None
        os.kill(runtime.pid, signal.SIGKILL)
        with pytest.raises(ProgramError, match=runtime.url):
            state["a"]
        with pytest.raises(ProgramError, match=runtime.url):
            goes_on.run(backend=endpoint)["a"]
        with pytest.raises(BackendError, match=runtime.url):
            endpoint.get_server_info()
    with pytest.raises(BackendError, match=runtime.url):
        RuntimeEndpoint(runtime.url, "key-of-me", connect_timeout=1.0)


def begun(endpoint: RuntimeEndpoint) -> Any:
    state = goes_on.run(backend=endpoint, stream=True)
    next(state.text_iter("a"))
    return state


def engine_of(runtime: Runtime) -> int:
    """The process that a server computes in."""
    for task in Path(f"/proc/{runtime.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if "engine_process" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    raise AssertionError("the server has no engine")


def wait_healthy(url: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while httpx.get(f"{url}/health", timeout=5).status_code != 200:
        assert time.monotonic() < end, "the engine does not come again"
        time.sleep(0.05)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(BackendError, match=r"status \d+; its last lines:[\s\S]*does not exist"):
        Runtime("error", 50.0, "/no/such/model")
