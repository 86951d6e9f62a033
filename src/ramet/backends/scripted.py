"""A backend that says what it is told to: for testing programs without a model.

Knows the protocol and a toy tokenizer of words. It honours stop strings and token limits, streams, counts
tokens, gives deterministic log-probabilities, fails or hangs on request, and records every call.

    from ramet import function, gen, select
    from ramet.backends.scripted import Scripted

    @function
    def capital(s, country):
        s += "The capital of " + country + " is" + gen("city", stop=".")
        s += ". Is it large? " + select("large", ["yes", "no"])

    backend = Scripted({"France is": " Paris. It lies"}, scores={"yes": -0.1, "no": -2.0})
    state = capital.run("France", backend=backend)
    assert state["city"] == " Paris" and state["large"] == "yes"
    assert backend.prompts[0] == "The capital of France is"
"""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.backend import (
    Capabilities,
    ChoiceScore,
    Chunk,
    Completion,
    GenerateCall,
    Hint,
    OnChunk,
    RoleTemplate,
    ScoreCall,
    TokenLogprob,
)
from ramet.backends.scripted_checks import broken
from ramet.errors import BackendError, EngineClosed, InvalidRequest
from ramet.prompt import Tokens

__all__ = ["EOS_ID", "Fail", "Hang", "Scripted", "Word", "tokenize"]

EOS_ID = 0


@dataclass(frozen=True, slots=True)
class Fail:
    """A response that fails with `error` (a text becomes a `BackendError`), after streaming `text`."""

    error: Exception | str = "scripted failure"
    text: str = ""


@dataclass(frozen=True, slots=True)
class Hang:
    """A response that never ends, after streaming `text`. Cancelling its call ends it."""

    text: str = ""


Response = str | Sequence[str] | Fail | Hang
Responses = (
    Sequence[Response]
    | Mapping[str, "Response | Callable[[GenerateCall], Response]"]
    | Callable[[GenerateCall], Response]
)
Score = float | Sequence[float]
Scores = Mapping[str, Score] | Callable[[str, str], Score]


@dataclass(frozen=True, slots=True)
class Word:
    """A token of the toy tokenizer."""

    id: int
    text: str


def tokenize(text: str) -> list[Word]:
    """Words with the blank before them, single other characters. The texts add up to `text`."""
    pieces = re.findall(r" ?\w+|[^\w]", text)
    return [
        Word(zlib.crc32(piece.encode("utf-8", "surrogatepass")) % 65521 + 1, piece)
        for piece in pieces
    ]


