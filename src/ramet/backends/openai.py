"""`ramet.OpenAI`: models behind OpenAI's API, Azure's, or any server that speaks the same protocols.

Knows the vendor's SDK, which sends what `openai_wire` has written. The SDK is loaded when a backend is
made; no token tables are.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ramet.backend import Capabilities, RoleTemplate, ScoreCall
from ramet.backends.api_backend import ApiBackend
from ramet.backends.api_client import Limits, Log
from ramet.backends.api_errors import sdk_failure
from ramet.backends.api_limits import Backoff
from ramet.backends.api_records import Failure, MissingSdk, Price, Question, Reader, Usage
from ramet.backends.api_schema import OPENAI
from ramet.backends.api_structured import Plan, Structured
from ramet.backends.openai_wire import (
    ChatReader,
    CompletionReader,
    chat_request,
    completion_request,
)
from ramet.errors import InvalidRequest
from ramet.params import SamplingParams

__all__ = ["OpenAI"]

_COMPLETION_MODELS = re.compile(r"(.*-instruct(-\d+)?|(babbage|davinci|curie|ada)(-.*)?|text-.*)")
_REASONING_MODELS = re.compile(r"(o\d+|gpt-([5-9]|\d\d))\b(?!.*-chat).*")
_EVERYWHERE = (
    "min_new_tokens",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "top_k",
    "min_p",
    "repetition_penalty",
)
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias")
_SERVERS_OWN = {"top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos"}


class OpenAI(ApiBackend):
    """`OpenAI("gpt-4o-mini")`, `OpenAI("any", base_url="http://127.0.0.1:8000/v1", api_key="none")`.

    `is_chat_model`: None asks the model's name (`...-instruct` and the oldest ones continue texts).
    `is_azure`: through the SDK's Azure client. Further arguments are those of the SDK's client (api_key,
    base_url, organization, default_headers, azure_endpoint, ...).

    `max_concurrency`, `max_retries`, `timeout`, `attempt_timeout`, `backoff`: see `Limits`. `max_asks`:
    how many answers may be asked for until one keeps its constraint; 0 refuses constraints that the API
    does not keep itself. `prices`: model names (or their beginnings) and `Price`s. `structured`: False
    for servers without `response_format`. `prefill`: the server goes on in an assistant's last message.
    `accepts`: sampling parameters that this server takes beyond OpenAI's, such as ("top_k", "min_p").
    `tokenizer`: for `select` on a completion model, an object with `encode` and `decode`.
    `reasoning`: None asks the model's name (o1, gpt-5 and the like). `stream_usage`: ask for the usage
    of streams. `max_n`: samples of one request; 1 for servers that give only one.
    """

    provider = "openai"

    def __init__(
        self,
        model_name: str,
        is_chat_model: bool | None = None,
        chat_template: RoleTemplate | None = None,
        is_azure: bool = False,
        *args: Any,
        max_concurrency: int = 64,
        max_retries: int = 4,
        timeout: float = 600.0,
        attempt_timeout: float | None = None,
        backoff: Backoff | None = None,
        max_asks: int = 3,
        prices: Mapping[str, Price] | None = None,
        structured: bool = True,
        prefill: bool = False,
        accepts: Iterable[str] = (),
        tokenizer: Any = None,
        reasoning: bool | None = None,
        stream_usage: bool = True,
        max_n: int = 128,
        **kwargs: Any,
    ) -> None:
        name = str(model_name)
        chat = is_chat_model
        if chat is None:
            chat = not _COMPLETION_MODELS.fullmatch(name)
        reasons = reasoning
        if reasons is None:
            reasons = bool(_REASONING_MODELS.fullmatch(name)) and not is_azure
        self._more = _accepted(accepts)
        self._client_args, self._client_kwargs = args, kwargs
        self._azure, self._tokenizer, self._stream_usage = is_azure, tokenizer, stream_usage
        self._sdk = _sdk()
        if isinstance(max_n, bool) or not isinstance(max_n, int) or max_n < 1:
            raise InvalidRequest("max_n", max_n, "is not a whole number of at least 1")
        can = _capabilities(chat, reasons, structured, prefill, tokenizer is not None, self._more)
        can = dataclasses.replace(can, max_n=max_n)
        super().__init__(
            model_name,
            capabilities=can,
            structured=_STRUCTURED if structured and chat else None,
            limits=Limits(
                max_concurrency=max_concurrency,
                max_retries=max_retries,
                timeout=timeout,
                attempt_timeout=attempt_timeout,
                backoff=backoff or Backoff(),
            ),
            prices=prices,
            chat_template=chat_template,
            max_asks=max_asks,
        )
        self._thinks = reasons

    def _new_client(self) -> Any:
        maker = self._sdk.AsyncAzureOpenAI if self._azure else self._sdk.AsyncOpenAI
        try:
            return maker(*self._client_args, **{**self._client_kwargs, "max_retries": 0})
        except self._sdk.OpenAIError as error:
            raise InvalidRequest("api_key", None, f"is missing: {error}") from error

    def _request(self, question: Question) -> dict[str, Any]:
        if not self.is_chat_model:
            return completion_request(question, stream_usage=self._stream_usage, more=self._more)
        return chat_request(
            question,
            max_tokens_name="max_completion_tokens" if self._thinks else "max_tokens",
            sampling=not self._thinks,
            stream_usage=self._stream_usage,
            more=self._more,
        )

    def _reader(self, question: Question) -> Reader:
        return (ChatReader if self.is_chat_model else CompletionReader)(question.n)

    async def _exchange(
        self,
        client: Any,
        request: dict[str, Any],
        stream: bool,
        seconds: float,
        take: Callable[[Any], None],
    ) -> Mapping[str, str]:
        place = client.chat.completions if self.is_chat_model else client.completions
        raw = await place.with_raw_response.create(**request, timeout=seconds)
        headers: Mapping[str, str] = raw.headers
        if not stream:
            take(json.loads(raw.http_response.content))
            return headers
        events = raw.parse()
        async with events:
            async for event in events:
                take(event.to_dict())
        return headers

    def _failure(self, error: Exception) -> Failure | None:
        return sdk_failure(self._sdk, error, "OPENAI_API_KEY or api_key=")

    # -- choices by logit bias -------------------------------------------------------------------

    async def _pick(self, call: ScoreCall) -> tuple[list[float], dict[str, Any]]:
        """A completion model with a tokenizer decodes token by token, each step with a bias on the next
        tokens of the choices that are still alive; a choice's score is how many of its tokens matched.
        A step with one token left needs no request. Anything else is asked for one of the choices."""
        if self.is_chat_model or self._tokenizer is None:
            return await super()._pick(call)
        rows = [_ids(self._tokenizer, choice) for choice in call.choices]
        matched = [0.0] * len(rows)
        alive = list(range(len(rows)))
        prompt, usage = call.prompt.text(), Usage()
        async with self._api.turn() as log:
            for place in range(max(len(row) for row in rows)):
                alive = [i for i in alive if len(rows[i]) > place]
                allowed = sorted({rows[i][place] for i in alive})
                picked = allowed[0] if allowed else None
                if len(allowed) > 1:
                    so_far = self._tokenizer.decode(rows[alive[0]][:place])
                    picked, spent = await self._next_token(log, call, prompt + so_far, allowed)
                    usage += spent
                alive = [i for i in alive if rows[i][place] == picked]
                for i in alive:
                    matched[i] += 1
        return matched, self._meta_of_steps(call, usage, log)

    async def _next_token(
        self, log: Log, call: ScoreCall, text: str, allowed: Sequence[int]
    ) -> tuple[int | None, Usage]:
        """One token out of `allowed` that goes on from `text`; None if the model gave another one."""
        bias = tuple((token, 100.0) for token in allowed)
        params = SamplingParams(max_new_tokens=1, temperature=0.0, logit_bias=bias)
        question = dataclasses.replace(self._put(call, Plan(), params, ()), text=text)
        reply = await self._reply(log, question, None)
        answer = reply.samples[0].text
        found = [token for token in allowed if self._tokenizer.decode([token]) == answer]
        return (found[0] if found else None), reply.usage or Usage()

    def _meta_of_steps(self, call: ScoreCall, usage: Usage, log: Log) -> dict[str, Any]:
        meta = {
            "method": "logit_bias",
            "id": call.rid,
            "prompt_tokens": usage.prompt,
            "cached_tokens": usage.cached,
            "completion_tokens": usage.completion,
            "e2e_latency": time.monotonic() - log.started,
            "attempts": log.attempts,
            "retries": list(log.retries),
            "spent": log.spent.to_dict(),
        }
        return meta if self._price is None else {**meta, "cost": self._price.cost(log.spent)}


_STRUCTURED = Structured(method="json_schema", dialect=OPENAI, loose="json_schema (not strict)")


def _capabilities(
    chat: bool, reasons: bool, structured: bool, prefill: bool, tokenizer: bool, more: Sequence[str]
) -> Capabilities:
    refused = [name for name in _EVERYWHERE if name not in more]
    native = chat and structured
    return Capabilities(
        logprobs=not reasons,
        regex=True,
        json_schema=True,
        images=chat,
        chat_only=chat,
        prefill=prefill or not chat,
        max_stops=0 if reasons else 4,
        refused=tuple(refused) + (_SAMPLING if reasons else ()),
        emulated=("regex",) if native else ("regex", "json_schema"),
        select="enum" if native else "logit_bias" if tokenizer and not chat else "ask_again",
        tools=chat,
        prompt_cache="automatic",
    )


def _accepted(names: Iterable[str]) -> tuple[str, ...]:
    found = tuple(names)
    for name in found:
        if name not in _SERVERS_OWN:
            known = ", ".join(sorted(_SERVERS_OWN))
            raise InvalidRequest("accepts", name, "is not one of the parameters", f"use {known}")
    return found


def _sdk() -> Any:
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise MissingSdk("ramet.OpenAI needs OpenAI's SDK: pip install 'ramet[openai]'") from error


def _ids(tokenizer: Any, text: str) -> list[int]:
    """For tokenizers that give ids and for those that give an encoding with ids in it."""
    found = tokenizer.encode(text)
    if hasattr(found, "ids"):
        found = tokenizer.encode(text, add_special_tokens=False).ids
    if not found:
        raise InvalidRequest("choices", text, "has no tokens")
    return list(found)
