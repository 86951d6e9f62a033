"""Backends that others wrote to SGLang's interface: given where a backend is expected, they work."""

# ruff: noqa: ARG002 - the parameters are the interface
from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import ramet as sgl
from ramet.backend import ScoreCall
from ramet.errors import ProgramError, Unsupported
from ramet.lang.backend.base_backend import BaseBackend
from ramet.lang.chat_template import get_chat_template
from ramet.lang.choices import ChoicesDecision
from ramet.lang.ir import SglSamplingParams
from ramet.lang.third_party import ThirdParty, adapted
from ramet.prompt import EMPTY


class Echo(BaseBackend):
    """Says how long the prompt is."""

    def __init__(self) -> None:
        super().__init__()
        self.chat_template = get_chat_template("chatml")
        self.params: list[SglSamplingParams] = []
        self.prompts: list[str] = []
        self.messages: list[Any] = []
        self.hooks: list[tuple[str, str]] = []

    def generate(self, s, sampling_params):
        self.params.append(sampling_params)
        self.prompts.append(s.text_)
        self.messages.append(s.messages_)
        text = f"<{len(s.text_)}>"
        if sampling_params.n > 1:
            return [text] * sampling_params.n, {}
        return text, {"prompt_tokens": len(s.text_), "completion_tokens": 3}

    def generate_stream(self, s, sampling_params):
        for i, piece in enumerate(["one ", "two ", "three"]):
            yield piece, {"completion_tokens": i + 1}

    def select(self, s, choices, temperature, choices_method):
        assert temperature == 0.0
        return ChoicesDecision(max(choices, key=len), {"method": repr(choices_method)})

    def commit_lazy_operations(self, s):
        self.hooks.append(("commit", s.text_))

    def end_program(self, s):
        self.hooks.append(("end", s.sid))


@sgl.function
def program(s):
    s += sgl.user("Hello")
    s += sgl.assistant(sgl.gen("a", stop="x", max_tokens=7) + sgl.select("b", ["no", "yes"]))
    forks = s.fork(2)
    forks += lambda i: f"{i}" + sgl.gen("c")
    forks.join()
    s += sgl.gen("d", n=2)


def test_a_program_runs_on_it() -> None:
    backend = Echo()
    state = program.run(backend=backend)
    start = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert state["a"] == f"<{len(start)}>"
    assert state.text().startswith(f"{start}{state['a']}yes<|im_end|>\n")
    assert state["b"] == "yes"
    assert state.get_meta_info("b")["method"] == "TokenLengthNormalized"
    assert state["c"] == [f"<{len(state.text()) - len(state['d'][0]) + 1}>"] * 2
    assert state["d"][0] == state["d"][1]
    assert backend.messages[0] == [{"role": "user", "content": "Hello"}]
    first = backend.params[0]
    assert (first.max_new_tokens, first.stop, first.n) == (7, ["x", "<|im_end|>"], 1)
    assert state.calls[0].prompt_tokens == len(start)
    wait_until(lambda: len(backend.hooks) == 2)
    assert [hook for hook, _ in backend.hooks] == ["commit", "end"]


def wait_until(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


def test_it_streams() -> None:
    @sgl.function
    def one(s):
        s += "x" + sgl.gen("a")

    state = one.run(backend=Echo(), stream=True)
    assert list(state.text_iter("a")) == ["one ", "two ", "three"]

    class Plain(Echo):
        def generate_stream(self, s, sampling_params):
            raise NotImplementedError

    assert "".join(one.run(backend=Plain(), stream=True).text_iter("a")) == "<1>"


def test_it_need_not_be_derived_and_is_adapted_once() -> None:
    class Duck:
        def get_chat_template(self):
            return get_chat_template("default")

        def generate(self, s, sampling_params):
            return "quack", {}

    duck = Duck()
    assert adapted(duck) is adapted(duck)

    @sgl.function
    def one(s):
        s += "x" + sgl.gen("a")

    assert one.run(backend=duck)["a"] == "quack"
    sgl.set_default_backend(duck)
    try:
        assert one.run()["a"] == "quack"
        assert sgl.flush_cache() is False
        assert sgl.get_server_info() == {}
    finally:
        sgl.set_default_backend(None)

    @sgl.function
    def choose(s):
        s += sgl.select("a", ["x", "y"])

    with pytest.raises(Unsupported, match="select"):
        choose.run(backend=duck)


def test_what_it_raises_is_an_error_of_the_line() -> None:
    class Broken(Echo):
        def generate(self, s, sampling_params):
            raise KeyError("inside")

        def select(self, s, choices, temperature, choices_method):
            return ChoicesDecision("something else", {})

    @sgl.function
    def one(s):
        s += "x" + sgl.gen("a")

    error = one.run(backend=Broken()).error()
    assert isinstance(error, ProgramError)
    assert isinstance(error.__cause__, KeyError)

    @sgl.function
    def choose(s):
        s += sgl.select("a", ["x", "y"])

    assert "something else" in str(choose.run(backend=Broken()).error())

    class Few(Echo):
        def generate(self, s, sampling_params):
            return "one", {}

    @sgl.function
    def two(s):
        s += sgl.gen("a", n=2)

    assert "for 2 samples" in str(two.run(backend=Few()).error())


def test_blocking_calls_run_together() -> None:
    together = threading.Barrier(8)

    class Meeting(Echo):
        def generate(self, s, sampling_params):
            together.wait(10)
            return "met", {}

    @sgl.function
    def branches(s):
        forks = s.fork(8)
        forks += sgl.gen("a")
        forks.join()

    assert branches.run(backend=Meeting())["a"] == ["met"] * 8


async def test_scores_are_not_to_be_had() -> None:
    with pytest.raises(Unsupported, match="gives no scores"):
        await ThirdParty(Echo()).score(ScoreCall(prompt=EMPTY, choices=["a"]))


def test_the_record_of_sampling_values() -> None:
    record = SglSamplingParams(max_new_tokens=5, stop=["a"], top_k=3, regex="x")
    assert record.to_openai_kwargs()["max_tokens"] == 5
    assert record.to_openai_kwargs()["stop"] == ["a"]
    assert SglSamplingParams().to_openai_kwargs()["stop"] is None
    assert record.to_anthropic_kwargs() == {
        "max_tokens": 5,
        "stop_sequences": ["a"],
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 3,
    }
    assert "top_k" not in SglSamplingParams().to_anthropic_kwargs()
    assert record.to_vertexai_kwargs()["max_output_tokens"] == 5
    assert record.to_litellm_kwargs()["max_tokens"] == 5
    native = record.to_srt_kwargs()
    assert (native["regex"], native["top_k"], native["skip_special_tokens"]) == ("x", 3, True)
    copy = record.clone()
    copy.top_k = 9
    assert record.top_k == 3


def test_every_hook_of_the_interface_has_a_default() -> None:
    backend = BaseBackend()
    for hook, args in (
        ("cache_prefix", ("x",)),
        ("uncache_prefix", ("rid",)),
        ("end_request", ("rid",)),
        ("begin_program", (None,)),
        ("end_program", (None,)),
        ("commit_lazy_operations", (None,)),
        ("fork_program", (None, [], None)),
        ("fill_image", (None,)),
        ("shutdown", ()),
    ):
        assert getattr(backend, hook)(*args) is None
    assert backend.get_model_name() == "BaseBackend"
    assert backend.support_concate_and_append is False
    assert backend.get_server_info() == {"model_path": "BaseBackend"}
    with pytest.raises(NotImplementedError):
        backend.generate(None, SglSamplingParams())
    with pytest.raises(NotImplementedError):
        backend.concatenate_and_append([], "")
