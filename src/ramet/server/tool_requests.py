"""The tools of a request, and which of them the model may or must call.

Knows OpenAI's and Anthropic's forms of both, and their bounds. A schema is checked when it arrives: what is
wrong with it is refused with its place, before anything is generated. Refuses to know how models write calls.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from ramet.constraints.limits import DEFAULT
from ramet.constraints.schema import read_checked
from ramet.constraints.schema_check import FORMATS
from ramet.constraints.schema_library import schema_of
from ramet.errors import InvalidRequest

__all__ = [
    "Tool",
    "ToolChoice",
    "read_anthropic_tool_choice",
    "read_anthropic_tools",
    "read_tool_choice",
    "read_tools",
]

_MOST_TOOLS = 128
_MOST_DESCRIPTION = 1 << 16  # characters
_MOST_BYTES = 1 << 18  # of all schemas of a request, as JSON
_MOST_DEPTH = 64  # objects and lists inside each other
_SECONDS = 1.0  # for checking all schemas of a request
_NAMES = {"OpenAI": 64, "Anthropic": 128}  # characters of a name
_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")


@dataclass(frozen=True)
class Tool:
    """`parameters` is the JSON Schema of an object, as the client gave it: this is what the model is told.
    `enforced` is what its calls are held to (None: the same): without `strict`, keywords that nothing here
    enforces are left out of it; with `strict` they were refused."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False
    enforced: dict[str, Any] | None = None


