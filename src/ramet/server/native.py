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
from ramet.server.json_fields import MAX_INTEGER, shown
from ramet.server.native_bounds import (
    MAX_CHOICES,
    MAX_PROMPTS,
    MAX_RID,
    MAX_SAMPLES,
    MAX_SPANS,
    bound_prompts,
    bound_tokens,
    bound_work,
    bounded_params,
    few_ids,
    flag,
    flags,
    refuse_unknown,
    rids,
    short_text,
    whole_numbers,
)
from ramet.server.native_tokens import read_detokenize, read_tokenize
from ramet.server.served import ServedModel

__all__ = [
    "MAX_CHOICES",
    "MAX_PROMPTS",
    "MAX_RID",
    "MAX_SAMPLES",
    "MAX_SPANS",
    "NativeExchange",
    "ScoreExchange",
    "error_body",
    "event",
    "read_detokenize",
    "read_generate",
    "read_score_choices",
    "read_tokenize",
    "refuse_unknown",
    "short_text",
]

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
    if sources != ["spans"]:
        bound_prompts(sources[0], text if ids is None else ids)
    calls, single = parse_calls(
        model.encode,
        model.vocab_size,
        prompt=text,
        input_ids=ids,
        sampling_params=bounded_params(body.get("sampling_params"), model),
        return_logprob=flags(body.get("return_logprob")),
        logprob_start_len=whole_numbers(body, "logprob_start_len", -1, MAX_INTEGER),
        top_logprobs_num=whole_numbers(body, "top_logprobs_num", 0, model.vocab_size),
        token_ids_logprob=few_ids(body.get("token_ids_logprob")),
        rid=rids(body.get("rid")),
    )
    count = sum(call.params.n for call in calls)
    if count > MAX_SAMPLES:
        raise InvalidRequest("n", count, f"samples in one request are more than {MAX_SAMPLES}")
    bound_work(calls, model)
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
    prompt = prompt_of_spans(spans, model.vocab_size)
    ids = [int(token) for token in model.tokenizer.encode_prompt(prompt)]
    return ids, () if prompt.num_spans else tuple(ids)


def prompt_of_spans(spans: Any, vocab_size: int) -> Prompt:
    if not isinstance(spans, list) or len(spans) > MAX_SPANS:
        problem = f"is not a list of at most {MAX_SPANS} texts and ids"
        raise InvalidRequest("spans", shown(spans), problem)
    prompt = Prompt()
    for i, span in enumerate(spans):
        if isinstance(span, str):
            prompt = prompt + Text(span) if span else prompt
        elif isinstance(span, list) and all(
            type(token) is int and 0 <= token < vocab_size for token in span
        ):
            prompt = prompt + Tokens(tuple(span), "") if span else prompt
        else:
            problem = f"is neither a text nor a list of token ids (0 to {vocab_size - 1})"
            raise InvalidRequest(f"spans[{i}]", shown(span), problem)
    return prompt


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
        problem = f"is not a list of at most {MAX_CHOICES} texts"
        raise InvalidRequest("choices", shown(choices), problem)
    prompt = prompt_of_spans(body.get("spans"), model.vocab_size)
    _, full, start = model.tokenizer.choice_tokens(prompt, choices)
    bound_tokens(full)
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
