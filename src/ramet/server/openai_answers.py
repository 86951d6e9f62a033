"""What all answers of OpenAI's form have in common: events, usage, ends, errors, and the list of models.

Knows OpenAI's names; refuses to know what a choice holds, which is `openai_chat_answers.py`'s and
`openai_completions.py`'s.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ramet import __version__
from ramet.server.exchange import Call, Failure, Sample, Status
from ramet.server.json_fields import writable
from ramet.server.openai_fields import Asked
from ramet.server.served import ServedModel

__all__ = [
    "DONE",
    "FINGERPRINT",
    "ChunkStream",
    "error_body",
    "error_frames",
    "event",
    "finish_reason",
    "head",
    "matched_stop",
    "model_list",
    "model_object",
    "usage",
]

FINGERPRINT = f"ramet-{__version__}"  # what a seed's text depends on beside the request
DONE = b"data: [DONE]\n\n"

_ERROR_TYPES = {
    Status.UNAUTHORIZED: "authentication_error",
    Status.NOT_FOUND: "not_found_error",
    Status.TOO_MANY: "rate_limit_error",
    Status.CLOSED: "request_cancelled",
    Status.TIMEOUT: "timeout_error",
    Status.UNAVAILABLE: "service_unavailable_error",
}


def event(value: Mapping[str, Any]) -> bytes:
    """One frame of a stream."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def head(asked: Asked, kind: str) -> dict[str, Any]:
    """What every answer and chunk begins with. `kind`: such as "chat.completion"."""
    return {
        "id": asked.id,
        "object": kind,
        "created": asked.created,
        "model": asked.model,
        "system_fingerprint": FINGERPRINT,
    }


# -- ends -------------------------------------------------------------------------------------------


def finish_reason(sample: Sample, called: bool = False) -> str | None:
    """ "stop", "length", "abort", or "tool_calls" where tools were `called` and the text did not break off;
    None while the sample runs."""
    if sample.finish_reason is None:
        return None
    kind = str(sample.finish_reason["type"])
    return "tool_calls" if kind == "stop" and called else kind


def matched_stop(sample: Sample) -> str | int | None:
    """The stop text or token that ended the sample. None for other ends."""
    matched: str | int | None = (sample.finish_reason or {}).get("matched")
    return matched


# -- usage ------------------------------------------------------------------------------------------


def usage(calls: Sequence[Call], samples: Sequence[Sample]) -> dict[str, Any]:
    """Of all samples so far. A prompt counts once, however many samples it has; its cached tokens are
    those that none of them had to compute."""
    lengths = [len(call.ids) for call in calls]
    computed: dict[int, int] = {}  # prompt tokens, by call
    completion = 0
    for sample in samples:
        completion += len(sample.output_ids)
        if (hits := sample.meta.get("cached_tokens")) is not None:
            missed = lengths[sample.call] - hits
            computed[sample.call] = computed.get(sample.call, 0) + missed
    prompt = sum(lengths)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(max(0, lengths[call] - n) for call, n in computed.items())
        },
    }


@dataclass(slots=True)
class UsageOfStream:
    """Which chunks of a stream say what was used."""

    asked: Asked
    calls: Sequence[Call]
    seen: dict[int, Sample]

    def in_chunk(self) -> dict[str, Any]:
        """What a chunk with choices has of it: the counts so far, null, or nothing."""
        if self.asked.continuous_usage:
            return {"usage": usage(self.calls, list(self.seen.values()))}
        return {"usage": None} if self.asked.include_usage else {}

    def last(self, kind: str, samples: Sequence[Sample]) -> list[bytes]:
        """The chunk of its own, without choices, if it was asked for."""
        if not self.asked.include_usage:
            return []
        body = {**head(self.asked, kind), "choices": [], "usage": usage(self.calls, samples)}
        return [event(body)]


class ChunkStream(abc.ABC):
    """The stream of one request: an `EventWriter` whose chunks have one choice each."""

    def __init__(self, asked: Asked, calls: Sequence[Call], kind: str) -> None:
        self._asked, self._kind = asked, kind
        self._usage = UsageOfStream(asked, calls, {})
        self._ended: set[int] = set()

    def begin(self) -> Iterable[bytes]:
        return ()

    def changed(self, sample: Sample) -> Iterable[bytes]:
        if sample.index in self._ended:
            return
        self._usage.seen[sample.index] = sample
        if sample.finish_reason is not None:
            self._ended.add(sample.index)
        for choice in self.choices(sample):
            yield self.chunk(choice)

    @abc.abstractmethod
    def choices(self, sample: Sample) -> Iterable[dict[str, Any]]:
        """What is new of a sample; the last one says how it ended, if it has."""

    def chunk(self, choice: dict[str, Any], more: Mapping[str, Any] | None = None) -> bytes:
        body = {**head(self._asked, self._kind), **(more or {}), "choices": [choice]}
        return event({**body, **self._usage.in_chunk()})

    def end(self, samples: Sequence[Sample]) -> Iterable[bytes]:
        for sample in samples:
            yield from self.changed(sample)
        yield from self._usage.last(self._kind, samples)
        yield DONE

    def failed(self, failure: Failure) -> Iterable[bytes]:
        return error_frames(failure)


# -- errors -----------------------------------------------------------------------------------------


def error_body(failure: Failure) -> dict[str, Any]:
    """The body of a response whose status is `failure.status`."""
    kind = _ERROR_TYPES.get(failure.status)
    if kind is None:
        kind = "invalid_request_error" if failure.status < Status.INTERNAL else "server_error"
    return {
        "error": {
            "message": writable(failure.message),
            "type": kind,
            "param": None if failure.field is None else writable(failure.field),
            "code": failure.code,
        }
    }


def error_frames(failure: Failure) -> list[bytes]:
    """The end of a stream that failed."""
    return [event(error_body(failure)), DONE]


# -- models -----------------------------------------------------------------------------------------


def model_list(model: ServedModel) -> dict[str, Any]:
    return {"object": "list", "data": [_model(model)]}


def model_object(model: ServedModel, name: str) -> dict[str, Any] | Failure:
    """The served model by its name or "default"; a failure for any other name."""
    if name in (model.name, "default"):
        return _model(model)
    shown = name if len(name) <= 80 else name[:77] + "..."
    return Failure(
        status=Status.NOT_FOUND,
        message=f"The model {shown!r} does not exist; this server has {model.name!r}",
        field="model",
        code="model_not_found",
    )


def _model(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "ramet",
        "root": model.model_path,
        "parent": None,
        "max_model_len": model.max_context,
    }
