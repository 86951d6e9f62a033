"""Anthropic's Messages protocol as pure functions: a question becomes a request, an answer or a stream of
events becomes a reply.

Knows JSON only: no SDK and no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ramet.backends.api_messages import merged, split_system
from ramet.backends.api_records import Failure, Image, Part, Question, Reply, Sample, Turn, Usage
from ramet.errors import InvalidRequest, Unsupported

__all__ = ["MAX_MARKS", "TOOL", "MessageReader", "message_request", "read_usage"]

TOOL = "answer"  # the tool that a model is made to call where it has no output format
MAX_MARKS = 4  # of the prompt cache, in one request
_CACHED = {"type": "ephemeral"}


def message_request(question: Question, *, name: str, tool: bool, cache: bool) -> dict[str, Any]:
    """The keyword arguments of `messages.create`. `tool`: a schema goes by a forced call of a tool.
    `cache`: mark the system text and what other calls share. Raises `Unsupported` for conversations that
    the protocol cannot carry; `name` is the backend's."""
    system, turns = split_system(question.turns, name)
    turns = _alternating(turns, name)
    params = question.params
    request: dict[str, Any] = {
        "model": question.model,
        "max_tokens": question.max_tokens,
        "messages": [{"role": turn.role, "content": _blocks(turn.parts)} for turn in turns],
    }
    if system:
        request["system"] = _blocks(system)
    _mark(request, system, turns, cache)
    if question.stops:
        request["stop_sequences"] = list(question.stops)
    if question.stream:
        request["stream"] = True
    if question.schema is not None:
        request |= _structured(question.schema, tool or not question.strict)
    # The SDK has no names for these, since its newest models take none of them.
    sampling = {
        "temperature": params.temperature if params.temperature != 1.0 else None,
        "top_p": params.top_p if params.top_p != 1.0 else None,
        "top_k": params.top_k if params.top_k != -1 else None,
    }
    given = {key: value for key, value in sampling.items() if value is not None}
    if given:
        request["extra_body"] = given
    return request


def _structured(schema: dict[str, Any], tool: bool) -> dict[str, Any]:
    if not tool:
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    described = {
        "name": TOOL,
        "description": "Gives the answer to the user.",
        "input_schema": schema,
    }
    choice = {"type": "tool", "name": TOOL, "disable_parallel_tool_use": True}
    return {"tools": [described], "tool_choice": choice}


def _alternating(turns: Sequence[Turn], name: str) -> tuple[Turn, ...]:
    for turn in turns:
        if turn.role not in ("user", "assistant"):
            raise InvalidRequest("role", turn.role, "is not known", "use system, user, assistant")
    found = merged(turns)
    if found and found[-1].role == "assistant":
        found = (*found[:-1], *_prefill(found[-1]))
    if not found or found[0].role != "user":
        what = "begins with an assistant's" if found else "has no user's"
        raise Unsupported(
            f"a conversation that {what} block is not possible on {name}; begin with user(...)"
        )
    return found


def _prefill(turn: Turn) -> list[Turn]:
    """An answer that has begun, without the white space at its end, which is refused there."""
    parts = list(turn.parts)
    while parts and isinstance(parts[-1].content, str):
        kept = parts[-1].content.rstrip()
        if kept:
            parts[-1] = Part(kept, parts[-1].mark)
            break
        parts.pop()
    return [Turn(turn.role, tuple(parts))] if parts else []


