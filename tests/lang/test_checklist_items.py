"""What SGLang's public frontend promises, item by item, and what it does wrong and we do not.

The numbers are those of the specification's sections: running (2), the state (3), expressions (4), gen (5),
select (6), types (7), branches (8), roles (9), streams (11), mistakes (21), wishes (22).
"""

from __future__ import annotations

import asyncio
import contextvars
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lang.gates import Gated

import ramet as sgl
from ramet.backend import Capabilities, GenerateCall
from ramet.backends.scripted import Fail, Scripted
from ramet.errors import InvalidRequest, ProgramError
from ramet.lang.chat_template import (
    ChatTemplate,
    get_chat_template,
    get_chat_template_by_model_path,
    register_chat_template,
    register_chat_template_matching_function,
)
from ramet.lang.choices import ChoicesDecision
from ramet.lang.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_STR


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with sgl.Engine("pocket", num_threads=1) as running:
        yield running


@pytest.fixture(params=["scripted", "engine"])
def backend(request: pytest.FixtureRequest) -> Any:
    """Both kinds of backends that need no network."""
    if request.param == "engine":
        return request.getfixturevalue("engine")
    return Scripted(lambda _: " some words of an answer")


def params_of(backend: Scripted, number: int = -1) -> Any:
    call = backend.calls[number]
    assert isinstance(call, GenerateCall)
    return call.params


# 1. Settings


def test_settings_have_their_names_and_defaults() -> None:
    fresh = type(sgl.global_config)()
    assert {name: getattr(fresh, name) for name in fresh.__slots__} == {
        "verbosity": 0,
        "default_backend": None,
        "skip_special_tokens_in_output": True,
        "spaces_between_special_tokens_in_out": True,
        "enable_precache_with_tracing": True,
        "enable_parallel_encoding": True,
    }


def test_a_verbose_run_prints_its_text(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sgl.global_config, "verbosity", 2)
    one.run(backend=Scripted(["answer"]))
    assert capsys.readouterr().out == "xanswer\n"


# 2. Running


@sgl.function
def one(s, text="x", **options):
    s += text + sgl.gen("a", **options)
    return len(text)


def test_2_what_a_program_tells_of_itself() -> None:
    @sgl.function
    def program(s, a, b, c=3):
        """Words."""

    assert program.arg_names == ["a", "b", "c"]
    assert program.arg_defaults == [3]
    assert program.bind_arguments == {}
    assert program.num_api_spec_tokens is None
    assert program.bind(a=1).bind_arguments == {"a": 1}
    assert (program.func.__name__, program.__doc__) == ("program", "Words.")
    with pytest.raises(InvalidRequest, match="name it `s`"):
        sgl.function(lambda state: None)  # noqa: ARG005


def test_2_values_of_the_run_are_defaults_of_its_generations() -> None:
    backend = Scripted()
    one.run(
        max_new_tokens=5, stop=["q"], temperature=0.5, top_p=0.9, top_k=7, min_p=0.1,
        frequency_penalty=0.2, presence_penalty=0.3, ignore_eos=True, stop_token_ids=[9],
        backend=backend,
    ).sync()  # fmt: skip
    p = params_of(backend)
    assert (p.max_new_tokens, p.stop, p.temperature, p.top_p, p.top_k) == (5, ("q",), 0.5, 0.9, 7)
    assert (p.min_p, p.frequency_penalty, p.presence_penalty) == (0.1, 0.2, 0.3)
    assert (p.ignore_eos, p.stop_token_ids) == (True, (9,))
    backend = Scripted()
    one.run(backend=backend).sync()
    p = params_of(backend)
    assert (p.max_new_tokens, p.temperature, p.top_p, p.top_k, p.n) == (128, 1.0, 1.0, -1, 1)


def test_2_a_value_of_a_generation_wins() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen("a", 3, temperature=0) + sgl.gen("b")

    backend = Scripted()
    program.run(max_new_tokens=9, temperature=2.0, backend=backend).sync()
    assert [(c.params.max_new_tokens, c.params.temperature) for c in backend.calls] == [
        (3, 0),
        (9, 2.0),
    ]


