"""`ramet.Gemini` and `ramet.VertexAI`: the protocol as pure functions, and what only they have, through
Google's own SDK."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.backends.scripted_http import GeminiSays, ScriptedHttp, of_json

import ramet
from ramet import assistant, function, gen, system, user
from ramet.backends.api_limits import Backoff
from ramet.backends.api_records import Failure, Image, Part, Question, Turn, Usage
from ramet.backends.gemini_wire import ContentReader, content_request, read_usage, retry_delay
from ramet.errors import InvalidRequest, ProgramError, Unsupported
from ramet.params import SamplingParams

FAST = Backoff(first=0.001, longest=0.004)
SAYS = GeminiSays()


@pytest.fixture(scope="module")
def http() -> Iterator[ScriptedHttp]:
    server = ScriptedHttp()
    yield server
    server.close()


def turn(role: str, *contents: Any) -> Turn:
    return Turn(role, tuple(map(Part, contents)))


def request(*turns: Turn, **more: Any) -> dict[str, Any]:
    given = {"model": "m", "params": SamplingParams(), "turns": turns, **more}
    return content_request(Question(**given), name="B")


# ---- the protocol, without I/O ------------------------------------------------------------------


def test_a_plain_request() -> None:
    assert request(turn("user", "Hi")) == {
        "model": "m",
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "config": {"max_output_tokens": 128, "temperature": 1.0, "top_p": 1.0},
    }


def test_a_full_request() -> None:
    params = SamplingParams(
        top_k=3, frequency_penalty=0.5, presence_penalty=0.25, sampling_seed=2**40 + 5
    )
    config = request(
        turn("system", "a", "b"),
        turn("user", "c"),
        turn("assistant", "d"),
        turn("user", "e"),
        turn("user", "f"),
        params=params,
        n=2,
        stops=("x",),
        top_logprobs=4,
        schema={"type": "integer"},
    )
    assert [content["role"] for content in config["contents"]] == ["user", "model", "user"]
    assert config["contents"][2]["parts"] == [{"text": "e"}, {"text": "f"}]
    config = config["config"]
    assert config["system_instruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert (config["top_k"], config["candidate_count"], config["seed"]) == (3, 2, 5)
    assert (config["frequency_penalty"], config["presence_penalty"]) == (0.5, 0.25)
    assert config["stop_sequences"] == ["x"]
    assert (config["response_logprobs"], config["logprobs"]) == (True, 4)
    assert config["response_mime_type"] == "application/json"
    assert config["response_json_schema"] == {"type": "integer"}


def test_a_schema_beyond_its_dialect_is_json_mode() -> None:
    config = request(turn("user", "a"), schema={"not": {}}, strict=False)["config"]
    assert config["response_mime_type"] == "application/json"
    assert "response_json_schema" not in config


def test_images_in_a_request() -> None:
    picture, link = Image("image/png", "QUJD"), Image(url="https://x/y.jpg")
    [content] = request(turn("user", "What?", picture, link))["contents"]
    assert content["parts"] == [
        {"text": "What?"},
        {"inline_data": {"mime_type": "image/png", "data": b"ABC"}},
        {"file_data": {"file_uri": "https://x/y.jpg", "mime_type": "image/jpeg"}},
    ]
    with pytest.raises(InvalidRequest, match="base64"):
        request(turn("user", Image("image/png", "QUJDR")))


def test_conversations_that_it_cannot_carry() -> None:
    with pytest.raises(Unsupported, match="system block after other blocks"):
        request(turn("user", "a"), turn("system", "b"))
    with pytest.raises(Unsupported, match="no user's block"):
        request(turn("system", "a"))
    with pytest.raises(InvalidRequest, match="role"):
        request(turn("oracle", "a"))


def test_reading_usage() -> None:
    found = {"prompt_token_count": 9, "candidates_token_count": 2, "thoughts_token_count": 5}
    assert read_usage(found) == Usage(9, 0, 0, 7)
    assert read_usage({**found, "cached_content_token_count": 4}) == Usage(9, 4, 0, 7)
    assert read_usage({"total_token_count": 3}) is None


def chunk(text: str = "", finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": text}]}, "finish_reason": finish}
    return {"candidates": [{**candidate, **more}]}


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", {"type": "stop"}),
        ("MAX_TOKENS", {"type": "length"}),
        ("SAFETY", {"type": "abort", "message": "SAFETY"}),
        ("RECITATION", {"type": "abort", "message": "RECITATION"}),
    ],
)
def test_finish_reasons(reason: str, finish: dict[str, Any]) -> None:
    reader = ContentReader(1)
    reader.whole(chunk("x", reason))
    assert reader.reply().samples[0].finish == finish


def test_thoughts_are_no_text() -> None:
    reader = ContentReader(1)
    parts = [{"text": "hm", "thought": True}, {"text": "Paris"}]
    reader.whole({"candidates": [{"content": {"parts": parts}, "finish_reason": "STOP"}]})
    assert reader.reply().samples[0].text == "Paris"


def test_reading_a_stream() -> None:
    reader = ContentReader(1)
    assert [reader.event(chunk(text)) for text in ("Pa", "ris")] == ["Pa", "ris"]
    with pytest.raises(Failure, match="broke off") as caught:
        reader.reply()
    assert caught.value.text == "Paris"
    reader.event({**chunk("", "STOP"), "usage_metadata": {"prompt_token_count": 2}})
    assert reader.reply().usage == Usage(2, 0, 0, 0)


def test_a_blocked_prompt() -> None:
    reader = ContentReader(1)
    reader.whole({"prompt_feedback": {"block_reason": "SAFETY"}})
    finish = reader.reply().samples[0].finish
    assert finish == {"type": "abort", "message": "prompt blocked: SAFETY"}


def test_log_probabilities() -> None:
    reader = ContentReader(1)
    token = {"token": "Hi", "token_id": 7, "log_probability": -0.5}
    found = {"chosen_candidates": [token], "top_candidates": [{"candidates": [token]}]}
    reader.whole(chunk("Hi", "STOP", logprobs_result=found))
    [sample] = reader.reply().samples
    assert (sample.logprobs, sample.top_logprobs) == ([[-0.5, 7, "Hi"]], [[[-0.5, 7, "Hi"]]])


def test_the_wait_in_an_errors_details() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}
    assert retry_delay({"error": {"details": [{"@type": "x"}, info]}}) == 1.5
    assert retry_delay({"error": {"details": [{**info, "retryDelay": "soon"}]}}) is None
    assert retry_delay({}) is None
    assert retry_delay("text") is None


# ---- through the SDK ----------------------------------------------------------------------------


@function
def ask(s: Any, **options: Any) -> None:
    s += system("Be short.") + user("Hi?") + assistant(gen("a", **options))


def test_the_wait_in_an_errors_details_is_honoured(http: ScriptedHttp) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.08s"}
    error = {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [info]}
    http.play(of_json({"error": error}, 429), SAYS.answer("Ho"))
    with SAYS.make(http.url, backoff=FAST) as backend:
        started = time.perf_counter()
        state = ask.run(backend=backend)
        assert state["a"] == "Ho"
        assert time.perf_counter() - started >= 0.08
        assert state.get_meta_info("a")["retries"][0]["reason"] == "HTTP 429: quota"


def test_a_blocked_prompt_is_an_error_at_the_programs_line(http: ScriptedHttp) -> None:
    http.play(of_json({"promptFeedback": {"blockReason": "SAFETY"}}))
    with SAYS.make(http.url) as backend:
        with pytest.raises(ProgramError, match="prompt blocked: SAFETY") as caught:
            _ = ask.run(backend=backend)["a"]
    assert caught.value.location.startswith(__file__)
    assert len(http.requests) == 1


def test_a_schema_beyond_its_dialect_is_said_in_words(http: ScriptedHttp) -> None:
    schema = {"type": "object", "patternProperties": {"^x": {"type": "integer"}}}
    http.play(SAYS.answer('{"x1": "a"}'), SAYS.answer('{"x1": 1}'))
    with SAYS.make(http.url, backoff=FAST) as backend:
        state = ask.run(json_schema=schema, backend=backend)
        assert state["a"] == '{"x1": 1}'
        constraint = state.get_meta_info("a")["constraint"]
        assert (constraint["method"], constraint["asks"]) == ("JSON mode and ask_again", 2)
    assert "patternProperties" in SAYS.user_text(http.bodies[0])


def test_images_and_safety_settings_reach_the_server(http: ScriptedHttp) -> None:
    http.play(SAYS.answer("Ho"))
    setting = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}
    with SAYS.make(http.url, safety_settings=[setting]) as backend:
        assert ask.run(backend=backend)["a"] == "Ho"
    assert http.bodies[0]["safetySettings"] == [setting]
    assert http.bodies[0]["systemInstruction"] == {"parts": [{"text": "Be short."}]}


def test_going_on_in_an_assistants_block_is_refused(http: ScriptedHttp) -> None:
    @function
    def begun(s: Any) -> None:
        s += user("Hi?") + assistant("Ho " + gen("a"))

    http.play()
    with SAYS.make(http.url) as backend, pytest.raises(ProgramError, match="first thing"):
        _ = begun.run(backend=backend)["a"]
    assert http.requests == []


def test_vertex(http: ScriptedHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GCP_PROJECT_ID", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidRequest, match="GCP_PROJECT_ID"):
        ramet.VertexAI("gemini-2.5-flash")
    monkeypatch.setenv("GCP_PROJECT_ID", "my-project")
    monkeypatch.setenv("GCP_LOCATION", "europe-west4")
    credentials = pytest.importorskip("google.oauth2.credentials").Credentials(token="t")
    http.play(SAYS.answer("Ho"))
    backend = ramet.VertexAI(
        "gemini-2.5-flash", None, base_url=http.url, credentials=credentials, backoff=FAST
    )
    with backend:
        assert ask.run(backend=backend)["a"] == "Ho"
    [seen] = http.requests
    assert "projects/my-project/locations/europe-west4" in seen.path
    assert seen.headers["authorization"] == "Bearer t"
    assert json.dumps(seen.body).count("Hi?") == 1
