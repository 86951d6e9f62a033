"""The Messages protocol: bodies in, prompts out; samples in, messages and events out.

Every answer and event is read by the official SDK's types, strictly, and must have no field that they lack.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest
from ramet.pocket import model_path
from ramet.server.anthropic_messages import anthropic_error, count_tokens, read_messages
from ramet.server.exchange import Exchange, Failure, Sample
from ramet.server.generation import Refused
from ramet.server.served import ServedModel

TOOL_TEMPLATE = """\
{%- if tools %}<|im_start|>system
<tools>{{ tools | tojson }}</tools> Call with <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif -%}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is false %}<quiet>{% endif %}{% endif -%}
"""
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
ANSWER: TypeAdapter[Message] = TypeAdapter(Message)


def make_model(template: str | None = None) -> ServedModel:
    tokenizer = Tokenizer.load(model_path())
    return ServedModel(
        name="pocket",
        model_path="pocket",
        tokenizer=tokenizer,
        vocab_size=tokenizer.vocab_size,
        max_context=4096,
        template_source=template,
    )


MODEL = make_model()
TOOL_MODEL = make_model(TOOL_TEMPLATE)


def body(*messages: Any, **others: Any) -> dict[str, Any]:
    turns = messages or ({"role": "user", "content": "Hi"},)
    return {"model": "some-model", "max_tokens": 16, "messages": list(turns), **others}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def prompt(exchange: Exchange, model: ServedModel = MODEL) -> str:
    (call,) = exchange.calls
    return model.tokenizer.decode([int(i) for i in call.ids], skip_special_tokens=False)


def sample(text: str, reason: Any = None, cached: int = 0) -> Sample:
    meta = {"prompt_tokens": 12, "completion_tokens": len(text.split()), "cached_tokens": cached}
    return Sample(
        index=0, text=text, meta=meta, finish_reason=reason or {"type": "stop", "matched": 2}
    )


def without_more(found: Any) -> None:
    """No field that the SDK does not know, at any depth."""
    if isinstance(found, BaseModel):
        assert not found.model_extra, (type(found).__name__, found.model_extra)
        for value in dict(found).values():
            without_more(value)
    elif isinstance(found, list):
        for value in found:
            without_more(value)


def strict_answer(exchange: Exchange, last: Sample) -> dict[str, Any]:
    told = json.loads(json.dumps(exchange.answer([last])))
    without_more(ANSWER.validate_python(told, strict=True))
    return told  # type: ignore[no-any-return]


def frames(exchange: Exchange, texts: list[str], last: Sample) -> bytes:
    """The stream of a sample that had these texts on the way."""
    writer = exchange.events()
    found = [*writer.begin()]
    for text in texts:
        found += writer.changed(Sample(index=0, text=text, meta=last.meta))
    return b"".join((*found, *writer.end([last])))


def read_events(stream: bytes) -> Iterator[dict[str, Any]]:
    for frame in stream.decode().split("\n\n")[:-1]:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "error":
            without_more(EVENT.validate_python(event, strict=True))
        yield event


def sdk_message(stream: bytes) -> Message:
    """What the official client makes of a stream."""

    def respond(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    client = anthropic.Anthropic(
        api_key="none",
        base_url="http://server",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(respond)),
    )
    with client.messages.stream(model="m", max_tokens=9, messages=[user("Hi")]) as events:
        return events.get_final_message()


def cut(text: str, places: list[int]) -> list[str]:
    return [text[:place] for place in sorted(min(place, len(text)) for place in places)]


# -- prompts ----------------------------------------------------------------------------------------


def test_conversation_becomes_the_prompt_of_the_template() -> None:
    exchange = read_messages(
        body(user("What is 2+2?"), assistant("4"), user("And 3+3?"), system="Be short."), MODEL
    )
    assert prompt(exchange) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\nAnd 3+3?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_blocks_say_the_same_as_texts_and_cache_marks_change_nothing() -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    blocks = body(
        user([{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?", **mark}]),
        system=[{"type": "text", "text": "Be short.", "citations": None, **mark}],
        **mark,
    )
    texts = body(user("What is 2+2?"), system="Be short.")
    assert read_messages(blocks, MODEL).calls[0].ids == read_messages(texts, MODEL).calls[0].ids


def test_messages_of_one_role_are_one_turn() -> None:
    exchange = read_messages(body(user("One."), user([{"type": "text", "text": "Two."}])), MODEL)
    assert "<|im_start|>user\nOne.\n\nTwo.<|im_end|>\n<|im_start|>assistant\n" in prompt(exchange)


def test_last_assistant_message_is_continued() -> None:
    exchange = read_messages(body(user("Sun in Greek?"), assistant("The answer is (")), MODEL)
    assert prompt(exchange).endswith("<|im_end|>\n<|im_start|>assistant\nThe answer is (")
    told = strict_answer(exchange, sample("B) Helios"))
    assert told["content"] == [{"type": "text", "text": "B) Helios"}]


def test_empty_begun_answer_is_none() -> None:
    begun = read_messages(body(user("Hi"), assistant("")), MODEL)
    assert begun.calls[0].ids == read_messages(body(user("Hi")), MODEL).calls[0].ids


def test_template_is_told_that_no_thoughts_are_wanted() -> None:
    exchange = read_messages(body(thinking={"type": "disabled"}), TOOL_MODEL)
    assert prompt(exchange, TOOL_MODEL).endswith("assistant\n<quiet>")


def test_parameters() -> None:
    exchange = read_messages(
        body(
            temperature=0.5,
            top_p=0.9,
            top_k=7,
            stop_sequences=["\n", "END"],
            stream=True,
            cache_salt="mine",
            metadata={"user_id": "u-1"},
        ),
        MODEL,
    )
    params = exchange.calls[0].params
    assert (params.max_new_tokens, params.temperature, params.top_p, params.top_k) == (
        16,
        0.5,
        0.9,
        7,
    )
    assert params.stop == ("\n", "END")
    assert exchange.stream is True
    assert exchange.cache_salt == "mine"


def test_defaults_and_nulls() -> None:
    nulls = {"temperature": None, "tools": None, "thinking": None, "container": None, "speed": None}
    exchange = read_messages(body(**nulls), MODEL)
    params = exchange.calls[0].params
    assert (params.temperature, params.top_p, params.top_k, params.stop) == (1.0, 1.0, -1, ())
    assert params.constraint is None
    assert exchange.stream is False
    assert exchange.cache_salt == ""
    for no_limit in (0, -1):
        assert read_messages(body(top_k=no_limit), MODEL).calls[0].params.top_k == -1


def test_output_format_is_a_constraint() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"format": {"type": "json_schema", "schema": schema}, "effort": None}
    params = read_messages(body(output_config=form), MODEL).calls[0].params
    assert json.loads(params.json_schema or "") == schema


def test_more_tokens_than_the_context_has_end_where_it_does() -> None:
    exchange = read_messages(body(max_tokens=32_000), MODEL)
    call = exchange.calls[0]
    assert len(call.ids) + call.params.max_new_tokens == MODEL.max_context
    told = strict_answer(exchange, sample("text", {"type": "length", "length": 9}))
    assert told["stop_reason"] == "model_context_window_exceeded"


LONG = "word " * 5000
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": "16"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [user("Hi")] * 4097}, "messages"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [user(None)]}, "messages[0].content"),
    ({"messages": [user(7)]}, "messages[0].content"),
    (
        {"messages": [user("a"), user([{"type": "image", "source": {}}])]},
        "messages[1].content[0].type",
    ),
    ({"messages": [user([{"type": "text"}])]}, "messages[0].content[0].text"),
    ({"messages": [user([{"type": "text", "text": 1}])]}, "messages[0].content[0].text"),
    ({"messages": [user([{"type": "text", "text": "a", "x": 1}])]}, "messages[0].content[0].x"),
    ({"messages": [user([{"type": "tool_use"}])]}, "messages[0].content[0].type"),
    ({"messages": [assistant([{"type": "thinking"}])]}, "messages[0].content[0].type"),
    ({"messages": [{**user("Hi"), "name": "me"}]}, "messages[0].name"),
    ({"messages": [assistant("Hello")]}, "messages"),
    ({"messages": [user(LONG)]}, "messages"),
    ({"messages": [user("\ud800")]}, "messages[0].content"),
    ({"system": 3}, "system"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    (
        {"system": [{"type": "text", "text": "a", "cache_control": {}}]},
        "system[0].cache_control.type",
    ),
    ({"cache_control": {"type": "ephemeral", "ttl": "9h"}}, "cache_control.ttl"),
    ({"model": 3}, "model"),
    ({"model": "m" * 257}, "model"),
    ({"temperature": 1.5}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"stop_sequences": "END"}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["a"] * 33}, "stop_sequences"),
    ({"stop_sequences": ["a" * 1025]}, "stop_sequences"),
    ({"stream": "yes"}, "stream"),
    ({"metadata": "me"}, "metadata"),
    ({"metadata": {"user": "me"}}, "metadata.user"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "thinking.type"),
    ({"thinking": {"type": "disabled", "budget_tokens": 1}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "high"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"container": "c-1"}, "container"),
    ({"mcp_servers": [{}]}, "mcp_servers"),
    ({"n": 2}, "n"),
    ({"tools": [{"name": "weather"}]}, "tools[0].input_schema"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
]


@pytest.mark.parametrize(
    ("change", "field"), REFUSED, ids=[f"{i}-{field}" for i, (_, field) in enumerate(REFUSED)]
)
def test_what_is_wrong_is_refused_by_its_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_messages({**body(), **change}, MODEL)
    assert refused.value.field == field


@pytest.mark.parametrize("others", [{}, {"tools": [WEATHER], "tool_choice": {"type": "any"}}])
def test_what_begins_an_answer_cannot_be_forced_into_another_form(others: dict[str, Any]) -> None:
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    begun = body(user("Hi"), assistant("{"), **others)
    if not others:
        begun["output_config"] = form
    with pytest.raises(InvalidRequest) as refused:
        read_messages(begun, MODEL)
    assert refused.value.field == ("tool_choice" if others else "output_config")


def test_format_and_tools_cannot_be_combined() -> None:
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    with pytest.raises(InvalidRequest, match="tools") as refused:
        read_messages(body(output_config=form, tools=[WEATHER]), MODEL)
    assert refused.value.field == "output_config"
    allowed = body(output_config=form, tools=[WEATHER], tool_choice={"type": "none"})
    assert read_messages(allowed, MODEL).calls[0].params.constraint == "json_schema"


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *body(),
                "system",
                "tools",
                "tool_choice",
                "thinking",
                "metadata",
                "stop_sequences",
                "x",
            ]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["type", "role", "content", "text", "name", "input", "id"]),
                    inner
                    | st.sampled_from(["text", "user", "assistant", "tool_use", "tool_result"]),
                    max_size=4,
                )
            ),
            max_leaves=12,
        ),
    )
)
def test_any_json_is_read_or_refused(change: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        exchange = read_messages({**body(), **change}, MODEL)
        assert exchange.calls[0].params.max_new_tokens > 0


# -- tokens -----------------------------------------------------------------------------------------


def test_count_is_that_of_the_request() -> None:
    asked = body(user("What is 2+2?"), system="Be short.", tools=[WEATHER])
    counted = {key: value for key, value in asked.items() if key != "max_tokens"}
    told = count_tokens(counted, MODEL)
    without_more(TypeAdapter(MessageTokensCount).validate_python(told, strict=True))
    assert told == {"input_tokens": len(read_messages(asked, MODEL).calls[0].ids)}
    with pytest.raises(InvalidRequest) as refused:
        count_tokens(asked, MODEL)
    assert refused.value.field == "max_tokens"


def test_count_has_no_bound_by_the_context() -> None:
    assert count_tokens({"messages": [user(LONG)]}, MODEL)["input_tokens"] > MODEL.max_context


# -- answers ----------------------------------------------------------------------------------------


def test_answer() -> None:
    exchange = read_messages(body(), MODEL)
    told = strict_answer(exchange, sample("Hello there", cached=8))
    assert told.pop("id").startswith("msg_")
    assert told == {
        "type": "message",
        "role": "assistant",
        "model": "some-model",
        "content": [{"type": "text", "text": "Hello there"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 4,
            "cache_read_input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "output_tokens": 2,
        },
    }


@pytest.mark.parametrize(
    ("reason", "stop_reason", "stop_sequence"),
    [
        ({"type": "stop", "matched": 2}, "end_turn", None),
        ({"type": "stop", "matched": None}, "end_turn", None),
        ({"type": "stop", "matched": "END"}, "stop_sequence", "END"),
        ({"type": "length", "length": 16}, "max_tokens", None),
    ],
    ids=["token", "nothing", "text", "length"],
)
def test_stop_reasons(reason: Any, stop_reason: str, stop_sequence: str | None) -> None:
    exchange = read_messages(body(stop_sequences=["END"]), MODEL)
    last = sample("Hello", reason)
    told = strict_answer(exchange, last)
    assert (told["stop_reason"], told["stop_sequence"]) == (stop_reason, stop_sequence)
    streamed = sdk_message(frames(exchange, ["Hel"], last))
    assert (streamed.stop_reason, streamed.stop_sequence) == (stop_reason, stop_sequence)


def test_no_text_is_no_block() -> None:
    exchange = read_messages(body(), MODEL)
    assert strict_answer(exchange, sample(""))["content"] == []
    kinds = [event["type"] for event in read_events(frames(exchange, [""], sample("")))]
    assert kinds == ["message_start", "message_delta", "message_stop"]


def test_events_in_their_order() -> None:
    exchange = read_messages(body(), MODEL)
    events = list(read_events(frames(exchange, ["Hel", "Hello"], sample("Hello you", cached=8))))
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"] == {
        "input_tokens": 4,
        "cache_read_input_tokens": 8,
        "cache_creation_input_tokens": 0,
        "output_tokens": 0,
    }
    assert [event["delta"]["text"] for event in events[2:5]] == ["Hel", "lo", " you"]
    assert events[-2]["usage"]["output_tokens"] == 2


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_stream_of_text_is_the_answer(text: str, places: list[int]) -> None:
    exchange = read_messages(body(), MODEL)
    last = sample(text)
    streamed = sdk_message(frames(exchange, cut(text, places), last))
    assert streamed.to_dict() == strict_answer(exchange, last)


# -- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (499, "api_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors(status: int, kind: str) -> None:
    told = anthropic_error(Failure(status=status, message="because"))
    assert told == {"type": "error", "error": {"type": kind, "message": "because"}}


def test_failure_ends_a_stream_with_an_error() -> None:
    writer = read_messages(body(), MODEL).events()
    stream = b"".join(
        (
            *writer.begin(),
            *writer.changed(sample("Hel")),
            *writer.failed(Failure(status=503, message="x")),
        )
    )
    assert [event["type"] for event in read_events(stream)][-1] == "error"
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        sdk_message(stream)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (499, 499, "aborted by hand"),
        (500, 500, "engine"),
        (None, 500, "engine"),
        (400, 400, "by hand"),
    ],
)
def test_aborted_sample_is_an_error(code: int | None, status: int, words: str) -> None:
    exchange = read_messages(body(), MODEL)
    last = sample("Hel", {"type": "abort", "message": "aborted by hand", "status_code": code})
    with pytest.raises(Refused) as refused:
        exchange.answer([last])
    assert refused.value.failure.status == status
    assert words in refused.value.failure.message
    events = list(read_events(frames(exchange, ["H"], last)))
    assert events[-1]["type"] == "error"
    assert "message_stop" not in [event["type"] for event in events]


# -- tools ------------------------------------------------------------------------------------------

ASKED = body(user("Is it warm in Rome?"), tools=[WEATHER])
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TWO = f"I look.\n{CALL}\n{CALL}"


def blocks_of(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Without ids, which are made anew each time."""
    for block in told["content"]:
        if block["type"] == "tool_use":
            assert block.pop("id").startswith("toolu_")
    return told["content"]  # type: ignore[no-any-return]