def test_2_the_state_is_there_while_the_model_works() -> None:
    backend = Gated(["answer"])
    state = one.run(backend=backend)
    assert state.ret_value == 1
    assert not state.stream_executor.variable_event["a"].is_set()
    assert state.stream_executor.variable_event["a"].wait(0.01) is False
    backend.gate.set()
    assert state["a"] == "answer"
    assert state.stream_executor.variable_event["a"].wait() is True


def test_2_without_a_thread_each_append_is_done_at_once() -> None:
    backend = Scripted(["1", "2"])
    done: list[int] = []

    @sgl.function
    def program(s):
        s += sgl.gen("a")
        done.append(len(backend.calls))
        s += sgl.gen("b")
        done.append(len(backend.calls))

    program.run(backend=backend, use_thread=False)
    assert done == [1, 2]


def test_2_calling_is_running_and_an_endpoint_stands_for_its_owner() -> None:
    class Owner:
        endpoint = Scripted(["answer"])

    assert one("y", backend=Owner())["a"] == "answer"


def test_2_an_exception_of_the_body_passes() -> None:
    @sgl.function
    def program(s):
        s += "x"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        program.run(backend=Scripted())
    state = program.run(backend=Scripted(), stream=True)
    assert "mine" in str(state.error())


def test_2_batches_and_bound_arguments() -> None:
    @sgl.function
    def program(s, a, b=2):
        s += f"{a}{b}"

    states = program.run_batch([{"a": 1}, (3, 4), [5]], backend=Scripted())
    assert [state.text() for state in states] == ["12", "34", "52"]
    bound = program.bind(b=9).run_batch([{"a": 1}, {"a": 2, "b": 1}], backend=Scripted())
    assert [state.text() for state in bound] == ["19", "29"]  # bound values are merged over
    with pytest.raises(InvalidRequest, match="not a parameter"):
        program.bind(c=1)


# 3. The state


def test_3_operations(backend: Any) -> None:
    @sgl.function
    def program(s):
        s += ["a", "b" + sgl.gen("v", max_tokens=2), sgl.gen(max_tokens=1)]
        s["number"] = 5
        s.set_var("object", [1])
        assert ("v" in s, "w" in s, s["number"], s.get_var("object")) == (True, False, 5, [1])
        with s.var_scope("scope"):
            s += " in "
        assert s["scope"] == " in "
        s.system("be kind")
        with s.user():
            s += "hello"
        s.sync()
        assert s.error() is None
        assert s.get_meta_info("number") is None
        assert s.get_meta_info("v")["completion_tokens"] <= 2

    state = program.run(backend=backend, temperature=0)
    assert state.text().startswith("ab" + state["v"])
    assert state.messages() == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
    ]
    assert repr(state) == f"ProgramState({state.text()})"
    with pytest.raises(KeyError, match="no variable 'nope'"):
        state["nope"]


def test_3_what_cannot_be_appended_is_said_at_once() -> None:
    for wrong in (None, 5, {"a": 1}):

        @sgl.function
        def program(s, wrong=wrong):
            s += wrong

        with pytest.raises(ValueError, match="neither text nor an expression"):
            program.run(backend=Scripted())


def test_3_waiting_for_meta_information_can_end() -> None:
    backend = Gated(["answer"])
    state = one.run(backend=backend)
    with pytest.raises(TimeoutError):
        state.stream_executor.get_meta_info("a", timeout=0.01)
    backend.gate.set()
    assert state.stream_executor.get_meta_info("a", timeout=5)["completion_tokens"] == 1


