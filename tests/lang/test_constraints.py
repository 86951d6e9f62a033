"""What programs say about the form of a text: how it reaches the backend, and what comes of answers that
do not have it."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import re
import warnings
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

import ramet as sgl
from ramet.backend import Capabilities, Completion
from ramet.backends.scripted import Scripted
from ramet.errors import BackendError, InvalidRequest, ProgramError, Unsupported
from ramet.lang.api import gen_string
from ramet.lang.ir import (
    REGEX_BOOL,
    REGEX_FLOAT,
    REGEX_INT,
    REGEX_JSON_STR,
    REGEX_STR,
    REGEX_STRING,
    SglSelect,
)
from ramet.lang.record import Event
from ramet.lang.schema_types import schema_of
from ramet.lang.typed import typed

ALL = Capabilities(regex=True, json_schema=True, ebnf=True, structural_tag=True)
NONE = Capabilities()
FORMS = ("regex", "json_schema", "ebnf", "structural_tag")

TAG = '{"type": "structural_tag",  "format": {"type": "any_text"}}'


@dataclass
class Pet:
    name: str
    age: int = 0


def run_one(expression, responses=None, *, capabilities=ALL, **options):
    @sgl.function
    def program(s):
        s += "P" + expression

    backend = Scripted(responses, capabilities=capabilities)
    return program.run(backend=backend, **options), backend


# On the way to the backend


@pytest.mark.parametrize(
    ("given", "sent", "answer"),
    [
        ({"regex": r"a{2,3}"}, r"a{2,3}", "aa"),
        ({"json_schema": '{"type":  "integer"}'}, '{"type":  "integer"}', "4"),
        ({"json_schema": {"type": "integer"}}, '{"type": "integer"}', "4"),
        ({"json_schema": {}}, "{}", "[null]"),
        ({"json_schema": True}, "true", "[null]"),
        ({"json_schema": list[int]}, schema_of(list[int]), "[4, 5]"),
        ({"json_schema": Pet}, schema_of(Pet), '{"name": "Rex"}'),
        ({"json_schema": type(None)}, '{"type": "null"}', "null"),
        ({"ebnf": 'root ::= "a"'}, 'root ::= "a"', "anything"),
        ({"structural_tag": TAG}, TAG, "anything"),
        ({"structural_tag": json.loads(TAG)}, json.dumps(json.loads(TAG)), "anything"),
    ],
)
def test_a_constraint_reaches_the_call_unchanged(given, sent: str, answer: str) -> None:
    state, backend = run_one(sgl.gen("x", **given) + "|", [answer])
    assert (state["x"], state.text()) == (answer, f"P{answer}|")
    [(name, _)] = given.items()
    params = backend.calls[0].params
    assert params.constraint == name
    assert {form: getattr(params, form) for form in FORMS} == {**dict.fromkeys(FORMS), name: sent}


def test_none_and_empty_texts_are_no_constraint() -> None:
    for nothing in (None, ""):
        state, backend = run_one(sgl.gen("x", **dict.fromkeys(FORMS, nothing)), capabilities=NONE)
        state.sync()
        assert backend.calls[0].params.constraint is None


def test_the_new_parameters_are_keywords_behind_the_old_ones() -> None:
    parameters = inspect.signature(sgl.gen).parameters
    names = list(parameters)
    assert names[21:25] == ["regex", "json_schema", "ebnf", "structural_tag"]
    assert parameters["json_schema"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert parameters["ebnf"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["structural_tag"].kind is inspect.Parameter.KEYWORD_ONLY


def test_choices_take_the_place_of_everything() -> None:
    chosen = sgl.gen("x", choices=["a", "b"], regex="(", json_schema=3, ebnf=4, dtype=list)
    assert isinstance(chosen, SglSelect)
    assert chosen.choices == ("a", "b")


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"regex": "("}, "regex", "is not a regular expression"),
        ({"regex": 3}, "regex", "is not a string"),
        ({"regex": "a{99999999999}"}, "regex", "is not a regular expression"),
        ({"json_schema": "{"}, "json_schema", "is not JSON"),
        ({"json_schema": 3}, "json_schema", "is not a schema"),
        ({"json_schema": list[complex]}, "json_schema", r"complex at list\[complex\]\[0\]"),
        ({"ebnf": 3}, "ebnf", "is not a string"),
        ({"structural_tag": "tag"}, "structural_tag", "is not JSON"),
        ({"structural_tag": "[]"}, "structural_tag", "is not a JSON object"),
        ({"structural_tag": {"a": {1}}}, "structural_tag", "is not JSON"),
        ({"structural_tag": 3}, "structural_tag", "is not a JSON object"),
        ({"regex": "a", "json_schema": "{}"}, "json_schema", "combined with regex"),
        ({"ebnf": "a", "structural_tag": TAG}, "structural_tag", "combined with ebnf"),
        ({"dtype": int, "json_schema": "{}"}, "json_schema", "combined with dtype"),
        ({"dtype": int, "ebnf": "a"}, "ebnf", "combined with dtype"),
    ],
)
def test_a_wrong_constraint_is_an_error_of_the_gen(given, field: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        sgl.gen("x", **given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("given", "capability", "remedy"),
    [
        ({"regex": "a"}, "regex", "use dtype"),
        ({"json_schema": "{}"}, "json_schema", "ask for JSON in words"),
        ({"ebnf": "a"}, "ebnf", "as a regex"),
        ({"structural_tag": TAG}, "structural_tag", "parts one by one"),
    ],
)
def test_a_backend_without_it_is_named_and_so_is_a_way_out(given, capability, remedy) -> None:
    others = {form: form != capability for form in FORMS}
    with pytest.raises(Unsupported, match=rf"gen\('x', {capability}=.*Scripted.*{remedy}"):
        run_one(sgl.gen("x", **given), capabilities=Capabilities(**others))
    only = {form: form == capability for form in FORMS}
    state, _ = run_one(sgl.gen("x", **given), ["a"], capabilities=Capabilities(**only))
    assert state.error() is None or capability == "json_schema"  # "a" is no JSON


# dtype


def test_the_constants() -> None:
    assert REGEX_INT == r"[-+]?[0-9]+[ \n]*"
    assert REGEX_FLOAT == r"[-+]?[0-9]*\.?[0-9]+[ \n]*"
    assert REGEX_BOOL == r"(True|False)"
    assert REGEX_STR == REGEX_STRING == r"\"[\w\d\s]*\""


@pytest.mark.parametrize("ascii_only", [True, False])
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@example(text='"\\/\b\f\n\r\t\x00\x7f\U0001f600')
def test_the_json_string_allows_what_json_writes(ascii_only: bool, text: str) -> None:
    assert re.fullmatch(REGEX_JSON_STR, json.dumps(text, ensure_ascii=ascii_only))


@given(st.text(alphabet=st.sampled_from('"\\/bfnrtuudD8cC01aF\n\x1f\x7fé')).map(lambda t: f'"{t}"'))
@example('"\\ud83d\\ude00"')
@example('"\\uD83D"')
@example('"\\ude00\\ud83d"')
@example('"\\ud83d\\u0041"')
def test_the_json_string_allows_what_json_reads_as_text(text: str) -> None:
    try:
        value = json.loads(text)
        readable = isinstance(value, str) and bool(value.encode() or True)
    except ValueError:  # json's, and that of a half of a surrogate pair
        readable = False
    assert (re.fullmatch(REGEX_JSON_STR, text) is not None) == readable


def test_the_json_string_takes_linear_time() -> None:
    assert re.fullmatch(REGEX_JSON_STR, '"' + "a\\\\" * 100_000) is None


@pytest.mark.parametrize(
    ("dtype", "regex", "stops"),
    [
        (int, REGEX_INT, (" ", "\n")),
        ("int", REGEX_INT, (" ", "\n")),
        (float, REGEX_FLOAT, (" ", "\n")),
        ("float", REGEX_FLOAT, (" ", "\n")),
        (bool, REGEX_BOOL, ()),
        ("bool", REGEX_BOOL, ()),
        (str, REGEX_JSON_STR, ()),
        ("str", REGEX_JSON_STR, ()),
    ],
)
def test_a_type_is_a_regex_and_stops(dtype, regex: str, stops) -> None:
    answers = {REGEX_INT: "7", REGEX_FLOAT: ".5", REGEX_BOOL: "True", REGEX_JSON_STR: '"a"'}
    state, backend = run_one(sgl.gen("x", dtype=dtype, stop="END"), [answers[regex]])
    assert state["x"] == answers[regex]
    params = backend.calls[0].params
    assert (params.regex, params.stop, params.no_stop_trim) == (regex, ("END", *stops), False)


def test_gen_int_and_gen_string_are_typed() -> None:
    state, backend = run_one(
        sgl.gen_int("n") + gen_string("s"), ["42 ", '"He said \\"no\\", twice: \u00e9!"']
    )
    assert (state["n"], state["s"]) == ("42", '"He said \\"no\\", twice: \u00e9!"')
    assert json.loads(state["s"]) == 'He said "no", twice: \u00e9!'
    assert [call.params.regex for call in backend.calls] == [REGEX_INT, REGEX_JSON_STR]


class Int(int):
    """Not the type, though it is one."""


Int.__name__ = "int"


@pytest.mark.parametrize(
    "dtype", [list, list[int], dict, Pet, "integer", "", 3, None.__class__, Int]
)
@pytest.mark.parametrize("capabilities", [ALL, NONE])
def test_other_types_are_errors_that_name_json_schema(dtype, capabilities) -> None:
    with pytest.raises(
        InvalidRequest, match=r"dtype.*use int, float, str or bool, or json_schema="
    ):
        run_one(sgl.gen("x", dtype=dtype), capabilities=capabilities)


def test_dtype_takes_the_place_of_a_regex_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="dtype takes the place of regex") as caught:
        expression = sgl.gen("x", regex="a+", dtype=int)
    assert caught[0].filename == __file__
    state, backend = run_one(expression, ["4"])
    assert (state["x"], backend.calls[0].params.regex) == ("4", REGEX_INT)
    with pytest.raises(InvalidRequest, match="not a regular expression"):
        sgl.gen("x", regex="(", dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgl.gen("x", regex="", dtype=int)


@pytest.mark.parametrize(
    ("dtype", "answer", "tokens", "cut"),
    [
        (int, "-12", 1, "-"),
        (float, "1.25", 2, "1."),  # "1" is a number, but not the one that was being written
        (float, "+.5", 2, "+."),
        (str, '"two words"', 2, '"two'),
        (str, '"a\\"b"', 4, '"a\\"'),  # it ends with a quote, which is not the closing one
        (bool, "True", 0, ""),
    ],
)
def test_a_typed_answer_that_was_cut_is_an_error(dtype, answer, tokens, cut) -> None:
    state, _ = run_one(sgl.gen("age", tokens, dtype=dtype), [answer])
    words = f"the text {cut!r} generated for 'age' is not of type {dtype.__name__}: it was cut after {tokens} tokens"
    with pytest.raises(ProgramError, match=re.escape(words)) as caught:
        state["age"]
    assert isinstance(caught.value.__cause__, BackendError)
    with pytest.raises(ProgramError, match=re.escape(words)):
        state.text()


def test_one_cut_sample_among_many_is_an_error() -> None:
    state, _ = run_one(sgl.gen("x", 2, n=3, dtype=float), [["1", "2.5", "3"]])
    with pytest.raises(ProgramError, match=r"'2\.' generated for 'x' is not of type float"):
        state["x"]


@pytest.mark.parametrize(
    ("dtype", "answer", "tokens", "value"),
    [(int, "1234 ", 1, "1234"), (float, "1.25\n", 3, "1.25"), (bool, "True", 1, "True")],
)
def test_a_whole_typed_answer_at_the_limit_is_none(dtype, answer, tokens, value) -> None:
    state, _ = run_one(sgl.gen("x", tokens, dtype=dtype) + "|", [answer])
    assert (state["x"], state.text()) == (value, f"P{value}|")
    assert "incomplete" not in state.get_meta_info("x")["finish_reason"]


def test_a_backend_that_breaks_its_word_is_found_out() -> None:
    class Careless(Scripted):
        async def generate(self, call, on_chunk=None):
            [done] = await super().generate(call, on_chunk)
            return [Completion(text="7 or 8", spans=done.spans, meta_info={})]

    @sgl.function
    def program(s):
        s += sgl.gen_int("x")

    with pytest.raises(ProgramError, match=r"'7 or 8' generated for 'x' is not of type int(?!:)"):
        program.run(backend=Careless(["7"]))["x"]


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [("", True), ("a\nb", True), (r"a\\", True), ("a\\", False), (r"\\\ ", True)],
)
def test_an_unconstrained_string_must_not_escape_its_closing_quote(text, is_whole) -> None:
    completion = Completion(text=text, spans=(), meta_info={})
    if is_whole:
        assert typed(str, False).value(completion, "x")[0] == f'"{text}"'
    else:
        with pytest.raises(BackendError, match="not of type str"):
            typed(str, False).value(completion, "x")


def test_an_unconstrained_bool_is_a_word() -> None:
    state, _ = run_one(sgl.gen("x", dtype=bool), ["Trueish"], capabilities=NONE)
    with pytest.raises(ProgramError, match="'Trueish' generated for 'x' is not of type bool"):
        state["x"]


# Texts that were cut

SCHEMA = schema_of(list[int])


@pytest.mark.parametrize(
    ("given", "answer", "tokens"),
    [({"json_schema": SCHEMA}, "[1, 2]", 3), ({"regex": "(ab )+c"}, "ab ab c", 2)],
)
def test_a_cut_text_is_marked_in_its_meta_information_and_where_it_is_shown(
    given, answer: str, tokens: int, capsys
) -> None:
    events: list[Event] = []
    state, _ = run_one(sgl.gen("x", tokens, **given), [answer], listener=events.append)
    assert answer.startswith(state["x"])
    reason = {"type": "length", "length": tokens, "incomplete": True}
    assert state.get_meta_info("x")["finish_reason"] == reason
    [call] = state.calls
    assert (call.finish_reason, call.incomplete) == ("length", True)
    console = Console(file=io.StringIO(), width=100)
    console.print(state)
    state.show()
    for shown in (capsys.readouterr().out, state._repr_html_(), console.file.getvalue()):
        assert f"{tokens} (incomplete)" in shown
    state.sync()
    records = [event.record for event in events if event.record is not None]
    assert records == [call]


def test_any_cut_sample_marks_the_call() -> None:
    state, _ = run_one(sgl.gen("x", 2, n=2, regex="a( b)*( c)?"), [["a b", "a b c"]])
    assert state["x"] == ["a b", "a b"]
    assert not state.calls[0].incomplete  # cut, but what is left is a match
    state, _ = run_one(sgl.gen("x", 2, n=2, regex="a b|a d e"), [["a b", "a d e"]])
    reasons = [meta["finish_reason"] for meta in state.get_meta_info("x")]
    assert [reason.get("incomplete", False) for reason in reasons] == [False, True]
    assert state.calls[0].incomplete


def test_a_whole_text_is_not_marked() -> None:
    state, _ = run_one(sgl.gen("x", json_schema=SCHEMA), ["[1, 2]"])
    assert "incomplete" not in state.get_meta_info("x")["finish_reason"]
    assert not state.calls[0].incomplete
    assert "incomplete" not in state._repr_html_()


def test_a_streamed_cut_text_ends_with_the_mark() -> None:
    state, _ = run_one(sgl.gen("x", 3, json_schema=SCHEMA), ["[1, 2]"], stream=True)

    async def metas() -> list[dict]:
        return [meta async for _, meta in state.text_async_iter("x", return_meta_data=True)]

    assert asyncio.run(metas())[-1]["finish_reason"]["incomplete"] is True