def test_tools_go_to_a_template_that_knows_them_and_into_a_system_text_else() -> None:
    known = read_messages(ASKED, TOOL_MODEL)
    assert '<tools>[{"type": "function", "function": {"name": "weather"' in prompt(
        known, TOOL_MODEL
    )
    told = read_messages(ASKED, MODEL)
    assert prompt(told).startswith("<|im_start|>system\n")
    assert '"name": "weather"' in prompt(told)
    for exchange in (known, told):
        assert exchange.calls[0].params.constraint == "structural_tag"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_call_that_must_be_made_is_constrained(choice: dict[str, Any]) -> None:
    exchange = read_messages({**ASKED, "tool_choice": choice}, TOOL_MODEL)
    assert exchange.calls[0].params.constraint == "ebnf"


def test_no_call_may_be_made() -> None:
    exchange = read_messages({**ASKED, "tool_choice": {"type": "none"}}, TOOL_MODEL)
    assert exchange.calls[0].params.constraint is None
    told = strict_answer(exchange, sample(CALL))
    assert (told["content"], told["stop_reason"]) == ([{"type": "text", "text": CALL}], "end_turn")


def test_call_is_a_block() -> None:
    exchange = read_messages(ASKED, TOOL_MODEL)
    told = strict_answer(exchange, sample("I look.\n" + CALL))
    assert told["stop_reason"] == "tool_use"
    assert blocks_of(told) == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "name": "weather", "input": {"city": "Rome"}},
    ]


