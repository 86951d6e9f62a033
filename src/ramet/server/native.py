"""The native protocol: `/generate` and what belongs to it, as values that JSON can hold.

Knows the names and forms of the native protocol; refuses to know HTTP and engines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.backends.native import parse_calls
from ramet.engine.request import LogprobOptions
from ramet.errors import InvalidRequest
from ramet.params import SamplingParams
from ramet.prompt import Prompt, Text, Tokens
from ramet.server.exchange import Call, EventWriter, Failure, Sample
from ramet.server.served import ServedModel

__all__ = [
    "MAX_PROMPTS",
    "MAX_SAMPLES",
    "NativeExchange",
    "ScoreExchange",
    "error_body",
    "event",
    "read_detokenize",
    "read_generate",
    "read_score_choices",
    "read_tokenize",
    "refuse_unknown",
]

MAX_PROMPTS = 1024  # of one request
MAX_SAMPLES = 4096  # of all its prompts
MAX_RID = 256  # characters
MAX_SPANS = 65_536
MAX_CHOICES = 1024

# What other servers have and this one lacks: null, and whatever switches it off, is no request for it.
_LACKED = frozenset(
    [
        "input_embeds",
        "image_data",
        "video_data",
        "audio_data",
        "modalities",
        "lora_path",
        "lora_id",
        "session_params",
        "custom_logit_processor",
        "return_hidden_states",
        "return_routed_experts",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "data_parallel_rank",
        "priority",
        "extra_key",
        "background",
        "conversation_id",
        "log_metrics",
        "no_logs",
        "require_reasoning",
    ]
)
_OFF: tuple[Any, ...] = (None, False, "", [], {})
_GENERATE = frozenset(
    [
        "text",
        "input_ids",
        "spans",
        "sampling_params",
        "return_logprob",
        "logprob_start_len",
        "top_logprobs_num",
        "token_ids_logprob",
        "return_text_in_logprobs",
        "stream",
        "rid",
        "cache_salt",
    ]
)


def refuse_unknown(body: Mapping[str, Any], known: frozenset[str], lacked: frozenset[str]) -> None:
    """A name that is not known is an error, unless its value asks for nothing."""
    for name, value in body.items():
        if name in known or value is None or (name in lacked and value in _OFF):
            continue
        problem = "is not supported by this server" if name in lacked else "is not a field"
        raise InvalidRequest(name, value, problem, "leave it out")


def flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(name, value, "is neither true nor false")
    return bool(value)


def short_text(body: Mapping[str, Any], name: str, most: int = MAX_RID) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise InvalidRequest(name, value, f"is not a text of 1 to {most} characters")
    return value


@dataclass(frozen=True, slots=True)
class NativeExchange:
    """`many`: the answer is a list. `first_ids`: what the tokenizer put before an empty prompt."""

    calls: tuple[Call, ...]
    stream: bool
    cache_salt: str
    many: bool
    first_ids: tuple[int, ...] = ()

    def answer(self, samples: Sequence[Sample]) -> Any:
        responses = [self.response(sample) for sample in samples]
        return responses if self.many else responses[0]

    def response(self, sample: Sample) -> dict[str, Any]:
        found: dict[str, Any] = {
            "text": sample.text,
            "output_ids": sample.output_ids,
            "meta_info": sample.meta,
        }
        if self.calls[sample.call].spans and sample.kept is not None:
            found["output_spans"] = self._spans(sample, *sample.kept)
        return found

    def _spans(self, sample: Sample, ids: Sequence[int], rest: str) -> list[Any]:
        spans: list[Any] = []
        if self.first_ids:  # they belong before what was generated
            spans.append({"ids": list(self.first_ids), "text": ""})
        if ids:
            spans.append({"ids": list(ids), "text": sample.text[: len(sample.text) - len(rest)]})
        return [*spans, rest] if rest else spans

    def events(self) -> EventWriter:
        return _Events(self)


@dataclass(frozen=True, slots=True)
class _Events:
    """Each event is a whole response: texts and lists are cumulative."""

    exchange: NativeExchange

    def begin(self) -> Iterable[bytes]:
        return ()

    def changed(self, sample: Sample) -> Iterable[bytes]:
        response = self.exchange.response(sample)
        if self.exchange.many:
            response["index"] = sample.index
        return (event(response),)

    def end(self, samples: Sequence[Sample]) -> Iterable[bytes]:  # noqa: ARG002 - all is said
        return (b"data: [DONE]\n\n",)

    def failed(self, failure: Failure) -> Iterable[bytes]:
        return (event(error_body(failure)), b"data: [DONE]\n\n")


def event(value: Any) -> bytes:
    """One server-sent event."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


