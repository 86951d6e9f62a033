"""The `anthropic` package as its users have it, against a real server with keys, as that API has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel
from tests.server.launched import Launched, launched

MODEL = "pocket"
KEY = "key-of-alpha"
ASK: Any = [{"role": "user", "content": "Where is the key?"}]
LIST: Any = [{"role": "user", "content": "Name three fruits."}]
# An answer that was begun like this finds no end.
ENDLESS: Any = [*LIST, {"role": "assistant", "content": " ".join(map(str, range(1, 21)))}]
TOM: Any = [{"role": "user", "content": "Who is Tom, a baker of 51 years?"}]
TOOLS: Any = [
    {
        "name": "weather",
        "description": "The weather of a place.",
        "input_schema": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 12}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
    {
        "name": "sum",
        "input_schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
]


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def server() -> Iterator[Launched]:
    """One request runs, one may wait."""
    limits = ["--max-running", "1", "--max-queued", "1"]
    with launched("--max-cache-tokens", "20000", "--api-key", f"alpha={KEY}", *limits) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Launched) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key=KEY, max_retries=0, timeout=40) as found:
        yield found


def asked(messages: Any = ASK, temperature: float = 0, **fields: Any) -> dict[str, Any]:
    """The package has no names any more for how tokens are drawn; servers have."""
    body = {"temperature": temperature, **fields.pop("extra_body", {})}
    given = {"model": MODEL, "messages": messages, "max_tokens": 24, "extra_body": body}
    return {**given, **fields}


def ask(client: Anthropic, messages: Any = ASK, **fields: Any) -> Any:
    return client.messages.create(**asked(messages, **fields))


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def stats(server: Launched) -> dict[str, int]:
    headers = {"x-api-key": KEY}
    found = httpx.get(f"{server.url}/get_server_info", headers=headers, timeout=20).json()
    state: dict[str, int] = found["internal_states"][0]
    return state


def wait_for(server: Launched, name: str, count: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while (now := stats(server))[name] != count:
        assert time.monotonic() < end, (name, now)
        time.sleep(0.02)


# -- messages ---------------------------------------------------------------------------------------


def test_a_message(client: Anthropic) -> None:
    message = ask(client)
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert message.id.startswith("msg_")
    assert [block.type for block in message.content] == ["text"]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert usage.output_tokens > 0
    again = ask(client).usage
    assert again.input_tokens + again.cache_read_input_tokens == (
        usage.input_tokens + usage.cache_read_input_tokens
    )
    assert again.input_tokens == 1  # the rest was cached
    short = ask(client, LIST, max_tokens=2)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)


def test_a_stream_is_the_message(client: Anthropic) -> None:
    fields = asked(ENDLESS, max_tokens=300)
    with client.messages.stream(**fields) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    whole = client.messages.create(**fields)
    assert "".join(pieces) == text_of(whole) == text_of(final) == stream.get_final_text()
    assert (final.stop_reason, final.usage.output_tokens) == (
        (whole.stop_reason, whole.usage.output_tokens)
    )
    with client.messages.create(**fields, stream=True) as raw:
        kinds = [event.type for event in raw]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_system_texts_and_blocks(client: Anthropic) -> None:
    bare, told = ask(client), ask(client, system="Answer in one word.")
    count = client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens
    more = client.messages.count_tokens(model=MODEL, messages=ASK, system="Answer in one word.")
    for message, tokens in ((bare, count), (told, more.input_tokens)):
        assert message.usage.input_tokens + message.usage.cache_read_input_tokens == tokens
    assert more.input_tokens > count
    block: Any = {"type": "text", "text": "Where is ", "cache_control": {"type": "ephemeral"}}
    blocks: Any = [{"role": "user", "content": [block, {"type": "text", "text": "the key?"}]}]
    assert client.messages.count_tokens(model=MODEL, messages=blocks).input_tokens == count
    assert text_of(ask(client, blocks)) == text_of(bare)
    system: Any = [{"type": "text", "text": "Answer in one word."}]
    assert text_of(ask(client, system=system)) == text_of(told)


def test_stop_sequences(client: Anthropic) -> None:
    free = text_of(ask(client, LIST))
    stop = free[len(free) // 2 :][:2]
    cut = ask(client, LIST, stop_sequences=["never comes", stop])
    assert text_of(cut) == free[: free.index(stop)]
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)
    with client.messages.stream(**asked(LIST, stop_sequences=[stop])) as stream:
        assert "".join(stream.text_stream) == text_of(cut)
        assert stream.get_final_message().stop_sequence == stop


def test_a_begun_answer_is_continued(client: Anthropic) -> None:
    free = text_of(ask(client, LIST))
    begun = free[: len(free) // 2].rstrip()
    rest = text_of(ask(client, [*LIST, {"role": "assistant", "content": begun}]))
    assert rest
    assert not rest.startswith(begun)  # only what is new
    counted = client.messages.count_tokens(
        model=MODEL, messages=[*LIST, {"role": "assistant", "content": begun}]
    )
    assert (
        counted.input_tokens > client.messages.count_tokens(model=MODEL, messages=LIST).input_tokens
    )


def test_an_answer_in_a_form(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"enum": [50, 51]}},
        "required": ["age"],
        "additionalProperties": False,
    }
    form: Any = {"format": {"type": "json_schema", "schema": schema}}
    message = ask(client, output_config=form, temperature=1, max_tokens=60)
    assert json.loads(text_of(message))["age"] in (50, 51)
    parsed = client.messages.parse(**asked(TOM, max_tokens=80), output_format=Person)
    assert parsed.parsed_output == Person(name="Tom", age=51)
    with client.messages.stream(**asked(TOM, max_tokens=80), output_format=Person) as stream:
        assert stream.get_final_message().parsed_output == parsed.parsed_output


# -- tools ------------------------------------------------------------------------------------------


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def check_call(name: str, arguments: Any) -> None:
    if name == "weather":
        assert list(arguments) == ["place"]
        assert len(arguments["place"]) <= 12
    else:
        assert name == "sum"
        assert {type(arguments["a"]), type(arguments["b"])} == {int}


def test_the_choices_of_tools(client: Anthropic) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "max_tokens": 150}
    assert not calls_of(ask(client, **fields, tool_choice={"type": "none"}))
    for call in calls_of(ask(client, **fields, tool_choice={"type": "auto"})):
        check_call(*call)
    either = ask(client, **fields, tool_choice={"type": "any"})
    assert either.stop_reason == "tool_use"
    assert calls_of(either)
    for call in calls_of(either):
        check_call(*call)
    ((name, arguments),) = calls_of(
        ask(client, **fields, tool_choice={"type": "tool", "name": "sum"})
    )
    check_call(name, arguments)
    assert name == "sum"
    single = {"type": "any", "disable_parallel_tool_use": True}
    assert len(calls_of(ask(client, **fields, tool_choice=single, temperature=1))) == 1


def test_a_call_streamed_and_its_result(client: Anthropic) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": {"type": "any"}, "max_tokens": 150}
    whole = ask(client, **fields)
    with client.messages.stream(**asked(**fields)) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert calls_of(final) == calls_of(whole)
    assert "".join(pieces).count("{") == len(calls_of(whole))
    assert json.loads("".join(pieces).partition("}")[0] + "}") == calls_of(whole)[0][1]
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "in the red box"}
        for block in final.content
        if block.type == "tool_use"
    ]
    turn = {"role": "assistant", "content": [block.to_dict() for block in final.content]}
    messages = [*ASK, turn, {"role": "user", "content": results}]
    answer = ask(client, messages, tools=TOOLS, tool_choice={"type": "none"})
    assert text_of(answer)
    counted = client.messages.count_tokens(model=MODEL, messages=messages, tools=TOOLS)
    assert counted.input_tokens > (
        client.messages.count_tokens(model=MODEL, messages=ASK, tools=TOOLS).input_tokens
    )


# -- errors -----------------------------------------------------------------------------------------


def refused(call: Callable[[], Any], field: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        call()
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith(f"{field}:")


def test_what_is_wrong_is_named(client: Anthropic) -> None:
    refused(lambda: ask(client, max_tokens=0), "max_tokens")
    refused(lambda: ask(client, temperature=1.5), "temperature")
    refused(lambda: ask(client, extra_body={"top_p": 0}), "top_p")
    refused(lambda: ask(client, extra_body={"top_k": -2}), "top_k")
    refused(lambda: ask(client, []), "messages")
    refused(
        lambda: ask(client, [{"role": "user", "content": [{"type": "text"}]}]),
        "messages[0].content[0].text",
    )
    refused(lambda: ask(client, tool_choice={"type": "any"}), "tool_choice")
    refused(lambda: ask(client, tools=[{"name": "a b", "input_schema": {}}]), "tools[0].name")
    refused(lambda: ask(client, extra_body={"unheard": 1}), "unheard")
    refused(
        lambda: ask(client, thinking={"type": "enabled", "budget_tokens": 1024}), "thinking.type"
    )
    refused(lambda: ask(client, [{"role": "user", "content": "word " * 5000}]), "messages")
    image = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
    refused(
        lambda: ask(client, [{"role": "user", "content": [image]}]), "messages[0].content[0].type"
    )
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.post("/v1/messages", body={"model": MODEL, "messages": ASK}, cast_to=object)


def test_errors_by_their_types(client: Anthropic, server: Launched) -> None:
    with Anthropic(base_url=server.url, api_key="wrong-key", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            ask(stranger)
        assert type_of(caught.value) == "authentication_error"
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.batches.list()
    assert type_of(missing.value) == "not_found_error"


def type_of(error: anthropic.APIStatusError) -> str:
    body: Any = error.body
    assert body["type"] == "error"
    kind: str = body["error"]["type"]
    return kind


def test_who_leaves_frees_the_engine(client: Anthropic, server: Launched) -> None:
    wait_for(server, "num_running", 0)
    before = stats(server)["num_aborted"]
    with client.messages.create(**asked(ENDLESS, max_tokens=3000), stream=True) as stream:
        next(iter(stream))
    wait_for(server, "num_aborted", before + 1)
    with occupied(server), pytest.raises(anthropic.APITimeoutError):
        ask(client.with_options(timeout=0.3))
    wait_for(server, "num_aborted", before + 3)
    wait_for(server, "num_running", 0)


def test_a_full_server_says_when_to_come_again(client: Anthropic, server: Launched) -> None:
    """And the package's own retries come then."""
    with occupied(server):
        with occupied(server):
            wait_for(server, "num_waiting", 1)
            with pytest.raises(anthropic.RateLimitError) as caught:
                ask(client)
            assert type_of(caught.value) == "rate_limit_error"
            assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
            done: list[Any] = []
            again = client.with_options(max_retries=3)
            patient = threading.Thread(target=lambda: done.append(ask(again)))
            patient.start()
            patient.join(0.2)
            assert not done
    patient.join(30)
    assert text_of(done[0])


