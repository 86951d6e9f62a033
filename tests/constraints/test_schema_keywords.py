"""Every keyword that is accepted is enforced, on both ways: values that must be taken and values that must
not, printed in three ways, token by token."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from tests.constraints.words import compiled, takes

from ramet.constraints import nfa, schema
from ramet.constraints.schema_check import _KEYWORDS
from ramet.errors import InvalidRequest

_NAMES = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
_CLOSED = {**_NAMES, "additionalProperties": False}
_TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "c": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["v"],
            "additionalProperties": False,
        }
    },
}
# (schema, valid values, invalid values)
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "string"}, ["", "a\"\\\n\té日😀", "\x00\x1f/"], [1, None, True, [], {}]),
    ({"type": "integer"}, [0, -1, 10**17], [1.5, "1", None]),
    ({"type": "number"}, [0, -1.5, 0.0001, 123456.789, 10**17], ["1", None, True]),
    ({"type": "boolean"}, [True, False], [0, "true", None]),
    ({"type": "null"}, [None], [False, 0, "null"]),
    ({"type": ["string", "null"]}, ["x", None], [1, []]),
    ({"type": ["integer", "number"]}, [1, 1.5], ["x"]),
    ({"type": "integer", "nullable": True}, [1, None], ["x"]),
    ({"enum": ["a", "ab", 1, 2.5, None, True, [1, "x"], {"k": [1]}]}, ["a", "ab", 1, 2.5, None, True], ["abc"]),
    ({"enum": ["a", [1, "x"], {"k": [1]}]}, [[1, "x"], {"k": [1]}], [[1], {"k": 1}, {}, "b"]),
    ({"type": "string", "enum": ["a", 1]}, ["a"], [1]),
    ({"const": {"a": "é\n", "b": [None]}}, [{"a": "é\n", "b": [None]}], [{"a": "é"}, 1]),
    ({"const": 12}, [12], [1, 123, "12"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "日本語", "😀\n"], ["a", "abcd", "日"]),
    ({"type": "string", "maxLength": 0}, [""], ["a"]),
    ({"type": "string", "pattern": "^[a-c]+-\\d{2}$"}, ["abc-12"], ["abc-1", "xabc-12", "abc-123"]),
    ({"type": "string", "pattern": "b.d"}, ["abcde", "b\"d"], ["bd", "bxxd"]),
    ({"type": "string", "pattern": "^(ab|\"c)*$", "maxLength": 4}, ["", "abab", '"cab'], ["aba", "ababab"]),
    ({"type": "string", "pattern": "^\\w+$", "minLength": 3}, ["abc"], ["ab", "a-c"]),
    ({"type": "string", "format": "date"}, ["2024-02-29"], ["2024-13-01", "2024-00-10", "x"]),
    ({"type": "string", "format": "time"}, ["23:59:59Z", "00:00:00.5+01:00"], ["24:00:00Z", "1:00:00Z"]),
    ({"type": "string", "format": "date-time"}, ["2024-02-29T10:00:00Z"], ["2024-02-29", "2024-02-29T25:00:00Z"]),
    ({"type": "string", "format": "duration"}, ["P3D", "PT5M"], ["3D", "P"]),
    ({"type": "string", "format": "email"}, ["joe@example.com"], ["joe", "@b"]),
    ({"type": "string", "format": "hostname"}, ["www.example.com"], ["-bad-", "a..b"]),
    ({"type": "string", "format": "ipv4"}, ["127.0.0.1", "255.255.255.255"], ["256.0.0.1", "1.2.3"]),
    ({"type": "string", "format": "ipv6"}, ["::1", "2001:db8::ff00:42:8329"], ["12345::", "127.0.0.1"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    ({"type": "string", "format": "uri"}, ["https://example.com/a?b=c"], ["example"]),
    ({"type": "integer", "minimum": -5, "maximum": 105}, [-5, -1, 0, 9, 99, 105], [-6, 106, 1000]),
    ({"type": "integer", "exclusiveMinimum": 7, "exclusiveMaximum": 1000}, [8, 99, 999], [7, 1000, -8]),
    ({"type": "integer", "minimum": 0.5, "maximum": 2.5}, [1, 2], [0, 3]),
    ({"type": "integer", "minimum": 3}, [3, 10, 12345], [2, 0, -3]),
    ({"type": "integer", "maximum": -3}, [-3, -12345], [-2, 3, 0]),
    ({"type": "number", "minimum": 0.5, "maximum": 3}, [0.5, 1, 2.75, 3], [0.25, 3.01, -1]),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5], [0, 1, -0.5]),
    ({"type": "integer", "multipleOf": 7}, [0, 7, -14, 7007], [1, 15]),
    ({"type": "number", "multipleOf": 0.25}, [0.25, 1, 1.25], [0.3, 1.1]),
    ({"type": "array", "items": {"type": "integer"}}, [[], [1], [1, 2, 3]], [["a"], 1, [1, None]]),
    ({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 3}, [[None] * 2, [None] * 3], [[None], [None] * 4]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"const": "x"}], "items": False}, [[], [1], [1, "x"]], [["x"], [1, "x", 1]]),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 1}, [[1], [1, None, None]], [[], [None], [1, 1]]),
    ({"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "null"}}, [[], [1], [1, None]], [["x"], [1, 1]]),
    (_CLOSED, [{}, {"a": 1}, {"b": "x"}, {"a": 1, "b": ""}], [{"c": 1}, {"a": "x"}, {"a": 1, "c": 1}]),
    ({**_CLOSED, "required": ["b"]}, [{"b": "x"}, {"a": 1, "b": ""}], [{}, {"a": 1}]),
    (_NAMES, [{}, {"a": 1, "zz": [1]}], [{"a": "x"}, {"b": 1}]),
    ({**_NAMES, "additionalProperties": {"type": "null"}}, [{}, {"a": 1, "c": None, "ab": None}, {"x": None}], [{"c": 1}, {"a": None}]),
    ({"type": "object", "required": ["x", "y"], "additionalProperties": {"type": "integer"}}, [{"x": 1, "y": 2, "z": 3}], [{"x": 1}, {"x": 1, "y": "b"}]),
    ({"type": "object", "patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False}, [{}, {"n_a": 1}], [{"n_a": "x"}, {"a": 1}]),
    ({"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "null"}}, [{"a": None}, {"a": None, "b": None}], [{}, {"a": None, "b": None, "c": None}]),
    ({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, [12, "a"], [1.5, "ab"]),
    ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, [1, None], ["x"]),
    ({"oneOf": [{**_CLOSED, "properties": {"k": {"const": c}}, "required": ["k"]} for c in "ab"]}, [{"k": "a"}, {"k": "b"}], [{"k": "c"}, {}]),
    ({"allOf": [{"type": "integer", "minimum": 3}]}, [3, 44], [2]),
    ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]}, [3, 9], [2, 10]),
    ({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}]}, [{"a": 1, "b": None}], [{"a": 1}, {"a": 1, "b": 2}]),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}}, [1], ["x"]),
    ({"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": {"type": "null"}}}, [None], [1]),
    ({"$ref": "#/$defs/x", "maximum": 5, "$defs": {"x": {"type": "integer"}}}, [1, 5], [6, "x"]),
    (_TREE, [{"v": 1}, {"v": 1, "c": [{"v": 2, "c": []}, {"v": 3}]}], [{"c": []}, {"v": 1, "c": [1]}]),
    ({"type": "array", "uniqueItems": False, "items": {"const": 1}}, [[1, 1]], [[2]]),
    ({"type": "object"}, [{}, {"a": [1, {"b": None}]}], [[], 1, "x"]),
    ({}, [{}, [1, "x", None, {"a": True}], 1.5, "x"], []),
]  # fmt: skip

_PRINTED: tuple[dict[str, Any], ...] = (
    {},
    {"separators": (",", ":")},
    {"indent": 2},
    {"indent": 8},
    {"indent": "\t"},
)
_SHAPES = [(s, v, i) for s, v, i in CASES]
_NAMES_OF = [json.dumps(s)[:70] for s, _, _ in CASES]


@pytest.mark.parametrize(("spec", "valid", "invalid"), _SHAPES, ids=_NAMES_OF)
def test_a_keyword_is_enforced(spec: Any, valid: list[Any], invalid: list[Any]) -> None:
    validator = _oracle(spec)
    read = schema.read(json.dumps(spec))
    automaton = None if read.node is None else nfa.build(read.node)
    constraint = compiled(read.grammar, "json_schema")
    for value in valid:
        assert validator.is_valid(value)
        for options in _PRINTED:
            text = json.dumps(value, ensure_ascii=False, **options)
            assert automaton is None or nfa.accepts(automaton, text.encode()), text
            assert takes(constraint.start(), text), text
            assert takes(constraint.start(), text, single=True), text
    for value in invalid:
        assert not validator.is_valid(value)
        for options in _PRINTED:
            text = json.dumps(value, ensure_ascii=False, **options)
            assert automaton is None or not nfa.accepts(automaton, text.encode()), text
            assert not takes(constraint.start(), text), text


def _oracle(spec: Any) -> Any:
    """Older spellings in the oracle's draft."""
    if isinstance(spec, dict) and spec.get("nullable"):
        spec = {**spec, "type": [spec["type"], "null"]}
    if isinstance(spec, dict) and isinstance(spec.get("items"), list):
        return jsonschema_rs.Draft7Validator(spec)
    return jsonschema_rs.Draft202012Validator(spec, validate_formats=True)