def test_one_call_where_only_one_can_be_taken() -> None:
    one = {"type": "auto", "disable_parallel_tool_use": True}
    exchange = read_messages({**ASKED, "tool_choice": one}, TOOL_MODEL)
    kinds = [block["type"] for block in strict_answer(exchange, sample(TWO))["content"]]
    assert kinds == ["text", "tool_use"]
    both = strict_answer(read_messages(ASKED, TOOL_MODEL), sample(TWO))["content"]
    assert [block["type"] for block in both] == ["text", "tool_use", "tool_use"]


def test_call_that_breaks_off() -> None:
    exchange = read_messages(ASKED, TOOL_MODEL)
    last = sample(CALL[:-25], {"type": "length", "length": 16})
    told = strict_answer(exchange, last)
    assert told["stop_reason"] == "max_tokens"
    assert blocks_of(told) == [{"type": "tool_use", "name": "weather", "input": {}}]


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ('{"city": "\\ud83d\\ude00"}', {"city": "\U0001f600"}),
        ('{"city": "\\ud83d"}', {"city": "?"}),
        ('{"city": 1e999}', {"city": 1.7976931348623157e308}),
    ],
    ids=["pair", "half", "huge"],
)
def test_arguments_are_json_that_everybody_reads(arguments: str, taken: Any) -> None:
    text = f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>'
    told = strict_answer(read_messages(ASKED, TOOL_MODEL), sample(text))
    json.dumps(told, allow_nan=False, ensure_ascii=False).encode()
    assert blocks_of(told) == [{"type": "tool_use", "name": "weather", "input": taken}]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [TWO, CALL, f"{CALL} and", "<tool_call>no", CALL[:-25], 'x{"name": "weather"', TWO[:30]]
    ),
    st.lists(st.integers(0, 170), max_size=10),
    st.booleans(),
    st.sampled_from([TOOL_MODEL, MODEL]),
)
def test_stream_of_calls_is_the_answer(
    text: str, places: list[int], parallel: bool, model: ServedModel
) -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": not parallel}
    exchange = read_messages({**ASKED, "tool_choice": choice}, model)
    last = sample(text)
    stream = frames(exchange, cut(text, places), last)
    assert [event["type"] for event in read_events(stream)][-1] == "message_stop"
    streamed, told = sdk_message(stream).to_dict(), strict_answer(exchange, last)
    broken = text == CALL[:-25]  # the client reads the beginning of the arguments as far as it goes
    if broken:
        streamed["content"][-1]["input"] = {}  # type: ignore[index]
    assert blocks_of(streamed) == blocks_of(told)
    assert streamed["stop_reason"] == told["stop_reason"]


