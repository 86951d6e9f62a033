"""Plans: what a constraint becomes, and which answers are accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ramet.backends.api_cut import Cutter, cut
from ramet.backends.api_schema import ANTHROPIC, OPENAI
from ramet.backends.api_structured import _TYPES, Rejected, Structured, plan_choice, plan_text
from ramet.lang import ir
from ramet.params import SamplingParams

HAS = Structured(method="native", dialect=OPENAI, loose="loose")


def accepted(plan: Any, text: str, **params: Any) -> str:
    found = SamplingParams(**params)
    return plan.accept(text, found.stop, found)[0]


def plan_for(structured: Structured | None = HAS, chat: bool = True, **params: Any) -> Any:
    return plan_text(SamplingParams(**params), structured, 3, chat=chat)


def test_no_constraint_is_no_plan() -> None:
    plan = plan_for(stop=("b",))
    assert (plan.kind, plan.asks, plan.streams, plan.note) == ("", 1, True, "")
    assert accepted(plan, "abc", stop=("b",)) == "a"


def test_the_types_patterns_are_the_languages() -> None:
    names = (ir.REGEX_INT, ir.REGEX_FLOAT, ir.REGEX_BOOL, ir.REGEX_JSON_STR)
    assert tuple(_TYPES) == names


def test_a_type_is_a_small_schema() -> None:
    plan = plan_for(regex=ir.REGEX_INT, stop=(" ", "\n"))
    assert plan.sent.schema["properties"]["value"] == {"type": "integer"}
    assert accepted(plan, '{"value": -7}', stop=(" ", "\n")) == "-7"
    for wrong in ('{"value": "x"}', '{"value": true}', "-7", '{"value": 1.5', "{}"):
        with pytest.raises(Rejected):
            accepted(plan, wrong)


def test_a_type_without_structured_output_is_asked_for_in_words() -> None:
    plan = plan_for(None, regex=ir.REGEX_INT, stop=(" ", "\n"))
    assert plan.method == "ask_again"
    assert "a whole number" in plan.note
    assert accepted(plan, " 42\n", stop=(" ", "\n")) == "42"
    assert accepted(plan, "42 people", stop=(" ", "\n")) == "42"
    with pytest.raises(Rejected, match="regular expression"):
        accepted(plan, "about 42", stop=(" ", "\n"))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("yes|no", ["yes", "no"]),
        ("(?:red|dark blue)", ["red", "dark blue"]),
        ("(a|b|a)", ["a", "b"]),
    ],
)
def test_words_with_bars_are_an_enum(pattern: str, words: list[str]) -> None:
    plan = plan_for(regex=pattern)
    assert plan.sent.schema["properties"]["value"]["enum"] == words
    assert accepted(plan, json.dumps({"value": words[1]})) == words[1]


@pytest.mark.parametrize("pattern", ["[ab]|c", "a.c|d", "yes", "(a)|(b)", "a+|b", "a{2}|b"])
def test_other_patterns_are_checked(pattern: str) -> None:
    plan = plan_for(regex=pattern)
    assert plan.sent is None
    assert plan.method == "ask_again"
    assert pattern in plan.note


def test_a_model_that_continues_texts_is_cut_where_its_constraint_ends() -> None:
    plan = plan_for(None, chat=False, regex="[0-9]+")
    assert accepted(plan, " 12, and then") == "12"
    with pytest.raises(Rejected):
        accepted(plan, "and then 12")
    plan = plan_for(None, chat=False, json_schema='{"type": "array"}')
    assert accepted(plan, " [1, 2] and so on") == "[1, 2]"


def test_json_in_words() -> None:
    plan = plan_for(None, json_schema='{"type": "object", "required": ["a"]}')
    assert '"required": ["a"]' in plan.note
    assert accepted(plan, '```json\n{"a": 1}\n```') == '{"a": 1}'
    with pytest.raises(Rejected, match='"a" is a required property'):
        accepted(plan, '{"b": 1}')
    with pytest.raises(Rejected, match="not JSON"):
        accepted(plan, 'Sure: {"a": 1}')


def test_json_streams_only_where_its_text_is_the_programs() -> None:
    closed = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    assert plan_for(json_schema=json.dumps(closed)).streams
    assert not plan_for(json_schema='{"type": "integer"}').streams
    optional = {**closed, "properties": {"a": {"type": "integer"}}, "required": []}
    assert not plan_for(json_schema=json.dumps(optional)).streams
    assert plan_for(
        Structured(method="m", dialect=ANTHROPIC, loose="l"), json_schema=json.dumps(optional)
    ).streams


def test_choices() -> None:
    plan = plan_choice(["a", " b"], HAS, 3, chat=True, begun="It is ")
    assert '["a", " b"]' in plan.note
    assert '"It is "' in plan.note
    assert accepted(plan, '{"value": " b"}') == " b"
    with pytest.raises(Rejected):
        accepted(plan, '{"value": "b"}')


def test_choices_in_words() -> None:
    plan = plan_choice(["large", "very large"], None, 3, chat=True)
    for said in ("very large", ' "very large".', "Very large"):
        if said[0] == "V":
            with pytest.raises(Rejected):
                accepted(plan, said)
        else:
            assert accepted(plan, said) == "very large"
    with pytest.raises(Rejected):
        accepted(plan, "large, or very large")
    plan = plan_choice(["a", "ab"], None, 3, chat=False)
    assert accepted(plan, " abc") == "ab"


def test_cutting_a_whole_text() -> None:
    params = SamplingParams(stop_regex=("[0-9]+",))
    assert cut("ab12cd", (), params) == ("ab", "[0-9]+")
    assert cut("ab12cd", ("b",), params) == ("a", "b")
    assert cut("abcd", (), params) == ("abcd", None)
    kept = SamplingParams(no_stop_trim=True)
    assert cut("abcd", ("bc",), kept) == ("abc", "bc")


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
@pytest.mark.parametrize(
    "text", ["plain", "a##b", "a#b##c", "###", "one EN two END three", "ends in E", "#"]
)
def test_cutting_a_stream_is_cutting_the_whole(text: str, size: int, trim: bool) -> None:
    params = SamplingParams(no_stop_trim=not trim)
    stops = ("##", "END")
    cutter = Cutter(stops, params)
    shown = "".join(cutter.feed(text[i : i + size]) for i in range(0, len(text), size))
    whole, matched = cut(text, stops, params)
    assert whole.startswith(shown)
    if matched is not None:
        assert shown == whole
    assert len(whole) - len(shown) < max(map(len, stops))
