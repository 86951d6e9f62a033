"""Answers and chunks of chat completions: what a sample's text is to a client.

A text is read into parts: thoughts, content and calls of tools. A whole answer puts the parts together
that a stream sends one by one, so both say the same. Knows OpenAI's form; refuses to know requests.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ramet.engine.tokenizer import Tokenizer
from ramet.server.exchange import Call, Sample
from ramet.server.openai_answers import (
    ChunkStream,
    finish_reason,
    head,
    matched_stop,
    usage,
)
from ramet.server.openai_fields import Asked
from ramet.server.openai_logprobs import ChatLogprobs
from ramet.server.reasoning_text import ReasoningSplit
from ramet.server.tools import CallArguments, CallBegin, Content, Tool, ToolPlan, ToolReader

__all__ = ["ChatExchange", "Reasoning"]

_ANSWER, _CHUNK = "chat.completion", "chat.completion.chunk"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How thoughts are told from the answer: see `ReasoningSplit`."""

    begun: bool
    at_once: bool


@dataclass(frozen=True, slots=True)
class _Thought:
    text: str


_Part = Content | CallBegin | CallArguments | _Thought


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatExchange:
    """One chat. `top_logprobs`: None for no log-probabilities. `reasoning` and `plan` are None where the
    text is all content. `secret`: ids of calls are made of it, the same ones whoever reads the text."""

    asked: Asked
    call: Call
    tokenizer: Tokenizer
    top_logprobs: int | None = None
    reasoning: Reasoning | None = None
    plan: ToolPlan | None = None
    tools: tuple[Tool, ...] = ()
    secret: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def calls(self) -> Sequence[Call]:
        return (self.call,)

    @property
    def stream(self) -> bool:
        return self.asked.stream

    @property
    def cache_salt(self) -> str:
        return self.asked.cache_salt

    @property
    def prompt_ids(self) -> dict[str, Any]:
        """The prompt's tokens, where they were asked for."""
        if not self.asked.token_ids:
            return {}
        return {"prompt_token_ids": [int(token) for token in self.call.ids]}

    def answer(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return {
            **head(self.asked, _ANSWER),
            **self.prompt_ids,
            "choices": [self._choice(sample) for sample in samples],
            "usage": usage(self.calls, samples),
        }

    def _choice(self, sample: Sample) -> dict[str, Any]:
        turn = _Turn(self, sample.choice)
        message = _message(turn.read(sample))
        choice = {
            "index": sample.choice,
            "message": message,
            "logprobs": turn.new_logprobs(sample),
            "finish_reason": finish_reason(sample, turn.called),
            "matched_stop": matched_stop(sample),
        }
        return {**choice, **turn.new_ids(sample)}

    def events(self) -> _Chunks:
        return _Chunks(self)


def _message(parts: Sequence[_Part]) -> dict[str, Any]:
    content = "".join(part.text for part in parts if isinstance(part, Content))
    thoughts = "".join(part.text for part in parts if isinstance(part, _Thought))
    calls: dict[int, dict[str, Any]] = {}
    for part in parts:
        if isinstance(part, CallBegin):
            function = {"name": part.name, "arguments": ""}
            calls[part.index] = {"id": part.id, "type": "function", "function": function}
        elif isinstance(part, CallArguments):
            calls[part.index]["function"]["arguments"] += part.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["content"] = content or None
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


class _Turn:
    """One choice as it is read: what is new of it since the last time."""

    def __init__(self, exchange: ChatExchange, choice: int) -> None:
        self._split, self._reader, self._logprobs = None, None, None
        if (reasoning := exchange.reasoning) is not None:
            self._split = ReasoningSplit(reasoning.begun, reasoning.at_once)
        if exchange.plan is not None:
            self._reader = ToolReader(exchange.plan, exchange.tools, self._new_id)
        if exchange.top_logprobs is not None:
            self._logprobs = ChatLogprobs(exchange.tokenizer, exchange.top_logprobs)
        self._wants_ids = exchange.asked.token_ids
        self._name, self._num_names = f"{exchange.secret}/{choice}", 0
        self._num_characters = self._num_ids = 0
        self.called = self.over = False

    _split: ReasoningSplit | None
    _reader: ToolReader | None
    _logprobs: ChatLogprobs | None

    def _new_id(self) -> str:
        self._num_names += 1
        name = f"{self._name}/{self._num_names}"
        return "call_" + hashlib.sha256(name.encode()).hexdigest()[:24]

    def read(self, sample: Sample) -> list[_Part]:
        """The parts that are new, all that are left if the sample has ended."""
        text = sample.text[self._num_characters :]
        self._num_characters += len(text)
        parts = self._read(text) if text else []
        if sample.finish_reason is not None and not self.over:
            self.over = True
            parts += self._finish()
        self.called = self.called or any(isinstance(part, CallBegin) for part in parts)
        return parts

    def _read(self, text: str) -> list[_Part]:
        parts: list[_Part] = []
        if self._split is not None:
            thought, text = self._split.push(text)
            parts += [_Thought(thought)] if thought else []
        return parts + self._content(text)

    def _finish(self) -> list[_Part]:
        parts: list[_Part] = []
        if self._split is not None:
            thought, text = self._split.finish()
            parts += [_Thought(thought)] if thought else []
            parts += self._content(text)
        return parts + (list(self._reader.finish()) if self._reader is not None else [])

    def _content(self, text: str) -> list[_Part]:
        if not text:
            return []
        return [Content(text)] if self._reader is None else list(self._reader.push(text))

    def new_logprobs(self, sample: Sample) -> dict[str, Any] | None:
        return None if self._logprobs is None else self._logprobs.take(sample)

    def new_ids(self, sample: Sample) -> dict[str, Any]:
        if not self._wants_ids:
            return {}
        ids = sample.output_ids[self._num_ids :]
        self._num_ids += len(ids)
        return {"token_ids": ids}


class _Chunks(ChunkStream):
    """The stream of one chat. Log-probabilities and ids go with the next chunk of their choice."""

    def __init__(self, exchange: ChatExchange) -> None:
        super().__init__(exchange.asked, exchange.calls, _CHUNK)
        self.exchange = exchange
        self._turns: dict[int, _Turn] = {}

    def begin(self) -> Iterable[bytes]:
        for index in range(self.exchange.asked.n):
            choice = {
                "index": index,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": None,
                "matched_stop": None,
            }
            yield self.chunk(choice, self.exchange.prompt_ids if index == 0 else {})

    def choices(self, sample: Sample) -> Iterable[dict[str, Any]]:
        turn = self._turns.get(sample.index)
        if turn is None:
            turn = self._turns[sample.index] = _Turn(self.exchange, sample.choice)
        for part in turn.read(sample):
            yield self._choice(sample, turn, _delta(part))
        if sample.finish_reason is not None:
            choice = self._choice(sample, turn, {})
            choice["finish_reason"] = finish_reason(sample, turn.called)
            choice["matched_stop"] = matched_stop(sample)
            yield choice

    def _choice(self, sample: Sample, turn: _Turn, delta: dict[str, Any]) -> dict[str, Any]:
        return {
            "index": sample.choice,
            "delta": delta,
            "logprobs": turn.new_logprobs(sample),
            "finish_reason": None,
            "matched_stop": None,
            **turn.new_ids(sample),
        }


def _delta(part: _Part) -> dict[str, Any]:
    if isinstance(part, Content):
        return {"content": part.text}
    if isinstance(part, _Thought):
        return {"reasoning_content": part.text}
    if isinstance(part, CallBegin):
        function = {"name": part.name, "arguments": ""}
        call = {"index": part.index, "id": part.id, "type": "function", "function": function}
    else:
        call = {"index": part.index, "function": {"arguments": part.text}}
    return {"tool_calls": [call]}
