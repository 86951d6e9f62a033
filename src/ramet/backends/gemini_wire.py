"""Gemini's protocol as pure functions: a question becomes a request, an answer or a stream of chunks
becomes a reply.

Knows JSON only, under the names that the SDK gives its fields: no SDK and no I/O.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from ramet.backends.api_messages import merged, split_system
from ramet.backends.api_records import Failure, Image, Part, Question, Reply, Sample, Turn, Usage
from ramet.errors import InvalidRequest, Unsupported

__all__ = ["ContentReader", "content_request", "read_usage", "retry_delay"]

_ROLES = {"user": "user", "assistant": "model"}
_MAX_SEED = 2**31 - 1


def content_request(
    question: Question, *, name: str, safety_settings: Sequence[Any] = ()
) -> dict[str, Any]:
    """The keyword arguments of `generate_content`. Raises `Unsupported` for conversations that the
    protocol cannot carry; `name` is the backend's."""
    system, turns = split_system(question.turns, name)
    for turn in turns:
        if turn.role not in _ROLES:
            raise InvalidRequest("role", turn.role, "is not known", "use system, user, assistant")
    if not turns:
        raise Unsupported(
            f"a conversation that has no user's block is not possible on {name}; add user(...)"
        )
    config = _config(question)
    if system:
        config["system_instruction"] = {"parts": _parts(system)}
    if safety_settings:
        config["safety_settings"] = list(safety_settings)
    return {"model": question.model, "contents": _contents(turns), "config": config}


def _contents(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{"role": _ROLES[turn.role], "parts": _parts(turn.parts)} for turn in merged(turns)]


def _config(question: Question) -> dict[str, Any]:
    params = question.params
    config: dict[str, Any] = {
        "max_output_tokens": question.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
    }
    if params.top_k != -1:
        config["top_k"] = params.top_k
    for penalty in ("frequency_penalty", "presence_penalty"):
        if getattr(params, penalty):
            config[penalty] = getattr(params, penalty)
    if question.n > 1:
        config["candidate_count"] = question.n
    if question.stops:
        config["stop_sequences"] = list(question.stops)
    if params.sampling_seed is not None:
        config["seed"] = params.sampling_seed & _MAX_SEED
    if question.top_logprobs is not None:
        config["response_logprobs"] = True
        if question.top_logprobs:
            config["logprobs"] = question.top_logprobs
    if question.schema is not None:
        config["response_mime_type"] = "application/json"
        if question.strict:
            config["response_json_schema"] = question.schema
    return config


def _parts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [_part(part.content) for part in parts]


def _part(content: str | Image) -> dict[str, Any]:
    if isinstance(content, str):
        return {"text": content}
    if content.url:
        kind = content.media_type or "image/jpeg"
        return {"file_data": {"file_uri": content.url, "mime_type": kind}}
    try:
        data = base64.b64decode(content.data, altchars=b"-_" if "_" in content.data else None)
    except binascii.Error as error:
        raise InvalidRequest("image_url", content.data[:40], f"is not base64: {error}") from error
    return {"inline_data": {"mime_type": content.media_type, "data": data}}


# ---- answers ------------------------------------------------------------------------------------


def read_usage(found: Any) -> Usage | None:
    """What a model thought is paid for like what it said."""
    if not isinstance(found, Mapping) or not isinstance(found.get("prompt_token_count"), int):
        return None
    said = found.get("candidates_token_count") or 0
    return Usage(
        prompt=found["prompt_token_count"] + (found.get("tool_use_prompt_token_count") or 0),
        cached=found.get("cached_content_token_count") or 0,
        completion=said + (found.get("thoughts_token_count") or 0),
    )


def retry_delay(details: Any) -> float | None:
    """Seconds that an error's details ask to wait (google.rpc.RetryInfo)."""
    error = details.get("error", details) if isinstance(details, Mapping) else {}
    for item in error.get("details") or () if isinstance(error, Mapping) else ():
        if isinstance(item, Mapping) and str(item.get("@type", "")).endswith("RetryInfo"):
            try:
                return float(str(item.get("retryDelay", "")).removesuffix("s"))
            except ValueError:
                return None
    return None


class ContentReader:
    """Answers and chunks, which have one form."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.samples: dict[int, Sample] = {}
        self.id = self.model = ""
        self._usage: Usage | None = None

    def usage(self) -> Usage | None:
        return self._usage

    def whole(self, data: Mapping[str, Any]) -> None:
        self.event(data)

    def event(self, data: Mapping[str, Any]) -> str:
        self.id = data.get("response_id") or self.id
        self.model = data.get("model_version") or self.model
        self._usage = read_usage(data.get("usage_metadata")) or self._usage
        blocked = (data.get("prompt_feedback") or {}).get("block_reason")
        if blocked:
            for index in range(self.n):
                finish = {"type": "abort", "message": f"prompt blocked: {blocked}"}
                self.samples[index] = Sample(finish=finish)
        new = ""
        for candidate in data.get("candidates") or ():
            index = candidate.get("index") or 0
            sample = self.samples.setdefault(index, Sample())
            parts = (candidate.get("content") or {}).get("parts") or ()
            text = "".join(p.get("text") or "" for p in parts if not p.get("thought"))
            sample.text += text
            new += text if index == 0 else ""
            _logprobs(sample, candidate.get("logprobs_result") or {})
            self._finish(sample, candidate)
        return new

    def _finish(self, sample: Sample, candidate: Mapping[str, Any]) -> None:
        reason = candidate.get("finish_reason")
        if reason == "STOP":
            sample.finish = {"type": "stop"}
        elif reason in ("MAX_TOKENS", "CONTINUATION"):
            sample.finish = {"type": "length"}
            if self.n == 1 and self._usage is not None:
                sample.finish["length"] = self._usage.completion
        elif reason and reason != "FINISH_REASON_UNSPECIFIED":
            more = candidate.get("finish_message")
            said = f"{reason}: {more}" if more else str(reason)
            sample.finish = {"type": "abort", "message": said}

    def reply(self) -> Reply:
        samples = [self.samples[i] for i in sorted(self.samples)]
        if len(samples) < self.n:
            # Some servers ignore n: asking again would only cost again.
            none = not samples
            raise Failure(f"the answer has {len(samples)} of {self.n} candidates", retry=none)
        if any(sample.finish is None for sample in samples):
            raise Failure("the answer broke off before its end", retry=True, text=samples[0].text)
        return Reply(samples, self._usage, self.id, self.model)


def _logprobs(sample: Sample, found: Mapping[str, Any]) -> None:
    for token in found.get("chosen_candidates") or ():
        sample.logprobs.append(_entry(token))
    for top in found.get("top_candidates") or ():
        sample.top_logprobs.append([_entry(token) for token in top.get("candidates") or ()])


def _entry(token: Mapping[str, Any]) -> list[Any]:
    return [token.get("log_probability"), token.get("token_id", -1), token.get("token")]