def error_body(failure: Failure) -> dict[str, Any]:
    kind = "invalid_request_error" if failure.status < 500 else "server_error"
    error = {"message": failure.message, "type": kind, "code": failure.code or failure.status}
    if failure.field is not None:
        error["param"] = failure.field
    return {"error": error}


def read_generate(body: Mapping[str, Any], model: ServedModel) -> NativeExchange:
    """The body of `/generate`. Raises `InvalidRequest`."""
    refuse_unknown(body, _GENERATE, _LACKED)
    sources = [name for name in ("text", "input_ids", "spans") if body.get(name) is not None]
    if len(sources) != 1:
        given = " and ".join(sources) or "none"
        raise InvalidRequest("text", given, "is given; give one of text, input_ids and spans")
    text, ids = body.get("text"), body.get("input_ids")
    first_ids: tuple[int, ...] = ()
    if sources == ["spans"]:
        ids, first_ids = _ids_of_spans(body["spans"], model)
    _bound_prompts(text if ids is None else ids)
    calls, single = parse_calls(
        model.encode,
        model.vocab_size,
        prompt=text,
        input_ids=ids,
        sampling_params=_bounded_params(body.get("sampling_params")),
        return_logprob=_flags(body.get("return_logprob")),
        logprob_start_len=body.get("logprob_start_len"),
        top_logprobs_num=body.get("top_logprobs_num"),
        token_ids_logprob=_few_ids(body.get("token_ids_logprob")),
        rid=_names(body.get("rid")),
    )
    count = sum(call.params.n for call in calls)
    if count > MAX_SAMPLES:
        raise InvalidRequest("n", count, f"samples in one request are more than {MAX_SAMPLES}")
    token_text = flag(body, "return_text_in_logprobs")
    spans = sources == ["spans"]
    return NativeExchange(
        calls=tuple(
            Call(
                ids=call.ids,
                params=call.params,
                logprobs=call.logprobs,
                rid=call.rid,
                token_text=token_text,
                spans=spans,
            )
            for call in calls
        ),
        stream=flag(body, "stream"),
        cache_salt=short_text(body, "cache_salt") or "",
        many=not single or count > 1,
        first_ids=first_ids,
    )


def _ids_of_spans(spans: Any, model: ServedModel) -> tuple[list[int], tuple[int, ...]]:
    """The prompt's ids; and they again if nothing was written yet, so that they are kept in front."""
    prompt = prompt_of_spans(spans)
    ids = [int(token) for token in model.tokenizer.encode_prompt(prompt)]
    return ids, () if prompt.num_spans else tuple(ids)


def prompt_of_spans(spans: Any) -> Prompt:
    if not isinstance(spans, list) or len(spans) > MAX_SPANS:
        raise InvalidRequest("spans", spans, f"is not a list of at most {MAX_SPANS} texts and ids")
    prompt = Prompt()
    for i, span in enumerate(spans):
        if isinstance(span, str):
            prompt = prompt + Text(span) if span else prompt
        elif isinstance(span, list) and all(type(token) is int for token in span):
            prompt = prompt + Tokens(tuple(span), "") if span else prompt
        else:
            raise InvalidRequest(f"spans[{i}]", span, "is neither a text nor a list of token ids")
    return prompt


def _bound_prompts(given: Any) -> None:
    nested = isinstance(given, list) and given and isinstance(given[0], (list, str))
    if nested and len(given) > MAX_PROMPTS:
        raise InvalidRequest("text", f"{len(given)} prompts", f"are more than {MAX_PROMPTS}")
    if isinstance(given, list) and not given:
        raise InvalidRequest("text", given, "is an empty list", "give at least one prompt")


def _bounded_params(given: Any) -> Any:
    if isinstance(given, Mapping) and "beam_width" in given and given["beam_width"] in (None, 1):
        return {name: value for name, value in given.items() if name != "beam_width"}
    return given


def _flags(given: Any) -> Any:
    many = given if isinstance(given, list) else [given]
    for one in many:
        if one is not None and not isinstance(one, bool):
            raise InvalidRequest("return_logprob", one, "is neither true nor false")
    return given


def _few_ids(given: Any) -> Any:
    lists = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    for one in lists:
        if one is not None and not (isinstance(one, list) and len(one) <= 1024):
            raise InvalidRequest("token_ids_logprob", one, "is not a list of at most 1024 ids")
    return given


def _names(given: Any) -> Any:
    for one in given if isinstance(given, list) else [given]:
        if one is not None:
            short_text({"rid": one}, "rid")
    return given


# -- choices --------------------------------------------------------------------------------------

