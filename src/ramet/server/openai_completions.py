"""`/v1/completions`: a body of OpenAI's older form becomes a `CompletionExchange`, and its answers.

Each prompt, a text or token ids, is one call; choices are numbered through all prompts. With `echo` a
choice's text begins with its prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.engine.request import LogprobOptions
from ramet.errors import InvalidRequest
from ramet.server.exchange import Call, Sample
from ramet.server.json_fields import MAX_INTEGER, Fields, is_unicode, shown
from ramet.server.openai_answers import (
    ChunkStream,
    finish_reason,
    head,
    matched_stop,
    usage,
)
from ramet.server.openai_fields import (
    MAX_RID,
    MAX_SAMPLES,
    MAX_TOP_LOGPROBS,
    Asked,
    finish_fields,
    read_asked,
    read_constraint,
    read_sampling,
    sampling_params,
)
from ramet.server.openai_logprobs import ListLogprobs, PromptTokens
from ramet.server.served import ServedModel

__all__ = ["MAX_PROMPTS", "CompletionExchange", "read_completion"]

MAX_PROMPTS = 256
DEFAULT_MAX_TOKENS = 16  # the protocol's own
_KIND = "text_completion"


@dataclass(frozen=True, slots=True)
class _Prompt:
    """`text` is None where the client sent ids. `written` is the text that is echoed, and `tokens` are
    its places, where they are wanted."""

    ids: list[int]
    text: str | None
    written: str = ""
    tokens: PromptTokens | None = None

    def echoed(self, model: ServedModel, skip_special_tokens: bool) -> _Prompt:
        """A text's own special tokens are part of it, the ones that the tokenizer put in front are not."""
        ids, text = self.ids, self.text
        if text is None:
            tokens = PromptTokens(model.tokenizer, ids, 0, skip_special_tokens)
            return _Prompt(ids, None, tokens.text, tokens)
        bare = model.encode(text, add_special_tokens=False)
        tokens = PromptTokens(model.tokenizer, ids, len(ids) - len(bare), skip=False)
        return _Prompt(ids, text, text, tokens)


def read_completion(body: dict[str, Any], model: ServedModel) -> CompletionExchange:
    """Raises `InvalidRequest` with the dotted name of the field."""
    fields = Fields(body)
    rid = fields.take("rid")
    first = rid[0] if isinstance(rid, list) and rid else rid
    asked = read_asked(fields, model, "cmpl", first if isinstance(first, str) else None)
    echo = fields.flag("echo")
    top = fields.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    # An echoed prompt may be all that is wanted, with its log-probabilities.
    max_tokens = fields.integer("max_tokens", 0 if echo else 1, MAX_INTEGER)
    found = read_sampling(fields, model)
    constraint = read_constraint(fields)
    fields.idle("suffix", "")
    value = fields.take("prompt")
    finish_fields(fields)

    params = sampling_params(
        found,
        n=asked.n,
        max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        constraint=(constraint.field, constraint.source) if constraint else None,
    )
    prompts = _read_prompts(value, model, asked.n)
    if echo:
        prompts = [prompt.echoed(model, params.skip_special_tokens) for prompt in prompts]
    rids = _rids(rid, len(prompts))
    scored = LogprobOptions()
    if top is not None:
        scored = LogprobOptions(output=True, prompt_start=0 if echo else None, top=top)
    return CompletionExchange(
        asked=asked,
        model=model,
        calls=tuple(
            Call(ids=prompt.ids, params=params, logprobs=scored, rid=name)
            for prompt, name in zip(prompts, rids, strict=True)
        ),
        prompts=tuple(prompts),
        top_logprobs=top,
    )


def _read_prompts(value: Any, model: ServedModel, n: int) -> list[_Prompt]:
    if isinstance(value, list) and not value:
        raise InvalidRequest("prompt", shown(value), "is an empty list")
    single = isinstance(value, str) or (isinstance(value, list) and type(value[0]) is int)
    values = [value] if single else value
    if not isinstance(values, list):
        raise InvalidRequest("prompt", shown(value), "is neither a text, token ids, nor a list")
    if len(values) > MAX_PROMPTS:
        raise InvalidRequest("prompt", shown(value), f"has more than {MAX_PROMPTS} prompts")
    if len(values) * n > MAX_SAMPLES:
        problem = f"choices of {len(values)} prompts are more than {MAX_SAMPLES} in all"
        raise InvalidRequest("n", n, problem)
    return [
        _read_prompt(one, "prompt" if single else f"prompt[{i}]", model)
        for i, one in enumerate(values)
    ]


