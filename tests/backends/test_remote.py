"""Programs on a server: the same results, what is sent, connections, streams."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.backends.native_server import NativeServer

import ramet as sgl
from ramet import RuntimeEndpoint
from ramet.backend import Capabilities, GenerateCall
from ramet.backends.remote_protocol import StreamAnswers, image_data, sampling_values, wire_spans
from ramet.backends.scripted import Scripted
from ramet.errors import BackendError, InvalidRequest, ProgramError
from ramet.lang.chat_template import get_chat_template
from ramet.params import SamplingParams
from ramet.prompt import EMPTY, Media, Text, Tokens

STYLES = pytest.mark.parametrize(
    ("style", "has_tokenize"), [("ramet", True), ("sglang", True), ("sglang", False)]
)


@sgl.function
def everything(s):
    s += sgl.user("Hello " + sgl.gen("a", n=2, return_logprob=True, top_logprobs_num=2))
    s += " then" + sgl.select("c", [" yes", " no it is"])
    forks = s.fork(3)
    forks += lambda i: f" branch {i} " + sgl.gen("b", stop=">")
    forks.join()


@STYLES
@pytest.mark.parametrize("stream", [False, True])
def test_a_program_gives_what_it_gives_without_a_server(style, has_tokenize, stream) -> None:
    wanted = everything.run(backend=Scripted())
    with NativeServer(Scripted(), style, has_tokenize) as server:
        state = everything.run(backend=RuntimeEndpoint(server.url), stream=stream)
        assert "".join(state.text_iter()) == wanted.text() == state.text()
        assert [state[name] for name in "abc"] == [wanted[name] for name in "abc"]
        assert state.messages() == wanted.messages()
        got, own = state.get_meta_info("a"), wanted.get_meta_info("a")
        assert [json.dumps(m["output_token_logprobs"]) for m in got] == [
            json.dumps(m["output_token_logprobs"]) for m in own
        ]
        assert got[0]["output_top_logprobs"] == own[0]["output_top_logprobs"]
        assert state.get_meta_info("c")["normalized_prompt_logprobs"] == pytest.approx(
            wanted.get_meta_info("c")["normalized_prompt_logprobs"]
        )


def test_what_was_generated_goes_back_as_the_tokens_it_was() -> None:
    @sgl.function
    def program(s):
        s += "one " + sgl.gen("a") + " two" + " three" + sgl.gen("b")

    with NativeServer(Scripted(lambda _: "x y")) as server:
        program.run(backend=RuntimeEndpoint(server.url)).sync()
        spans = [body["spans"] for body in server.bodies()]
    assert spans[0] == ["one "]
    assert [type(span) for span in spans[1]] == [str, list, str]
    assert spans[1][2] == " two three"  # neighbours are one text


def test_other_servers_get_the_whole_text() -> None:
    @sgl.function
    def program(s):
        s += "one " + sgl.gen("a") + " two" + sgl.gen("b", max_tokens=7, temperature=0)

    with NativeServer(Scripted(lambda _: "x y"), "sglang") as server:
        program.run(backend=RuntimeEndpoint(server.url)).sync()
        body = server.bodies()[1]
    assert body["text"] == "one x y two"
    assert body["sampling_params"] == {
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "max_new_tokens": 7,
        "min_new_tokens": 0,
        "n": 1,
        "stop": [],
        "stop_token_ids": [],
        "stop_regex": [],
        "temperature": 0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "ignore_eos": False,
        "regex": None,
        "json_schema": None,
    }
    assert "return_logprob" not in body
    assert "stream" not in body


def test_values_that_were_set_are_sent() -> None:
    sent = sampling_values(
        SamplingParams(logit_bias=((5, 1.5),), sampling_seed=3, ebnf="root ::= x")
    )
    assert (sent["logit_bias"], sent["sampling_seed"], sent["ebnf"]) == (
        {"5": 1.5},
        3,
        "root ::= x",
    )
    prompt = EMPTY + Text("a") + Text("b") + Tokens((1, 2), "xy") + Text("c")
    assert wire_spans(prompt) == ["ab", [1, 2], "c"]
    media = Media("image", b"d", 0, "<image>", b"data", "image/png")
    assert wire_spans(prompt + media) == ["ab", [1, 2], "c<image>"]
    assert image_data(prompt + media) == ["ZGF0YQ=="]


def test_connections_are_kept() -> None:
    @sgl.function
    def program(s):
        for i in range(20):
            s += f"{i}" + sgl.gen(max_tokens=1)

    with NativeServer(Scripted()) as server:
        endpoint = RuntimeEndpoint(server.url)
        program.run(backend=endpoint).sync()
        program.run(backend=endpoint).sync()
        assert len(server.bodies()) == 40
        assert server.connections == 2  # one for questions, one for calls


def test_the_key_and_the_address() -> None:
    with NativeServer(Scripted()) as server:
        endpoint = RuntimeEndpoint(server.url + "/", api_key="abc")
        assert endpoint.base_url == server.url
        assert endpoint.flush_cache() is True
        assert sgl.flush_cache(endpoint) is True
        assert sgl.get_server_info(endpoint)["version"] == "test"
        endpoint.start_profile()
        endpoint.stop_profile()
        endpoint.cache_prefix("a long text")
        assert {seen.headers["authorization"] for seen in server.seen} == {"Bearer abc"}
        assert server.bodies()[0]["sampling_params"]["max_new_tokens"] == 0
        assert endpoint.get_model_name() == "scripted"
        assert "scripted" in repr(endpoint)
    with pytest.raises(InvalidRequest, match="http://host:port"):
        RuntimeEndpoint("localhost:30000")


def test_servers_with_the_newer_names_of_routes() -> None:
    class Newer(NativeServer):
        route_model_info = NativeServer.route_get_model_info
        route_server_info = NativeServer.route_get_server_info
        route_get_model_info = route_get_server_info = None  # type: ignore[assignment]

    with Newer(Scripted()) as server:
        endpoint = RuntimeEndpoint(server.url)
        assert (endpoint.model_path, endpoint.get_server_info()["version"]) == ("scripted", "test")


def test_a_busy_server_does_not_flush() -> None:
    with NativeServer(Scripted()) as server:
        server.backend.active = 1
        assert RuntimeEndpoint(server.url).flush_cache() is False


@pytest.mark.parametrize(
    ("info", "wanted"),
    [
        ({}, Capabilities(seed=True, regex=True, json_schema=True, ebnf=True, structural_tag=True)),
        ({"extensions": []}, {"seed": False, "regex": True}),
        ({"extensions": [], "enable_deterministic_inference": True}, {"seed": True}),
        ({"grammar_backend": "none"}, {"regex": False, "json_schema": False}),
    ],
)
def test_what_a_server_can_do(info: dict[str, Any], wanted: Any) -> None:
    with NativeServer(Scripted(), info=info) as server:
        can = RuntimeEndpoint(server.url).capabilities
    if isinstance(wanted, Capabilities):
        assert can == wanted
    else:
        assert {name: getattr(can, name) for name in wanted} == wanted


def test_chat_templates() -> None:
    @sgl.function
    def program(s):
        s += sgl.user("Hi")

    def text(**options: Any) -> str:
        backend = Scripted(model_path="some/Llama-3-8B-Instruct")
        with NativeServer(backend, "sglang") as server:
            return program.run(backend=RuntimeEndpoint(server.url, **options)).text()

    assert text() == get_chat_template("llama-3-instruct").get_prompt(
        [{"role": "user", "content": "Hi"}]
    )
    assert "<|im_start|>user" in text(chat_template_name="chatml")
    with pytest.raises(InvalidRequest, match="known are"):
        text(chat_template_name="no such one")


def test_a_text_that_is_no_unicode_is_refused_here() -> None:
    @sgl.function
    def program(s):
        s += "half \ud800" + sgl.gen("a")

    with NativeServer(Scripted(), "sglang") as server:
        state = program.run(backend=RuntimeEndpoint(server.url))
        with pytest.raises(ProgramError, match="lone surrogate"):
            state["a"]


def test_a_hint_computes_the_prefix_before_its_branches_arrive() -> None:
    @sgl.function
    def program(s):
        s += "A long common beginning."
        forks = s.fork(4)
        forks += sgl.gen("a")
        forks.join()

    with NativeServer(Scripted(latency=0.02), "sglang") as server:
        program.run(backend=RuntimeEndpoint(server.url))
        tokens = [body["sampling_params"]["max_new_tokens"] for body in server.bodies()]
        assert tokens == [0, 128, 128, 128, 128]
        assert server.backend.max_active == 4
        first = server.backend.calls[0]
        assert first.prompt.text() == "A long common beginning."


def test_cancelling_aborts_the_request() -> None:
    @sgl.function
    async def program(s):
        s += "x" + sgl.gen("a")
        await s.value("a")

    async def main(server: NativeServer) -> None:
        task = asyncio.ensure_future(program.arun(backend=RuntimeEndpoint(server.url)))
        while not server.backend.active:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not server.aborted or not server.backend.cancelled:
            await asyncio.sleep(0.005)

    with NativeServer(Scripted(latency=30)) as server:
        asyncio.run(asyncio.wait_for(main(server), 10))
        assert server.aborted == [server.bodies()[0]["rid"]]
        assert server.backend.cancelled == server.aborted


def test_giving_up_a_stream_ends_it_on_the_server() -> None:
    @sgl.function
    def program(s):
        s += "x" + sgl.gen("a")

    backend = Scripted(lambda _: "word " * 500, chunk_latency=0.01)
    with NativeServer(backend) as server:
        state = program.run(backend=RuntimeEndpoint(server.url), stream=True)
        next(state.text_iter("a"))
        state.cancel()
        assert isinstance(state.error(), ProgramError)
        wait_until(lambda: bool(backend.cancelled))


def wait_until(condition, seconds: float = 5.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


def test_any_loop_may_use_an_endpoint() -> None:
    with NativeServer(Scripted(lambda _: "hi")) as server:
        endpoint = RuntimeEndpoint(server.url)
        call = GenerateCall(prompt=EMPTY + "x", params=SamplingParams())
        for _ in range(2):
            (completion,) = asyncio.run(endpoint.generate(call))
            assert completion.text == "hi"
        endpoint.shutdown()
        with pytest.raises(BackendError, match="shut down"):
            asyncio.run(endpoint.generate(call))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_certificates(tmp_path: Path) -> None:
    both = str(tmp_path / "both.pem")
    words = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {both} -out {both}.crt"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words.split(), *names], check=True, capture_output=True)
    Path(both).write_text(Path(both).read_text() + Path(both + ".crt").read_text())

    @sgl.function
    def program(s):
        s += "x" + sgl.gen("a")

    with NativeServer(Scripted(lambda _: "hi"), certificate=both) as server:
        for verify in (both + ".crt", False):
            endpoint = RuntimeEndpoint(server.url, verify=verify)
            assert program.run(backend=endpoint)["a"] == "hi"
            endpoint.shutdown()
        with pytest.raises(BackendError, match="CERTIFICATE_VERIFY_FAILED"):
            RuntimeEndpoint(server.url)


# Streams, byte by byte


def event(text: str, reason: Any = None, **more: Any) -> bytes:
    meta = {"finish_reason": reason, **more.pop("meta", {})}
    return json.dumps({"text": text, "meta_info": meta, **more}).encode()


def test_increments_of_cumulative_texts() -> None:
    answers = StreamAnswers(1)
    texts = ["a", "a b\ufffd", "a b\ufffd\ufffd", "a b\u00e9"]
    chunks = [answers.event(event(text)) for text in texts]
    assert [chunk.text if chunk else None for chunk in chunks] == ["a", " b", "", "\u00e9"]
    last = answers.event(event("a b\u00e9\ufffd", {"type": "length"}))
    assert last is not None
    assert last.text == "\ufffd"  # there is nothing to come that could complete it
    assert answers.event(b"[DONE]") is None
    assert answers.done
    assert answers.answers()[0].text == "a b\u00e9\ufffd"


def test_the_beginning_of_a_stop_is_held_back() -> None:
    """SGLang streams it, and takes it back when the stop is complete."""
    answers = StreamAnswers(1, stops=("\n\nHuman:", "\n\n\n"))
    texts = ["a", "a\n", "a\nb", "a\nb\n\nHum", "a\nb\n\nHuge\n\n"]
    chunks = [answers.event(event(text)) for text in texts]
    assert [chunk.text if chunk else None for chunk in chunks] == ["a", "", "\nb", "", "\n\nHuge"]
    last = answers.event(event("a\nb\n\nHuge", {"type": "stop", "matched": "\n\n\n"}))
    assert last is not None
    assert last.text == ""
    silent = StreamAnswers(1, whole=True)
    chunks = [silent.event(event("a")), silent.event(event("a", {"type": "stop"}))]
    assert [chunk.text if chunk else None for chunk in chunks] == ["", "a"]


def test_a_stream_of_increments_is_refused() -> None:
    answers = StreamAnswers(1)
    answers.event(event("Once upon"))
    with pytest.raises(BackendError, match="not cumulative"):
        answers.event(event(" a time"))


def test_per_token_lists_hold_each_token_once() -> None:
    answers = StreamAnswers(1)
    first = answers.event(event("a", meta={"output_token_logprobs": [[-1, 1, None]]}))
    both = [[-1, 1, None], [-2, 2, None]]
    second = answers.event(event("ab", {"type": "stop"}, meta={"output_token_logprobs": both}))
    assert first is not None
    assert second is not None
    assert first.meta_info["output_token_logprobs"] == both[:1]
    assert second.meta_info["output_token_logprobs"] == both[1:]
    assert answers.answers()[0].meta_info["output_token_logprobs"] == both


def test_samples_of_a_stream() -> None:
    answers = StreamAnswers(2)
    assert answers.event(event("x", {"type": "stop"}, index=1)) is None
    with pytest.raises(BackendError, match="ended before"):
        answers.answers()
    answers.event(event("y", {"type": "stop"}, index=0))
    assert [answer.text for answer in answers.answers()] == ["y", "x"]


def test_lines_are_ends_of_events_only_where_the_protocol_says_so() -> None:
    text = "one\u2028two\x85three\x0bfour\x1cfive"

    @sgl.function
    def program(s):
        s += "x" + sgl.gen("a")

    with NativeServer(Scripted(lambda _: text)) as server:
        state = program.run(backend=RuntimeEndpoint(server.url), stream=True)
        assert "".join(state.text_iter("a")) == text
