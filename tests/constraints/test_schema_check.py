"""Schemas that are refused, each with the place of what is wrong."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ramet.constraints import schema
from ramet.constraints.limits import DEFAULT
from ramet.constraints.schema_check import check_schema
from ramet.errors import InvalidRequest

REFUSED: list[tuple[Any, str]] = [
    ({"type": "string", "maxlength": 3}, r"at \$\.maxlength: is no keyword"),
    (
        {"properties": {"a": {"not": {}}}},
        r"at \$\.properties\.a\.not: is a keyword that is not enf",
    ),
    ({"anyOf": [{}, {"if": {}}]}, r"at \$\.anyOf\[1\]\.if: "),
    ({"properties": {"a b": {"uniqueItems": True}}}, r'at \$\.properties\["a b"\]\.uniqueItems: '),
    *(
        ({key: {}}, rf"at \$\.{key}: ")
        for key in ("contains", "dependentRequired", "propertyNames")
    ),
    ({"unevaluatedProperties": False}, r"use additionalProperties"),
    ({"$dynamicRef": "#"}, r"at \$\.\$dynamicRef: .*use \$ref"),
    ({"x-guidance": {"lenient": True}}, r'use "x-whitespace"'),
    ({"x-whitespace": "any"}, r"at \$\.x-whitespace: is none of flexible"),
    ({"type": "str"}, r"at \$\.type: is none of null"),
    ({"type": []}, r"at \$\.type: "),
    ({"type": "string", "format": "regex"}, r"at \$\.format: is a format that is not enforced"),
    ({"minLength": -1}, r"at \$\.minLength: is not a whole number"),
    ({"minLength": 1.5}, r"at \$\.minLength: is not a whole number"),
    ({"minLength": 100_000}, r"at \$\.minLength: is more than"),
    ({"minItems": True}, r"at \$\.minItems: is not a whole number"),
    ({"multipleOf": 0}, r"at \$\.multipleOf: is not above 0"),
    ({"minimum": "1"}, r"at \$\.minimum: is not a number"),
    ({"enum": 1}, r"at \$\.enum: is not a list"),
    ({"required": True}, r"at \$\.required: is not a list of names"),
    ({"properties": []}, r"at \$\.properties: is not an object"),
    ({"anyOf": []}, r"at \$\.anyOf: is not a list of schemas"),
    ({"items": 3}, r"at \$\.items: is no schema"),
    ({"$ref": "https://example.com/x"}, r"at \$\.\$ref: is not a path in this schema"),
    ({"$ref": "#name"}, r"at \$\.\$ref: is not a path"),
    ({"$ref": "#/$defs/x"}, r"at \$\.\$ref: points to nothing"),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"not": {}}}}, r"at \$\.\$defs\.x\.not: "),
    ({"nullable": True}, r"at \$\.nullable: stands without a type"),
    ({"type": "object", "minProperties": 2}, r"at \$\.minProperties: .*may repeat"),
    ({"type": "integer", "multipleOf": 1000003}, r"at \$\.multipleOf: has more digits"),
    ([], r"at \$: is no schema"),
    (3, r"at \$: is no schema"),
]


@pytest.mark.parametrize(("spec", "message"), REFUSED, ids=[json.dumps(s)[:50] for s, _ in REFUSED])
def test_what_is_not_enforced_is_refused_with_its_place(spec: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        schema.read(json.dumps(spec))
    assert caught.value.field == "json_schema"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"const": NaN}', "NaN is no JSON number"),
        ('{"const": 1e999}', "too large a number"),
        ('{"const": "\\ud800"}', "is not JSON"),
        ('{"const": ' + "1" * 5000 + "}", "is not JSON"),
        ('{"items":' * 60_000 + "{}" + "}" * 60_000, "bytes"),
        ('{"items":' * 20_000 + "{}" + "}" * 20_000, "nested deeper than 120"),
        ("[" * 200_000, "nested deeper than 120"),
        ('"' + "[" * 200_000 + '"', "is no schema"),
    ],
    ids=range(11),
)
def test_bad_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        schema.read(text)


def test_annotations_are_ignored_and_listed() -> None:
    spec = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "T",
        "type": "object",
        "properties": {"title": {"type": "string", "description": "d", "x-order": 1}},
        "additionalProperties": False,
    }
    read = schema.read(json.dumps(spec))
    assert read.ignored == (
        "$.$schema",
        "$.title",
        "$.properties.title.description",
        "$.properties.title.x-order",
    )
    assert read.checked.root == {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "additionalProperties": False,
    }


def test_older_spellings_become_one_form() -> None:
    def clean(spec: Any) -> Any:
        return check_schema(json.dumps(spec), DEFAULT).as_schema()

    assert clean({"minimum": 3, "exclusiveMinimum": True}) == {"exclusiveMinimum": 3}
    assert clean({"minimum": 3, "exclusiveMinimum": False}) == {"minimum": 3}
    assert clean({"items": [{}], "additionalItems": False}) == {"prefixItems": [{}], "items": False}
    assert clean({"items": {}, "additionalItems": False}) == {"items": {}}
    assert clean({"type": "string", "nullable": True}) == {"type": ["string", "null"]}
    assert clean({"definitions": {"a": {"not": 1}}}) == {}  # nothing refers to it


def test_references_get_definitions_of_their_own() -> None:
    spec = {
        "properties": {"a": {"type": "null"}, "b": {"$ref": "#/properties/a"}, "c": {"$ref": "#"}}
    }
    checked = check_schema(json.dumps(spec), DEFAULT)
    assert checked.places == {"d0": "$.properties.a", "d1": "$"}
    assert checked.definitions["d0"] == {"type": "null"}
    assert checked.definitions["d1"] == checked.root


def test_limits_are_kept() -> None:
    small = dataclasses.replace(DEFAULT, schema_bytes=50, depth=3)
    with pytest.raises(InvalidRequest, match="more than 50"):
        schema.read(json.dumps({"const": "x" * 60}), small)
    with pytest.raises(InvalidRequest, match="deeper than 3"):
        schema.read('{"a":[[[1]]]}', small)
