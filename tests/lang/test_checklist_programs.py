"""Programs as people write them for SGLang, with one import changed: on a scripted backend, on the embedded
engine, and on servers of both over HTTP, with equal results.

Each follows one entry of the checklist of what public programs rely on; the texts are our own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.backends.native_server import NativeServer

import ramet as sgl
from ramet.backend import GenerateCall
from ramet.backends.scripted import Scripted
from ramet.lang.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_JSON_STR

IP_REGEX = r"((25[0-5]|2[0-4]\d|[01]?\d\d?).){3}(25[0-5]|2[0-4]\d|[01]?\d\d?)"
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}

Case = Callable[[Any], dict[str, Any]]
CASES: dict[str, Case] = {}


def case(run: Case) -> Case:
    """A program that is run on a backend, checked, and gives what must be equal on all backends."""
    CASES[run.__name__] = run
    return run


def seen(state: Any, *names: str) -> dict[str, Any]:
    assert state.error() is None
    values = {name: state[name] for name in names}
    return {"text": state.text(), "messages": state.messages(), **values}


@case
def few_shot_completion(backend: Any) -> dict[str, Any]:
    @sgl.function
    def capitals(s, country):
        s += "Country: France\nCapital: Paris\n\nCountry: Japan\nCapital: Tokyo\n\n"
        s += "Country: " + country + "\nCapital:" + sgl.gen("capital", stop="\n", max_tokens=6)

    state = capitals.run(country="Italy", backend=backend, temperature=0)
    assert "\n" not in state["capital"]
    assert state.text().endswith("Capital:" + state["capital"])
    batch = [{"country": name} for name in ("Italy", "Spain", "Kenya")]
    states = capitals.run_batch(batch, backend=backend, temperature=0, num_threads=2)
    assert states[0]["capital"] == state["capital"]
    lone = capitals.run_batch([{"country": "Italy"}], backend=backend, temperature=0)
    assert lone[0].text() == state.text()
    listed = list(
        capitals.run_batch(
            [("Italy",), ("Spain",)], backend=backend, temperature=0, generator_style=True
        )
    )
    assert [s["capital"] for s in listed] == [s["capital"] for s in states[:2]]
    assert capitals.run_batch([], backend=backend) == []
    return {"states": [seen(s, "capital") for s in states]}


@case
def conversation(backend: Any) -> dict[str, Any]:
    @sgl.function
    def two_questions(s, first, second):
        s += sgl.system("You are a helpful assistant.")
        s += sgl.user(first)
        s += sgl.assistant(sgl.gen("answer_1", max_tokens=10))
        with s.user():
            s += second
            s += " Be brief."
        s += sgl.assistant_begin()
        s += sgl.gen("answer_2", max_tokens=10)
        s += sgl.assistant_end()
        s.user("Thanks.")
        with s.assistant():
            s += sgl.gen("answer_3", max_tokens=4)

    state = two_questions.run("Where is Rome?", "And Oslo?", backend=backend, temperature=0)
    roles = [message["role"] for message in state.messages()]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user", "assistant"]
    assert state.messages()[3]["content"] == "And Oslo? Be brief."
    assert state.messages()[4]["content"] == state["answer_2"].lstrip()
    return seen(state, "answer_1", "answer_2", "answer_3")


@case
def selection(backend: Any) -> dict[str, Any]:
    @sgl.function
    def judge(s, statement):
        s += "Question: is this true? " + statement + "\nAnswer:"
        s += sgl.select("answer", choices=[" True", " False", " I cannot say"])
        s += "\nSure?" + sgl.gen("sure", choices=[" yes", " no"])

    state = judge.run("Rome is in Italy.", backend=backend)
    meta = state.get_meta_info("answer")
    assert state["answer"] in (" True", " False", " I cannot say")
    assert len(meta["normalized_prompt_logprobs"]) == 3
    best = max(range(3), key=meta["normalized_prompt_logprobs"].__getitem__)
    assert state["answer"] == [" True", " False", " I cannot say"][best]
    return {**seen(state, "answer", "sure"), "scores": meta["normalized_prompt_logprobs"]}


@case
def choice_methods(backend: Any) -> dict[str, Any]:
    @sgl.function
    def pick(s, method):
        s += "Name a bird:"
        s += sgl.select("bird", [" wren", " crow", " a rather long name"], choices_method=method)

    methods = (
        sgl.token_length_normalized,
        sgl.greedy_token_selection,
        sgl.unconditional_likelihood_normalized,
    )
    states = [pick.run(method, backend=backend) for method in methods]
    metas = [state.get_meta_info("bird") for state in states]
    assert "greedy_logprob_matrix" in metas[1]
    assert "normalized_unconditional_prompt_logprobs" in metas[2]
    return {"picked": [seen(state, "bird") for state in states]}


@case
def numbers(backend: Any) -> dict[str, Any]:
    @sgl.function
    def count(s):
        s += "Two and two is " + sgl.gen_int("sum", max_tokens=6) + ".\n"
        s += "Half of five is " + sgl.gen("half", dtype=float, max_tokens=8) + ".\n"
        s += "Is it so? " + sgl.gen("so", dtype=bool, max_tokens=8) + ".\n"
        s += "Its name is " + sgl.gen_string("name", max_tokens=12) + "."

    state = count.run(backend=backend, temperature=0)
    int(state["sum"])
    float(state["half"])
    assert state["so"] in ("True", "False")
    assert state["name"][0] == state["name"][-1] == '"'
    return seen(state, "sum", "half", "so", "name")


@case
def address_by_regex(backend: Any) -> dict[str, Any]:
    @sgl.function
    def address(s):
        s += "Q: What is the address of the name server?\nA: "
        s += sgl.gen("answer", temperature=0, regex=IP_REGEX, max_tokens=24)

    state = address.run(backend=backend)
    assert re.fullmatch(IP_REGEX, state["answer"])
    assert state.get_meta_info("answer")["finish_reason"]["type"] == "stop"
    return seen(state, "answer")


@case
def fields_in_a_scope(backend: Any) -> dict[str, Any]:
    @sgl.function
    def fields(s):
        s += "Say in JSON what you know of Rome.\n"
        with s.var_scope("json_output"):
            s += '{\n  "population": ' + sgl.gen(regex=REGEX_INT, max_tokens=8, stop=[" ", "\n"])
            s += ',\n  "area": ' + sgl.gen(regex=REGEX_FLOAT, max_tokens=8, stop=[" ", "\n"])
            s += ',\n  "capital": ' + sgl.gen("capital", regex=REGEX_BOOL, max_tokens=8)
            s += ',\n  "name": ' + sgl.gen(regex=REGEX_JSON_STR, max_tokens=12) + "\n}"

    state = fields.run(backend=backend, temperature=0)
    assert state["json_output"].startswith('{\n  "population": ')
    assert state.text().endswith(state["json_output"])
    return seen(state, "json_output", "capital")


@case
def reading_in_the_middle(backend: Any) -> dict[str, Any]:
    @sgl.function
    def expert(s, question):
        s += "Question: " + question + "\nThe best person to ask is"
        s += sgl.gen("expert", stop=[".", "\n"], max_tokens=8) + ".\n"
        s += "Advice of" + s["expert"] + ":" + sgl.gen("answer", stop=".", max_tokens=8)
        return s["expert"].strip()

    state = expert.run("How old is the Moon?", backend=backend, temperature=0)
    assert state.text().count(state["expert"]) >= 2
    return {**seen(state, "expert", "answer"), "returned": state.ret_value}


@case
def calculator(backend: Any) -> dict[str, Any]:
    calls: list[str] = []

    def calculate(expression: str) -> int:
        calls.append(expression)
        return sum(int(part) for part in re.findall(r"\d+", expression))

    @sgl.function
    def sums(s, a, b):
        s += f"Q: What is {a} + {b}?\ncalculate("
        s += sgl.gen("expression", stop=")", regex=r"\d{1,2} \+ \d{1,2}\)?", max_tokens=12) + ")"
        with s.var_scope("result"):
            s += " = " + str(calculate(s["expression"]))
        s += "\nA:" + sgl.gen("answer", max_tokens=4)

    state = sums.run(3, 4, backend=backend, temperature=0)
    assert calls == [state["expression"]]
    assert state["result"] == f" = {calculate(calls[0])}"
    return seen(state, "expression", "result", "answer")


@case
def react(backend: Any) -> dict[str, Any]:
    @sgl.function
    def search(s, question):
        s += "Question: " + question + "\n"
        for step in range(1, 4):
            s += f"Thought {step}:" + sgl.gen(stop=["Action", "Observation", "\n"], max_tokens=6)
            s += f"\nAction {step}:"
            s += sgl.select(f"action_{step}", [" Search[", " Finish["])
            s += sgl.gen(f"argument_{step}", stop=["]", "\n"], max_tokens=6) + "]\n"
            if s[f"action_{step}"] == " Finish[":
                break
            s += f"Observation {step}: nothing found.\n"
        s["steps"] = step

    state = search.run("Who built Rome?", backend=backend, temperature=0)
    assert 1 <= state["steps"] <= 3
    assert state.text().count("Action ") == state["steps"]
    return seen(state, "steps", "action_1", "argument_1")


@case
def parallel_tips(backend: Any) -> dict[str, Any]:
    @sgl.function
    def tips(s, topic):
        s += "Here are two tips for " + topic + ".\n1. Sleep well.\n2. Eat well.\n"
        forks = s.fork(2)
        for i, fork in enumerate(forks):
            fork += f"In detail, tip {i + 1}:" + sgl.gen("detail", max_tokens=8, stop=["\n\n"])
        forks.join()
        s += "Tip 1:" + forks[0]["detail"] + "\nTip 2:" + forks[1]["detail"] + "\n"
        s += "To sum up," + sgl.gen("summary", max_tokens=6)

    state = tips.run("health", backend=backend, temperature=0)
    assert isinstance(state["detail"], list)
    assert all(part in state.text() for part in state["detail"])
    return seen(state, "detail", "summary")


@case
def parallel_encoding(backend: Any) -> dict[str, Any]:
    @sgl.function
    def documents(s, texts, question):
        s += "Read the documents.\n"
        forks = s.fork(len(texts), position_ids_offset=[0] * len(texts))
        forks += lambda i: f"Document {i}: {texts[i]}\n"
        forks.join("concate_and_append")
        s += question + sgl.gen("answer", max_tokens=6)

    with pytest.warns(UserWarning, match="no effect") if once() else nothing():
        state = documents.run(["Rome", "Oslo"], "Which is warmer?", backend=backend, temperature=0)
    assert "Document 0: Rome\nDocument 1: Oslo\nWhich" in state.text()
    return seen(state, "answer")


@case
def tree_of_thought(backend: Any) -> dict[str, Any]:
    @sgl.function
    def tree(s, question):
        s += "Q: " + question + "\n"
        plans = s.fork(2)
        plans += lambda i: f"Plan {i}:" + sgl.gen("plan", max_tokens=4)
        for plan in plans:
            steps = plan.fork(2)
            steps += lambda i: f" step {i}:" + sgl.gen("step", max_tokens=4)
            steps.join()
        plans.join()
        s += "So:" + sgl.gen("end", max_tokens=4)

    state = tree.run("How to cross a river?", backend=backend, temperature=0)
    assert [len(steps) for steps in state["step"]] == [2, 2]
    assert len(state["plan"]) == 2
    return seen(state, "plan", "step", "end")


@case
def copied_state(backend: Any) -> dict[str, Any]:
    @sgl.function
    def aside(s):
        s += "A story:" + sgl.gen("story", max_tokens=4)
        with s.copy() as t:
            t += "\nIts title:" + sgl.gen("title", max_tokens=4)
        s += "\nTitle again:" + s["title"][0]

    return seen(aside.run(backend=backend, temperature=0), "story", "title")


@case
def several_samples(backend: Any) -> dict[str, Any]:
    @sgl.function
    def words(s):
        s += "A word:" + sgl.gen("word", n=3, max_tokens=4, return_logprob=True)

    state = words.run(backend=backend, temperature=0.8, sampling_seed=7)
    assert len(state["word"]) == len(state.get_meta_info("word")) == 3
    assert state.text() == "A word:" + state["word"][0]
    return seen(state, "word")


@case
def at_least_so_many(backend: Any) -> dict[str, Any]:
    @sgl.function
    def long(s):
        s += "Say much." + sgl.gen("much", min_tokens=6, max_tokens=8)

    state = long.run(backend=backend, temperature=0)
    assert state.get_meta_info("much")["completion_tokens"] >= 6
    return seen(state, "much")


@case
def stream_of_text(backend: Any) -> dict[str, Any]:
    @sgl.function
    def story(s):
        s += sgl.user("Tell me of the sea.")
        s += sgl.assistant(sgl.gen("a", max_tokens=10))
        s += sgl.user("And of the land.")
        s += sgl.assistant(sgl.gen("b", max_tokens=6))

    state = story.run(backend=backend, temperature=0, stream=True)
    pieces = list(state.text_iter())
    assert len(pieces) > 4
    assert "".join(pieces) == state.text()
    assert (
        "".join(story.run(backend=backend, temperature=0, stream=True).text_iter("b")) == state["b"]
    )
    return seen(state, "a", "b")


@case
def stream_for_coroutines(backend: Any) -> dict[str, Any]:
    @sgl.function
    def story(s):
        s += "The sea" + sgl.gen("a", max_tokens=10, return_logprob=True, top_logprobs_num=2)

    async def read() -> Any:
        state = story.run(backend=backend, temperature=0, stream=True)
        text, tokens, before = "", 0, 0
        async for piece, meta in state.text_async_iter("a", return_meta_data=True):
            text += piece
            new = meta["output_token_logprobs"]
            assert len(new) == meta["completion_tokens"] - before
            assert len(meta["output_top_logprobs"]) == len(new)
            before, tokens = meta["completion_tokens"], tokens + len(new)
            assert meta["output_token_logprobs_length"] == tokens
        assert text == state["a"]
        plain = story.run(backend=backend, temperature=0, stream=True)
        assert "".join([p async for p in plain.text_async_iter()]) == "The sea" + text
        return state

    return seen(asyncio.run(read()), "a")


@case
def variables_and_scopes(backend: Any) -> dict[str, Any]:
    @sgl.function
    def set_and_read(s, n):
        s["list"] = [1, 2]
        s.set_var("seen", "x" in s)
        for i in range(n):
            s += f"{i}:" + sgl.gen(f"v{i}", max_tokens=2) + "\n"
        s["list"].append(s["v0"])
        assert s.get_var("v0") == s["v0"]
        assert s.get_meta_info("list") is None

    state = set_and_read.bind(n=2).run(backend=backend, temperature=0)
    return seen(state, "list", "seen", "v1")


@case
def programs_call_programs(backend: Any) -> dict[str, Any]:
    @sgl.function
    def inner(s, word):
        s += word + " rhymes with" + sgl.gen("rhyme", max_tokens=4)

    @sgl.function
    def outer(s):
        s += "Rhymes:\n"
        for word in ("cat", "sea"):
            s += f"- {inner(word, temperature=0)['rhyme']}\n"
        s += sgl.gen("more", max_tokens=4)

    return seen(outer.run(backend=backend, temperature=0), "more")


@case
def early_stops(backend: Any) -> dict[str, Any]:
    @sgl.function
    def stops(s):
        s += "a" + sgl.gen("one", stop=["e", "o"], max_tokens=6)
        s += "b" + sgl.gen("two", stop_regex=r"[aeiou]", max_tokens=6)
        s += "c" + sgl.gen("three", max_tokens=3, ignore_eos=True)

    state = stops.run(backend=backend, temperature=0, stop="zzz")
    assert not set(state["one"]) & set("eo")
    assert not set(state["two"]) & set("aeiou")
    assert state.get_meta_info("three")["completion_tokens"] == 3
    return seen(state, "one", "two", "three")


@case
def log_probabilities(backend: Any) -> dict[str, Any]:
    @sgl.function
    def scored(s):
        s += "The sky is" + sgl.gen(
            "sky",
            max_tokens=4,
            return_logprob=True,
            logprob_start_len=0,
            return_text_in_logprobs=True,
        )

    meta = scored.run(backend=backend, temperature=0).get_meta_info("sky")
    assert meta["input_token_logprobs"][0][0] is None
    assert len(meta["output_token_logprobs"]) == meta["completion_tokens"]
    assert all(isinstance(entry[2], str) for entry in meta["output_token_logprobs"])
    return {
        "scores": [list(map(tuple, meta[f"{side}_token_logprobs"])) for side in ("input", "output")]
    }


# Where they run


def respond(call: GenerateCall) -> str:
    """An answer that its call accepts, and that depends on the prompt."""
    regex, number = call.params.regex, sum(call.prompt.text().encode()) % 7 + 2
    if regex is None:
        return f" word {number} of ten. Then more and more\n\nand no end to it"
    for pattern, answer in (
        (IP_REGEX, f"10.0.0.{number}"),
        (REGEX_INT, f"{number}1 "),
        (REGEX_FLOAT, f"{number}.5\n"),
        (REGEX_BOOL, "True"),
        (REGEX_JSON_STR, f'"name, {number}"'),
    ):
        if regex == pattern:
            return answer
    return f"{number} + 31)"


def scripted() -> Scripted:
    return Scripted(respond)


def once() -> bool:
    """Is a warning that comes once per process still to come?"""
    from ramet.lang import reading

    return not any("position_ids_offset" in text for text in reading._warned)


class nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with sgl.Engine("pocket", num_threads=1) as running:
        yield running


@pytest.fixture(scope="module")
def remote_engine(engine: Any) -> Iterator[Any]:
    with NativeServer(engine.endpoint) as server:
        yield sgl.RuntimeEndpoint(server.url)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("style", ["ramet", "sglang"])
def test_on_a_script_and_on_its_server(name: str, style: str) -> None:
    wanted = CASES[name](scripted())
    info = {"enable_deterministic_inference": True}
    with NativeServer(scripted(), style, info=info) as server:
        assert CASES[name](sgl.RuntimeEndpoint(server.url)) == wanted


@pytest.mark.parametrize("name", CASES)
def test_on_the_engine_and_on_its_server(name: str, engine: Any, remote_engine: Any) -> None:
    assert CASES[name](remote_engine) == CASES[name](engine)
