"""The description and the readers agree: what one knows the other knows, and bounds are the same ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
from tests.server.scripted_engine import (
    MAX_CONTEXT,
    VOCAB_SIZE,
    ScriptedEngine,
    app,
    client,
    served,
)

from ramet.errors import InvalidRequest, Unsupported
from ramet.server.anthropic_messages import count_tokens, read_messages
from ramet.server.app import ServerApp
from ramet.server.generation import Refused
from ramet.server.json_fields import Fields
from ramet.server.metrics import Metrics
from ramet.server.native import (
    read_detokenize,
    read_generate,
    read_score_choices,
    read_tokenize,
)
from ramet.server.openai_chat import read_chat
from ramet.server.openai_completions import read_completion
from ramet.server.openai_responses import read_response
from ramet.server.openapi import LIVE, METRICS, ROUTES, openapi
from ramet.server.openapi_schemas import SCHEMAS
from ramet.server.options import ServeOptions

USER = {"role": "user", "content": "hi"}
# Bodies' schemas, their readers, and a smallest right body.
READERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Generate": (read_generate, {"text": "hi"}),
    "ScoreChoices": (read_score_choices, {"spans": ["hi"], "choices": ["a"]}),
    "Tokenize": (read_tokenize, {"prompt": "hi"}),
    "Detokenize": (read_detokenize, {"tokens": [5]}),
    "Completion": (read_completion, {"prompt": "hi"}),
    "Chat": (read_chat, {"messages": [USER]}),
    "Response": (read_response, {"input": "hi"}),
    "Messages": (read_messages, {"messages": [USER], "max_tokens": 9}),
    "CountTokens": (count_tokens, {"messages": [USER]}),
}
TOOL = {"type": "function", "function": {"name": "f"}}
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
# Objects inside bodies: the body's schema, and where the object stands in it.
INSIDE: dict[str, tuple[str, Callable[[Any], dict[str, Any]], dict[str, Any]]] = {
    "SamplingParams": ("Generate", lambda o: {"text": "hi", "sampling_params": o}, {}),
    "StreamOptions": (
        "Chat",
        lambda o: {"messages": [USER], "stream": True, "stream_options": o},
        {},
    ),
    "ChatMessage": ("Chat", lambda o: {"messages": [o]}, USER),
    "ChatPart": (
        "Chat",
        lambda o: {"messages": [{"role": "user", "content": [o]}]},
        {"type": "text", "text": "x"},
    ),
    "Tool": ("Chat", lambda o: {"messages": [USER], "tools": [o]}, TOOL),
    "ResponseFormat": (
        "Chat",
        lambda o: {"messages": [USER], "response_format": o},
        {"type": "text"},
    ),
    "ResponseItem": ("Response", lambda o: {"input": [o]}, USER),
    "ResponsePart": (
        "Response",
        lambda o: {"input": [{"role": "user", "content": [o]}]},
        {"type": "input_text", "text": "x"},
    ),
    "ResponseTextFormat": (
        "Response",
        lambda o: {"input": "hi", "text": {"format": o}},
        {"type": "text"},
    ),
    "CacheControl": (
        "CountTokens",
        lambda o: {"messages": [USER], "cache_control": o},
        {"type": "ephemeral"},
    ),
    "TextBlock": (
        "CountTokens",
        lambda o: {"messages": [USER], "system": [o]},
        {"type": "text", "text": "x"},
    ),
    "Turn": ("CountTokens", lambda o: {"messages": [o]}, USER),
    "AnthropicTool": (
        "CountTokens",
        lambda o: {"messages": [USER], "tools": [o]},
        {"name": "f", "input_schema": {}},
    ),
    "AnthropicToolChoice": (
        "CountTokens",
        lambda o: {
            "messages": [USER],
            "tools": [{"name": "f", "input_schema": {}}],
            "tool_choice": o,
        },
        {"type": "auto"},
    ),
}
UNKNOWN = ("is not a field", "is not known", "is not a sampling parameter")


def description() -> dict[str, Any]:
    return openapi("1", vocab_size=VOCAB_SIZE)


def problem(name: str, body: dict[str, Any]) -> str:
    """What the reader says of a body; "" if it takes it."""
    try:
        READERS[name][0](body, served())
    except InvalidRequest as error:
        return str(error)
    except (Unsupported, Refused) as error:
        return f"refused: {error}"
    return ""


def variants(name: str) -> Iterator[dict[str, Any]]:
    """The objects that a schema stands for."""
    schema = SCHEMAS[name]
    if "properties" in schema:
        yield schema
    for one in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        if one.get("type") == "object":
            yield one


def bodies(name: str) -> tuple[str, Callable[[Any], dict[str, Any]], dict[str, Any]]:
    if name in READERS:
        return name, lambda o: o, READERS[name][1]
    return INSIDE[name]


def choices(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The plain schemas of a field."""
    if "$ref" in schema:
        found = description()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return [] if "properties" in found or "oneOf" in found else choices(found)
    if "anyOf" in schema:
        return [one for inner in schema["anyOf"] for one in choices(inner)]
    return [schema]


ALL = sorted([*READERS, *INSIDE])


def test_every_body_of_the_description_is_looked_at() -> None:
    taken = {route.takes for route in ROUTES if route.takes} - {"AbortRequest"}
    assert taken == set(READERS)


