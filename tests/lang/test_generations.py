"""What a `gen` asks of a backend, and what the program gets."""

# ruff: noqa: ARG005 (bodies, responses and listeners take what they are given)

from __future__ import annotations

import pytest

import ramet as sgl
from ramet.backend import Capabilities
from ramet.backends.scripted import Scripted
from ramet.config import global_config
from ramet.errors import BackendError, InvalidRequest, ProgramError, Unsupported
from ramet.lang.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_JSON_STR
from ramet.prompt import Text, Tokens

PLAIN = Capabilities()
REGEX = Capabilities(regex=True, json_schema=True)


def run_one(expression, responses=None, *, capabilities=PLAIN, prefix="P", **options):
    @sgl.function
    def program(s):
        s += prefix + expression

    backend = Scripted(responses, capabilities=capabilities)
    return program.run(backend=backend, **options), backend


def params_of(expression, **options):
    state, backend = run_one(expression, **options)
    state.sync()
    return backend.calls[0].params


def test_defaults_are_those_of_run() -> None:
    params = params_of(sgl.gen("x"))
    assert (params.max_new_tokens, params.n, params.stop, params.temperature) == (128, 1, (), 1.0)
    assert (params.top_p, params.top_k, params.min_p, params.ignore_eos) == (1.0, -1, 0.0, False)


def test_a_gens_own_values_win_over_the_runs() -> None:
    options = {"max_new_tokens": 7, "temperature": 0.5, "stop": "a", "stop_token_ids": [1]}
    params = params_of(sgl.gen("x"), **options)
    assert (params.max_new_tokens, params.temperature) == (7, 0.5)
    assert (params.stop, params.stop_token_ids) == (("a",), (1,))
    params = params_of(
        sgl.gen("x", 3, min_tokens=2, temperature=0, stop=["b", "c"], top_k=4, ignore_eos=True),
        **options,
    )
    assert (params.max_new_tokens, params.min_new_tokens, params.temperature) == (3, 2, 0)
    assert (params.stop, params.top_k, params.ignore_eos) == (("b", "c"), 4, True)


def test_the_order_of_positional_parameters() -> None:
    params = params_of(sgl.gen("x", 64, 2, 1, ["s"], [5], ["r"], 0.1, 0.2, 3, 0.4, 0.5, 0.6, True))
    assert params.to_dict() == {
        **params.to_dict(),
        "max_new_tokens": 64,
        "min_new_tokens": 2,
        "n": 1,
        "stop": ("s",),
        "stop_token_ids": (5,),
        "stop_regex": ("r",),
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.6,
        "ignore_eos": True,
    }


def test_global_settings_of_special_tokens(monkeypatch) -> None:
    assert params_of(sgl.gen("x")).skip_special_tokens
    monkeypatch.setattr(global_config, "skip_special_tokens_in_output", False)
    assert not params_of(sgl.gen("x")).skip_special_tokens


def test_logprob_fields_reach_the_call() -> None:
    fields = {
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": True,
    }
    for state, backend in (run_one(sgl.gen("x", **fields)), run_one(sgl.gen("x"), **fields)):
        state.sync()
        call = backend.calls[0]
        assert {name: getattr(call, name) for name in fields} == fields
        meta = state.get_meta_info("x")
        assert meta["input_token_logprobs"][0][0] is None
        assert len(meta["output_top_logprobs"][0]) == 2


def test_stops_cut_the_text_and_are_in_neither() -> None:
    state, _ = run_one(sgl.gen("x", stop=["\n", "END"]) + "|", ["one END two\n"])
    assert (state["x"], state.text()) == ("one ", "Pone |")


def test_n_samples_are_a_list_and_the_text_goes_on_with_the_first() -> None:
    state, backend = run_one(sgl.gen("x", n=3) + "!", [["a", "b", "c"]])
    assert (state["x"], state.text()) == (["a", "b", "c"], "Pa!")
    assert [m["completion_tokens"] for m in state.get_meta_info("x")] == [1, 1, 1]
    state, _ = run_one(sgl.gen("x"), [["a", "b"]], n=2)
    assert state["x"] == ["a", "b"]
    assert len(backend.calls) == 1
    assert state.calls[0].samples == 2