def _blocks(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Content blocks, each with a note whether a shared prefix ends there. Blocks of white space are
    refused by the API, and hold nothing."""
    found: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part.content, Image):
            found.append({"type": "image", "source": _source(part.content)})
        elif part.content.strip():
            found.append({"type": "text", "text": part.content})
    return found


def _source(image: Image) -> dict[str, Any]:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


def _mark(
    request: dict[str, Any], system: Sequence[Part], turns: Sequence[Turn], cache: bool
) -> None:
    """Marks of the prompt cache: the end of the system text, and the last of the shared prefixes."""
    if not cache:
        return
    places = []
    for turn, message in zip(turns, request["messages"]):
        shown = [p for p in turn.parts if isinstance(p.content, Image) or p.content.strip()]
        places += [b for p, b in zip(shown, message["content"]) if p.mark]
    room = MAX_MARKS
    if system and request["system"]:
        request["system"][-1]["cache_control"] = _CACHED
        room -= 1
    for block in places[-room:]:
        block["cache_control"] = _CACHED


# ---- answers ------------------------------------------------------------------------------------


def read_usage(found: Any) -> Usage | None:
    """Anthropic counts what is read from and written to its cache apart from the other input."""
    if not isinstance(found, Mapping) or not isinstance(found.get("input_tokens"), int):
        return None
    cached = found.get("cache_read_input_tokens") or 0
    written = found.get("cache_creation_input_tokens") or 0
    return Usage(
        prompt=found["input_tokens"] + cached + written,
        cached=cached,
        cache_write=written,
        completion=found.get("output_tokens") or 0,
    )


class MessageReader:
    """Answers and events of messages. `tool`: the text is the input of the forced tool. `trim`: the
    white space at the end of what the assistant had begun was not sent, so it is not wanted again."""

    def __init__(self, *, tool: bool, trim: bool) -> None:
        self.tool, self.trim = tool, trim
        self.sample = Sample()
        self.id = self.model = ""
        self.ended = False
        self._counts: dict[str, Any] = {}

    def usage(self) -> Usage | None:
        return read_usage(self._counts)

    def reply(self) -> Reply:
        if self.sample.finish is None or not self.ended:
            raise Failure("the answer broke off before its end", retry=True, text=self.sample.text)
        if self.sample.finish["type"] == "length" and "output_tokens" in self._counts:
            self.sample.finish["length"] = self._counts["output_tokens"]
        return Reply([self.sample], self.usage(), self.id, self.model)

    def whole(self, data: Mapping[str, Any]) -> None:
        self._error(data)
        self._start(data)
        for block in data["content"]:
            if block["type"] == "text" and not self.tool:
                self._add(block["text"])
            elif block["type"] == "tool_use" and self.tool:
                self._add(json.dumps(block["input"], ensure_ascii=False))
        self._stop(data)
        self.ended = True

    def event(self, data: Mapping[str, Any]) -> str:
        self._error(data)
        kind = data.get("type")
        if kind == "message_start":
            self._start(data["message"])
        elif kind == "content_block_start":
            block = data["content_block"]
            return self._add(block.get("text") or "") if block["type"] == "text" else ""
        elif kind == "content_block_delta":
            delta = data["delta"]
            if delta["type"] == "text_delta" and not self.tool:
                return self._add(delta["text"])
            if delta["type"] == "input_json_delta" and self.tool:
                return self._add(delta["partial_json"])
        elif kind == "message_delta":
            self._counts |= {k: v for k, v in (data.get("usage") or {}).items() if v is not None}
            self._stop(data["delta"])
        elif kind == "message_stop":
            self.ended = True
        return ""

    def _error(self, data: Mapping[str, Any]) -> None:
        if data.get("type") == "error":
            said = (data.get("error") or {}).get("message", "no explanation")
            raise Failure(f"the server said: {str(said)[:200]}", retry=True)

    def _start(self, message: Mapping[str, Any]) -> None:
        self.id, self.model = message.get("id") or "", message.get("model") or ""
        self._counts |= {k: v for k, v in (message.get("usage") or {}).items() if v is not None}

    def _add(self, text: str) -> str:
        if self.trim and not self.sample.text:
            text = text.lstrip()
        self.sample.text += text
        return text

    def _stop(self, data: Mapping[str, Any]) -> None:
        reason = data.get("stop_reason")
        if reason in ("end_turn", "tool_use"):
            self.sample.finish = {"type": "stop"}
        elif reason == "stop_sequence":
            self.sample.finish = {"type": "stop", "matched": data.get("stop_sequence")}
        elif reason in ("max_tokens", "model_context_window_exceeded"):
            self.sample.finish = {"type": "length"}
        elif reason:
            details = data.get("stop_details") or {}
            more = details.get("explanation") or details.get("category")
            said = f"{reason}: {more}" if more else str(reason)
            self.sample.finish = {"type": "abort", "message": said}
