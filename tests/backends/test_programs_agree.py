"""Random programs say the same wherever they run: on the engine and on its server, on a script and on servers
of it. With faults on the way, every value is either right or an error of the program's own line.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.native_server import Fault, NativeServer

import ramet as sgl
from ramet import RuntimeEndpoint
from ramet.backend import GenerateCall
from ramet.backends.scripted import Scripted
from ramet.errors import ProgramError

Ops = list[tuple[Any, ...]]
NAMES = st.sampled_from("abc")
REGEXES = {r"[a-f]{2,4}": "abcd", r" (?:yes|no)": " no", r"\d{1,3}": "407"}
CHOICES = ((" yes", " no"), (" one", " two words", " three"), ("\nA", "\nB", "\nC"))


def ops(depth: int) -> st.SearchStrategy[Ops]:
    """Lists of operations: tuples whose first item is the kind."""
    flat = [
        st.tuples(st.just("text"), st.sampled_from(["x", " hello", "é\n", "\n\nQ:", "1. "])),
        st.tuples(
            st.just("gen"),
            st.none() | NAMES,
            st.fixed_dictionaries(
                {"max_tokens": st.integers(0, 5)},
                optional={
                    "n": st.integers(2, 3),
                    "stop": st.sampled_from([" ", ["e", "\n"], "zzz"]),
                    "return_logprob": st.just(True),
                    "ignore_eos": st.just(True),
                },
            ),
        ),
        st.tuples(st.just("regex"), NAMES, st.sampled_from(sorted(REGEXES))),
        st.tuples(st.just("select"), NAMES, st.sampled_from(CHOICES)),
    ]
    if depth == 0:
        return st.lists(st.one_of(flat), max_size=3)
    deep = [
        st.tuples(st.just("scope"), NAMES, ops(depth - 1)),
        st.tuples(st.just("role"), st.sampled_from(["user", "assistant"]), ops(depth - 1)),
        st.tuples(
            st.just("fork"),
            st.lists(ops(depth - 1), min_size=1, max_size=3),
            st.sampled_from([None, "gather_variable", "concate_and_append"]),
        ),
    ]
    return st.lists(st.one_of(flat + deep), max_size=4)


@sgl.function
def perform(s, program):
    s += "Start:"  # with nothing before it, a first token has no log-probability
    say(s, program, None, ())


def say(s: Any, program: Ops, role: str | None, scopes: tuple[str, ...]) -> None:
    for kind, *rest in program:
        if kind == "text":
            s += rest[0]
        elif kind == "gen":
            s += sgl.gen(rest[0], **rest[1])
        elif kind == "regex":
            s += sgl.gen(rest[0], regex=rest[1], max_tokens=8)
        elif kind == "select":
            s += sgl.select(rest[0], rest[1])
        elif kind == "scope" and rest[0] not in scopes:
            with s.var_scope(rest[0]):
                say(s, rest[1], role, (*scopes, rest[0]))
        elif kind == "role" and role is None:
            with getattr(s, rest[0])():
                say(s, rest[1], rest[0], scopes)
        elif kind == "fork":
            branches = s.fork(len(rest[0]))
            for branch, inner in zip(branches, rest[0]):
                say(branch, inner, role, scopes)
            if rest[1] is not None:
                branches.join(rest[1])


def result(backend: Any, program: Ops, **options: Any) -> dict[str, Any]:
    state = perform.run(program, backend=backend, temperature=0, **options)
    assert state.error() is None
    names = [name for name in "abc" if name in state]
    logprobs = [
        json.dumps(meta.get("output_token_logprobs"))
        for name in names
        if isinstance(meta := state.get_meta_info(name), dict)
    ]
    values = {name: state[name] for name in names}
    text = "".join(state.text_iter())
    return {"text": text, "messages": state.messages(), "values": values, "logprobs": logprobs}


def answer(call: GenerateCall) -> str:
    if call.params.regex is not None:
        return REGEXES[call.params.regex]
    number = zlib.crc32(call.prompt.text().encode())
    return f" answer {number % 1000}e and {number % 77}\nmore"


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with sgl.Engine("pocket", num_threads=1) as running:
        yield running


@pytest.fixture(scope="module")
def places(engine: Any) -> Iterator[dict[str, Any]]:
    with (
        NativeServer(engine.endpoint) as near,
        NativeServer(Scripted(answer)) as ramet,
        NativeServer(Scripted(answer), "sglang") as sglang,
    ):
        yield {
            "engine": engine,
            "engine's server": RuntimeEndpoint(near.url),
            "ramet": RuntimeEndpoint(ramet.url),
            "sglang": RuntimeEndpoint(sglang.url),
        }


@settings(max_examples=100)
@given(program=ops(2), stream=st.booleans())
def test_on_the_engine_and_on_its_server(places: Any, program: Ops, stream: bool) -> None:
    wanted = result(places["engine"], program)
    assert result(places["engine's server"], program, stream=stream) == wanted


@settings(max_examples=200)
@given(program=ops(3), stream=st.booleans())
def test_on_a_script_and_on_its_servers(places: Any, program: Ops, stream: bool) -> None:
    wanted = result(Scripted(answer), program)
    for name in ("ramet", "sglang"):
        assert result(places[name], program, stream=stream) == wanted


# With faults on the way

KINDS = ("close", "stall", "garbage", "status", "halfway", "end")


@settings(max_examples=60)
@given(
    program=ops(2), seed=st.integers(0, 2**32), share=st.sampled_from([0.1, 0.5]), data=st.data()
)
def test_a_value_is_right_or_an_error_of_the_programs_line(
    program: Ops, seed: int, share: float, data: st.DataObject
) -> None:
    stream, style = data.draw(st.booleans()), data.draw(st.sampled_from(["ramet", "sglang"]))
    wanted = result(Scripted(answer), program)
    with NativeServer(Scripted(answer), style, faults=trouble(seed, share)) as server:
        endpoint = RuntimeEndpoint(server.url, timeout=0.1, retries=1)
        try:
            state = perform.run(program, backend=endpoint, temperature=0, stream=stream)
            error = state.error()
        except ProgramError as raised:  # at a join
            state, error = None, raised
        if error is not None:
            file, _, line = error.location.rpartition(":")
            assert file == __file__
            assert int(line) > 0
        elif state is not None:
            assert {name: state[name] for name in wanted["values"]} == wanted["values"]
            assert state.text() == wanted["text"]
        if state is not None:
            for name in wanted["values"]:
                try_to_read(state, name)
        endpoint.shutdown()


def try_to_read(state: Any, name: str) -> None:
    """What came before the trouble is there; the rest says what happened."""
    said = "failed at"
    try:
        assert state[name] is not None
    except ProgramError as error:
        said = str(error)
    assert "failed at" in said


def trouble(seed: int, share: float) -> Callable[[str, int], Fault | None]:
    def fault(path: str, number: int) -> Fault | None:
        chance = random.Random(f"{seed}/{path}/{number}")
        if path in ("/get_model_info", "/get_server_info") or chance.random() > share:
            return None
        return Fault(chance.choice(KINDS), after=chance.randrange(3))

    return fault
