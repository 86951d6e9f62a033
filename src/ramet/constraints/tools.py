"""Calls of tools in the formats that models were trained on, as constraints.

    llama3    {"name": "f", "parameters": {...}}            more calls behind "; "
    qwen      <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>   more calls behind a line break
    mistral   [TOOL_CALLS] [{"name": "f", "arguments": {...}}, ...]

Knows these formats; refuses to know who calls. `[TOOL_CALLS]` is written as a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ramet.constraints.tags import literal
from ramet.errors import InvalidRequest

__all__ = ["STYLES", "tool_calls"]

Style = Literal["llama3", "qwen", "mistral"]
STYLES = ("llama3", "qwen", "mistral")
_HEAD, _TAIL = {"qwen": "<tool_call>\n"}, {"qwen": "\n</tool_call>"}
_BETWEEN = {"llama3": "; ", "qwen": "\n", "mistral": ", "}
_MARK = "[TOOL_CALLS] "


def tool_calls(
    tools: Sequence[Mapping[str, Any]], style: Style, choice: str = "auto", *, parallel: bool = True
) -> tuple[str, str]:
    """The constraint for calls of `tools` (each with `name` and `schema`, of an object): the name of a
    field of `SamplingParams` and its value. `choice`: "auto" (free text, calls where the model begins
    one), "required" (calls and nothing else) or the name of the one tool that must be called.

    With "auto" and without `parallel` the text ends with its first call. Raises `InvalidRequest` for what is
    not one of the above.
    """
    if style not in STYLES:
        raise InvalidRequest("style", style, f"is none of {', '.join(STYLES)}")
    by_name = {tool.get("name"): tool.get("schema", {"type": "object"}) for tool in tools}
    if not by_name or len(by_name) < len(tools) or any(not isinstance(n, str) for n in by_name):
        raise InvalidRequest("tools", list(by_name), "are none, or not named each by its own text")
    if choice not in ("auto", "required"):
        if choice not in by_name:
            raise InvalidRequest("tool_choice", choice, "is neither auto, required nor a tool")
        return "ebnf", _calls({choice: by_name[choice]}, style, False)
    if choice == "required":
        return "ebnf", _calls(by_name, style, parallel)
    return "structural_tag", _tag(by_name, style, parallel)


def _around(name: Any, style: str) -> tuple[str, str]:
    """What stands before and behind the arguments."""
    key = "parameters" if style == "llama3" else "arguments"
    head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": '
    return _HEAD.get(style, "") + head, "}" + _TAIL.get(style, "")


def _calls(by_name: Mapping[Any, Any], style: str, parallel: bool) -> str:
    lines = []
    for i, (name, schema) in enumerate(by_name.items()):
        begin, end = _around(name, style)
        text = json.dumps(schema, ensure_ascii=False)
        lines.append(f"call{i}: {literal(begin)} %json {text} {literal(end)}")
    more = f"({literal(_BETWEEN[style])} call)*" if parallel else ""
    whole = f"call {more}"
    if style == "mistral":
        whole = f"{literal(_MARK + '[')} {whole} {literal(']')}"
    options = " | ".join(f"call{i}" for i in range(len(by_name)))
    return "\n".join((f"start: {whole}", f"call: {options}", *lines)) + "\n"


def _tag(by_name: Mapping[Any, Any], style: str, parallel: bool) -> str:
    structures = []
    for name, schema in by_name.items():
        begin, end = _around(name, style)
        structures.append({"begin": begin, "schema": schema, "end": end})
    trigger = _HEAD.get(style, '{"name": ')
    if style == "mistral":
        trigger = _MARK
        structures = [{"begin": _MARK, "schema": _list(by_name, parallel), "end": ""}]
    tag: dict[str, Any] = {
        "type": "structural_tag",
        "structures": structures,
        "triggers": [trigger],
    }
    if not parallel:
        tag["stop_after_first"] = True
    return json.dumps(tag, ensure_ascii=False)


def _list(by_name: Mapping[Any, Any], parallel: bool) -> dict[str, Any]:
    """The schema of a list of calls; definitions of the tools' schemas get places of their own."""
    definitions: dict[str, Any] = {}
    calls = []
    for i, (name, schema) in enumerate(by_name.items()):
        definitions[f"tool{i}"] = _moved(schema, f"#/$defs/tool{i}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": name},
                    "arguments": {"$ref": f"#/$defs/tool{i}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    found: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if not parallel:
        found["maxItems"] = 1
    return {**found, "$defs": definitions}


def _moved(value: Any, root: str) -> Any:
    """A schema whose references point below `root`. Literals stay as they are."""
    if isinstance(value, list):
        return [_moved(one, root) for one in value]
    if not isinstance(value, dict):
        return value
    moved = {}
    for key, one in value.items():
        if key == "$ref" and isinstance(one, str) and one.startswith("#"):
            moved[key] = root + one[1:]
        else:
            moved[key] = one if key in ("const", "enum") else _moved(one, root)
    return moved