def test_3_the_executors_names() -> None:
    @sgl.function
    def program(s, arg):
        s += sgl.user(arg) + sgl.assistant_begin() + sgl.gen("v")

    state = program.run("hi", backend=Scripted(["answer"]), max_new_tokens=4)
    state.sync()
    ex = state.stream_executor
    assert ex.text_ == ex.text() == state.text()
    assert ex.messages_ == ex.messages() == [{"role": "user", "content": "hi"}]
    assert (ex.variables, list(ex.meta_info)) == ({"v": "answer"}, ["v"])
    assert (ex.images_, ex.cur_images, ex.cur_role) == ([], [], "assistant")
    assert ex.chat_template.name == "default"
    assert ex.arguments == {"arg": "hi"}
    assert ex.default_sampling_para.max_new_tokens == 4
    assert (ex.num_api_spec_tokens, ex.stream, ex.is_finished) == (None, False, True)
    assert isinstance(ex.backend, Scripted)
    assert ex.sid
    ex.submit("more")
    ex.sync()
    assert ex.fork(2)[1].text().endswith("more")
    ex.set_var("w", 1)
    assert ex.get_var("w") == 1
    ex.end()


def test_3_context_variables_reach_background_bodies() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[str] = []

    @sgl.function
    def program(s):
        seen.append(variable.get())
        s += "x"

    variable.set("mine")
    program.run(backend=Scripted(), stream=True).sync()
    program.run_batch([()] * 2, backend=Scripted(), num_threads=2)
    assert seen == ["mine"] * 3


# 4. Expressions


def test_4_sums_are_flat_and_may_be_used_again() -> None:
    gen = sgl.gen("v")
    expression = "a" + gen + "b" + (sgl.user("c") + "d")
    assert [type(part).__name__ for part in expression.expr_list] == [
        "SglConstantText", "SglGen", "SglConstantText", "SglRoleBegin", "SglConstantText",
        "SglRoleEnd", "SglConstantText",
    ]  # fmt: skip

    @sgl.function
    def program(s):
        s += expression
        s += expression

    assert program.run(backend=Scripted(["1", "2"]))["v"] == "2"
    with pytest.raises(InvalidRequest, match="is an operation, not text"):
        f"{gen}"


# 5. gen


def test_5_places_of_arguments() -> None:
    backend = Scripted()

    @sgl.function
    def program(s):
        s += sgl.gen("x", 64, 2, 1, "stop")

    program.run(backend=backend).sync()
    p = params_of(backend)
    assert (p.max_new_tokens, p.min_new_tokens, p.n, p.stop) == (64, 2, 1, ("stop",))


def test_5_choices_make_a_selection_and_the_rest_is_ignored() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen("v", choices=["p", "q"], max_tokens=3, stop="p", return_logprob=True)

    backend = Scripted(scores={"p": -2.0, "q": -1.0})
    state = program.run(backend=backend)
    assert state["v"] == "q"
    assert state.get_meta_info("v")["input_token_logprobs"]


def test_5_a_wrong_regex_is_an_error_of_the_expression() -> None:
    with pytest.raises(InvalidRequest, match="not a regular expression"):
        sgl.gen("v", regex="(")


def test_5_stops(backend: Any) -> None:
    @sgl.function
    def program(s):
        s += "Once" + sgl.gen("v", stop=["e", "o"], max_tokens=16)

    state = program.run(backend=backend, temperature=0)
    assert not set(state["v"]) & set("eo")
    assert state.text() == "Once" + state["v"]


def test_5_the_templates_stops_join_every_generation() -> None:
    stops = ["mine"]
    backend = Scripted(model_path="qwen-chat")
    for _ in range(2):
        one.run(stop=stops, backend=backend).sync()
    assert [call.params.stop for call in backend.calls] == [("mine", "<|im_end|>")] * 2
    assert stops == ["mine"]  # the caller's list stays as it is


def test_5_several_samples(backend: Any) -> None:
    @sgl.function
    def program(s):
        s += "A" + sgl.gen("v", n=3, max_tokens=3) + "B"

    state = program.run(backend=backend, sampling_seed=1)
    assert len(state["v"]) == len(state.get_meta_info("v")) == 3
    assert state.text() == f"A{state['v'][0]}B"


