"""Chat completions as pure functions: bodies that are read or refused, answers and streams that agree."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.server.openai_streams import (
    chunks,
    put_together,
    run_stream,
    run_whole,
    scripted,
    served,
    tokenizer,
)

from ramet.errors import InvalidRequest
from ramet.server.exchange import Failure
from ramet.server.openai_answers import error_body, model_list, model_object
from ramet.server.openai_chat import DEFAULT_MAX_TOKENS, read_chat
from ramet.server.served import ServedModel

STOP: dict[str, Any] = {"type": "stop", "matched": 2}
LENGTH: dict[str, Any] = {"type": "length", "length": 9}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
# Like Qwen's: calls, results, thoughts and a switch.
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "Write <tool_call>\n<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
    "{{ reasoning_effort or '' }}"
)


def body(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}], **changes}


def prompt(request: dict[str, Any], model: ServedModel | None = None) -> str:
    exchange = read_chat(request, model or served())
    return tokenizer().decode(list(exchange.call.ids), skip_special_tokens=False)


def ids(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def end(text: str) -> tuple[list[int], dict[str, Any]]:
    return [*ids(text), 2], STOP


def refused(request: Any, model: ServedModel | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_chat(request, model or served())
    return caught.value


# -- what is read -----------------------------------------------------------------------------------


def test_a_plain_chat_is_the_template_and_the_protocols_defaults() -> None:
    exchange = read_chat(body(), served())
    assert prompt(body()) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    params = exchange.call.params
    assert (params.temperature, params.top_p, params.n, params.stop) == (1.0, 1.0, 1, ())
    assert params.max_new_tokens == 4096 - len(exchange.call.ids)
    assert exchange.asked.model == "pocket"
    assert not exchange.stream
    assert exchange.cache_salt == ""


def test_without_max_tokens_a_long_context_is_not_filled() -> None:
    params = read_chat(body(), served(max_context=10**6)).call.params
    assert params.max_new_tokens == DEFAULT_MAX_TOKENS


def test_a_prompt_that_fills_the_context_still_asks_for_a_token() -> None:
    """The engine says what is wrong with it."""
    assert read_chat(body(), served(max_context=2)).call.params.max_new_tokens == 1


def test_every_sampling_field_arrives() -> None:
    request = body(
        max_completion_tokens=7,
        n=3,
        stop=["a", "b"],
        seed=-1,
        temperature=0,
        top_p=0.5,
        top_k=4,
        min_p=0.1,
        min_tokens=2,
        frequency_penalty=1,
        presence_penalty=-1.5,
        repetition_penalty=1.1,
        logit_bias={"5": -100, "6": 1.5},
        stop_token_ids=[7],
        stop_regex="x+",
        ignore_eos=True,
        no_stop_trim=True,
        skip_special_tokens=False,
        logprobs=True,
        top_logprobs=2,
        rid="mine",
        cache_salt="salt",
        regex="[a-z]+",
    )
    exchange = read_chat(request, served())
    found = exchange.call.params.to_dict()
    assert found == {
        **found,
        "max_new_tokens": 7,
        "n": 3,
        "stop": ("a", "b"),
        "sampling_seed": 2**64 - 1,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 4,
        "min_p": 0.1,
        "min_new_tokens": 2,
        "frequency_penalty": 1.0,
        "presence_penalty": -1.5,
        "repetition_penalty": 1.1,
        "logit_bias": ((5, -100.0), (6, 1.5)),
        "stop_token_ids": (7,),
        "stop_regex": ("x+",),
        "ignore_eos": True,
        "no_stop_trim": True,
        "skip_special_tokens": False,
        "regex": "[a-z]+",
    }
    assert exchange.call.logprobs.output
    assert exchange.call.logprobs.top == 2
    assert exchange.call.rid == "mine"
    assert exchange.asked.id == "chatcmpl-mine"
    assert exchange.cache_salt == "salt"


def test_nulls_and_names_without_effect_change_nothing() -> None:
    idle = body(
        user="me",
        metadata={"a": "b"},
        safety_identifier="x",
        prompt_cache_key="y",
        store=False,
        service_tier="auto",
        modalities=["text"],
        lora_path=None,
        stop=None,
        tools=None,
        tool_choice=None,
        logit_bias=None,
        response_format={"type": "text"},
        functions=None,
    )
    left, right = read_chat(idle, served()).call, read_chat(body(), served()).call
    assert (left.ids, left.params) == (right.ids, right.params)


@pytest.mark.parametrize(
    ("format_", "field", "source"),
    [
        ({"type": "json_object"}, "json_schema", {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}},
            "json_schema",
            {"type": "array"},
        ),
        (
            {"type": "structural_tag", "triggers": ["<"], "structures": []},
            "structural_tag",
            {"type": "structural_tag", "triggers": ["<"], "structures": []},
        ),
    ],
)
def test_a_response_format_is_a_constraint(format_: Any, field: str, source: Any) -> None:
    params = read_chat(body(response_format=format_), served()).call.params
    assert params.constraint == field
    assert json.loads(getattr(params, field)) == source


def test_a_schema_may_be_an_object_or_its_text() -> None:
    for value in ({"type": "null"}, '{"type": "null"}'):
        params = read_chat(body(json_schema=value), served()).call.params
        assert json.loads(params.json_schema or "") == {"type": "null"}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [1]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0]",
    ),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    (
        {"messages": [{"role": "user", "content": "", "tool_calls": [{}]}]},
        "messages[0].tool_calls",
    ),
    ({"max_tokens": 16.0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**400}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
    ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"temperature": "warm"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": 0}, "top_k"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"seed": 2**64}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ["a"] * 33}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop": "x" * 2000}, "stop"),
    ({"stop_token_ids": [2048]}, "stop_token_ids"),
    ({"stop_token_ids": 5}, "stop_token_ids"),
    ({"logit_bias": {"2048": 1}}, "logit_bias"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": [[5, 1]]}, "logit_bias"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": "json_object"}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        "response_format.json_schema.schema",
    ),
    ({"regex": "a", "ebnf": "b"}, "ebnf"),
    ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
    ({"tools": [WEATHER], "regex": "a"}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"functions": [{}]}, "functions"),
    ({"store": True}, "store"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"model": 5}, "model"),
    ({"model": "\ud800"}, "model"),
    ({"rid": ""}, "rid"),
    ({"cache_salt": "x" * 257}, "cache_salt"),
    ({"user": 5}, "user"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"add_generation_prompt": True}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"eos_token": "x"}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"__class__": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"a": "x" * 20_000}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"reasoning_effort": "enormous"}, "reasoning_effort"),
    (
        {"continue_final_message": True, "add_generation_prompt": True},
        "add_generation_prompt",
    ),
    ({"continue_final_message": True}, "messages[0].role"),
    ({"echo": True}, "echo"),
    ({"lora_path": "x"}, "lora_path"),
    ({"\ud800": 1}, "\\ud800"),
    ({"stop": "\ud800"}, "stop"),
    ({"json_schema": {"enum": ["\ud800"]}}, "json_schema"),
    ({"chat_template_kwargs": {"a": "\ud800"}}, "chat_template_kwargs"),
]


@pytest.mark.parametrize(("changes", "field"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    error = refused(body(**changes))
    assert error.field == field
    assert str(error).startswith(f"{field}: ")
    assert len(str(error)) < 700


def test_a_body_that_is_no_object_is_refused() -> None:
    assert refused([1]).field == "body"


def test_deep_values_are_refused_and_not_a_crash() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for changes in (
        {"json_schema": {"a": deep}},
        {"chat_template_kwargs": {"a": deep}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"a": deep}},
            }
        },
        {"logit_bias": deep},
        {"stop": deep},
        {"anything": deep},
        {"messages": [{"role": "user", "content": deep}]},
        {"messages": deep},
        {"tools": deep},
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"a": deep}}}]},
        {"tools": [WEATHER], "tool_choice": deep},
        {"store": deep},
        {"stream": True, "stream_options": deep},
    ):
        refused(body(**changes))
    while deep:  # so that Python, too, can let go of it
        deep = deep[0]


# -- messages ---------------------------------------------------------------------------------------


def test_parts_are_joined_and_a_developer_is_the_system() -> None:
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}],
        },
        {"role": "user", "name": "ada", "content": "hi"},
        {"role": "assistant", "content": None, "refusal": "no", "annotations": []},
    ]
    assert prompt(body(messages=messages)) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nno<|im_end|>\n<|im_start|>assistant\n"
    )


def test_names_and_thoughts_reach_the_template() -> None:
    template = (
        "{% for m in messages %}{{ m.name }}|{{ m.reasoning_content }}|{{ m.content }};{% endfor %}"
    )
    messages = [
        {"role": "user", "name": "ada", "content": "hi"},
        {"role": "assistant", "reasoning_content": "hm", "content": "ho"},
    ]
    assert prompt(body(messages=messages), served(template_source=template)) == "ada||hi;|hm|ho;"


CALLED = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"place": "Ölü"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]


def test_calls_and_results_reach_a_template_that_knows_them() -> None:
    text = prompt(body(messages=CALLED), served(template_source=TOOLS_TEMPLATE))
    assert '{"name": "weather", "arguments": {"place": "Ölü"}}' in text
    assert "<|im_start|>tool\nrain<|im_end|>" in text


def test_calls_and_results_are_text_for_a_template_that_does_not() -> None:
    text = prompt(body(messages=CALLED))
    assert '{"name": "weather", "arguments": {"place": "Ölü"}}' in text
    assert "rain" in text
    assert "<|im_start|>tool" not in text


def test_variables_reach_the_template() -> None:
    model = served(template_source=TOOLS_TEMPLATE)
    request = body(chat_template_kwargs={"enable_thinking": True}, reasoning_effort="low")
    assert prompt(request, model).endswith("<|im_start|>assistant\n<think>\nlow")


def test_tools_reach_the_template_or_the_system_text() -> None:
    told = prompt(body(tools=[WEATHER]), served(template_source=TOOLS_TEMPLATE))
    assert "The weather of a place." in told
    instructed = prompt(
        body(
            tools=[WEATHER],
            messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        )
    )
    assert instructed.startswith("<|im_start|>system\nBe kind.\n\n")
    assert "The weather of a place." in instructed
    assert "weather" not in prompt(body(tools=[WEATHER], tool_choice="none", regex="a"))


def test_a_message_is_continued_where_it_ends() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "It is  "},
    ]
    text = prompt(body(messages=messages, continue_final_message=True))
    assert text.endswith("<|im_start|>assistant\nIt is  ")
    closed = prompt(body(messages=messages, add_generation_prompt=False))
    assert closed.endswith("It is  <|im_end|>\n")


def test_a_template_that_hides_the_message_is_said() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}]
    model = served(template_source="nothing")
    assert refused(body(messages=messages, continue_final_message=True), model).field == (
        "continue_final_message"
    )


def test_a_model_without_a_template_says_so() -> None:
    bare = SimpleNamespace(chat_template=None, special_texts={}, special_texts_by_id={})
    assert refused(body(), served(tokenizer=bare)).field == "messages"


# -- answers ----------------------------------------------------------------------------------------


def strict_answer(answer: dict[str, Any]) -> ChatCompletion:
    return ChatCompletion.model_validate_json(json.dumps(answer), strict=True)


def test_an_answer_is_openais() -> None:
    exchange = read_chat(body(model="mine", logprobs=True, top_logprobs=2), served())
    answer = run_whole(exchange, [end("Grüße 🎈")])
    found = strict_answer(answer)
    choice = found.choices[0]
    assert found.id.startswith("chatcmpl-")
    assert found.model == "mine"
    assert choice.message.content == "Grüße 🎈"
    assert choice.finish_reason == "stop"
    assert answer["choices"][0]["matched_stop"] == 2
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    entries = choice.logprobs.content
    assert b"".join(bytes(e.bytes or []) for e in entries) == "Grüße 🎈<|im_end|>".encode()
    assert all(len(e.top_logprobs) == 2 for e in entries)
    assert answer["usage"] == {
        "prompt_tokens": len(exchange.call.ids),
        "completion_tokens": len(entries),
        "total_tokens": len(exchange.call.ids) + len(entries),
        "prompt_tokens_details": {"cached_tokens": 3},
    }


def test_usage_counts_a_prompt_once_and_what_any_sample_computed() -> None:
    exchange = read_chat(body(n=2), served())
    size = len(exchange.call.ids)
    scripts = scripted(exchange, [end("a"), end("b b")])
    for script in scripts:
        while script.left:
            script.step()
    samples = [script.sample for script in scripts]
    samples[0].meta["cached_tokens"], samples[1].meta["cached_tokens"] = 4, size
    used = exchange.answer(samples)["usage"]
    assert used["prompt_tokens"] == size
    assert used["prompt_tokens_details"]["cached_tokens"] == 4
    assert used["completion_tokens"] == sum(len(s.output_ids) for s in samples)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ({"type": "stop", "matched": "\n"}, "stop"),
        ({"type": "stop", "matched": None}, "stop"),
        ({"type": "length", "length": 3}, "length"),
        ({"type": "abort", "message": "aborted", "status_code": 499}, "abort"),
    ],
)
def test_the_reason_of_an_end(reason: dict[str, Any], told: str) -> None:
    exchange = read_chat(body(stream=True), served())
    choice = run_whole(exchange, [(ids("a b"), reason)])["choices"][0]
    assert choice["finish_reason"] == told
    assert choice["matched_stop"] == reason.get("matched")
    assert choice["message"]["content"] == "a b"
    last = run_stream(exchange, [(ids("a b"), reason)], seed=1)[-1]["choices"][0]
    assert last["finish_reason"] == told


def test_token_ids_are_told_if_asked_for() -> None:
    exchange = read_chat(body(return_token_ids=True), served())
    answer = run_whole(exchange, [end("yes")])
    assert answer["prompt_token_ids"] == exchange.call.ids
    assert answer["choices"][0]["token_ids"] == [*ids("yes"), 2]


# -- streams ----------------------------------------------------------------------------------------

TEXTS = st.lists(
    st.sampled_from([*"ab\n <>{}é漢🎈", "the ", " and", "<think>", "</think>", "\u200d", "é"]),
    max_size=24,
).map("".join)
ENDS = st.sampled_from([STOP, LENGTH, {"type": "stop", "matched": None}])


def same(request: dict[str, Any], outputs: Any, seed: int, model: ServedModel | None = None) -> Any:
    """Check that the stream's deltas make the whole answer; returns that."""
    exchange = read_chat({**request, "stream": True}, model or served())
    whole = run_whole(exchange, outputs)
    pieces = run_stream(exchange, outputs, seed)
    told = put_together(pieces)
    for choice, found in zip(told["choices"], whole["choices"], strict=True):
        delta, message = choice.pop("delta"), dict(found.pop("message"))
        assert message.pop("refusal") is None
        if "tool_calls" in message:
            delta["content"] = delta["content"] or None  # the first chunk's is ""
        assert delta == message
        assert choice == found
    return exchange, whole, pieces


