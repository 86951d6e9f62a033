"""The conversation of an Anthropic-style request, as the messages that a chat template knows.

Knows `system`, `messages` and their content blocks: text, and calls of tools with their results. Refuses to
know sampling, answers and templates. Every field is read, or refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ramet.errors import InvalidRequest
from ramet.server.json_fields import Fields, json_source

__all__ = ["MAX_BLOCKS", "MAX_MESSAGES", "Conversation", "read_cache_control", "read_conversation"]

MAX_MESSAGES = 4096
MAX_BLOCKS = 1024  # of one message
MAX_TEXT = 1 << 24  # characters of one text: as much as a template may write
MAX_NAME = 256  # characters of a tool's name, or of a call's id
_BLOCKS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use"),
    "system": ("text",),
}
_BETWEEN_TURNS = "\n\n"  # of the same role, which become one


@dataclass(frozen=True, slots=True)
class Conversation:
    """`messages` in OpenAI's form, the system text first, at least one. `begun` is the text of a last
    assistant message, which the answer continues; it is none of `messages`."""

    messages: tuple[Mapping[str, Any], ...]
    begun: str | None


def read_conversation(fields: Fields) -> Conversation:
    """Take `system` and `messages` of a body. Raises `InvalidRequest`.

    Text blocks of one message are written one behind the other. Messages of the same role that follow each
    other are one turn, with an empty line between them.
    """
    given = fields.take("messages")
    if not isinstance(given, list) or not 0 < len(given) <= MAX_MESSAGES:
        raise fields.wrong("messages", f"is not a list of 1 to {MAX_MESSAGES} messages")
    turns = _Turns()
    if system := _texts(fields, "system"):
        turns.add({"role": "system", "content": system})
    for i, value in enumerate(given):
        message = Fields(value, f"messages[{i}]")
        role = message.one_of("role", tuple(_BLOCKS))
        if role is None:
            raise message.wrong("role", "is missing")
        _read_message(message, role, turns)
        message.refuse_rest()
    return turns.conversation()


@dataclass(slots=True)
class _Turns:
    """Turns as they come; `names` of the tools that were called, by the calls' ids."""

    found: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, turn: dict[str, Any]) -> None:
        last = self.found[-1] if self.found else {}
        if turn["role"] == "tool" or last.get("role") != turn["role"]:
            self.found.append(turn)
            return
        texts = (last["content"], turn["content"])
        last["content"] = _BETWEEN_TURNS.join(text for text in texts if text)
        if "tool_calls" in turn:
            last["tool_calls"] = [*last.get("tool_calls", ()), *turn["tool_calls"]]

    def conversation(self) -> Conversation:
        begun = None
        if self.found[-1]["role"] == "assistant":
            last = self.found.pop()
            if "tool_calls" in last:
                raise InvalidRequest(
                    "messages", "a call of a tool", "is the last", "send its tool_result"
                )
            begun = last["content"]
        if not self.found:
            raise InvalidRequest(
                "messages", "an assistant's", "is all there is", "begin with a user's"
            )
        return Conversation(tuple(self.found), begun)


def _read_message(message: Fields, role: str, turns: _Turns) -> None:
    value = message.take("content")
    if isinstance(value, str):
        turns.add({"role": role, "content": message.text("content", MAX_TEXT)})
        return
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in _blocks(message, "content"):
        kind = _kind(block, _BLOCKS[role])
        if kind == "text":
            texts.append(_text_block(block))
        elif kind == "tool_use":
            calls.append(_call(block, turns.names))
        else:
            if texts:
                turns.add({"role": role, "content": "".join(texts)})
                texts = []
            turns.add(_result(block, turns.names))
    if calls:
        turns.add({"role": role, "content": "".join(texts), "tool_calls": calls})
    elif texts or not value:
        turns.add({"role": role, "content": "".join(texts)})


def _blocks(fields: Fields, name: str) -> list[Fields]:
    value = fields.take(name)
    if not isinstance(value, list) or len(value) > MAX_BLOCKS:
        raise fields.wrong(name, f"is neither a text nor a list of at most {MAX_BLOCKS} blocks")
    return [Fields(block, f"{fields.path(name)}[{i}]") for i, block in enumerate(value)]


def _kind(block: Fields, allowed: tuple[str, ...]) -> str:
    kind = block.take("type")
    if not isinstance(kind, str) or kind not in allowed:
        raise block.wrong(
            "type", "is not supported here by this server", f"send {' or '.join(allowed)}"
        )
    return kind


def _texts(fields: Fields, name: str) -> str:
    """Nothing, a text, or the texts of text blocks."""
    value = fields.take(name)
    if value is None or isinstance(value, str):
        return fields.text(name, MAX_TEXT) or ""
    found = []
    for block in _blocks(fields, name):
        _kind(block, ("text",))
        found.append(_text_block(block))
    return "".join(found)


def _text_block(block: Fields) -> str:
    text = block.text("text", MAX_TEXT)
    if text is None:
        raise block.wrong("text", "is missing")
    block.idle("citations", [])
    read_cache_control(block)
    block.refuse_rest()
    return text


def _call(block: Fields, names: dict[str, str]) -> dict[str, Any]:
    call, name = _name(block, "id"), _name(block, "name")
    if call in names:
        raise block.wrong("id", "is the id of an earlier call")
    names[call] = name
    arguments = block.take("input")
    if not isinstance(arguments, Mapping):
        raise block.wrong("input", "is not an object")
    read_cache_control(block)
    block.refuse_rest()
    function = {"name": name, "arguments": json_source(arguments, block.path("input"))}
    return {"id": call, "type": "function", "function": function}


def _result(block: Fields, names: Mapping[str, str]) -> dict[str, Any]:
    call = _name(block, "tool_use_id")
    if call not in names:
        raise block.wrong("tool_use_id", "is the id of no earlier tool_use block")
    text = _texts(block, "content")
    if block.flag("is_error"):  # templates have no other place for it
        text = f"Error: {text}"
    read_cache_control(block)
    block.refuse_rest()
    return {"role": "tool", "content": text, "tool_call_id": call, "name": names[call]}


def _name(block: Fields, name: str) -> str:
    text = block.text(name, MAX_NAME, least=1)
    if text is None:
        raise block.wrong(name, "is missing")
    return text


def read_cache_control(fields: Fields) -> None:
    """Every prefix is cached here, marked or not, for as long as there is room: a mark asks for what
    happens anyway."""
    value = fields.take("cache_control")
    if value is None:
        return
    mark = Fields(value, fields.path("cache_control"))
    if mark.one_of("type", ("ephemeral",)) is None:
        raise mark.wrong("type", "is missing")
    mark.one_of("ttl", ("5m", "1h"))
    mark.refuse_rest()
