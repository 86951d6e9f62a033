"""The native HTTP protocol as a client speaks it: what is sent for a call, and what an answer means.

Pure functions and records: JSON values in and out, no sockets, no clocks. Knows the protocol that SGLang's
server speaks, and what a Ramet server adds to it (named in the `extensions` of its model information):

- `spans`: `/generate` takes `spans` in the place of `text`: a list of texts and of lists of token ids, as a
  `Prompt` holds them, and answers with `output_spans`, the same form of what it generated, where tokens
  are `{"ids": [...], "text": "..."}`. So what was generated is never tokenized again.
- `score_choices`: `POST /score_choices` with `spans`, `choices`, `unconditional` and `rid` answers
  `{"scores": [{"tokens": [[logprob, id, text], ...], "unconditional": ..., "meta_info": {...}}, ...]}`.
- `tokenizer` (a field): the checkpoint's chat template and special tokens.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ramet.backend import Capabilities, ChoiceScore, Chunk, Completion, GenerateCall, TokenLogprob
from ramet.errors import Aborted, BackendError, InvalidRequest
from ramet.params import SamplingParams
from ramet.prompt import Media, Prompt, Span, Text, Tokens

__all__ = [
    "Answer",
    "ServerFacts",
    "StreamAnswers",
    "answers_of",
    "common_length",
    "encode",
    "error_text",
    "generate_body",
    "image_data",
    "read_choice_scores",
    "sampling_values",
    "token_logprobs",
    "wire_spans",
]

# Older servers refuse names that they do not know: the rest is sent only if it was set.
_ALWAYS_SENT = (
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "max_new_tokens",
    "min_new_tokens",
    "n",
    "stop",
    "stop_token_ids",
    "stop_regex",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "ignore_eos",
    "regex",
    "json_schema",
)
_DEFAULTS = SamplingParams().to_dict()
_PER_TOKEN = ("output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server told about itself. `model_info` is there, `server_info` may be empty."""

    model_info: Mapping[str, Any]
    server_info: Mapping[str, Any]

    @property
    def model_path(self) -> str:
        return str(self.model_info.get("model_path") or "")

    def has(self, extension: str) -> bool:
        found = self.model_info.get("extensions")
        return isinstance(found, list) and extension in found

    @property
    def capabilities(self) -> Capabilities:
        """A server without a grammar backend constrains nothing; SGLang takes seeds in one mode only."""
        constrains = self.server_info.get("grammar_backend") != "none"
        seeds = self.has("spans") or bool(self.server_info.get("enable_deterministic_inference"))
        return Capabilities(
            seed=seeds,
            regex=constrains,
            json_schema=constrains,
            ebnf=constrains,
            structural_tag=constrains,
            images=bool(self.model_info.get("has_image_understanding")),
        )


# What is sent


def encode(body: Mapping[str, Any]) -> bytes:
    """Raises `InvalidRequest` for text that is no Unicode."""
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - 20) : error.end + 20]
        raise InvalidRequest(
            "text",
            part,
            "holds a lone surrogate, which is no Unicode text",
            'decode the bytes it came from with errors="replace"',
        ) from None