@dataclass(frozen=True)
class ToolChoice:
    """Whether the model may call tools ("auto"), may not ("none"), must call some ("required"), or the one
    of this `name` ("named")."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


def read_tools(value: Any, field: str = "tools") -> tuple[Tool, ...]:
    """Tools in OpenAI's form, `{"type": "function", "function": {name, description, parameters, strict}}`.
    Raises `InvalidRequest` with the dotted name of what is wrong (`tools[2].function.parameters`)."""
    found = []
    for at, item in _items(value, field):
        one = _object(item, at, ("type", "function"))
        if one.get("type", "function") != "function":
            raise InvalidRequest(f"{at}.type", one["type"], 'is not "function"')
        at = f"{at}.function"
        function = _object(one.get("function"), at, ("name", "description", "parameters", "strict"))
        found.append(
            Tool(
                _name(function.get("name"), f"{at}.name", _NAMES["OpenAI"]),
                _description(function.get("description"), f"{at}.description"),
                _parameters(function.get("parameters"), f"{at}.parameters"),
                _flag(function.get("strict"), f"{at}.strict"),
            )
        )
    return _checked(found, field, "function.", "parameters")


def read_anthropic_tools(value: Any, field: str = "tools") -> tuple[Tool, ...]:
    """Tools in Anthropic's form, `{"name", "description", "input_schema", "strict"}`. `cache_control` is
    taken: every prompt is cached here. Tools that Anthropic runs itself are refused. Raises as `read_tools`."""
    found = []
    for at, item in _items(value, field):
        known = ("type", "name", "description", "input_schema", "strict", "cache_control")
        if isinstance(item, dict) and item.get("type") not in (None, "custom"):
            problem = "is a kind of tool that this server does not run"
            raise InvalidRequest(f"{at}.type", item["type"], problem, 'it runs "custom" ones')
        one = _object(item, at, known)
        schema = one.get("input_schema")
        if schema is None:
            raise InvalidRequest(f"{at}.input_schema", schema, "is missing")
        found.append(
            Tool(
                _name(one.get("name"), f"{at}.name", _NAMES["Anthropic"]),
                _description(one.get("description"), f"{at}.description"),
                _parameters(schema, f"{at}.input_schema"),
                _flag(one.get("strict"), f"{at}.strict"),
            )
        )
    return _checked(found, field, "", "input_schema")


def read_tool_choice(value: Any, tools: Sequence[Tool], field: str = "tool_choice") -> ToolChoice:
    """OpenAI's "none", "auto", "required" or `{"type": "function", "function": {"name": ...}}`. None means
    "auto" if there are tools. Raises `InvalidRequest` for calls that must be made without tools, or of a tool
    that is not there."""
    if value is None or value == "auto":
        return ToolChoice("auto" if tools else "none")
    if value == "none":
        return ToolChoice("none")
    if value == "required":
        return _must("required", value, tools, field)
    if not isinstance(value, dict) or value.get("type") != "function":
        problem = "is none of none, auto, required and a function"
        form = '{"type": "function", "function": {"name": ...}}'
        raise InvalidRequest(field, value, problem, f"name one with {form}")
    one = _object(value, field, ("type", "function"))
    function = _object(one.get("function"), f"{field}.function", ("name",))
    return _named(function.get("name"), tools, f"{field}.function.name")


def read_anthropic_tool_choice(
    value: Any, tools: Sequence[Tool], field: str = "tool_choice"
) -> tuple[ToolChoice, bool]:
    """Anthropic's `{"type": "auto" | "any" | "tool" | "none", "name", "disable_parallel_tool_use"}`: the
    choice, and whether several calls may be made at once. Raises as `read_tool_choice`."""
    if value is None:
        return read_tool_choice(None, tools, field), True
    one = _object(value, field, ("type", "name", "disable_parallel_tool_use"))
    parallel = not _flag(one.get("disable_parallel_tool_use"), f"{field}.disable_parallel_tool_use")
    kind = one.get("type")
    if kind == "tool":
        return _named(one.get("name"), tools, f"{field}.name"), parallel
    if "name" in one:
        raise InvalidRequest(f"{field}.name", one["name"], 'is for the type "tool" only')
    if kind == "any":
        return _must("required", value, tools, field), parallel
    if kind not in ("auto", "none"):
        raise InvalidRequest(f"{field}.type", kind, "is none of auto, any, tool and none")
    return read_tool_choice(kind, tools, field), parallel


def _must(
    mode: Literal["required", "named"],
    value: Any,
    tools: Sequence[Tool],
    field: str,
    name: str | None = None,
) -> ToolChoice:
    if not tools:
        raise InvalidRequest(field, value, "wants a call, but there are no tools", "give tools")
    return ToolChoice(mode, name)


def _named(name: Any, tools: Sequence[Tool], field: str) -> ToolChoice:
    choice = _must("named", name, tools, field, name)
    if not any(tool.name == name for tool in tools):
        shown = ", ".join([tool.name for tool in tools[:8]] + ["..."] * (len(tools) > 8))
        raise InvalidRequest(field, name, "is none of the tools", f"there are {shown}")
    return choice


# Parts of a tool


def _items(value: Any, field: str) -> list[tuple[str, Any]]:
    """The entries of the list with their dotted names. None is an empty list."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(field, value, "is not a list")
    if len(value) > _MOST_TOOLS:
        raise InvalidRequest(field, f"{len(value)} tools", f"are more than {_MOST_TOOLS}")
    return [(f"{field}[{i}]", item) for i, item in enumerate(value)]


def _object(value: Any, field: str, known: Sequence[str]) -> dict[str, Any]:
    """The members that are not null. Raises `InvalidRequest` for one that is not known."""
    if not isinstance(value, dict):
        raise InvalidRequest(field, value, "is not an object")
    given = {key: one for key, one in value.items() if one is not None}
    for key, one in given.items():
        if key not in known:
            raise InvalidRequest(
                f"{field}.{key}", one, "is not known", f"known: {', '.join(known)}"
            )
    return given


