"""`ramet.Anthropic`: models behind Anthropic's Messages API.

Knows the vendor's SDK, which sends what `anthropic_wire` has written, and what the generations of models
can do. The SDK is loaded when a backend is made.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ramet.backend import Capabilities, GenerateCall, RoleTemplate
from ramet.backends.anthropic_wire import MessageReader, message_request
from ramet.backends.api_backend import ApiBackend
from ramet.backends.api_client import Limits
from ramet.backends.api_errors import sdk_failure
from ramet.backends.api_limits import Backoff
from ramet.backends.api_records import Failure, MissingSdk, Price, Question, Reader, Turn
from ramet.backends.api_schema import ANTHROPIC
from ramet.backends.api_structured import Structured
from ramet.errors import InvalidRequest, Unsupported

__all__ = ["Anthropic"]

_REFUSED = (
    "min_new_tokens",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
)
_SAMPLING = ("temperature", "top_p", "top_k")
_STRUCTURED = Structured(method="output_format", dialect=ANTHROPIC, loose="tool")
_TOOL_ONLY = Structured(method="tool", dialect=ANTHROPIC, loose="tool")


class Anthropic(ApiBackend):
    """`Anthropic("claude-sonnet-4-5")`. Further arguments are those of the SDK's client (api_key, base_url,
    default_headers, ...).

    `max_concurrency`, `max_retries`, `timeout`, `attempt_timeout`, `backoff`: see `Limits`. `max_asks`:
    how many answers may be asked for until one keeps its constraint; 0 refuses constraints that the API
    does not keep itself. `prices`: model names (or their beginnings) and `Price`s. `cache`: mark system
    texts and shared prefixes for the provider's prompt cache.

    Generations of models differ, and their names tell: `sampling` (the model takes temperature, top_p and
    top_k), `prefill` (it goes on in an assistant's block) and `structured` ("output_format" or "tool").
    None asks the name; a name that tells nothing counts as the newest.
    """

    provider = "anthropic"

    def __init__(
        self,
        model_name: str,
        *args: Any,
        chat_template: RoleTemplate | None = None,
        max_concurrency: int = 64,
        max_retries: int = 4,
        timeout: float = 600.0,
        attempt_timeout: float | None = None,
        backoff: Backoff | None = None,
        max_asks: int = 3,
        prices: Mapping[str, Price] | None = None,
        cache: bool = True,
        sampling: bool | None = None,
        prefill: bool | None = None,
        structured: Literal["output_format", "tool"] | None = None,
        **kwargs: Any,
    ) -> None:
        version = _version(str(model_name))
        sampling = version < (4, 7) if sampling is None else sampling
        prefill = version < (4, 6) if prefill is None else prefill
        if structured is None:
            structured = "tool" if version < (4, 5) else "output_format"
        if structured not in ("output_format", "tool"):
            raise InvalidRequest("structured", structured, "is neither output_format nor tool")
        self._client_args, self._client_kwargs = args, kwargs
        self._tool, self._cache = structured == "tool", cache
        self._sdk = _sdk()
        super().__init__(
            model_name,
            capabilities=_capabilities(sampling, prefill, cache),
            structured=_TOOL_ONLY if self._tool else _STRUCTURED,
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
        self._thinks = not sampling  # the newest think before they answer

    def _new_client(self) -> Any:
        try:
            client = self._sdk.AsyncAnthropic(
                *self._client_args, **{**self._client_kwargs, "max_retries": 0}
            )
        except (self._sdk.AnthropicError, ValueError) as error:
            raise InvalidRequest("api_key", None, f"is not usable: {error}") from error
        found = (client.api_key, client.auth_token, getattr(client, "credentials", None))
        headers = {name.lower() for name in self._client_kwargs.get("default_headers") or ()}
        if not any(found) and not headers & {"x-api-key", "authorization"}:
            raise InvalidRequest("api_key", None, "is missing", "set ANTHROPIC_API_KEY or api_key=")
        return client

    def _check_provider(self, call: GenerateCall, turns: tuple[Turn, ...]) -> None:
        if call.params.temperature > 1:
            raise InvalidRequest(
                "temperature",
                call.params.temperature,
                f"is above 1, the most that {self.name} takes",
            )
        if call.return_logprob:
            raise Unsupported(f"return_logprob is not possible on {self.name}; leave it out")
        self._build(Question(model=self.model_name, params=call.params, turns=turns))

    def _build(self, question: Question) -> dict[str, Any]:
        return message_request(question, name=self.name, tool=self._tool, cache=self._cache)

    def _request(self, question: Question) -> dict[str, Any]:
        return self._build(question)

    def _sent_stops(self, stops: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(stop for stop in stops if stop.strip())  # the API refuses white space alone

    def _reader(self, question: Question) -> Reader:
        by_tool = question.schema is not None and (self._tool or not question.strict)
        last = question.turns[-1]
        begun = last.text if last.role == "assistant" else ""
        return MessageReader(tool=by_tool, trim=begun != begun.rstrip())

    async def _exchange(
        self,
        client: Any,
        request: dict[str, Any],
        stream: bool,
        seconds: float,
        take: Callable[[Any], None],
    ) -> Mapping[str, str]:
        raw = await client.messages.with_raw_response.create(**request, timeout=seconds)
        headers: Mapping[str, str] = raw.headers
        if not stream:
            take(json.loads(raw.http_response.content))
            return headers
        events = await _awaited(raw.parse())
        async with events:
            async for event in events:
                take(event.to_dict())
        return headers

    def _failure(self, error: Exception) -> Failure | None:
        return sdk_failure(self._sdk, error, "ANTHROPIC_API_KEY or api_key=")


async def _awaited(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def _capabilities(sampling: bool, prefill: bool, cache: bool) -> Capabilities:
    return Capabilities(
        logprobs=False,
        seed=False,
        regex=True,
        json_schema=True,
        images=True,
        chat_only=True,
        max_n=1,
        prefill=prefill,
        refused=_REFUSED if sampling else (*_REFUSED, *_SAMPLING),
        emulated=("regex",),
        select="enum",
        tools=True,
        prompt_cache="marked" if cache else "none",
    )


def _version(model_name: str) -> tuple[int, int]:
    """The generation in a model's name: claude-3-5-sonnet-20241022 and claude-sonnet-4-5 are (3, 5) and
    (4, 5). Dates are no versions. A name without one is newer than all."""
    match = re.search(r"claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?", model_name)
    return (int(match[1]), int(match[2] or 0)) if match else (99, 0)


def _sdk() -> Any:
    try:
        return importlib.import_module("anthropic")
    except ImportError as error:
        raise MissingSdk(
            "ramet.Anthropic needs Anthropic's SDK: pip install 'ramet[anthropic]'"
        ) from error
