"""A program's own view: text, variables, roles, scopes, calls of other programs."""

# ruff: noqa: ARG001, ARG005 (bodies, responses and listeners take what they are given)

from __future__ import annotations

import contextvars
import threading

import pytest

import ramet as sgl
from ramet.backends.scripted import Scripted
from ramet.config import global_config
from ramet.errors import InvalidRequest, NoBackend, Unsupported
from ramet.lang.interpreter import ProgramState, StreamExecutor
from ramet.lang.ir import SglConstantText, SglExprList


def test_text_and_variables_follow_the_order_of_the_program() -> None:
    @sgl.function
    def capital(s, country):
        s += "Q: capital of " + country + "? A:" + sgl.gen("city", stop=".")
        s += "."
        s["note"] = {"any": "value"}
        s += [" It is ", sgl.gen("adjective"), "!"]
        return s["city"].strip()

    backend = Scripted([" Paris. And", "old"])
    state = capital.run(country="France", backend=backend)
    assert state.text() == "Q: capital of France? A: Paris. It is old!"
    assert (state["city"], state["adjective"], state["note"]) == (" Paris", "old", {"any": "value"})
    assert state.ret_value == "Paris"
    assert backend.prompts == [
        "Q: capital of France? A:",
        "Q: capital of France? A: Paris. It is ",
    ]
    assert state.error() is None


def test_a_plain_run_executes_the_body_in_the_callers_thread() -> None:
    seen = []

    @sgl.function
    def here(s):
        seen.append(threading.get_ident())
        s += sgl.gen("x")

    here.run(backend=Scripted())
    assert seen == [threading.get_ident()]


def test_names_are_known_as_soon_as_the_program_has_said_them() -> None:
    @sgl.function
    def early(s):
        assert "x" not in s
        s += sgl.gen("x") + sgl.gen()
        assert "x" in s
        assert None not in s
        with pytest.raises(KeyError, match=r"'y'.*there are: 'x'"):
            s["y"]

    state = early.run(backend=Scripted(latency=0.02))
    assert state["x"]


def test_the_last_binding_in_program_order_wins() -> None:
    @sgl.function
    def rebind(s):
        s += sgl.gen("x")
        s["x"] = "mine"
        assert s["x"] == "mine"
        assert s.get_meta_info("x") is None
        s += sgl.gen("x")

    state = rebind.run(backend=Scripted(["one", "two"], latency=0.01))
    assert state["x"] == "two"
    assert state.text() == "onetwo"


def test_meta_info_and_its_timeout() -> None:
    @sgl.function
    def slow(s):
        s += "a b" + sgl.gen("x", return_logprob=True)
        with pytest.raises(TimeoutError, match="get_meta_info"):
            s.get_meta_info("x", timeout=0.01)

    state = slow.run(backend=Scripted(["one two"], latency=0.3))
    meta = state.get_meta_info("x")
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (2, 2)
    assert len(meta["output_token_logprobs"]) == 2


def test_values_of_no_text_are_refused_at_the_line() -> None:
    @sgl.function
    def wrong(s, value):
        s += value

    for value in (None, 3, b"x"):
        with pytest.raises(ValueError, match="neither text nor an expression"):
            wrong.run(value, backend=Scripted())


def test_an_expression_in_an_f_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="operation, not text"):
        f"{sgl.gen('x')}"


def test_expression_lists_are_flat() -> None:
    both = "a" + sgl.gen("x") + ("b" + sgl.select("y", ["1", "2"]))
    assert [type(e).__name__ for e in both.expr_list] == [
        "SglConstantText",
        "SglGen",
        "SglConstantText",
        "SglSelect",
    ]
    assert SglExprList(["a"]) == SglExprList([SglConstantText("a")])
    with pytest.raises(TypeError):
        sgl.gen("x") + 3


def test_roles_in_every_spelling_give_the_same_text_and_messages() -> None:
    @sgl.function
    def as_expressions(s):
        s += sgl.system("Be brief.") + sgl.user("Hi") + sgl.assistant(sgl.gen("a"))

    @sgl.function
    def as_methods(s):
        s.system("Be brief.")
        s.user("Hi")
        s.assistant(sgl.gen("a"))

    @sgl.function
    def as_blocks(s):
        with s.system():
            s += "Be brief."
        with s.user():
            s += "H"
            s += "i"
        with s.assistant():
            s += sgl.gen("a")

    @sgl.function
    def as_pairs(s):
        s += sgl.system_begin() + "Be brief." + sgl.system_end()
        s += sgl.user_begin()
        s += "Hi" + sgl.user_end() + sgl.assistant_begin() + sgl.gen("a") + sgl.assistant_end()

    for program in (as_expressions, as_methods, as_blocks, as_pairs):
        state = program.run(backend=Scripted([" Hello"]), chat_template="chatml")
        assert state.text() == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n Hello<|im_end|>\n"
        )
        assert state.messages() == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ]


