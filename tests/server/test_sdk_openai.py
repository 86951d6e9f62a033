"""The `openai` package as its users have it, against a real server: what they call, get and are refused."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel
from tests.server.launched import Launched, launched

MODEL = "pocket"
ASK = [{"role": "user", "content": "Where is the key?"}]
LIST = [{"role": "user", "content": "Name three fruits."}]
TOM: Any = [{"role": "user", "content": "Who is Tom, a baker of 51 years?"}]
KEY, OTHER_KEY = "key-of-alpha", "key-of-beta"
# Takes longer than any test waits: nothing is said twice, so that nothing can be guessed.
LONG: dict[str, Any] = {
    "max_tokens": 3000,
    "frequency_penalty": 2,
    "temperature": 1,
    "extra_body": {"ignore_eos": True},
}


class Person(BaseModel):
    name: str
    age: int


class Weather(BaseModel):
    """The weather of a place."""

    place: str


def function(name: str, **properties: Any) -> Any:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    about = {"name": name, "description": f"The {name} of a place.", "parameters": parameters}
    return {"type": "function", "function": about}


TOOLS = [
    function("weather", place={"type": "string", "maxLength": 12}),
    function("population", city={"enum": ["Oslo", "Rome"]}, year={"type": "integer"}),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Launched]:
    """16 samples may be there: as many run, or wait, as one request can ask for."""
    keys = ["--api-key", f"alpha={KEY}", "--api-key", f"beta={OTHER_KEY}"]
    limits = ["--max-running", "8", "--max-queued", "8", "--max-cache-tokens", "20000"]
    with launched(*limits, *keys) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Launched) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=40) as found:
        yield found


def chat(client: OpenAI, messages: Any = ASK, **fields: Any) -> Any:
    return client.chat.completions.create(
        model=MODEL, messages=messages, **{"temperature": 0, "max_tokens": 24, **fields}
    )


def complete(client: OpenAI, prompt: Any, **fields: Any) -> Any:
    return client.completions.create(
        model=MODEL, prompt=prompt, **{"temperature": 0, "max_tokens": 8, **fields}
    )


def refused(call: Callable[[], Any], field: str, says: str = "") -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        call()
    assert caught.value.param == field
    assert field in caught.value.message
    assert says in caught.value.message
    assert caught.value.type == "invalid_request_error"


def native(server: Launched, path: str, body: Any = None) -> Any:
    """What the server's own protocol says."""
    headers = {"authorization": f"Bearer {KEY}"}
    method = "GET" if body is None else "POST"
    url = f"{server.url}{path}"
    return httpx.request(method, url, json=body, headers=headers, timeout=20).json()


def stats(server: Launched) -> dict[str, int]:
    state: dict[str, int] = native(server, "/get_server_info")["internal_states"][0]
    return state


def wait_idle(server: Launched, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while (now := stats(server))["num_running"] or now["num_waiting"]:
        assert time.monotonic() < end, ("the engine still works", now)
        time.sleep(0.02)


# -- models -----------------------------------------------------------------------------------------


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "ramet")
    assert model.to_dict()["max_model_len"] == 4096
    assert client.models.retrieve(MODEL) == client.models.retrieve("default") == model
    with pytest.raises(openai.NotFoundError, match="'no/such' does not exist") as caught:
        client.models.retrieve("no/such")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_what_is_not_served_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings does not exist"):
        client.embeddings.create(model=MODEL, input="x")


# -- completions ------------------------------------------------------------------------------------


def test_a_prompt_as_text_and_as_ids(client: OpenAI, server: Launched) -> None:
    prompt = "The color of the sky is"
    whole = complete(client, prompt)
    assert whole.object == "text_completion"
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (8, "length")
    tokenized = native(server, "/tokenize", {"prompt": prompt})["tokens"]
    assert whole.usage.prompt_tokens == len(tokenized)
    assert complete(client, tokenized).choices[0].text == whole.choices[0].text
    sixteen = client.completions.create(model=MODEL, prompt=prompt, extra_body={"ignore_eos": True})
    assert sixteen.usage is not None
    assert sixteen.usage.completion_tokens == 16  # the protocol's own default


