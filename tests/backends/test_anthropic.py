"""`ramet.Anthropic`: its protocol as pure functions, and what only it has, through Anthropic's own SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.backends.scripted_http import Answer, AnthropicSays, ScriptedHttp, Seen, of_json

from ramet import assistant, function, gen, select, system, user
from ramet.backends.anthropic import Anthropic, _version
from ramet.backends.anthropic_wire import MAX_MARKS, MessageReader, message_request, read_usage
from ramet.backends.api_limits import Backoff
from ramet.backends.api_records import Failure, Image, Part, Question, Turn, Usage
from ramet.errors import InvalidRequest, ProgramError, Unsupported
from ramet.params import SamplingParams

FAST = Backoff(first=0.001, longest=0.004)
SAYS = AnthropicSays()
MARK = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture(scope="module")
def http() -> Iterator[ScriptedHttp]:
    server = ScriptedHttp()
    yield server
    server.close()


def turn(role: str, *contents: Any) -> Turn:
    return Turn(role, tuple(c if isinstance(c, Part) else Part(c) for c in contents))


def request(*turns: Turn, tool: bool = False, cache: bool = True, **more: Any) -> dict[str, Any]:
    given = {"model": "m", "params": SamplingParams(), "turns": turns, **more}
    return message_request(Question(**given), name="B", tool=tool, cache=cache)


# ---- the protocol, without I/O ------------------------------------------------------------------


def test_a_plain_request() -> None:
    assert request(turn("user", "Hi")) == {
        "model": "m",
        "max_tokens": 128,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


def test_system_texts_come_first_and_neighbours_are_merged() -> None:
    found = request(
        turn("system", "a"),
        turn("system", "b"),
        turn("user", "c"),
        turn("user", "d"),
        turn("assistant", "e"),
        turn("user", "f"),
        cache=False,
    )
    assert found["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert [m["role"] for m in found["messages"]] == ["user", "assistant", "user"]
    assert found["messages"][0]["content"] == [
        {"type": "text", "text": "c"},
        {"type": "text", "text": "d"},
    ]


def test_conversations_that_it_cannot_carry() -> None:
    with pytest.raises(Unsupported, match="system block after other blocks"):
        request(turn("user", "a"), turn("system", "b"))
    with pytest.raises(Unsupported, match="begins with an assistant's"):
        request(turn("assistant", "a"), turn("user", "b"))
    with pytest.raises(Unsupported, match="no user's"):
        request(turn("system", "a"))
    with pytest.raises(InvalidRequest, match="role"):
        request(turn("oracle", "a"))


def test_an_answer_that_has_begun_ends_without_white_space() -> None:
    found = request(turn("user", "a"), turn("assistant", "It is \n"))
    assert found["messages"][-1]["content"] == [{"type": "text", "text": "It is"}]
    found = request(turn("user", "a"), turn("assistant", " \n"))
    assert [m["role"] for m in found["messages"]] == ["user"]


def test_sampling_parameters_are_sent_only_if_they_are_not_the_defaults() -> None:
    params = SamplingParams(temperature=0.0, top_p=0.5, top_k=3)
    found = request(turn("user", "a"), params=params)
    assert found["extra_body"] == {"temperature": 0.0, "top_p": 0.5, "top_k": 3}


def test_images_in_a_request() -> None:
    picture = Image("image/png", "QUJD")
    [message] = request(turn("user", "What?", picture, Image(url="https://x/y")))["messages"]
    assert message["content"][1:] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y"}},
    ]


def test_blocks_of_white_space_are_left_out() -> None:
    found = request(turn("user", "a", " \n", Part("b", mark=True)))
    assert found["messages"][0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", **MARK},
    ]


def test_marks_of_the_prompt_cache() -> None:
    turns = [turn("system", "rules")]
    for i in range(6):
        turns += [turn("user", Part(f"u{i}", mark=True)), turn("assistant", f"a{i}")]
    found = request(*turns, turn("user", "last"))
    assert found["system"] == [{"type": "text", "text": "rules", **MARK}]
    marked = [
        block["text"]
        for message in found["messages"]
        for block in message["content"]
        if "cache_control" in block
    ]
    assert marked == ["u3", "u4", "u5"]
    assert json.dumps(found).count("cache_control") == MAX_MARKS
    assert "cache_control" not in json.dumps(request(*turns, turn("user", "x"), cache=False))


def test_a_schema_goes_by_format_or_by_tool() -> None:
    schema = {"type": "object"}
    found = request(turn("user", "a"), schema=schema)
    assert found["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    for options in ({"tool": True}, {"strict": False}):
        found = request(turn("user", "a"), schema=schema, **options)
        assert found["tools"][0]["input_schema"] == schema
        assert found["tool_choice"]["name"] == found["tools"][0]["name"]
        assert "output_config" not in found


def test_reading_usage() -> None:
    found = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 7}
    found |= {"cache_creation_input_tokens": 11}
    assert read_usage(found) == Usage(prompt=23, cached=7, cache_write=11, completion=2)
    assert read_usage({}) is None


@pytest.mark.parametrize(
    ("reason", "more", "finish"),
    [
        ("end_turn", {}, {"type": "stop"}),
        ("stop_sequence", {"stop_sequence": "."}, {"type": "stop", "matched": "."}),
        ("max_tokens", {}, {"type": "length", "length": 3}),
        ("model_context_window_exceeded", {}, {"type": "length", "length": 3}),
        (
            "refusal",
            {"stop_details": {"category": "cyber"}},
            {"type": "abort", "message": "refusal: cyber"},
        ),
        ("pause_turn", {}, {"type": "abort", "message": "pause_turn"}),
    ],
)
def test_finish_reasons(reason: str, more: dict[str, Any], finish: dict[str, Any]) -> None:
    reader = MessageReader(tool=False, trim=False)
    reader.whole({**SAYS.whole("x", finish=reason), **more})
    assert reader.reply().samples[0].finish == finish


def test_thoughts_are_no_text() -> None:
    reader = MessageReader(tool=False, trim=False)
    value = SAYS.whole("x")
    value["content"].insert(0, {"type": "thinking", "thinking": "hm", "signature": "s"})
    reader.whole(value)
    assert reader.reply().samples[0].text == "x"


def test_reading_a_stream() -> None:
    reader = MessageReader(tool=False, trim=True)
    new = [reader.event(event) for _, event in SAYS.events(" Pa", "ris")]
    assert [text for text in new if text] == ["Pa", "ris"]
    reply = reader.reply()
    assert (reply.samples[0].text, reply.usage) == ("Paris", Usage(10, 4, 0, 3))
    assert (reply.id, reply.model) == ("answer", "claude-haiku-4-5-2025")


def test_a_stream_that_breaks_off_has_told_what_its_prompt_cost() -> None:
    reader = MessageReader(tool=False, trim=False)
    for _, event in SAYS.events("Par", end=False):
        reader.event(event)
    with pytest.raises(Failure, match="broke off"):
        reader.reply()
    assert reader.usage() == Usage(10, 4, 0, 1)
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    with pytest.raises(Failure, match="Overloaded"):
        reader.event(error)


def test_a_tools_input_is_the_text() -> None:
    reader = MessageReader(tool=True, trim=False)
    call = {"type": "tool_use", "id": "t", "name": "answer", "input": {"a": "ü"}}
    reader.whole({**SAYS.whole("Let me see.", finish="tool_use"), "content": [call]})
    assert reader.reply().samples[0].text == '{"a": "ü"}'


# ---- through the SDK ----------------------------------------------------------------------------


@function
def ask(s: Any, **options: Any) -> None:
    s += system("Be short.") + user("Hi?") + assistant(gen("a", **options))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("claude-3-5-sonnet-20241022", (3, 5)),
        ("claude-3-haiku-20240307", (3, 0)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("claude-opus-4-1-20250805", (4, 1)),
        ("claude-haiku-4-5", (4, 5)),
        ("anthropic.claude-opus-4-7-v1", (4, 7)),
        ("claude-opus-5-5", (5, 5)),
        ("claude-sonnet-5", (5, 0)),
        ("somebody-elses", (99, 0)),
    ],
)
def test_generations_by_name(name: str, version: tuple[int, int]) -> None:
    assert _version(name) == version


def test_what_the_generations_can() -> None:
    old, new = (
        Anthropic(name, api_key="k").capabilities
        for name in ("claude-haiku-4-5", "claude-opus-5-5")
    )
    assert old.prefill
    assert "temperature" not in old.refused
    assert not new.prefill
    assert "temperature" in new.refused
    told = Anthropic("claude-opus-5-5", api_key="k", sampling=True, prefill=True).capabilities
    assert told.prefill
    assert "temperature" not in told.refused
    with pytest.raises(InvalidRequest, match="structured"):
        Anthropic("claude-opus-5-5", api_key="k", structured="words")  # type: ignore[arg-type]


def test_the_newest_models_refuse_temperatures(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("Ho"))
    with Anthropic("claude-opus-5-5", api_key="k", base_url=http.url) as backend:
        with pytest.raises(ProgramError, match="temperature=0 is not possible"):
            _ = ask.run(temperature=0, backend=backend)["a"]
        assert http.requests == []
        assert ask.run(backend=backend)["a"] == "Ho"
        assert "temperature" not in http.bodies[0]


def test_an_answer_is_begun_for_the_model(http: ScriptedHttp) -> None:
    @function
    def begun(s: Any) -> None:
        s += user("Hi?") + assistant("Ho " + gen("a"))

    http.play(SAYS.stream(" ho", " ho"))
    with SAYS.make(http.url) as backend:
        state = begun.run(backend=backend, stream=True)
        assert "".join(state.text_iter("a")) == "ho ho"
        assert state.messages()[-1]["content"] == "Ho ho ho"
    assert http.bodies[0]["messages"][-1]["content"] == [{"type": "text", "text": "Ho"}]
    with Anthropic("claude-opus-5-5", api_key="k", base_url=http.url) as backend:
        with pytest.raises(ProgramError, match="first thing in its block"):
            _ = begun.run(backend=backend)["a"]


def test_a_schema_behind_a_begun_answer_is_refused(http: ScriptedHttp) -> None:
    @function
    def begun(s: Any) -> None:
        s += user("Hi?") + assistant("Ho " + gen("a", json_schema={"type": "object"}))

    http.play()
    with SAYS.make(http.url) as backend:
        with pytest.raises(ProgramError, match=r"json_schema=.* always a whole block"):
            _ = begun.run(backend=backend)["a"]
    assert http.requests == []


def test_older_models_answer_by_a_tool(http: ScriptedHttp) -> None:
    def call(value: Any) -> Answer:
        block = {"type": "tool_use", "id": "t", "name": "answer", "input": value}
        return of_json({**SAYS.whole(finish="tool_use"), "content": [block]})

    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    http.play(call({"a": 1}), call({"value": "no"}))
    with SAYS.make(http.url, structured="tool") as backend:
        state = ask.run(json_schema=schema, backend=backend)
        assert state["a"] == '{"a": 1}'
        assert state.get_meta_info("a")["constraint"]["method"] == "tool"

        @function
        def pick(s: Any) -> None:
            s += user("Hi?") + assistant(select("a", choices=["yes", "no"]))

        state = pick.run(backend=backend)
        assert (state["a"], state.get_meta_info("a")["method"]) == ("no", "tool enum")


def test_forks_share_a_marked_prefix(http: ScriptedHttp) -> None:
    @function
    def tips(s: Any) -> None:
        s += system("rules") + user("A long story.") + assistant("Yes?")
        branches = s.fork(3)
        for i, branch in enumerate(branches):
            branch += user(f"Question {i}?") + assistant(gen("tip"))
        branches.join()

    http.play(by=lambda seen: SAYS.answer(SAYS.user_text(seen.body)[-2:]))
    with SAYS.make(http.url) as backend:
        state = tips.run(backend=backend)
        assert state["tip"] == ["0?", "1?", "2?"]
    assert len(http.bodies) == 3
    for body in http.bodies:
        assert body["system"] == [{"type": "text", "text": "rules", **MARK}]
        contents = [message["content"] for message in body["messages"]]
        assert contents[0] == [{"type": "text", "text": "A long story."}]
        assert contents[1] == [{"type": "text", "text": "Yes?", **MARK}]
        assert "cache_control" not in json.dumps(contents[2])


def test_a_fork_in_a_text_without_roles(http: ScriptedHttp) -> None:
    @function
    def tips(s: Any) -> None:
        s += "A long story. "
        branches = s.fork(2)
        for i, branch in enumerate(branches):
            branch += f"Question {i}?" + gen("tip")
        branches.join()

    http.play(SAYS.answer("x"), SAYS.answer("x"))
    with SAYS.make(http.url) as backend:
        assert tips.run(backend=backend)["tip"] == ["x", "x"]
    for body in http.bodies:
        [message] = body["messages"]
        assert message["content"][0] == {"type": "text", "text": "A long story. ", **MARK}
        assert message["content"][1]["text"].startswith("Question")


def test_a_model_that_only_thought_says_so(http: ScriptedHttp) -> None:
    value = SAYS.whole(finish="max_tokens")
    value["content"] = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    http.play(of_json(value))
    with Anthropic("claude-opus-5-5", api_key="k", base_url=http.url) as backend:
        with pytest.raises(ProgramError, match="thought until its 9 tokens"):
            _ = ask.run(max_tokens=9, backend=backend)["a"]
    assert len(http.requests) == 1


def test_white_space_is_no_stop_for_the_api(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("one\n\ntwo"))
    with SAYS.make(http.url) as backend:
        assert ask.run(stop=["\n\n", "X"], backend=backend)["a"] == "one"
    assert http.bodies[0]["stop_sequences"] == ["X"]


def test_what_broke_off_was_paid_for(http: ScriptedHttp) -> None:
    http.play(SAYS.stream(end=False), SAYS.stream("Ho"))
    with SAYS.make(http.url, backoff=FAST) as backend:
        state = ask.run(backend=backend, stream=True)
        assert "".join(state.text_iter("a")) == "Ho"
        spent = state.get_meta_info("a")["spent"]
        assert (spent["prompt_tokens"], spent["completion_tokens"]) == (20, 4)
        assert backend.token_usage.prompt_tokens == 20


def test_samples_are_calls_of_their_own(http: ScriptedHttp) -> None:
    http.play(by=lambda seen: SAYS.answer("x" if isinstance(seen, Seen) else ""))
    with SAYS.make(http.url) as backend:
        state = ask.run(n=2, backend=backend)
        assert state["a"] == ["x", "x"]
        assert sum(m["prompt_tokens"] for m in state.get_meta_info("a")) == 20


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temperature": 1.5}, "above 1"),
        ({"return_logprob": True}, "return_logprob"),
        ({"frequency_penalty": 0.5}, "frequency_penalty=0.5 is not possible"),
        ({"sampling_seed": 7}, "sampling_seed"),
    ],
)
def test_what_it_refuses(http: ScriptedHttp, options: dict[str, Any], match: str) -> None:
    http.play()
    with SAYS.make(http.url) as backend, pytest.raises((ProgramError, Unsupported), match=match):
        _ = ask.run(backend=backend, **options)["a"]
    assert http.requests == []