@settings(max_examples=40)
@given(texts=st.lists(st.tuples(TEXTS, ENDS), min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_a_streams_deltas_are_the_answer(texts: list[tuple[str, Any]], seed: int) -> None:
    outputs = [(ids(text) + ([2] if why is STOP else []), why) for text, why in texts]
    request = body(
        n=len(texts), logprobs=True, top_logprobs=1, return_token_ids=True, stop=["the a"]
    )
    same(request, outputs, seed)


@settings(max_examples=60)
@given(
    tail=TEXTS,
    start=st.sampled_from(["<think>\n so \n</think>\n\n", "<think>", "", "\n<think> a"]),
    thinking=st.booleans(),
    at_once=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_thoughts_are_told_apart_however_they_are_cut(
    tail: str, start: str, thinking: bool, at_once: bool, seed: int
) -> None:
    request = body(
        separate_reasoning=True,
        stream_reasoning=not at_once,
        chat_template_kwargs={"enable_thinking": thinking},
    )
    same(request, [end(start + tail)], seed, served(template_source=TOOLS_TEMPLATE))


def test_thoughts_and_answer() -> None:
    request = body(separate_reasoning=True)
    same(request, [end("<think>\nhm, so\n</think>\n\nyes")], 0)
    exchange = read_chat(request, served())
    message = run_whole(exchange, [end("<think>\nhm, so\n</think>\n\nyes")])["choices"][0][
        "message"
    ]
    assert (message["reasoning_content"], message["content"]) == ("hm, so", "yes")
    assert run_whole(read_chat(body(), served()), [end("<think>a</think>b")])["choices"][0][
        "message"
    ]["content"] == ("<think>a</think>b")


def test_held_back_thoughts_come_in_one_piece() -> None:
    request = body(separate_reasoning=True, stream_reasoning=False)
    _, _, pieces = same(request, [end("<think> a b c d e f </think> yes")], 3)
    thoughts = [
        c["delta"]["reasoning_content"]
        for piece in pieces
        for c in piece["choices"]
        if "reasoning_content" in c["delta"]
    ]
    assert thoughts == ["a b c d e f"]


@pytest.mark.parametrize(
    ("changes", "text", "name"),
    [
        ({"separate_reasoning": True}, "<think>a b</thin", "reasoning_content"),
        ({"separate_reasoning": True}, "<thi", "content"),
        ({"tools": [WEATHER]}, "a <tool_", "content"),
    ],
)
def test_what_was_held_back_comes_at_the_end(changes: dict[str, Any], text: str, name: str) -> None:
    _, whole, _ = same(body(**changes), [(ids(text), LENGTH)], 0)
    assert whole["choices"][0]["finish_reason"] == "length"
    answer = run_whole(read_chat(body(**changes), served()), [(ids(text), LENGTH)])
    assert answer["choices"][0]["message"][name] == text.removeprefix("<think>")


def call_text(**arguments: Any) -> str:
    written = json.dumps({"name": "weather", "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"


@settings(max_examples=40)
@given(
    before=st.sampled_from(["", "I look. ", "<tool", "a < b "]),
    places=st.lists(
        st.sampled_from(["Rom", "Ölü 🎈", '"', "}</tool_call>"]), min_size=1, max_size=3
    ),
    cut=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_calls_of_tools_are_the_same_in_streams(
    before: str, places: list[str], cut: int, seed: int
) -> None:
    text = before + "\n".join(call_text(place=place) for place in places)
    outputs = [end(text), (ids(text[: len(text) - cut]), LENGTH)]
    _, whole, pieces = same(body(n=2, tools=[WEATHER], logprobs=True), outputs, seed)
    # the SDK's own reader of streams agrees
    state = ChatCompletionStreamState()
    for piece in pieces:
        state.handle_chunk(ChatCompletionChunk.model_validate(piece))
    read = state.current_completion_snapshot.choices[0]
    calls = read.message.tool_calls or []
    assert [json.loads(c.function.arguments)["place"] for c in calls] == places
    assert read.finish_reason == "tool_calls"
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["choices"][1]["finish_reason"] == "length"


def test_an_answer_with_calls_is_openais() -> None:
    exchange = read_chat(body(tools=[WEATHER], tool_choice="required"), served())
    assert exchange.call.params.constraint is not None
    answer = run_whole(exchange, [end(call_text(place="Rom"))])
    message = strict_answer(answer).choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"place": "Rom"},
    )
    assert call.id.startswith("call_")
    # it can be sent back as it is
    again = [*body()["messages"], answer["choices"][0]["message"]]
    again.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
    assert "Rom" in prompt(body(messages=again))


def test_chunks_are_openais() -> None:
    exchange = read_chat(
        body(n=2, stream=True, stream_options={"include_usage": True}, logprobs=True), served()
    )
    pieces = run_stream(exchange, [end("one two"), end("drei")], seed=5)
    for piece in pieces:
        ChatCompletionChunk.model_validate_json(json.dumps(piece), strict=True)
    for index in (0, 1):
        choice = pieces[index]["choices"][0]
        assert choice["index"] == index
        assert choice["delta"] == {"role": "assistant", "content": ""}
    assert pieces[-1]["choices"] == []
    assert pieces[-1]["usage"] == run_whole(exchange, [end("one two"), end("drei")])["usage"]
    assert all(piece["usage"] is None for piece in pieces[:-1])
    assert all(len(piece["choices"]) == 1 for piece in pieces[:-1])


def test_usage_is_told_only_if_asked_for() -> None:
    plain = run_stream(read_chat(body(stream=True), served()), [end("one two")], seed=5)
    assert not any("usage" in piece for piece in plain)
    options = {"continuous_usage_stats": True}
    request = body(stream=True, stream_options=options)
    running = run_stream(read_chat(request, served()), [end("one two three")], seed=5, told=1)
    counts = [piece["usage"]["completion_tokens"] for piece in running]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == len(end("one two three")[0])
    assert all(piece["choices"] for piece in running)


def test_the_end_of_a_choice_is_told_when_it_is_known() -> None:
    exchange = read_chat(body(n=2, stream=True), served())
    first, second = scripted(exchange, [end("a"), end("b")])
    writer = exchange.events()
    list(writer.begin())
    while first.left:
        first.step()
    frames = [json.loads(frame[6:]) for frame in writer.changed(first.sample)]
    assert frames[-1]["choices"][0]["finish_reason"] == "stop"
    assert list(writer.changed(first.sample)) == []
    while second.left:
        second.step()
    rest = list(chunks(writer.end([first.sample, second.sample])))
    assert {choice["index"] for piece in rest for choice in piece["choices"]} == {1}


def test_a_stream_that_fails_says_so_and_ends() -> None:
    writer = read_chat(body(stream=True), served()).events()
    list(writer.begin())
    (told,) = chunks(writer.failed(Failure(status=503, message="gone; try again")))
    assert told == error_body(Failure(status=503, message="gone; try again"))


def test_random_turns_find_every_order() -> None:
    """The scripts above do interleave: otherwise the properties would say less than they seem to."""
    exchange = read_chat(body(n=2, stream=True), served())
    outputs = [end("one two three four"), end("five six seven eight")]
    orders = {
        tuple(c["index"] for piece in run_stream(exchange, outputs, seed) for c in piece["choices"])
        for seed in range(20)
    }
    assert len(orders) > 5


# -- models and errors ------------------------------------------------------------------------------


def test_models() -> None:
    listed = model_list(served())
    assert listed["object"] == "list"
    assert listed["data"] == [model_object(served(), "pocket")]
    entry = listed["data"][0]
    assert (entry["id"], entry["object"], entry["created"]) == ("pocket", "model", 1_700_000_000)
    assert (entry["max_model_len"], entry["owned_by"]) == (4096, "ramet")
    missing = model_object(served(), "gpt-9")
    assert isinstance(missing, Failure)
    assert error_body(missing)["error"]["code"] == "model_not_found"
    assert missing.status == 404


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "service_unavailable_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_have_openais_form(status: int, kind: str) -> None:
    found = error_body(Failure(status=status, message="m", field="f", code="c"))
    assert found == {"error": {"message": "m", "type": kind, "param": "f", "code": "c"}}