class Scripted:
    """`responses`:
    - a list: one entry per `generate` call, in the order of the calls;
    - a mapping: the first key that matches, as a regular expression, the end of the prompt;
    - a function of the call;
    - None: a text that is a function of the prompt.

    A response is a text (for every sample), a list of texts (one per sample), `Fail` or `Hang`.

    `scores` gives a choice's log-probability per token, or one for each token: a mapping from choices, or
    a function of (prompt text, choice); the prompt text is "" for unconditional ones. `faults` maps the
    number of a call (from 0, both kinds counted together) to `Fail` or `Hang`. `latency` seconds pass
    before each answer (or a function of the call says how many), `chunk_latency` before each chunk of
    `chunk_size` tokens. With `share`, `cached_tokens` says how much of a prompt earlier prompts had.

    A scripted text that does not match the call's `regex` or `json_schema` from end to end fails. It is
    checked before stops and limits cut it; cut by a limit to what does not satisfy them, its
    `finish_reason` has `"incomplete": True`. `ebnf` and `structural_tag` are recorded only, so they are
    refused unless `capabilities` say otherwise.

    What happened: `calls` (generate and score, in order), `prompts` (their texts), `hints`, `cancelled`
    (the rids of cancelled calls), `active` and `max_active` (calls at a time).
    """

    def __init__(
        self,
        responses: Responses | None = None,
        *,
        scores: Scores | None = None,
        faults: Mapping[int, Fail | Hang] | None = None,
        latency: float | Callable[[GenerateCall | ScoreCall], float] = 0.0,
        chunk_latency: float = 0.0,
        chunk_size: int = 1,
        share: bool = False,
        chat_template: RoleTemplate | None = None,
        model_path: str = "scripted",
        capabilities: Capabilities | None = None,
    ) -> None:
        self._responses, self._scores = responses, scores
        self._faults = dict(faults or {})
        self._latency, self._chunk_latency = latency, chunk_latency
        self._chunk_size = max(1, chunk_size)
        self._next = 0
        self._seen: dict[int, Any] | None = {} if share else None
        self._closed = False
        self.chat_template = chat_template
        self.model_path = model_path
        self.capabilities = capabilities or Capabilities(regex=True, json_schema=True)
        self.calls: list[GenerateCall | ScoreCall] = []
        self.prompts: list[str] = []
        self.hints: list[Hint] = []
        self.cancelled: list[str] = []
        self.active = self.max_active = 0

    # The protocol

    async def generate(
        self, call: GenerateCall, on_chunk: OnChunk | None = None
    ) -> list[Completion]:
        started = time.perf_counter()
        fault = self._begin(call)
        try:
            await self._wait(call)
            response = fault if fault is not None else self._respond(call)
            if isinstance(response, (Fail, Hang)):
                await self._misbehave(response, call, on_chunk)
            texts = self._samples(call, response)
            samples = [_Sample.cut(text, call) for text in texts]
            prompt_words = tokenize(call.prompt.text())
            common = self._common_meta(call, prompt_words)
            if on_chunk is not None:
                await self._stream(samples[0], call, common, on_chunk)
            common["e2e_latency"] = time.perf_counter() - started
            return [sample.completion(call, common) for sample in samples]
        except asyncio.CancelledError:
            self.cancelled.append(call.rid)
            raise
        finally:
            self.active -= 1

    async def score(self, call: ScoreCall) -> list[ChoiceScore]:
        fault = self._begin(call)
        try:
            await self._wait(call)
            if fault is not None:
                await self._misbehave(fault, None, None)
            text = call.prompt.text()
            meta = self._common_meta(None, tokenize(text))
            return [self._score(text, choice, call.unconditional, meta) for choice in call.choices]
        except asyncio.CancelledError:
            self.cancelled.append(call.rid)
            raise
        finally:
            self.active -= 1

    def hint(self, hint: Hint) -> None:
        self.hints.append(hint)

    def flush_cache(self) -> bool:
        if self.active:
            return False
        if self._seen is not None:
            self._seen = {}
        return True

    def get_server_info(self) -> dict[str, Any]:
        return {"model_path": self.model_path, "backend": "scripted", "num_calls": len(self.calls)}

    def shutdown(self) -> None:
        self._closed = True

    # Answers

    def _begin(self, call: GenerateCall | ScoreCall) -> Fail | Hang | None:
        if self._closed:
            raise EngineClosed("the scripted backend was shut down")
        fault = self._faults.get(len(self.calls))
        self.calls.append(call)
        self.prompts.append(call.prompt.text())
        self.active += 1
        self.max_active = max(self.max_active, self.active)
        return fault

    async def _wait(self, call: GenerateCall | ScoreCall) -> None:
        seconds = self._latency(call) if callable(self._latency) else self._latency
        await asyncio.sleep(seconds)

    def _respond(self, call: GenerateCall) -> Response:
        if self._responses is None:
            return f"<{zlib.crc32(call.prompt.text().encode()):08x}>"
        if callable(self._responses):
            return self._responses(call)
        if isinstance(self._responses, Mapping):
            text = call.prompt.text()
            for pattern, response in self._responses.items():
                if re.search(rf"(?:{pattern})\Z", text):
                    return response(call) if callable(response) else response
            raise BackendError(f"no scripted response fits the end of the prompt {text[-60:]!r}")
        if self._next >= len(self._responses):
            raise BackendError(f"all {len(self._responses)} scripted responses are used up")
        self._next += 1
        return self._responses[self._next - 1]

    def _samples(self, call: GenerateCall, response: Response) -> list[str]:
        n = call.params.n
        if isinstance(response, str):
            texts = [response] * n
        elif isinstance(response, Sequence) and all(isinstance(text, str) for text in response):
            texts = list(response)
        else:
            raise InvalidRequest("responses", response, "is neither text nor a list of texts")
        if len(texts) != n:
            raise InvalidRequest("responses", texts, f"does not have one text per sample (n={n})")
        for text in texts:
            if (problem := broken(call.params, text)) is not None:
                raise BackendError(f"{text!r} does not match {problem}")
        return texts

    async def _misbehave(
        self, fault: Fail | Hang, call: GenerateCall | None, on_chunk: OnChunk | None
    ) -> None:
        if call is not None and on_chunk is not None and fault.text:
            sample = _Sample.cut(fault.text, call)
            await self._stream(sample, call, {}, on_chunk, unfinished=True)
        if isinstance(fault, Hang):
            await asyncio.Event().wait()
        elif isinstance(fault.error, str):
            raise BackendError(fault.error)
        else:
            raise fault.error

    async def _stream(
        self,
        sample: _Sample,
        call: GenerateCall,
        common: Mapping[str, Any],
        on_chunk: OnChunk,
        unfinished: bool = False,
    ) -> None:
        sent, total = 0, len(sample.words)
        for start in range(0, total, self._chunk_size):
            await asyncio.sleep(self._chunk_latency)
            end = min(start + self._chunk_size, total)
            upto = min(sum(len(word.text) for word in sample.words[:end]), len(sample.text))
            if end == total and not unfinished:
                upto = len(sample.text)
            meta = {**common, **sample.token_lists(call, start, end), "completion_tokens": end}
            meta["finish_reason"] = sample.reason if end == total and not unfinished else None
            on_chunk(Chunk(text=sample.text[sent:upto], meta_info=meta))
            sent = upto

    # Counting

    def _common_meta(self, call: GenerateCall | None, words: Sequence[Word]) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "prompt_tokens": len(words),
            "cached_tokens": self._share(words),
        }
        if call is not None:
            meta["id"] = call.rid
            if call.return_logprob:
                meta["input_token_logprobs"] = _input_logprobs(call, words)
        return meta

    def _share(self, words: Iterable[Word]) -> int:
        """How many first words an earlier prompt had, too."""
        if self._seen is None:
            return 0
        node, shared, known = self._seen, 0, True
        for word in words:
            known = known and word.id in node
            shared += known
            node = node.setdefault(word.id, {})
        return shared

    def _score(
        self, prompt: str, choice: str, unconditional: bool, meta: dict[str, Any]
    ) -> ChoiceScore:
        alone = None
        if unconditional:
            first, *others = self._logprobs("", choice)
            alone = ((None, *first[1:]), *others)
        return ChoiceScore(
            tokens=self._logprobs(prompt, choice),
            unconditional=alone,
            meta_info={**meta, "completion_tokens": 0},
        )

    def _logprobs(self, prompt: str, choice: str) -> tuple[TokenLogprob, ...]:
        words = tokenize(choice)
        if self._scores is None:
            start = len(tokenize(prompt))
            return tuple((_logprob(w, start + i), w.id, w.text) for i, w in enumerate(words))
        if callable(self._scores):
            score = self._scores(prompt, choice)
        elif choice in self._scores:
            score = self._scores[choice]
        else:
            raise BackendError(f"no scripted score for the choice {choice!r}")
        if isinstance(score, (int, float)):
            return tuple((float(score), word.id, word.text) for word in words)
        return tuple((float(value), i + 1, None) for i, value in enumerate(score))