def test_several_prompts_and_choices(client: OpenAI) -> None:
    prompts = ["The color of the sky is", "1, 2, 3,", "Dear"]
    alone = [complete(client, prompt).choices[0].text for prompt in prompts]
    together = complete(client, prompts, n=2)
    assert [choice.index for choice in together.choices] == list(range(6))
    assert [choice.text for choice in together.choices] == [a for a in alone for _ in "12"]
    drawn = complete(client, [[20, 30], [40]], n=3, temperature=1, seed=5).choices
    assert len({choice.text for choice in drawn[:3]}) > 1
    again = complete(client, [[20, 30], [40]], n=3, temperature=1, seed=5).choices
    assert [choice.text for choice in again] == [choice.text for choice in drawn]


def test_echo_and_log_probabilities(client: OpenAI) -> None:
    prompt = "The color of the sky is"
    plain = complete(client, prompt, logprobs=2).choices[0]
    echoed = complete(client, prompt, logprobs=2, echo=True).choices[0]
    assert echoed.text == prompt + plain.text
    found = echoed.logprobs
    assert "".join(found.tokens) == echoed.text
    places = zip(found.text_offset, found.tokens)
    assert all(echoed.text[at:].startswith(token) for at, token in places)
    assert found.token_logprobs[0] is None
    assert all(value <= 0 for value in found.token_logprobs[1:])
    new = len(plain.logprobs.tokens)
    assert found.token_logprobs[-new:] == plain.logprobs.token_logprobs  # the same bits
    assert [max(top.values()) for top in plain.logprobs.top_logprobs] == (
        plain.logprobs.token_logprobs
    )
    scored = complete(client, prompt, logprobs=0, echo=True, max_tokens=0).choices[0]
    assert scored.text == prompt
    assert scored.logprobs.token_logprobs == found.token_logprobs[:-new]