def test_n_is_split_for_a_backend_that_gives_fewer() -> None:
    capabilities = Capabilities(max_n=2)
    state, backend = run_one(
        sgl.gen("x", n=5, sampling_seed=7),
        lambda call: [f"{call.rid[-2:]}.{i}" for i in range(call.params.n)],
        capabilities=capabilities,
    )
    assert state["x"] == ["/0.0", "/0.1", "+2.0", "+2.1", "+4.0"]
    assert [call.params.n for call in backend.calls] == [2, 2, 1]
    seeds = [call.params.sampling_seed for call in backend.calls]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3


def test_a_backend_that_miscounts_is_an_error() -> None:
    class Short(Scripted):
        async def generate(self, call, on_chunk=None):
            return (await super().generate(call, on_chunk))[:1]

    @sgl.function
    def program(s):
        s += sgl.gen("x", n=2)

    with pytest.raises(ProgramError, match="1 completions instead of 2"):
        program.run(backend=Short())["x"]


def test_a_runs_seed_gives_every_call_its_own() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen("a") + sgl.gen("b") + sgl.gen("own", sampling_seed=5)
        forks = s.fork(2)
        forks += sgl.gen("c")
        forks.join()

    def seeds(seed):
        backend = Scripted()
        program.run(backend=backend, sampling_seed=seed).sync()
        return {call.rid.split("/", 1)[1]: call.params.sampling_seed for call in backend.calls}

    assert seeds(None) == {"0/0": None, "0/1": None, "0/2": 5, "0.0-0/0": None, "0.0-1/0": None}
    first, second, other = seeds(1), seeds(1), seeds(2)
    assert first == second
    assert len(set(first.values())) == 5
    assert first["0/0"] != other["0/0"]
    assert first["0/2"] == 5


@pytest.mark.parametrize(
    ("expression", "response", "value"),
    [
        (sgl.gen("x", dtype=int), "42", "42"),
        (sgl.gen("x", dtype=int), "-7abc", "-7"),
        (sgl.gen("x", dtype=int, stop="2"), "42", "4"),
        (sgl.gen_int("x"), "+5 apples", "+5"),
        (sgl.gen_int("x"), " 42 apples", "42"),
        (sgl.gen_int("x", stop=["\n\n"]), " 42 apples", "42"),
        (sgl.gen("x", dtype="float"), "3.25\nnext", "3.25"),
        (sgl.gen("x", dtype=float), ".5", ".5"),
        (sgl.gen("x", dtype=bool), "True, because", "True"),
        (sgl.gen("x", dtype=bool), " False", "False"),
        (sgl.gen_string("x"), 'a few words" and more', '"a few words"'),
        (sgl.gen("x", dtype="str"), "", '""'),
    ],
)
def test_typed_values_without_constraints(expression, response: str, value: str) -> None:
    state, _ = run_one(expression + "|", [response])
    assert state["x"] == value
    space = " " if response.startswith(" ") else ""
    assert state.text() == f"P{space}{value}|"


def test_typed_values_put_their_text_into_the_prompt() -> None:
    state, backend = run_one(sgl.gen_string("s") + sgl.gen_int("n") + sgl.gen(), ["a b", "4x", "c"])
    state.sync()
    assert backend.prompts == ['P"', 'P"a b"', 'P"a b"4']
    spans = backend.calls[-1].prompt.spans()
    assert [type(span) for span in spans] == [Text, Text, Tokens, Text, Text]
    assert backend.calls[0].params.stop == ('"',)
    assert {"4 ", "4\n"} <= set(backend.calls[1].params.stop)
    assert backend.calls[1].params.no_stop_trim


@pytest.mark.parametrize("dtype", [int, float, bool])
def test_a_text_of_another_type_fails_and_is_named(dtype) -> None:
    state, _ = run_one(sgl.gen("age", dtype=dtype), ["unknown"])
    with pytest.raises(
        ProgramError, match=r"'unknown' generated for 'age' is not of type"
    ) as caught:
        state["age"]
    assert isinstance(caught.value.__cause__, BackendError)