@dataclass(frozen=True, slots=True)
class _Sample:
    """A response cut as a model would have been stopped. `words` are all that were generated, those of a
    stop string included; `text` is what is left of them."""

    words: tuple[Word, ...]
    text: str
    reason: dict[str, Any]

    @staticmethod
    def cut(response: str, call: GenerateCall) -> _Sample:
        params = call.params
        words = tokenize(response)
        limited = words[: params.max_new_tokens]
        text = "".join(word.text for word in limited)
        found = _first_stop(limited, text, call)
        if found is not None:
            start, end, matched = found
            at = 0
            used = 0
            while at < end:
                at += len(limited[used].text)
                used += 1
            kept = text[:end] if params.no_stop_trim else text[:start]
            return _Sample(tuple(limited[:used]), kept, {"type": "stop", "matched": matched})
        if len(limited) < len(words) or params.ignore_eos:
            reason: dict[str, Any] = {"type": "length", "length": len(limited)}
            if broken(params, text) is not None:
                reason["incomplete"] = True
            return _Sample(tuple(limited), text, reason)
        return _Sample(tuple(limited), text, {"type": "stop", "matched": EOS_ID})

    def token_lists(self, call: GenerateCall, start: int, end: int) -> dict[str, Any]:
        """The per-token lists of generated words `start` to `end`."""
        if not call.return_logprob:
            return {}
        words = self.words[start:end]
        logprobs = [_logprob(word, start + i) for i, word in enumerate(words)]
        texts = [word.text if call.return_text_in_logprobs else None for word in words]
        lists: dict[str, Any] = {
            "output_token_logprobs": [
                [logprob, word.id, text] for logprob, word, text in zip(logprobs, words, texts)
            ]
        }
        if call.top_logprobs_num:
            lists["output_top_logprobs"] = [
                [[logprob - k, word.id + k, text] for k in range(call.top_logprobs_num)]
                for logprob, word, text in zip(logprobs, words, texts)
            ]
        return lists

    def completion(self, call: GenerateCall, common: Mapping[str, Any]) -> Completion:
        ids = tuple(word.id for word in tokenize(self.text))
        meta = {
            **common,
            **self.token_lists(call, 0, len(self.words)),
            "completion_tokens": len(self.words),
            "finish_reason": self.reason,
        }
        if call.return_logprob:
            meta["output_token_logprobs_length"] = len(self.words)
        spans = (Tokens(ids, self.text),) if self.text else ()
        return Completion(text=self.text, spans=spans, meta_info=meta)


