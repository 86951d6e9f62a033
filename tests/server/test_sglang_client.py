"""SGLang's own clients against a real server: its frontend's `RuntimeEndpoint` and its benchmark.

What they send is written out here as plain HTTP, and always runs. The clients themselves run where SGLang is:
RAMET_SGLANG_PYTHON names an interpreter that can import `sglang`, and RAMET_SGLANG_PYTHONPATH what is to stand
before its own packages, if anything.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.launched import Launched

import ramet

INTERPRETER = os.environ.get("RAMET_SGLANG_PYTHON", "")
needs_sglang = pytest.mark.skipif(
    not INTERPRETER,
    reason="RAMET_SGLANG_PYTHON names no interpreter that has the sglang package (install it there "
    "with `pip install --no-deps sglang` beside what its client imports)",
)
FEW_SHOT = "Q: What is 1 + 1?\nA: 2\nQ: What is 2 + 2?\nA:"


@pytest.fixture(scope="module")
def http(server: Launched) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=40) as client:
        yield client


# -- the frontend's bodies ----------------------------------------------------------------------------


def sampling(**given: Any) -> dict[str, Any]:
    """All of the frontend's sampling parameters are sent every time, unset ones as null or empty."""
    return {
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "max_new_tokens": 128,
        "min_new_tokens": 0,
        "n": 1,
        "stop": [],
        "stop_token_ids": None,
        "stop_regex": [],
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "ignore_eos": False,
        "regex": None,
        "json_schema": None,
        **given,
    }


