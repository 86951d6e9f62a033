"""Small schemas drawn by chance, against an independent validator: what it calls valid is taken, printed in
several ways; what it calls invalid is not; and every walk through the masks ends in a valid document."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import jsonschema_rs
import pytest
from tests.constraints.words import TOKENS, compiled, encode, ids, takes

from ramet.constraints import nfa, schema
from ramet.constraints.validate import check
from ramet.errors import InvalidRequest

_PRINTED: tuple[dict[str, Any], ...] = ({}, {"separators": (",", ":")}, {"indent": 2})
_TEXTS = ("", "a", "ab", "é", '"', "\\", "日本", "x\ny", "long text, with {} and []")
_NAMES = ("a", "ab", "b", "name", "x y", 'q"')


def draw(chance: random.Random, depth: int = 0) -> Any:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "bounded"]
    if depth < 3:
        kinds += ["object", "object", "array", "array", "anyOf", "tuple"]
    kind = chance.choice(kinds)
    inner = functools.partial(draw, chance, depth + 1)
    if kind == "string":
        least = chance.randrange(3)
        return {
            "type": "string",
            **chance.choice(({}, {"minLength": least, "maxLength": least + 3})),
        }
    if kind == "bounded":
        low = chance.randint(-1200, 1200)
        return {"type": "integer", "minimum": low, "maximum": low + chance.randrange(2000)}
    if kind == "enum":
        return {"enum": chance.sample([*_TEXTS, 0, -1.5, True, None, [1], {"k": "v"}], 3)}
    if kind == "anyOf":
        return {"anyOf": [inner() for _ in range(chance.randint(1, 3))]}
    if kind == "array":
        least = chance.randrange(3)
        bounds: Any = chance.choice(
            ({}, {"minItems": least}, {"minItems": least, "maxItems": least + 2})
        )
        return {"type": "array", "items": inner(), **bounds}
    if kind == "tuple":
        first = [inner() for _ in range(chance.randint(1, 3))]
        return {"type": "array", "prefixItems": first, "items": chance.choice((False, inner()))}
    if kind == "object":
        names = chance.sample(_NAMES, chance.randrange(4))
        required = [name for name in names if chance.random() < 0.5]
        others: Any = False if chance.random() < 0.7 else inner()
        return {
            "type": "object",
            "properties": {name: inner() for name in names},
            "required": required,
            "additionalProperties": others,
        }
    return {"type": kind}


def value_of(spec: Any, chance: random.Random) -> Any:
    """A valid value, with its properties as the schema declares them."""
    if "enum" in spec:
        return chance.choice(spec["enum"])
    if "anyOf" in spec:
        return value_of(chance.choice(spec["anyOf"]), chance)
    kind = spec["type"]
    if kind == "string":
        return "".join(
            chance.choice('ab"\\/\n\x01é日😀 {}') for _ in range(spec.get("minLength", 5))
        )
    if kind == "integer":
        return chance.randint(spec.get("minimum", -(10**6)), spec.get("maximum", 10**17))
    if kind == "number":
        return chance.choice((0, 1.5, -2.25e-7, 123456.75, 10**15, 1e21))
    if kind == "boolean":
        return chance.random() < 0.5
    if kind == "null":
        return None
    if kind == "array":
        first = [value_of(one, chance) for one in spec.get("prefixItems", ())]
        if first and chance.random() < 0.5:
            return first[: chance.randrange(len(first))]
        if spec["items"] is False:
            return first
        least = spec.get("minItems", 0)
        count = chance.randint(least, spec.get("maxItems", least + 3))
        return first + [value_of(spec["items"], chance) for _ in range(count)]
    found = {}
    for name, one in spec["properties"].items():
        if name in spec["required"] or chance.random() < 0.5:
            found[name] = value_of(one, chance)
    if spec["additionalProperties"] and chance.random() < 0.5:
        found["extra"] = value_of(spec["additionalProperties"], chance)
    return found


@pytest.mark.parametrize("block", range(20))
def test_drawn_schemas_agree_with_the_oracle(block: int) -> None:
    chance = random.Random(block)
    specs = [draw(chance) for _ in range(20)]
    strange = [value_of(spec, chance) for spec in specs]
    for spec in specs:
        source = json.dumps(spec)
        oracle = jsonschema_rs.Draft202012Validator(spec)
        read = schema.read(source)
        automaton = nfa.build(read.node) if read.node is not None else None
        constraint = compiled(read.grammar, "json_schema", source)
        for value in (value_of(spec, chance) for _ in range(3)):
            assert oracle.is_valid(value)
            for options in _PRINTED:
                text = json.dumps(value, ensure_ascii=False, **options)
                assert automaton is None or nfa.accepts(automaton, text.encode()), (spec, text)
                spelled = "\x01" not in text
                plain = spelled and "\\u" not in text and "e" not in text.replace("true", "")
                assert not plain or takes(constraint.start(), text), (spec, text)
            text = json.dumps(value)
            assert automaton is None or nfa.accepts(automaton, text.encode()), (spec, text)
        for value in strange:
            if not oracle.is_valid(value):
                text = json.dumps(value, ensure_ascii=False)
                assert automaton is None or not nfa.accepts(automaton, text.encode()), (spec, text)
                assert not takes(constraint.start(), text, single=True), (spec, text)


@pytest.mark.parametrize("seed", range(30))
def test_walks_through_masks_end_in_valid_documents(seed: int) -> None:
    chance = random.Random(1000 + seed)
    spec = draw(chance)
    source = json.dumps(spec)
    matcher = compiled(schema.read(source).grammar, "json_schema", source).start()
    text, budget = b"", 250
    while not matcher.done and not (matcher.may_end and chance.random() < 0.2):
        matcher.prepare(budget)
        allowed = ids(matcher.mask(budget))
        assert allowed, (spec, text)
        token = chance.choice(allowed)
        assert matcher.accept(token)
        text += TOKENS[token]
        budget -= 1
        assert budget >= 0, (spec, text)
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        pytest.fail(f"not UTF-8: {text!r}")
    assert check("json_schema", source, decoded) is None, (spec, text)
    again = compiled(schema.read(source).grammar).start()
    assert takes(again, decoded) or encode(decoded) == []


def test_a_schema_that_nothing_matches_is_refused() -> None:
    specs: list[Any] = [
        False,
        {"enum": []},
        {"type": "string", "enum": [1]},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "array", "minItems": 1, "items": False},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"anyOf": [False, {"$ref": "#"}]},
    ]
    for spec in specs:
        with pytest.raises(InvalidRequest, match=r"^json_schema: .*allows nothing"):
            schema.read(json.dumps(spec))


def test_what_never_ends_is_left_out_where_it_need_not_come() -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#/$defs/e"}}, "required": ["a"]}
    spec = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/e"}, "y": {"type": "null"}},
        "additionalProperties": False,
        "$defs": {"e": endless},
    }
    read = schema.read(json.dumps(spec))
    matcher = compiled(read.grammar).start()
    assert takes(matcher.fork(), '{"y": null}')
    assert not takes(matcher, '{"x')