@contextlib.contextmanager
def occupied(server: Launched) -> Iterator[None]:
    """A request that takes long: nothing is said twice, so that nothing can be guessed."""
    params = {"max_new_tokens": 3000, "ignore_eos": True, "frequency_penalty": 2.0}
    body = json.dumps({"text": "Hello", "sampling_params": params}).encode()
    head = f"POST /generate HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\n"
    before = stats(server)
    held = before["num_running"] + before["num_waiting"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(server, "num_waiting" if held else "num_running", 1)
        yield


# -- async ------------------------------------------------------------------------------------------


async def test_async(client: Anthropic, server: Launched) -> None:
    wanted = text_of(ask(client, LIST))
    fields = asked(LIST)
    async with AsyncAnthropic(base_url=server.url, api_key=KEY, max_retries=5) as asking:
        async with asking.messages.stream(**fields) as stream:
            assert "".join([piece async for piece in stream.text_stream]) == wanted
        messages = await asyncio.gather(*(asking.messages.create(**fields) for _ in range(2)))
        assert [text_of(message) for message in messages] == [wanted] * 2
        count = await asking.messages.count_tokens(model=MODEL, messages=LIST)
        assert count.input_tokens == (
            messages[0].usage.input_tokens + messages[0].usage.cache_read_input_tokens
        )