def test_each_keyword_has_a_case() -> None:
    written = json.dumps([spec for spec, _, _ in CASES])
    assert [key for key in _KEYWORDS if f'"{key}"' not in written] == []


def test_what_is_regular_is_ours() -> None:
    ours = [spec for spec, _, _ in CASES if schema.read(json.dumps(spec)).node is not None]
    assert len(ours) > 0.6 * len(CASES)
    assert _TREE not in ours


@pytest.mark.parametrize("style", ["flexible", "spaced", "compact"])
@pytest.mark.parametrize("spec", [{**_CLOSED, "required": ["a"]}, _TREE | {"required": ["v"]}])
def test_white_space_is_bounded_in_both_ways(spec: Any, style: str) -> None:
    read = schema.read(json.dumps({**spec, "x-whitespace": style}))
    key = spec["required"][0]
    texts = {
        f'{{"{key}":1}}': style != "spaced",
        f'{{"{key}": 1}}': style != "compact",
        f'{{\n  "{key}": 1\n}}': style == "flexible",
        f'{{\n\t"{key}": 1\n}}': style == "flexible",
        f'{{"{key}":  1}}': False,
        f'{{  "{key}":1}}': False,
        f'{{\n\n"{key}":1}}': False,
        f'{{\n{" " * 65}"{key}":1}}': False,
        f' {{"{key}":1}}': False,
        f'{{"{key}":1}} ': False,
        f'{{"{key}":1}}\n': False,
    }
    for text, expected in texts.items():
        assert takes(compiled(read.grammar).start(), text) == expected, text
        if read.node is not None:
            assert nfa.accepts(nfa.build(read.node), text.encode()) == expected, text


