"""Earlier calls of tools in a conversation, for the model's chat template.

Knows messages in OpenAI's form: assistant messages with `tool_calls`, and messages of the role "tool". A
template that knows them gets them in the form that templates expect; for others they become text, calls in
the format that the model writes them in. Contents are texts here. Refuses to know which tools may be called
next, and relies on its callers for ids that belong together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ramet.constraints.tools import Style
from ramet.errors import InvalidRequest
from ramet.server.served import ServedModel

__all__ = ["call_text", "calls_text", "history_text", "template_messages"]

Message = Mapping[str, Any]

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}\Z")  # the only ones that Mistral's templates take
_PROBE = ("probe-name", "probe-argument", "probe-result")


def template_messages(
    model: ServedModel, messages: Sequence[Message], style: Style
) -> list[dict[str, Any]]:
    """The conversation as the model's template takes it. Messages without calls stay as they are."""
    if not any(message.get("tool_calls") or message.get("role") == "tool" for message in messages):
        return [dict(message) for message in messages]
    if _knows_calls(model, 2):
        return [_structured(message, style) for message in messages]
    if _knows_calls(model, 1):
        return [_structured(message, style) for message in _one_by_one(messages)]
    return history_text(messages, style)


def history_text(messages: Sequence[Message], style: Style) -> list[dict[str, Any]]:
    """The conversation without calls and results: they are texts of the assistant and of the user. Results
    that follow each other, and what the user says next, are one message: many templates want the two to
    take turns."""
    names = {
        call.get("id"): call["function"]["name"]
        for message in messages
        for call in message.get("tool_calls") or ()
    }
    found: list[dict[str, Any]] = []
    is_result = False  # whether the last of them is one
    for message in messages:
        role, content = message["role"], message.get("content")
        if role == "tool":
            name = names.get(message.get("tool_call_id"), message.get("name"))
            role, content = "user", _result_text(name, content, style)
        elif message.get("tool_calls"):
            written = calls_text(message["tool_calls"], style)
            content = f"{content}\n{written}" if content else written
        if is_result and role == "user" and isinstance(content, str):
            found[-1]["content"] += f"\n{content}"
        else:
            others = {k: v for k, v in message.items() if k not in _ABOUT_CALLS}
            found.append({**others, "role": role, "content": "" if content is None else content})
        is_result = message["role"] == "tool"
    return found


_ABOUT_CALLS = ("role", "content", "name", "tool_calls", "tool_call_id")


def calls_text(calls: Sequence[Mapping[str, Any]], style: Style) -> str:
    """Calls in OpenAI's form as the model would have written them."""
    texts = [call_text(c["function"]["name"], c["function"]["arguments"], style) for c in calls]
    if style == "mistral":
        return f"[TOOL_CALLS] [{', '.join(texts)}]"
    return ("; " if style == "llama3" else "\n").join(texts)


def call_text(name: str, arguments: str, style: Style) -> str:
    """One call, `arguments` being JSON text; what is none is written as a string. With Mistral's style, the
    entry of a list."""
    parsed = _parsed(arguments)
    is_written = isinstance(parsed, dict) and arguments.strip()
    written = arguments if is_written else json.dumps(parsed, ensure_ascii=False)
    key = "parameters" if style == "llama3" else "arguments"
    call = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": {written}}}'
    return f"<tool_call>\n{call}\n</tool_call>" if style == "qwen" else call


def _result_text(name: str | None, content: Any, style: Style) -> str:
    text = "" if content is None else content
    if style == "qwen":
        return f"<tool_response>\n{text}\n</tool_response>"
    about = {} if name is None else {"name": name}
    if style == "llama3":
        return json.dumps({**about, "output": text}, ensure_ascii=False)
    result = json.dumps({**about, "content": text}, ensure_ascii=False)
    return f"[TOOL_RESULTS] {result}[/TOOL_RESULTS]"


def _parsed(arguments: Any) -> Any:
    """The value of a JSON text, an object where nothing is written; what is no JSON stays text."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments


# For templates that know calls


def _structured(message: Message, style: Style) -> dict[str, Any]:
    """Arguments as values, which templates write as JSON themselves, and ids that they take."""
    made = dict(message)
    if made.get("content") is None:
        made["content"] = ""
    if "tool_call_id" in made:
        made["tool_call_id"] = _id(made["tool_call_id"], style)
    if made.get("tool_calls"):
        made["tool_calls"] = [
            {
                **call,
                "id": _id(call.get("id"), style),
                "type": "function",
                "function": {
                    **call["function"],
                    "arguments": _parsed(call["function"]["arguments"]),
                },
            }
            for call in made["tool_calls"]
        ]
    return made


def _id(given: Any, style: Style) -> Any:
    if style != "mistral" or not isinstance(given, str) or _SHORT_ID.match(given):
        return given
    return hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _one_by_one(messages: Sequence[Message]) -> list[Message]:
    """Each call in a message of its own, its result behind it."""
    results = {m.get("tool_call_id"): m for m in messages if m.get("role") == "tool"}
    found: list[Message] = []
    placed = set()
    for message in messages:
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            if message.get("role") != "tool" or message.get("tool_call_id") not in placed:
                found.append(message)
            continue
        for i, call in enumerate(calls):
            said = message.get("content") if i == 0 else ""
            found.append({**message, "content": said, "tool_calls": [call]})
            result = results.get(call.get("id"))
            if result is not None:
                found.append(result)
                placed.add(call.get("id"))
    return found


def _knows_calls(model: ServedModel, count: int) -> bool:
    """Whether the template writes messages with so many calls, and their results."""
    name, argument, result = _PROBE
    calls = [
        {
            "id": f"probeid{i:02}",
            "type": "function",
            "function": {"name": f"{name}{i}", "arguments": {argument: i}},
        }
        for i in range(count)
    ]
    messages: list[Message] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    for i in range(count):
        about = {"tool_call_id": f"probeid{i:02}", "name": f"{name}{i}"}
        messages.append({"role": "tool", "content": f"{result}{i}", **about})
    try:
        text = model.render_text(messages)
    except InvalidRequest:
        return False
    marks = [f"{name}{i}" for i in range(count)] + [f"{result}{i}" for i in range(count)]
    return all(mark in text for mark in (*marks, argument))