def _first_stop(
    words: Sequence[Word], text: str, call: GenerateCall
) -> tuple[int, int, str | int] | None:
    """The earliest stop in the text as (start, end, what), not before `min_new_tokens` words."""
    params = call.params
    least = sum(len(word.text) for word in words[: params.min_new_tokens])
    found: list[tuple[int, int, str | int]] = []
    for stop in params.stop:
        at = text.find(stop, least)
        if at >= 0:
            found.append((at, at + len(stop), stop))
    for pattern in params.stop_regex:
        match = re.compile(pattern).search(text, least)
        if match is not None:
            found.append((match.start(), match.end(), pattern))
    at = 0
    for word in words:
        if word.id in params.stop_token_ids and at >= least:
            found.append((at, at + len(word.text), word.id))
            break
        at += len(word.text)
    return min(found, key=lambda stop: stop[:2]) if found else None


def _logprob(word: Word, position: int) -> float:
    """Some number between -4 and 0 that depends on the word and its place only."""
    return -((word.id * 31 + position * 7) % 1000 + 1) / 250


def _input_logprobs(call: GenerateCall, words: Sequence[Word]) -> list[list[Any]]:
    if call.logprob_start_len < 0:
        return []
    texts = call.return_text_in_logprobs
    return [
        [None if i == 0 else _logprob(words[i], i), words[i].id, words[i].text if texts else None]
        for i in range(call.logprob_start_len, len(words))
    ]