def test_numbers_end() -> None:
    for spec in ({"type": "integer"}, {"type": "number"}):
        node = schema.read(json.dumps(spec)).node
        assert node is not None
        automaton = nfa.build(node)
        assert not nfa.accepts(automaton, b"1" * 30)
        assert not nfa.accepts(automaton, b"0." + b"1" * 30)
        assert not nfa.accepts(automaton, b"1e400")
    integer = compiled(schema.read('{"type": "integer"}').grammar)
    assert not takes(integer.start(), "1" * 30)


def test_names_are_not_spelled_in_another_way() -> None:
    spec = {**_NAMES, "additionalProperties": {"type": "null"}}
    read = schema.read(json.dumps(spec))
    assert read.node is not None
    for text in ('{"\\u0061": null}', '{"a": null}', '{"\\u0062":null}'):
        assert not nfa.accepts(nfa.build(read.node), text.encode())
        assert not takes(compiled(read.grammar).start(), text)


def test_numbers_beyond_doubles_are_exact_or_refused() -> None:
    read = schema.read('{"const": 9007199254740993}')
    assert read.node is not None
    assert nfa.accepts(nfa.build(read.node), b"9007199254740993")
    assert not nfa.accepts(nfa.build(read.node), b"9007199254740992")
    with pytest.raises(InvalidRequest, match=r"at \$\.const: .*not exact"):
        _ = read.grammar
    big = schema.read('{"type": "integer", "minimum": 0, "maximum": 100000000000000000000000}').node
    assert big is not None
    assert nfa.accepts(nfa.build(big), b"100000000000000000000000")
    assert not nfa.accepts(nfa.build(big), b"100000000000000000000001")
