"""Completions as pure functions: bodies that are read or refused, answers and streams that agree, and both
OpenAI protocols on the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion
from tests.server.openai_streams import (
    chunks,
    put_together,
    run_stream,
    run_whole,
    score,
    served,
    tokenizer,
)

from ramet.errors import InvalidRequest
from ramet.server.exchange import Exchange, Sample
from ramet.server.openai_answers import FINGERPRINT
from ramet.server.openai_chat import read_chat
from ramet.server.openai_completions import read_completion
from ramet.server.openai_logprobs import PromptTokens
from ramet.server.served import ServedModel

STOP: dict[str, Any] = {"type": "stop", "matched": 2}
LENGTH: dict[str, Any] = {"type": "length", "length": 9}


def ids(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def end(text: str) -> tuple[list[int], dict[str, Any]]:
    return [*ids(text), 2], STOP


def refused(request: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_completion(request, served())
    return caught.value


# -- what is read -----------------------------------------------------------------------------------


def test_defaults() -> None:
    exchange = read_completion({"prompt": "Once"}, served())
    (call,) = exchange.calls
    assert call.ids == ids("Once")
    assert (call.params.max_new_tokens, call.params.n, call.params.temperature) == (16, 1, 1.0)
    assert exchange.asked.id.startswith("cmpl-")
    assert exchange.asked.model == "pocket"
    assert not call.logprobs.output


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a b", [ids("a b")]),
        (["a", "b"], [ids("a"), ids("b")]),
        ([5, 6], [[5, 6]]),
        ([[5], [6, 7]], [[5], [6, 7]]),
        (["a", [6]], [ids("a"), [6]]),
    ],
)
def test_prompts_of_every_form(value: Any, expected: list[list[int]]) -> None:
    calls = read_completion({"prompt": value}, served()).calls
    assert [list(call.ids) for call in calls] == expected


def test_echo_with_logprobs_scores_the_prompt() -> None:
    plain = read_completion({"prompt": "a", "logprobs": 3}, served()).calls[0].logprobs
    assert (plain.output, plain.prompt_start, plain.top) == (True, None, 3)
    echoed = read_completion({"prompt": "a", "logprobs": 0, "echo": True}, served()).calls[0]
    assert (echoed.logprobs.output, echoed.logprobs.prompt_start) == (True, 0)
    alone = read_completion({"prompt": "a", "echo": True, "max_tokens": 0}, served()).calls[0]
    assert alone.params.max_new_tokens == 0


def test_names_of_requests() -> None:
    def rids(**request: Any) -> list[str | None]:
        return [call.rid for call in read_completion(request, served()).calls]

    assert rids(prompt=["a", "b"]) == [None, None]
    assert rids(prompt="a", rid="x") == ["x"]
    assert rids(prompt=["a", "b"], rid="x") == ["x_0", "x_1"]
    assert rids(prompt=["a", "b"], rid=["x", "y"]) == ["x", "y"]
    assert read_completion({"prompt": "a", "rid": "x"}, served()).asked.id == "cmpl-x"


def test_fields_without_effect() -> None:
    idle = {"prompt": "a", "best_of": 4, "suffix": "", "user": "me", "lora_path": None}
    left, right = (read_completion(r, served()).calls for r in (idle, {"prompt": "a"}))
    assert left == right


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a"] * 257}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt[1]"),
    ({"prompt": ["a", None]}, "prompt[1]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [2048]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1.0]}, "prompt[0]"),
    ({"prompt": [5, 10**400]}, "prompt"),
    ({"prompt": ["a", "\ud800"]}, "prompt[1]"),
    ({"prompt": ["a"] * 200, "n": 6}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1, "echo": True}, "max_tokens"),
    ({"max_tokens": 16.0}, "max_tokens"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"suffix": "x"}, "suffix"),
    ({"best_of": "x"}, "best_of"),
    ({"echo": 1}, "echo"),
    ({"rid": ["a", "b"]}, "rid"),
    ({"rid": 5}, "rid"),
    ({"prompt": ["a", "b"], "rid": ["a", "a"]}, "rid"),
    ({"messages": []}, "messages"),
    ({"guided_json": {}}, "guided_json"),
    ({"top_k": 1.5}, "top_k"),
    ({"response_format": {"type": "json_object"}, "ebnf": "x"}, "ebnf"),
]


@pytest.mark.parametrize(("changes", "field"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    error = refused({"prompt": "a", **changes})
    assert error.field == field
    assert str(error).startswith(f"{field}: ")
    assert len(str(error)) < 700


# -- answers ----------------------------------------------------------------------------------------


def test_an_answer_is_openais() -> None:
    request = {"prompt": ["a", "b b"], "n": 2, "model": "mine", "logprobs": 1, "max_tokens": 50}
    exchange = read_completion(request, served())
    outputs = [end("one"), end("Grüße 🎈"), (ids("three"), LENGTH), end("")]
    answer = run_whole(exchange, outputs)
    found = Completion.model_validate_json(json.dumps(answer), strict=True)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in found.choices] == ["one", "Grüße 🎈", "three", ""]
    assert [choice.finish_reason for choice in found.choices] == ["stop", "stop", "length", "stop"]
    assert [c["matched_stop"] for c in answer["choices"]] == [2, 2, None, 2]
    assert (found.model, found.system_fingerprint) == ("mine", FINGERPRINT)
    prompt, completion = sum(len(c.ids) for c in exchange.calls), sum(len(o) for o, _ in outputs)
    assert answer["usage"]["prompt_tokens"] == prompt
    assert answer["usage"]["completion_tokens"] == completion
    assert answer["usage"]["total_tokens"] == prompt + completion
    assert "cached_tokens" in answer["usage"]["prompt_tokens_details"]


def test_logprobs_in_lists() -> None:
    text = "Hello Grüße 🎈"
    exchange = read_completion({"prompt": "a", "logprobs": 2, "max_tokens": 50}, served())
    output, reason = end(text)
    found = run_whole(exchange, [(output, reason)])["choices"][0]["logprobs"]
    assert found["token_logprobs"] == [score(token, i) for i, token in enumerate(output)]
    assert len(found["tokens"]) == len(found["text_offset"]) == len(found["top_logprobs"])
    assert found["tokens"][-1] == "<|im_end|>"
    assert found["text_offset"][0] == 0
    assert found["text_offset"][-1] == len(text)
    for token, offset in zip(found["tokens"][:-1], found["text_offset"]):
        if not token.startswith("bytes:"):
            assert text[offset : offset + len(token)] == token
    assert any(token.startswith("bytes:\\x") for token in found["tokens"])
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"]):
        assert top[token] == logprob
        assert 2 <= len(top) <= 3


def test_an_echo_is_prompt_and_text_with_one_row_of_offsets() -> None:
    request = {"prompt": "Grüße <|im_start|> ab", "logprobs": 1, "echo": True, "max_tokens": 50}
    exchange = read_completion(request, served())
    choice = run_whole(exchange, [end(" end")])["choices"][0]
    assert choice["text"] == "Grüße <|im_start|> ab end"
    found = choice["logprobs"]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert None not in found["token_logprobs"][1:]
    assert len(found["tokens"]) == len(exchange.calls[0].ids) + len(end(" end")[0])
    for token, offset in zip(found["tokens"][:-1], found["text_offset"]):
        if not token.startswith("bytes:"):
            assert choice["text"][offset : offset + len(token)] == token


def test_the_echo_of_ids_is_their_text() -> None:
    request = {"prompt": [1, *ids("Grüße 🎈")], "echo": True, "max_tokens": 50}
    choice = run_whole(read_completion(request, served()), [end(" end")])["choices"][0]
    assert choice["text"] == "Grüße 🎈 end"
    assert choice["logprobs"] is None


def test_tokens_that_the_tokenizer_puts_in_front_are_no_text() -> None:
    prompt = PromptTokens(tokenizer(), [1, *ids("ab c")], first=1, skip=False)
    assert prompt.text == "ab c"
    assert prompt.offsets[:2] == [0, 0]


def test_token_ids_are_told_if_asked_for() -> None:
    exchange = read_completion({"prompt": "a b", "return_token_ids": True}, served())
    choice = run_whole(exchange, [end("yes")])["choices"][0]
    assert choice["prompt_token_ids"] == ids("a b")
    assert choice["token_ids"] == [*ids("yes"), 2]


# -- streams ----------------------------------------------------------------------------------------

TEXTS = st.lists(st.sampled_from([*"ab\n é漢🎈", "the ", " and", "\u200d", "é"]), max_size=20).map(
    "".join
)


@settings(max_examples=60)
@given(
    outputs=st.lists(st.lists(st.integers(0, 2047), max_size=12) | TEXTS.map(ids), max_size=4),
    prompts=st.lists(TEXTS.filter(bool), min_size=1, max_size=2),
    echo=st.booleans(),
    shown=st.booleans(),
    logprobs=st.none() | st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_a_streams_deltas_are_the_answer(
    outputs: list[list[int]],
    prompts: list[str],
    echo: bool,
    shown: bool,
    logprobs: int | None,
    seed: int,
) -> None:
    request = {
        "prompt": prompts,
        "n": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "echo": echo,
        "logprobs": logprobs,
        "return_token_ids": True,
        "skip_special_tokens": not shown,
        "max_tokens": 100,
    }
    exchange = read_completion(request, served())
    count = 2 * len(prompts)
    scripts = [(output, LENGTH) for output in (*outputs, *[ids("so")] * count)][:count]
    whole = run_whole(exchange, scripts)
    pieces = run_stream(exchange, scripts, seed)
    told = put_together(pieces)
    assert told["choices"] == whole["choices"]
    assert told["usage"] == whole["usage"]
    assert pieces[-1]["choices"] == []
    for piece in pieces:
        without_first = json.loads(json.dumps(piece))
        for choice in without_first["choices"]:
            if choice["logprobs"]:  # OpenAI's types do not know of a prompt's first token
                choice["logprobs"] = {
                    **choice["logprobs"],
                    "token_logprobs": [],
                    "top_logprobs": [],
                }
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate_json(json.dumps(without_first), strict=True)


def test_usage_is_told_only_if_asked_for() -> None:
    exchange = read_completion({"prompt": "a", "stream": True}, served())
    assert not any("usage" in piece for piece in run_stream(exchange, [end("a b")], 0))
    options = {"continuous_usage_stats": True, "include_usage": True}
    request = {"prompt": "a", "stream": True, "stream_options": options}
    pieces = run_stream(read_completion(request, served()), [end("a b c d")], 0, told=1)
    counts = [piece["usage"]["completion_tokens"] for piece in pieces]
    assert counts == sorted(counts)
    assert counts[-1] == len(end("a b c d")[0])
    assert pieces[-1]["choices"] == []


# -- with the engine ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    from ramet.backends.local import Engine

    with Engine(model_path="pocket", max_cache_tokens=4096, seed=1) as made:
        yield made


def model_of(engine: Any) -> ServedModel:
    return served(vocab_size=engine.config.vocab_size, max_context=engine.max_context)


def generate(engine: Any, exchange: Exchange) -> list[Sample]:
    samples: list[Sample] = []
    for place, call in enumerate(exchange.calls):
        start, options = call.logprobs.prompt_start, call.logprobs
        found = engine.generate(
            input_ids=[list(call.ids)],
            sampling_params=call.params.to_dict(),
            return_logprob=options.output,
            logprob_start_len=-1 if start is None else start,
            top_logprobs_num=options.top,
        )
        for choice, response in enumerate(found):
            samples.append(_sample(len(samples), place, choice, response))
    return samples


def _sample(index: int, place: int, choice: int, response: dict[str, Any]) -> Sample:
    meta = response["meta_info"]
    return Sample(
        index=index,
        call=place,
        choice=choice,
        text=response["text"],
        output_ids=response["output_ids"],
        meta=meta,
        finish_reason=meta["finish_reason"],
    )


def stream_of(exchange: Exchange, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    writer = exchange.events()
    return list(chunks([*writer.begin(), *writer.end(samples)]))


def test_completions_of_the_embedded_model(engine: Any) -> None:
    request = {
        "prompt": ["Count: one, two,", "Is a dog an animal?"],
        "n": 2,
        "max_tokens": 6,
        "temperature": 0,
        "logprobs": 2,
        "echo": True,
        "stop": "\n",
    }
    exchange = read_completion(request, model_of(engine))
    samples = generate(engine, exchange)
    answer = exchange.answer(samples)
    assert put_together(stream_of(exchange, samples))["choices"] == answer["choices"]
    first, second = answer["choices"][:2]
    assert first["text"] == second["text"]
    assert first["text"].startswith("Count: one, two,")
    for choice, sample in zip(answer["choices"], samples):
        lists = choice["logprobs"]
        size = len(exchange.calls[sample.call].ids) + len(sample.output_ids)
        assert {name: len(values) for name, values in lists.items()} == dict.fromkeys(lists, size)
        for value, top in zip(lists["token_logprobs"][1:], lists["top_logprobs"][1:]):
            assert value <= max(top.values()) <= 0
    assert answer["usage"]["completion_tokens"] == sum(len(s.output_ids) for s in samples)


def test_a_prompt_is_scored_without_generating(engine: Any) -> None:
    request = {"prompt": "one, two, three", "max_tokens": 0, "echo": True, "logprobs": 0}
    exchange = read_completion(request, model_of(engine))
    choice = exchange.answer(generate(engine, exchange))["choices"][0]
    assert choice["text"] == "one, two, three"
    assert len(choice["logprobs"]["tokens"]) == len(exchange.calls[0].ids)
    assert choice["finish_reason"] == "length"


def test_chats_of_the_embedded_model(engine: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    request = {
        "messages": [{"role": "user", "content": "Is a dog an animal? Answer yes or no."}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
        "logprobs": True,
        "top_logprobs": 3,
        "max_tokens": 60,
    }
    exchange = read_chat(request, model_of(engine))
    samples = generate(engine, exchange)
    answer = exchange.answer(samples)
    found = ChatCompletion.model_validate_json(json.dumps(answer), strict=True)
    assert set(json.loads(found.choices[0].message.content or "")) == {"ok"}
    told = put_together(stream_of(exchange, samples))["choices"][0]
    assert told["delta"]["content"] == found.choices[0].message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_tools_are_called_on_the_embedded_model(engine: Any, choice: Any) -> None:
    number = {"type": "integer", "minimum": 0, "maximum": 99}
    function = {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": number, "b": number},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    }
    request = {
        "messages": [{"role": "user", "content": "What is 12 + 30?"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 100,
    }
    exchange = read_chat(request, model_of(engine))
    samples = generate(engine, exchange)
    answer = exchange.answer(samples)
    found = ChatCompletion.model_validate_json(json.dumps(answer), strict=True).choices[0]
    assert found.finish_reason == "tool_calls"
    assert found.message.tool_calls is not None
    (call,) = found.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "add"
    assert set(json.loads(call.function.arguments)) == {"a", "b"}
    told = put_together(stream_of(exchange, samples))["choices"][0]["delta"]["tool_calls"]
    assert told == answer["choices"][0]["message"]["tool_calls"]