def test_the_default_system_prompt_comes_before_the_first_other_role() -> None:
    @sgl.function
    def ask(s):
        s += "x"
        s += sgl.user("Hi")
        s += sgl.user()

    state = ask.run(backend=Scripted(), chat_template="qwen")
    assert [m["role"] for m in state.messages()] == ["system", "user", "user"]
    assert state.text().startswith("x<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    assert state.messages()[2]["content"] == ""


def test_the_templates_stop_strings_end_every_generation() -> None:
    @sgl.function
    def ask(s):
        s += sgl.gen("free") + sgl.user("Hi") + sgl.assistant(sgl.gen("a", stop=["!"]))

    stops = ["!"]
    backend = Scripted(["a<|im_end|>b", "c!d<|im_end|>"])
    state = ask.run(backend=backend, chat_template="chatml", stop=stops)
    assert (state["free"], state["a"]) == ("a", "c")
    assert stops == ["!"]
    assert backend.calls[1].params.stop == ("!", "<|im_end|>")


@pytest.mark.parametrize(
    "wrong",
    [
        [sgl.user_begin(), sgl.assistant_begin()],
        [sgl.user_end()],
        [sgl.user_begin(), sgl.system_end()],
        sgl.user([sgl.system("x")]),
    ],
)
def test_roles_do_not_nest_and_say_where_the_open_one_began(wrong) -> None:
    @sgl.function
    def nest(s):
        s += wrong

    with pytest.raises(InvalidRequest, match="role") as caught:
        nest.run(backend=Scripted())
    assert "test_programs.py" in str(caught.value)


def test_scopes_give_their_text() -> None:
    @sgl.function
    def scoped(s):
        s += "a"
        with s.var_scope("outer"):
            s += "b"
            with s.var_scope("inner"):
                s += sgl.gen("x")
            with pytest.raises(InvalidRequest, match="still open"):
                s["outer"]
        s += "c"

    state = scoped.run(backend=Scripted(["X"], latency=0.01))
    assert (state["outer"], state["inner"], state.text()) == ("bX", "X", "abXc")


def test_a_scope_ends_when_its_block_raises() -> None:
    @sgl.function
    def scoped(s):
        try:
            with s.var_scope("v"):
                s += "text"
                raise RuntimeError("leave")
        except RuntimeError:
            pass
        return s["v"]

    assert scoped.run(backend=Scripted()).ret_value == "text"


def test_programs_call_programs_on_the_same_backend() -> None:
    @sgl.function
    def inner(s, text):
        s += text + sgl.gen("y")

    def helper(s):
        s += "[help]"

    @sgl.function
    def outer(s):
        helper(s)
        s += inner("in:")["y"]
        return inner.run("again:").text()

    backend = Scripted({"^in:": "Y", "again:": "Z"})
    state = outer.run(backend=backend)
    assert (state.text(), state.ret_value) == ("[help]Y", "again:Z")
    assert backend.prompts == ["in:", "again:"]


def test_methods_are_programs() -> None:
    class Asker:
        def __init__(self, mood: str) -> None:
            self.mood = mood

        @sgl.function
        def ask(self, s, question, end="."):
            s += f"{self.mood}: {question}{end}" + sgl.gen("a")

    backend = Scripted()
    assert Asker("glad").ask.run("why", backend=backend).text().startswith("glad: why.")
    assert Asker("sad").ask.bind(end="?").run("why", backend=backend).text().startswith("sad: why?")
    assert (Asker.ask.arg_names, Asker.ask.arg_defaults) == (["question", "end"], ["."])
    with pytest.raises(TypeError, match="run it on an instance"):
        Asker.ask.run("why", backend=backend)


def test_a_function_without_a_state_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="name it `s`"):

        @sgl.function
        def wrong(state):
            pass


def test_arguments_are_checked_before_the_body_runs() -> None:
    @sgl.function
    def two(s, a, b=1):
        raise AssertionError("never runs")

    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        two.run(backend=Scripted())
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        two.run(1, c=3, stream=True, backend=Scripted())
    with pytest.raises(InvalidRequest, match="not a parameter"):
        two.bind(c=1)


def test_bind_wins_over_the_call_and_keeps_everything_else() -> None:
    @sgl.function(num_api_spec_tokens=None, chat_template="claude")
    def ask(s, a, b):
        s += sgl.user(f"{a}{b}")

    bound = ask.bind(b="2")
    assert (bound.bind_arguments, bound.chat_template, ask.bind_arguments) == (
        {"b": "2"},
        "claude",
        {},
    )
    assert bound.run(a="1", b="3", backend=Scripted()).text() == "\n\nHuman: 12"


