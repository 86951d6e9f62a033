"""Parts of JSON as trees, against Python's own arithmetic, dates and names."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.constraints.words import compiled, matches

from ramet.constraints import nfa, schema
from ramet.constraints import schema_parts as parts
from ramet.constraints.nodes import Node
from ramet.errors import InvalidRequest

_NUMBERS = st.integers(-(10**21), 10**21)


def _node(spec: Any) -> Node:
    read = schema.read(json.dumps(spec))
    assert read.node is not None, read.reason
    return read.node


@given(_NUMBERS, st.integers(0, 10**6), st.lists(_NUMBERS, max_size=5), st.data())
def test_ranges_of_integers_are_exact(low: int, width: int, others: list[int], data: Any) -> None:
    high = low + width
    automaton = nfa.build(parts.integers(low, high))
    inside = data.draw(st.integers(low, high))
    for value in {low - 1, low, high, high + 1, inside, -low, -high, 0, *others}:
        assert nfa.accepts(automaton, str(value).encode()) == (low <= value <= high)
    for text in ("-0", "00", "+1", "", "-", f"0{high}", f"{high}0"):
        assert not nfa.accepts(automaton, text.encode()) or re.fullmatch(r"-?[1-9]\d*", text)


@given(st.integers(-300, 300), st.integers(-300, 300))
def test_small_ranges_hold_what_they_say(low: int, high: int) -> None:
    found = [n for n in range(-400, 400) if low <= n <= high]
    node = parts.integers(low, high)
    if not found:
        assert not getattr(node, "ranges", None)
        return
    automaton = nfa.build(node)
    assert [n for n in range(-400, 400) if nfa.accepts(automaton, str(n).encode())] == found


@given(st.text(max_size=8))
def test_any_text_is_a_string_in_both_spellings(text: str) -> None:
    node = _node({"type": "string", "minLength": len(text), "maxLength": len(text)})
    for ascii_only in (True, False):
        assert matches(node, json.dumps(text, ensure_ascii=ascii_only))
        assert not matches(node, json.dumps(text + "x", ensure_ascii=ascii_only))
        literal = _node({"const": text})
        assert matches(literal, json.dumps(text, ensure_ascii=ascii_only))
        assert not matches(literal, json.dumps(text + "x", ensure_ascii=ascii_only))


def test_what_is_no_string_is_not_one() -> None:
    node = _node({"type": "string"})
    for text in (
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\n"',
        '"\\x41"',
        '"a',
        '"\\"',
        '"\\u12"',
        "'a'",
    ):
        assert not matches(node, text), text
    assert matches(node, '"\\ud83d\\ude00\\/"')


@settings(max_examples=50)
@given(st.lists(st.text('ab"\\\n', max_size=3), max_size=4), st.text('ab"\\\né', max_size=4))
def test_other_names_are_all_but_the_taken_ones(taken: list[str], name: str) -> None:
    node = parts.name_but(taken)
    for ascii_only in (True, False):
        inside = json.dumps(name, ensure_ascii=ascii_only)[1:-1]
        assert matches(node, inside) == (name not in taken)


def test_dates_are_those_of_the_calendar() -> None:
    automaton = nfa.build(parts.FORMATS["date"])
    for year in (1, 4, 100, 400, 1900, 1999, 2000, 2023, 2024, 2100, 9996, 9999):
        for month in range(14):
            for day in (0, 1, 9, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date(year, month, day)
                    expected = True
                except ValueError:
                    expected = False
                assert nfa.accepts(automaton, text.encode()) == expected, text


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("extra", [False, {"type": "null"}])
def test_optional_properties_in_every_combination(count: int, extra: Any) -> None:
    names = [f"p{i}" for i in range(count)]
    for required in ([], names[1:2], names[-1:]):
        spec = {
            "type": "object",
            "properties": {name: {"const": i} for i, name in enumerate(names)},
            "required": required,
            "additionalProperties": extra,
        }
        automaton = nfa.build(_node(spec))
        for chosen in range(2**count):
            value: dict[str, Any] = {n: i for i, n in enumerate(names) if chosen >> i & 1}
            for more in ({}, {"zz": None}):
                text = json.dumps({**value, **more})
                expected = set(required) <= set(value) and not (more and extra is False)
                assert nfa.accepts(automaton, text.encode()) == expected, text
        assert not nfa.accepts(automaton, b"{,}")


def test_the_tree_of_many_optional_properties_stays_small() -> None:
    spec = {
        "type": "object",
        "properties": {f"property{i}": {"type": "boolean"} for i in range(60)},
        "additionalProperties": False,
    }
    assert nfa.build(_node(spec)).num_states < 40_000


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"type": "array"}, "any value"),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, "any value"),
        ({"properties": {}}, "any type"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, "itself"),
        ({"type": "number", "minimum": 0}, "minimum"),
        ({"type": "integer", "multipleOf": 3}, "multipleOf"),
        ({"type": "string", "pattern": "^a$", "minLength": 1}, "beside"),
        ({"type": "string", "pattern": "^a|b$"}, "anchor"),
        ({"type": "string", "maxLength": 9000}, "states"),
        ({"allOf": [{"type": "integer"}, {"maximum": 3}]}, "allOf"),
    ],
)  # fmt: skip
def test_the_rest_goes_to_the_library_and_says_why(spec: Any, reason: str) -> None:
    read = schema.read(json.dumps(spec))
    assert read.node is None
    assert reason in read.reason
    assert read.grammar.startswith("%llguidance")


def test_overlapping_schemas_of_one_of_are_refused_by_the_library() -> None:
    read = schema.read('{"oneOf": [{"type": "integer"}, {"type": "number"}]}')
    assert read.node is None
    with pytest.raises(InvalidRequest, match="oneOf"):
        compiled(read.grammar)
