"""`ramet.OpenAI`: its protocols as pure functions, and what only it has, through OpenAI's own SDK."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.backends.scripted_http import Answer, OpenAISays, ScriptedHttp, Seen, of_json

import ramet
from ramet import assistant, function, gen, select, system, user
from ramet.backend import GenerateCall
from ramet.backends.api_limits import Backoff
from ramet.backends.api_records import Failure, Image, Part, Question, Turn, Usage
from ramet.backends.openai import OpenAI
from ramet.backends.openai_wire import (
    ChatReader,
    CompletionReader,
    chat_request,
    completion_request,
    read_usage,
)
from ramet.errors import InvalidRequest, ProgramError, Unsupported
from ramet.params import SamplingParams
from ramet.prompt import EMPTY

FAST = Backoff(first=0.001, longest=0.004)
SAYS = OpenAISays()


@pytest.fixture(scope="module")
def http() -> Iterator[ScriptedHttp]:
    server = ScriptedHttp()
    yield server
    server.close()


def question(**more: Any) -> Question:
    given = {"model": "m", "params": SamplingParams(), "turns": (Turn("user", (Part("Hi"),)),)}
    return Question(**{**given, **more})


def chat(**more: Any) -> dict[str, Any]:
    return chat_request(
        question(**more), max_tokens_name="max_tokens", sampling=True, stream_usage=True
    )


# ---- the protocol, without I/O ------------------------------------------------------------------


def test_a_plain_request() -> None:
    assert chat() == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 128,
        "temperature": 1.0,
        "top_p": 1.0,
    }


def test_a_full_request() -> None:
    params = SamplingParams(
        temperature=0.5,
        top_p=0.9,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        sampling_seed=2**64 - 1,
        logit_bias=((7, -100.0),),
        top_k=4,
    )
    request = chat_request(
        question(
            params=params,
            n=2,
            stops=("a", "b"),
            stream=True,
            top_logprobs=3,
            schema={"type": "object"},
            strict=False,
        ),
        max_tokens_name="max_completion_tokens",
        sampling=True,
        stream_usage=True,
        more=("top_k",),
    )
    assert request["max_completion_tokens"] == 128
    assert "max_tokens" not in request
    assert request["seed"] == 2**63 - 1
    assert request["logit_bias"] == {"7": -100.0}
    assert (request["n"], request["stop"], request["stream"]) == (2, ["a", "b"], True)
    assert request["stream_options"] == {"include_usage": True}
    assert (request["logprobs"], request["top_logprobs"]) == (True, 3)
    assert request["extra_body"] == {"top_k": 4}
    assert request["response_format"]["json_schema"] == {
        "name": "answer",
        "schema": {"type": "object"},
        "strict": False,
    }


def test_images_in_a_request() -> None:
    parts = (Part("What?"), Part(Image("image/png", "QUJD")), Part(Image(url="https://x/y.jpg")))
    [message] = chat(turns=(Turn("user", parts),))["messages"]
    assert message["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.jpg"}},
    ]


def test_a_completion_request() -> None:
    request = completion_request(question(text="Once", top_logprobs=2), stream_usage=False)
    assert (request["prompt"], request["max_tokens"], request["logprobs"]) == ("Once", 128, 2)


def test_reading_usage() -> None:
    found = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    assert read_usage(found) == Usage(9, 0, 0, 2)
    details = {"cached_tokens": 4, "cache_write_tokens": 3}
    assert read_usage({**found, "prompt_tokens_details": details}) == Usage(9, 4, 3, 2)
    assert read_usage(None) is None
    assert read_usage({"prompt_tokens": None}) is None


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", {"type": "stop"}),
        ("length", {"type": "length", "length": 3}),
        ("content_filter", {"type": "abort", "message": "content_filter"}),
    ],
)
def test_finish_reasons(reason: str, finish: dict[str, Any]) -> None:
    reader = ChatReader(1)
    reader.whole(SAYS.whole("x", finish=reason))
    assert reader.reply().samples[0].finish == finish


def test_a_refusal_is_no_answer() -> None:
    reader = ChatReader(1)
    value = SAYS.whole("x")
    value["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I can't."}
    reader.whole(value)
    assert reader.reply().samples[0].finish == {"type": "abort", "message": "refusal: I can't."}


def test_reading_a_stream_in_any_order() -> None:
    reader = ChatReader(2)
    new = []
    for index, text, finish in ((1, "B", None), (0, "A", None), (1, "b", "stop"), (0, "", "stop")):
        choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
        new.append(reader.event({"id": "i", "model": "m", "choices": [choice]}))
    reader.event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 4}})
    reply = reader.reply()
    assert [sample.text for sample in reply.samples] == ["A", "Bb"]
    assert new == ["", "A", "", ""]
    assert reply.usage == Usage(1, 0, 0, 4)


def test_what_is_no_answer() -> None:
    with pytest.raises(Failure, match="0 of 1 choices"):
        ChatReader(1).reply()
    reader = ChatReader(1)
    reader.event({"choices": [{"index": 0, "delta": {"content": "Par"}}]})
    with pytest.raises(Failure, match="broke off") as caught:
        reader.reply()
    assert caught.value.text == "Par"
    with pytest.raises(Failure, match="the server said: overloaded"):
        reader.event({"error": {"message": "overloaded"}})


def test_log_probabilities() -> None:
    reader = ChatReader(1)
    value = SAYS.whole("Hi")
    top = [{"token": "Hi", "logprob": -0.1}, {"token": "Ho", "logprob": -2.0}]
    value["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    reader.whole(value)
    [sample] = reader.reply().samples
    assert sample.logprobs == [[-0.1, -1, "Hi"]]
    assert sample.top_logprobs == [[[-0.1, -1, "Hi"], [-2.0, -1, "Ho"]]]
    old = CompletionReader(1)
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.0}]}
    old.whole({"choices": [{"text": "a", "finish_reason": "stop", "logprobs": logprobs}]})
    [sample] = old.reply().samples
    assert (sample.logprobs, sample.top_logprobs) == ([[-0.5, -1, "a"]], [[[-1.0, -1, "b"]]])


# ---- through the SDK ----------------------------------------------------------------------------


@function
def ask(s: Any, **options: Any) -> None:
    s += system("Be short.") + user("Hi?") + assistant(gen("a", **options))


@pytest.mark.parametrize(
    ("name", "chat", "reasons"),
    [
        ("gpt-4o", True, False),
        ("gpt-3.5-turbo-instruct", False, False),
        ("davinci-002", False, False),
        ("o3-mini", True, True),
        ("gpt-5-nano", True, True),
        ("gpt-5-chat-latest", True, False),
        ("meta-llama/Llama-3-8B", True, False),
    ],
)
def test_what_a_models_name_says(name: str, chat: bool, reasons: bool) -> None:
    backend = OpenAI(name, api_key="k", base_url="http://127.0.0.1:1")
    assert backend.is_chat_model is chat
    assert ("temperature" in backend.capabilities.refused) is reasons
    assert backend.capabilities.select == ("enum" if chat else "ask_again")


def test_reasoning_models_have_other_parameters(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("Ho. Well"))
    with OpenAI("o3-mini", api_key="k", base_url=f"{http.url}/v1") as backend:
        state = ask.run(stop=".", max_tokens=9, backend=backend)
        assert state["a"] == "Ho"
        assert http.bodies[0] == {
            "model": "o3-mini",
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "Hi?"},
            ],
            "max_completion_tokens": 9,
        }
        with pytest.raises(ProgramError, match="temperature=0 is not possible"):
            _ = ask.run(temperature=0, backend=backend)["a"]


def test_azure(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("Ho"))
    backend = OpenAI(
        "my-deployment", is_azure=True, azure_endpoint=http.url, api_version="v", api_key="k"
    )
    with backend:
        assert ask.run(backend=backend)["a"] == "Ho"
    assert http.requests[0].path.startswith("/openai/deployments/my-deployment/chat/completions")
    assert http.requests[0].headers["api-key"] == "k"


def test_a_limit_told_in_advance_is_waited_for(http: ScriptedHttp) -> None:
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "80ms"}
    http.play(SAYS.answer("one", headers=spent), SAYS.answer("two"))
    with SAYS.make(http.url, backoff=FAST) as backend:
        assert ask.run(backend=backend)["a"] == "one"
        started = time.perf_counter()
        state = ask.run(backend=backend)
        assert state["a"] == "two"
        assert time.perf_counter() - started >= 0.07
        assert state.get_meta_info("a")["retries"] == []


def test_what_another_server_takes(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("Ho"))
    with SAYS.make(http.url, accepts=("top_k", "min_p"), stream_usage=False) as backend:
        state = ask.run(top_k=3, min_p=0.5, backend=backend)
        assert state["a"] == "Ho"
        assert (http.bodies[0]["top_k"], http.bodies[0]["min_p"]) == (3, 0.5)
    with pytest.raises(InvalidRequest, match="accepts"):
        SAYS.make(http.url, accepts=("top_q",))


def test_an_assistants_text_is_gone_on_from_only_where_the_server_can(http: ScriptedHttp) -> None:
    @function
    def begun(s: Any) -> None:
        s += user("Hi?") + assistant("Ho " + gen("a"))

    http.play(SAYS.answer("ho"))
    with SAYS.make(http.url) as backend, pytest.raises(ProgramError, match="first thing") as caught:
        _ = begun.run(backend=backend)["a"]
    assert isinstance(caught.value.__cause__, Unsupported)
    assert http.requests == []
    with SAYS.make(http.url, prefill=True) as backend:
        assert begun.run(backend=backend)["a"] == "ho"
    assert http.bodies[0]["messages"][-1] == {"role": "assistant", "content": "Ho "}


def test_samples_that_break_their_constraint_are_asked_for_again(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("12345", "x", "23456"), SAYS.answer("34567"))
    with SAYS.make(http.url, backoff=FAST) as backend:
        state = ask.run(n=3, regex="[0-9]{5}", backend=backend)
        assert state["a"] == ["12345", "23456", "34567"]
    assert [body.get("n", 1) for body in http.bodies] == [3, 1]
    assert [m.get("completion_tokens") for m in state.get_meta_info("a")] == [3, None, 3]
    assert backend.token_usage.completion_tokens == 6


def test_a_server_without_structured_output_is_asked_in_words(http: ScriptedHttp) -> None:
    http.play(SAYS.answer('{"n": "x"}'), SAYS.answer('```json\n{"n": 1}\n```'))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    with SAYS.make(http.url, backoff=FAST, structured=False) as backend:
        assert backend.capabilities.emulated == ("regex", "json_schema")
        state = ask.run(json_schema=schema, backend=backend)
        assert state["a"] == '{"n": 1}'
        assert state.get_meta_info("a")["constraint"]["method"] == "ask_again"
        assert "response_format" not in http.bodies[0]

        @function
        def pick(s: Any) -> None:
            s += user("Hi?") + assistant(select("a", choices=["yes", "no"]))

        http.play(SAYS.answer("Maybe."), SAYS.answer("no."))
        state = pick.run(backend=backend)
        assert state["a"] == "no"
        assert state.get_meta_info("a")["method"] == "ask_again"
    with SAYS.make(http.url, structured=False, max_asks=0) as backend:
        with pytest.raises((Unsupported, ProgramError), match="select"):
            _ = pick.run(backend=backend)["a"]


def test_log_probabilities_of_a_program(http: ScriptedHttp) -> None:
    value = SAYS.whole("Ho")
    value["choices"][0]["logprobs"] = {"content": [{"token": "Ho", "logprob": -0.25}]}
    http.play(of_json(value))
    with SAYS.make(http.url) as backend:
        state = ask.run(return_logprob=True, backend=backend)
        assert state.get_meta_info("a")["output_token_logprobs"] == [[-0.25, -1, "Ho"]]
        with pytest.raises(ProgramError, match="logprob_start_len"):
            _ = ask.run(return_logprob=True, logprob_start_len=0, backend=backend)["a"]


def test_a_server_that_ignores_n(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("one"))
    with SAYS.make(http.url, backoff=FAST) as backend:
        with pytest.raises(ProgramError, match="1 of 2 choices"):
            _ = ask.run(n=2, backend=backend)["a"]
        assert (len(http.requests), backend.token_usage.prompt_tokens) == (1, 10)
    http.play(SAYS.answer("one"), SAYS.answer("two"))
    with SAYS.make(http.url, max_n=1) as backend:
        assert sorted(ask.run(n=2, backend=backend)["a"]) == ["one", "two"]


def test_what_will_not_pass_is_not_repeated(http: ScriptedHttp) -> None:
    quota = {"error": {"message": "pay first", "type": "t", "code": "insufficient_quota"}}
    with SAYS.make(http.url, backoff=FAST) as backend:
        for answer in (of_json(quota, 429), SAYS.error(500, headers={"x-should-retry": "false"})):
            http.play(answer)
            with pytest.raises(ProgramError):
                _ = ask.run(backend=backend)["a"]
            assert len(http.requests) == 1
        http.play(SAYS.error(418, headers={"x-should-retry": "true"}), SAYS.answer("Ho"))
        assert ask.run(backend=backend)["a"] == "Ho"


def test_an_answer_that_does_not_say_why_it_ended(http: ScriptedHttp) -> None:
    value = SAYS.whole("Ho")
    del value["choices"][0]["finish_reason"]
    http.play(of_json(value))
    with SAYS.make(http.url) as backend:
        assert ask.run(backend=backend)["a"] == "Ho"


# ---- completion models --------------------------------------------------------------------------


def completion(text: str, finish: str = "stop") -> Answer:
    value = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    return of_json({**value, "choices": [choice], "usage": usage})


def old(http: ScriptedHttp, **options: Any) -> OpenAI:
    url = f"{http.url}/v1"
    return OpenAI("gpt-3.5-turbo-instruct", base_url=url, api_key="k", backoff=FAST, **options)


def test_a_text_is_continued(http: ScriptedHttp) -> None:
    @function
    def story(s: Any) -> None:
        s += "Once" + gen("a", stop=".") + ". Then" + gen("b")

    http.play(completion(" upon"), completion(" the end"))
    with old(http) as backend:
        state = story.run(backend=backend)
        assert state.text() == "Once upon. Then the end"
    assert http.requests[0].path == "/v1/completions"
    assert [body["prompt"] for body in http.bodies] == ["Once", "Once upon. Then"]
    assert http.bodies[0]["stop"] == ["."]


def test_a_typed_value_in_a_text(http: ScriptedHttp) -> None:
    @function
    def sum_(s: Any) -> None:
        s += "2+2=" + gen("a", dtype=int, temperature=0) + "!"

    http.play(completion(" 4\n3+3="))
    with old(http) as backend:
        assert sum_.run(backend=backend).text() == "2+2=4!"
        http.play(completion(" four"))
        with pytest.raises(ProgramError, match="1 answers were not accepted"):
            sum_.run(backend=backend).text()
        assert len(http.requests) == 1  # with no chance in it, another answer would be the same


class Letters:
    """A tokenizer: each letter is a token."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