def test_5_an_unnamed_generation_is_text_only() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen()
        assert None not in s

    state = program.run(backend=Scripted(["said"]))
    assert state.text() == "said"
    assert state.stream_executor.variables == {}


# 6. select


def test_6_an_own_method_and_wrong_choices() -> None:
    def last(**given: Any) -> ChoicesDecision:
        assert set(given) == {
            "choices", "normalized_prompt_logprobs", "input_token_logprobs",
            "output_token_logprobs", "unconditional_token_logprobs",
        }  # fmt: skip
        return ChoicesDecision(given["choices"][-1], {"why": "last"})

    @sgl.function
    def program(s):
        s += "x" + sgl.select("v", ["a", "b", "c"], choices_method=last)

    state = program.run(backend=Scripted())
    assert (state["v"], state.get_meta_info("v")) == ("c", {"why": "last"})
    for choices in (None, [], "abc", ["a", "a"], ["a", ""]):
        with pytest.raises(InvalidRequest, match="choices"):
            sgl.select("v", choices)
    with pytest.raises(InvalidRequest, match="temperature"):
        sgl.select("v", ["a"], temperature=0.5)


# 7. Types


def test_7_constants() -> None:
    for pattern, good, bad in (
        (REGEX_INT, ["12", "-3", "+4 \n"], ["", "1.5", "a"]),
        (REGEX_FLOAT, ["1.5", "-.5", "7 "], ["1.", "e"]),
        (REGEX_BOOL, ["True", "False"], ["true", ""]),
        (REGEX_STR, ['"two words"', '""'], ['"a.b"', "a"]),
    ):
        assert all(re.fullmatch(pattern, text) for text in good)
        assert not any(re.fullmatch(pattern, text) for text in bad)


@pytest.mark.parametrize("dtype", [int, "int", float, "float", bool, "bool", str, "str"])
def test_7_types_and_their_names(dtype: Any, engine: Any) -> None:
    @sgl.function
    def program(s):
        s += "The value is " + sgl.gen("v", dtype=dtype, max_tokens=12, stop="z")

    value = program.run(backend=engine, temperature=0)["v"]
    name = dtype if isinstance(dtype, str) else dtype.__name__
    if name in ("int", "float"):
        float(value)
    elif name == "bool":
        assert value in ("True", "False")
    else:
        assert value[0] == value[-1] == '"'


def test_7_a_type_beats_a_regex_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="takes the place of regex"):
        sgl.gen("v", dtype=int, regex="a")


# 8. Branches


def test_8_what_a_branch_has(backend: Any) -> None:
    @sgl.function
    def program(s):
        s += sgl.user("q")
        s += sgl.assistant_begin() + "begun"
        s["x"] = [1]
        forks = s.fork(2)
        assert len(forks) == 2
        for branch in forks:
            assert branch["x"] is s["x"]
            assert branch.stream_executor.cur_role == "assistant"
            assert branch.messages() == s.messages()
            branch += " there" + sgl.assistant_end()
        assert forks[0].messages()[1] == {"role": "assistant", "content": "begun there"}
        s += sgl.assistant_end()

    state = program.run(backend=backend)
    assert state.messages()[1]["content"] == "begun"


def test_8_ways_to_append_to_a_group() -> None:
    @sgl.function
    def program(s):
        forks = s.fork(2)
        forks += "text "
        forks += sgl.gen("all")
        forks += lambda i: f" f{i}"
        forks += [" l0", " l1"]
        forks[1] += " one"
        s["texts"] = [branch.text() for branch in forks]
        with pytest.raises(InvalidRequest, match="do not fit"):
            forks += ["a"]

    texts = program.run(backend=Scripted(lambda _: "g"))["texts"]
    assert texts == ["text g f0 l0", "text g f1 l1 one"]


