"""Speculation, tools and typed results through a vendor's SDK: a server on this machine that says what it is
told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("openai", reason="OpenAI's SDK is not installed")

from tests.backends.scripted_http import Answer, OpenAISays, ScriptedHttp, Seen, of_events, of_json

import ramet as sgl
from ramet.backends.openai import OpenAI

SAYS = OpenAISays()
FORM = "Name: Ada\nBirthday: 1815\nJob: mathematics"


@dataclass
class Pet:
    name: str
    age: int


@pytest.fixture(scope="module")
def http() -> Iterator[ScriptedHttp]:
    server = ScriptedHttp()
    yield server
    server.close()


def fields(s: Any) -> None:
    s += "Name:" + sgl.gen("name", stop="\n") + "\nBirthday:" + sgl.gen("birthday", stop="\n")
    s += "\nJob:" + sgl.gen("job", stop="\n")


def completion(seen: Seen) -> Answer:
    """OpenAI's older protocol, whole or as a stream."""
    text = f"{FORM}\n"[len("Name:") :] if seen.body["prompt"].endswith("Name:") else " wrong"
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
    if not seen.body.get("stream"):
        return of_json({**head, "choices": [choice], "usage": usage})
    pieces = [{**head, "choices": [choice]}, {**head, "choices": [], "usage": usage}]
    return of_events([*pieces, "[DONE]"])


def call(name: str, **arguments: Any) -> str:
    inside = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{inside}\n</tool_call>"


def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


def test_fields_of_a_text_in_one_request(http: ScriptedHttp) -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += "Few shots.\n"
        fields(s)

    http.play(by=completion)
    with OpenAI("gpt-3.5-turbo-instruct", base_url=f"{http.url}/v1", api_key="k") as backend:
        state = program.run(backend=backend)
        assert [state[n] for n in ("name", "birthday", "job")] == [" Ada", " 1815", " mathematics"]
        assert backend.token_usage.prompt_tokens == 100
    assert len(http.requests) == 1
    assert not http.bodies[0].get("stop")
    assert http.bodies[0]["max_tokens"] == 128


def test_fields_of_a_message_in_one_request(http: ScriptedHttp) -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += sgl.user("Who?")
        with s.assistant():
            fields(s)

    http.play(SAYS.answer(FORM))
    with SAYS.make(http.url) as backend:
        state = program.run(backend=backend)
        assert [state[n] for n in ("name", "birthday", "job")] == [" Ada", " 1815", " mathematics"]
        assert state.get_meta_info("job")["speculation"]["calls"] == 0
    assert [m["role"] for m in http.bodies[0]["messages"]] == ["user"]
    assert len(http.requests) == 1


def test_a_message_that_leaves_the_form(http: ScriptedHttp) -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += sgl.user("Who?")
        with s.assistant():
            fields(s)

    http.play(SAYS.answer("Name: Ada\nBorn: 1815"), SAYS.answer(FORM))
    with SAYS.make(http.url) as backend:
        state = program.run(backend=backend)
        assert [state[n] for n in ("name", "birthday", "job")] == [" Ada", " 1815", " mathematics"]
        records = [state.get_meta_info(n)["speculation"] for n in ("name", "birthday", "job")]
        assert [record["calls"] for record in records] == [2, 0, 0]
        assert records[0]["prompt_tokens_paid"] == backend.token_usage.prompt_tokens == 20
    said = http.bodies[1]["messages"]
    assert [m["role"] for m in said] == ["user", "assistant", "user"]
    assert said[2]["content"].endswith("Name:[name]\nBirthday:[birthday]\nJob:[job]")


def test_a_message_that_never_keeps_to_the_form(http: ScriptedHttp) -> None:
    """This API cannot be asked for single fields of a block, and what cannot be done is said."""

    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += sgl.user("Who?")
        with s.assistant():
            fields(s)

    http.play(*[SAYS.answer("Name: Ada\nBorn: 1815")] * 3)
    with SAYS.make(http.url) as backend:
        state = program.run(backend=backend)
        assert state["name"] == " Ada"
        with pytest.raises(sgl.errors.ProgramError, match="going on in an assistant block"):
            _ = state["birthday"]
    assert len(http.requests) == 3


def test_tools_in_messages(http: ScriptedHttp) -> None:
    @sgl.function
    def program(s):
        s += sgl.system(sgl.describe_tools([add])) + sgl.user("2 + 3?")
        s += sgl.use_tools("t", [add], max_rounds=3)

    http.play(
        SAYS.answer(f"So: {call('add', a=2, b='3')}"),
        SAYS.answer(call("add", a=2, b=3)),
        SAYS.answer("5."),
    )
    with SAYS.make(http.url) as backend:
        state = program.run(backend=backend)
        assert (state["t"].values, state["t"].text) == ([5], "5.")
    assert "is not a whole number" in http.bodies[1]["messages"][-1]["content"]
    last = http.bodies[2]["messages"]
    assert [m["role"] for m in last] == ["system", "user", "assistant", "user"]
    assert '{"name": "add", "result": 5}' in last[-1]["content"]


def test_a_required_tool_in_messages(http: ScriptedHttp) -> None:
    @sgl.function
    def program(s):
        s += sgl.user("2 + 3?") + sgl.use_tools("t", [add], tool_choice="required")

    http.play(SAYS.structured({"name": "add", "arguments": {"a": 2, "b": 3}}))
    with SAYS.make(http.url) as backend:
        assert program.run(backend=backend)["t"].values == [5]
    assert http.bodies[0]["response_format"]["type"] == "json_schema"


def test_typed_results_in_messages(http: ScriptedHttp) -> None:
    @sgl.function
    def program(s):
        s += sgl.user("Who?") + sgl.assistant(sgl.gen("pet", type=Pet))
        s += sgl.user("How many?") + sgl.assistant(sgl.gen("count", type=int))

    http.play(SAYS.structured({"name": "R", "age": 3}), SAYS.answer("three"), SAYS.answer("3 dogs"))
    with SAYS.make(http.url) as backend:
        state = program.run(backend=backend)
        assert (state["pet"], state["count"]) == (Pet("R", 3), 3)
        assert len(state.calls) == len(http.requests) == 3, "every request has a record"
    assert http.bodies[0]["response_format"]["type"] == "json_schema"
    assert "whole number" in http.bodies[2]["messages"][-1]["content"]