@function
def pick(s: Any) -> None:
    s += "It is " + select("a", choices=["cat", "car", "dog"])


def test_select_by_logit_bias(http: ScriptedHttp) -> None:
    http.play(completion("c"), completion("r"))
    with old(http, tokenizer=Letters()) as backend:
        assert backend.capabilities.select == "logit_bias"
        state = pick.run(backend=backend)
        assert state["a"] == "car"
    meta = state.get_meta_info("a")
    assert meta["scores"] == [2.0, 3.0, 0.0]
    assert (meta["method"], meta["attempts"], meta["prompt_tokens"]) == ("logit_bias", 2, 10)
    first, second = http.bodies  # the letter a was the only one left: nothing to ask
    assert first["logit_bias"] == {str(ord("c")): 100, str(ord("d")): 100}
    assert (first["max_tokens"], first["temperature"]) == (1, 0)
    assert (first["prompt"], second["prompt"]) == ("It is ", "It is ca")
    assert second["logit_bias"] == {str(ord("t")): 100, str(ord("r")): 100}


def test_select_by_logit_bias_when_the_model_says_something_else(http: ScriptedHttp) -> None:
    http.play(completion("c"), completion("?"))
    with old(http, tokenizer=Letters()) as backend:
        state = pick.run(backend=backend)
        assert (state["a"], state.get_meta_info("a")["scores"]) == ("cat", [2.0, 2.0, 0.0])


