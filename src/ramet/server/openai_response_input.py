"""The input of an OpenAI-style response: instructions and items become messages for the chat template.

Knows the items that are text; all others are refused by name. Refuses to know sampling and answers.
"""

from __future__ import annotations

from ramet.server.json_fields import Fields

__all__ = ["MAX_ITEMS", "MAX_PARTS", "read_input"]

MAX_ITEMS = 4096
MAX_PARTS = 1024  # of one item
MAX_TEXT = 1 << 24  # characters of one text: as much as a template may write
_MAX_ID = 256  # characters
_ROLES = ("user", "assistant", "system", "developer")
_STATES = ("in_progress", "completed", "incomplete")


def read_input(fields: Fields) -> list[dict[str, str]]:
    """The instructions and the input, as messages for the template."""
    messages: list[dict[str, str]] = []
    if instructions := fields.text("instructions", MAX_TEXT):
        messages.append({"role": "system", "content": instructions})
    value = fields.take("input")
    if isinstance(value, str):
        text = fields.text("input", MAX_TEXT) or ""
        return [*messages, {"role": "user", "content": text}]
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ITEMS:
        raise fields.wrong("input", f"is neither a text nor a list of 1 to {MAX_ITEMS} items")
    return messages + [_item(Fields(item, f"input[{i}]")) for i, item in enumerate(value)]


def _item(item: Fields) -> dict[str, str]:
    if item.take("type") not in (None, "message"):
        raise item.wrong("type", "is not supported by this server", 'send items of type "message"')
    role = item.one_of("role", _ROLES)
    if role is None:
        raise item.wrong("role", "is missing")
    item.text("id", _MAX_ID)  # items of earlier responses have these two
    item.one_of("status", _STATES)
    content = _content(item)
    item.refuse_rest()
    return {"role": "system" if role == "developer" else role, "content": content}


def _content(item: Fields) -> str:
    """A text, or the texts of all parts put together."""
    value = item.take("content")
    if isinstance(value, str):
        return item.text("content", MAX_TEXT) or ""
    if not isinstance(value, list) or len(value) > MAX_PARTS:
        raise item.wrong("content", f"is neither a text nor a list of at most {MAX_PARTS} parts")
    path = item.path("content")
    return "".join(_part(Fields(part, f"{path}[{i}]")) for i, part in enumerate(value))


def _part(part: Fields) -> str:
    kind = part.take("type")
    if kind not in ("input_text", "output_text"):
        raise part.wrong("type", "is neither input_text nor output_text, and text is all there is")
    text = part.text("text", MAX_TEXT)
    if text is None:
        raise part.wrong("text", "is missing")
    if kind == "output_text":  # as an earlier response had it
        part.idle("annotations", [])
        part.idle("logprobs", [])
    part.refuse_rest()
    return text