def test_8_joins() -> None:
    @sgl.function
    def program(s):
        s["known"] = 1
        s += "p:"
        forks = s.fork(3)
        for i, branch in enumerate(forks):
            branch += f"{i}" + sgl.gen("new")
            branch["known"] = i
            if i != 1:
                branch["some"] = i
        forks.join()
        assert (s["known"], s["some"], s["new"]) == (1, [0, 2], ["g"] * 3)
        assert len(s.get_meta_info("new")) == 3
        assert [branch["new"] for branch in forks] == ["g"] * 3
        again = s.fork(2)
        again += lambda i: f"+{i}"
        again.join("concate_and_append")
        wrong = s.fork(1)
        with pytest.raises(ValueError, match="not a way to join"):
            wrong.join("concat")

    state = program.run(backend=Scripted(lambda _: "g"))
    assert state.text() == "p:+0+1"


def test_8_a_fork_before_any_text(backend: Any) -> None:
    @sgl.function
    def program(s):
        forks = s.fork(3)
        forks += lambda i: f"Question {i}:" + sgl.gen("v", max_tokens=2)
        forks.join()

    assert len(program.run(backend=backend, temperature=0)["v"]) == 3


def test_8_the_shared_prefix_is_announced() -> None:
    @sgl.function
    def program(s):
        s += "shared"
        s.fork(3)
        s.fork(1)
        s += sgl.gen("after")  # what was announced before a call has arrived before it

    backend = Scripted()
    program.run(backend=backend).sync()
    hints = [(hint.kind, hint.count) for hint in backend.hints if hint.kind != "done"]
    assert hints == [("will_fork", 3)]


# 9. Roles


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("default", "SYSTEM:s\nUSER:u\nASSISTANT:a\n"),
        ("claude", "s\n\nHuman: u\n\nAssistant:a"),
        (
            "chatml",
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
            "<|im_start|>assistant\na<|im_end|>\n",
        ),
        ("vicuna_v1.1", "s USER:u ASSISTANT:a</s>"),
        ("llama-2-chat", "[INST] <<SYS>>\ns\n<</SYS>>\n\nu [/INST]a </s><s>"),
        ("mistral", "[SYSTEM_PROMPT] s [/SYSTEM_PROMPT][INST] u [/INST]a </s><s>"),
        (
            "llama-3-instruct",
            "<|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nu<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>",
        ),
        (
            "gemma-it",
            "s<start_of_turn>user\nu<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n",
        ),
        ("deepseek-v3", "s<｜User｜>u<｜Assistant｜>a<｜end▁of▁sentence｜>"),
    ],
)
def test_9_templates(name: str, text: str) -> None:
    @sgl.function
    def program(s):
        s += sgl.system("s") + sgl.user("u")
        s += sgl.assistant_begin() + "a" + sgl.assistant_end()

    state = program.run(backend=Scripted(), chat_template=name)
    assert state.text() == text
    assert get_chat_template(name).get_prompt(state.messages()) == text


def test_9_a_default_system_prompt_comes_first() -> None:
    @sgl.function
    def program(s):
        s += sgl.user("u")
        s.user()  # nothing is opened before it is entered

    state = program.run(backend=Scripted(), chat_template="qwen")
    assert state.messages()[0] == {"role": "system", "content": "You are a helpful assistant."}


def test_9_own_templates_and_rules() -> None:
    sides = {role: (f"<{role}>", "</>") for role in ("system", "user", "assistant")}
    register_chat_template(ChatTemplate("mine", None, sides))

    @register_chat_template_matching_function
    def rule(path: str) -> str | None:
        return "mine" if path.endswith("/my-model") else None

    assert get_chat_template_by_model_path("a/my-model").name == "mine"
    assert get_chat_template_by_model_path("mine").name == "mine"  # a name stands for its template

    @sgl.function
    def program(s):
        s += sgl.user("u")

    assert program.run(backend=Scripted(model_path="a/my-model")).text() == "<user>u</>"


def test_9_roles_do_not_nest() -> None:
    @sgl.function
    def program(s):
        with s.user():
            s += sgl.assistant("x")

    with pytest.raises(InvalidRequest, match="inside the role 'user'"):
        program.run(backend=Scripted())


