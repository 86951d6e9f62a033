"""The Responses protocol: bodies in, prompts out; samples in, responses and typed events out.

Every response and event is read by the official SDK's types, strictly, and must have no field that they lack.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest
from ramet.pocket import model_path
from ramet.server.exchange import Exchange, Failure, Sample
from ramet.server.generation import Refused
from ramet.server.openai_responses import read_response
from ramet.server.served import ServedModel

NOW = 1_700_000_000
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
RESPONSE: TypeAdapter[Response] = TypeAdapter(Response)


def make_model() -> ServedModel:
    tokenizer = Tokenizer.load(model_path())
    return ServedModel(
        name="pocket",
        model_path="pocket",
        tokenizer=tokenizer,
        vocab_size=tokenizer.vocab_size,
        max_context=4096,
    )


MODEL = make_model()


def read(**body: Any) -> Exchange:
    return read_response({"model": "some-model", "input": "Hi", **body}, MODEL, lambda: NOW + 0.5)


def prompt(exchange: Exchange) -> str:
    (call,) = exchange.calls
    return MODEL.tokenizer.decode([int(i) for i in call.ids], skip_special_tokens=False)


def sample(text: str, reason: Any = None) -> Sample:
    meta = {"prompt_tokens": 12, "completion_tokens": len(text.split()), "cached_tokens": 8}
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
    without_more(RESPONSE.validate_python(told, strict=True))
    return told  # type: ignore[no-any-return]


def frames(exchange: Exchange, texts: list[str], last: Sample) -> bytes:
    """The stream of a sample that had these texts on the way."""
    writer = exchange.events()
    found = [*writer.begin()]
    for text in texts:
        found += writer.changed(Sample(index=0, text=text, meta=last.meta))
    return b"".join((*found, *writer.end([last])))


def read_events(stream: bytes) -> Iterator[dict[str, Any]]:
    for number, frame in enumerate(stream.decode().split("\n\n")[:-1]):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        known = EVENT.validate_python(event, strict=True)
        assert known.type == event["type"]
        without_more(known)
        yield event


def client_for(content: bytes, kind: str) -> openai.OpenAI:
    def respond(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": kind}, content=content)

    return openai.OpenAI(
        api_key="none",
        base_url="http://server",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(respond)),
    )


def cut(text: str, places: list[int]) -> list[str]:
    return [text[:place] for place in sorted(min(place, len(text)) for place in places)]


# -- prompts ----------------------------------------------------------------------------------------


def test_text_is_a_user_message() -> None:
    assert prompt(read(input="What is 2+2?", instructions="Be short.")) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_items_are_messages() -> None:
    items = [
        {"role": "developer", "content": "Be short."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
        {"role": "assistant", "content": "4"},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "3"}, {"type": "input_text", "text": "+3?"}],
        },
    ]
    assert prompt(read(input=items)) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_output_of_an_earlier_response_is_input() -> None:
    earlier = strict_answer(read(), sample("Hello there"))
    typed = RESPONSE.validate_python(earlier)
    for output in (earlier["output"], [item.model_dump() for item in typed.output]):
        items = [{"role": "user", "content": "Hi"}, *output, {"role": "user", "content": "And?"}]
        assert "<|im_start|>assistant\nHello there<|im_end|>\n" in prompt(read(input=items))


def test_parameters() -> None:
    exchange = read(temperature=1.5, top_p=0.9, max_output_tokens=7, stream=True, cache_salt="mine")
    params = exchange.calls[0].params
    assert (params.temperature, params.top_p, params.max_new_tokens) == (1.5, 0.9, 7)
    assert exchange.stream is True
    assert exchange.cache_salt == "mine"


@pytest.mark.parametrize("wanted", [None, 100_000])
def test_answers_end_where_the_context_does(wanted: int | None) -> None:
    call = read(max_output_tokens=wanted).calls[0]
    assert len(call.ids) + call.params.max_new_tokens == MODEL.max_context


def test_what_asks_for_nothing_is_taken() -> None:
    idle = {
        "store": False,
        "previous_response_id": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": None, "summary": None},
        "include": [],
        "truncation": "disabled",
        "background": False,
        "service_tier": "auto",
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "stream_options": {"include_obfuscation": False},
        "stream": True,
        "moderation": None,
    }
    assert read(**idle).calls[0].ids == read().calls[0].ids
    assert read(**idle).calls[0].params == read().calls[0].params


def test_forms_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {
        "type": "json_schema",
        "name": "thing",
        "schema": schema,
        "strict": True,
        "description": "A thing.",
    }
    exchange = read(text={"format": form})
    assert json.loads(exchange.calls[0].params.json_schema or "") == schema
    assert strict_answer(exchange, sample("{}"))["text"] == {"format": form}
    some_object = read(text={"format": {"type": "json_object"}})
    assert json.loads(some_object.calls[0].params.json_schema or "") == {"type": "object"}
    assert strict_answer(some_object, sample("{}"))["text"] == {"format": {"type": "json_object"}}
    assert read(text={}).calls[0].params.constraint is None


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


FUNCTION = {"type": "function", "name": "f", "parameters": {}, "strict": True}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 7}, "input"),
    ({"input": "word " * 5000}, "input"),
    ({"input": "\ud800"}, "input"),
    ({"input": user("Hi") * 4097}, "input"),
    ({"input": ["Hi"]}, "input[0]"),
    ({"input": [{"content": "Hi"}]}, "input[0].role"),
    ({"input": [{"role": "tool", "content": "Hi"}]}, "input[0].role"),
    ({"input": [*user("Hi"), {"type": "function_call_output", "call_id": "c"}]}, "input[1].type"),
    ({"input": [{"type": "item_reference", "id": "i"}]}, "input[0].type"),
    ({"input": user(None)}, "input[0].content"),
    ({"input": user([{"type": "input_image", "image_url": "x"}])}, "input[0].content[0].type"),
    ({"input": user([{"type": "input_text"}])}, "input[0].content[0].text"),
    ({"input": user([{"type": "input_text", "text": "a", "x": 1}])}, "input[0].content[0].x"),
    (
        {"input": user([{"type": "output_text", "text": "a", "annotations": [{}]}])},
        "input[0].content[0].annotations",
    ),
    ({"input": [{**user("Hi")[0], "name": "me"}]}, "input[0].name"),
    ({"instructions": 3}, "instructions"),
    ({"model": 3}, "model"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 2**31}, "max_output_tokens"),
    ({"max_output_tokens": 1.5}, "max_output_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
    ),
    ({"store": True}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"tools": [FUNCTION]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    ({"reasoning": "high"}, "reasoning"),
    ({"text": {"verbosity": "high"}}, "text.verbosity"),
    ({"text": {"format": {}}}, "text.format.type"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    (
        {"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}},
        "text.format.name",
    ),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "text", "x": 1}}}, "text.format.x"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ({"metadata": {"k" * 65: ""}}, "metadata"),
    ({"metadata": {"k": 1}}, "metadata.k"),
    ({"metadata": {"k": None}}, "metadata.k"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"user": 3}, "user"),
    ({"messages": []}, "messages"),
    ({"max_tokens": 3}, "max_tokens"),
    ({"n": 2}, "n"),
]


@pytest.mark.parametrize(
    ("change", "field"), REFUSED, ids=[f"{i}-{field}" for i, (_, field) in enumerate(REFUSED)]
)
def test_what_is_wrong_is_refused_by_its_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(**change)
    assert refused.value.field == field


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["input", "instructions", "text", "metadata", "tools", "reasoning", "store", "x"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["type", "role", "content", "text", "name", "format", "schema"]
                    ),
                    inner | st.sampled_from(["message", "user", "input_text", "json_schema"]),
                    max_size=4,
                )
            ),
            max_leaves=12,
        ),
    )
)
def test_any_json_is_read_or_refused(change: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        assert read(**change).calls[0].params.max_new_tokens > 0


# -- answers ----------------------------------------------------------------------------------------


def test_answer() -> None:
    exchange = read(instructions="Be short.", metadata={"k": "v"}, user="u-1", max_output_tokens=9)
    told = strict_answer(exchange, sample("Hello there"))
    answer_id = told.pop("id")
    assert answer_id.startswith("resp_")
    assert told == {
        "object": "response",
        "created_at": NOW,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "some-model",
        "instructions": "Be short.",
        "output": [
            {
                "id": answer_id.replace("resp_", "msg_"),
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {
                        "type": "output_text",
                        "text": "Hello there",
                        "annotations": [],
                        "logprobs": [],
                    }
                ],
            }
        ],
        "max_output_tokens": 9,
        "temperature": 1.0,
        "top_p": 1.0,
        "text": {"format": {"type": "text"}},
        "metadata": {"k": "v"},
        "user": "u-1",
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
        "reasoning": {"effort": None, "summary": None},
        "previous_response_id": None,
        "background": False,
        "service_tier": "default",
        "top_logprobs": 0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 12,
            "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 14,
        },
    }


def test_official_client_reads_the_answer() -> None:
    content = json.dumps(read().answer([sample("Hello there")])).encode()
    response = client_for(content, "application/json").responses.create(model="m", input="Hi")
    assert response.output_text == "Hello there"


def test_answer_that_was_cut() -> None:
    last = sample("Hello", {"type": "length", "length": 1})
    told = strict_answer(read(), last)
    assert told["status"] == told["output"][0]["status"] == "incomplete"
    assert told["incomplete_details"] == {"reason": "max_output_tokens"}
    assert list(read_events(frames(read(), [], last)))[-1]["type"] == "response.incomplete"


def test_events_in_their_order() -> None:
    events = list(read_events(frames(read(), ["Hel", "Hello"], sample("Hello you"))))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["delta"] for event in events[4:7]] == ["Hel", "lo", " you"]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    assert events[9]["item"] == events[10]["response"]["output"][0]


def test_empty_text_has_its_message() -> None:
    kinds = [event["type"] for event in read_events(frames(read(), [""], sample("")))]
    assert kinds[2:] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_stream_is_the_answer(text: str, places: list[int]) -> None:
    exchange, last = read(), sample(text)
    stream = frames(exchange, cut(text, places), last)
    events = list(read_events(stream))
    told = strict_answer(exchange, last)
    assert events[-1]["response"] == told
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text
    assert all(deltas)
    with client_for(stream, "text/event-stream").responses.stream(model="m", input="Hi") as found:
        assert found.get_final_response().output_text == text


# -- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_prompt"),
        (413, "invalid_prompt"),
        (429, "rate_limit_exceeded"),
        (500, "server_error"),
        (504, "server_error"),
    ],
)
@pytest.mark.parametrize("text", ["", "Hel"], ids=["early", "late"])
def test_failure_ends_a_stream(status: int, code: str, text: str) -> None:
    writer = read().events()
    failure = Failure(status=status, message="because")
    stream = b"".join((*writer.begin(), *writer.changed(sample(text)), *writer.failed(failure)))
    last = list(read_events(stream))[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": code, "message": "because"}
    assert [item["status"] for item in last["response"]["output"]] == ["incomplete"] * bool(text)


def test_aborted_sample_is_an_error() -> None:
    last = sample("Hel", {"type": "abort", "message": "aborted by hand", "status_code": 499})
    with pytest.raises(Refused, match="by hand") as refused:
        read().answer([last])
    assert refused.value.failure.status == 499
    events = list(read_events(frames(read(), ["H"], last)))
    assert events[-1]["type"] == "response.failed"
    assert "response.completed" not in [event["type"] for event in events]