def _name(value: Any, field: str, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not _NAME.match(value):
        problem = f"is not a name of 1 to {most} letters, digits and _ . -"
        raise InvalidRequest(field, value, problem)
    return value


def _description(value: Any, field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(field, value, "is not a string")
    if len(value) > _MOST_DESCRIPTION:
        count = f"{len(value)} characters"
        raise InvalidRequest(field, count, f"are more than {_MOST_DESCRIPTION}")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidRequest(field, value, "holds a lone surrogate, which is no Unicode text")
    return value


def _flag(value: Any, field: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(field, value, "is neither true nor false")
    return bool(value)


def _parameters(value: Any, field: str) -> dict[str, Any]:
    """The schema, of an object in any case; None is that of no arguments."""
    if value is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(value, dict):
        raise InvalidRequest(field, value, "is not a JSON Schema of an object")
    _check_depth(value, field)
    if value.get("type", "object") != "object":
        problem = 'is not "object": the arguments of a tool have names'
        raise InvalidRequest(f"{field}.type", value["type"], problem)
    return {"type": "object", **value}


def _check_depth(value: Any, field: str) -> None:
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, (dict, list))]:
        depth += 1
        if depth > _MOST_DEPTH:
            raise InvalidRequest(field, "the schema", f"is nested deeper than {_MOST_DEPTH} levels")
        level = [x for one in level for x in (one.values() if isinstance(one, dict) else one)]


# Schemas, all of one request


def _checked(found: list[Tool], field: str, inside: str, schema: str) -> tuple[Tool, ...]:
    """The tools with what is enforced of them. `inside` and `schema` say where schemas stand in an entry."""
    first: dict[str, int] = {}
    texts = []
    for i, tool in enumerate(found):
        place = f"{field}[{i}].{inside}{schema}"
        if first.setdefault(tool.name, i) != i:
            raise InvalidRequest(
                f"{field}[{i}].{inside}name",
                tool.name,
                f"is the name of {field}[{first[tool.name]}]",
            )
        try:
            texts.append(json.dumps(tool.parameters, ensure_ascii=False, allow_nan=False))
        except (ValueError, TypeError) as error:
            raise InvalidRequest(place, tool.parameters, f"is not JSON: {error}") from None
        size = sum(map(len, texts))
        if size > _MOST_BYTES:
            problem = f"are more than {_MOST_BYTES} in all schemas together"
            raise InvalidRequest(place, f"{size} characters", problem)
    deadline = time.monotonic() + _SECONDS
    return tuple(
        replace(tool, enforced=_enforced(tool, text, f"{field}[{i}].{inside}{schema}", deadline))
        for i, (tool, text) in enumerate(zip(found, texts, strict=True))
    )


def _enforced(tool: Tool, text: str, field: str, deadline: float) -> dict[str, Any]:
    try:
        return _enforceable(text, field, deadline)
    except InvalidRequest as refused:
        relaxed = _relaxed(tool.parameters)
        if tool.strict or relaxed == tool.parameters:
            raise
        try:
            return _enforceable(json.dumps(relaxed, ensure_ascii=False), field, deadline)
        except InvalidRequest as error:
            raise error from refused


def _enforceable(text: str, field: str, deadline: float) -> dict[str, Any]:
    """The schema without words and with what it refers to. Raises `InvalidRequest` for what is no schema, or
    not enforced."""
    left = deadline - time.monotonic()
    if left <= 0:
        _too_slow(field)
    checked = read_checked(text, replace(DEFAULT, seconds=left), field)
    schema_of(checked, field)
    schema = checked.as_schema()
    return schema if isinstance(schema, dict) else {"type": "object"}


def _too_slow(field: str) -> NoReturn:
    problem = f"is beyond what was read of the schemas in {_SECONDS:g} s"
    raise InvalidRequest(field, "the schema", problem, "make the schemas smaller")


_UNENFORCED = frozenset(
    (
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "dependencies"),
        *("dependentRequired", "dependentSchemas", "propertyNames", "unevaluatedItems"),
        *("unevaluatedProperties", "uniqueItems", "minProperties", "maxProperties"),
    )
)
_OF_ONE = ("additionalProperties", "items", "additionalItems")
_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions")
_OF_LIST = ("anyOf", "oneOf", "allOf", "prefixItems", "items")


def _relaxed(schema: Any) -> Any:
    """The schema without keywords that nothing enforces: it allows the same and more."""
    if not isinstance(schema, Mapping):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in _UNENFORCED:
            continue
        if key == "format" and isinstance(value, str) and value not in FORMATS:
            continue
        if key in _OF_NAMES and isinstance(value, Mapping):
            value = {name: _relaxed(one) for name, one in value.items()}
        elif key in _OF_LIST and isinstance(value, list):
            value = [_relaxed(one) for one in value]
        elif key in _OF_ONE:
            value = _relaxed(value)
        kept[key] = value
    return kept