_NOTHING_NEW = SamplingParams(max_new_tokens=0)
_SCORE = frozenset(("spans", "choices", "unconditional", "rid", "cache_salt"))


@dataclass(frozen=True, slots=True)
class ScoreExchange:
    """`/score_choices`: how likely each choice is after the prompt, and alone if that is asked for."""

    calls: tuple[Call, ...]
    count: int
    cache_salt: str
    stream: bool = False

    def answer(self, samples: Sequence[Sample]) -> Any:
        scores = []
        for i, sample in enumerate(samples[: self.count]):
            meta = dict(sample.meta)
            score = {"tokens": meta.pop("input_token_logprobs"), "unconditional": None}
            if len(samples) > self.count:
                alone = samples[self.count + i].meta
                score["unconditional"] = alone["input_token_logprobs"]
            scores.append({**score, "meta_info": meta})
        return {"scores": scores}

    def events(self) -> EventWriter:
        raise InvalidRequest("stream", True, "is no field of /score_choices")


def read_score_choices(body: Mapping[str, Any], model: ServedModel) -> ScoreExchange:
    """The body of `/score_choices`. Raises `InvalidRequest`."""
    refuse_unknown(body, _SCORE, frozenset())
    choices = body.get("choices")
    if (
        not isinstance(choices, list)
        or len(choices) > MAX_CHOICES
        or not all(isinstance(choice, str) for choice in choices)
    ):
        raise InvalidRequest("choices", choices, f"is not a list of at most {MAX_CHOICES} texts")
    prompt = prompt_of_spans(body.get("spans"))
    _, full, start = model.tokenizer.choice_tokens(prompt, choices)
    rid = short_text(body, "rid")
    given = [
        Call(
            ids=ids,
            params=_NOTHING_NEW,
            logprobs=LogprobOptions(prompt_start=start),
            rid=None if rid is None else f"{rid}/choice{i}",
            token_text=True,
        )
        for i, ids in enumerate(full)
    ]
    alone = [
        Call(
            ids=ids.since(start),
            params=_NOTHING_NEW,
            logprobs=LogprobOptions(prompt_start=0),
            token_text=True,
        )
        for ids in (full if flag(body, "unconditional") else [])
    ]
    return ScoreExchange((*given, *alone), len(given), short_text(body, "cache_salt") or "")


# -- texts and tokens ---------------------------------------------------------------------------------


def read_tokenize(body: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    """The answer of `/tokenize`."""
    known = frozenset(
        ("model", "prompt", "messages", "add_special_tokens", "add_generation_prompt")
    )
    refuse_unknown(body, known, frozenset())
    prompt, messages = body.get("prompt"), body.get("messages")
    if (prompt is None) == (messages is None):
        raise InvalidRequest("prompt", prompt, "and messages: exactly one of them must be given")
    special = body.get("add_special_tokens") is None or flag(body, "add_special_tokens")
    if messages is not None:
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise InvalidRequest("messages", messages, "is not a list of objects")
        begun = body.get("add_generation_prompt") is None or flag(body, "add_generation_prompt")
        tokens: Any = model.render(messages, begun)
    elif isinstance(prompt, str):
        tokens = model.encode(prompt, special)
    elif isinstance(prompt, list) and all(isinstance(one, str) for one in prompt):
        if len(prompt) > MAX_PROMPTS:
            raise InvalidRequest("prompt", f"{len(prompt)} texts", f"are more than {MAX_PROMPTS}")
        tokens = [model.encode(one, special) for one in prompt]
    else:
        raise InvalidRequest("prompt", prompt, "is neither a text nor a list of texts")
    many = bool(tokens) and isinstance(tokens[0], list)
    count: Any = [len(one) for one in tokens] if many else len(tokens)
    return {"tokens": tokens, "count": count, "max_model_len": model.max_context}


def read_detokenize(body: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    """The answer of `/detokenize`."""
    refuse_unknown(body, frozenset(("model", "tokens", "skip_special_tokens")), frozenset())
    tokens = body.get("tokens")
    skip = body.get("skip_special_tokens") is None or flag(body, "skip_special_tokens")
    many = isinstance(tokens, list) and bool(tokens) and isinstance(tokens[0], list)
    lists: list[Any] = tokens if isinstance(tokens, list) and many else [tokens]
    for one in lists:
        if not isinstance(one, list):
            raise InvalidRequest("tokens", tokens, "is not a list of token ids")
        for token in one:
            if type(token) is not int or not 0 <= token < model.tokenizer.vocab_size:
                raise InvalidRequest("tokens", token, "is no token id of this model")
    texts = [model.tokenizer.decode(one, skip) for one in lists]
    return {"text": texts if many else texts[0]}