# 11. Streams (all branches and batches: test_checklist_streams)


def test_11_readers_take_nothing_from_each_other() -> None:
    state = one.run(backend=Scripted(["a b c d e"], chunk_latency=0.001), stream=True)
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: "".join(state.text_iter("a"))}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), "a b c d e")


def test_11_without_a_stream_there_is_one_piece() -> None:
    state = one.run(backend=Scripted(["a b"]))
    assert list(state.text_iter()) == ["xa b"]
    assert list(state.text_iter("a")) == ["a b"]


# 21. Mistakes that are not repeated


def test_21_after_a_failure_nothing_hangs_and_every_read_tells_the_cause() -> None:
    @sgl.function
    def program(s):
        s += "x" + sgl.gen("a")
        s += sgl.gen("b")
        s += "more"
        with s.var_scope("c"):
            s += "text"

    state = program.run(backend=Scripted([Fail("out of luck")]))
    reads = [lambda: state["a"], lambda: state["b"], lambda: state["c"], state.text, state.messages]
    for read in reads:
        with pytest.raises(ProgramError, match="out of luck"):
            read()
    state += "after"
    assert "out of luck" in str(state.error())


def test_21_a_parent_learns_of_failed_branches() -> None:
    @sgl.function
    def program(s):
        forks = s.fork(2)
        forks += lambda i: f"{i}" + sgl.gen("v")
        forks.join()

    fails = Scripted(lambda call: Fail("no") if call.prompt.text() == "1" else "yes")
    with pytest.raises(ProgramError, match="branch 1 of 2"):
        program.run(backend=fails)


def test_21_bind_and_fork_keep_the_speculation() -> None:
    program = sgl.function(num_api_spec_tokens=7)(one.func)
    assert program.bind(text="y").num_api_spec_tokens == 7


def test_21_a_failed_program_does_not_end_its_batch() -> None:
    @sgl.function
    def program(s, i):
        s += str(i)
        if i == 1:
            raise LookupError("mine")

    states = program.run_batch([(0,), (1,), (2,)], backend=Scripted())
    assert [state.error() is None for state in states] == [True, False, True]


def test_21_a_string_as_stop_of_a_typed_generation() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen_int("v", stop="x")

    backend = Scripted(["5"], capabilities=Capabilities(regex=True))
    assert program.run(backend=backend)["v"] == "5"
    assert params_of(backend).stop == ("x", " ", "\n")


# 22. Wishes


async def test_22_programs_and_branches_for_coroutines() -> None:
    class Judge:
        def __init__(self, word: str) -> None:
            self.word = word

        @sgl.function
        async def judge(self, s, i):
            s += f"{self.word} {i}:" + sgl.gen("v")
            forks = s.fork(2)
            forks += sgl.gen("w")
            await forks.ajoin()
            return await s.value("w")

    judge = Judge("is")
    backend = Scripted(lambda _: "so", latency=0.02)
    states = await asyncio.gather(*(judge.judge.arun(i, backend=backend) for i in range(4)))
    assert [state.ret_value for state in states] == [["so", "so"]] * 4
    assert backend.max_active >= 8
    batch = await judge.judge.arun_batch([(1,), (2,)], backend=backend)
    assert [state["v"] for state in batch] == ["so", "so"]
    numbers = [s["v"] async for s in judge.judge.aiter_batch([(1,)], backend=backend)]
    assert numbers == ["so"]


def test_22_what_a_state_tells_of_its_calls(backend: Any) -> None:
    @sgl.function
    def program(s):
        s += "The same beginning of a text. "
        forks = s.fork(2)
        forks += sgl.gen("v", max_tokens=3)
        forks.join()

    state = program.run(backend=backend, temperature=0)
    calls = state.all_calls()
    assert [call.name for call in calls] == ["v", "v"]
    assert all(call.prompt_tokens and call.completion_tokens for call in calls)
    assert all(call.location.startswith(__file__) for call in calls)