def test_what_is_not_there_yet_is_refused_by_name() -> None:
    @sgl.function
    def later(s):
        s += "x"

    with pytest.raises(Unsupported, match="trace"):
        later.trace()

    @sgl.function
    def see(s):
        s += sgl.image("x.png")

    with pytest.raises(Unsupported, match="image"):
        see.run(backend=Scripted())


def test_which_backend_a_program_runs_on(monkeypatch) -> None:
    @sgl.function
    def say(s):
        s += sgl.gen("x")

    class Server:
        endpoint = Scripted(["from the endpoint"])

    monkeypatch.setattr(global_config, "default_backend", None)
    monkeypatch.setattr("ramet.lang.defaults._factory", [])
    with pytest.raises(NoBackend):
        say.run()
    assert (sgl.flush_cache(), sgl.get_server_info()) == (False, None)
    sgl.set_default_backend(Scripted(["default"]))
    assert say.run()["x"] == "default"
    assert say.run(backend=Server())["x"] == "from the endpoint"
    assert sgl.flush_cache() is True
    assert sgl.get_server_info()["backend"] == "scripted"
    with pytest.raises(InvalidRequest, match="has no generate"):
        say.run(backend=object())


def test_the_default_backend_is_made_by_the_registered_factory(monkeypatch) -> None:
    made = []

    def factory():
        made.append(Scripted(["made"]))
        return made[0]

    monkeypatch.setattr(global_config, "default_backend", None)
    monkeypatch.setattr("ramet.lang.defaults._factory", [factory])

    @sgl.function
    def say(s):
        s += sgl.gen("x")

    assert say.run()["x"] == "made"


def test_backends_see_the_callers_context() -> None:
    colour = contextvars.ContextVar("colour", default="none")
    seen = []

    @sgl.function
    def say(s):
        s += sgl.gen("x")

    colour.set("red")
    say.run(backend=Scripted(lambda call: seen.append(colour.get()) or "x")).sync()
    assert seen == ["red"]


def test_use_thread_false_finishes_each_operation_before_the_next() -> None:
    @sgl.function
    def say(s):
        s += sgl.gen("x")
        assert len(backend.calls) == 1
        assert s.stream_executor.text_ == "answer"

    backend = Scripted(["answer"], latency=0.01)
    say.run(backend=backend, use_thread=False)


def test_the_executor_view() -> None:
    @sgl.function
    def say(s, topic):
        s.user(topic)
        s += sgl.gen("x")
        executor = s.stream_executor
        assert isinstance(executor, StreamExecutor)
        executor.submit("!")
        executor.sync()
        with s.user():
            assert executor.cur_role == "user"

    state = say.run("cats", backend=Scripted(["X"]))
    assert isinstance(state, ProgramState)
    executor = state.stream_executor
    assert executor.arguments == {"topic": "cats"}
    assert executor.variables == {"x": "X"}
    assert executor.messages_[0] == {"role": "user", "content": "cats"}
    assert executor.default_sampling_para.max_new_tokens == 128
    assert executor.meta_info["x"]["completion_tokens"] == 1
    assert executor.cur_role is None
    assert executor.text().startswith("USER:cats\nX!")


def test_verbosity_prints_the_final_text(monkeypatch, capsys) -> None:
    monkeypatch.setattr(global_config, "verbosity", 2)

    @sgl.function
    def say(s):
        s += "hello " + sgl.gen("x")

    say.run(backend=Scripted(["world"]))
    assert capsys.readouterr().out == "hello world\n"


def test_generated_tokens_stay_tokens_in_later_prompts() -> None:
    from ramet.prompt import Text, Tokens

    @sgl.function
    def say(s):
        s += "a" + sgl.gen("x") + "b" + sgl.gen("y")

    backend = Scripted(["one", "two"])
    say.run(backend=backend).sync()
    spans = backend.calls[1].prompt.spans()
    assert [type(span) for span in spans] == [Text, Tokens, Text]


def test_a_parameter_named_like_an_option_is_not_taken_for_it() -> None:
    @sgl.function
    def counted(s, n):
        s += f"{n}"

    backend = Scripted()
    with pytest.raises(InvalidRequest, match=r"option of run\(\) and also a parameter of counted"):
        counted.run(n=3, backend=backend)
    assert counted.run(3, backend=backend).text() == "3"
    assert counted.bind(n=3).run(backend=backend).text() == "3"
    assert counted.run_batch([{"n": 3}], backend=backend)[0].text() == "3"