def test_a_tokenizer_that_gives_encodings(http: ScriptedHttp) -> None:
    class Encodings(Letters):
        def encode(self, text: str, add_special_tokens: bool = True) -> Any:
            special = [1] if add_special_tokens else []
            return SimpleNamespace(ids=special + super().encode(text))

    http.play(completion("d"))
    with old(http, tokenizer=Encodings()) as backend:
        assert pick.run(backend=backend)["a"] == "dog"


def test_select_without_a_tokenizer(http: ScriptedHttp) -> None:
    http.play(completion(" dog, a big one"), completion("bird"))
    with old(http) as backend:
        state = pick.run(backend=backend)
        assert state["a"] == "dog"
        assert state.get_meta_info("a")["method"] == "ask_again"
        with pytest.raises(ProgramError, match="it is none of"):
            _ = pick.run(backend=backend)["a"]


# ---- speculation, usage -------------------------------------------------------------------------


def test_nothing_is_loaded_or_sent_at_construction() -> None:
    backend = OpenAI("gpt-4o", base_url="http://127.0.0.1:1/v1", api_key="k")
    assert backend.token_usage.requests == 0
    assert "gpt-4o" in repr(backend)
    with pytest.raises(InvalidRequest, match="model_name"):
        OpenAI("", api_key="k")