@pytest.mark.parametrize(
    ("dtype", "regex", "response", "value"),
    [
        (int, REGEX_INT, "42 \n", "42"),
        (float, REGEX_FLOAT, "-1.5", "-1.5"),
        (bool, REGEX_BOOL, "True", "True"),
        (str, REGEX_JSON_STR, '"some text"', '"some text"'),
    ],
)
def test_typed_values_on_a_backend_with_constraints(dtype, regex, response, value) -> None:
    state, backend = run_one(
        sgl.gen("x", dtype=dtype), lambda call: response.strip("\n "), capabilities=REGEX
    )
    assert state["x"] == value
    assert backend.calls[0].params.regex == regex
    assert backend.prompts == ["P"]


def test_a_regex_is_checked_at_the_gen() -> None:
    with pytest.raises(InvalidRequest, match="not a regular expression"):
        sgl.gen("x", regex="(")
    with pytest.warns(UserWarning, match="dtype takes the place of regex"):
        assert "regex" not in sgl.gen("x", regex="a", dtype=int).options


def test_constraints_reach_a_backend_that_has_them() -> None:
    assert params_of(sgl.gen("x", regex="a+"), responses=["aa"], capabilities=REGEX).regex == "a+"
    schema = {"type": "object"}

    class Model:
        @staticmethod
        def model_json_schema():
            return schema

    for given in ('{"type": "object"}', schema, Model):
        params = params_of(sgl.gen("x", json_schema=given), responses=["{}"], capabilities=REGEX)
        assert params.json_schema == '{"type": "object"}'
    with pytest.raises(InvalidRequest, match="json_schema"):
        sgl.gen("x", json_schema=3)


@pytest.mark.parametrize(
    ("expression", "capabilities", "words"),
    [
        (sgl.gen("x", regex="a"), PLAIN, r"gen\('x', regex=...\).*Scripted \(scripted\)"),
        (sgl.gen("x", json_schema="{}"), PLAIN, "json_schema"),
        (sgl.gen("x", return_logprob=True), Capabilities(logprobs=False), "return_logprob"),
        (sgl.gen("x", sampling_seed=1), Capabilities(seed=False), "sampling_seed"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_at_the_line(expression, capabilities, words) -> None:
    with pytest.raises(Unsupported, match=words):
        run_one(expression, capabilities=capabilities)


@pytest.mark.parametrize("name", [3, b"x", ["x"]])
def test_names_are_strings(name) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        sgl.gen(name)
    with pytest.raises(InvalidRequest, match="name"):
        sgl.select(name, ["a"])


def test_a_backend_that_sees_messages_only_gets_the_open_block_too() -> None:
    @sgl.function
    def program(s):
        s += sgl.system("Be brief") + sgl.user("Hi")
        s += sgl.assistant("Well, " + sgl.gen("x"))
        s += sgl.user("And?") + sgl.assistant(sgl.gen("y"))

    backend = Scripted(["hello", "bye"], capabilities=Capabilities(chat_only=True))
    program.run(backend=backend).sync()
    first, second = (list(call.messages) for call in backend.calls)
    assert first == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Well, "},
    ]
    assert second[2:] == [
        {"role": "assistant", "content": "Well, hello"},
        {"role": "user", "content": "And?"},
    ]


def test_rids_say_which_calls_belong_together() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen() + sgl.select("c", ["a", "b"])
        forks = s.fork(2)
        forks += sgl.gen("x")
        deeper = forks[1].fork(1)
        deeper += sgl.gen("y")
        forks.join()

    backend = Scripted()
    state = program.run(backend=backend)
    state.sync()
    state._script.run.over.wait("over", "")
    run = state._script.run.id
    rids = sorted(call.rid for call in backend.calls)
    paths = ["0.0-0/0", "0.0-1.0-0/0", "0.0-1/0", "0/0", "0/1"]
    assert rids == [f"{run}/{path}" for path in paths]
