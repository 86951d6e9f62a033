"""The OpenAI protocols, chat and completions, as pure functions: a question becomes a request, an answer or
a stream of events becomes a reply.

Knows JSON only: no SDK and no I/O. Servers of others speak these protocols, too, with less in their
answers; what is missing there is missing in the reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ramet.backends.api_records import Failure, Image, Question, Reply, Sample, Turn, Usage

__all__ = ["ChatReader", "CompletionReader", "chat_request", "completion_request", "read_usage"]

_MAX_SEED = 2**63 - 1


def chat_request(
    question: Question,
    *,
    max_tokens_name: str,
    sampling: bool,
    stream_usage: bool,
    more: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The keyword arguments of `chat.completions.create`. `sampling`: the model takes a temperature and
    its relatives. `more`: parameters beyond OpenAI's that this server takes."""
    request = {
        "model": question.model,
        "messages": [_message(turn) for turn in question.turns],
        max_tokens_name: question.max_tokens,
        **_shared(question, sampling=sampling, stream_usage=stream_usage, more=more),
    }
    if question.schema is not None:
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "schema": question.schema,
                "strict": question.strict,
            },
        }
    if question.top_logprobs is not None:
        request["logprobs"] = True
        if question.top_logprobs:
            request["top_logprobs"] = question.top_logprobs
    return request


def completion_request(
    question: Question, *, stream_usage: bool, more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The keyword arguments of `completions.create`."""
    request = {
        "model": question.model,
        "prompt": question.text,
        "max_tokens": question.max_tokens,
        **_shared(question, sampling=True, stream_usage=stream_usage, more=more),
    }
    if question.top_logprobs is not None:
        request["logprobs"] = question.top_logprobs
    return request


def _shared(
    question: Question, *, sampling: bool, stream_usage: bool, more: tuple[str, ...]
) -> dict[str, Any]:
    params = question.params
    request: dict[str, Any] = {}
    if sampling:
        request = {"temperature": params.temperature, "top_p": params.top_p}
        for name in ("frequency_penalty", "presence_penalty"):
            if getattr(params, name):
                request[name] = getattr(params, name)
    if params.logit_bias:
        request["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    if params.sampling_seed is not None:
        request["seed"] = params.sampling_seed & _MAX_SEED
    if question.n > 1:
        request["n"] = question.n
    if question.stops:
        request["stop"] = list(question.stops)
    if question.stream:
        request["stream"] = True
        if stream_usage:
            request["stream_options"] = {"include_usage": True}
    if more:
        request["extra_body"] = {name: _plain(params.to_dict()[name]) for name in more}
    return request


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _message(turn: Turn) -> dict[str, Any]:
    """Text alone is sent as text: not every server takes lists."""
    if all(isinstance(part.content, str) for part in turn.parts):
        return {"role": turn.role, "content": turn.text}
    return {"role": turn.role, "content": [_content(part.content) for part in turn.parts]}


def _content(content: str | Image) -> dict[str, Any]:
    if isinstance(content, str):
        return {"type": "text", "text": content}
    url = content.url or f"data:{content.media_type};base64,{content.data}"
    return {"type": "image_url", "image_url": {"url": url}}


# ---- answers ------------------------------------------------------------------------------------


def read_usage(found: Any) -> Usage | None:
    if not isinstance(found, Mapping) or not isinstance(found.get("prompt_tokens"), int):
        return None
    details = found.get("prompt_tokens_details") or {}
    return Usage(
        prompt=found["prompt_tokens"],
        cached=details.get("cached_tokens") or 0,
        cache_write=details.get("cache_write_tokens") or 0,
        completion=found.get("completion_tokens") or 0,
    )


class _Reader:
    """What both protocols have in common. Choices come with their index, in any order."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.samples: dict[int, Sample] = {}
        self.id = self.model = ""
        self._usage: Usage | None = None

    def usage(self) -> Usage | None:
        return self._usage

    def whole(self, data: Mapping[str, Any]) -> None:
        self._read(data)
        for sample in self.samples.values():  # some servers do not say why a whole answer ended
            sample.finish = sample.finish or {"type": "stop"}

    def event(self, data: Mapping[str, Any]) -> str:
        return self._read(data)

    def reply(self) -> Reply:
        samples = [self.samples[i] for i in sorted(self.samples)]
        if len(samples) < self.n:
            # Some servers ignore n: asking again would only cost again.
            none = not samples
            raise Failure(f"the answer has {len(samples)} of {self.n} choices", retry=none)
        if any(sample.finish is None for sample in samples):
            raise Failure("the answer broke off before its end", retry=True, text=samples[0].text)
        return Reply(samples, self._usage, self.id, self.model)

    def _read(self, data: Mapping[str, Any]) -> str:
        error = data.get("error")
        if error:
            said = error.get("message") if isinstance(error, Mapping) else error
            raise Failure(f"the server said: {str(said)[:200]}", retry=True)
        self.id = data.get("id") or self.id
        self.model = data.get("model") or self.model
        self._usage = read_usage(data.get("usage")) or self._usage
        new = ""
        for choice in data.get("choices") or ():
            index = choice.get("index") or 0
            sample = self.samples.setdefault(index, Sample())
            text = self._choice(sample, choice)
            sample.text += text
            if index == 0:
                new += text
            reason = choice.get("finish_reason")
            # A refusal ends with "stop", and must not be taken for an answer.
            if reason and (sample.finish is None or sample.finish["type"] != "abort"):
                sample.finish = self._finish(str(reason))
        return new

    def _choice(self, sample: Sample, choice: Mapping[str, Any]) -> str:
        raise NotImplementedError

    def _finish(self, reason: str) -> dict[str, Any]:
        if reason == "length":
            count = self._usage.completion if self._usage and self.n == 1 else None
            return {"type": "length"} if count is None else {"type": "length", "length": count}
        if reason in ("stop", "tool_calls", "function_call", "eos", "stop_sequence"):
            return {"type": "stop"}
        return {"type": "abort", "message": reason}


class ChatReader(_Reader):
    """Answers and events of chat completions."""

    def _choice(self, sample: Sample, choice: Mapping[str, Any]) -> str:
        message = choice.get("message") or choice.get("delta") or {}
        if message.get("refusal"):
            said = (sample.finish or {}).get("message", "refusal: ") + message["refusal"]
            sample.finish = {"type": "abort", "message": said}
        for token in (choice.get("logprobs") or {}).get("content") or ():
            sample.logprobs.append(_entry(token))
            sample.top_logprobs.append([_entry(other) for other in token.get("top_logprobs") or ()])
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content)
        return str(content or "")


def _entry(token: Mapping[str, Any]) -> list[Any]:
    return [token["logprob"], -1, token["token"]]  # this protocol has no token ids


class CompletionReader(_Reader):
    """Answers and events of completions."""

    def _choice(self, sample: Sample, choice: Mapping[str, Any]) -> str:
        found = choice.get("logprobs") or {}
        for logprob, token in zip(found.get("token_logprobs") or (), found.get("tokens") or ()):
            sample.logprobs.append([logprob, -1, token])
        for top in found.get("top_logprobs") or ():
            sample.top_logprobs.append([[value, -1, text] for text, value in (top or {}).items()])
        return str(choice.get("text") or "")