@pytest.mark.parametrize("name", ALL)
def test_smallest_bodies_are_right_by_both(name: str) -> None:
    reader, wrap, smallest = bodies(name)
    assert problem(reader, wrap(smallest)) == ""
    spec = {"$ref": f"#/components/schemas/{name}", "components": description()["components"]}
    assert jsonschema_rs.is_valid(spec, smallest)


@pytest.mark.parametrize("name", ALL)
def test_every_field_of_the_description_is_known_to_the_reader(name: str) -> None:
    reader, wrap, smallest = bodies(name)
    for schema in variants(name):
        kind = schema["properties"].get("type", {}).get("enum") or [None]
        role = schema["properties"].get("role", {}).get("enum") or [None]
        for field in schema["properties"]:
            body = copy.deepcopy(smallest)
            body |= {} if kind[0] is None else {"type": kind[0]}
            body |= {} if role[0] is None else {"role": role[0]}
            said = problem(reader, wrap({**body, field: body.get(field, object_that_is_nothing())}))
            about = said.split(":")[0].rpartition(".")[2]
            known = about != field or not any(words in said for words in UNKNOWN)
            assert known, (name, field, said)


def object_that_is_nothing() -> Any:
    return {"?": 1}


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_field_that_a_reader_takes_is_in_the_description(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[str] = set()
    real = Fields.take

    def take(self: Fields, field: str) -> Any:
        if not self._path and self._body is body:
            taken.add(field)
        return real(self, field)

    monkeypatch.setattr(Fields, "take", take)
    body = copy.deepcopy(READERS[name][1])
    assert problem(name, body) == ""
    assert taken <= set(SCHEMAS[name]["properties"])


@pytest.mark.parametrize("name", ALL)
def test_bounds_of_numbers_texts_and_lists_are_the_readers(name: str) -> None:
    reader, wrap, smallest = bodies(name)
    for schema in variants(name):
        if schema["properties"].get("role", {}).get("enum", ["user"])[0] in ("assistant", "tool"):
            continue
        for field, about in schema["properties"].items():
            plain = [one for one in choices(about) if one.get("type") != "null"]
            for value in outside(plain):
                said = problem(reader, wrap({**copy.deepcopy(smallest), field: value}))
                assert said, (name, field, str(value)[:60])


def outside(plain: list[dict[str, Any]]) -> Iterator[Any]:
    """Values that none of the schemas allows, just beyond its bounds."""
    for schema in plain:
        for value in beyond(schema):
            if not any(jsonschema_rs.is_valid(resolved(one), value) for one in plain):
                yield value


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": description()["components"]}


def beyond(schema: dict[str, Any]) -> Iterator[Any]:
    kind = schema.get("type")
    if kind in ("integer", "number"):
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                yield schema[bound] + step
        for bound in ("exclusiveMinimum", "exclusiveMaximum"):
            if bound in schema:
                yield schema[bound]
        yield from (True, "7", [], 10**30, -(10**30), 10**400)
    elif kind == "string":
        if "enum" in schema:
            yield from ("nothing of it", 5)
        elif schema.get("maxLength", 1 << 20) < 1 << 20:
            yield "x" * (schema["maxLength"] + 1)
        if schema.get("minLength"):
            yield ""
        yield from (5, True)
    elif kind == "array":
        if schema.get("maxItems", 1 << 20) <= 70_000 and "items" in schema:
            yield [None] * (schema["maxItems"] + 1)
        yield from (5, True)
    elif kind == "boolean":
        yield from (0, 1, "true")
    elif kind == "object":
        yield from (5, True, [])
        if "maxProperties" in schema:
            yield {str(i): 1 for i in range(schema["maxProperties"] + 1)}


@pytest.mark.parametrize("name", sorted(READERS))
def test_unknown_fields_are_refused_and_null_is_not(name: str) -> None:
    smallest = READERS[name][1]
    assert "no_such_field" in problem(name, {**smallest, "no_such_field": 1})
    assert problem(name, {**smallest, "no_such_field": None}) == ""


# -- routes -----------------------------------------------------------------------------------------


async def test_every_route_is_described_and_every_description_has_a_route() -> None:
    metrics = Metrics(frozenset())
    server = ServerApp(ServeOptions(), ScriptedEngine(), served(), metrics=metrics)
    described = {
        (one.path, method.upper()) for one in (*ROUTES, METRICS, LIVE) for method in one.methods
    }
    found = set()
    for route in server._routes():
        path = route.path.replace("{name:path}", "{name}")
        if path == "/" or path.startswith("/page/"):  # files, not an interface
            continue
        found |= {(path, method) for method in (route.methods or ()) if method != "HEAD"}
    assert found == described


async def test_the_description_is_there_without_a_key_and_is_json_schema() -> None:
    async with client(app(api_keys={"a-key-for-tests": "t"})) as http:
        response = await http.get("/openapi.json")
    assert response.status_code == 200
    found = response.json()
    assert found["openapi"].startswith("3.1")
    assert found["components"]["schemas"]["TokenId"]["maximum"] == VOCAB_SIZE - 1
    for name in found["components"]["schemas"]:
        spec = {"$ref": f"#/components/schemas/{name}", "components": found["components"]}
        jsonschema_rs.validator_for(spec)
    assert "security" in found["paths"]["/generate"]["post"]
    assert "security" not in found["paths"]["/health"]["get"]


async def test_without_keys_none_is_described() -> None:
    async with client(app()) as http:
        found = (await http.get("/openapi.json")).json()
    assert "security" not in json.dumps(found["paths"])
    assert MAX_CONTEXT > 0
