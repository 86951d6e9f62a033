"""The native protocol as plain HTTP against a real server. What it answers is what `ramet.Engine` answers, bit
for bit; every field has its effect, and what is wrong is refused by its name.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.server.launched import Launched

import ramet as sgl
from ramet.backend import ScoreCall
from ramet.prompt import Prompt, Text, Tokens

PROMPT = "The color of the sky is"
CHAT = "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\n"
GREEDY = {"temperature": 0, "max_new_tokens": 8}
# Nothing is said twice, so that nothing can be guessed: takes longer than any test waits.
LONG = {"max_new_tokens": 3000, "ignore_eos": True, "frequency_penalty": 2.0}
# Differs between two runs of the same request.
_OF_THE_RUN = ("id", "e2e_latency", "first_token_latency", "cached_tokens", "num_preemptions")


@pytest.fixture(scope="module")
def http(server: Launched) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=40) as client:
        yield client


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with sgl.Engine("pocket", num_threads=1, max_cache_tokens=20_000) as running:
        yield running


def generate(http: httpx.Client, text: Any = PROMPT, params: Any = GREEDY, **fields: Any) -> Any:
    body = {"text": text, "sampling_params": params, **fields}
    answer = http.post("/generate", json={k: v for k, v in body.items() if v is not ...})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(http: httpx.Client, body: dict[str, Any]) -> list[Any]:
    """All of a stream; its last line is "[DONE]"."""
    with http.stream("POST", "/generate", json={**body, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith(("data: ", ":")) for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1] if line.startswith("data: ")]


def same(answer: Any) -> Any:
    """Without what differs between two runs, as JSON has it."""
    if isinstance(answer, list):
        return [same(one) for one in answer]
    meta = {k: v for k, v in answer["meta_info"].items() if k not in _OF_THE_RUN}
    meta.pop("seed", None)
    found: Any = json.loads(json.dumps({**answer, "meta_info": meta}))
    found.pop("index", None)
    return found


def refused(
    http: httpx.Client, body: Any, field: str, says: str = "", path: str = "/generate"
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400, (body, answer.text)
    error = answer.json()["error"]
    assert error.get("param") == field, error
    assert field in error["message"]
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


def stats(http: httpx.Client) -> dict[str, int]:
    state: dict[str, int] = http.get("/get_server_info").json()["internal_states"][0]
    return state


def wait_for(http: httpx.Client, name: str, count: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while (now := stats(http))[name] != count:
        assert time.monotonic() < end, (name, now)
        time.sleep(0.02)


# -- what is generated is what the engine generates ------------------------------------------------------

_GREEDY, _ENDLESS = {"temperature": 0}, {"temperature": 0, "ignore_eos": True}
# A field, its value, and what else is given.
PARAMS: list[tuple[str, Any, dict[str, Any]]] = [
    ("temperature", 0, {}),
    ("temperature", 1.7, {}),
    ("top_p", 0.6, {"temperature": 1.7}),
    ("top_k", 3, {"temperature": 1.7}),
    ("min_p", 0.2, {"temperature": 1.7}),
    ("frequency_penalty", 2, {**_ENDLESS, "max_new_tokens": 80}),
    ("presence_penalty", 2, {**_ENDLESS, "max_new_tokens": 80}),
    ("repetition_penalty", 1.6, _ENDLESS),
    ("stop", [",", "an"], _GREEDY),
    ("no_stop_trim", True, {**_GREEDY, "stop": ","}),
    ("stop_regex", "[m-p]e", _GREEDY),
    ("stop_token_ids", [300, 301], {**_GREEDY, "logit_bias": {"301": 90.0}}),
    ("max_new_tokens", 3, _GREEDY),
    ("min_new_tokens", 20, _GREEDY),
    ("ignore_eos", True, _GREEDY),
    ("skip_special_tokens", False, _ENDLESS),
    ("logit_bias", {"300": 40.0, "301": 40.5}, _GREEDY),
    ("sampling_seed", 12, {"temperature": 1.7}),
    ("regex", r"[a-f]{2,5} \d+", {}),
    ("json_schema", '{"type":"object","properties":{"a":{"type":"integer"}}}', {}),
    ("ebnf", 'root ::= ("ab" | "c")+ "."', {}),
    ("n", 3, {"temperature": 1.7}),
]


@pytest.mark.parametrize(
    ("field", "value", "others"), PARAMS, ids=[f"{i}-{f[0]}" for i, f in enumerate(PARAMS)]
)
def test_sampling_is_the_engines(
    http: httpx.Client, engine: Any, field: str, value: Any, others: dict[str, Any]
) -> None:
    without = {"max_new_tokens": 24, "sampling_seed": 11, **others}
    params, details = {**without, field: value}, {"return_logprob": True, "top_logprobs_num": 2}
    answer = generate(http, CHAT, params, **details)
    assert same(answer) == same(engine.generate(CHAT, params, **details))
    other = generate(http, CHAT, without)
    assert texts_of(answer) != texts_of(other), "the field has no effect"


def texts_of(answer: Any) -> list[tuple[str, list[int]]]:
    answers = answer if isinstance(answer, list) else [answer]
    return [(one["text"], one["output_ids"]) for one in answers]


def test_the_ends(http: httpx.Client) -> None:
    free = generate(http, CHAT, {"temperature": 0, "max_new_tokens": 24})
    assert free["meta_info"]["finish_reason"] == {"type": "stop", "matched": 2}  # the end token
    assert "<|im_end|>" not in free["text"]
    cut = generate(http, CHAT, {"temperature": 0, "stop": ["never", ","]})
    assert cut["meta_info"]["finish_reason"] == {"type": "stop", "matched": ","}
    assert cut["text"] == free["text"].partition(",")[0]
    kept = generate(http, CHAT, {"temperature": 0, "stop": [","], "no_stop_trim": True})
    assert kept["text"] == cut["text"] + ","
    short = generate(http, CHAT, {"temperature": 0, "max_new_tokens": 2})
    assert short["meta_info"]["finish_reason"] == {"type": "length", "length": 2}
    assert len(short["output_ids"]) == short["meta_info"]["completion_tokens"] == 2
    held = generate(http, CHAT, {"regex": "[ab]{3}"})
    assert held["meta_info"]["finish_reason"]["type"] == "stop"


def test_a_seed_is_told_and_repeats(http: httpx.Client) -> None:
    first = generate(http, CHAT, {"max_new_tokens": 30, "ignore_eos": True})
    again = {"max_new_tokens": 30, "ignore_eos": True}
    again["sampling_seed"] = first["meta_info"]["seed"]
    assert generate(http, CHAT, again)["output_ids"] == first["output_ids"]
    other = generate(http, CHAT, {"max_new_tokens": 30, "ignore_eos": True})
    assert other["output_ids"] != first["output_ids"]


# -- one prompt and many -----------------------------------------------------------------------------


def test_forms_of_prompts(http: httpx.Client, engine: Any) -> None:
    one = generate(http)
    assert set(one) == {"text", "output_ids", "meta_info"}
    ids = engine.tokenizer.encode(PROMPT)
    assert one["meta_info"]["prompt_tokens"] == len(ids)
    assert same(generate(http, ..., input_ids=ids)) == same(one)
    texts = [PROMPT, "1, 2, 3,", "a"]
    many = generate(http, texts)
    assert isinstance(many, list)
    assert same(many) == [same(generate(http, text)) for text in texts]
    assert same(generate(http, ..., input_ids=[ids])) == [same(one)]
    assert same(generate(http, [PROMPT])) == [same(one)]
    put = http.put("/generate", json={"text": PROMPT, "sampling_params": GREEDY})
    assert same(put.json()) == same(one)
    assert generate(http, PROMPT, None)["meta_info"]["finish_reason"]["type"] in ("stop", "length")


def test_each_prompt_may_have_its_own(http: httpx.Client) -> None:
    texts, params = [PROMPT, CHAT], [{**GREEDY, "n": 2}, {"temperature": 0, "max_new_tokens": 1}]
    found = generate(
        http,
        texts,
        params,
        return_logprob=[True, False],
        logprob_start_len=[0, -1],
        top_logprobs_num=[1, 0],
        token_ids_logprob=[[5, 6], []],
        rid=["first", "second"],
    )
    assert [one["meta_info"]["completion_tokens"] for one in found] == [8, 8, 1]
    assert [one["meta_info"]["id"] for one in found] == ["first#0", "first#1", "second"]
    assert same(found[0]) == same(found[1])
    assert len(found[0]["meta_info"]["input_token_logprobs"]) > 1
    assert "output_token_logprobs" not in found[2]["meta_info"]


def test_a_prompt_without_new_tokens(http: httpx.Client) -> None:
    text = "A prefix that nobody has used before, for a program to begin with."
    filled = generate(http, text, {"max_new_tokens": 0})
    assert (filled["text"], filled["output_ids"]) == ("", [])
    assert filled["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
    length = filled["meta_info"]["prompt_tokens"]
    assert generate(http, text)["meta_info"]["cached_tokens"] == length - 1
    scored = generate(http, text, {"max_new_tokens": 0}, return_logprob=True)["meta_info"]
    assert len(scored["input_token_logprobs"]) == length
    assert scored["output_token_logprobs"] == []


# -- log-probabilities ---------------------------------------------------------------------------------


def test_log_probabilities_in_all_forms(http: httpx.Client, engine: Any) -> None:
    ids = engine.tokenizer.encode(PROMPT)
    for details in (
        {"return_logprob": True},
        {"return_logprob": True, "logprob_start_len": 0},
        {"return_logprob": True, "logprob_start_len": 3, "return_text_in_logprobs": True},
        {"return_logprob": True, "logprob_start_len": len(ids)},
        {"return_logprob": True, "logprob_start_len": 1, "top_logprobs_num": 3},
        {"return_logprob": True, "logprob_start_len": 0, "token_ids_logprob": [5, 0, 5]},
    ):
        found = generate(http, **details)
        assert same(found) == same(engine.generate(PROMPT, GREEDY, **details)), details
        meta, start = found["meta_info"], details.get("logprob_start_len", len(ids))
        prompt, output = meta["input_token_logprobs"], meta["output_token_logprobs"]
        assert [entry[1] for entry in prompt] == ids[start:]
        assert [entry[1] for entry in output] == found["output_ids"]
        assert meta["output_token_logprobs_length"] == len(output)
        assert [entry[0] is None for entry in prompt] == [at == 0 for at in range(start, len(ids))]
        texts = [entry[2] for entry in prompt + output]
        assert all(isinstance(t, str) for t in texts) or not details.get("return_text_in_logprobs")
        assert not any(texts) or "return_text_in_logprobs" in details
        if "top_logprobs_num" in details:
            assert [len(top) for top in meta["output_top_logprobs"]] == [3] * len(output)
            assert [top[0] for top in meta["output_top_logprobs"]] == output
            assert len(meta["input_top_logprobs"]) == len(prompt)
        if "token_ids_logprob" in details:
            assert [e[1] for e in meta["output_token_ids_logprobs"][0]] == [5, 0, 5]
            assert meta["input_token_ids_logprobs"][0] is None
    plain = generate(http)["meta_info"]
    assert not [name for name in plain if "logprob" in name]


def test_a_prompts_log_probabilities_do_not_depend_on_the_start(http: httpx.Client) -> None:
    whole = generate(http, return_logprob=True, logprob_start_len=0)["meta_info"]
    for start in range(1, whole["prompt_tokens"] + 1):
        part = generate(http, return_logprob=True, logprob_start_len=start)["meta_info"]
        assert part["input_token_logprobs"] == whole["input_token_logprobs"][start:]


# -- streams -------------------------------------------------------------------------------------------


def test_a_stream_is_cumulative(http: httpx.Client) -> None:
    params = {**LONG, "max_new_tokens": 300, "sampling_seed": 3}
    body = {"text": CHAT, "sampling_params": params, "return_logprob": True, "rid": "streamed"}
    found = events(http, body)
    assert len(found) > 1
    assert all("index" not in event for event in found)
    for before, after in itertools.pairwise(found):
        assert after["text"].startswith(before["text"])
        count = len(before["output_ids"])
        assert after["output_ids"][:count] == before["output_ids"]
        old, new = before["meta_info"], after["meta_info"]
        assert new["completion_tokens"] == len(after["output_ids"]) > old["completion_tokens"]
        assert new["output_token_logprobs"][:count] == old["output_token_logprobs"]
        assert old["finish_reason"] is None
    assert {event["meta_info"]["id"] for event in found} == {"streamed"}
    assert same(found[-1]) == same(generate(http, CHAT, params, return_logprob=True))


def test_a_stream_of_several_has_indices(http: httpx.Client) -> None:
    params = {"max_new_tokens": 12, "n": 2, "sampling_seed": 3}
    found = events(http, {"text": [CHAT, PROMPT], "sampling_params": params})
    last = {event["index"]: event for event in found}
    ends = [event["index"] for event in found if event["meta_info"]["finish_reason"]]
    assert sorted(ends) == [0, 1, 2, 3]
    assert same([last[i] for i in range(4)]) == same(generate(http, [CHAT, PROMPT], params))
    single = events(http, {"text": [CHAT], "sampling_params": GREEDY})
    assert {event["index"] for event in single} == {0}


def test_a_character_of_several_tokens_is_held_back(http: httpx.Client) -> None:
    params = {"regex": "(é|日|😀){6}", "max_new_tokens": 60, "sampling_seed": 5}
    found = events(http, {"text": CHAT, "sampling_params": params})
    assert len(found[-1]["text"]) == 6
    assert not any("\ufffd" in event["text"] for event in found)


# -- names, aborts and ends ------------------------------------------------------------------------------


class Running:
    """A request in a thread of its own. `answer` is there when it has ended."""

    def __init__(self, http: httpx.Client, **fields: Any) -> None:
        self.body = {"text": CHAT, "sampling_params": LONG, **fields}
        self.answer: Any = None
        self._thread = threading.Thread(target=self._ask, args=(http,))
        self._thread.start()

    def _ask(self, http: httpx.Client) -> None:
        if self.body.get("stream"):
            self.answer = events(http, self.body)
        else:
            self.answer = http.post("/generate", json=self.body).json()

    def ended(self) -> Any:
        self._thread.join(20)
        assert self.answer is not None
        return self.answer


@pytest.mark.parametrize("stream", [False, True])
def test_a_running_request_is_aborted_by_its_name(http: httpx.Client, stream: bool) -> None:
    wait_for(http, "num_running", 0)
    running = Running(http, rid="mine", stream=stream)
    wait_for(http, "num_running", 1)
    refused(http, {"text": "a", "rid": "mine"}, "rid", "running")
    assert http.post("/abort_request", json={"rid": "other"}).json() == {"aborted": 0}
    assert http.post("/abort_request", json={"rid": "mine"}).json() == {"aborted": 1}
    answer = running.ended()
    end = (answer[-1] if stream else answer)["meta_info"]
    assert end["finish_reason"]["type"] == "abort"
    assert end["finish_reason"]["message"]
    assert end["id"] == "mine"
    assert end["completion_tokens"] < 3000
    wait_for(http, "num_running", 0)
    assert generate(http, "a", rid="mine")["meta_info"]["id"] == "mine"  # free again


def test_all_are_aborted(http: httpx.Client) -> None:
    wait_for(http, "num_running", 0)
    two = Running(http, text=["a", "b"], rid="both")
    one = Running(http, sampling_params={**LONG, "n": 2})
    wait_for(http, "num_running", 4)
    assert http.post("/abort_request", json={"abort_all": True}).json() == {"aborted": 2}
    answers = [*two.ended(), *one.ended()]
    assert {answer["meta_info"]["finish_reason"]["type"] for answer in answers} == {"abort"}
    assert [answer["meta_info"]["id"] for answer in answers[:2]] == ["both_0", "both_1"]
    wait_for(http, "num_running", 0)


def test_who_leaves_and_who_runs_out_of_time(http: httpx.Client) -> None:
    wait_for(http, "num_running", 0)
    before = stats(http)["num_aborted"]
    with http.stream(
        "POST", "/generate", json={"text": CHAT, "sampling_params": LONG, "stream": True}
    ) as response:
        next(response.iter_lines())
    wait_for(http, "num_running", 0)
    body = {"text": CHAT, "sampling_params": LONG}
    late = http.post("/generate", json=body, headers={"x-request-timeout": "0.2"})
    assert late.status_code == 504
    assert "0.2 s" in late.json()["error"]["message"]
    wait_for(http, "num_running", 0)
    assert stats(http)["num_aborted"] == before + 2
    wrong = http.post("/generate", json=body, headers={"x-request-timeout": "soon"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "x-request-timeout"


def test_the_cache_is_emptied_when_nobody_uses_it(http: httpx.Client) -> None:
    wait_for(http, "num_running", 0)
    generate(http)
    assert stats(http)["num_tree_tokens"] > 0
    for ask in (http.get, http.post):
        assert ask("/flush_cache").status_code == 200
        assert stats(http)["num_tree_tokens"] == 0
        generate(http)
    running = Running(http, rid="busy")
    wait_for(http, "num_running", 1)
    busy = http.post("/flush_cache")
    assert busy.status_code == 400
    assert "running" in busy.json()["error"]["message"]
    began = time.monotonic()
    assert http.post("/flush_cache?timeout=0.3").status_code == 400
    assert 0.3 <= time.monotonic() - began < 5
    timer = threading.Timer(0.3, lambda: http.post("/abort_request", json={"rid": "busy"}))
    timer.start()
    assert http.post("/flush_cache?timeout=20").status_code == 200
    running.ended()
    timer.join()
    for wrong in ("soon", "-1", "nan", "1e9"):
        answer = http.post(f"/flush_cache?timeout={wrong}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "timeout")


# -- texts and ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["", "/v1"])
def test_texts_become_ids_and_texts_again(http: httpx.Client, engine: Any, root: str) -> None:
    def tokenize(**body: Any) -> Any:
        return http.post(f"{root}/tokenize", json=body).json()

    def text(**body: Any) -> Any:
        return http.post(f"{root}/detokenize", json=body).json()["text"]

    text_in = "Hello there, 日本 <|im_end|> é"
    ids = engine.tokenizer.encode(text_in)
    found = tokenize(prompt=text_in)
    assert found == {"tokens": ids, "count": len(ids), "max_model_len": 4096}
    assert text(tokens=ids, skip_special_tokens=False) == text_in
    assert "<|im_end|>" not in text(tokens=ids)
    many = tokenize(prompt=[text_in, "a"])
    assert many["tokens"] == [ids, engine.tokenizer.encode("a")]
    assert many["count"] == [len(one) for one in many["tokens"]]
    assert text(tokens=many["tokens"], skip_special_tokens=False) == [text_in, "a"]
    chat = tokenize(messages=[{"role": "user", "content": "Name three fruits."}])
    assert chat["tokens"] == engine.tokenizer.encode(CHAT, add_special_tokens=False)
    assert tokenize(prompt=text_in, add_special_tokens=True)["tokens"] == ids
    assert text(tokens=[]) == ""
    for path, body, field in (
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("tokenize", {"prompt": 3}, "prompt"),
        ("tokenize", {"prompt": "a", "unheard": 1}, "unheard"),
        ("detokenize", {"tokens": "abc"}, "tokens"),
        ("detokenize", {"tokens": [99_999]}, "tokens"),
        ("detokenize", {"tokens": [1], "unheard": 1}, "unheard"),
    ):
        refused(http, body, field, path=f"{root}/{path}")


# -- what this server adds ---------------------------------------------------------------------------------


def test_spans_keep_what_was_generated(http: httpx.Client, engine: Any) -> None:
    first = generate(http, ..., spans=[CHAT])
    (span,) = first["output_spans"]
    assert span == {"ids": first["output_ids"][: len(span["ids"])], "text": first["text"]}
    follow = [CHAT, span["ids"], " And"]
    second = generate(http, ..., spans=follow)
    prompt = Prompt() + Text(CHAT) + Tokens(tuple(span["ids"]), "") + Text(" And")
    ids = [int(token) for token in engine.tokenizer.encode_prompt(prompt)]
    assert same(generate(http, ..., input_ids=ids))["text"] == second["text"]
    assert second["meta_info"]["prompt_tokens"] == len(ids)
    again = generate(http, ..., spans=follow)["meta_info"]
    assert again["cached_tokens"] == again["prompt_tokens"] - 1
    assert again["cached_tokens"] > first["meta_info"]["prompt_tokens"] + len(span["ids"])
    whole = generate(http, CHAT)
    assert "output_spans" not in whole
    streamed = events(http, {"spans": [CHAT], "sampling_params": GREEDY})
    assert streamed[-1]["output_spans"] == first["output_spans"]
    for wrong, field in (("a", "spans"), ([3], "spans[0]"), ([["a"]], "spans[0]")):
        refused(http, {"spans": wrong}, field)
    refused(http, {"spans": ["a"], "text": "a"}, "text", "give one of")


CHOICES = (
    ("Is it?", [" yes", " no", " maybe so"]),
    ("", ["a", "b"]),
    (CHAT, ["apple", "apples", "plum, melon"]),
    ("The ans", ["wer is 4", "wering machine", "!"]),  # merge with the prompt's end
)


@pytest.mark.parametrize("place", range(len(CHOICES)))
def test_choices_are_scored_as_the_engine_does(http: httpx.Client, engine: Any, place: int) -> None:
    prompt, choices = CHOICES[place]
    for unconditional in (False, True):
        body = {"spans": [prompt], "choices": choices, "unconditional": unconditional}
        answer = http.post("/score_choices", json=body)
        assert answer.status_code == 200, answer.text
        call = ScoreCall(
            prompt=Prompt() + Text(prompt) if prompt else Prompt(),
            choices=tuple(choices),
            unconditional=unconditional,
        )
        wanted = asyncio.run(engine.endpoint.score(call))
        for found, score in zip(answer.json()["scores"], wanted, strict=True):
            assert [tuple(token) for token in found["tokens"]] == list(score.tokens)
            alone = found["unconditional"]
            assert (alone is None) == (score.unconditional is None) == (not unconditional)
            if alone is not None:
                assert [tuple(token) for token in alone] == list(score.unconditional or ())
            assert found["meta_info"]["completion_tokens"] == 0


def test_what_is_wrong_with_choices(http: httpx.Client) -> None:
    good = {"spans": ["a"], "choices": ["b", "c"]}
    for change, field in (
        ({"choices": []}, "choices"),
        ({"choices": ["b", "b"]}, "choices"),
        ({"choices": ["b", ""]}, "choices"),
        ({"choices": "b"}, "choices"),
        ({"choices": ["b"] * 1025}, "choices"),
        ({"spans": None}, "spans"),
        ({"unconditional": "yes"}, "unconditional"),
        ({"stream": True}, "stream"),
    ):
        refused(http, {**good, **change}, field, path="/score_choices")


# -- what is refused ---------------------------------------------------------------------------------------

WRONG_PARAMS: list[tuple[str, Any]] = [
    ("max_new_tokens", -1),
    ("max_new_tokens", 2.5),
    ("max_new_tokens", True),
    ("min_new_tokens", -1),
    ("min_new_tokens", 500),
    ("n", 0),
    ("n", 5000),
    ("temperature", -0.1),
    ("temperature", "hot"),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_k", 0),
    ("top_k", -2),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("frequency_penalty", 2.1),
    ("presence_penalty", -2.1),
    ("repetition_penalty", 0),
    ("repetition_penalty", 2.1),
    ("stop", [""]),
    ("stop", ["a"] * 33),
    ("stop", [3]),
    ("stop_token_ids", [-1]),
    ("stop_regex", ["a" * 257]),
    ("stop_regex", ["("]),
    ("ignore_eos", 1),
    ("skip_special_tokens", "no"),
    ("spaces_between_special_tokens", 0),
    ("no_stop_trim", "x"),
    ("regex", "("),
    ("regex", 5),
    ("json_schema", "{"),
    ("ebnf", "root ::= ("),
    ("sampling_seed", -1),
    ("sampling_seed", 2**64),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"99999": 1}),
    ("beam_width", 4),
    ("custom_params", {"a": 1}),
    ("unheard", 1),
]


@pytest.mark.parametrize(
    ("field", "value"), WRONG_PARAMS, ids=[f"{i}-{f}" for i, (f, _) in enumerate(WRONG_PARAMS)]
)
def test_every_bound_is_held(http: httpx.Client, field: str, value: Any) -> None:
    answer = http.post("/generate", json={"text": "a", "sampling_params": {field: value}})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert field in error["param"]
    assert field in error["message"]


def test_fields_that_are_refused(http: httpx.Client) -> None:
    for body, field in (
        ({}, "text"),
        ({"text": "a", "input_ids": [1]}, "text"),
        ({"text": 3}, "text"),
        ({"text": []}, "text"),
        ({"input_ids": []}, "input_ids"),
        ({"input_ids": 5}, "input_ids"),
        ({"text": ["a"] * 1025}, "text"),
        ({"text": ["a"] * 100, "sampling_params": {"n": 41}}, "n"),
        ({"input_ids": [99_999]}, "input_ids"),
        ({"input_ids": [-1]}, "input_ids"),
        ({"input_ids": ["a"]}, "input_ids"),
        ({"text": "a", "sampling_params": 3}, "sampling_params"),
        ({"text": ["a", "b"], "sampling_params": [{}]}, "sampling_params"),
        ({"text": "a", "return_logprob": "yes"}, "return_logprob"),
        ({"text": "a", "return_logprob": True, "logprob_start_len": -2}, "logprob_start_len"),
        ({"text": "a", "return_logprob": True, "logprob_start_len": 99}, "logprob_start_len"),
        ({"text": "a", "return_logprob": True, "top_logprobs_num": -1}, "top_logprobs_num"),
        ({"text": "a", "return_logprob": True, "top_logprobs_num": 9999}, "top_logprobs_num"),
        ({"text": "a", "return_logprob": True, "token_ids_logprob": [9999]}, "token_ids_logprob"),
        ({"text": "a", "return_logprob": True, "token_ids_logprob": "x"}, "token_ids_logprob"),
        ({"text": "a", "return_text_in_logprobs": 1}, "return_text_in_logprobs"),
        ({"text": "a", "stream": "yes"}, "stream"),
        ({"text": "a", "rid": ""}, "rid"),
        ({"text": "a", "rid": "x" * 257}, "rid"),
        ({"text": ["a", "b"], "rid": ["x", "x"]}, "rid"),
        ({"text": "a", "cache_salt": 3}, "cache_salt"),
        ({"text": "a", "unheard": 1}, "unheard"),
        ({"text": "a", "image_data": "data:"}, "image_data"),
        ({"text": "a", "lora_path": "x"}, "lora_path"),
        ({"text": "a", "session_params": {"id": 1}}, "session_params"),
        ({"text": "a", "return_hidden_states": True}, "return_hidden_states"),
    ):
        refused(http, body, field)
    for body, says in (
        ({"text": "word " * 5000}, "4096"),
        ({"text": ["a", 3]}, "not a text"),
        ({"text": ""}, "no tokens"),
        ({"text": ["a", ""]}, "no tokens"),
        ({"input_ids": [[1], []]}, "no tokens"),
    ):
        answer = http.post("/generate", json=body)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]


def test_what_asks_for_nothing_is_taken(http: httpx.Client) -> None:
    off = {
        "input_ids": None,
        "image_data": [],
        "video_data": None,
        "lora_path": None,
        "session_params": None,
        "return_hidden_states": False,
        "return_routed_experts": False,
        "unheard": None,
    }
    params = {**GREEDY, "beam_width": 1, "custom_params": None, "stop": [], "regex": "", "n": None}
    assert same(generate(http, PROMPT, params, **off)) == same(generate(http))


def test_what_is_no_request(http: httpx.Client) -> None:
    for content in (b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b'{"text": NaN}', b"[" * 100_000):
        answer = http.post("/generate", content=content)
        assert answer.status_code == 400, content[:20]
        assert answer.json()["error"]["message"]
    assert http.get("/generate").status_code == 405
    assert http.get("/no/such").status_code == 404
    assert http.post("/health").status_code == 405
    refused(http, {}, "rid", path="/abort_request")
    refused(http, {"rid": "x", "unheard": 1}, "unheard", path="/abort_request")
    refused(http, {"abort_all": "yes"}, "abort_all", path="/abort_request")


# -- facts ----------------------------------------------------------------------------------------------


def test_facts_about_the_server(http: httpx.Client, server: Launched) -> None:
    for path in ("/get_model_info", "/model_info"):
        info = http.get(path).json()
        assert (info["model_path"], info["served_model_name"]) == ("pocket", "pocket")
        assert (info["is_generation"], info["max_model_len"]) == (True, 4096)
        assert info["extensions"] == ["spans", "score_choices"]
        assert "<|im_start|>" in info["tokenizer"]["chat_template"]
    for path in ("/get_server_info", "/server_info"):
        info = http.get(path).json()
        assert (info["version"], info["num_engine_starts"]) == (sgl.__version__, 1)
        assert info["max_cache_tokens"] == 20_000
        assert abs(time.time() - info["startup_time"]) < 600
        (state,) = info["internal_states"]
        assert state["num_slots"] == 20_000
        assert not [name for name in info if "key" in name and info[name]]
    for path in ("/health", "/ping", "/health_generate"):
        assert http.get(path).status_code == 200
    running = Running(http, rid="health")
    wait_for(http, "num_running", 1)
    assert http.get("/health_generate").status_code == 200  # it works: nothing is asked of it
    http.post("/abort_request", json={"rid": "health"})
    running.ended()
    assert (
        http.post("/concate_and_append_request", json={"src_rids": [], "dst_rid": "x"}).text == ""
    )
    encode = http.post("/encode", json={"text": "a"})
    assert (encode.status_code, "embeddings" in encode.text) == (400, True)
    assert server.process.poll() is None


# -- many at once -----------------------------------------------------------------------------------------


def mixed(i: int) -> dict[str, Any]:
    """One of many kinds of requests."""
    body: dict[str, Any] = {
        "text": f"{CHAT}{'and ' * (i % 7)}",
        "sampling_params": {"sampling_seed": i},
    }
    params = body["sampling_params"]
    params["max_new_tokens"] = 1 + 5 * (i % 6)
    params["temperature"] = (0, 1, 0.7)[i % 3]
    if i % 5 == 1:
        body |= {"return_logprob": True, "logprob_start_len": i % 4, "top_logprobs_num": 2}
    if i % 7 == 2:
        params["regex"] = "[a-z]{1,8} [0-9]"
    if i % 7 == 3:
        params["n"] = 2
    if i % 7 == 4:
        body["text"] = [PROMPT, body["text"]]
    if i % 11 == 5:
        params["frequency_penalty"] = 0.7
    if i % 4 == 3:
        body["stream"] = True
    return body


async def test_many_at_once_answer_as_alone(http: httpx.Client, server: Launched) -> None:
    http.post("/flush_cache")
    bodies = [mixed(i) for i in range(50)]

    async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Any:
        answer = await client.post("/generate", json=body)
        assert answer.status_code == 200, answer.text
        if not body.get("stream"):
            return same(answer.json())
        last: dict[int, Any] = {}
        lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
        for line in lines:
            event = json.loads(line[6:])
            last[event.get("index", 0)] = event
        many = "index" in json.loads(lines[0][6:])
        return same([last[i] for i in sorted(last)] if many else last[0])

    async with httpx.AsyncClient(base_url=server.url, timeout=50) as client:
        together = await asyncio.gather(*(ask(client, body) for body in bodies))
        assert http.post("/flush_cache").status_code == 200
        for body, found in zip(bodies, together, strict=True):
            assert await ask(client, body) == found
    state = stats(http)
    assert (state["num_running"], state["num_repairs"], state["num_failed"]) == (0, 0, 0)