def test_a_completion_ends_before_its_stop_text(client: OpenAI) -> None:
    free = complete(client, "1, 2, 3,", max_tokens=20).choices[0].text
    stop = free[len(free) // 2 :][:3]
    cut = complete(client, "1, 2, 3,", max_tokens=20, stop=[stop, "never comes"]).choices[0]
    assert cut.text == free[: free.index(stop)]
    assert (cut.finish_reason, cut.to_dict()["matched_stop"]) == ("stop", stop)


def test_a_stream_of_completions_is_the_answer(client: OpenAI) -> None:
    options = {"include_usage": True}
    prompts = ["The color of the sky is", "Dear"]
    fields: dict[str, Any] = {"logprobs": 1, "max_tokens": 30, "n": 2}
    whole = complete(client, prompts, **fields)
    texts, logprobs, ends = ([""] * 4), [[] for _ in range(4)], [None] * 4
    for chunk in complete(client, prompts, stream=True, stream_options=options, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            logprobs[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
            ends[choice.index] = choice.finish_reason or ends[choice.index]
        last = chunk
    assert texts == [choice.text for choice in whole.choices]
    assert logprobs == [choice.logprobs.token_logprobs for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens


# -- chats ------------------------------------------------------------------------------------------


def test_a_chat_and_its_stream(client: OpenAI) -> None:
    whole = chat(client, LIST, n=2, seed=3, temperature=0.8)
    stream = chat(client, LIST, n=2, seed=3, temperature=0.8, stream=True)
    texts = ["", ""]
    chunks = list(stream)
    for chunk in chunks:
        assert chunk.usage is None  # not asked for
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 2
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    other = chat(client, LIST, n=2, seed=4, temperature=0.8)
    assert [choice.message.content for choice in other.choices] != texts


def test_usage_tells_what_was_cached(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Of all the questions this one is the newest. " * 5}]
    first, second = chat(client, messages).usage, chat(client, messages).usage
    assert first.prompt_tokens == second.prompt_tokens > 50
    assert second.prompt_tokens_details.cached_tokens == second.prompt_tokens - 1
    assert first.prompt_tokens_details.cached_tokens < 10
    stream = chat(client, messages, stream=True, stream_options={"include_usage": True})
    *others, last = list(stream)
    assert all(chunk.usage is None for chunk in others)
    assert last.usage == second
    assert last.choices == []


def test_the_log_probabilities_of_a_chat(client: OpenAI) -> None:
    choice = chat(client, logprobs=True, top_logprobs=3).choices[0]
    found = choice.logprobs.content
    shown = b"".join(bytes(token.bytes) for token in found if not token.token.startswith("<|"))
    assert shown.decode() == choice.message.content
    for token in found:
        assert len(token.top_logprobs) == 3
        values = [top.logprob for top in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert token.top_logprobs[0].token == token.token  # the likeliest was taken
        assert token.logprob == values[0]
    stream = chat(client, logprobs=True, top_logprobs=3, stream=True)
    pieces = [c.logprobs.content for chunk in stream for c in chunk.choices if c.logprobs]
    assert [token for piece in pieces for token in piece] == found


def test_a_chat_ends_at_stops_and_lengths(client: OpenAI) -> None:
    free = chat(client, LIST).choices[0].message.content
    stop = free[len(free) // 2]
    cut = chat(client, LIST, stop=stop).choices[0]
    assert cut.message.content == free[: free.index(stop)]
    assert cut.finish_reason == "stop"
    short = chat(client, LIST, max_tokens=None, max_completion_tokens=2)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)


def test_answers_are_json(client: OpenAI) -> None:
    free = chat(client, TOM, max_tokens=60, response_format={"type": "json_object"})
    assert isinstance(json.loads(free.choices[0].message.content), dict)
    schema = {"type": "object", "properties": {"age": {"enum": [50, 51]}}, "required": ["age"]}
    form = {"type": "json_schema", "json_schema": {"name": "age", "schema": schema}}
    held = chat(client, TOM, max_tokens=60, response_format=form, temperature=1)
    assert json.loads(held.choices[0].message.content)["age"] in (50, 51)
    parsed = client.chat.completions.parse(
        model=MODEL, messages=TOM, response_format=Person, temperature=0, max_tokens=80
    )
    assert parsed.choices[0].message.parsed == Person(name="Tom", age=51)
    with client.chat.completions.stream(
        model=MODEL, messages=TOM, response_format=Person, temperature=0, max_tokens=80
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0]
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.message.parsed == parsed.choices[0].message.parsed


# -- tools ------------------------------------------------------------------------------------------


def calls_of(answer: Any) -> list[tuple[str, Any]]:
    calls = answer.choices[0].message.tool_calls or []
    assert len({call.id for call in calls}) == len(calls)
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def check_call(name: str, arguments: Any) -> None:
    if name == "weather":
        assert list(arguments) == ["place"]
        assert len(arguments["place"]) <= 12
    else:
        assert name == "population"
        assert arguments["city"] in ("Oslo", "Rome")
        assert type(arguments["year"]) is int


def test_the_choices_of_tools(client: OpenAI) -> None:
    ask: dict[str, Any] = {"tools": TOOLS, "max_tokens": 150}
    for choice in ("auto", None, "none"):
        free = chat(client, **ask, **({"tool_choice": choice} if choice else {}))
        for call in calls_of(free):
            check_call(*call)
        assert choice != "none" or not calls_of(free)
        assert calls_of(free) or free.choices[0].message.content
    required = chat(client, **ask, tool_choice="required", temperature=1, seed=1)
    assert calls_of(required)
    for call in calls_of(required):
        check_call(*call)
    assert required.choices[0].finish_reason == "tool_calls"
    for name in ("weather", "population"):
        named = {"type": "function", "function": {"name": name}}
        ((called, arguments),) = calls_of(chat(client, **ask, tool_choice=named))
        assert called == name
        check_call(called, arguments)
    for seed in range(3):
        one = chat(
            client,
            **ask,
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=1,
            seed=seed,
        )
        assert len(calls_of(one)) == 1


def test_results_of_tools_go_back(client: OpenAI) -> None:
    first = chat(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    (call,) = first.choices[0].message.tool_calls
    messages = [
        *ASK,
        first.choices[0].message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "The key is in the red box."},
    ]
    second = chat(client, messages, tools=TOOLS, tool_choice="none")
    assert second.choices[0].message.content
    assert (
        second.usage.prompt_tokens
        > chat(client, tools=TOOLS, tool_choice="none").usage.prompt_tokens
    )
    refused(
        lambda: chat(client, [*ASK, {"role": "tool", "content": "x"}]), "messages[1].tool_call_id"
    )


def test_a_stream_of_calls_through_the_accumulator(client: OpenAI) -> None:
    fields: dict[str, Any] = {
        "tools": TOOLS,
        "tool_choice": "required",
        "temperature": 1,
        "seed": 2,
    }
    whole = chat(client, **fields, max_tokens=150)
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, max_tokens=150, **fields
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert calls_of(final) == calls_of(whole)
    kind = "tool_calls.function.arguments"
    done = [event for event in events if event.type == f"{kind}.done"]
    assert [(event.name, json.loads(event.arguments)) for event in done] == calls_of(whole)
    pieces = [event.arguments_delta for event in events if event.type == f"{kind}.delta"]
    assert "".join(pieces) == "".join(event.arguments for event in done)

    strict = pydantic_function_tool(Weather)
    with client.chat.completions.stream(
        model=MODEL,
        messages=ASK,
        tools=[strict],
        tool_choice="required",
        max_tokens=80,
        temperature=0,
    ) as stream:
        list(stream)
        (call, *_) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)


# -- responses --------------------------------------------------------------------------------------


def test_responses(client: OpenAI) -> None:
    whole = client.responses.create(
        model=MODEL, input="hello", instructions="Be kind.", temperature=0, metadata={"a": "b"}
    )
    assert (whole.status, whole.metadata) == ("completed", {"a": "b"})
    assert whole.output_text
    with client.responses.stream(
        model=MODEL, input="hello", instructions="Be kind.", temperature=0
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    cut = client.responses.create(model=MODEL, input=TOM, temperature=0, max_output_tokens=2)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    parsed = client.responses.parse(
        model=MODEL, input=TOM, text_format=Person, temperature=0, max_output_tokens=80
    )
    assert parsed.output_parsed == Person(name="Tom", age=51)


# -- further fields ---------------------------------------------------------------------------------


def test_further_fields_have_effects(client: OpenAI, server: Launched) -> None:
    def said(**extra: Any) -> Any:
        return chat(client, LIST, extra_body=extra, temperature=1, seed=9).choices[0]

    greedy = chat(client, LIST).choices[0].message.content
    assert re.fullmatch(r"[a-c]{3}-\d", said(regex=r"[a-c]{3}-\d").message.content)
    assert said(ebnf='root ::= "yes" | "no"').message.content in ("yes", "no")
    assert said(top_k=1).message.content == greedy
    assert said(min_p=1.0).message.content == greedy
    assert said().message.content != greedy
    assert said(json_schema={"const": 7}).message.content == "7"
    every = chat(client, ASK, extra_body={"ignore_eos": True}, max_tokens=20)
    assert every.usage.completion_tokens == 20
    few = chat(client, ASK).usage.completion_tokens
    least = chat(client, ASK, extra_body={"min_tokens": few + 3}).usage.completion_tokens
    assert least >= few + 3
    with_ids = chat(client, ASK, extra_body={"return_token_ids": True}).to_dict()
    choice = with_ids["choices"][0]
    assert len(choice["token_ids"]) == few
    assert len(with_ids["prompt_token_ids"]) == with_ids["usage"]["prompt_tokens"]
    ended = chat(client, ASK, extra_body={"stop_token_ids": choice["token_ids"][:1]})
    assert ended.choices[0].message.content == ""
    assert ended.choices[0].to_dict()["matched_stop"] == choice["token_ids"][0]
    begun = [*ASK, {"role": "assistant", "content": "The key is"}]
    more = {"continue_final_message": True, "return_token_ids": True}
    ids = chat(client, begun, extra_body=more).to_dict()["prompt_token_ids"]
    start = with_ids["prompt_token_ids"]
    assert ids[: len(start)] == start
    told = native(server, "/detokenize", {"tokens": ids[len(start) :]})
    assert told["text"] == "The key is"


# -- errors -----------------------------------------------------------------------------------------


def test_what_is_wrong_is_named(client: OpenAI) -> None:
    refused(lambda: complete(client, "a", suffix="b"), "suffix")
    refused(lambda: complete(client, "a", max_tokens=0), "max_tokens", "between 1")
    refused(lambda: complete(client, "a", n=129), "n")
    refused(lambda: complete(client, []), "prompt", "empty")
    refused(lambda: complete(client, [[1], [99_999]]), "prompt[1]", "no token id")
    refused(lambda: complete(client, "a", logprobs=21), "logprobs")
    refused(lambda: chat(client, temperature=-1), "temperature")
    refused(lambda: chat(client, top_p=1.5), "top_p")
    refused(lambda: chat(client, []), "messages")
    refused(lambda: chat(client, top_logprobs=1), "top_logprobs", "without logprobs")
    refused(lambda: chat(client, [{"role": "wizard", "content": "x"}]), "messages[0].role")
    refused(lambda: chat(client, stream_options={"include_usage": True}), "stream_options")
    refused(lambda: chat(client, logit_bias={"99999": 1}), "logit_bias")
    refused(lambda: chat(client, extra_body={"unheard": 1}), "unheard")
    refused(lambda: chat(client, extra_body={"functions": []}), "functions", "tools")
    refused(lambda: chat(client, extra_body={"regex": "("}), "regex")
    refused(lambda: chat(client, tool_choice="required"), "tool_choice")
    refused(lambda: chat(client, LIST, store=True), "store")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}
    refused(lambda: chat(client, [{"role": "user", "content": [image]}]), "messages[0].content[0]")
    long = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(openai.BadRequestError, match="4096"):
        chat(client, long)
    refused(
        lambda: client.responses.create(model=MODEL, input="x", previous_response_id="r"),
        "previous_response_id",
    )
    assert chat(client, extra_body={"unheard": None}).choices  # null asks for nothing


def test_a_schema_that_is_not_enforced_is_refused(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="not"):
        chat(client, response_format=form)


def test_keys(client: OpenAI, server: Launched) -> None:
    for key in ("wrong-key-here", "none"):
        with OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError) as caught:
                chat(stranger)
            assert caught.value.code == "invalid_api_key"
            assert caught.value.request_id
    assert chat(client).usage.completion_tokens
    again = chat(client).usage
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1
    with OpenAI(base_url=f"{server.url}/v1", api_key=OTHER_KEY, max_retries=0) as beta:
        cached = chat(beta).usage.prompt_tokens_details.cached_tokens
    assert cached == 0, "tenants share no prefixes"


def test_a_full_server_says_when_to_come_again(client: OpenAI, server: Launched) -> None:
    """The package's own retries wait as long as it was told."""
    asked: list[tuple[float, httpx.Response]] = []

    def note(response: httpx.Response) -> None:
        asked.append((time.monotonic(), response))
        if len(asked) == 1:  # there is room before the package asks again
            native(server, "/abort_request", {"abort_all": True})

    wait_idle(server)
    with chat(client, stream=True, n=16, **LONG) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="16 requests") as caught:
            chat(client)
        assert caught.value.type == "rate_limit_error"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        http = httpx.Client(event_hooks={"response": [note]}, timeout=40)
        with OpenAI(
            base_url=f"{server.url}/v1", api_key=KEY, max_retries=3, http_client=http
        ) as patient:
            assert chat(patient).usage.completion_tokens
    assert [response.status_code for _, response in asked] == [429, 200]
    (first, refusal), (second, _) = asked
    assert second - first > int(refusal.headers["retry-after"]) * 0.9
    wait_idle(server)


def test_who_leaves_frees_the_engine(client: OpenAI, server: Launched) -> None:
    wait_idle(server)
    before = stats(server)["num_aborted"]
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=0.3), **LONG)
    wait_idle(server)
    stream = chat(client, stream=True, **LONG)
    for _, _ in zip(stream, range(5)):
        pass
    assert stats(server)["num_running"] == 1
    stream.close()
    wait_idle(server)
    assert stats(server)["num_aborted"] == before + 2


# -- async ------------------------------------------------------------------------------------------


async def test_many_at_once_say_what_one_says(client: OpenAI, server: Launched) -> None:
    questions = [[{"role": "user", "content": f"Tell me about the number {i}."}] for i in range(12)]
    alone = [chat(client, question).choices[0].message.content for question in questions]

    async def streamed(asking: AsyncOpenAI, question: Any) -> str:
        stream = await asking.chat.completions.create(
            model=MODEL, messages=question, temperature=0, max_tokens=24, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def whole(asking: AsyncOpenAI, question: Any) -> str | None:
        answer = await asking.chat.completions.create(
            model=MODEL, messages=question, temperature=0, max_tokens=24
        )
        return answer.choices[0].message.content

    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as asking:
        work = [(streamed if i % 2 else whole)(asking, q) for i, q in enumerate(questions)]
        assert await asyncio.gather(*work) == alone
        assert (await asking.models.retrieve(MODEL)).id == MODEL
        one = await asking.completions.create(
            model=MODEL, prompt="Dear", temperature=0, max_tokens=8
        )
        assert one.choices[0].text == complete(client, "Dear").choices[0].text
        parsed = await asking.chat.completions.parse(
            model=MODEL, messages=TOM, response_format=Person, temperature=0, max_tokens=80
        )
        assert parsed.choices[0].message.parsed == Person(name="Tom", age=51)
        response = await asking.responses.create(model=MODEL, input="hello", temperature=0)
        assert response.status == "completed"
        with pytest.raises(openai.BadRequestError, match="suffix"):
            await asking.completions.create(model=MODEL, prompt="a", suffix="b")
        task = asyncio.create_task(whole_long(asking))
        while not stats(server)["num_running"]:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    wait_idle(server)


async def whole_long(asking: AsyncOpenAI) -> Any:
    return await asking.chat.completions.create(model=MODEL, messages=ASK, **LONG)