def tool_history(**result: Any) -> dict[str, Any]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
    answered = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "20 degrees", **result}
    return body(
        user("Is it warm?"),
        assistant([{"type": "text", "text": "I look."}, call]),
        user([answered, {"type": "text", "text": "Be short."}]),
        tools=[WEATHER],
    )


def test_earlier_calls_are_written_by_the_template() -> None:
    assert prompt(read_messages(tool_history(), TOOL_MODEL), TOOL_MODEL).endswith(
        'I look.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\n20 degrees<|im_end|>\n<|im_start|>user\nBe short.<|im_end|>\n"
        "<|im_start|>assistant\n<quiet>"
    )


def test_earlier_calls_are_text_where_the_template_knows_none() -> None:
    written = prompt(read_messages(tool_history(), MODEL))
    assert '{"name": "weather", "arguments": {"city": "Rome"}}' in written
    assert "20 degrees" in written


def test_result_of_a_call_that_failed_says_so() -> None:
    written = prompt(read_messages(tool_history(is_error=True), TOOL_MODEL), TOOL_MODEL)
    assert "<|im_start|>tool\nError: 20 degrees<|im_end|>" in written


def test_result_may_be_blocks_or_nothing() -> None:
    blocks = tool_history(
        content=[{"type": "text", "text": "20 "}, {"type": "text", "text": "degrees"}]
    )
    plain = read_messages(tool_history(), TOOL_MODEL).calls[0].ids
    assert read_messages(blocks, TOOL_MODEL).calls[0].ids == plain
    nothing = prompt(read_messages(tool_history(content=None), TOOL_MODEL), TOOL_MODEL)
    assert "<|im_start|>tool\n<|im_end|>" in nothing


def test_history_of_calls_that_does_not_fit_is_refused() -> None:
    result = "messages[2].content[0]"
    for change, field in [
        ({"tool_use_id": "other"}, f"{result}.tool_use_id"),
        ({"tool_use_id": None}, f"{result}.tool_use_id"),
        ({"content": [{"type": "image"}]}, f"{result}.content[0].type"),
        ({"is_error": "no"}, f"{result}.is_error"),
    ]:
        with pytest.raises(InvalidRequest) as refused:
            read_messages(tool_history(**change), MODEL)
        assert refused.value.field == field
    twice = tool_history()
    twice["messages"] += twice["messages"][1:]
    with pytest.raises(InvalidRequest) as refused:
        read_messages(twice, MODEL)
    assert refused.value.field == "messages[3].content[1].id"
    unanswered = tool_history()
    unanswered["messages"].pop()
    with pytest.raises(InvalidRequest, match="tool_result") as refused:
        read_messages(unanswered, MODEL)
    assert refused.value.field == "messages"
