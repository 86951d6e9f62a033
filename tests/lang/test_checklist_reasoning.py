"""Reasoning goes to a variable of its own; the program's text and messages hold the answer."""

from __future__ import annotations

from typing import Any

import pytest
from tests.backends.native_server import NativeServer

import ramet as sgl
from ramet import RuntimeEndpoint
from ramet.backends.scripted import Fail, Scripted
from ramet.errors import InvalidRequest, ProgramError
from ramet.lang.reasoning import reasoning_rule

SAID = "<think>\nTwo and two.\nFour.\n</think>\n\nIt is 4."


@sgl.function
def asks(s, model_type="qwen3", **options):
    s += sgl.user("What is two and two?")
    s += sgl.separate_reasoning(sgl.assistant(sgl.gen("answer", **options)), model_type)
    s += sgl.user("Sure?")
    s += sgl.assistant(sgl.gen("sure"))


def check(state: Any) -> None:
    assert state["answer"] == "It is 4."
    assert state["answer_reasoning_content"] == "Two and two.\nFour."
    assert state.text() == (
        "USER:What is two and two?\nASSISTANT:It is 4.\nUSER:Sure?\nASSISTANT:Yes.\n"
    )
    contents = [message["content"] for message in state.messages()]
    assert contents == ["What is two and two?", "It is 4.", "Sure?", "Yes."]


def test_the_answer_stays_and_the_block_is_whole() -> None:
    backend = Scripted([SAID, "Yes."])
    check(asks.run(backend=backend))
    assert "think" not in backend.prompts[1]


def test_while_it_streams_and_on_a_server() -> None:
    state = asks.run(backend=Scripted([SAID, "Yes."]), stream=True)
    assert "".join(state.text_iter("answer")) == "It is 4."
    check(state)
    assert "".join(state.text_iter()) == state.text()
    with NativeServer(Scripted([SAID, "Yes."])) as server:
        check(asks.run(backend=RuntimeEndpoint(server.url)))
        assert server.bodies()[1]["spans"][0].endswith("ASSISTANT:It is 4.\nUSER:Sure?\nASSISTANT:")


@pytest.mark.parametrize(
    ("model_type", "said", "reasoning", "answer"),
    [
        ("qwen3", SAID, "Two and two.\nFour.", "It is 4."),
        ("qwen3", " plain answer", "", " plain answer"),
        ("qwen3", "It says <think> in the text", "", "It says <think> in the text"),
        ("qwen3", "<think>never ends", "never ends", ""),
        ("deepseek-r1", "Hm.\n</think>\nSo.", "Hm.", "So."),
        ("deepseek-r1", SAID, "Two and two.\nFour.", "It is 4."),
        ("DeepSeek-R1", "never ends", "never ends", ""),
        ("kimi", "◁think▷a◁/think▷b", "a", "b"),
        ("qwen3", "<think></think>b</think>", "", "b</think>"),
    ],
)
def test_where_it_ends(model_type: str, said: str, reasoning: str, answer: str) -> None:
    assert reasoning_rule(model_type).split(said) == (reasoning, answer)
    state = asks.run(model_type, backend=Scripted([said, "Yes."]))
    assert (state["answer"], state["answer_reasoning_content"]) == (answer, reasoning)


def test_several_samples_and_a_selection() -> None:
    @sgl.function
    def program(s):
        s += sgl.separate_reasoning(
            "Q" + sgl.gen("a", n=2) + sgl.select("b", [" yes", " no"]), "qwen3"
        )

    state = program.run(backend=Scripted([["<think>x</think>1", "2"]]))
    assert (state["a"], state["a_reasoning_content"]) == (["1", "2"], ["x", ""])
    assert state["b_reasoning_content"] == ""
    assert state.text() == "Q1" + state["b"]


def test_a_failure_reaches_who_reads_the_reasoning() -> None:
    state = asks.run(backend=Scripted([Fail("out of luck")]))
    with pytest.raises(ProgramError, match="out of luck"):
        state["answer_reasoning_content"]


def test_what_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="known are deepseek-r1"):
        asks.run("some-model", backend=Scripted())
    with pytest.raises(InvalidRequest, match="typed"):
        asks.run(dtype=int, backend=Scripted())
    with pytest.raises(InvalidRequest, match="name the generation"):
        sgl.separate_reasoning(sgl.gen(), "qwen3")
