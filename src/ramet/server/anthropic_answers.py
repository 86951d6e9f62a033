"""Answers of the Messages protocol: a whole message, or the events of a stream, from what was generated.

Knows content blocks, stop reasons, usage and errors. Refuses to know requests' bodies and HTTP. A whole
message is put together from the same pieces as a stream, so the two cannot differ.

`input_tokens` counts the prompt without the tokens that were in the cache; these are
`cache_read_input_tokens`. `cache_creation_input_tokens` is always 0: keeping a prefix costs nothing here.
A stream begins with the first token, since the counts of its first event are known only then.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.server.aborted import abort_failure
from ramet.server.exchange import Call, EventWriter, Failure, Sample, Status
from ramet.server.generation import Refused
from ramet.server.native import event
from ramet.server.tools import CallBegin, Content, Tool, ToolEvent, ToolPlan, ToolReader

__all__ = ["MessagesExchange", "anthropic_error"]

_ERROR_TYPES = {
    Status.UNAUTHORIZED: "authentication_error",
    403: "permission_error",
    Status.NOT_FOUND: "not_found_error",
    Status.TOO_LARGE: "request_too_large",
    Status.TOO_MANY: "rate_limit_error",
    Status.UNAVAILABLE: "overloaded_error",
    Status.TIMEOUT: "timeout_error",
}


def anthropic_error(failure: Failure) -> dict[str, Any]:
    """The body of a response that is no answer, and the data of a stream's `error` event."""
    default = "invalid_request_error" if failure.status < 499 else "api_error"
    kind = _ERROR_TYPES.get(failure.status, default)
    return {"type": "error", "error": {"type": kind, "message": failure.message}}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesExchange:
    """One message to be generated. `cut_by_context`: fewer tokens may be generated than were asked for,
    since the context has no room for more. `parallel`: several tools may be called."""

    id: str
    model: str
    calls: tuple[Call, ...]
    stream: bool
    cache_salt: str
    cut_by_context: bool
    tools: tuple[Tool, ...] = ()
    plan: ToolPlan
    parallel: bool = True

    def answer(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Raises `Refused` for an aborted sample: the protocol has no such stop reason."""
        sample = samples[0]
        if (failure := abort_failure(sample)) is not None:
            raise Refused(failure)
        blocks = _Blocks(self)
        for _ in (*blocks.text(sample.text), *blocks.finish()):
            pass
        return {
            **self.opened(sample),
            "content": blocks.content,
            **self.stopped(sample, blocks.called),
            "usage": usage(sample),
        }

    def events(self) -> EventWriter:
        return _Events(self)

    def opened(self, sample: Sample) -> dict[str, Any]:
        """The message before it has content."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": {**usage(sample), "output_tokens": 0},
        }

    def stopped(self, sample: Sample, called: bool) -> dict[str, Any]:
        """`called`: there is a call of a tool."""
        reason = sample.finish_reason or {}
        why, sequence = "tool_use" if called else "end_turn", None
        if reason.get("type") == "length":
            why = "model_context_window_exceeded" if self.cut_by_context else "max_tokens"
        elif reason.get("matched") in self.calls[0].params.stop:
            why, sequence = "stop_sequence", reason["matched"]
        return {"stop_reason": why, "stop_sequence": sequence, "stop_details": None}


def usage(sample: Sample) -> dict[str, int]:
    cached = sample.meta.get("cached_tokens") or 0
    return {
        "input_tokens": max(0, (sample.meta.get("prompt_tokens") or 0) - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": sample.meta.get("completion_tokens") or 0,
    }


class _Blocks:
    """Content blocks as they come to be: methods yield the events that tell of it; `content` is what they
    come to. At most one block, the last, is open. A block of text is begun by its first character."""

    def __init__(self, exchange: MessagesExchange) -> None:
        self.content: list[dict[str, Any]] = []
        self._reader = ToolReader(exchange.plan, exchange.tools, _new_call_id)
        self._max_calls = None if exchange.parallel else 1
        self._arguments: list[str] | None = None  # of the open block, if that is a call
        self._open = False

    @property
    def called(self) -> bool:
        return any(block["type"] == "tool_use" for block in self.content)

    def text(self, new_text: str) -> Iterator[dict[str, Any]]:
        """More of the model's text."""
        for part in self._reader.push(new_text):
            yield from self._part(part)

    def finish(self) -> Iterator[dict[str, Any]]:
        """There is no more."""
        for part in self._reader.finish():
            yield from self._part(part)
        yield from self._close()

    def _part(self, part: ToolEvent) -> Iterator[dict[str, Any]]:
        if isinstance(part, Content):
            if not self._open or self._arguments is not None:
                yield from self._begin({"type": "text", "text": ""})
            self.content[-1]["text"] += part.text
            yield self._delta({"type": "text_delta", "text": part.text})
        elif self._max_calls is not None and part.index >= self._max_calls:
            yield from self._close()  # the client can take one call, and the model made more
        elif isinstance(part, CallBegin):
            yield from self._begin(
                {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
            )
            self._arguments = []
        elif self._arguments is not None:
            self._arguments.append(part.text)
            yield self._delta({"type": "input_json_delta", "partial_json": part.text})

    def _begin(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._close()
        self.content.append(block)
        self._open = True
        place = len(self.content) - 1
        yield {"type": "content_block_start", "index": place, "content_block": dict(block)}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self.content) - 1, "delta": delta}

    def _close(self) -> Iterator[dict[str, Any]]:
        if not self._open:
            return
        if self._arguments is not None:
            self.content[-1]["input"] = _input("".join(self._arguments))
        self._open, self._arguments = False, None
        yield {"type": "content_block_stop", "index": len(self.content) - 1}


def _new_call_id() -> str:
    return f"toolu_{uuid.uuid4().hex[:24]}"


def _input(text: str) -> dict[str, Any]:
    """The arguments of a call as an object: an empty one where the text broke off."""
    try:
        value = json.loads(text, parse_float=_finite)
    except (ValueError, RecursionError):
        return {}
    if "\\u" in text:  # half of a pair of surrogates is no Unicode
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value if isinstance(value, dict) else {}


def _finite(text: str) -> float:
    """JSON has no infinity, but numbers beyond all floats."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(text)))


class _Events:
    """The stream of one message."""

    def __init__(self, exchange: MessagesExchange) -> None:
        self._exchange = exchange
        self._blocks = _Blocks(exchange)
        self._begun = False
        self._num_written = 0  # characters of the sample's text

    def begin(self) -> Iterable[bytes]:
        return ()

    def changed(self, sample: Sample) -> Iterable[bytes]:
        if not self._begun:
            self._begun = True
            yield _frame({"type": "message_start", "message": self._exchange.opened(sample)})
        new, self._num_written = sample.text[self._num_written :], len(sample.text)
        yield from map(_frame, self._blocks.text(new))

    def end(self, samples: Sequence[Sample]) -> Iterable[bytes]:
        sample = samples[0]
        yield from self.changed(sample)
        if (failure := abort_failure(sample)) is not None:
            yield from self.failed(failure)
            return
        yield from map(_frame, self._blocks.finish())
        delta = self._exchange.stopped(sample, self._blocks.called)
        yield _frame({"type": "message_delta", "delta": delta, "usage": usage(sample)})
        yield _frame({"type": "message_stop"})

    def failed(self, failure: Failure) -> Iterable[bytes]:
        yield _frame(anthropic_error(failure))


def _frame(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\n".encode() + event(value)
