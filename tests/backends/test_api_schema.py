"""Schemas in the dialects of providers, and the way back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.backends.api_schema import ANTHROPIC, GEMINI, OPENAI, Dialect, sent_schema

jsonschema_rs = pytest.importorskip("jsonschema_rs", reason="it is the judge of these tests")

PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "minLength": 1, "default": "x"},
        "age": {"type": "integer", "minimum": 0},
        "mail": {"type": ["string", "null"]},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def strict_faults(node: Any, dialect: Dialect, at: str = "$") -> list[str]:
    """Where a schema leaves the dialect's strict language."""
    if isinstance(node, list):
        return [f for i, x in enumerate(node) for f in strict_faults(x, dialect, f"{at}[{i}]")]
    if not isinstance(node, dict):
        return []
    found = []
    if node.get("type") == "object":
        names = set(node.get("properties", {}))
        if dialect.all_required and names != set(node.get("required", ())):
            found.append(f"{at}: not all required")
        if dialect.closed and node.get("additionalProperties") is not False:
            found.append(f"{at}: open")
    schemas = {"properties", "$defs"}
    parts = {"items", "anyOf", "prefixItems", "additionalProperties", "required", "$ref"} | schemas
    for name, value in node.items():
        if name not in dialect.keywords | parts | {"format"}:
            found.append(f"{at}: {name}")
        if name in schemas:
            for key, child in value.items():
                found += strict_faults(child, dialect, f"{at}.{key}")
        elif name in ("items", "anyOf", "prefixItems"):
            found += strict_faults(value, dialect, f"{at}.{name}")
    return found


def test_openais_strict_mode() -> None:
    sent = sent_schema(PERSON, OPENAI)
    assert sent.strict
    assert not sent.wrapped
    assert sent.schema == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
            "mail": {"type": ["string", "null"]},
        },
        "required": ["name", "age", "mail"],
        "additionalProperties": False,
    }
    restored = sent.restore({"name": "A", "age": None, "mail": None})
    assert restored == {"name": "A", "mail": None}  # where null is a value, it stays one
    assert not sent.same_text


def test_anthropics_strict_mode() -> None:
    sent = sent_schema(PERSON, ANTHROPIC)
    assert sent.strict
    assert sent.same_text
    assert sent.schema["required"] == ["name"]
    assert sent.schema["properties"]["age"] == {"type": "integer"}


def test_gemini_keeps_what_it_enforces() -> None:
    sent = sent_schema({"type": "array", "items": {"enum": ["a"]}, "minItems": 2}, GEMINI)
    assert sent.strict
    assert not sent.wrapped
    assert sent.schema == {"type": "array", "items": {"enum": ["a"]}, "minItems": 2}


def test_a_value_that_is_no_object_is_wrapped() -> None:
    sent = sent_schema({"type": "array", "items": {"type": "integer"}}, OPENAI)
    assert sent.wrapped
    assert sent.schema["properties"]["value"]["type"] == "array"
    assert sent.restore({"value": [1]}) == [1]
    with pytest.raises(ValueError, match="value"):
        sent.restore([1])


def test_a_recursive_schema() -> None:
    tree = {
        "$defs": {
            "Tree": {
                "type": "object",
                "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
                "required": ["kids"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/Tree",
    }
    sent = sent_schema(tree, OPENAI)
    assert sent.strict
    assert sent.wrapped
    assert sent.schema["properties"]["value"] == {"$ref": "#/$defs/Tree"}
    assert not sent_schema(tree, ANTHROPIC).strict


def test_a_root_that_holds_itself_moves_with_its_wrapping() -> None:
    schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#"}}]}
    sent = sent_schema(schema, OPENAI)
    assert sent.strict
    judge = jsonschema_rs.validator_for(sent.schema)
    assert judge.is_valid({"value": [["a"], "b"]})
    assert not judge.is_valid({"value": [[1]]})


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "array"},
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
        {"type": "object", "properties": {"a": {"type": "null"}}, "patternProperties": {"b": {}}},
        {"$ref": "https://example.com/schema"},
        {"allOf": [{"type": "integer"}, {"minimum": 3}]},
        {
            "anyOf": [
                {"type": "object", "properties": {"a": {"type": "integer"}}},
                {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
            ]
        },
    ],
)
def test_what_strict_mode_cannot_say_is_sent_as_it_is(schema: Any) -> None:
    sent = sent_schema(schema, OPENAI)
    assert not sent.strict
    inner = sent.schema["properties"]["value"] if sent.wrapped else sent.schema
    assert inner == ({} if schema is True else schema)
    assert not sent.filled


SCALARS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "maxLength": 3},
        {"type": "integer", "minimum": -5},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["integer", "null"]},
        {"enum": ["a", 1, None]},
        {"const": "c"},
        {"type": "string", "format": "date"},
    ]
)


