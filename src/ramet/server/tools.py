"""Calling tools through chat endpoints: what a request that offers tools asks of the model.

The way of a request: `read_tools` and `read_tool_choice` read it; `plan_tools` says how the model is told of
the tools and what its text is held to; `template_messages` writes earlier calls; `ToolReader` takes the
model's text apart. Knows models by their chat templates and the formats that these teach. Refuses to know
HTTP and the events of any protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ramet.constraints.limits import DEFAULT
from ramet.constraints.tools import Style, tool_calls
from ramet.errors import InvalidRequest
from ramet.server.served import ServedModel
from ramet.server.tool_history import call_text, calls_text, history_text, template_messages
from ramet.server.tool_reader import CallArguments, CallBegin, Content, ToolEvent, ToolReader
from ramet.server.tool_requests import (
    Tool,
    ToolChoice,
    read_anthropic_tool_choice,
    read_anthropic_tools,
    read_tool_choice,
    read_tools,
)

__all__ = [
    "CallArguments",
    "CallBegin",
    "Content",
    "Style",
    "Tool",
    "ToolChoice",
    "ToolEvent",
    "ToolPlan",
    "ToolReader",
    "call_text",
    "calls_text",
    "history_text",
    "plan_tools",
    "read_anthropic_tool_choice",
    "read_anthropic_tools",
    "read_tool_choice",
    "read_tools",
    "style_of",
    "template_messages",
]


@dataclass(frozen=True)
class ToolPlan:
    """`constraint`: the name of a field of `SamplingParams` and its value. `template_tools`: the value of the
    template's variable `tools`. `instructions`: a system text instead, for templates without that variable.
    All three are None where no tool may be called."""

    style: Style
    choice: ToolChoice
    constraint: tuple[str, str] | None = None
    template_tools: list[dict[str, Any]] | None = None
    instructions: str | None = None


def style_of(model: ServedModel) -> Style:
    """The format in which the model writes calls, by its template and its special tokens; "qwen" (also
    Hermes') where they do not say."""
    return _taught(model) or "qwen"


def plan_tools(
    model: ServedModel,
    tools: Sequence[Tool],
    choice: ToolChoice,
    parallel: bool,
    style: Style | None = None,
) -> ToolPlan:
    """What to do for a request with these tools; `style` None is the model's own. The template is trusted
    with the tools only if it teaches the style in which calls will be read. Raises `InvalidRequest` for
    schemas that are too large together."""
    written = style or style_of(model)
    if choice.mode == "none" or not tools:
        return ToolPlan(written, ToolChoice("none"))
    about = [_about(tool) for tool in tools]
    trusted = style is not None or _taught(model) == written
    knows = trusted and _knows_tools(model, about[0])
    return ToolPlan(
        written,
        choice,
        _constraint(tools, written, choice, parallel),
        about if knows else None,
        None if knows else _instructions(about, written, choice, parallel),
    )


def _constraint(
    tools: Sequence[Tool], style: Style, choice: ToolChoice, parallel: bool
) -> tuple[str, str]:
    is_named = choice.mode == "named"  # by a name that may be "auto"
    schemas = [
        {"name": t.name, "schema": t.parameters if t.enforced is None else t.enforced}
        for t in tools
        if not is_named or t.name == choice.name
    ]
    calls = "required" if is_named else choice.mode
    field, source = tool_calls(schemas, style, calls, parallel=parallel and not is_named)
    most = DEFAULT.schema_bytes if field == "structural_tag" else DEFAULT.source_bytes
    size = len(source.encode())
    if size > most:
        problem = (
            f"are more than {most}, which is what a constraint of {choice.mode} calls may have"
        )
        raise InvalidRequest("tools", f"{size} bytes of schemas", problem, "give fewer tools")
    return field, source


# What a template says of itself


_MARKS: tuple[tuple[Style, tuple[str, ...]], ...] = (
    ("mistral", ("[TOOL_CALLS]",)),
    ("qwen", ("<tool_call>",)),
    ("llama3", ("<|python_tag|>", '"parameters"', "<|start_header_id|>")),
)


def _taught(model: ServedModel) -> Style | None:
    """The style that the template names; else the one whose marks are special tokens."""
    source = model.template_source or model.tokenizer.chat_template or ""
    special = frozenset(model.tokenizer.special_texts_by_id.values())
    places: tuple[str | frozenset[str], ...] = (source, special)
    for place in places:
        for style, marks in _MARKS:
            if any(mark in place for mark in marks):
                return style
    return None


def _knows_tools(model: ServedModel, about: dict[str, Any]) -> bool:
    """Whether the template writes its variable `tools` into a prompt."""
    if model.template is None or not re.search(r"\btools\b", model.template.source):
        return False
    messages = [{"role": "user", "content": "?"}]
    name = "probe-name"
    probe = {**about, "function": {**about["function"], "name": name}}
    try:
        return name in model.template.render(messages, True, tools=[probe])
    except InvalidRequest:
        return False


# What a model is told whose template says nothing


def _about(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _instructions(
    about: Sequence[dict[str, Any]], style: Style, choice: ToolChoice, parallel: bool
) -> str:
    key = "parameters" if style == "llama3" else "arguments"
    call = f'{{"name": "...", "{key}": {{...}}}}'
    form = {
        "qwen": f"<tool_call>\n{call}\n</tool_call>",
        "mistral": f"[TOOL_CALLS] [{call}]",
        "llama3": call,
    }
    lines = [
        "You can call these functions; parameters are JSON Schemas of their arguments:",
        *(json.dumps(one["function"], ensure_ascii=False) for one in about),
        "To call one, write exactly this, with its name and its arguments as JSON:",
        form[style],
    ]
    if parallel and choice.mode != "named":
        several = {
            "qwen": "one after another",
            "mistral": "in one list",
            "llama3": 'with "; " between',
        }
        lines.append(f"You may make several calls, {several[style]}.")
    else:
        lines.append("Make at most one call.")
    if choice.mode == "required":
        lines.append("Answer with a call and nothing else.")
    elif choice.mode == "named":
        lines.append(f"Answer with a call of {choice.name} and nothing else.")
    return "\n".join(lines)
