"""`ramet.Gemini` and `ramet.VertexAI`: Google's models, by the Gemini API or in a Google Cloud project.

Knows the vendor's SDK (google-genai), which sends what `gemini_wire` has written. The SDK is loaded when a
backend is made.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ramet.backend import Capabilities, GenerateCall, RoleTemplate
from ramet.backends.api_backend import ApiBackend
from ramet.backends.api_client import Limits
from ramet.backends.api_errors import connection_failure, status_failure
from ramet.backends.api_limits import Backoff
from ramet.backends.api_records import Failure, MissingSdk, Price, Question, Reader, Turn
from ramet.backends.api_schema import GEMINI
from ramet.backends.api_structured import Structured
from ramet.backends.gemini_wire import ContentReader, content_request, retry_delay
from ramet.errors import InvalidRequest

__all__ = ["Gemini", "VertexAI"]

_REFUSED = (
    "min_new_tokens",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "min_p",
    "repetition_penalty",
    "logit_bias",
)
_STRUCTURED = Structured(
    method="response_schema", dialect=GEMINI, loose="JSON mode and ask_again", words=True
)


class Gemini(ApiBackend):
    """`Gemini("gemini-2.5-flash")`. Further arguments are those of `google.genai.Client` (api_key,
    http_options, credentials, ...); `base_url` is short for http_options={"base_url": ...}.

    `max_concurrency`, `max_retries`, `timeout`, `attempt_timeout`, `backoff`: see `Limits`. `max_asks`:
    how many answers may be asked for until one keeps its constraint; 0 refuses constraints that the API
    does not keep itself. `prices`: model names (or their beginnings) and `Price`s. `safety_settings` are
    sent as they are.
    """

    provider = "gemini"

    def __init__(
        self,
        model_name: str,
        *,
        chat_template: RoleTemplate | None = None,
        max_concurrency: int = 64,
        max_retries: int = 4,
        timeout: float = 600.0,
        attempt_timeout: float | None = None,
        backoff: Backoff | None = None,
        max_asks: int = 3,
        prices: Mapping[str, Price] | None = None,
        safety_settings: Sequence[Any] = (),
        base_url: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._sdk = _sdk()
        self._safety, self._client_kwargs = tuple(safety_settings or ()), kwargs
        self._base_url = base_url
        super().__init__(
            model_name,
            capabilities=_CAPABILITIES,
            structured=_STRUCTURED,
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
        self._thinks = True

    def _new_client(self) -> Any:
        types = importlib.import_module("google.genai.types")
        given = self._client_kwargs.get("http_options") or {}
        options = types.HttpOptions(**given) if isinstance(given, Mapping) else given.model_copy()
        options.retry_options = types.HttpRetryOptions(attempts=1)
        if self._base_url is not None:
            options.base_url = self._base_url
        try:
            return self._sdk.Client(**{**self._client_kwargs, "http_options": options})
        except ValueError as error:
            raise InvalidRequest("api_key", None, f"is not usable: {error}") from error

    def _check_provider(self, call: GenerateCall, turns: tuple[Turn, ...]) -> None:
        content_request(
            Question(model=self.model_name, params=call.params, turns=turns), name=self.name
        )

    def _request(self, question: Question) -> dict[str, Any]:
        return content_request(question, name=self.name, safety_settings=self._safety)

    def _reader(self, question: Question) -> Reader:
        return ContentReader(question.n)

    async def _exchange(
        self,
        client: Any,
        request: dict[str, Any],
        stream: bool,
        seconds: float,
        take: Callable[[Any], None],
    ) -> Mapping[str, str]:
        config = {**request["config"], "http_options": {"timeout": max(1, int(seconds * 1000))}}
        config["automatic_continuation"] = False  # requests that nobody counts
        request = {**request, "config": config}
        headers: Mapping[str, str] = {}
        if not stream:
            answer = await client.aio.models.generate_content(**request)
            take(_plain(answer))
            return _headers(answer, headers)
        async for chunk in await client.aio.models.generate_content_stream(**request):
            headers = _headers(chunk, headers)
            take(_plain(chunk))
        return headers

    def _failure(self, error: Exception) -> Failure | None:
        errors = importlib.import_module("google.genai.errors")
        if isinstance(error, errors.APIError):
            headers = getattr(error.response, "headers", None)
            said = str(error.message or error.status or error)
            key = "GEMINI_API_KEY or api_key="
            status = error.code if isinstance(error.code, int) else 500
            found = status_failure(status, said, key, headers, None)
            found.wait = retry_delay(error.details)
            return found
        return connection_failure(error)

    async def _close_client(self, client: Any) -> None:
        await client.aio.aclose()


class VertexAI(Gemini):
    """`Gemini` in a Google Cloud project: `project` and `location`, or the environment's GCP_PROJECT_ID
    and GCP_LOCATION."""

    def __init__(
        self, model_name: str, safety_settings: Sequence[Any] | None = None, **kwargs: Any
    ) -> None:
        project = kwargs.pop("project", None) or os.environ.get("GCP_PROJECT_ID")
        location = kwargs.pop("location", None) or os.environ.get("GCP_LOCATION")
        if not project and not kwargs.get("api_key"):  # without one the SDK would ask the network
            raise InvalidRequest(
                "project", project, "is missing", "set GCP_PROJECT_ID and GCP_LOCATION"
            )
        if not kwargs.get("api_key"):
            kwargs |= {"project": project, "location": location or "us-central1"}
        super().__init__(model_name, safety_settings=safety_settings or (), vertexai=True, **kwargs)


_CAPABILITIES = Capabilities(
    regex=True,
    json_schema=True,
    images=True,
    chat_only=True,
    max_n=8,
    prefill=False,
    max_stops=5,
    refused=_REFUSED,
    emulated=("regex",),
    select="enum",
    tools=True,
    prompt_cache="automatic",
)


def _plain(answer: Any) -> Any:
    return answer.model_dump(
        mode="json",
        exclude_none=True,
        include={
            "candidates",
            "prompt_feedback",
            "usage_metadata",
            "response_id",
            "model_version",
        },
    )


def _headers(answer: Any, otherwise: Mapping[str, str]) -> Mapping[str, str]:
    found = getattr(answer.sdk_http_response, "headers", None)
    return {str(k).lower(): str(v) for k, v in found.items()} if found else otherwise


def _sdk() -> Any:
    try:
        return importlib.import_module("google.genai")
    except ImportError as error:
        raise MissingSdk(
            "ramet.Gemini needs Google's SDK google-genai: pip install 'ramet[gemini]'"
        ) from error
