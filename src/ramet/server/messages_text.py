"""Messages of OpenAI's chat form as a chat template takes them: roles, texts, and calls of tools.

Knows the form of messages; refuses to know templates and prompts. Everything that is not text is refused by
name: the models here read text only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ramet.errors import InvalidRequest
from ramet.server.json_fields import Fields, shown

__all__ = ["MAX_MESSAGES", "read_messages", "with_instructions"]

MAX_MESSAGES = 4096
_MAX_PARTS = 1024  # of one message
_MAX_CALLS = 128  # of one message
_MAX_NAME = 128  # characters of names and of a call's id
_MAX_TEXT = 1 << 24  # characters of one text: as much as a template may write
_ROLES = ("system", "developer", "user", "assistant", "tool")
# What can stand in a message and is no text.
_MEDIA = ("image_url", "image", "input_audio", "audio_url", "video_url", "file")


def read_messages(value: Any, field: str = "messages") -> list[dict[str, Any]]:
    """Messages with `role`, `content` (a text, never null), and where they were given `name`,
    `tool_calls` (with arguments as the text that some model wrote), `tool_call_id` and
    `reasoning_content`. Raises `InvalidRequest` with the place, such as `messages[1].content`."""
    if not isinstance(value, list) or not value:
        raise InvalidRequest(field, shown(value), "is not a list of at least one message")
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(field, shown(value), f"has more than {MAX_MESSAGES} messages")
    return [_message(one, f"{field}[{i}]") for i, one in enumerate(value)]


def _message(value: Any, path: str) -> dict[str, Any]:
    fields = Fields(value, path)
    role = fields.one_of("role", _ROLES)
    if role is None:
        raise fields.wrong("role", "is missing")
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    content = _content(fields)
    if (name := fields.text("name", _MAX_NAME)) is not None:
        message["name"] = name
    if role == "assistant":
        content = _assistant(fields, message, content)
    elif role == "tool":
        call = fields.text("tool_call_id", _MAX_NAME)
        if call is None:
            raise fields.wrong("tool_call_id", "is missing")
        message["tool_call_id"] = call
    if content is None:
        raise fields.wrong("content", "is missing")
    fields.refuse_rest()
    return {**message, "content": content}


def _assistant(fields: Fields, message: dict[str, Any], content: str | None) -> str | None:
    """What only an assistant's message has; returns its content."""
    calls = _calls(fields)
    if calls:
        message["tool_calls"] = calls
    thoughts = fields.text("reasoning_content", _MAX_TEXT)
    if thoughts is not None:
        message["reasoning_content"] = thoughts
    refusal = fields.text("refusal", _MAX_TEXT)
    fields.idle("annotations", [])
    fields.idle("audio")
    fields.idle("function_call")
    if content is None:
        # Templates put texts together, and fail on null.
        content = refusal or ("" if calls or thoughts else None)
    return content


def _content(fields: Fields) -> str | None:
    """A text, or the texts of all parts put together."""
    value = fields.take("content")
    if not isinstance(value, list):
        return fields.text("content", _MAX_TEXT)
    path = fields.path("content")
    if len(value) > _MAX_PARTS:
        raise InvalidRequest(path, shown(value), f"has more than {_MAX_PARTS} parts")
    return "".join(_part(part, f"{path}[{i}]") for i, part in enumerate(value))


def _part(value: Any, path: str) -> str:
    part = Fields(value, path)
    kind = part.take("type")
    if isinstance(kind, str) and kind in _MEDIA:
        raise InvalidRequest(path, kind, "is not text, and this model reads text only")
    if kind not in ("text", "refusal"):
        raise part.wrong("type", 'is not "text"')
    text = part.text(kind, _MAX_TEXT)
    if text is None:
        raise part.wrong(kind, "is missing")
    part.refuse_rest()
    return text


# -- calls of tools ---------------------------------------------------------------------------------


def _calls(fields: Fields) -> list[dict[str, Any]]:
    value = fields.take("tool_calls")
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MAX_CALLS:
        raise fields.wrong("tool_calls", f"is not a list of at most {_MAX_CALLS} calls")
    path = fields.path("tool_calls")
    return [_call(one, f"{path}[{i}]") for i, one in enumerate(value)]


def _call(value: Any, path: str) -> dict[str, Any]:
    call = Fields(value, path)
    call.one_of("type", ("function",))
    call.integer("index", 0)  # pieces of a stream have it
    name_of_call = call.text("id", _MAX_NAME)
    inner = Fields(call.take("function"), call.path("function"))
    name = inner.text("name", _MAX_NAME, least=1)
    if name is None:
        raise inner.wrong("name", "is missing")
    arguments = inner.text("arguments", _MAX_TEXT)
    inner.refuse_rest()
    call.refuse_rest()
    function = {"name": name, "arguments": arguments or ""}
    return {"id": name_of_call or "", "type": "function", "function": function}


def with_instructions(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """`text` behind the conversation's first system text, or as a system message of its own."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    joined = "\n\n".join(part for part in (messages[0]["content"], text) if part)
    return [{**messages[0], "content": joined}, *messages[1:]]