def _read_prompt(value: Any, path: str, model: ServedModel) -> _Prompt:
    if isinstance(value, str):
        try:
            return _Prompt(model.encode(value), value)
        except InvalidRequest as error:
            raise InvalidRequest(path, shown(value), error.problem, error.remedy) from None
    if not isinstance(value, list):
        raise InvalidRequest(path, shown(value), "is neither a text nor a list of token ids")
    for token in value:
        if type(token) is not int or not 0 <= token < model.vocab_size:
            problem = f"is no token id of this model (0 to {model.vocab_size - 1})"
            raise InvalidRequest(path, shown(token), problem)
    if not value:
        raise InvalidRequest(path, shown(value), "has no tokens", "give at least one token")
    return _Prompt(list(value), None)


def _rids(value: Any, count: int) -> list[str | None]:
    """One name for each prompt, or one name that theirs are made of."""
    if value is None:
        return [None] * count
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_RID or not is_unicode(name):
            raise InvalidRequest("rid", shown(name), f"is not a text of 1 to {MAX_RID} characters")
    if len(names) == 1 and count > 1:
        names = [f"{names[0]}_{i}" for i in range(count)]
    if len(names) != count or len(set(names)) != count:
        raise InvalidRequest("rid", shown(value), f"does not name {count} different requests")
    return list(names)


# -- answers ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionExchange:
    """`prompts`: one for each call. `top_logprobs`: None for none at all."""

    asked: Asked
    model: ServedModel
    calls: tuple[Call, ...]
    prompts: tuple[_Prompt, ...]
    top_logprobs: int | None

    @property
    def stream(self) -> bool:
        return self.asked.stream

    @property
    def cache_salt(self) -> str:
        return self.asked.cache_salt

    def answer(self, samples: Sequence[Sample]) -> dict[str, Any]:
        choices = []
        for sample in samples:
            choice = _Choice(self, sample)
            choices.append(choice.ended(sample, choice.new_text(sample)))
        return {
            **head(self.asked, _KIND),
            "choices": choices,
            "usage": usage(self.calls, samples),
        }

    def events(self) -> _Chunks:
        return _Chunks(self)


class _Choice:
    """One choice as it is read: what is new of it since the last time."""

    def __init__(self, exchange: CompletionExchange, sample: Sample) -> None:
        call, prompt = exchange.calls[sample.call], exchange.prompts[sample.call]
        self._prefix, self._logprobs, self._prompt_ids = prompt.written, None, None
        if exchange.top_logprobs is not None:
            self._logprobs = ListLogprobs(
                exchange.model.tokenizer,
                prompt.ids,
                top=exchange.top_logprobs,
                skip_special_tokens=call.params.skip_special_tokens,
                prompt=prompt.tokens,
                start=len(self._prefix),
            )
        self._wants_ids = exchange.asked.token_ids
        if self._wants_ids:
            self._prompt_ids = prompt.ids
        self._num_characters = self._num_ids = 0

    _logprobs: ListLogprobs | None
    _prompt_ids: list[int] | None

    def new_text(self, sample: Sample) -> str:
        prefix, self._prefix = self._prefix, ""
        text = sample.text[self._num_characters :]
        self._num_characters += len(text)
        return prefix + text

    def piece(self, sample: Sample, text: str) -> dict[str, Any]:
        """A choice with `text` and everything else that is new."""
        found = {
            "index": sample.index,
            "text": text,
            "logprobs": None if self._logprobs is None else self._logprobs.take(sample),
            "finish_reason": None,
            "matched_stop": None,
        }
        if self._wants_ids:
            found["token_ids"] = sample.output_ids[self._num_ids :]
            self._num_ids = len(sample.output_ids)
            if self._prompt_ids is not None:
                found["prompt_token_ids"], self._prompt_ids = self._prompt_ids, None
        return found

    def ended(self, sample: Sample, text: str) -> dict[str, Any]:
        end = {"finish_reason": finish_reason(sample), "matched_stop": matched_stop(sample)}
        return {**self.piece(sample, text), **end}


class _Chunks(ChunkStream):
    """The stream of one request. Log-probabilities and ids go with the next text of their choice."""

    def __init__(self, exchange: CompletionExchange) -> None:
        super().__init__(exchange.asked, exchange.calls, _KIND)
        self.exchange = exchange
        self._choices: dict[int, _Choice] = {}

    def choices(self, sample: Sample) -> Iterable[dict[str, Any]]:
        choice = self._choices.get(sample.index)
        if choice is None:
            choice = self._choices[sample.index] = _Choice(self.exchange, sample)
        text = choice.new_text(sample)
        if sample.finish_reason is not None:
            yield choice.ended(sample, text)
        elif text:
            yield choice.piece(sample, text)