def sampling_values(params: SamplingParams) -> dict[str, Any]:
    """`sampling_params` of a request."""
    values = params.to_dict()
    sent = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name in _ALWAYS_SENT or value != _DEFAULTS[name]
    }
    if params.logit_bias:
        sent["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    return sent


def wire_spans(prompt: Prompt) -> list[str | list[int]]:
    """Texts and lists of ids; neighbouring texts are one. A medium is its mark in the text."""
    sent: list[str | list[int]] = []
    for span in prompt.spans():
        if isinstance(span, Tokens):
            sent.append(list(span.ids))
        elif sent and isinstance(sent[-1], str):
            sent[-1] += span.text
        else:
            sent.append(span.text)
    return sent


def generate_body(call: GenerateCall, *, spans: bool, stream: bool, rid: str) -> dict[str, Any]:
    """The body of `/generate`. Of the log-probability fields only those that are set."""
    body: dict[str, Any] = {"sampling_params": sampling_values(call.params)}
    if spans:
        body["spans"] = wire_spans(call.prompt)
    else:
        body["text"] = call.prompt.text()
    if images := image_data(call.prompt):
        body["image_data"] = images
    if rid:
        body["rid"] = rid
    if call.return_logprob:
        body["return_logprob"] = True
        if call.logprob_start_len != -1:
            body["logprob_start_len"] = call.logprob_start_len
        if call.top_logprobs_num:
            body["top_logprobs_num"] = call.top_logprobs_num
        if call.return_text_in_logprobs:
            body["return_text_in_logprobs"] = True
    if stream:
        body["stream"] = True
    return body


def image_data(prompt: Prompt) -> list[str]:
    """The media of a prompt as a server takes them, in the order of their marks."""
    media = [span for span in prompt.spans() if isinstance(span, Media)]
    marks = {"image": "", "video": "video:"}
    return [marks[m.kind] + base64.b64encode(m.data).decode() for m in media]


# What comes back


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample of a response, checked for form."""

    text: str
    meta_info: dict[str, Any]
    spans: tuple[Span, ...] | None

    @staticmethod
    def of(payload: object) -> Answer:
        if not isinstance(payload, dict):
            raise BackendError(f"the server's answer is no object: {_short(payload)}")
        if "error" in payload:
            raise BackendError(f"the server failed: {_message(payload)}")
        text, meta = payload.get("text"), payload.get("meta_info")
        if not isinstance(text, str) or not isinstance(meta, dict):
            raise BackendError(f"the server's answer has no text or meta_info: {_short(payload)}")
        return Answer(text, meta, _spans(payload.get("output_spans")))

    def completion(self, retries: int) -> Completion:
        """Raises `Aborted` if the server ended the call."""
        reason = self.meta_info.get("finish_reason")
        if isinstance(reason, Mapping) and reason.get("type") == "abort":
            raise Aborted(f"the server ended the call: {reason.get('message') or 'aborted'}")
        meta = {**self.meta_info, "retries": retries} if retries else self.meta_info
        spans = self.spans
        if spans is None or "".join(span.text for span in spans) != self.text:
            spans = (Text(self.text),) if self.text else ()
        return Completion(text=self.text, spans=spans, meta_info=meta)


def _spans(sent: object) -> tuple[Span, ...] | None:
    if not isinstance(sent, list):
        return None
    found: list[Span] = []
    for span in sent:
        if isinstance(span, str):
            found.append(Text(span))
            continue
        try:
            ids = tuple(int(token) for token in span["ids"])
            found.append(Tokens(ids, str(span["text"])))
        except (TypeError, KeyError, ValueError):
            raise BackendError(f"the server's output_spans hold {_short(span)}") from None
    return tuple(found)


def answers_of(payload: object, count: int) -> list[Answer]:
    """The answers of a response that was to have `count` of them."""
    parts = payload if isinstance(payload, list) else [payload]
    answers = [Answer.of(part) for part in parts]
    if len(answers) != count:
        raise BackendError(f"the server gave {len(answers)} answers instead of {count}")
    return answers


@dataclass(slots=True)
class StreamAnswers:
    """The events of one stream: increments for whoever listens, and the last state of each sample.

    The protocol's events are cumulative. Held back is what may yet change at the end of a text: incomplete
    characters, and the beginning of one of `stops`, which an SGLang server sends and then takes back. With
    `whole` nothing is passed on before the end.
    """

    count: int
    stops: Sequence[str] = ()
    whole: bool = False
    sent: str = ""
    done: bool = False
    _tokens: dict[str, int] = field(default_factory=dict)
    _last: dict[int, Any] = field(default_factory=dict)

    def event(self, data: bytes) -> Chunk | None:
        """What is new in sample 0, if the event is about it."""
        if data == b"[DONE]":
            self.done = True
            return None
        try:
            payload = json.loads(data)
        except (ValueError, RecursionError):
            raise BackendError(
                f"the server's stream holds what is no JSON: {data[:80]!r}"
            ) from None
        answer = Answer.of(payload)
        index = payload.get("index") or 0
        self._last[index] = payload
        return self._news(answer) if index == 0 else None

    def _news(self, answer: Answer) -> Chunk | None:
        text, meta = answer.text, answer.meta_info
        if not meta.get("finish_reason"):
            text = "" if self.whole else _settled(text, self.stops)
            if self.sent.startswith(text) and len(text) < len(self.sent):
                return None
        if not text.startswith(self.sent):
            raise BackendError(
                f"the server's stream went from {self.sent[-40:]!r} to {text[-40:]!r}: it is not "
                "cumulative; start the server without increments in streams"
            )
        new, self.sent = text[len(self.sent) :], text
        return Chunk(text=new, meta_info=self._increments(meta))

    def _increments(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        news = dict(meta)
        for name in _PER_TOKEN:
            if isinstance(meta.get(name), list):
                news[name] = meta[name][self._tokens.get(name, 0) :]
                self._tokens[name] = len(meta[name])
        return news

    def answers(self) -> list[Answer]:
        """The finished samples. Raises `BackendError` if the stream ended before they had."""
        found = [Answer.of(self._last[i]) for i in range(self.count) if i in self._last]
        ended = [answer for answer in found if answer.meta_info.get("finish_reason")]
        if len(ended) < self.count:
            raise BackendError(
                f"the server's stream ended before the text had, after {self.sent[-40:]!r}"
            )
        return found


def _settled(text: str, stops: Sequence[str]) -> str:
    """As much of an unfinished text as will stay."""
    text = text.rstrip("\ufffd")
    cut = len(text)
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                cut = min(cut, len(text) - size)
                break
    return text[:cut]


def token_logprobs(entries: object) -> list[TokenLogprob]:
    """`input_token_logprobs` as records."""
    if not isinstance(entries, list):
        raise BackendError("the server gave no input_token_logprobs")
    try:
        return [(entry[0], int(entry[1]), entry[2]) for entry in entries]
    except (TypeError, IndexError, ValueError):
        raise BackendError(
            f"the server's input_token_logprobs hold {_short(entries[:1])}"
        ) from None


def read_choice_scores(payload: object, count: int, retries: int) -> list[ChoiceScore]:
    """The answer of `/score_choices`."""
    scores = payload.get("scores") if isinstance(payload, dict) else None
    if not isinstance(scores, list) or len(scores) != count:
        raise BackendError(f"the server did not score {count} choices: {_short(payload)}")
    found = []
    for score in scores:
        if not isinstance(score, dict):
            raise BackendError(f"the server's score is no object: {_short(score)}")
        alone = score.get("unconditional")
        meta = dict(score.get("meta_info") or {})
        if retries:
            meta["retries"] = retries
        found.append(
            ChoiceScore(
                tokens=tuple(token_logprobs(score.get("tokens"))),
                unconditional=None if alone is None else tuple(token_logprobs(alone)),
                meta_info=meta,
            )
        )
    return found


def error_text(status: int, body: bytes) -> str:
    """What a response that is no success says, in the server's own words where it has some."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        return f"HTTP {status}: {text[:500]}" if text else f"HTTP {status}"
    return f"HTTP {status}: {_message(payload)}"


def _message(payload: object) -> str:
    found = payload
    for name in ("error", "message", "detail"):
        if isinstance(found, Mapping) and name in found:
            found = found[name]
    if isinstance(found, Mapping) and "message" in found:
        found = found["message"]
    return found if isinstance(found, str) else _short(found)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else shown[:197] + "..."


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many first items two sequences share."""
    for at, (one, other) in enumerate(zip(first, second)):
        if one != other:
            return at
    return min(len(first), len(second))