def _objects(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(properties: dict[str, Any], needed: set[str], closed: bool) -> Any:
        more = {"additionalProperties": False} if closed else {}
        required = sorted(needed & set(properties))
        return {"type": "object", "properties": properties, "required": required, **more}

    names = st.sampled_from("abcd")
    return st.builds(
        build, st.dictionaries(names, children, min_size=1), st.sets(names), st.booleans()
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda children: st.one_of(
        st.builds(lambda c: {"type": "array", "items": c, "maxItems": 3}, children),
        _objects(children),
        st.builds(lambda a, b: {"anyOf": [a, b]}, children, SCALARS),
    ),
    max_leaves=8,
)


@given(SCHEMAS, st.sampled_from([OPENAI, ANTHROPIC, GEMINI]))
def test_strict_schemas_are_in_the_dialect(schema: Any, dialect: Dialect) -> None:
    before = json.dumps(schema)
    sent = sent_schema(schema, dialect)
    assert json.dumps(schema) == before
    if sent.strict:
        assert strict_faults(sent.schema, dialect) == []
    if dialect.object_root:
        assert sent.schema["type"] == "object"


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values of a program's schema (of those above)."""
    if "anyOf" in schema:
        return st.one_of(*map(values, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    found = []
    for kind in kinds:
        if kind == "object":
            names, needed = schema["properties"], schema["required"]
            found.append(
                st.fixed_dictionaries(
                    {n: values(names[n]) for n in needed},
                    optional={n: values(names[n]) for n in names if n not in needed},
                )
            )
        elif kind == "array":
            found.append(st.lists(values(schema["items"]), max_size=3))
        else:
            found.append(
                {
                    "string": st.just("2026-11-21") if "format" in schema else st.text(max_size=3),
                    "integer": st.integers(-5, 5),
                    "number": st.floats(-9, 9),
                    "boolean": st.booleans(),
                    "null": st.none(),
                }[kind]
            )
    return st.one_of(*found)


def filled(value: Any, schema: Any) -> Any:
    """What a strict provider would say for `value`: null for every property that is absent."""
    if "anyOf" in schema:
        fitting = [o for o in schema["anyOf"] if jsonschema_rs.is_valid(o, value)]
        return filled(value, fitting[0])
    if isinstance(value, dict):
        names = schema["properties"]
        return {n: filled(value[n], names[n]) if n in value else None for n in names}
    if isinstance(value, list):
        return [filled(item, schema["items"]) for item in value]
    return value


@given(st.data())
def test_filled_values_are_legal_where_sent_and_come_back(data: st.DataObject) -> None:
    schema = data.draw(SCHEMAS)
    sent = sent_schema(schema, OPENAI)
    if not sent.strict:
        return
    value = data.draw(values(schema))
    said = filled(value, schema)
    said = {"value": said} if sent.wrapped else said
    assert jsonschema_rs.is_valid(sent.schema, said), (schema, said)
    back = sent.restore(said)
    assert jsonschema_rs.is_valid(schema, back), (schema, back)
    assert _without_nulls(back) == _without_nulls(value)


def _without_nulls(value: Any) -> Any:
    """Absent and null are told apart above; here they are one."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
