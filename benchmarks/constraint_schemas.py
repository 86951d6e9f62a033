"""JSON Schemas that constraints are measured on, each with documents that are valid and some that are not.

Written for this benchmark after the kinds that people send: tool calls, records, lists of records, choices,
trees. Knows JSON; refuses to know engines.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.constraint_cases import Case

__all__ = ["NUM_SHAPES", "SCHEMAS", "of_request"]

_STR: dict[str, Any] = {"type": "string"}
_INT: dict[str, Any] = {"type": "integer"}
_NUM: dict[str, Any] = {"type": "number"}
_BOOL: dict[str, Any] = {"type": "boolean"}


def _object(required: str | None = None, *, open_: bool = False, **fields: Any) -> dict[str, Any]:
    """All fields are required unless some are named."""
    names = list(fields) if required is None else required.split()
    made: dict[str, Any] = {"type": "object", "properties": fields, "required": names}
    return made if open_ else {**made, "additionalProperties": False}


def _list(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _enum(*values: Any) -> dict[str, Any]:
    return {"enum": list(values)}


_ADDRESS = _object(
    "street city", street=_STR, city=_STR, zip={"type": "string", "pattern": "^[0-9]{5}$"}
)
_LINE = _object(sku=_STR, quantity={"type": "integer", "minimum": 1, "maximum": 999}, price=_NUM)
_TREE: dict[str, Any] = {
    "$ref": "#/$defs/node",
    "$defs": {"node": _object(value=_INT, children=_list({"$ref": "#/$defs/node"}))},
}
_EXPRESSION: dict[str, Any] = {
    "$ref": "#/$defs/term",
    "$defs": {
        "term": {
            "anyOf": [
                {"type": "number"},
                _object(op=_enum("+", "-", "*", "/"), left={"$ref": "#/$defs/term"},
                        right={"$ref": "#/$defs/term"}),
            ]
        }
    },
}  # fmt: skip
_LINKED: dict[str, Any] = _object(
    "text", text=_STR, next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}
)

# name: (schema, valid documents, invalid documents)
_ALL: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "weather_call": (
        _object(
            name={"const": "get_weather"},
            arguments=_object("location", location=_STR, unit=_enum("celsius", "fahrenheit"),
                              days={"type": "integer", "minimum": 1, "maximum": 14}),
        ),
        [{"name": "get_weather", "arguments": {"location": "Oslo, Norway", "unit": "celsius", "days": 3}},
         {"name": "get_weather", "arguments": {"location": "Lima"}}],
        [{"name": "get_weather", "arguments": {"unit": "celsius"}},
         {"name": "weather", "arguments": {"location": "Lima"}}],
    ),
    "search_call": (
        _object(
            name={"const": "web_search"},
            arguments=_object("query", query=_STR, limit=_INT, site=_STR, safe=_BOOL),
        ),
        [{"name": "web_search", "arguments": {"query": "radix tree prefix cache", "limit": 10, "safe": True}},
         {"name": "web_search", "arguments": {"query": "tides \"today\""}}],
        [{"name": "web_search", "arguments": {"query": 7}}],
    ),
    "one_of_four_calls": (
        {"anyOf": [
            _object(tool={"const": "read_file"}, path=_STR),
            _object(tool={"const": "write_file"}, path=_STR, content=_STR),
            _object(tool={"const": "list_folder"}, path=_STR, recursive=_BOOL),
            _object(tool={"const": "run_tests"}, names=_list(_STR), seconds=_INT),
        ]},
        [{"tool": "write_file", "path": "notes/today.md", "content": "# Today\n\n- buy milk\n"},
         {"tool": "run_tests", "names": ["tests/test_a.py", "tests/test_b.py"], "seconds": 60}],
        [{"tool": "read_file", "path": "x", "content": "y"}, {"tool": "delete", "path": "x"}],
    ),
    "person": (
        _object("name age", name=_STR, age={"type": "integer", "minimum": 0, "maximum": 150},
                email={"type": "string", "format": "email"}, phone=_STR, address=_ADDRESS),
        [{"name": "Ada Lovelace", "age": 36, "email": "ada@engine.example.org",
          "address": {"street": "12 St James's Square", "city": "London", "zip": "01815"}},
         {"name": "Bo", "age": 0}],
        [{"name": "Ada", "age": -1}, {"age": 3}, {"name": "A", "age": 3, "nick": "a"}],
    ),
    "person_open": (
        _object("name", open_=True, name=_STR, age=_INT),
        [{"name": "Zoë Müller", "age": 41}, {"name": "Q"}],
        [{"age": 3}, {"name": "Q", "age": "3"}],
    ),
    "invoice": (
        _object(
            "number date customer lines total",
            number={"type": "string", "pattern": "^INV-[0-9]{6}$"},
            date={"type": "string", "format": "date"},
            customer=_object("name", name=_STR, vat=_STR),
            lines=_list(_LINE, minItems=1, maxItems=50),
            total=_NUM,
            currency=_enum("EUR", "USD", "GBP"),
        ),
        [{"number": "INV-004211", "date": "2026-03-14", "customer": {"name": "Nordlicht GmbH", "vat": "DE811"},
          "lines": [{"sku": "A-100", "quantity": 3, "price": 19.95}, {"sku": "B-7", "quantity": 1, "price": 250}],
          "total": 309.85, "currency": "EUR"},
         {"number": "INV-000001", "date": "2026-01-02", "customer": {"name": "X"},
          "lines": [{"sku": "Z", "quantity": 999, "price": 0.5}], "total": 499.5}],
        [{"number": "INV-1", "date": "2026-01-02", "customer": {"name": "X"}, "lines": [], "total": 0}],
    ),
    "product": (
        _object(
            "id title price", id=_INT, title={"type": "string", "minLength": 1, "maxLength": 80}, price=_NUM,
            tags=_list({"type": "string", "maxLength": 20}, maxItems=8), in_stock=_BOOL,
            size=_object(width=_NUM, height=_NUM, depth=_NUM),
        ),
        [{"id": 90210, "title": "Folding bicycle, 8 gears", "price": 1249.0, "tags": ["sport", "city"],
          "in_stock": False, "size": {"width": 0.6, "height": 1.05, "depth": 1.5}},
         {"id": 1, "title": "Tea", "price": 3}],
        [{"id": 1, "title": "", "price": 3}, {"id": 1.5, "title": "Tea", "price": 3}],
    ),
    "matrix": (
        _object(rows=_list(_list(_list(_INT)))),
        [{"rows": [[[1, 2, 3], [4, 5, 6]], [[-7], [], [80, 900]]]}, {"rows": []}],
        [{"rows": [[1]]}, {"rows": [[["1"]]]}],
    ),
    "points": (
        _list(_object(x=_NUM, y=_NUM), minItems=2, maxItems=16),
        [[{"x": 1.5, "y": -2}, {"x": 0, "y": 1e-3}, {"x": 10, "y": 20.25}], [{"x": 0, "y": 0}, {"x": 1, "y": 1}]],
        [[{"x": 1, "y": 2}], [{"x": 1}, {"x": 2}]],
    ),
    "enums": (
        _object(priority=_enum("low", "medium", "high", "urgent"), status=_enum("open", "closed", None),
                weight=_enum(1, 2, 3, 5, 8, 13), owner=_enum("ops", "web", "data", "mobile", "legal")),
        [{"priority": "urgent", "status": None, "weight": 13, "owner": "mobile"},
         {"priority": "low", "status": "open", "weight": 1, "owner": "ops"}],
        [{"priority": "later", "status": "open", "weight": 1, "owner": "ops"},
         {"priority": "low", "status": "open", "weight": 4, "owner": "ops"}],
    ),
    "sentiment": (
        _object(label=_enum("positive", "neutral", "negative"),
                score={"type": "number", "minimum": 0, "maximum": 1}, reason=_STR),
        [{"label": "negative", "score": 0.125, "reason": "The delivery came late, and the box was wet."},
         {"label": "neutral", "score": 1, "reason": ""}],
        [{"label": "negative", "score": 1.5, "reason": ""}],
    ),
    "tree": (
        _TREE,
        [{"value": 1, "children": [{"value": 2, "children": []}, {"value": 3, "children": [
            {"value": 4, "children": []}]}]}, {"value": 0, "children": []}],
        [{"value": 1}, {"value": 1, "children": [1]}],
    ),
    "expression": (
        _EXPRESSION,
        [{"op": "+", "left": 1, "right": {"op": "*", "left": 2.5, "right": -3}}, 42],
        [{"op": "%", "left": 1, "right": 2}, {"op": "+", "left": 1}],
    ),
    "linked_list": (
        _LINKED,
        [{"text": "one", "next": {"text": "two", "next": {"text": "three", "next": None}}}, {"text": "end"}],
        [{"next": None}, {"text": "one", "next": {}}],
    ),
    "string_or_list": (
        _object(value={"anyOf": [_STR, _list(_STR), {"type": "null"}]}),
        [{"value": ["alpha", "beta", "gamma"]}, {"value": "alone"}],
        [{"value": [1]}, {"value": 1}],
    ),
    "shapes": (
        _object(shapes=_list({"anyOf": [
            _object(kind={"const": "circle"}, radius=_NUM),
            _object(kind={"const": "square"}, side=_NUM),
            _object(kind={"const": "polygon"}, corners=_list(_list(_NUM, minItems=2, maxItems=2))),
        ]})),
        [{"shapes": [{"kind": "circle", "radius": 2.5},
                     {"kind": "polygon", "corners": [[0, 0], [1, 0], [0.5, 1.25]]}]},
         {"shapes": [{"kind": "square", "side": 4}]}],
        [{"shapes": [{"kind": "circle", "side": 2}]}],
    ),
    "formats": (
        _object(id={"type": "string", "format": "uuid"}, created={"type": "string", "format": "date-time"},
                day={"type": "string", "format": "date"}, at={"type": "string", "format": "time"},
                mail={"type": "string", "format": "email"}, host={"type": "string", "format": "ipv4"}),
        [{"id": "123e4567-e89b-12d3-a456-426614174000", "created": "2026-08-01T12:30:45Z", "day": "2026-08-01",
          "at": "12:30:45Z", "mail": "ops@example.org", "host": "10.0.254.7"},
         {"id": "00000000-0000-0000-0000-00000000000f", "created": "1999-12-31T23:59:59+01:00",
          "day": "1999-12-31", "at": "23:59:59+01:00", "mail": "a@b.example", "host": "8.8.8.8"}],
        [{"id": "123", "created": "now", "day": "2026-08-01", "at": "12:30:45Z", "mail": "x", "host": "y"}],
    ),
    "patterns": (
        _object(plate={"type": "string", "pattern": "^[A-Z]{1,3}-[A-Z]{1,2} [0-9]{1,4}$"},
                slug={"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
                version={"type": "string", "pattern": "^[0-9]+\\.[0-9]+\\.[0-9]+$"}),
        [{"plate": "HH-XY 4711", "slug": "the-old-mill-2", "version": "10.4.0"},
         {"plate": "B-A 1", "slug": "a", "version": "0.0.1"}],
        [{"plate": "HHXY", "slug": "a", "version": "0.0.1"}, {"plate": "B-A 1", "slug": "-a", "version": "0.0.1"}],
    ),
    "dictionary": (
        _object(counts={"type": "object", "additionalProperties": _INT}),
        [{"counts": {"apples": 3, "pears": 12, "plums and cherries": 0}}, {"counts": {}}],
        [{"counts": {"apples": "3"}}, {"counts": []}],
    ),
    "calendar": (
        _object("events", events=_list(_object(
            "title start", title=_STR, start={"type": "string", "format": "date-time"},
            end={"type": "string", "format": "date-time"}, attendees=_list(_STR, maxItems=20),
            repeat=_enum("none", "daily", "weekly", "monthly")))),
        [{"events": [{"title": "Stand-up", "start": "2026-08-03T09:15:00Z", "end": "2026-08-03T09:30:00Z",
                      "attendees": ["Ann", "Bea", "Cem"], "repeat": "daily"},
                     {"title": "Review", "start": "2026-08-07T14:00:00+02:00"}]}, {"events": []}],
        [{"events": [{"title": "Review"}]}],
    ),
    "sql_plan": (
        _object(table=_enum("orders", "customers", "items"), columns=_list(_enum("id", "name", "day", "sum"),
                minItems=1), where=_list(_object(column=_STR, op=_enum("=", "<", ">", "<=", ">=", "like"),
                value={"anyOf": [_STR, _NUM, _BOOL]})), limit={"type": "integer", "minimum": 1, "maximum": 10000}),
        [{"table": "orders", "columns": ["id", "sum"], "where": [{"column": "day", "op": ">=", "value": "2026-01-01"},
          {"column": "sum", "op": "<", "value": 100.5}], "limit": 500},
         {"table": "items", "columns": ["name"], "where": [], "limit": 1}],
        [{"table": "orders", "columns": [], "where": [], "limit": 10}],
    ),
    "quiz": (
        _object(question=_STR, options=_list(_STR, minItems=4, maxItems=4), answer=_enum("A", "B", "C", "D"),
                explanation={"type": "string", "maxLength": 200}),
        [{"question": "Which planet has the most moons?", "options": ["Mars", "Venus", "Saturn", "Earth"],
          "answer": "C", "explanation": "Saturn has well over a hundred of them."},
         {"question": "2 + 2?", "options": ["3", "4", "5", "6"], "answer": "B", "explanation": ""}],
        [{"question": "2 + 2?", "options": ["3", "4"], "answer": "B", "explanation": ""}],
    ),
    "settings": (
        _object("version", version={"const": 2}, theme=_enum("light", "dark", "system"), volume={
            "type": "integer", "minimum": 0, "maximum": 100}, language={"type": "string", "pattern": "^[a-z]{2}(-[A-Z]{2})?$"},
            shortcuts=_object("", open=_STR, close=_STR, save=_STR, find=_STR), telemetry=_BOOL),
        [{"version": 2, "theme": "dark", "volume": 70, "language": "de-AT",
          "shortcuts": {"open": "ctrl+o", "find": "ctrl+f"}, "telemetry": False}, {"version": 2}],
        [{"version": 1}, {"version": 2, "volume": 101}],
    ),
    "knowledge": (
        _object(entities=_list(_object(id=_INT, name=_STR, type=_enum("person", "place", "work", "event"))),
                relations=_list(_object(source=_INT, target=_INT, kind=_STR))),
        [{"entities": [{"id": 1, "name": "Marie Curie", "type": "person"}, {"id": 2, "name": "Paris", "type": "place"}],
          "relations": [{"source": 1, "target": 2, "kind": "lived in"}]}, {"entities": [], "relations": []}],
        [{"entities": [{"id": "1", "name": "x", "type": "person"}], "relations": []}],
    ),
    "shared_definition": (
        {"type": "object", "properties": {"billing": {"$ref": "#/$defs/address"}, "shipping": {"$ref": "#/$defs/address"}},
         "required": ["billing", "shipping"], "additionalProperties": False, "$defs": {"address": _ADDRESS}},
        [{"billing": {"street": "1 Main St", "city": "Springfield", "zip": "62701"},
          "shipping": {"street": "2 Elm Ave", "city": "Shelbyville"}},
         {"billing": {"street": "a", "city": "b"}, "shipping": {"street": "c", "city": "d"}}],
        [{"billing": {"street": "a", "city": "b", "zip": "1"}, "shipping": {"street": "c", "city": "d"}}],
    ),
}  # fmt: skip


def _case(name: str, schema: dict[str, Any], good: list[Any], wrong: list[Any]) -> Case:
    return Case(
        name,
        "json_schema",
        json.dumps(schema),
        tuple(json.dumps(document, ensure_ascii=False) for document in good),
        tuple(json.dumps(document, ensure_ascii=False) for document in wrong),
    )


SCHEMAS: tuple[Case, ...] = tuple(_case(name, *parts) for name, parts in _ALL.items())


_SHAPES = [
    schema
    for schema, _, _ in _ALL.values()
    if schema.get("type") == "object" and "$ref" not in schema
]
NUM_SHAPES = len(_SHAPES)


def of_request(number: int) -> str:
    """A schema that no other number has: one of NUM_SHAPES of those above with a field more."""
    schema = _SHAPES[number % NUM_SHAPES]
    name = f"request_{number}"
    properties = {name: {"const": number}, **schema["properties"]}
    return json.dumps({**schema, "properties": properties, "required": [name, *schema["required"]]})