def ask(http: httpx.Client, body: dict[str, Any]) -> Any:
    answer = http.post("/generate", json=body, headers={"authorization": "Bearer none"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_frontends_generations(http: httpx.Client) -> None:
    info = http.get("/get_model_info").json()
    assert info["model_path"] == "pocket"
    short = {"text": FEW_SHOT, "sampling_params": sampling(max_new_tokens=8, temperature=0)}
    answer = ask(http, short)
    assert answer["text"]
    stop = answer["text"][-1]
    short["sampling_params"]["stop"] = [stop]
    cut = ask(http, short)
    assert cut["text"] == answer["text"].partition(stop)[0]
    assert cut["meta_info"]["finish_reason"]["matched"] == stop
    held = sampling(max_new_tokens=40, regex=r"\d{1,3}(\.\d{1,3}){3}")
    address = ask(http, {"text": "IP: ", "sampling_params": held})["text"]
    assert re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", address)
    whole = sampling(max_new_tokens=8, stop=[" ", "\n"], dtype=None, regex=r"[-+]?[0-9]+[ \n]*")
    assert re.fullmatch(
        r"[-+]?[0-9]+", ask(http, {"text": "n = ", "sampling_params": whole})["text"]
    )
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    form = sampling(max_new_tokens=40, json_schema=schema)
    answer = ask(http, {"text": "JSON: ", "sampling_params": form})
    assert type(json.loads(answer["text"])["a"]) is int
    several = ask(http, {"text": "Hi ", "sampling_params": sampling(n=2, max_new_tokens=4)})
    assert len(several) == 2
    scored = {
        "text": "The cat",
        "sampling_params": sampling(max_new_tokens=3),
        "return_logprob": True,
        "logprob_start_len": None,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": True,
    }
    meta = ask(http, scored)["meta_info"]
    assert len(meta["output_top_logprobs"]) == len(meta["output_token_logprobs"]) == 3
    assert all(isinstance(text, str) for _, _, text in meta["output_token_logprobs"])


def test_the_frontends_prefixes_and_joins(http: httpx.Client) -> None:
    text = "What a program's branches share: its beginning, which is sent ahead."
    ahead = {"text": text, "sampling_params": {"temperature": 0.0, "max_new_tokens": 0}}
    assert ask(http, ahead)["text"] == ""
    body = {"text": f"{text} And", "sampling_params": sampling(max_new_tokens=1)}
    meta = ask(http, body)["meta_info"]
    assert meta["cached_tokens"] >= meta["prompt_tokens"] - 2
    join = {"src_rids": ["a", "b"], "dst_rid": "c"}
    assert http.post("/concate_and_append_request", json=join).status_code == 200
    assert http.post("/flush_cache").status_code == 200
    assert http.get("/get_server_info").json()["version"] == ramet.__version__
    assert http.get("/server_info").json()["internal_states"]


def test_the_frontends_streams(http: httpx.Client) -> None:
    body = {"text": FEW_SHOT, "sampling_params": sampling(max_new_tokens=60, ignore_eos=True)}
    text, places = "", []
    with http.stream("POST", "/generate", json={**body, "stream": True}) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data:")]
    for line in lines[:-1]:
        event = json.loads(line[5:].strip("\n"))
        assert event["text"].startswith(text)  # cumulative: the client takes what is new of it
        text = event["text"]
        places.append(event["meta_info"]["completion_tokens"])
    assert lines[-1] == "data: [DONE]"
    assert places == sorted(set(places))
    assert places[-1] == 60


@pytest.mark.parametrize("choices", [[" blue", " made of cheese"], ["lue", " blues", "!"]])
def test_the_frontends_choices(http: httpx.Client, choices: list[str]) -> None:
    """It asks for a start two tokens before the prompt's end, and needs a number in every entry; then for
    the choices alone, without a start."""
    prompt = "The sky is b"
    first = {"text": prompt, "sampling_params": {"max_new_tokens": 0, "temperature": 0}}
    length = ask(http, first)["meta_info"]["prompt_tokens"]
    start = max(length - 2, 0)
    body = {
        "text": [prompt + choice for choice in choices],
        "sampling_params": {
            "max_new_tokens": 0,
            "temperature": 0,
            "skip_special_tokens": True,
            "spaces_between_special_tokens": True,
        },
        "return_logprob": True,
        "return_text_in_logprobs": True,
        "logprob_start_len": start,
    }
    answers = ask(http, body)
    ids = []
    for answer, choice in zip(answers, choices, strict=True):
        entries = answer["meta_info"]["input_token_logprobs"]
        assert len(entries) == answer["meta_info"]["prompt_tokens"] - start
        assert all(logprob <= 0 for logprob, _, _ in entries)
        assert "".join(text for _, _, text in entries).endswith(choice)
        assert answer["meta_info"]["output_token_logprobs"] == []
        ids.append([token for _, token, _ in entries])
    alone = {"input_ids": ids, "sampling_params": {"max_new_tokens": 0}, "return_logprob": True}
    for answer, one in zip(ask(http, alone), ids, strict=True):
        entries = answer["meta_info"]["input_token_logprobs"]
        assert [token for _, token, _ in entries] == one
        assert [logprob is None for logprob, _, _ in entries] == [i == 0 for i in range(len(one))]


# -- the benchmark's bodies ---------------------------------------------------------------------------


def lines_of(http: httpx.Client, path: str, body: dict[str, Any]) -> list[Any]:
    with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        found = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert found[-1] == "[DONE]"
    return [json.loads(line) for line in found[:-1]]


def test_the_benchmark_looks_around(http: httpx.Client) -> None:
    (model,) = http.get("/v1/models").json()["data"]
    assert model["id"] == "pocket"
    info = http.get("/model_info").json()
    assert (Path(info["tokenizer_path"]) / "tokenizer.json").is_file()
    assert http.post("/flush_cache?timeout=5").status_code == 200
    assert http.get("/health").status_code == 200
    assert http.get("/server_info").json()["internal_states"]


@pytest.mark.parametrize("prompt", ["text", "ids"])
def test_the_benchmark_over_the_native_protocol(http: httpx.Client, prompt: str) -> None:
    given = {"text": FEW_SHOT} if prompt == "text" else {"input_ids": list(range(40, 104))}
    body = {
        **given,
        "sampling_params": {"temperature": 0.0, "max_new_tokens": 16, "ignore_eos": True},
        "stream": True,
        "lora_path": None,
        "return_logprob": False,
        "return_routed_experts": False,
        "logprob_start_len": -1,
        "top_logprobs_num": 0,
        "token_ids_logprob": None,
        "image_data": None,
    }
    events = lines_of(http, "/generate", body)
    assert events[-1]["meta_info"]["completion_tokens"] == 16
    assert events[-1]["text"]
    counts = [event["meta_info"]["completion_tokens"] for event in events]
    assert counts == sorted(set(counts))


def test_the_benchmark_over_completions(http: httpx.Client) -> None:
    body = {
        "model": "pocket",
        "prompt": FEW_SHOT,
        "temperature": 0.0,
        "best_of": 1,
        "max_tokens": 16,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    *chunks, usage = lines_of(http, "/v1/completions", body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 16)
    whole = http.post(
        "/v1/completions",
        json={k: v for k, v in body.items() if k != "stream_options"} | {"stream": False},
    ).json()
    assert whole["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("content", [FEW_SHOT, [{"type": "text", "text": FEW_SHOT}]])
def test_the_benchmark_over_chats(http: httpx.Client, content: Any) -> None:
    body = {
        "model": "pocket",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0.0,
        "max_completion_tokens": 16,
        "stream": True,
        "ignore_eos": True,
        "lora_path": None,
        "stream_options": {"include_usage": True},
    }
    *chunks, usage = lines_of(http, "/v1/chat/completions", body)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text
    assert usage["usage"]["completion_tokens"] == 16
    whole = http.post(
        "/v1/chat/completions",
        json={k: v for k, v in body.items() if k != "stream_options"} | {"stream": False},
    ).json()
    assert whole["choices"][0]["message"]["content"] == text


# -- the clients themselves ---------------------------------------------------------------------------


def run_programs(sgl: Any, url: str) -> dict[str, Any]:
    """With SGLang as `sgl` in its interpreter, and with Ramet here. Imports nothing: its source is sent."""
    backend = sgl.RuntimeEndpoint(url, chat_template_name="chatml")
    sgl.set_default_backend(backend)
    found: dict[str, Any] = {}
    greedy = {"temperature": 0, "max_tokens": 8}

    @sgl.function
    def few_shot(s, q):
        s += "Q: What is 1+1?\nA: 2\nQ: " + q + "\nA:"
        s += sgl.gen("a", stop="\n", **greedy)

    found["gen"] = few_shot.run(q="What is 2+2?")["a"]
    found["cached"] = few_shot.run(q="What is 2+2?").get_meta_info("a")["cached_tokens"] > 5
    batch = few_shot.run_batch([{"q": str(i)} for i in range(8)])
    found["batch"] = [state["a"] for state in batch]
    found["stream"] = "".join(few_shot.run(q="What is 3+3?", stream=True).text_iter("a"))

    @sgl.function
    def choose(s, method):
        s += "The sky is"
        s += sgl.select("c", choices=[" the", " made of cheese"], choices_method=method)

    found["mean"] = choose.run(sgl.token_length_normalized)["c"]
    found["greedy"] = choose.run(sgl.greedy_token_selection)["c"]
    # SGLang's frontend has tokens of the prompt in this score, so it may decide otherwise.
    found["unconditional"] = len(choose.run(sgl.unconditional_likelihood_normalized)["c"]) > 3

    @sgl.function
    def fork(s):
        s += "Tips for health:\n"
        forks = s.fork(2)
        for i, f in enumerate(forks):
            f += f"Tip {i}:" + sgl.gen("t", stop="\n", **greedy)
        forks.join()
        s += "1." + forks[0]["t"] + "\n2." + forks[1]["t"] + "\nSummary:" + sgl.gen("sum", **greedy)

    state = fork.run()
    found["fork"], found["sum"] = state["t"], len(state["sum"]) > 0

    @sgl.function
    def chat(s):
        s += sgl.system("You are helpful.")
        s += sgl.user("Name a color.")
        s += sgl.assistant(sgl.gen("x", **greedy))

    state = chat.run()
    found["chat"], found["messages"] = state["x"], state.messages()

    @sgl.function
    def forms(s):
        s += "IP: " + sgl.gen("ip", regex=r"\d{1,3}\.\d{1,3}", temperature=0)
        s += "\nn = " + sgl.gen_int("n", temperature=0)
        schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
        s += "\nJSON: " + sgl.gen("j", max_tokens=60, temperature=0, json_schema=schema)

    state = forms.run()
    found["forms"] = [state["ip"], int(state["n"]) >= 0, state["j"][:1]]

    @sgl.function
    def scored(s):
        s += "The cat" + sgl.gen(
            "l", return_logprob=True, top_logprobs_num=2, return_text_in_logprobs=True, **greedy
        )

    meta = scored.run().get_meta_info("l")
    found["scored"] = [meta["output_token_logprobs"], meta["output_top_logprobs"]]
    found["flushed"] = backend.flush_cache() is not False
    found["version"] = backend.get_server_info()["version"]
    return found


def sglang(*arguments: str, seconds: float = 55.0) -> str:
    """What SGLang's interpreter prints."""
    paths = os.environ.get("RAMET_SGLANG_PYTHONPATH", "")
    done = subprocess.run(
        [INTERPRETER, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_sglang
def test_a_program_of_sglang_says_what_ramets_says(server: Launched) -> None:
    source = "from typing import Any\n" + inspect.getsource(run_programs)
    call = "import json, sys, sglang\nprint(json.dumps(run_programs(sglang, sys.argv[1])))"
    printed = sglang("-c", f"{source}\n{call}", server.url)
    before = ramet.global_config.default_backend
    try:
        wanted = json.loads(json.dumps(run_programs(ramet, server.url)))
    finally:
        ramet.set_default_backend(before)
    assert json.loads(printed.splitlines()[-1]) == wanted


RANDOM = (
    "random-ids",
    "--random-input-len",
    "64",
    "--random-output-len",
    "16",
    "--num-prompts",
    "20",
)
SHARED = (
    *("generated-shared-prefix", "--gsp-num-groups", "4", "--gsp-prompts-per-group", "8"),
    *("--gsp-system-prompt-len", "256", "--gsp-question-len", "32", "--gsp-output-len", "16"),
    "--flush-cache",
)
RUNS = [("sglang", RANDOM), ("sglang-oai", RANDOM), ("sglang-oai-chat", RANDOM), ("sglang", SHARED)]


@needs_sglang
@pytest.mark.parametrize("place", range(len(RUNS)))
def test_sglangs_benchmark(server: Launched, tmp_path: Path, place: int) -> None:
    backend, dataset = RUNS[place]
    printed = sglang(
        *("-m", "sglang.benchmark.serving", "--backend", backend, "--dataset-name", *dataset),
        *("--host", "127.0.0.1", "--port", str(server.port)),
        *("--output-file", str(tmp_path / "result.jsonl")),
    )
    wanted = 32 if dataset is SHARED else 20
    assert re.search(rf"Successful requests:\s+{wanted}\b", printed), printed[-2000:]
    (line,) = (tmp_path / "result.jsonl").read_text().splitlines()
    assert json.loads(line)["completed"] == wanted