def test_the_key_is_in_no_message(http: ScriptedHttp) -> None:
    http.play(SAYS.error(401, "no such key"))
    url = f"{http.url}/v1"
    backend = OpenAI("gpt-4o", base_url=url, api_key="sk-very-secret", backoff=FAST)
    with pytest.raises(ProgramError) as caught:
        _ = ask.run(backend=backend)["a"]
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "sk-very-secret" not in str(caught.value)
    assert "sk-very-secret" not in json.dumps(backend.get_server_info())


def test_a_batch_on_a_server_that_fails_now_and_then(http: ScriptedHttp) -> None:
    seen: dict[str, int] = {}

    def by(request: Seen) -> Answer:
        text = SAYS.user_text(request.body)
        seen[text] = seen.get(text, 0) + 1
        if len(text) % 2 and seen[text] == 1:
            return SAYS.error(503)
        return SAYS.answer(text.upper())

    @function
    def shout(s: Any, word: str) -> None:
        s += user(word) + assistant(gen("a"))

    http.play(by=by)
    words = ["a" * size for size in range(1, 9)]
    with SAYS.make(http.url, backoff=FAST) as backend:
        states = shout.run_batch([{"word": word} for word in words], backend=backend)
        assert [state["a"] for state in states] == [word.upper() for word in words]
        assert backend.token_usage.requests == 12
        assert backend.token_usage.prompt_tokens == 80


def test_a_streamed_constraint_that_breaks_cannot_be_taken_back(http: ScriptedHttp) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    http.play(SAYS.stream('{"n": ', '"x"}'))
    with SAYS.make(http.url, backoff=FAST) as backend:
        state = ask.run(json_schema=schema, backend=backend, stream=True)
        with pytest.raises(ProgramError, match="not accepted"):
            list(state.text_iter("a"))
    assert len(http.requests) == 1


def test_calls_without_a_program(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("Ho"))
    call = GenerateCall(prompt=EMPTY + "Hi", params=SamplingParams(n=200))
    with SAYS.make(http.url) as backend:
        with pytest.raises(InvalidRequest, match="more than 128"):
            asyncio.run(backend.generate(call))
    assert ramet.OpenAI is OpenAI
